"""What single releases of TensorRT need or refuse, on stand-ins that refuse it too (see tests/standins)."""

import onnx
import pytest
from as_written import as_written
from standins import VERSIONS, gpu
from standins.engines import BATCH, CLASSIC, calls, compiled, engines, opened, photographs

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext.backends import registry, targets
from edgeresnext.errors import BackendError, RequestError
from edgeresnext.machine.cache import CACHE_VARIABLE
from edgeresnext.spec import EngineOptions

OLD, NEW = "8.6", "10.3"
FIXED = EngineOptions(batch=(2, 2, 2), dla_core=0)


def test_tensorrt_8_gets_float_weights_that_are_the_same_network(install, lean):
    trt = install(release=OLD)
    bundle = compiled(lean, "int8")
    (parsed,) = calls(trt, "parse")
    constants = {one.name: one.data_type for one in onnx.load_model_from_string(parsed[0]).graph.initializer}
    assert constants["conv1.weight.quantised.float"] == onnx.TensorProto.FLOAT
    assert "conv1.weight.quantised" not in constants
    assert engines(bundle)["int8"].engine.onnx == "onnx/int8.onnx"  # of which it was made
    images = photographs(4)
    session = opened(bundle, "int8")
    assert (session.run(images) == as_written(bundle.path / "onnx" / "int8.onnx", images)).all()
    session.close()


@pytest.mark.parametrize("release", [release for release in CLASSIC if release != OLD])
def test_later_releases_read_the_file_as_it_is(install, lean, release):
    trt = install(release=release)
    compiled(lean, "int8")
    assert calls(trt, "parse") == []
    assert len(calls(trt, "parse_from_file")) == 1


@pytest.mark.parametrize("release", CLASSIC)
def test_profiles_are_shared_by_tensorrt_8_alone_because_later_releases_always_do(install, lean, release, caplog):
    trt = install(release=release)
    compiled(lean)
    assert len(calls(trt, "set_preview_feature")) == (release == OLD)
    assert "deprecated" not in caplog.text


# Deep learning accelerators


@pytest.mark.parametrize("release", [OLD, NEW])
def test_a_dla_gets_the_plain_graph_the_thresholds_and_trtexecs_flags(install, lean, release):
    trt = install(release=release, dla_cores=2)
    bundle = compiled(lean, "int8", FIXED)
    engine = engines(bundle)["int8"].engine
    assert engine.onnx == "onnx/fp32.onnx"
    assert engine.calibration_sha256 == bundle.manifest.files[bundles.CALIBRATION_CACHE].sha256
    assert any(note.startswith("DLA 0: on the GPU instead:") for note in engine.notes)
    flags = {flag.name for (flag,) in calls(trt, "set_flag")}
    assert flags == {"FP16", "INT8", "GPU_FALLBACK", "PREFER_PRECISION_CONSTRAINTS"}


def test_a_dla_gets_the_typed_graph_where_calibrators_are_gone(install, lean):
    trt = install(release="11.4", dla_cores=2)
    engine = engines(compiled(lean, "int8", FIXED))["int8"].engine
    assert (engine.onnx, engine.calibration_sha256) == ("onnx/int8-fp16.onnx", "")
    assert (trt.OnnxParserFlag.ADJUST_FOR_DLA,) in calls(trt, "set_flag")


def test_without_a_dla_nothing_is_adjusted_for_one(install, lean):
    trt = install(release="11.4", dla_cores=2)
    compiled(lean)
    assert calls(trt, "set_flag") == []


@pytest.mark.parametrize("release", ["10.13", "10.16", "11.0"])
def test_an_orin_whose_release_drives_no_dla_is_told_so(install, lean, release):
    trt = install(release=release, dla_cores=2)
    with pytest.raises(RequestError, match=f"TensorRT {trt.__version__} finds 0 on this device") as caught:
        compiled(lean, "int8", FIXED)
    assert "10.8 to 11.4.0" in caught.value.hint


# Other GPUs


