"""Build engines with every release of TensorRT, on stand-ins for it and for CUDA (see tests/standins).

What is shown: which calls are made and in which order, that no release is asked for what it does not have, and that
errors become ours. Not shown: speed, and what real kernels compute.
"""

import shutil

import msgspec
import pytest
from standins import VERSIONS, gpu
from standins.engines import BATCH, CLASSIC, calls, compiled, engines, written

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext import directories
from edgeresnext.backends import registry, targets
from edgeresnext.compiler.plan import GROUPED_FLOAT_FILES
from edgeresnext.errors import AccuracyError, BackendError, NotInstalledError, RequestError
from edgeresnext.pipeline.request import _onnx_names
from edgeresnext.runtime.inspect import inspect
from edgeresnext.spec import EngineOptions

TYPED = [release for release in CLASSIC if release != "8.6"]


@pytest.mark.parametrize(("module", "release"), VERSIONS)
def test_every_release_builds_every_precision_and_the_engines_verify(install, lean, module, release):
    install(module, release)
    precisions = ["fp32", "fp16", "int8"]
    bundle = edgeresnext.build_engines(lean, precisions=precisions, engine_options=BATCH)
    found = engines(bundle)
    assert set(found) == set(precisions)
    checks = {check.artifact: check for check in edgeresnext.verify(lean)}
    assert all(checks[artifact.name].status == "ok" for artifact in found.values())
    assert {timing.artifact for timing in bundle.manifest.selection.timings} > {one.name for one in found.values()}
    assert gpu.faults == []


@pytest.mark.parametrize(
    ("module", "release"),
    [pytest.param(*one, marks=[] if one[1] in ("10.3", "1.7") else pytest.mark.slow) for one in VERSIONS],
)
def test_an_engine_is_benched(install, lean, module, release):
    install(module, release)
    bundle = compiled(lean, "fp16", backend=module)
    name = engines(bundle)["fp16"].name
    report = edgeresnext.bench(
        lean, backend=module, options=edgeresnext.BenchOptions(rounds=3, skip=("energy", "memory", "pytorch"))
    )
    (row,) = [row for row in report.rows if row.name == name]
    assert row.status == "ok"
    assert set(row.scopes) == {"compute", "end-to-end"}
    assert sum(layer.seconds for layer in row.layers) > 0
    assert row.device == gpu.name
    assert gpu.faults == []


@pytest.mark.parametrize(("module", "release"), VERSIONS)
def test_an_engine_tells_what_it_is(install, lean, module, release):
    trt = install(module, release)
    bundle = compiled(lean, "fp16", backend=module)
    artifact = engines(bundle)["fp16"]
    engine = artifact.engine
    assert engine.release == trt.__version__
    assert (engine.compute_capabilities, engine.device, engine.driver) == (("8.9",), gpu.name, "12.8")
    assert engine.options == BATCH
    assert engine.onnx_sha256 == bundle.manifest.files["onnx/fp16.onnx"].sha256
    assert sum(layer.macs for layer in engine.layers) == bundle.manifest.macs
    assert any("conv1" in layer.modules for layer in engine.layers)
    assert not any("N/A" in layer.types for layer in engine.layers)  # what the inspector says without shapes
    found = inspect(lean / artifact.file)
    assert found["release"].rsplit(".", 1)[0] == trt.__version__.rsplit(".", 1)[0]


def test_engines_are_added_to_a_bundle_that_a_killed_build_left_aside(install, lean):
    install()
    lean.rename(directories.previous(lean))
    assert "fp32" in engines(edgeresnext.build_engines(lean, precisions=["fp32"], engine_options=BATCH))
    assert not directories.previous(lean).exists()


@pytest.mark.parametrize("release", CLASSIC)
def test_typed_networks_get_the_typed_file_and_tensorrt_8_gets_fp32_scales(install, lean, release):
    install(release=release)
    file = "int8-fp16" if release in TYPED else "int8"
    assert engines(compiled(lean, "int8"))["int8"].engine.onnx == f"onnx/{file}.onnx"


@pytest.mark.parametrize("release", CLASSIC)
def test_every_option_reaches_the_builder(install, lean, tmp_path, release):
    trt = install(release=release)
    options = EngineOptions(
        batch=(1, 2, 4), workspace_bytes=2**28, optimization_level=4, timing_cache=str(tmp_path / "timings"),
        version_compatible=True, hardware_compatible=True,
    )  # fmt: skip
    bundle = compiled(lean, options=options)
    assert (trt.MemoryPoolType.WORKSPACE, 2**28) in calls(trt, "set_memory_pool_limit")
    assert (4,) in calls(trt, "builder_optimization_level")
    assert (trt.BuilderFlag.VERSION_COMPATIBLE,) in calls(trt, "set_flag")
    assert (trt.HardwareCompatibilityLevel.AMPERE_PLUS,) in calls(trt, "hardware_compatibility_level")
    assert (trt.BuilderFlag.TF32,) in calls(trt, "clear_flag")
    (shapes,) = calls(trt, "set_shape")
    assert [shape[0] for shape in shapes[1:]] == [1, 2, 4]
    assert (tmp_path / "timings").read_bytes()
    assert engines(bundle)["fp32"].engine.options == msgspec.structs.replace(options, timing_cache="timings")
    compiled(lean, options=options)  # reads what the first has written


