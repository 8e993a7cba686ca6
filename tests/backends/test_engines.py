"""Build and run engines with every release of TensorRT, on stand-ins for it and for CUDA (see tests/standins).

What is shown: which calls are made and in which order, that no release is asked for what it does not have, that memory
is never used after it was freed or read before it was written, and that errors become ours. Not shown: speed, and what
real kernels compute. Results come from ONNX Runtime, through the copies and streams of the session under test.
"""

import gc
import json
import threading

import msgspec
import numpy as np
import pytest
from standins import VERSIONS, gpu, installed

import edgeresnext
from edgeresnext.backends import base
from edgeresnext.errors import AccuracyError, BackendError, BundleError, NotInstalledError, RequestError
from edgeresnext.machine import gpu as gpus
from edgeresnext.machine.gpu import Gpu
from edgeresnext.runtime.classifier import open_artifact
from edgeresnext.runtime.inspect import inspect
from edgeresnext.spec import EngineOptions

CLASSIC = [release for module, release in VERSIONS if module == "tensorrt"]
TYPED = [release for release in CLASSIC if release != "8.6"]
IMPLICIT = [release for release in CLASSIC if not release.startswith("11")]
BATCH = EngineOptions(batch=(1, 2, 4), int8_grouped="on")


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch):
    """Do not spend seconds on latencies that mean nothing here."""
    monkeypatch.setattr("edgeresnext.pipeline.accept._TIMED_BUDGET_S", 0)
    monkeypatch.setattr("edgeresnext.pipeline.engines._TIMED_BUDGET_S", 0)


@pytest.fixture
def install(monkeypatch):
    """Install stand-ins, and let the driver tell of the simulated GPU."""

    def call(module="tensorrt", release="10.3", cuda="cuda-python", **settings):
        trt = installed(monkeypatch, module, release, cuda, settings)
        device = Gpu(
            name=gpu.name,
            compute_capability=".".join(map(str, gpu.compute_capability)),
            memory_bytes=gpu.memory_bytes,
            driver="12.8",
            integrated=False,
        )
        monkeypatch.setattr(gpus, "detect", lambda: device)
        # The package that is really installed here is not the one that stands in for it.
        monkeypatch.setattr("edgeresnext.backends._trt.backend.EngineRuntime.release", lambda _: "")
        return trt

    return call


@pytest.fixture(params=VERSIONS, ids=" ".join)
def each(request, install):
    """Every release in turn."""
    module, release = request.param
    return install(module, release)


def engines(bundle):
    return {artifact.precision: artifact for artifact in bundle.manifest.artifacts if artifact.engine}


def expected(bundle, images, precision="fp32"):
    with edgeresnext.load(bundle.path, backend="onnxruntime", precision=precision) as classifier:
        return classifier.logits(images)


def test_the_whole_path_on_every_release(each, bundle_copy):
    precisions = ["fp32", "fp16", "int8"]
    bundle = edgeresnext.build_engines(bundle_copy, precisions=precisions, engine_options=BATCH)
    found = engines(bundle)
    assert set(found) == set(precisions)
    checks = {check.artifact: check for check in edgeresnext.verify(bundle_copy)}
    assert all(checks[artifact.name].status == "ok" for artifact in found.values())
    assert {timing.artifact for timing in bundle.manifest.selection.timings} >= {one.name for one in found.values()}
    report = edgeresnext.bench(
        bundle_copy,
        backend=found["fp32"].backend,
        options=edgeresnext.BenchOptions(rounds=3, skip=("energy", "memory")),
    )
    rows = {row.name: row for row in report.rows if row.status == "ok"}
    assert {artifact.name for artifact in found.values()} <= set(rows)
    fp32 = rows[found["fp32"].name]
    assert set(fp32.scopes) == {"compute", "end-to-end"}
    assert sum(layer.seconds for layer in fp32.layers) > 0
    assert rows[found["fp16"].name].device == gpu.name
    assert gpu.faults == []


@pytest.mark.parametrize("cuda", ["cuda-python", "pycuda"])
@pytest.mark.parametrize(("module", "release"), VERSIONS, ids=" ".join)
def test_logits_are_those_of_the_onnx_file_and_nothing_leaks(install, bundle_copy, module, release, cuda):
    install(module, release, cuda)
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH)
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    reference = expected(bundle, images)
    with edgeresnext.load(bundle_copy, backend=module) as classifier:
        for count in (1, 4, 7, 2):
            np.testing.assert_allclose(classifier.logits(images[:count]), reference[:count], rtol=1e-4, atol=1e-5)
    gc.collect()
    assert gpu.faults == []
    assert [kind for kind, _ in gpu.live() if kind != "context"] == []


