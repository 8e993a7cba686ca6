"""Which engines run on this machine, told before native code sees them, and what `load` does about the others."""

import msgspec
import pytest
from standins import gpu
from standins.engines import BATCH, calls, compiled, engines, opened

import edgeresnext
from edgeresnext.backends import registry
from edgeresnext.errors import BackendError, BundleError


@pytest.fixture
def bundle(install, lean):
    """With an engine by TensorRT 10.3 for a GPU of compute capability 8.9."""
    install()
    return compiled(lean)


def changed(bundle, **changes):
    artifact = engines(bundle)["fp32"]
    return msgspec.structs.replace(artifact, engine=msgspec.structs.replace(artifact.engine, **changes))


def test_the_manifest_alone_tells_whether_an_engine_runs_here(bundle):
    assert registry.unavailable(changed(bundle)) is None
    elsewhere = registry.unavailable(changed(bundle, compute_capabilities=("8.7",), device="Orin"))
    assert elsewhere == (
        "built for compute capability 8.7 (Orin), and this GPU, NVIDIA Stand-in, has 8.9: "
        "edgeresnext build BUNDLE --target here"
    )
    older = registry.unavailable(changed(bundle, release="8.6.2.3"))
    assert older == "built by TensorRT 8.6.2.3, and 10.3.0.30 is installed: edgeresnext build BUNDLE --target here"
    compatible = msgspec.structs.replace(BATCH, version_compatible=True, hardware_compatible=True)
    assert registry.unavailable(changed(bundle, release="8.6.2.3", options=compatible)) is None
    assert "is installed" in registry.unavailable(changed(bundle, release="11.0.0.1", options=compatible))
    assert registry.unavailable(changed(bundle, platform="win32-amd64")).startswith(
        "built for win32-amd64, and this is "
    )
    assert registry.unavailable(changed(bundle, compute_capabilities=("8.7",), options=compatible)) is None
    assert registry.unavailable(changed(bundle, compute_capabilities=("7.5",), options=compatible)) is not None


def test_a_truncated_engine_is_refused_before_native_code_sees_it(install, lean):
    trt = install()
    file = lean / engines(compiled(lean))["fp32"].file
    file.write_bytes(file.read_bytes()[:-100])
    seen = len(calls(trt, "deserialize_cuda_engine"))
    with pytest.raises(BundleError, match="bytes; the manifest says"):
        edgeresnext.load(lean, backend="tensorrt")
    assert len(calls(trt, "deserialize_cuda_engine")) == seen


def test_an_engine_that_tensorrt_refuses_is_an_error_with_its_reason(bundle):
    gpu.compute_capability = (9, 0)  # the driver says 8.9 still
    with pytest.raises(BackendError, match="TensorRT cannot load"):
        opened(bundle)


def test_an_engine_that_tensorrt_rtx_refuses_is_an_error_with_its_diagnosis(install, lean):
    install("tensorrt_rtx", "1.7")
    bundle = compiled(lean, backend="tensorrt_rtx")
    gpu.compute_capability = (7, 5)
    with pytest.raises(BackendError, match=r"TensorRT-RTX 1\.7\.1\.116 cannot run .*: UNSUPPORTED_CC"):
        opened(bundle)


def test_an_engine_of_the_other_runtime_is_refused(install, bundle):
    install("tensorrt_rtx", "1.7")
    artifact = engines(bundle)["fp32"]
    with pytest.raises(BackendError, match="is an engine for tensorrt, not tensorrt_rtx"):
        registry.get("tensorrt_rtx").open(bundle.file(artifact.file), bundle.manifest.model, artifact)


def test_load_takes_the_cpu_where_the_engine_does_not_start(install, bundle_copy, caplog):
    install()
    compiled(bundle_copy)  # engines that nobody has timed come first
    gpu.failures = {"cuMemAlloc": 2}
    with edgeresnext.load(bundle_copy) as classifier:
        assert classifier.artifact.target == "cpu"
    assert "not the engine sm89-fp32: it does not start: no " in caplog.text
    gpu.failures = {"cuMemAlloc": 2}
    with pytest.raises(BackendError, match="of GPU memory left"):
        edgeresnext.load(bundle_copy, backend="tensorrt")
