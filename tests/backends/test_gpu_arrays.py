"""Arrays on the GPU in and out of engines: by address, in the order of streams, as long as they are needed."""

import gc

import numpy as np
import pytest
from standins import gpu
from standins.device_arrays import Described, Lending, capsule, taken
from standins.engines import BATCH, assert_near, compiled, expected, opened, photographs

from edgeresnext.backends import dlpack
from edgeresnext.backends._trt import session as sessions
from edgeresnext.backends._trt.lane import Way
from edgeresnext.backends.cuda.exchange import number
from edgeresnext.errors import DataError, RequestError
from edgeresnext.spec import EngineOptions

KINDS = [Lending, Described]
ENGINES = [("tensorrt", "8.6"), ("tensorrt", "10.16"), ("tensorrt_rtx", "1.7")]


@pytest.fixture
def engine(install, lean):
    """A session, and what its network says."""
    opened_sessions = []

    def call(module="tensorrt", release="10.3", cuda="libcuda", options=BATCH, **settings):
        install(module, release, cuda, **settings)
        bundle = compiled(lean, backend=module, options=options)
        opened_sessions.append(opened(bundle))
        return opened_sessions[-1], lambda images: expected(bundle, images)

    yield call
    for session in opened_sessions:
        session.close()


@pytest.fixture
def graphs(monkeypatch):
    """Let a CUDA graph win where there is one."""
    way = Way(graph=True)
    monkeypatch.setattr(sessions, "_faster", lambda times: way if way in times else Way())


def no_host_copies(since=0):
    return {what for what, *_ in gpu.copies[since:]} <= {"on device"}


def clean():
    """Nothing went wrong, and nobody is left in a context."""
    gc.collect()
    return gpu.faults == [] and gpu.stack == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuda", ["libcuda", "cuda-python", "pycuda"])
@pytest.mark.parametrize(("module", "release"), ENGINES)
def test_images_on_the_gpu_never_touch_the_host(engine, module, release, cuda, kind):
    session, reference = engine(module, release, cuda)
    images = photographs(4)
    found = session.run(kind(images))
    assert (found.shape, found.dtype) == ((4, 10), "float32")
    assert_near(taken(found), reference(images))
    assert gpu.copies == []  # bound where they lie
    assert clean()


@pytest.mark.parametrize("kind", KINDS)
def test_logits_go_where_the_caller_wants_them(engine, kind):
    session, reference = engine()
    images, out = photographs(3), kind(np.zeros((3, 10), np.float32))
    assert session.run(kind(images), out) is out
    assert_near(out.values(), reference(images))
    assert clean()


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_stream_of_the_caller_nothing_is_waited_for(engine, kind):
    session, reference = engine()
    images, out, stream = photographs(2), kind(np.full((2, 10), 7, np.float32)), gpu.create_stream()
    given = kind(images)
    session.run(given, out, stream)
    assert gpu.stream(stream).queue
    assert not (out.values() == 7).all()  # not even what was there before has been written
    assert gpu.synchronise(stream)
    assert_near(out.values(), reference(images))
    assert clean()


def test_without_out_the_result_is_for_the_stream_and_tells_others_to_wait(engine):
    session, reference = engine()
    images, stream = photographs(2), gpu.create_stream()
    found = session.run(Lending(images), stream=stream)
    assert found.__cuda_array_interface__["stream"] == stream
    assert found.__dlpack_device__() == (2, 0)
    assert gpu.stream(stream).queue
    assert_near(taken(found), reference(images))  # on another stream, which waits for that one
    assert clean()


def test_a_result_that_is_there_already_needs_no_stream(engine):
    session, _ = engine()
    found = session.run(Lending(photographs(1)))
    assert found.__cuda_array_interface__["stream"] is None
    assert found.__cuda_array_interface__["shape"] == (1, 10)
    assert "GPU 0" in repr(found)


def test_a_result_is_lent_where_it_is_and_nowhere_else(engine):
    session, _ = engine()
    found = session.run(Lending(photographs(1)))
    assert dlpack.peek(found.__dlpack__(stream=-1, max_version=(1, 0), dl_device=(2, 0), copy=False)) == dlpack.CUDA
    for asked in ({"dl_device": (1, 0)}, {"copy": True}):
        with pytest.raises(BufferError, match="lent where they are"):
            found.__dlpack__(**asked)