def test_an_engine_tells_what_it_is(each, bundle_copy):
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["fp16"], engine_options=BATCH)
    engine = engines(bundle)["fp16"].engine
    assert engine.release == each.__version__
    assert (engine.compute_capabilities, engine.device, engine.driver) == (("8.9",), gpu.name, "12.8")
    assert engine.options == BATCH
    assert engine.onnx_sha256 == bundle.manifest.files["onnx/fp16.onnx"].sha256
    assert sum(layer.macs for layer in engine.layers) == bundle.manifest.macs
    found = inspect(bundle_copy / engines(bundle)["fp16"].file)
    assert found["release"].rsplit(".", 1)[0] == each.__version__.rsplit(".", 1)[0]


def calls(trt, name):
    return [arguments for _, member, arguments in trt.calls if member == name]


@pytest.mark.parametrize("release", TYPED)
def test_typed_networks_get_the_typed_file(install, bundle_copy, release):
    install(release=release)
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["int8"], engine_options=BATCH)
    assert engines(bundle)["int8"].engine.onnx == "onnx/int8-fp16.onnx"


def test_tensorrt_8_gets_fp32_scales(install, bundle_copy):
    install(release="8.6")
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["int8"], engine_options=BATCH)
    assert engines(bundle)["int8"].engine.onnx == "onnx/int8.onnx"


def test_a_pool_of_contexts_serves_threads(each, bundle_copy):
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH)
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    reference = expected(bundle, images)
    found = {}
    with edgeresnext.load(bundle_copy, backend=each.__name__) as classifier:

        def classify(index):
            found[index] = classifier.logits(images[index : index + 3])

        threads = [threading.Thread(target=classify, args=(index,)) for index in range(0, 24, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, logits in found.items():
        np.testing.assert_allclose(logits, reference[index : index + 3], rtol=1e-4, atol=1e-5)
    assert len(found) == 8
    assert gpu.faults == []


def test_threads_that_wait_when_a_session_closes_get_an_error(install, bundle_copy):
    install()
    session = opened(edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH))
    images = np.zeros((1, 32, 32, 3), np.uint8)
    session._most = 1
    errors = []

    def classify():
        try:
            session.run(images)
        except BackendError as error:
            errors.append(error.what)

    with session._slot():
        waiting = [threading.Thread(target=classify, daemon=True) for _ in range(3)]
        closing = threading.Thread(target=session.close, daemon=True)
        for thread in (*waiting, closing):
            thread.start()
        for thread in waiting:
            thread.join(10)
        assert errors == ["this session is closed"] * 3
    closing.join(10)
    assert not closing.is_alive()


def test_a_second_context_has_its_profile_on_tensorrt_8(install, bundle_copy):
    install(release="8.6")
    session = opened(edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH))
    images = np.zeros((1, 32, 32, 3), np.uint8)
    with session._slot():
        session.run(images)  # in another context
    assert len(session._made) == 2
    session.close()


def test_load_takes_the_cpu_where_the_engine_does_not_start(install, bundle_copy, caplog):
    install()
    edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH)
    manifest = bundle_copy / "manifest.json"  # untimed engines come first
    value = json.loads(manifest.read_text())
    value["selection"]["timings"] = []
    manifest.write_text(json.dumps(value))
    gpu.failures = {"cudaMalloc": 2}
    with edgeresnext.load(bundle_copy) as classifier:
        assert classifier.artifact.target == "cpu"
    assert "not the engine sm89-fp32: it does not start: no " in caplog.text
    gpu.failures = {"cudaMalloc": 2}
    with pytest.raises(BackendError, match="of GPU memory left"):
        edgeresnext.load(bundle_copy, backend="tensorrt")


