"""An execution context with its page-locked buffers, which are used again, and one stream: one wait a batch.

Images go to the device as they are, in uint8; logits come back in float32.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends._trt.loaded_engine import LoadedEngine
from edgeresnext.backends.cuda.api import Cuda
from edgeresnext.errors import BackendError
from edgeresnext.spec import ModelSpec

_MIB = 2**20


class Context:
    """An execution context with its stream and buffers; used by one thread at a time.

    Args:
        loaded: The engine.
        cuda: Active while the context is made, and for every call.
        model: The network that the engine holds.

    Raises:
        BackendError: Memory is short, or TensorRT refuses a context.
    """

    def __init__(self, loaded: LoadedEngine, cuda: Cuda, model: ModelSpec) -> None:
        self._loaded = loaded
        self._cuda = cuda
        self._model = model
        largest = loaded.largest
        self._image_bytes = model.in_channels * math.prod(model.preprocess.size)
        self._classes = model.classes
        self._batch = 0
        self._graph: tuple[int, Any] | None = None
        logits_bytes = model.classes * np.dtype(np.float32).itemsize
        with ExitStack() as undo:
            self.context = self._create_context()
            self._stream = self._cuda.stream()
            self._handle = self._cuda.handle(self._stream)
            undo.callback(self._cuda.release, self._stream)
            self._choose_profile()
            self._device_images = self._cuda.allocate(largest * self._image_bytes)
            undo.callback(self._cuda.free, self._device_images)
            self._device_logits = self._cuda.allocate(largest * logits_bytes)
            undo.callback(self._cuda.free, self._device_logits)
            self._images = self._cuda.pinned(largest * self._image_bytes)
            undo.callback(self._cuda.unpin, self._images)
            self._logits = self._cuda.pinned(largest * logits_bytes)
            undo.callback(self._cuda.unpin, self._logits)
            addresses = {model.input.name: self._device_images, model.output.name: self._device_logits}
            for name, memory in addresses.items():
                if not self.context.set_tensor_address(name, int(memory)):
                    raise self._loaded.failure(f"TensorRT refuses the address of {name}")
            self._free = undo.pop_all()

    def _create_context(self) -> Any:
        """Create an execution context, with TensorRT-RTX's own CUDA graphs and its runtime cache where it has them."""
        engine, trt = self._loaded.engine, self._loaded.trt
        if self._loaded.captures_graphs:
            config = engine.create_runtime_config()
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._loaded.cache.use(config)
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context()
        if context is None:
            free, total = self._cuda.memory()
            size = "device_memory_size_v2" if hasattr(engine, "device_memory_size_v2") else "device_memory_size"
            needed = int(getattr(engine, size, 0))
            raise self._loaded.failure(
                f"no execution context: it needs {needed / _MIB:,.0f} MiB, and of the GPU's {total / _MIB:,.0f} MiB "
                f"{free / _MIB:,.0f} are free",
                "Close other programs on the GPU, or build with a smaller batch.",
                values=("batch",),
            )
        return context

    def _choose_profile(self) -> None:
        """Choose the one profile where TensorRT has not: up to TensorRT 8 only the first context gets it unasked."""
        if self.context.active_optimization_profile >= 0:
            return
        if not self.context.set_optimization_profile_async(0, self._handle):
            raise self._loaded.failure("TensorRT refuses the batch profile to another context")
        self._cuda.synchronize(self._stream)

    def run(self, images: NDArray[np.uint8], graph_batch: int | None) -> NDArray[np.float32]:
        """Run one batch that the profile allows; a smaller one than its smallest is filled up and cut again."""
        count = len(images)
        batch = max(count, self._loaded.smallest)
        self._images[: count * self._image_bytes] = images.reshape(-1)
        try:
            if batch != self._batch:
                self._set_batch(batch)
            if batch == graph_batch:
                self._launch(batch)
            else:
                self._enqueue(batch)
        finally:  # what was queued before an error still reads the buffers
            self._cuda.synchronize(self._stream)
        logits: NDArray[np.float32] = self._logits.view(np.float32)[: count * self._classes]
        found: NDArray[np.float32] = logits.reshape(count, self._classes).copy()
        return found

    def _set_batch(self, batch: int) -> None:
        image = self._model.input
        if not self.context.set_input_shape(image.name, (batch, *image.shape[1:])):
            raise self._loaded.failure(f"TensorRT refuses a batch of {batch}")
        self._batch = batch
        self._drop_graph()  # it was captured for the shapes that the context had before

    def _enqueue(self, batch: int) -> None:
        """Queue the copy in, the engine and the copy out."""
        images = self._images[: batch * self._image_bytes]
        logits = self._logits[: batch * self._classes * 4]
        self._cuda.to_device(self._device_images, images, self._stream)
        if not self.context.execute_async_v3(self._handle):
            raise self._loaded.failure(f"TensorRT failed on a batch of {batch}")
        self._cuda.to_host(logits, self._device_logits, self._stream)

    def _launch(self, batch: int) -> None:
        """Queue the same as one CUDA graph, captured when this size first comes."""
        if self._graph is None or self._graph[0] != batch:
            self._drop_graph()
            self._enqueue(batch)  # TensorRT wants one run at a size before it is captured
            self._cuda.synchronize(self._stream)
            self._graph = (batch, self._cuda.capture(self._stream, lambda: self._enqueue(batch)))
        self._cuda.launch(self._graph[1], self._stream)

    def compute_s(self) -> float:
        """Run the batch that is on the device once more, between two events."""
        start, end = self._cuda.event(), self._cuda.event()
        try:
            self._cuda.record(start, self._stream)
            if not self.context.execute_async_v3(self._handle):
                raise self._loaded.failure("TensorRT failed on the batch that is on the device")
            self._cuda.record(end, self._stream)
            self._cuda.synchronize(self._stream)
            return self._cuda.seconds_between(start, end)
        finally:
            self._cuda.release(start, end)

    def profile(self, images: NDArray[np.uint8], profiler: Any) -> None:
        """Run one batch with a profiler attached."""
        self.context.profiler = profiler
        try:
            self.run(images, None)
        finally:
            self.context.profiler = None

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._cuda.release(self._graph[1])
            self._graph = None

    def close(self) -> None:
        """Free everything; the context goes before the memory that it points to."""
        with suppress(BackendError):  # a GPU that has failed frees nothing more
            self._cuda.synchronize(self._stream)
            self._drop_graph()
        self.context = None
        del self._images, self._logits
        self._free.close()
        del self._stream, self._device_images, self._device_logits
