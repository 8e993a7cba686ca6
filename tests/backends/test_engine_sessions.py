"""Run engines of every release, on stand-ins for TensorRT and CUDA (see tests/standins).

What is shown: that memory is never used after it was freed or read before it was written, and that errors become ours.
Results come from ONNX Runtime, through the copies and streams of the session under test. Not shown: speed, and what
real kernels compute.
"""

import gc
import threading
import time

import numpy as np
import pytest
from standins import VERSIONS, gpu
from standins.engines import CLASSIC, assert_near, compiled, expected, opened, photographs

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext.errors import BackendError
from edgeresnext.machine.cache import CACHE_VARIABLE
from edgeresnext.spec import EngineOptions

LIBRARIES = ["libcuda", "cuda-python", "pycuda"]


def live(*kinds):
    """What is still allocated of these kinds."""
    gc.collect()
    return [kind for kind, _ in gpu.live() if kind in kinds]


@pytest.mark.parametrize("cuda", LIBRARIES)
@pytest.mark.parametrize(("module", "release"), VERSIONS)
def test_logits_are_those_of_the_onnx_file_and_nothing_leaks(install, lean, module, release, cuda):
    install(module, release, cuda)
    bundle = compiled(lean, backend=module)
    images = photographs(7)
    reference = expected(bundle, images)
    with edgeresnext.load(lean, backend=module) as classifier:
        for count in (1, 4, 7, 2):
            assert_near(classifier.logits(images[:count]), reference[:count])
    gc.collect()
    assert gpu.faults == []
    assert gpu.live() == []
    assert gpu.stack == []
    assert list(gpu.contexts.values()) == [1]


