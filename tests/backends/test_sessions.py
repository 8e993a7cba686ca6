import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import edgeresnext
from edgeresnext.backends import registry
from edgeresnext.errors import BackendError, BundleError, DataError, NotInstalledError, RequestError
from edgeresnext.machine import gpu
from edgeresnext.measure.layers import profile
from edgeresnext.runtime.classifier import open_artifact
from edgeresnext.spec import Artifact

VARIANTS = ["openvino-fp32", "openvino-bf16", "openvino-int8", "onnxruntime-fp32", "onnxruntime-int8", "torch-fp32"]


@pytest.fixture(scope="module", params=VARIANTS)
def session(request, built):
    """A session that several tests run and none changes."""
    artifact = next(a for a in built.manifest.artifacts if a.name == request.param)
    reason = registry.get(artifact.backend).unavailable(artifact.precision)
    if reason is not None:
        pytest.skip(reason)
    session = open_artifact(built, artifact)
    session.artifact = artifact
    yield session
    session.close()


def test_it_returns_pytorch_s_logits_on_the_golden_images(session, built):
    fidelity = built.golden().compare(session.run(built.golden().images))
    assert fidelity.shortfall(session.artifact.precision) == ""
    floors = {"fp32": 100, "bf16": 30, "int8": 30}
    assert fidelity.snr_db > floors[session.artifact.precision]


def test_the_name_of_a_precision_is_kept(session, built):
    """fp32 is not bf16 in disguise, and bf16 and int8 are not fp32."""
    fidelity = built.golden().compare(session.run(built.golden().images))
    assert (fidelity.max_error < 1e-4) == (session.artifact.precision == "fp32")


@pytest.mark.parametrize("count", [1, 3, 16])
def test_a_batch_gives_what_its_images_give_alone(session, built, count):
    images = built.golden().images[:count]
    together = session.run(images)
    alone = np.concatenate([session.run(image[None]) for image in images])
    assert together.shape == (count, 10)
    assert together.dtype == np.float32
    assert np.abs(together - alone).max() <= 0.02 * np.abs(alone).max()


def test_an_empty_batch_gives_no_logits(session):
    assert session.run(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 10)


def test_eight_threads_give_what_one_gives(session, built):
    images = built.golden().images
    expected = [session.run(image[None]) for image in images]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            found = list(pool.map(lambda image: session.run(image[None]), images))
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_result_belongs_to_the_caller(session, built):
    images = built.golden().images
    first = session.run(images[:1])
    kept = first.copy()
    session.run(images[1:2])
    assert np.array_equal(first, kept)


def test_strided_images_are_read_as_they_look(session, built):
    images = built.golden().images[:2]
    assert np.array_equal(session.run(images[:, :, ::-1]), session.run(np.ascontiguousarray(images[:, :, ::-1])))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((1, 31, 32, 3), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
        [[0]],
    ],
    ids=["float", "nchw", "size", "no batch", "list"],
)
def test_other_shapes_and_types_are_refused_with_both_sides(session, images):
    with pytest.raises(DataError, match=r"expected a uint8 array \(N, 32, 32, 3\), got"):
        session.run(images)


def test_torch_keeps_the_faster_memory_layout(built):
    artifact = next(a for a in built.manifest.artifacts if a.backend == "torch")
    session = open_artifact(built, artifact)
    images = built.golden().images
    before = session.run(images)
    session.prepare(images[:1])
    kept, other = ("contiguous", "channels_last") if session.detail[1] == "o" else ("channels_last", "contiguous")
    assert re.fullmatch(rf"{kept} \({other} takes \d+\.\d\d times as long\)", session.detail)
    assert np.allclose(session.run(images), before, atol=1e-4)


def test_torch_in_bf16_is_near_and_not_the_same(built):
    way = Artifact(backend="torch", precision="bf16", target="cpu", file="weights.safetensors")
    if (reason := registry.unavailable(way)) is not None:
        pytest.skip(reason)
    session = open_artifact(built, way)
    golden = built.golden()
    fidelity = golden.compare(session.run(golden.images))
    assert 25 < fidelity.snr_db < 60


def test_torch_compiled_gives_the_same_for_every_batch(built):
    way = Artifact(backend="torch", precision="fp32", target="cpu", file="weights.safetensors", mode="compile")
    if (reason := registry.unavailable(way)) is not None:
        pytest.skip(reason)
    session = open_artifact(built, way)
    golden = built.golden()
    session.prepare(golden.images[:4])
    assert session.detail.startswith("torch.compile, frozen, c")
    for batch in (4, 3, 9):  # what it was compiled for, less, and more than twice as many
        logits = session.run(golden.images[:batch])
        assert np.allclose(logits, golden.logits[:batch], atol=1e-3)


def test_ways_of_pytorch_that_a_machine_lacks_are_said_so(built, monkeypatch):
    monkeypatch.setattr("edgeresnext.machine.cpu.isa", lambda: frozenset({"avx2"}))
    monkeypatch.setattr("shutil.which", lambda _: None)

    def way(precision, target="cpu", mode=""):
        return Artifact(backend="torch", precision=precision, target=target, file="weights.safetensors", mode=mode)

    assert "bfloat16" in registry.unavailable(way("bf16"))
    assert "emulates fp16" in registry.unavailable(way("fp16"))
    assert "sudo apt install g++" in registry.unavailable(way("fp32", mode="compile"))
    assert registry.unavailable(way("fp32")) is None
    if gpu.detect() is None:
        assert "no NVIDIA GPU" in registry.unavailable(way("fp16", target="torch-cuda"))


