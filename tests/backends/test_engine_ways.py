"""How batches are run: CUDA graphs, copies or shared memory, prepared by `load`; on stand-ins, and on a chosen GPU."""

import threading
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest
from standins import VERSIONS, gpu
from standins.engines import BATCH, CLASSIC, assert_near, compiled, engines, expected, opened, photographs

import edgeresnext
from edgeresnext.backends._trt import session as sessions
from edgeresnext.backends._trt.lane import Lane, Way
from edgeresnext.backends.cuda import Driver
from edgeresnext.errors import BackendError, NotInstalledError, RequestError
from edgeresnext.machine.gpu import using

SECOND = {"name": "Second", "compute_capability": [8, 9]}


@pytest.fixture
def prefer(monkeypatch):
    """Let one way win, for which is faster cannot be measured on a stand-in."""

    def choose(*, mapped=False, graph=False):
        def pick(times):
            return Way(mapped, graph) if Way(mapped, graph) in times else Way()

        monkeypatch.setattr(sessions, "_faster", pick)

    return choose


@pytest.fixture
def captures(monkeypatch):
    """The streams that were captured."""
    found, capture = [], Driver.capture

    def counted(self, stream, queue):
        found.append(stream)
        return capture(self, stream, queue)

    monkeypatch.setattr(Driver, "capture", counted)
    return found


def closed_cleanly(session):
    session.close()
    return gpu.faults == [] and gpu.live() == [] and gpu.stack == []


@pytest.mark.parametrize("release", CLASSIC)
def test_each_batch_size_keeps_its_graph_while_sizes_alternate(install, lean, release, prefer, captures):
    install(release=release)
    prefer(graph=True)
    bundle = compiled(lean)
    images = photographs(4)
    reference = expected(bundle, images)
    session = opened(bundle)
    for size in (1, 2, 4):
        session.prepare(images[:size])
        assert session.detail == f"CUDA graph of {size}"
    assert len(captures) == 3
    for size in (1, 4, 2, 1, 3, 4):  # nobody prepared 3
        assert_near(session.run(images[:size]), reference[:size])
    assert len(captures) == 3
    assert closed_cleanly(session)


def test_a_lane_that_comes_later_has_every_graph_before_it_is_lent(install, lean, prefer, captures):
    install()
    prefer(graph=True)
    session = opened(compiled(lean))
    session.prepare(photographs(1))
    session.prepare(photographs(2))
    with session._lane():
        session.run(photographs(3))  # on a second lane; nobody prepared 3
        assert len(captures) == 4
        session.run(photographs(2))
    assert len(captures) == 4
    assert closed_cleanly(session)


@pytest.mark.parametrize("how", ["begin", "within", "end"])
def test_a_capture_that_fails_leaves_nothing_behind(install, lean, prefer, how):
    install()
    prefer(graph=True)
    bundle = compiled(lean)
    session = opened(bundle)
    images = photographs(2)
    gpu.failures = {
        "begin": {"cuStreamBeginCapture": 900},
        "within": {"capture execute_async_v3": "fail"},
        "end": {"break capture": "fail"},
    }[how]
    session.prepare(images)
    assert session.detail.startswith("no CUDA graph: ")
    assert_near(session.run(images), expected(bundle, images))
    session.prepare(images[:1])  # the next one succeeds, on the same stream
    assert session.detail == "CUDA graph of 1"
    assert_near(session.run(images[:1]), expected(bundle, images[:1]))
    session.close()
    assert gpu.live() == []


@pytest.mark.parametrize("cuda", ["libcuda", "cuda-python", "pycuda"])
@pytest.mark.parametrize("release", ["8.6", "10.16"])
def test_where_memory_is_shared_nothing_is_copied_if_that_is_faster(install, lean, prefer, cuda, release):
    install(release=release, cuda=cuda, integrated=1)
    prefer(mapped=True, graph=cuda != "pycuda")
    bundle = compiled(lean)
    images = photographs(4)
    session = opened(bundle)
    session.prepare(images[:2])
    assert session.detail == f"{'no CUDA graph' if cuda == 'pycuda' else 'CUDA graph of 2'}, no copies"
    before = len(gpu.copies)
    assert_near(session.run(images[2:]), expected(bundle, images[2:]))
    assert session.compute_s(images[2:]) > 0
    assert len(gpu.copies) == before
    session.run(images[:1])
    assert len(gpu.copies) == before + 2  # nobody prepared it
    assert closed_cleanly(session)


