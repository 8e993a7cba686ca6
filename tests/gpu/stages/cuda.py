"""The CUDA layer without TensorRT, by each library: memory, streams, events, graphs, threads, beside PyTorch."""

import os
import threading
import time
from contextlib import contextmanager

from gpu.check import Skipped, check

LIBRARIES = ("libcuda", "cuda-python", "pycuda")
SIZE = 1 << 20


@contextmanager
def connected(library):
    """CUDA by one library, with the GPU's context current."""
    from edgeresnext.backends import cuda
    from edgeresnext.extras import installed

    package = next(package for package, one in cuda.LIBRARIES.items() if one.name == library)
    if not installed(package):
        raise Skipped(f"{library} is not installed")
    os.environ[cuda.VARIABLE] = library
    found = cuda.connect()
    assert found.name == library
    with found.active():
        yield found


class Buffers:
    """Page-locked memory for both ways, memory on the device, and a stream."""

    def __init__(self, cuda, size=SIZE):
        self.cuda, self.size = cuda, size
        self.stream, self.device = cuda.stream(), cuda.allocate(size)
        self.source, self.target = cuda.pinned(size), cuda.pinned(size)

    def queue(self):
        self.cuda.to_device(self.device, self.source, self.stream)
        self.cuda.to_host(self.target, self.device, self.stream)

    def round_trip(self, seed, queue=None):
        """Send bytes there and back, and compare."""
        import numpy as np

        self.source[:] = np.random.default_rng(seed).integers(0, 256, self.size, dtype=np.uint8)
        self.target[:] = 0
        (queue or self.queue)()
        self.cuda.synchronize(self.stream)
        assert (self.target == self.source).all(), f"{(self.target != self.source).sum()} bytes of {self.size} differ"

    def close(self):
        self.cuda.synchronize(self.stream)
        self.cuda.free(self.device)
        for memory in (self.source, self.target):
            self.cuda.unpin(memory)
        self.cuda.release_stream(self.stream)
        del self.device, self.stream, self.source, self.target


@check(60, *LIBRARIES)
def pinned_round_trip(work, library):
    """Bytes go to the device and back through page-locked memory, and how fast."""
    with connected(library) as cuda:
        free, total = cuda.memory()
        assert 0 < free <= total
        buffers = Buffers(cuda, 64 * SIZE if work.scale >= 1 else SIZE)
        buffers.round_trip(0)
        start = time.perf_counter()
        for _ in range(work.times(20)):
            buffers.queue()
        cuda.synchronize(buffers.stream)
        seconds = (time.perf_counter() - start) / work.times(20)
        found = {"gib_per_s_both_ways": 2 * buffers.size / 2**30 / seconds}
        buffers.close()
    return found


@check(60, *LIBRARIES)
def mapped_round_trip(work, library):
    """The device reads page-locked memory where it lies."""
    with connected(library) as cuda:
        buffers = Buffers(cuda)
        address = cuda.mapped(buffers.source)
        buffers.round_trip(1, lambda: cuda.to_host(buffers.target, address, buffers.stream))
        found = {"same_address": address == buffers.source.ctypes.data}
        buffers.close()
    return found


@check(60, *LIBRARIES)
def events(work, library):
    """Events time what lies between them, within what the host saw."""
    with connected(library) as cuda:
        buffers, start, end = Buffers(cuda), cuda.event(), cuda.event()
        buffers.round_trip(2)
        began = time.perf_counter()
        cuda.record(start, buffers.stream)
        for _ in range(work.times(50)):
            buffers.queue()
        cuda.record(end, buffers.stream)
        cuda.synchronize(buffers.stream)
        wall_s, device_s = time.perf_counter() - began, cuda.seconds_between(start, end)
        assert device_s > 0
        assert work.scale < 1 or device_s <= wall_s * 1.05, (device_s, wall_s)
        for event in (start, end):
            cuda.release_event(event)
        buffers.close()
    return {"device_s": device_s, "wall_s": wall_s}


