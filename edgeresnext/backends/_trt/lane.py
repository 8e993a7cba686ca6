"""What one thread at a time runs an engine on: a stream, page-locked buffers that are used again, execution contexts.

Images go to the device as they are, in uint8; logits come back in float32; one wait a batch.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends._trt.execution import Execution
from edgeresnext.backends._trt.loaded_engine import LoadedEngine
from edgeresnext.backends.cuda.api import Cuda
from edgeresnext.backends.cuda.exchange import Flights
from edgeresnext.backends.nvtx_ranges import nvtx_range
from edgeresnext.errors import BackendError
from edgeresnext.machine import libcuda
from edgeresnext.spec import ModelSpec


class Way(NamedTuple):
    """How a batch is run.

    Args:
        mapped: The engine reads and writes page-locked memory where it lies, instead of copies on the device.
        graph: The engine is launched as a CUDA graph, in one call instead of one for each layer.
    """

    mapped: bool = False
    graph: bool = False


USUAL = Way()

_ALIGNMENT = 256
"""Bytes to which an address that TensorRT is given must be aligned (setTensorAddress, NvInferRuntime.h)."""


class Lane:
    """A stream with buffers and execution contexts; used by one thread at a time.

    Args:
        loaded: The engine.
        cuda: Active while the lane is made, and for every call.
        model: The network that the engine holds.

    Attributes:
        number: Of its stream.
        image_bytes: Of one image.
        logits_bytes: Of one image's logits.

    Raises:
        BackendError: Memory is short, or TensorRT refuses a context.
    """

    def __init__(self, loaded: LoadedEngine, cuda: Cuda, model: ModelSpec) -> None:
        self._loaded = loaded
        self._cuda = cuda
        self._model = model
        self.image_bytes = model.in_channels * math.prod(model.preprocess.size)
        self.logits_bytes = model.classes * np.dtype(np.float32).itemsize
        self._own: dict[tuple[int, Way], Execution] = {}
        self._graphs: dict[tuple[int, Way], Any] = {}
        self._flights = Flights()
        largest = loaded.largest
        with ExitStack() as undo:
            self._stream = cuda.stream()
            undo.callback(cuda.release_stream, self._stream)
            self.number = cuda.handle(self._stream)
            self._scratch = cuda.allocate(max(1, loaded.scratch_bytes))
            undo.callback(cuda.free, self._scratch)
            self._device_images = cuda.allocate(largest * self.image_bytes)
            undo.callback(cuda.free, self._device_images)
            self._device_logits = cuda.allocate(largest * self.logits_bytes)
            undo.callback(cuda.free, self._device_logits)
            self._images = cuda.pinned(largest * self.image_bytes)
            undo.callback(cuda.unpin, self._images)
            self._logits = cuda.pinned(largest * self.logits_bytes)
            undo.callback(cuda.unpin, self._logits)
            self._any = self._execution()
            self._free = undo.pop_all()

    def _execution(self, *, graphs: bool = True) -> Execution:
        return Execution(self._loaded, self._cuda, self._model, self._scratch, self._stream, graphs=graphs)

    def run(self, images: NDArray[np.uint8], way: Way | None) -> NDArray[np.float32]:
        """Run one batch that the profile allows; a smaller one than its smallest is filled up and cut again.

        Args:
            images: uint8 `(n, H, W, 3)`.
            way: How batches of this size run, each in a context of its own; None for a size that nobody prepared.
        """
        count = len(images)
        batch = max(count, self._loaded.smallest)
        copied = way is None or not way.mapped
        self._flights.order(self.number)
        self._images[: count * self.image_bytes] = images.reshape(-1)
        try:
            if copied:
                with nvtx_range("copy in"):
                    self._cuda.to_device(self._device_images, self._images[: batch * self.image_bytes], self._stream)
            self._execute(batch, way, self.number)
            if copied:
                with nvtx_range("copy out"):
                    self._cuda.to_host(self._logits[: batch * self.logits_bytes], self._device_logits, self._stream)
        finally:  # what was queued before an error still reads the buffers
            self.wait()
        logits: NDArray[np.float32] = self._logits.view(np.float32)[: count * self._model.classes]
        found: NDArray[np.float32] = logits.reshape(count, self._model.classes).copy()
        return found

    def run_on_gpu(self, images: int, logits: int, count: int, way: Way | None, stream: int) -> None:
        """Queue one batch that lies on the GPU, and wait for nothing.

        Where the batch would run as a graph, which holds the addresses of this lane's memory, or where TensorRT cannot
        take it as it lies, it is copied on the device: microseconds, and no host is involved.

        Args:
            images: Address of the first image.
            logits: Address where the first logit goes.
            count: Images.
            way: As for `run`.
            stream: The number of the stream to work on; `after` has been called for it.
        """
        batch = max(count, self._loaded.smallest)
        kept = way if way is not None and not way.mapped and (way.graph or self._loaded.captures_graphs) else None
        if kept is None and count == batch and not images % _ALIGNMENT and not logits % _ALIGNMENT:
            self._any.bind(batch, images, logits)
            with nvtx_range("enqueue"):
                self._any.enqueue(stream)
            return
        copy = libcuda.load().call
        copy("cuMemcpyDtoDAsync", int(self._device_images), images, count * self.image_bytes, stream)
        self._execute(batch, kept, stream)
        copy("cuMemcpyDtoDAsync", logits, int(self._device_logits), count * self.logits_bytes, stream)

    def after(self, stream: int) -> None:
        """Let a stream wait for what this lane has still to do on others."""
        self._flights.order(stream)

    def depart(self, stream: int, kept: object) -> None:
        """Leave what is queued on a stream to its owner; `kept` lives until it is done."""
        self._flights.add(stream, kept)

    def wait(self) -> None:
        """Wait for what is queued on this lane's own stream."""
        with nvtx_range("wait"):
            self._cuda.synchronize(self._stream)

    def _execute(self, batch: int, way: Way | None, stream: int) -> None:
        """Queue the engine alone on a stream, given by its number."""
        if way is None:
            self._bind(self._any, batch, USUAL)
        else:
            self.prepare(batch, way)
        with nvtx_range("enqueue"):
            if way is None:
                self._any.enqueue(stream)
            elif way.graph:
                self._cuda.launch(self._graphs[batch, way], stream)
            else:
                self._own[batch, way].enqueue(stream)

    def _bind(self, execution: Execution, batch: int, way: Way) -> None:
        if way.mapped:
            execution.bind(batch, self._cuda.mapped(self._images), self._cuda.mapped(self._logits))
        else:
            execution.bind(batch, int(self._device_images), int(self._device_logits))

    def prepare(self, batch: int, way: Way) -> None:
        """Make the context in which batches of one size run in one way, and its graph, unless they are there.

        Raises:
            BackendError: It cannot be had, or TensorRT's work cannot be captured.
        """
        if (batch, way) in self._own:
            return
        self._flights.order(self.number)
        execution = self._execution()
        try:
            self._bind(execution, batch, way)
            if way.graph:
                self._graphs[batch, way] = self._capture(execution)
        except BaseException:
            execution.close()
            raise
        self._own[batch, way] = execution

    def _capture(self, execution: Execution) -> Any:
        execution.enqueue(self.number)  # TensorRT wants one run at a size before it is captured
        self._cuda.synchronize(self._stream)
        try:
            return self._cuda.capture(self._stream, lambda: execution.enqueue(self.number))
        except BackendError:
            # The CUDA runtime inside TensorRT may keep the error, and give it to the next call (trtexec clears it).
            with suppress(BackendError):
                execution.enqueue(self.number)
            self._cuda.synchronize(self._stream)
            raise

    def keep(self, batch: int, way: Way) -> None:
        """Let go of all other ways to run batches of this size."""
        for key in [key for key in self._own if key[0] == batch and key[1] != way]:
            self._drop(key)

    def _drop(self, key: tuple[int, Way]) -> None:
        graph = self._graphs.pop(key, None)
        if graph is not None:
            self._cuda.release_graph(graph)
        self._own.pop(key).close()

    def compute_s(self, batch: int, way: Way | None) -> float:
        """Run the batch that was run last once more, as it is served but for the copies, between two events."""
        start, end = self._cuda.event(), self._cuda.event()
        try:
            self._cuda.record(start, self._stream)
            self._execute(batch, way, self.number)
            self._cuda.record(end, self._stream)
            self._cuda.synchronize(self._stream)
            return self._cuda.seconds_between(start, end)
        finally:
            self._cuda.release_event(start)
            self._cuda.release_event(end)

    def profile(self, images: NDArray[np.uint8], profiler: Any, runs: int) -> None:
        """Run one batch several times with a profiler, in a context without graphs: these need not tell of layers."""
        usual, self._any = self._any, self._execution(graphs=False)
        try:
            self.run(images, None)
            self._any.context.profiler = profiler
            for _ in range(runs):
                self.run(images, None)
            self._any.context.profiler = None
        finally:
            self._any.close()
            self._any = usual

    def close(self) -> None:
        """Free everything; contexts and graphs go before the memory that they point to."""
        with suppress(BackendError):  # a GPU that has failed frees nothing more
            self._flights.finish()
            self._cuda.synchronize(self._stream)
            for key in list(self._own):
                self._drop(key)
        self._own.clear()
        self._any.close()
        del self._images, self._logits
        self._free.close()
        del self._stream, self._device_images, self._device_logits, self._scratch
