"""Run an engine from several threads, and as a CUDA graph where that is faster.

Written against TensorRT 8.6 to 11 and TensorRT-RTX by what each offers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends import cuda as cuda_library
from edgeresnext.backends._trt.context import Context
from edgeresnext.backends._trt.loaded_engine import LoadedEngine
from edgeresnext.backends.base import Operation, Session
from edgeresnext.errors import BackendError
from edgeresnext.spec import EngineOptions, ModelSpec

_CONTEXTS = 4
"""Threads that run at once, at most; each has its own context, stream and buffers, made when it is first needed."""

_TIMED_RUNS = 15


class EngineSession(Session):
    """A deserialised engine with a pool of execution contexts.

    Args:
        module: `tensorrt` or `tensorrt_rtx`.
        file: The plan; its digest, header and compute capability have been checked.
        model: The network that it holds.
        options: How it was built, where that is known.
        content: The plan's bytes, where they have been read.

    Raises:
        BackendError: TensorRT refuses the plan, or memory is short.
    """

    largest: int

    def __init__(
        self,
        module: str,
        file: Path,
        model: ModelSpec,
        options: EngineOptions | None = None,
        content: bytes | None = None,
    ) -> None:
        super().__init__(model)
        self.cuda = cuda_library.connect()
        self._changed = threading.Condition()  # of the three below
        self._idle: list[Context] = []
        self._made: list[Context] = []
        self._most = _CONTEXTS
        self._graph_batch: int | None = None
        self._closed = False
        with ExitStack() as undo:
            undo.callback(self.cuda.close)
            with self.cuda.active():
                self._loaded = LoadedEngine(module, file, model, options or EngineOptions(), content)
                undo.callback(self._loaded.close)
                self._idle.append(self._new_context())
            undo.pop_all()
        self.smallest, self.largest = self._loaded.smallest, self._loaded.largest

    def _new_context(self) -> Context:
        with self.cuda.active():
            context = Context(self._loaded, self.cuda, self.model)
        self._made.append(context)
        return context

    @contextmanager
    def _context(self) -> Iterator[Context]:
        """Lend a context: an idle one, a new one while there are few, else the next to be free."""
        context = self._take()
        try:
            yield context
        finally:
            with self._changed:
                self._idle.append(context)
                self._changed.notify()

    def _take(self) -> Context:
        with self._changed:
            while True:
                if self._closed:
                    raise self.closed()
                if self._idle:
                    return self._idle.pop()
                if len(self._made) < self._most:
                    try:
                        return self._new_context()
                    except BackendError:
                        if not self._made:
                            raise
                        self._most = len(self._made)  # memory is short: share what there is
                self._changed.wait()

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        starts = range(0, len(images), self.largest)
        with self._context() as context, self.cuda.active():
            parts = [context.run(images[start : start + self.largest], self._graph_batch) for start in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """Warm up, and run batches of this size as a CUDA graph where that is faster.

        TensorRT-RTX captures graphs by itself. Both ways are timed in turn, and the smaller median decides.
        """
        self.run(images)
        size = len(images)
        if self._loaded.captures_graphs:
            self.detail = "built-in CUDA graph"
            with self.cuda.active():
                self._loaded.cache.save()
            return
        if not self.cuda.graphs or not self.smallest <= size <= self.largest:
            self.detail = "no CUDA graph"
            return
        times: dict[int | None, list[float]] = {None: [], size: []}
        try:
            for turn in range(_TIMED_RUNS + 1):
                for way, samples in times.items():
                    self._graph_batch = way
                    start = time.perf_counter()
                    self.run(images)
                    if turn:  # the first captures
                        samples.append(time.perf_counter() - start)
        except BackendError as error:
            self._graph_batch = None
            self.run(images)  # if that fails too, it was not the graph
            self.detail = f"no CUDA graph: {error.what}"
            return
        self._graph_batch = _faster(times)
        self.detail = "no CUDA graph" if self._graph_batch is None else f"CUDA graph of {size}"

    def compute_s(self, images: NDArray[np.uint8]) -> float:
        """Return the seconds that the device took for one batch, without the copies, by its own clock."""
        seconds = 0.0
        with self._context() as context, self.cuda.active():
            for start in range(0, len(images), self.largest):
                context.run(images[start : start + self.largest], None)
                seconds += context.compute_s()
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

        self.run(images)
        with self._context() as context, self.cuda.active():
            for _ in range(runs):
                context.profile(images[: self.largest], Listener())
        return tuple(Operation(name=name, kind="", seconds=median(taken)) for name, taken in seconds.items())

    def close(self) -> None:
        """Wait for running batches and free device memory."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()  # who waits for a context gets an error
            while len(self._idle) < len(self._made):
                self._changed.wait()
            contexts = self._idle[:]
        with suppress(BackendError), self.cuda.active():  # a GPU that has failed frees nothing more
            self._loaded.cache.save()
            for context in contexts:
                with suppress(BackendError):
                    context.close()
            self._loaded.close()
        with suppress(BackendError):
            self.cuda.close()


def _faster(times: Mapping[int | None, Sequence[float]]) -> int | None:
    """Return the way with the smaller median."""
    return min(times, key=lambda way: median(times[way]))
