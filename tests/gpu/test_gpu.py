"""On a real GPU: `pytest -m gpu`. Everything that stand-ins cannot show.

Builds with whichever of TensorRT and TensorRT-RTX is installed; with both, each is tested. Skipped, with the reason,
where there is no GPU, no runtime or no CUDA library.
"""

import threading
import time

import numpy as np
import pytest

import edgeresnext
from edgeresnext.backends import cuda, registry
from edgeresnext.extras import installed
from edgeresnext.machine import gpu
from edgeresnext.runtime.classifier import open_artifact
from edgeresnext.spec import MIN_SNR_DB, EngineOptions

PRECISIONS = ("fp32", "fp16", "int8")
LARGEST = 8

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(gpu.detect() is None, reason="no NVIDIA GPU with a driver"),
    pytest.mark.skipif(cuda.installed() is None, reason=f"no CUDA from Python: {cuda.how_to_install()}"),
]


@pytest.fixture(scope="module", params=registry.ENGINE_NAMES)
def runtime(request):
    """The name of an engine backend that is installed here."""
    missing = registry.get_engine_backend(request.param).missing()
    if missing:
        pytest.skip(missing)
    return request.param


@pytest.fixture(scope="module")
def bundle(runtime, built, tmp_path_factory):
    """The digits bundle with engines for this GPU."""
    return edgeresnext.build_engines(
        built.path,
        output=tmp_path_factory.mktemp("gpu") / "bundle",
        precisions=PRECISIONS,
        engine_options=EngineOptions(batch=(1, 1, LARGEST), int8_grouped="on", backend=runtime),
    )


@pytest.fixture(params=sorted(library.library for library in cuda.LIBRARIES.values()))
def library(request, monkeypatch):
    """Each CUDA library in turn, alone."""
    found = {one.library: (package, one) for package, one in cuda.LIBRARIES.items()}
    package, one = found[request.param]
    if not installed(package):
        pytest.skip(f"{request.param} is not installed")
    monkeypatch.setattr(cuda, "LIBRARIES", {package: one})
    return request.param


def engine(bundle, precision):
    return next(one for one in bundle.manifest.artifacts if one.engine and one.precision == precision)


@pytest.fixture(scope="module")
def validation(digit_folders):
    """600 images that neither training nor calibration has seen, and their digits."""
    from edgeresnext.data.folder import scan
    from edgeresnext.data.images import load_image
    from edgeresnext.model.catalogue import CATALOGUE

    folder = scan(digit_folders["validation"])
    preprocess = CATALOGUE["resnext20_8x4d"].spec.preprocess
    return np.stack([load_image(path, preprocess) for path in folder.images]), np.array(folder.targets)


def snr_db(logits, reference):
    noise = ((logits.astype(np.float64) - reference) ** 2).sum()
    return 10 * np.log10((reference.astype(np.float64) ** 2).sum() / noise) if noise else np.inf


@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_are_pytorchs(bundle, library, precision, validation):
    images, targets = validation
    with edgeresnext.load(bundle.path, backend="torch") as baseline:
        reference = baseline.logits(images)
    session = open_artifact(bundle, engine(bundle, precision))
    logits = session.run(images)  # 600 images: many batches, and a remainder
    session.close()
    if precision == "fp32":
        assert np.abs(logits - reference).max() <= 1e-4 * np.abs(reference).max()
    else:
        assert snr_db(logits, reference) >= MIN_SNR_DB[precision]
    right = [(found.argmax(1) == targets).mean() for found in (reference, logits)]
    assert right[0] - right[1] <= 0.005


@pytest.mark.parametrize("precision", PRECISIONS)
def test_verify_and_bench_accept_it(bundle, precision):
    (check,) = [one for one in edgeresnext.verify(bundle.path) if one.artifact == engine(bundle, precision).name]
    assert check.status == "ok", check.reason
    report = edgeresnext.bench(
        bundle.path,
        backend=engine(bundle, precision).backend,
        precision=precision,
        options=edgeresnext.BenchOptions(rounds=20, skip=("memory",)),
    )
    (row,) = [row for row in report.rows if row.name == engine(bundle, precision).name]
    assert row.status == "ok", row.reasons
    assert row.device == gpu.detect().name


@pytest.mark.parametrize("count", [1, 2, 3, LARGEST, LARGEST + 1, 3 * LARGEST])
def test_every_batch_gives_the_same_logits(bundle, library, count, validation):
    images, _ = validation
    session = open_artifact(bundle, engine(bundle, "fp32"))
    together = session.run(images[:count])
    alone = np.concatenate([session.run(images[index : index + 1]) for index in range(count)])
    session.close()
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-4)