def test_a_foreign_timing_cache_is_refused(install, lean, tmp_path):
    install()
    (tmp_path / "timings").write_bytes(b"of another release")
    options = EngineOptions(timing_cache=str(tmp_path / "timings"))
    with pytest.raises(RequestError, match="refuses the timing cache") as caught:
        edgeresnext.build_engines(lean, precisions=["fp16"], engine_options=options)
    assert caught.value.values == ("timing_cache",)


def test_options_of_earlier_releases_are_passed_over_in_a_manifest(install, lean):
    install()
    compiled(lean)
    manifest = lean / bundles.MANIFEST
    old = manifest.read_bytes().replace(b'"dla_core": null', b'"implicit_calibration": "photos", "dla_core": null', 1)
    assert b"implicit_calibration" in old
    manifest.write_bytes(old)
    (lean / bundles.MANIFEST_DIGEST).unlink()
    assert engines(bundles.read(lean))["fp32"].engine.options == BATCH


@pytest.mark.parametrize(
    ("target", "choice", "more"),
    [
        ("jetson-orin", "auto", True),
        ("here", "off", True),
        ("jetson-orin", "on", False),
        ("cpu", "auto", False),
        ("rtx40", "auto", False),
    ],
)
def test_files_with_grouped_convolutions_in_floating_point_are_for_devices(target, choice, more):
    options = EngineOptions(int8_grouped=choice)
    names = _onnx_names(targets.parse([target]), ("fp16", "int8"), options)
    assert set(GROUPED_FLOAT_FILES) <= set(names) if more else not set(GROUPED_FLOAT_FILES) & set(names)


@pytest.mark.slow
def test_a_bundle_for_a_jetson_is_compared_on_it(install, tmp_path, digit_folders, digit_weights):
    install()
    built = edgeresnext.build(
        "resnext20_8x4d",
        weights=digit_weights,
        calibration=digit_folders["calibration"],
        targets=["jetson-orin"],
        output=tmp_path / "bundle",
    )
    bundle = edgeresnext.build_engines(built.path, precisions=["int8"])
    engine = engines(bundle)["int8"].engine
    assert engine.onnx in {"onnx/int8-fp16.onnx", "onnx/int8-fp16-grouped-float.onnx"}
    assert engine.notes[-1].startswith("grouped convolutions: INT8 ")


@pytest.fixture
def with_grouped(lean):
    """A bundle that has INT8 files with grouped convolutions in floating point, by their names."""
    bundle = bundles.read(lean)
    more = []
    for file in bundle.manifest.onnx:
        if file.file in ("onnx/int8.onnx", "onnx/int8-fp16.onnx"):
            name = file.file.replace(".onnx", "-grouped-float.onnx")
            shutil.copyfile(lean / file.file, lean / name)
            more.append(msgspec.structs.replace(file, file=name))
    written(lean, msgspec.structs.replace(bundle.manifest, onnx=(*bundle.manifest.onnx, *more)))
    return lean


@pytest.mark.parametrize("release", ["8.6", "10.3", "11.4"])
@pytest.mark.parametrize("choice", ["auto", "on", "off"])
def test_grouped_convolutions_as_asked(install, with_grouped, release, choice):
    install(release=release)
    options = EngineOptions(int8_grouped=choice, version_compatible=True)
    engine = engines(compiled(with_grouped, "int8", options))["int8"].engine
    name = "int8" if release == "8.6" else "int8-fp16"
    files = {"on": {name}, "off": {f"{name}-grouped-float"}, "auto": {name, f"{name}-grouped-float"}}[choice]
    assert engine.onnx in {f"onnx/{file}.onnx" for file in files}
    assert [note.startswith("grouped convolutions: INT8 ") for note in engine.notes] == [True] * (choice == "auto")


def test_the_faster_way_to_treat_grouped_convolutions_is_kept(install, with_grouped, monkeypatch):
    install()
    for faster, file in (("INT8", "int8-fp16"), ("floating point", "int8-fp16-grouped-float")):
        medians = {"INT8": 2e-3, "floating point": 2e-3} | {faster: 1e-3}
        monkeypatch.setattr("edgeresnext.pipeline.engines._medians_s", lambda *_, medians=medians: medians)
        bundle = compiled(with_grouped, "int8", EngineOptions())
        engine = engines(bundle)["int8"].engine
        assert engine.onnx == f"onnx/{file}.onnx"
        assert engine.notes[-1].endswith(f"kept {faster}")