@pytest.mark.parametrize(("module", "release"), VERSIONS)
def test_a_pool_of_contexts_serves_threads(install, lean, module, release):
    install(module, release)
    bundle = compiled(lean, backend=module)
    images = photographs(24)
    reference = expected(bundle, images)
    found = {}
    session = opened(bundle)

    def classify(index):
        found[index] = session.run(images[index : index + 3])

    threads = [threading.Thread(target=classify, args=(index,)) for index in range(0, 24, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.close()
    for index, logits in found.items():
        assert_near(logits, reference[index : index + 3])
    assert len(found) == 8
    assert gpu.faults == []


def test_threads_that_wait_when_a_session_closes_get_an_error(install, lean):
    install()
    session = opened(compiled(lean))
    session._most = 1
    errors = []

    def classify():
        try:
            session.run(photographs(1))
        except BackendError as error:
            errors.append(error.what)

    with session._lane():
        waiting = [threading.Thread(target=classify, daemon=True) for _ in range(3)]
        closing = threading.Thread(target=session.close, daemon=True)
        for thread in (*waiting, closing):
            thread.start()
        for thread in waiting:
            thread.join(10)
        assert errors == ["this session is closed"] * 3
    closing.join(10)
    assert not closing.is_alive()


def test_a_second_context_has_its_profile_on_tensorrt_8(install, lean):
    install(release="8.6")
    session = opened(compiled(lean))
    with session._lane():
        session.run(photographs(1))  # in another context
    assert len(session._made) == 2
    session.close()


def test_contexts_are_shared_where_memory_is_short(install, lean):
    install()
    bundle = compiled(lean)
    session = opened(bundle)
    images = photographs(2)
    gpu.failures = {"cuMemAlloc": 2}
    found = []
    with session._lane():  # the only one: a second finds no memory
        waiting = threading.Thread(target=lambda: found.append(session.run(images)), daemon=True)
        waiting.start()
        deadline = time.monotonic() + 30
        while session._most > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert session._most == 1
    waiting.join(30)
    assert not waiting.is_alive()
    assert len(session._made) == 1
    assert_near(found[0], expected(bundle, images))
    session.close()
    assert gpu.faults == []


@pytest.mark.parametrize("release", CLASSIC)
def test_a_cuda_graph_gives_the_same_logits(install, lean, release, monkeypatch):
    install(release=release)
    bundle = compiled(lean)
    images = photographs(6)
    reference = expected(bundle, images)
    # The graph always wins here: which way is faster cannot be measured on a stand-in.
    monkeypatch.setattr("edgeresnext.backends._trt.session._faster", lambda times: list(times)[-1])
    session = opened(bundle)
    session.prepare(images[:2])
    assert session.detail == "CUDA graph of 2"
    for start in (0, 2, 4):
        assert_near(session.run(images[start : start + 2]), reference[start : start + 2])
    assert_near(session.run(images[:3]), reference[:3])
    assert_near(session.run(images[4:]), reference[4:])  # captured anew
    session.close()
    assert gpu.faults == []


def test_a_graph_that_cannot_be_captured_is_done_without(install, lean):
    install()
    session = opened(compiled(lean))
    images = photographs(2)
    before = session.run(images)
    gpu.failures = {"cuStreamBeginCapture": 900}
    session.prepare(images)
    assert session.detail.startswith(
        "no CUDA graph: CUDA's cuStreamBeginCapture failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
    )
    np.testing.assert_array_equal(session.run(images), before)
    session.close()


def test_pycuda_runs_without_graphs_and_says_so(install, lean):
    install(cuda="pycuda")
    session = opened(compiled(lean))
    session.prepare(photographs(2))
    assert session.detail == "no CUDA graph"
    session.close()


@pytest.mark.parametrize("cuda", LIBRARIES)
def test_the_device_times_a_batch_without_its_copies(install, lean, cuda):
    install(cuda=cuda)
    session = opened(compiled(lean))
    images = photographs(2)
    session.run(images)
    copied = len(gpu.copies)
    assert session.compute_s(images) > 0
    assert len(gpu.copies) == copied + 2  # one batch in and its logits out; none for the timed run
    session.close()
    assert gpu.faults == []
    assert live("event") == []


@pytest.mark.parametrize(("module", "release"), VERSIONS)
def test_the_profiler_names_layers(install, lean, module, release):
    install(module, release)
    session = opened(compiled(lean, backend=module))
    operations = session.profile(photographs(2), runs=3)
    session.close()
    assert any("conv1" in one.name for one in operations)
    assert all(one.seconds >= 0 for one in operations)


def test_batches_below_the_profile_are_filled_up(install, lean):
    install()
    bundle = compiled(lean, options=EngineOptions(batch=(4, 4, 4)))
    images = photographs(9)
    session = opened(bundle)
    assert_near(session.run(images), expected(bundle, images))
    session.close()


def test_a_closed_session_says_so_and_closing_twice_is_fine(install, lean):
    install()
    session = opened(compiled(lean))
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(photographs(1))


def test_too_little_memory_tells_how_much_is_free(install, lean):
    install()
    bundle = compiled(lean)
    gpu.failures = {"cuMemAlloc": 2}
    with pytest.raises(BackendError, match=r"MiB of GPU memory left: .* MiB are free") as caught:
        opened(bundle)
    assert caught.value.values == ("batch",)
    assert gpu.live() == []


def test_compiled_kernels_are_kept_in_the_users_cache_and_used_again(install, lean, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "new" / "cache"))
    install("tensorrt_rtx", "1.7")
    bundle = compiled(lean, backend="tensorrt_rtx")
    gpu.compiled.clear()
    opened(bundle).close()
    assert bundles.list_files(lean).keys() == bundle.manifest.files.keys()  # nothing beside the engine
    (cache,) = (tmp_path / "new" / "cache" / "kernels").iterdir()
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    assert len(gpu.compiled) == 1
    opened(bundle).close()
    assert len(gpu.compiled) == 1
    cache.write_bytes(cache.read_bytes()[:-1] + b"x")
    opened(bundle).close()
    assert len(gpu.compiled) == 2
    install("tensorrt_rtx", "1.7", driver_version=12090)  # for which kernels are compiled anew
    opened(bundle).close()
    assert len(gpu.compiled) == 1
    assert len(list(cache.parent.iterdir())) == 2
