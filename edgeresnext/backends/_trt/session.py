"""Run an engine from several threads, each batch in the way that is the fastest for its size.

Written against TensorRT 8.6 to 11 and TensorRT-RTX by what each offers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends import cuda as cuda_library
from edgeresnext.backends._trt.lane import USUAL, Lane, Way
from edgeresnext.backends._trt.loaded_engine import LoadedEngine
from edgeresnext.backends.arrays import check, check_out
from edgeresnext.backends.base import Operation, Session
from edgeresnext.backends.cuda.exchange import IMAGES, OUT, Borrowed, DeviceArray, number
from edgeresnext.errors import BackendError
from edgeresnext.machine import gpu
from edgeresnext.spec import EngineOptions, ModelSpec

_LANES = 4
"""Threads that run at once, at most; each has a lane of its own, made when it is first needed."""

_TIMED_RUNS = 15


class EngineSession(Session):
    """A deserialised engine with a pool of lanes: streams, buffers and execution contexts.

    Args:
        module: `tensorrt` or `tensorrt_rtx`.
        file: The plan; its digest, header and compute capability have been checked.
        model: The network that it holds.
        options: How it was built, where that is known.
        content: The plan's bytes, where they have been read.

    Raises:
        NotInstalledError: CUDA does not start.
        BackendError: TensorRT refuses the plan, or memory is short.
    """

    largest: int
    takes_gpu_arrays = True

    def __init__(
        self,
        module: str,
        file: Path,
        model: ModelSpec,
        options: EngineOptions | None = None,
        content: bytes | None = None,
    ) -> None:
        super().__init__(model)
        device = gpu.detect()
        self.cuda = cuda_library.connect()
        self._integrated = device is not None and device.integrated
        self._changed = threading.Condition()  # of the five below
        self._idle: list[Lane] = []
        self._made: list[Lane] = []
        self._making = 0
        self._most = _LANES
        self._closed = False
        self._one_at_a_time = threading.Lock()  # TensorRT does not promise that contexts may be made side by side
        self._ways: dict[int, Way] = {}
        with self.cuda.active(), ExitStack() as undo:
            self._loaded = LoadedEngine(module, file, model, options or EngineOptions(), content)
            undo.callback(self._loaded.close)
            self._made.append(self._new_lane())
            undo.pop_all()
        self._idle += self._made
        self.smallest, self.largest = self._loaded.smallest, self._loaded.largest

    def _new_lane(self) -> Lane:
        """Return a lane on which everything that was prepared is ready: it stalls nobody but the thread that asks."""
        with self._one_at_a_time, self.cuda.active():
            lane = Lane(self._loaded, self.cuda, self.model)
            try:
                for batch, way in list(self._ways.items()):
                    lane.prepare(batch, way)
            except BaseException:
                lane.close()
                raise
        return lane

    @contextmanager
    def _lane(self) -> Iterator[Lane]:
        """Lend a lane: an idle one, a new one while there are few, else the next to be free."""
        lane = self._take()
        try:
            yield lane
        finally:
            with self._changed:
                self._idle.append(lane)
                self._changed.notify_all()

    def _take(self) -> Lane:
        while True:
            with self._changed:
                while not self._idle and not self._closed and len(self._made) + self._making >= self._most:
                    self._changed.wait()
                if self._closed:
                    raise self.closed()
                if self._idle:
                    return self._idle.pop()
                self._making += 1
            try:
                self._add()
            except BackendError:  # memory is short: share what there is
                with self._changed:
                    self._most = len(self._made)

    def _add(self) -> None:
        """Make a lane, while others go on, and put it with the idle ones."""
        try:
            lane = self._new_lane()
            with self._changed:
                self._made.append(lane)
                self._idle.append(lane)
        finally:
            with self._changed:
                self._making -= 1
                self._changed.notify_all()

    def _pieces(self, images: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.uint8], int]]:
        """Cut images into what the profile allows, and say for each piece which batch it is filled up to."""
        for start in range(0, len(images), self.largest):
            piece = images[start : start + self.largest]
            yield piece, max(len(piece), self.smallest)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._lane() as lane, self.cuda.active():
            parts = [lane.run(piece, self._ways.get(batch)) for piece, batch in self._pieces(images)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run_on_gpu(self, images: Any, out: Any, stream: Any) -> Any:
        with self._lane() as lane, self.cuda.active():
            theirs = lane.number if stream is None else number(stream)
            given = Borrowed(images, theirs, self.cuda, IMAGES)
            check(given.dtype, given.shape, self._image_shape)
            count = given.shape[0]
            shape = (count, self.model.classes)
            if out is None:
                logits: Any = DeviceArray(shape, self.cuda, None if stream is None else theirs)
            else:
                logits = Borrowed(out, theirs, self.cuda, OUT)
                check_out(logits.dtype, logits.shape, shape)
            starts = range(0, count, self.largest)
            pieces = [(start, min(self.largest, count - start)) for start in starts]
            ways = [self._ways.get(max(size, self.smallest)) for _, size in pieces]
            for (_, size), way in zip(pieces, ways, strict=True):
                if way is not None:  # before anything is queued: it runs on the lane's own stream
                    lane.prepare(max(size, self.smallest), way)
            lane.after(theirs)
            try:
                for (start, size), way in zip(pieces, ways, strict=True):
                    address = given.address + start * lane.image_bytes
                    lane.run_on_gpu(address, logits.address + start * lane.logits_bytes, size, way, theirs)
            finally:  # what was queued before an error still uses both
                if stream is None:
                    lane.wait()
                else:
                    lane.depart(theirs, (given, logits))
        return logits if out is None else out

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """Choose the fastest way to run batches of this size, with an execution context of its own, and warm up.

        Tried where they exist: a CUDA graph (TensorRT-RTX makes its own), and on a device that shares the machine's
        memory no copies. The ways are timed in turn, and the smallest median decides.
        """
        self.run(images)
        for batch, piece in {batch: piece for piece, batch in self._pieces(images)}.items():
            self._prepare(piece, batch)
        if self._loaded.captures_graphs:
            with self.cuda.active():
                self._loaded.cache.save()

    def _prepare(self, images: NDArray[np.uint8], batch: int) -> None:
        mapped = (False, True) if self._integrated else (False,)
        graphs = (False, True) if self.cuda.graphs and not self._loaded.captures_graphs else (False,)
        with self._lane() as lane, self.cuda.active():
            lane.prepare(batch, USUAL)
            times, failed = _time(lane, images, [Way(*way) for way in product(mapped, graphs)])
            way = self._ways[batch] = _faster(times)
            lane.keep(batch, way)
        kind = "built-in CUDA graph" if self._loaded.captures_graphs else f"no CUDA graph{failed}"
        self.detail = f"CUDA graph of {batch}" if way.graph else kind
        self.detail += ", no copies" if way.mapped else ""

    def compute_s(self, images: NDArray[np.uint8]) -> float:
        """Return the seconds that the device took for one batch as it is served, without copies, by its own clock."""
        seconds = 0.0
        with self._lane() as lane, self.cuda.active():
            for piece, batch in self._pieces(images):
                way = self._ways.get(batch)
                lane.run(piece, way)
                seconds += lane.compute_s(batch, way)
        return seconds

    def profile(self, images: NDArray[np.uint8], runs: int) -> tuple[Operation, ...]:
        """Return what each layer of the engine took, measured by TensorRT; layers have the engine's own names."""
        trt: Any = self._loaded.trt
        seconds: dict[str, list[float]] = {}

        class Listener(trt.IProfiler):
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                seconds.setdefault(layer_name, []).append(ms / 1e3)

        with self._lane() as lane, self.cuda.active():
            lane.profile(images[: self.largest], Listener(), runs)
        return tuple(Operation(name=name, kind="", seconds=median(taken)) for name, taken in seconds.items())

    def close(self) -> None:
        """Wait for running batches and free device memory."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()  # who waits for a context gets an error
            while self._making or len(self._idle) < len(self._made):
                self._changed.wait()
            lanes = self._idle[:]
        with suppress(BackendError), self.cuda.active():  # a GPU that has failed frees nothing more
            self._loaded.cache.save()
            for lane in lanes:
                with suppress(BackendError):
                    lane.close()
            self._loaded.close()


def _time(lane: Lane, images: NDArray[np.uint8], ways: Iterable[Way]) -> tuple[dict[Way, list[float]], str]:
    """Run images in each way in turn; seconds of each that works, and why one does not."""
    times: dict[Way, list[float]] = {way: [] for way in ways}
    failed = ""
    for turn in range(1 + (_TIMED_RUNS if len(times) > 1 else 1)):
        for way in list(times):
            start = time.perf_counter()
            try:
                lane.run(images, way)
            except BackendError as error:
                if way == USUAL:
                    raise
                failed = f": {error.what}" if way.graph else failed
                del times[way]
                continue
            if turn:  # the first makes the context, and captures
                times[way].append(time.perf_counter() - start)
    return times, failed


def _faster(times: Mapping[Way, Sequence[float]]) -> Way:
    """Return the way with the smallest median."""
    return min(times, key=lambda way: median(times[way]))