def test_the_checker_sees_a_reader_that_does_not_wait(engine):
    session, _ = engine()
    found = session.run(Lending(photographs(1)), stream=gpu.create_stream())
    reading = gpu.create_stream()
    gpu.copy(found.address, found.address, 40, 3, reading)
    with pytest.raises(AssertionError, match="does not wait for the engine on another stream"):
        gpu.synchronise(reading)
    gpu.reset()


@pytest.mark.parametrize(("module", "release"), ENGINES)
def test_prepared_sizes_run_as_they_were_prepared(engine, graphs, module, release):
    session, reference = engine(module, release)
    images = photographs(2)
    session.prepare(images)
    before = len(gpu.copies)
    launches = gpu.launched
    for stream in (None, gpu.create_stream()):
        out = Lending(np.zeros((2, 10), np.float32))
        session.run(Lending(images), out, stream)
        if stream:
            gpu.synchronise(stream)
        assert_near(out.values(), reference(images))
    assert no_host_copies(before)
    assert gpu.launched - launches == (2 if module == "tensorrt" else 0)
    assert clean()


def test_shared_memory_is_not_needed_for_images_that_are_on_the_gpu(engine, monkeypatch):
    way = Way(mapped=True, graph=True)
    monkeypatch.setattr(sessions, "_faster", lambda times: way if way in times else Way())
    session, reference = engine(integrated=1)
    session.prepare(photographs(2))
    before = len(gpu.copies)
    assert_near(taken(session.run(Lending(photographs(2)))), reference(photographs(2)))
    assert len(gpu.copies) == before
    assert clean()


def test_many_images_run_in_pieces_and_few_are_filled_up(engine):
    session, reference = engine(options=EngineOptions(batch=(2, 4, 4)))
    images = photographs(9)
    assert_near(taken(session.run(Lending(images))), reference(images))
    assert no_host_copies()
    assert clean()


def test_what_tensorrt_cannot_take_where_it_lies_is_copied_on_the_device(engine):
    session, reference = engine()
    images = photographs(2)
    assert_near(taken(session.run(Lending(images, offset=64))), reference(images))
    assert [what for what, *_ in gpu.copies] == ["on device"] * 2
    assert clean()


def test_runs_on_different_streams_share_a_lane_in_turn(engine, graphs):
    session, reference = engine()
    images = photographs(6)
    session.prepare(images[:2])
    outs = [Lending(np.zeros((2, 10), np.float32)) for _ in range(3)]
    streams = [gpu.create_stream() for _ in outs]
    for index, (out, stream) in enumerate(zip(outs, streams, strict=True)):
        session.run(Lending(images[2 * index : 2 * index + 2]), out, stream)
    assert len(session._made) == 1
    assert_near(session.run(images[:3]), reference(images[:3]))  # from the host, on the same lane
    gpu.synchronise(streams[-1])
    assert_near(np.concatenate([out.values() for out in outs]), reference(images))
    assert clean()


def test_a_lane_from_before_the_preparing_is_made_ready_before_anything_is_queued(engine, graphs):
    session, reference = engine()
    images, stream = photographs(6), gpu.create_stream()
    with session._lane():
        session.run(images[:3])  # on a second lane
    with session._lane():
        for size in (4, 2):
            session.prepare(images[:size])
    assert sorted(len(lane._graphs) for lane in session._made) == [0, 2]
    out = Lending(np.zeros((6, 10), np.float32))
    session.run(Lending(images), out, stream)  # in pieces of 4 and 2, on the lane that was held meanwhile
    gpu.synchronise(stream)
    assert [len(lane._graphs) for lane in session._made] == [2, 2]
    assert_near(out.values(), reference(images))
    assert clean(), gpu.faults


def test_arrays_live_until_the_device_is_done_with_them(engine):
    session, reference = engine()
    stream, theirs, images = gpu.create_stream(), gpu.create_stream(), photographs(2)
    given, out = Lending(images, theirs), Lending(np.zeros((2, 10), np.float32))
    where = given.memory.start
    session.run(given, out, stream)
    del given
    gc.collect()
    gpu.synchronise(theirs)
    assert where in gpu.allocations
    gpu.synchronise(stream)
    assert_near(out.values(), reference(images))
    session.run(images)  # the next run lets go of what is done
    gc.collect()
    gpu.synchronise(theirs)
    assert where not in gpu.allocations
    assert clean()