def test_both_kinds_of_memory_are_timed_and_only_where_it_is_shared(install, lean, monkeypatch):
    seen = []
    monkeypatch.setattr(
        sessions, "_faster", lambda times: seen.append({way: len(times[way]) for way in times}) or Way()
    )
    for integrated in (0, 1):
        install(integrated=integrated)
        session = opened(compiled(lean))
        session.prepare(photographs(1))
        session.close()
    discrete, shared = seen
    copied, mapped = [Way(), Way(graph=True)], [Way(mapped=True), Way(mapped=True, graph=True)]
    assert list(discrete) == copied
    assert list(shared) == copied + mapped
    assert set(shared.values()) == {sessions._TIMED_RUNS}


def test_the_faster_way_is_that_with_the_smaller_median():
    assert sessions._faster({Way(): [1.0, 5.0, 5.0], Way(graph=True): [4.0, 4.0, 9.0]}) == Way(graph=True)


@pytest.mark.parametrize(("module", "release"), VERSIONS)
def test_load_ends_prepared_for_the_batches_that_are_asked_for(install, lean, module, release, prefer):
    trt = install(module, release)
    prefer(graph=True)
    bundle = compiled(lean, backend=module)
    images = photographs(4)
    with edgeresnext.load(lean, backend=module, batches=(1, 4)) as classifier:
        assert list(classifier._session._ways) == [1, 4]
        made = len([name for _, name, _ in trt.calls if name.startswith("create_execution_context")])
        for size in (1, 4, 2):
            assert_near(classifier.logits(images[:size]), expected(bundle, images[:size]))
        assert len([name for _, name, _ in trt.calls if name.startswith("create_execution_context")]) == made
    assert gpu.faults == []
    assert gpu.live() == []


def test_what_is_timed_runs_as_it_is_served(install, lean, prefer):
    install()
    prefer(graph=True)
    session = opened(compiled(lean))
    images = photographs(2)
    session.prepare(images)
    launched = []
    launch = session.cuda.launch
    session.cuda.launch = lambda graph, stream: launched.append(graph) or launch(graph, stream)
    assert session.compute_s(images) > 0
    assert len(launched) == 2  # the run, and once more between two events
    session.close()


def test_batches_beyond_the_profile_are_prepared_as_their_pieces(install, lean, prefer):
    install()
    prefer(graph=True)
    bundle = compiled(lean)
    session = opened(bundle)
    images = photographs(6)
    session.prepare(images)
    assert set(session._ways) == {4, 2}
    assert_near(session.run(images), expected(bundle, images))
    assert closed_cleanly(session)


@pytest.mark.parametrize("batches", [(0,), (1, -2), (1.5,), ("8",)])
def test_batches_that_are_none_are_refused(built, batches):
    with pytest.raises(RequestError, match="a batch is") as caught:
        edgeresnext.load(built.path, batches=batches)
    assert caught.value.values == ("batches",)


def test_a_lane_that_is_being_made_stalls_nobody(install, lean, monkeypatch):
    install()
    session = opened(compiled(lean))
    entered, go_on = threading.Event(), threading.Event()
    make = Lane.__init__

    def slow(self, *arguments):
        entered.set()
        assert go_on.wait(30)
        make(self, *arguments)

    monkeypatch.setattr(Lane, "__init__", slow)
    with session._lane():
        waiting = threading.Thread(target=session.run, args=(photographs(1),), daemon=True)
        waiting.start()
        assert entered.wait(30)
    found = []
    other = threading.Thread(target=lambda: found.append(session.run(photographs(2))), daemon=True)
    other.start()
    other.join(30)
    assert len(found) == 1  # on the lane that is free again, while the other is still being made
    go_on.set()
    waiting.join(30)
    assert closed_cleanly(session)


def test_closing_waits_for_a_lane_that_is_being_made(install, lean, monkeypatch):
    install()
    session = opened(compiled(lean))
    entered, go_on = threading.Event(), threading.Event()
    make = Lane.__init__

    def slow(self, *arguments):
        entered.set()
        assert go_on.wait(30)
        make(self, *arguments)

    monkeypatch.setattr(Lane, "__init__", slow)
    errors = []

    def classify():
        try:
            session.run(photographs(1))
        except BackendError as error:
            errors.append(error.what)

    with session._lane():
        waiting = threading.Thread(target=classify, daemon=True)
        waiting.start()
        assert entered.wait(30)
    closing = threading.Thread(target=session.close, daemon=True)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    go_on.set()
    closing.join(30)
    waiting.join(30)
    assert not closing.is_alive()
    assert errors == ["this session is closed"]
    assert gpu.faults == []
    assert gpu.live() == []


def test_profiling_runs_without_graphs_of_the_runtime(install, lean):
    trt = install("tensorrt_rtx", "1.7")
    session = opened(compiled(lean, backend="tensorrt_rtx"))
    session.prepare(photographs(1))
    trt.calls.clear()
    assert session.profile(photographs(1), runs=2)
    assert ("IRuntimeConfig", "cuda_graph_strategy", (trt.CudaGraphStrategy.DISABLED,)) in trt.calls
    assert closed_cleanly(session)