def test_an_engine_that_fails_here_is_not_published_and_its_predecessor_stays(
    install, bundle_copy, monkeypatch, caplog
):
    install()
    first = edgeresnext.build_engines(bundle_copy, precisions=["fp32", "fp16"], engine_options=BATCH)
    old = engines(first)["fp16"]
    bad = "signal-to-noise of the logits is 9.0 dB, below 35 dB"
    monkeypatch.setattr(
        "edgeresnext.pipeline.accept.shortfall",
        lambda _bundle, artifact, _fidelity: bad if artifact.engine and artifact.precision == "fp16" else "",
    )
    again = edgeresnext.build_engines(bundle_copy, precisions=["fp32", "fp16"], engine_options=BATCH)
    assert engines(again)["fp16"] == old
    assert engines(again)["fp32"].engine.built_s != engines(first)["fp32"].engine.built_s
    again.file(old.file)  # its digest is the manifest's
    assert f"{old.name} is not published: {bad}" in caplog.text
    assert f"{old.name} of the earlier build stays" in caplog.text
    before = (bundle_copy / "manifest.json").read_bytes()
    with pytest.raises(AccuracyError, match="no engine passes on this machine"):
        edgeresnext.build_engines(bundle_copy, precisions=["fp16"], engine_options=BATCH)
    assert (bundle_copy / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(batch=(1, 1, 1), dla_core=0, int8_grouped="off"),
        EngineOptions(hardware_compatible=True, optimization_level=3),
    ],
    ids=["grouped on a DLA", "hardware-compatible before Ampere"],
)
def test_options_that_change_nothing_or_cannot_be_are_refused(install, bundle_copy, options):
    install(dla_cores=2, compute_capability=(7, 5))
    with pytest.raises(RequestError):
        edgeresnext.build_engines(bundle_copy, precisions=["int8"], engine_options=options)


def opened(bundle, precision="fp32"):
    return open_artifact(bundle, engines(bundle)[precision])


@pytest.mark.parametrize("release", CLASSIC)
def test_a_cuda_graph_gives_the_same_logits(install, bundle_copy, release, monkeypatch):
    install(release=release)
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    reference = expected(bundle, images)
    # The graph always wins here: which way is faster cannot be measured on a stand-in.
    monkeypatch.setattr("edgeresnext.backends._trt.session._faster", lambda times: list(times)[-1])
    session = opened(bundle)
    session.prepare(images[:2])
    assert session.detail == "CUDA graph of 2"
    for start in (0, 2, 4):
        np.testing.assert_allclose(
            session.run(images[start : start + 2]), reference[start : start + 2], rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(session.run(images[:3]), reference[:3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(session.run(images[4:]), reference[4:], rtol=1e-4, atol=1e-5)  # captured anew
    session.close()
    assert gpu.faults == []


def test_a_graph_that_cannot_be_captured_is_done_without(install, bundle_copy):
    install()
    session = opened(edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH))
    images = np.zeros((2, 32, 32, 3), np.uint8)
    expected_logits = session.run(images)
    gpu.failures = {"cudaStreamBeginCapture": 900}
    session.prepare(images)
    assert session.detail.startswith("no CUDA graph: CUDA's cudaStreamBeginCapture failed")
    np.testing.assert_array_equal(session.run(images), expected_logits)
    session.close()


def test_pycuda_runs_without_graphs_and_says_so(install, bundle_copy):
    install(cuda="pycuda")
    session = opened(edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH))
    session.prepare(np.zeros((2, 32, 32, 3), np.uint8))
    assert session.detail == "no CUDA graph"
    session.close()


@pytest.mark.parametrize("cuda", ["cuda-python", "pycuda"])
def test_the_device_times_a_batch_without_its_copies(install, bundle_copy, cuda):
    install(cuda=cuda)
    session = opened(edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH))
    images = np.zeros((2, 32, 32, 3), np.uint8)
    session.run(images)
    copied = len(gpu.copies)
    assert session.compute_s(images) > 0
    assert len(gpu.copies) == copied + 2  # one batch in and its logits out; none for the timed run
    session.close()
    assert gpu.faults == []
    assert [kind for kind, _ in gpu.live() if kind == "event"] == []


def test_the_profiler_names_layers(each, bundle_copy):
    session = opened(edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH))
    operations = session.profile(np.zeros((2, 32, 32, 3), np.uint8), runs=3)
    session.close()
    assert any("conv1" in one.name for one in operations)
    assert all(one.seconds >= 0 for one in operations)


def test_the_inspector_describes_the_layers_as_they_run(each, bundle_copy):
    session = opened(edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH))
    session.run(np.zeros((2, 32, 32, 3), np.uint8))
    layers = json.loads(session.layer_information())["Layers"]
    session.close()
    assert any("conv1" in layer["Name"] for layer in layers)
    assert "N/A" not in json.dumps(layers)  # what it says of shapes that are not known