@pytest.mark.parametrize("release", CLASSIC)
def test_an_engine_for_a_whole_compute_capability_where_the_release_builds_one(install, lean, release):
    trt = install(release=release)
    options = EngineOptions(capability_compatible=True)
    if release in (OLD, NEW):
        with pytest.raises(RequestError, match="builds no engines for all GPUs of a compute capability") as caught:
            compiled(lean, options=options)
        assert caught.value.values == ("capability_compatible",)
    else:
        compiled(lean, options=options)
        assert calls(trt, "hardware_compatibility_level") == [(trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,)]


@pytest.mark.parametrize(
    ("settings", "options", "values"),
    [
        ({"integrated": 1}, EngineOptions(capability_compatible=True), ("capability_compatible",)),
        ({"compute_capability": (7, 0)}, EngineOptions(capability_compatible=True), ("capability_compatible",)),
        ({"compute_capability": (7, 5)}, EngineOptions(hardware_compatible=True), ("hardware_compatible",)),
        (
            {},
            EngineOptions(hardware_compatible=True, capability_compatible=True),
            ("hardware_compatible", "capability_compatible"),
        ),
    ],
)
def test_engines_for_other_gpus_that_this_one_does_not_build(install, lean, settings, options, values):
    install(release="10.13", **settings)
    with pytest.raises(RequestError) as caught:
        edgeresnext.build_engines(lean, precisions=["fp16"], engine_options=options)
    assert caught.value.values == values


# TensorRT-RTX


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 9), (12, 0)])
def test_tensorrt_rtx_builds_for_the_gpu_that_is_here(install, lean, capability):
    trt = install("tensorrt_rtx", "1.7", compute_capability=capability)
    bundle = edgeresnext.build_engines(lean, engine_options=BATCH)
    (artifact,) = engines(bundle).values()
    assert calls(trt, "set_compute_capability") == [(trt.ComputeCapability.CURRENT, 0)]
    assert artifact.engine.compute_capabilities == (".".join(map(str, capability)),)
    (check,) = [check for check in edgeresnext.verify(lean) if check.artifact == artifact.name]
    assert check.status == "ok"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_turing_here_is_refused_what_turing_elsewhere_is(install, lean, precision):
    install("tensorrt_rtx", "1.7", compute_capability=(7, 5))
    with pytest.raises(RequestError, match=r"(on|for) Turing"):
        edgeresnext.build_engines(lean, targets=[targets.HERE], precisions=[precision], engine_options=BATCH)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"compute_capability": (9, 0)}, False),
        ({"memory_bytes": 1 << 16}, False),
        ({"release": b"\x01\x06"}, True),
    ],
)
def test_building_again_is_advised_only_where_it_helps(install, lean, change, again):
    install("tensorrt_rtx", "1.7")
    bundle = compiled(lean, backend="tensorrt_rtx")
    file = bundle.file(engines(bundle)["fp32"].file)
    if release := change.pop("release", None):
        plan = bytearray(file.read_bytes())
        plan[24:26] = release
        file.write_bytes(plan)
    for name, value in change.items():
        setattr(gpu, name, value)
    artifact = engines(bundle)["fp32"]
    with pytest.raises(BackendError, match="cannot run") as caught:
        registry.get("tensorrt_rtx").open(file, bundle.manifest.model, artifact)
    assert ("Build it again" in caught.value.hint) is again


def test_kernels_for_a_batch_are_compiled_when_it_comes_and_kept(install, lean, monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    install("tensorrt_rtx", "1.7")
    bundle = compiled(lean, backend="tensorrt_rtx")
    for _ in range(2):
        session = opened(bundle)
        session.prepare(photographs(2))
        session.close()
    assert len(gpu.compiled) == 2  # for any batch, and for this one; nothing the second time
    assert gpu.faults == []  # no thread that compiles meets Python


@pytest.mark.parametrize(("module", "release"), VERSIONS)
def test_what_tensorrt_says_of_a_failure_is_in_the_error(install, lean, module, release):
    install(module, release)
    session = opened(compiled(lean, backend=module))
    gpu.failures = {"execute_async_v3": "fail"}
    with pytest.raises(BackendError, match="failure asked for by the test"):
        session.run(photographs(1))
    session.close()
