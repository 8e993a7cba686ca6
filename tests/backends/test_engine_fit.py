"""Which engines run on this machine, told before native code sees them, and what `load` does about the others."""

import importlib.metadata

import msgspec
import pytest
from standins import gpu
from standins.engines import BATCH, CLASSIC, calls, compiled, engines, opened

import edgeresnext
from edgeresnext.backends import registry
from edgeresnext.backends.engine_header import runs_later
from edgeresnext.errors import BackendError, BundleError, NotInstalledError


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
    assert registry.unavailable(changed(bundle, platform="win32-amd64")).startswith(
        "built for win32-amd64, and this is "
    )
    assert registry.unavailable(changed(bundle, compute_capabilities=("8.7",), options=compatible)) is None
    assert registry.unavailable(changed(bundle, compute_capabilities=("7.5",), options=compatible)) is not None


@pytest.mark.parametrize("before", CLASSIC)
def test_version_compatible_engines_run_on_the_releases_that_nvidia_names(install, lean, before):
    """8 on 10, 10 on 11, and within a major release on later ones; what the stand-in refuses, too."""
    install(release=before)
    bundle = compiled(lean, options=msgspec.structs.replace(BATCH, version_compatible=True))
    for after in CLASSIC:
        install(release=after)
        (major, minor), (later, later_minor) = (map(int, release.split(".")) for release in (before, after))
        runs = minor <= later_minor if major == later else (major, later) in {(8, 10), (10, 11)}
        assert (registry.unavailable(engines(bundle)["fp32"]) is None) is runs, after
        if runs:
            opened(bundle).close()
        else:
            with pytest.raises(BackendError, match="not compatible with this version of TensorRT"):
                opened(bundle)


def test_the_same_release_runs_its_version_compatible_engines_whatever_the_build_number():
    assert runs_later("10.3.0.30", "10.3.0")
    assert not runs_later("9.2.0.5", "10.3.0")


@pytest.mark.parametrize(
    ("here", "told"),
    [
        ({}, False),
        ({"name": "NVIDIA L4"}, True),
        ({"multiprocessors": 58}, True),  # every Orin is called Orin
        ({"multiprocessors": 0}, False),
    ],
)
def test_an_engine_of_another_gpu_of_the_same_capability_is_told_of_once(install, lean, caplog, here, told):
    install(release="10.13")
    bundle = compiled(lean)
    install(release="10.13", **here)
    for _ in range(2):
        opened(bundle).close()
    warnings = [record.getMessage() for record in caplog.records if "another GPU" in record.getMessage()]
    assert len(warnings) == told
    if told:
        assert "NVIDIA Stand-in with 128 multiprocessors" in warnings[0]
        assert warnings[0].endswith("edgeresnext build BUNDLE --target here")


@pytest.mark.parametrize("option", ["capability_compatible", "hardware_compatible"])
def test_an_engine_that_was_built_for_several_gpus_needs_no_warning(install, lean, caplog, option):
    install(release="10.13")
    bundle = compiled(lean, options=msgspec.structs.replace(BATCH, **{option: True}))
    install(release="10.13", name="NVIDIA L4")
    opened(bundle).close()
    assert "another GPU" not in caplog.text


def test_engines_of_tensorrt_rtx_are_not_tied_to_a_model_of_gpu(install, lean, caplog):
    install("tensorrt_rtx", "1.7")
    bundle = compiled(lean, backend="tensorrt_rtx")
    install("tensorrt_rtx", "1.7", name="NVIDIA L4")
    opened(bundle).close()
    assert "another GPU" not in caplog.text


@pytest.mark.parametrize(
    ("module", "remedy"),
    [("tensorrt_rtx", "edgeresnext[rtx-cu12]"), ("tensorrt", "pip install tensorrt-cu12")],
)
def test_a_driver_older_than_the_packages_cuda_runs_no_engine_and_builds_none_here(
    install, lean, monkeypatch, module, remedy
):
    install(module, "1.7" if module == "tensorrt_rtx" else "10.13")
    bundle = compiled(lean, backend=module)
    monkeypatch.setattr("edgeresnext.backends.engine.EngineBackend.cuda_major", lambda _: 13)
    reason = registry.unavailable(engines(bundle)["fp32"])
    assert "is installed for CUDA 13, and this driver runs CUDA up to 12.8: update the driver, or " in reason
    assert remedy in reason
    with pytest.raises(NotInstalledError, match=r"CUDA up to 12\.8") as caught:
        edgeresnext.build_engines(lean, precisions=["fp16"])
    assert remedy in caught.value.hint
    monkeypatch.setattr("edgeresnext.backends.engine.EngineBackend.cuda_major", lambda _: 12)
    assert registry.unavailable(engines(bundle)["fp32"]) is None


@pytest.mark.parametrize(
    ("names", "major"),
    [({"tensorrt-rtx-cu12-bindings"}, 12), ({"tensorrt-rtx-cu13-bindings"}, 13), ({"tensorrt-rtx"}, None)],
)
def test_the_packages_name_tells_its_cuda_release(monkeypatch, names, major):
    def version(name):
        if name not in names:
            raise importlib.metadata.PackageNotFoundError
        return "1.7.1.116"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert registry.get_engine_backend("tensorrt_rtx").cuda_major() == major


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