def test_what_is_kept_does_not_grow_while_the_device_keeps_up(engine):
    session, _ = engine()
    stream, images = gpu.create_stream(), photographs(1)
    out = Lending(np.zeros((1, 10), np.float32), stream)
    for _ in range(20):
        session.run(Lending(images, stream), out, stream)
        while len(gpu.stream(stream).queue) > 8:  # always behind, but never far
            gpu._step(gpu.stream(stream))
    assert len(session._made[0]._flights._queued) < 6
    assert len(gpu.events) < 8
    gpu.synchronise(stream)
    assert clean()


def test_closing_waits_for_the_streams_of_callers(engine):
    session, reference = engine()
    stream, images = gpu.create_stream(), photographs(2)
    out = Lending(np.zeros((2, 10), np.float32), stream)
    session.run(Lending(images, stream), out, stream)
    session.close()
    assert_near(out.values(), reference(images))
    assert clean()


def test_memory_of_a_result_goes_with_its_last_user(engine):
    session, _ = engine()
    found = session.run(Lending(photographs(1)))
    where, lent = found.address, found.__dlpack__(stream=1)
    del found
    gc.collect()
    assert where in gpu.allocations
    del lent
    gc.collect()
    assert where not in gpu.allocations
    assert clean()


def test_an_empty_batch_gives_no_logits(engine):
    session, _ = engine()
    assert session.run(Lending(np.zeros((0, 32, 32, 3), np.uint8))).shape == (0, 10)
    assert clean()


class TorchLike:
    def __init__(self, handle):
        self.cuda_stream = handle


class PycudaLike:
    def __init__(self, handle):
        self.handle = handle


class CupyLike:
    def __init__(self, handle):
        self.ptr = handle


class Protocol:
    def __init__(self, handle):
        self._handle = handle

    def __cuda_stream__(self):
        return 0, self._handle


@pytest.mark.parametrize("wrapped", [int, TorchLike, PycudaLike, CupyLike, Protocol])
def test_streams_of_every_library_are_taken(engine, wrapped):
    session, reference = engine()
    stream, images = gpu.create_stream(), photographs(1)
    out = Lending(np.zeros((1, 10), np.float32))
    session.run(Lending(images), out, wrapped(stream))
    gpu.synchronise(stream)
    assert_near(out.values(), reference(images))
    with session.cuda.active():
        assert number(wrapped(0)) == 0  # the default stream
    assert clean()


def test_images_on_the_default_stream(engine):
    session, reference = engine()
    images, out = photographs(1), Lending(np.zeros((1, 10), np.float32))
    session.run(Lending(images, 0), out, 0)
    gpu.synchronise(0)
    assert_near(out.values(), reference(images))
    assert clean()


def test_a_capsule_is_taken_once(engine):
    session, reference = engine()
    images = photographs(2)
    array = Lending(images, 1)
    given = array.__dlpack__(stream=-1)
    assert_near(taken(session.run(given)), reference(images))
    with pytest.raises(DataError, match="this DLPack capsule was used already"):
        session.run(given)
    assert clean()


def test_an_array_whose_capsule_is_always_the_same_is_told(engine):
    session, _ = engine()
    array = Lending(photographs(1), 1)
    gpu.synchronise(1)
    once = array.__dlpack__(stream=-1)
    array.__class__ = type("Once", (Lending,), {"__dlpack__": lambda self, stream=None: once})
    session.run(array)
    with pytest.raises(DataError, match="used already"):
        session.run(array)