def test_an_engine_runs_on_the_gpu_that_is_asked_for(install, lean):
    install(others=[SECOND])
    bundle = compiled(lean)
    images = photographs(2)
    for device in (1, f"GPU-{gpu.uuid(1)}"):
        with edgeresnext.load(lean, backend="tensorrt", device=device) as classifier:
            assert {gpu.owners[address] for address in gpu.allocations} == {1}
            assert_near(classifier.logits(images), expected(bundle, images))
    with edgeresnext.load(lean, backend="tensorrt") as classifier:
        assert {gpu.owners[address] for address in gpu.allocations} == {0}
    (check,) = [one for one in edgeresnext.verify(lean, device=1) if one.artifact == classifier.artifact.name]
    assert check.status == "ok"
    assert gpu.faults == []
    assert gpu.live() == []


def test_the_engine_is_chosen_for_the_gpu_that_is_asked_for(install, lean):
    install(others=[{"name": "Old", "compute_capability": [7, 5]}])
    compiled(lean)
    with edgeresnext.load(lean, backend="tensorrt", device=0) as classifier:
        assert classifier.artifact.engine is not None
    with pytest.raises(NotInstalledError, match=r"this GPU, Old, has 7\.5"):
        edgeresnext.load(lean, backend="tensorrt", device=1)


def test_an_engine_is_built_for_the_gpu_that_is_asked_for(install, lean):
    install(child=True, others=[{"name": "Other", "compute_capability": [12, 0]}])
    options = msgspec.structs.replace(BATCH, device=1)
    bundle = edgeresnext.build_engines(lean, precisions=["fp32"], engine_options=options)
    (artifact,) = engines(bundle).values()
    assert (artifact.name, artifact.engine.device) == ("sm120-fp32", "Other")
    assert artifact.engine.compute_capabilities == ("12.0",)
    assert artifact.engine.options == BATCH
    with using(1):
        opened(bundle).close()


def test_a_gpu_for_a_build_that_uses_none_or_that_is_not_there_is_refused(install, lean):
    install()
    for targets, device, message in ((["rtx40"], 0, "GPU 0 would change nothing"), (["here"], 3, "no GPU '3'")):
        with pytest.raises(RequestError, match=message) as caught:
            edgeresnext.build_engines(lean, targets=targets, engine_options=edgeresnext.EngineOptions(device=device))
        assert caught.value.values == ("device",)


@pytest.mark.parametrize(
    ("cuda", "failures"),
    [
        ("libcuda", {"cuDevicePrimaryCtxRetain": 2}),
        ("cuda-python", {"cuDevicePrimaryCtxRetain": 2}),
        ("cuda-python", {"cuInit": 999}),
        ("pycuda", {"retain_primary_context": "fail"}),
        (None, {}),
    ],
)
def test_load_takes_the_cpu_where_cuda_does_not_start(install, bundle_copy, cuda, failures):
    class Always(dict):
        pop = dict.get

    install()
    compiled(bundle_copy)
    install(cuda=cuda)
    gpu.failures = Always(failures)
    with edgeresnext.load(bundle_copy) as classifier:
        assert classifier.artifact.target == "cpu"
    with pytest.raises((BackendError, NotInstalledError), match=r"CUDA|cuda-python is not installed"):
        edgeresnext.load(bundle_copy, backend="tensorrt")


def test_the_benchmark_measures_on_the_gpu_that_is_asked_for(install, lean):
    install(others=[SECOND])
    compiled(lean)
    report = edgeresnext.bench(
        lean,
        backend="tensorrt",
        options=edgeresnext.BenchOptions(rounds=2, skip=("memory", "energy", "pytorch"), device=1),
    )
    (row,) = [row for row in report.rows if row.backend == "tensorrt"]
    assert (row.status, row.device) == ("ok", "Second")
    assert gpu.faults == []


def test_a_profiler_sees_copies_launches_and_waits_by_name(install, lean, monkeypatch):
    install()
    session = opened(compiled(lean))
    seen = []

    @contextmanager
    def named(name):
        seen.append(name)
        yield

    monkeypatch.setattr("edgeresnext.backends._trt.lane.nvtx_range", named)
    session.run(photographs(1))
    assert seen == ["copy in", "enqueue", "copy out", "wait"]
    session.close()


def test_contexts_of_a_lane_share_one_memory(install, lean, prefer):
    install()
    prefer(graph=True)
    session = opened(compiled(lean))
    before = gpu.used_bytes
    session.prepare(photographs(1))
    session.prepare(photographs(2))
    assert gpu.used_bytes == before
    np.testing.assert_array_equal(session.run(photographs(2)), session.run(photographs(2)))
    assert closed_cleanly(session)