def test_without_a_second_file_there_is_nothing_to_compare(install, lean):
    install()
    (note,) = engines(compiled(lean, "int8", EngineOptions()))["int8"].engine.notes
    assert note.endswith("the bundle has no file with them in floating point to compare with")
    with pytest.raises(RequestError, match="no ONNX file for int8 with grouped convolutions in floating point"):
        edgeresnext.build_engines(lean, precisions=["int8"], engine_options=EngineOptions(int8_grouped="off"))


def test_an_engine_that_fails_here_is_not_published_and_its_predecessor_stays(install, lean, monkeypatch, caplog):
    install()
    first = edgeresnext.build_engines(lean, precisions=["fp32", "fp16"], engine_options=BATCH)
    old = engines(first)["fp16"]
    bad = "signal-to-noise of the logits is 9.0 dB, below 35 dB"
    monkeypatch.setattr(
        "edgeresnext.pipeline.accept.shortfall",
        lambda _bundle, artifact, _fidelity: bad if artifact.engine and artifact.precision == "fp16" else "",
    )
    again = edgeresnext.build_engines(lean, precisions=["fp32", "fp16"], engine_options=BATCH)
    assert engines(again)["fp16"] == old
    assert engines(again)["fp32"].engine.built_s != engines(first)["fp32"].engine.built_s
    again.file(old.file)  # its digest is the manifest's
    assert f"{old.name} is not published: {bad}" in caplog.text
    assert f"{old.name} of the earlier build stays" in caplog.text
    before = (lean / bundles.MANIFEST).read_bytes()
    with pytest.raises(AccuracyError, match="no engine passes on this machine"):
        edgeresnext.build_engines(lean, precisions=["fp16"], engine_options=BATCH)
    assert (lean / bundles.MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "options", "expectation"),
    [
        ({}, EngineOptions(dla_core=0, batch=(1, 1, 1)), (RequestError, "DLA core 0 does not exist", "dla_core")),
        ({"dla_cores": 2}, EngineOptions(dla_core=0), (RequestError, "a DLA engine has one batch size", "batch")),
        ({}, EngineOptions(workspace_bytes=2**50), (RequestError, "exceeds the ", "workspace_bytes")),
        ({}, EngineOptions(workspace_bytes=1000), (BackendError, "could not build the engine", "workspace_bytes")),
        (
            {"failures": {"build_serialized_network": "fail"}},
            BATCH,
            (BackendError, "could not build the engine", "precisions"),
        ),
        (
            {"compute_capability": (7, 5)},
            EngineOptions(hardware_compatible=True),
            (RequestError, "builds no hardware-compatible engines", "hardware_compatible"),
        ),
        ({}, EngineOptions(int8_grouped="off"), (RequestError, "no INT8 engine is built", "int8_grouped")),
        (
            {"dla_cores": 2},
            EngineOptions(batch=(1, 1, 1), dla_core=0, int8_grouped="off"),
            (RequestError, "layer by layer on a DLA", "int8_grouped"),
        ),
        ({}, EngineOptions(batch=(2, 1, 4)), (RequestError, "batch profile 2:1:4 is impossible", "batch")),
        ({}, EngineOptions(optimization_level=6), (RequestError, "optimisation level is 6", "optimization_level")),
    ],
    ids=lambda value: value[2] if isinstance(value, tuple) else "",
)
def test_a_build_that_cannot_be_leaves_the_bundle_as_it_was(install, lean, settings, options, expectation):
    install(**settings)
    before = (lean / bundles.MANIFEST).read_bytes()
    error, message, value = expectation
    with pytest.raises(error, match=message) as caught:
        edgeresnext.build_engines(lean, precisions=["fp16"], engine_options=options)
    assert caught.value.hint
    assert value in caught.value.values
    assert (lean / bundles.MANIFEST).read_bytes() == before
    assert not (lean / "engines").exists()
    assert [path.name for path in lean.parent.iterdir() if "partial" in path.name] == []


def test_without_tensorrt_there_is_no_target_here(install, lean, monkeypatch):
    install()
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(NotInstalledError, match="JetPack"):
        edgeresnext.build_engines(lean)


def test_where_cuda_does_not_start_nothing_is_built_that_could_not_be_checked(install, lean):
    install()
    bundle = compiled(lean)
    install(cuda=None)
    assert "cuda-python is not installed: pip install cuda-python" in registry.unavailable(engines(bundle)["fp32"])
    with pytest.raises(NotInstalledError, match="an engine is checked where it is built: no CUDA from Python"):
        edgeresnext.build_engines(lean, precisions=["fp32"], engine_options=BATCH)


def test_both_runtimes_ask_for_a_choice(install, lean, monkeypatch):
    install()
    for name in registry.ENGINE_NAMES:
        monkeypatch.setattr(registry.get_engine_backend(name), "missing", lambda: None)
    with pytest.raises(RequestError, match="both TensorRT and TensorRT-RTX are installed") as caught:
        edgeresnext.build_engines(lean)
    assert caught.value.values == ("backend",)
    bundle = edgeresnext.build_engines(lean, precisions=["fp16"], engine_options=EngineOptions(backend="tensorrt"))
    assert engines(bundle)["fp16"].backend == "tensorrt"