BAD = {
    "dtype": (lambda kind: kind(np.zeros((1, 32, 32, 3), np.float32)), "got float32"),
    "layout": (lambda kind: kind(np.zeros((1, 3, 32, 32), np.uint8)), r"got uint8 \(1, 3, 32, 32\)"),
    "gaps": (lambda kind: kind(np.zeros((2, 32, 32, 3), np.uint8), strides=(6144, 96, 3, 1)), "a view with gaps"),
    "order": (lambda kind: kind(np.zeros((1, 32, 32, 3), np.uint8), strides=(3072, 3, 96, 1)), "or another order"),
    "device": (lambda kind: kind(np.zeros((1, 32, 32, 3), np.uint8), device=1), "on GPU 1, and the engine is on GPU 0"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", BAD)
def test_images_that_do_not_fit_are_refused_with_what_to_do(engine, bad, kind):
    session, _ = engine(others=[{"name": "Second"}])
    make, message = BAD[bad]
    with pytest.raises(DataError, match=message) as caught:
        session.run(make(kind))
    assert caught.value.hint
    assert session.run(photographs(1)).shape == (1, 10)
    assert clean(), gpu.faults


def test_strides_of_dimensions_of_one_do_not_matter(engine):
    session, reference = engine()
    images = photographs(1)
    assert_near(taken(session.run(Lending(images, strides=(7, 96, 3, 1)))), reference(images))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (lambda: Lending(np.zeros((2, 10), np.float32)), r"out must be float32 \(1, 10\), and is float32 \(2, 10\)"),
        (lambda: Lending(np.zeros((1, 10), np.float64)), "and is float64"),
        (lambda: np.zeros((1, 10), np.float32), "out: ndarray is not on a GPU"),
        (lambda: Lending(np.zeros((1, 10), np.float32), device=1), "out: on GPU 1"),
        (lambda: 5, "out: int is not on a GPU"),
    ],
)
def test_an_out_that_does_not_fit_is_refused(engine, out, message):
    session, _ = engine(others=[{"name": "Second"}])
    with pytest.raises(DataError, match=message):
        session.run(Lending(photographs(1)), out())
    with pytest.raises(DataError, match="Lending is on a GPU, where neither"):
        session.run(photographs(1), Lending(np.zeros((1, 10), np.float32)))
    assert clean()


def test_an_out_that_is_read_only_is_refused(engine):
    session, _ = engine()

    class Frozen(Described):
        @property
        def __cuda_array_interface__(self):
            found = super().__cuda_array_interface__
            return {**found, "data": (found["data"][0], True)}

    assert session.run(Frozen(photographs(1))).shape == (1, 10)
    with pytest.raises(DataError, match="out is read-only"):
        session.run(Described(photographs(1)), Frozen(np.zeros((1, 10), np.float32)))


def test_streams_that_cannot_be_used_are_refused(engine):
    session, _ = engine(others=[{"name": "Second"}])
    dead = gpu.create_stream()
    gpu.destroy_stream(dead)
    gpu.stack.append(1)
    other = gpu.create_stream()
    gpu.stack.pop()
    for stream, message in (
        (dead, "Was it destroyed"),
        (other, "of another GPU"),
        ("first", "no CUDA stream"),
        (object(), "no CUDA stream"),
    ):
        with pytest.raises(RequestError, match=message) as caught:
            session.run(Lending(photographs(1)), stream=stream)
        assert caught.value.values == ("stream",)
    with pytest.raises(RequestError, match="the images are on the host"):
        session.run(photographs(1), stream=other)
    assert clean()


def test_a_stream_that_is_being_captured_is_refused_and_its_capture_goes_on(engine):
    session, reference = engine()
    stream, images = gpu.create_stream(), photographs(1)
    given, out = Lending(images, stream), Lending(np.zeros((1, 10), np.float32), stream)
    gpu.synchronise(stream)
    gpu.begin_capture(stream, 1)
    with pytest.raises(RequestError, match="is being captured into a CUDA graph") as caught:
        session.run(given, out, stream)
    assert caught.value.values == ("stream",)
    assert not gpu.stream(stream).broken
    assert gpu.stream(stream).captured == []
    gpu.destroy_graph(gpu.end_capture(stream))
    session.run(given, out, stream)
    gpu.synchronise(stream)
    assert_near(out.values(), reference(images))
    assert clean()


def test_memory_that_was_freed_is_told(engine):
    session, _ = engine()
    array = Described(photographs(1), 0)
    gpu.synchronise(0)
    gpu.free(array.memory.start)
    with pytest.raises(DataError, match="is no memory of a GPU"):
        session.run(array)


def test_a_library_that_does_not_lend_is_told(engine):
    session, _ = engine()

    class Refusing(Lending):
        def __dlpack__(self, *, stream=None):
            raise BufferError("Can't export tensors that require gradient")

    with pytest.raises(DataError, match="cannot read the Refusing: Can't export"):
        session.run(Refusing(photographs(1)))
    assert clean()


def test_a_capsule_of_something_else_is_refused(engine):
    session, _ = engine()
    given = capsule(0, (1, 32, 32, 3), np.uint8, (7, 0))  # Vulkan
    with pytest.raises(DataError, match="neither on the host nor on an NVIDIA GPU"):
        session.run(given)