def test_batches_below_the_profile_are_filled_up(install, bundle_copy):
    install()
    options = EngineOptions(batch=(4, 4, 4))
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=options)
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    session = opened(bundle)
    np.testing.assert_allclose(session.run(images), expected(bundle, images), rtol=1e-4, atol=1e-5)
    session.close()


def test_a_closed_session_says_so_and_closing_twice_is_fine(install, bundle_copy):
    install()
    session = opened(edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH))
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(np.zeros((1, 32, 32, 3), np.uint8))


# Options


@pytest.mark.parametrize("release", CLASSIC)
def test_every_option_reaches_the_builder(install, bundle_copy, tmp_path, release, monkeypatch):
    """In this process, where the calls are recorded, instead of a child."""
    trt = install(release=release)
    from edgeresnext.backends._trt import builder
    from edgeresnext.backends._trt.job import Built, Job

    options = EngineOptions(
        batch=(1, 2, 4), workspace_bytes=2**28, optimization_level=4, timing_cache=str(tmp_path / "timings"),
        version_compatible=True, hardware_compatible=True,
    )  # fmt: skip
    onnx = str(bundle_copy / "onnx" / "fp32.onnx")
    job = Job(
        module="tensorrt", onnx=onnx, weak_onnx=onnx, plain_onnx="", engine=str(tmp_path / "x.engine"), precision="fp32",
        compute_capabilities=(), options=options,
    )  # fmt: skip
    events = []
    builder.run(job, events.append)
    assert isinstance(events[-1], Built), events[-1]
    assert (trt.MemoryPoolType.WORKSPACE, 2**28) in calls(trt, "set_memory_pool_limit")
    assert (4,) in calls(trt, "builder_optimization_level")
    assert (trt.BuilderFlag.VERSION_COMPATIBLE,) in calls(trt, "set_flag")
    assert (trt.HardwareCompatibilityLevel.AMPERE_PLUS,) in calls(trt, "hardware_compatibility_level")
    assert (trt.BuilderFlag.TF32,) in calls(trt, "clear_flag")
    (shapes,) = calls(trt, "set_shape")
    assert [shape[0] for shape in shapes[1:]] == [1, 2, 4]
    assert (tmp_path / "timings").read_bytes()
    events.clear()
    builder.run(job, events.append)  # reads what the first has written
    assert isinstance(events[-1], Built), events[-1]


def test_a_foreign_timing_cache_is_refused(install, bundle_copy, tmp_path):
    install()
    (tmp_path / "timings").write_bytes(b"of another release")
    options = EngineOptions(timing_cache=str(tmp_path / "timings"))
    with pytest.raises(RequestError, match="refuses the timing cache"):
        edgeresnext.build_engines(bundle_copy, precisions=["fp16"], engine_options=options)


@pytest.mark.parametrize("release", IMPLICIT)
def test_a_dla_gets_the_plain_graph_and_the_thresholds(install, bundle_copy, release):
    install(release=release, dla_cores=2)
    options = EngineOptions(batch=(2, 2, 2), dla_core=1)
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["int8"], engine_options=options)
    engine = engines(bundle)["int8"].engine
    assert engine.onnx == "onnx/fp32.onnx"
    assert any(note.startswith("DLA 1: on the GPU instead:") for note in engine.notes)


@pytest.mark.parametrize("release", ["11.0", "11.4"])
def test_a_dla_gets_the_typed_graph_where_calibrators_are_gone(install, bundle_copy, release):
    install(release=release, dla_cores=2)
    options = EngineOptions(batch=(2, 2, 2), dla_core=0)
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["int8"], engine_options=options)
    assert engines(bundle)["int8"].engine.onnx == "onnx/int8-fp16.onnx"


@pytest.mark.parametrize("release", IMPLICIT)
@pytest.mark.parametrize("cuda", ["cuda-python", "pycuda"])
def test_tensorrt_can_calibrate_by_itself(install, bundle_copy, digit_folders, release, cuda):
    install(release=release, cuda=cuda)
    options = EngineOptions(batch=(1, 4, 4), implicit_calibration=str(digit_folders["calibration"]))
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["int8"], engine_options=options)
    engine = engines(bundle)["int8"].engine
    assert engine.onnx == "onnx/fp32.onnx"
    (cache,) = (name for name in bundle.manifest.files if "implicit-" in name)
    assert engine.calibration_sha256 == bundle.manifest.files[cache].sha256
    again = edgeresnext.build_engines(bundle_copy, precisions=["int8"], engine_options=options)  # from the cache
    assert engines(again)["int8"].engine.calibration_sha256 == engine.calibration_sha256