def test_threads_agree(bundle, library, validation):
    images, _ = validation
    session = open_artifact(bundle, engine(bundle, "fp32"))
    expected = session.run(images[:64])
    found = {}

    def classify(start):
        for _ in range(20):
            found[start] = session.run(images[start : start + 4])

    threads = [threading.Thread(target=classify, args=(start,)) for start in range(0, 64, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.close()
    for start in range(0, 64, 4):
        np.testing.assert_allclose(found[start], expected[start : start + 4], rtol=1e-3, atol=1e-4)


def test_a_cuda_graph_gives_the_same_logits(bundle, runtime, validation, monkeypatch):
    if cuda.installed() is not cuda.CudaPython:
        pytest.skip("only cuda-python captures graphs")
    images, _ = validation
    for ways in (lambda times: None, lambda times: list(times)[-1]):
        monkeypatch.setattr("edgeresnext.backends._trt.session._faster", ways)
        session = open_artifact(bundle, engine(bundle, "fp16"))
        session.prepare(images[:4])
        detail = session.detail
        results = [session.run(images[start : start + 4]) for start in range(0, 40, 4)]
        session.close()
        with edgeresnext.load(bundle.path, backend="torch") as baseline:
            assert snr_db(np.concatenate(results), baseline.logits(images[:40])) >= MIN_SNR_DB["fp16"], detail


def test_memory_is_flat_over_2000_runs(bundle, library, validation):
    images, _ = validation
    session = open_artifact(bundle, engine(bundle, "fp16"))
    for _ in range(100):
        session.run(images[:LARGEST])
    with session.cuda.active():
        before, _ = session.cuda.memory()
    for _ in range(2000):
        session.run(images[:LARGEST])
    with session.cuda.active():
        after, _ = session.cuda.memory()
    session.close()
    assert before - after < 2**20


def test_closing_gives_memory_back(bundle, library):
    session = open_artifact(bundle, engine(bundle, "fp16"))
    session.close()
    probe = cuda.connect()
    with probe.active():
        before, _ = probe.memory()
    for _ in range(5):
        session = open_artifact(bundle, engine(bundle, "fp16"))
        session.run(np.zeros((1, 32, 32, 3), np.uint8))
        session.close()
    with probe.active():
        after, _ = probe.memory()
    probe.close()
    assert before - after < 16 * 2**20


def test_pytorch_can_use_the_gpu_in_the_same_program(bundle, library, validation):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    images, _ = validation
    ones = torch.ones(1000, device="cuda")
    session = open_artifact(bundle, engine(bundle, "fp32"))
    first = session.run(images[:2])
    assert float(ones.sum()) == 1000
    np.testing.assert_array_equal(session.run(images[:2]), first)
    session.close()
    assert float((ones * 2).sum()) == 2000


def test_the_device_takes_no_longer_than_the_whole_run(bundle, library):
    session = open_artifact(bundle, engine(bundle, "fp16"))
    images = np.zeros((LARGEST, 32, 32, 3), np.uint8)
    device_s = min(session.compute_s(images) for _ in range(20))
    walls_s = []
    for _ in range(20):
        start = time.perf_counter()
        session.run(images)
        walls_s.append(time.perf_counter() - start)
    session.close()
    assert 0 < device_s <= min(walls_s) * 1.05


def test_the_profiler_names_layers(bundle):
    session = open_artifact(bundle, engine(bundle, "fp16"))
    operations = session.profile(np.zeros((1, 32, 32, 3), np.uint8), runs=5)
    session.close()
    assert sum(one.seconds for one in operations) > 0
    assert len(operations) > 5


def test_calibration_on_the_gpu_finds_what_the_cpu_finds():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no GPU here")
    from edgeresnext.compiler.execute import Executor
    from edgeresnext.compiler.graph import trace
    from edgeresnext.model.catalogue import specify
    from edgeresnext.model.checkpoints import random_network

    graph = trace(random_network(specify("resnext20_8x4d"), 0), (32, 32))
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    there, here = Executor(graph, torch.device("cuda")), Executor(graph, torch.device("cpu"))
    for (_, found), (_, expected) in zip(there.steps(images), here.steps(images), strict=True):
        assert float(found.abs().max()) == pytest.approx(float(expected.abs().max()), rel=1e-4)