def test_the_network_alone_is_timed(session, built):
    images = built.golden().images[:2]
    start = time.perf_counter()
    alone = session.compute_s(images)
    assert 0 < alone <= time.perf_counter() - start


@pytest.mark.parametrize("name", ["openvino-fp32", "openvino-int8", "onnxruntime-fp32", "onnxruntime-int8"])
def test_the_time_of_every_convolution_is_found(built, name):
    artifact = next(one for one in built.manifest.artifacts if one.name == name)
    layers = profile(built, artifact, built.golden().images[:1], None)
    found = [one.module for one in layers if one.module]
    # OpenVINO counts whole microseconds, and leaves out what takes less than one: here the fc of 10 classes.
    assert found == [module for module in built.manifest.layer_macs if module in found or module != "fc"]
    assert sum(one.seconds > 0 for one in layers if one.module) > 15  # clocks of 1 us see nothing of the smallest
    assert all(one.kind for one in layers if not one.module)


def test_a_profile_that_the_disk_had_no_room_for_is_said_and_removed(built, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self)[:100])
    artifact = next(one for one in built.manifest.artifacts if one.name == "onnxruntime-fp32")
    with pytest.raises(BackendError, match=r"profile in '.*' cannot be read: Input data was truncated"):
        profile(built, artifact, built.golden().images[:1], None)
    assert not list(tmp_path.iterdir())


def test_pytorch_is_not_profiled_and_says_so(built):
    with pytest.raises(BackendError, match="single operations of torch are not measured"):
        profile(built, registry.BASELINE_ARTIFACT, built.golden().images[:1], None)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_file_that_is_no_model_is_the_backend_s_error(backend, built, tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"rubbish")
    with pytest.raises(BackendError, match=r"refuses .*x\.onnx"):
        registry.get(backend).open(
            tmp_path / "x.onnx",
            built.manifest.model,
            Artifact(backend=backend, precision="fp32", target="cpu", file="x.onnx"),
        )


@pytest.mark.parametrize(("backend", "precision"), [("openvino", "fp16"), ("onnxruntime", "bf16"), ("torch", "int8")])
def test_a_precision_that_a_backend_lacks_is_said_so(backend, precision):
    assert precision in registry.get(backend).unavailable(precision)


def test_bf16_is_offered_only_where_the_cpu_has_it(monkeypatch):
    backend = registry.get("openvino")
    module = __import__("edgeresnext.backends.openvino", fromlist=["x"])
    monkeypatch.setattr(module, "_capabilities", lambda: frozenset({"FP32", "INT8"}))
    assert "bfloat16" in backend.unavailable("bf16")
    assert backend.unavailable("fp32") is None


@pytest.mark.parametrize("package", ["openvino", "onnxruntime", "torch"])
def test_a_missing_package_names_the_command_that_installs_it(package, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else find(name, *a))
    assert "pip install 'edgeresnext[" in registry.get(package).unavailable("fp32")


def test_a_closed_session_says_so(built):
    for artifact in built.manifest.artifacts:
        if registry.unavailable(artifact) is None:
            session = open_artifact(built, artifact)
            session.close()
            with pytest.raises(BackendError, match="closed"):
                session.run(built.golden().images)


def test_threads_of_pytorch_are_set_for_its_runs_alone(built):
    import torch

    before = torch.get_num_threads()
    artifact = next(a for a in built.manifest.artifacts if a.backend == "torch")
    session = open_artifact(built, artifact, threads=1)
    session.run(built.golden().images)
    assert torch.get_num_threads() == before


def test_load_takes_the_fastest_that_runs_here_and_says_which(built, caplog):
    caplog.set_level("INFO", logger="edgeresnext")
    with edgeresnext.load(built.path) as classifier:
        assert classifier.artifact == built.artifacts()[0]
        assert classifier.artifact.name in repr(classifier)
    assert classifier.artifact.name in caplog.text


def test_load_falls_back_past_what_is_not_installed(built, monkeypatch):
    monkeypatch.setattr(type(registry.get("openvino")), "unavailable", lambda *_: "OpenVINO is not installed")
    with edgeresnext.load(built.path) as classifier:
        assert classifier.artifact.backend != "openvino"
    with pytest.raises(NotInstalledError, match="OpenVINO is not installed"):
        edgeresnext.load(built.path, backend="openvino")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_load_obeys_what_is_asked_for(built, backend, precision):
    with edgeresnext.load(built.path, backend=backend, precision=precision) as classifier:
        assert classifier.artifact.name == f"{backend}-{precision}"


def test_load_refuses_what_the_bundle_has_not(built):
    for options in ({"backend": "tensorrt"}, {"precision": "fp16"}, {"threads": 0}, {"threads": 10**400}):
        with pytest.raises(RequestError):
            edgeresnext.load(built.path, **options)


def test_an_altered_artefact_never_reaches_the_runtime(bundle_copy):
    path = bundle_copy / "onnx" / "int8-cpu.onnx"
    path.write_bytes(path.read_bytes().replace(b"conv1", b"conv9", 1))
    with pytest.raises(BundleError, match="altered"):
        edgeresnext.load(bundle_copy, precision="int8")


def test_an_unknown_backend_suggests_the_nearest():
    with pytest.raises(RequestError, match="Did you mean 'openvino'"):
        registry.get("openvno")
    assert Artifact(backend="a", precision="int8", target="cpu", file="f").name == "a-int8"