@check(60, *LIBRARIES)
def graph_of_copies(work, library):
    """A graph of copies, captured once, copies what is there when it is launched."""
    with connected(library) as cuda:
        if not cuda.graphs:
            raise Skipped(f"{library} captures no graphs")
        buffers = Buffers(cuda)
        buffers.round_trip(3)
        graph = cuda.capture(buffers.stream, buffers.queue)
        for seed in range(work.times(20)):
            buffers.round_trip(seed, lambda: cuda.launch(graph, buffers.stream))
        cuda.release_graph(graph)
        buffers.close()


@check(60, *LIBRARIES)
def broken_capture(work, library):
    """After a capture that failed in its midst the stream copies, and can be captured."""
    with connected(library) as cuda:
        if not cuda.graphs:
            raise Skipped(f"{library} captures no graphs")
        buffers, said = Buffers(cuda), []

        def broken():
            buffers.queue()
            cuda.synchronize(buffers.stream)  # forbidden while the stream is captured

        for seed in range(3):
            try:
                cuda.capture(buffers.stream, broken)
            except Exception as error:  # noqa: BLE001 - the library's own
                said.append(f"{type(error).__name__}: {error}")
            buffers.round_trip(seed)
        assert len(said) == 3, "the forbidden call was allowed"
        graph = cuda.capture(buffers.stream, buffers.queue)
        buffers.round_trip(9, lambda: cuda.launch(graph, buffers.stream))
        cuda.release_graph(graph)
        buffers.close()
    return {"said": said[0].splitlines()[0]}


@check(120, *LIBRARIES)
def threads(work, library):
    """Four threads, each with a stream, copy and capture at once."""
    failures = []

    def run(seed):
        try:
            with connected(library) as cuda:
                buffers = Buffers(cuda, SIZE // 4)
                for turn in range(work.times(100)):
                    buffers.round_trip(1000 * seed + turn)
                if cuda.graphs:
                    graph = cuda.capture(buffers.stream, buffers.queue)
                    for turn in range(work.times(100)):
                        buffers.round_trip(turn, lambda: cuda.launch(graph, buffers.stream))
                    cuda.release_graph(graph)
                buffers.close()
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            failures.append(error)

    workers = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


@check(120, *LIBRARIES)
def memory_comes_back(work, library):
    """Buffers that are made and freed many times leave nothing on the device."""
    with connected(library) as cuda:
        Buffers(cuda).close()
        before, _ = cuda.memory()
        for seed in range(work.times(200)):
            buffers = Buffers(cuda)
            buffers.round_trip(seed)
            buffers.close()
        after, _ = cuda.memory()
        assert before - after < 16 << 20, f"{(before - after) / 2**20:.0f} MiB are gone"
    return {"lost_bytes": before - after}


@check(60, *LIBRARIES)
def too_much_memory(work, library):
    """What cannot be had is an error that says how much is free, and the next allocation works."""
    from edgeresnext.errors import BackendError

    with connected(library) as cuda:
        try:
            cuda.allocate(1 << 50)
        except BackendError as error:
            said = error.what
        else:
            raise AssertionError("a pebibyte was given")
        assert "are free" in said
        buffers = Buffers(cuda)
        buffers.round_trip(4)
        buffers.close()
    return {"said": said}


@check(120, *LIBRARIES)
def beside_torch(work, library):
    """PyTorch's memory is readable in the same context, and PyTorch goes on afterwards."""
    try:
        import torch
    except ImportError:
        raise Skipped("PyTorch is not installed") from None
    if not torch.cuda.is_available():
        raise Skipped("this PyTorch has no CUDA")
    tensor = torch.arange(SIZE, device="cuda", dtype=torch.uint8)
    torch.cuda.synchronize()
    with connected(library) as cuda:
        buffers = Buffers(cuda)
        buffers.source[:] = tensor.cpu().numpy()
        cuda.to_host(buffers.target, tensor.data_ptr(), buffers.stream)
        cuda.synchronize(buffers.stream)
        assert (buffers.target == buffers.source).all()
        buffers.close()
    assert int((tensor.long() * 2).sum()) == 2 * int(tensor.long().sum())