def test_too_few_images_for_one_calibration_batch_are_refused(install, bundle_copy, photos):
    install()
    options = EngineOptions(batch=(1, 64, 64), implicit_calibration=str(photos))
    with pytest.raises(RequestError, match=r"12 images in .* do not fill one calibration batch of 64"):
        edgeresnext.build_engines(bundle_copy, precisions=["int8"], engine_options=options)


def test_tensorrt_11_does_not_calibrate(install, bundle_copy, digit_folders):
    install(release="11.4")
    options = EngineOptions(implicit_calibration=str(digit_folders["calibration"]))
    with pytest.raises(RequestError, match="does not calibrate by itself"):
        edgeresnext.build_engines(bundle_copy, precisions=["int8"], engine_options=options)


@pytest.fixture(scope="module")
def with_grouped(tmp_path_factory, digit_folders, digit_weights):
    """A bundle for a Jetson, with grouped convolutions both ways."""
    return edgeresnext.build(
        "resnext20_8x4d",
        weights=digit_weights,
        calibration=digit_folders["calibration"],
        targets=["jetson-orin"],
        output=tmp_path_factory.mktemp("jetson") / "bundle",
    )


@pytest.mark.parametrize("release", ["8.6", "10.3", "11.4"])
@pytest.mark.parametrize("choice", ["auto", "on", "off"])
def test_grouped_convolutions_as_asked(install, with_grouped, tmp_path, release, choice):
    install(release=release)
    options = EngineOptions(int8_grouped=choice, version_compatible=True)
    bundle = edgeresnext.build_engines(
        with_grouped.path, precisions=["int8"], engine_options=options, output=tmp_path / "b"
    )
    engine = engines(bundle)["int8"].engine
    name = "int8" if release == "8.6" else "int8-fp16"
    files = {"on": {name}, "off": {f"{name}-grouped-float"}, "auto": {name, f"{name}-grouped-float"}}[choice]
    assert engine.onnx in {f"onnx/{file}.onnx" for file in files}
    assert [note.startswith("grouped convolutions: INT8 ") for note in engine.notes] == [True] * (choice == "auto")


# What cannot be


@pytest.mark.parametrize(
    ("settings", "options", "expectation"),
    [
        ({}, EngineOptions(dla_core=0, batch=(1, 1, 1)), (RequestError, "DLA core 0 does not exist")),
        ({"dla_cores": 2}, EngineOptions(dla_core=0), (RequestError, "a DLA engine has one batch size")),
        ({}, EngineOptions(workspace_bytes=2**50), (RequestError, "exceeds the ")),
        ({}, EngineOptions(workspace_bytes=1000), (BackendError, "could not build the engine")),
        ({"failures": {"build_serialized_network": "fail"}}, BATCH, (BackendError, "could not build the engine")),
        ({"failures": {"build_serialized_network": "kill"}}, BATCH, (BackendError, "was killed")),
    ],
    ids=[
        "no DLA",
        "batch range on DLA",
        "workspace beyond memory",
        "workspace too small",
        "build fails",
        "out of memory",
    ],
)
def test_a_build_that_cannot_be_leaves_the_bundle_as_it_was(install, bundle_copy, settings, options, expectation):
    install(**settings)
    before = (bundle_copy / "manifest.json").read_bytes()
    error, message = expectation
    with pytest.raises(error, match=message) as caught:
        edgeresnext.build_engines(bundle_copy, precisions=["fp16"], engine_options=options)
    assert caught.value.hint
    assert (bundle_copy / "manifest.json").read_bytes() == before
    assert not (bundle_copy / "engines").exists()
    assert [path.name for path in bundle_copy.parent.iterdir() if "partial" in path.name] == []


def test_without_tensorrt_there_is_no_target_here(install, bundle_copy, monkeypatch):
    install()
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(NotInstalledError, match="JetPack"):
        edgeresnext.build_engines(bundle_copy)


def test_both_runtimes_ask_for_a_choice(install, bundle_copy, monkeypatch):
    install()
    for name in base.ENGINE_NAMES:
        monkeypatch.setattr(base.get_engine_backend(name), "missing", lambda: None)
    with pytest.raises(RequestError, match="both TensorRT and TensorRT-RTX are installed") as caught:
        edgeresnext.build_engines(bundle_copy)
    assert "--backend tensorrt" in caught.value.hint
    bundle = edgeresnext.build_engines(
        bundle_copy, precisions=["fp16"], engine_options=EngineOptions(backend="tensorrt")
    )
    assert engines(bundle)["fp16"].backend == "tensorrt"


