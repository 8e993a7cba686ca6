"""An execution context with what it points to, which Python keeps and C++ does not."""

from __future__ import annotations

from typing import Any

from edgeresnext.backends._trt.loaded_engine import LoadedEngine
from edgeresnext.backends.cuda.api import Cuda
from edgeresnext.spec import ModelSpec


class Execution:
    """An execution context that works in memory which it is given: those that never run at once share it.

    NVIDIA's advice for CUDA graphs is one context a graph, sharing memory ("CUDA Graphs" in TensorRT's documents): a
    graph holds the batch and the addresses that its context had.

    Args:
        loaded: The engine.
        cuda: Active while this is made, and for every call.
        model: The network that the engine holds.
        memory: Device memory of `loaded.scratch_bytes`; it outlives this.
        stream: Any that is free.
        graphs: Whether TensorRT-RTX may make CUDA graphs by itself, one for each context.

    Raises:
        BackendError: TensorRT refuses a context.
    """

    def __init__(
        self, loaded: LoadedEngine, cuda: Cuda, model: ModelSpec, memory: Any, stream: Any, *, graphs: bool = True
    ) -> None:
        self._loaded = loaded
        self._model = model
        self._batch = 0
        self._addresses: dict[str, int] = {}
        self.context: Any = None  # named before what it points to, for attributes go in this order
        self._config = self._configure(graphs=graphs) if loaded.captures_graphs else None
        self.context = self._create()
        if hasattr(self.context, "set_device_memory"):
            self.context.set_device_memory(int(memory), loaded.scratch_bytes)
        else:
            self.context.device_memory = int(memory)
        if self.context.active_optimization_profile < 0:  # up to TensorRT 8 only the first context gets it unasked
            if not self.context.set_optimization_profile_async(0, cuda.handle(stream)):
                raise loaded.failure("TensorRT refuses the batch profile to another context")
            cuda.synchronize(stream)

    def _configure(self, *, graphs: bool) -> Any:
        """Return TensorRT-RTX's configuration of a context; it and its cache must live as long as the context.

        Kernels for a batch size are compiled when it first comes (EAGER). By default they would be in the background,
        while others run: timings would mix both, and the cache might be saved without them.
        """
        trt = self._loaded.trt
        config = self._loaded.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        strategy = trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if graphs else strategy.DISABLED
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._loaded.cache.use(config)
        return config

    def _create(self) -> Any:
        engine, trt = self._loaded.engine, self._loaded.trt
        if self._config is not None:
            context = engine.create_execution_context(self._config)
        elif hasattr(trt, "ExecutionContextAllocationStrategy"):
            context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        else:
            context = engine.create_execution_context_without_device_memory()
        if context is None:
            raise self._loaded.failure(
                "no execution context", "Close other programs on the GPU, or build with a smaller batch.", ("batch",)
            )
        return context

    def bind(self, batch: int, images: int, logits: int) -> None:
        """Say how many images there are, where they lie and where the logits go; what is so already is left alone.

        Raises:
            BackendError: TensorRT refuses a batch or an address.
        """
        image = self._model.input
        if batch != self._batch:
            if not self.context.set_input_shape(image.name, (batch, *image.shape[1:])):
                raise self._loaded.failure(f"TensorRT refuses a batch of {batch}")
            self._batch = batch
        for name, address in ((image.name, images), (self._model.output.name, logits)):
            if self._addresses.get(name) != address:
                if not self.context.set_tensor_address(name, address):
                    raise self._loaded.failure(f"TensorRT refuses the address of {name}")
                self._addresses[name] = address

    def enqueue(self, handle: int) -> None:
        """Queue one run on a stream, given by its number.

        Raises:
            BackendError: TensorRT failed.
        """
        if not self.context.execute_async_v3(handle):
            raise self._loaded.failure(f"TensorRT failed on a batch of {self._batch}")

    def close(self) -> None:
        """Let go of the context, and then of what it points to."""
        self.context = None
        self._config = None