def changed(bundle, **changes):
    artifact = engines(bundle)["fp32"]
    return msgspec.structs.replace(artifact, engine=msgspec.structs.replace(artifact.engine, **changes))


def test_the_manifest_alone_tells_whether_an_engine_runs_here(install, bundle_copy):
    install()
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH)
    assert base.unavailable(changed(bundle)) is None
    elsewhere = base.unavailable(changed(bundle, compute_capabilities=("8.7",), device="Orin"))
    assert elsewhere == (
        "built for compute capability 8.7 (Orin), and this GPU, NVIDIA Stand-in, has 8.9: "
        "edgeresnext build BUNDLE --target here"
    )
    older = base.unavailable(changed(bundle, release="8.6.2.3"))
    assert older == "built by TensorRT 8.6.2.3, and 10.3.0.30 is installed: edgeresnext build BUNDLE --target here"
    compatible = msgspec.structs.replace(BATCH, version_compatible=True, hardware_compatible=True)
    assert base.unavailable(changed(bundle, release="8.6.2.3", options=compatible)) is None
    assert "is installed" in base.unavailable(changed(bundle, release="11.0.0.1", options=compatible))
    assert base.unavailable(changed(bundle, platform="win32-amd64")).startswith("built for win32-amd64, and this is ")
    assert base.unavailable(changed(bundle, compute_capabilities=("8.7",), options=compatible)) is None
    assert base.unavailable(changed(bundle, compute_capabilities=("7.5",), options=compatible)) is not None


def test_without_a_cuda_library_nothing_is_built_that_could_not_be_checked(install, bundle_copy):
    install()
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH)
    install(cuda=None)
    assert "pip install 'cuda-python<13'" in base.unavailable(engines(bundle)["fp32"])
    with pytest.raises(NotInstalledError, match="no Python library for CUDA memory"):
        edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH)


def test_a_truncated_engine_is_refused_before_native_code_sees_it(install, bundle_copy):
    trt = install()
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH)
    file = bundle_copy / engines(bundle)["fp32"].file
    file.write_bytes(file.read_bytes()[:-100])
    seen = len(calls(trt, "deserialize_cuda_engine"))
    with pytest.raises(BundleError, match="bytes; the manifest says"):
        edgeresnext.load(bundle_copy, backend="tensorrt")
    assert len(calls(trt, "deserialize_cuda_engine")) == seen


def test_an_engine_that_tensorrt_refuses_is_an_error_with_its_reason(install, bundle_copy):
    install()
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH)
    gpu.compute_capability = (9, 0)  # the driver says 8.9 still
    with pytest.raises(BackendError, match="TensorRT cannot load"):
        opened(bundle)


def test_too_little_memory_tells_how_much_is_free(install, bundle_copy):
    install()
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH)
    gpu.failures = {"cudaMalloc": 1}
    with pytest.raises(BackendError, match=r"MiB of GPU memory left: .* MiB are free"):
        opened(bundle)
    assert [kind for kind, _ in gpu.live() if kind in ("memory", "pinned", "stream")] == []


def test_an_engine_of_the_other_runtime_is_refused(install, bundle_copy):
    install()
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH)
    install("tensorrt_rtx", "1.7")
    with pytest.raises(BackendError, match="is an engine for tensorrt, not tensorrt_rtx"):
        base.get("tensorrt_rtx").open(
            bundle_copy / engines(bundle)["fp32"].file, bundle.manifest.model, engines(bundle)["fp32"]
        )


# TensorRT-RTX's runtime cache


def test_the_runtime_cache_is_kept_beside_the_engine_and_used_again(install, bundle_copy):
    install("tensorrt_rtx", "1.7")
    bundle = edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH)
    cache = bundle_copy / (engines(bundle)["fp32"].file + ".runtime-cache")
    cache.unlink(missing_ok=True)
    gpu.compiled.clear()
    opened(bundle).close()
    assert cache.exists()
    assert len(gpu.compiled) == 1
    opened(bundle).close()
    assert len(gpu.compiled) == 1
    cache.write_bytes(cache.read_bytes()[:-1] + b"x")
    opened(bundle).close()
    assert len(gpu.compiled) == 2
    again = edgeresnext.build_engines(bundle_copy, precisions=["fp32"], engine_options=BATCH)  # no foreign file to it
    assert all(not name.endswith(".runtime-cache") for name in again.manifest.files)
