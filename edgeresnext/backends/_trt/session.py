"""Run an engine: tensor names, page-locked buffers that are used again, one stream and one wait a batch.

Images go to the device as they are, in uint8; logits come back in float32. Written against TensorRT 8.6 to 11 and
TensorRT-RTX by what each offers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeresnext.backends import cuda as cuda_library
from edgeresnext.backends._trt.log import make_logger
from edgeresnext.backends._trt.module import allow, load_module
from edgeresnext.backends._trt.runtime_cache import RuntimeCache
from edgeresnext.backends.base import Operation, Session
from edgeresnext.errors import BackendError
from edgeresnext.spec import EngineOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeresnext.backends.cuda.api import Cuda, Graph
    from edgeresnext.spec import ModelSpec

_CONTEXTS = 4
"""Threads that run at once, at most; each has its own context, stream and buffers, made when it is first needed."""

_REBUILD = "Build it again: edgeresnext build BUNDLE --target here."
_DOCTOR = "edgeresnext doctor shows what is missing."
_TIMED_RUNS = 15
_KEPT_ERRORS = 10
_log = logging.getLogger("edgeresnext")
_MIB = 2**20


class EngineSession(Session):
    """A deserialised engine with a pool of execution contexts.

    Args:
        module: `tensorrt` or `tensorrt_rtx`.
        file: The plan; its digest, header and compute capability have been checked.
        model: The network that it holds.
        options: How it was built, where that is known.

    Raises:
        BackendError: TensorRT refuses the plan, or memory is short.
    """

    largest: int

    def __init__(self, module: str, file: Path, model: ModelSpec, options: EngineOptions | None = None) -> None:
        super().__init__(model)
        self.trt: Any = load_module(module)
        self._options = options or EngineOptions()
        self._runtime: Any = None
        self.engine: Any = None
        self._errors: deque[str] = deque(maxlen=_KEPT_ERRORS)
        self.cuda = cuda_library.connect()
        self._logger = make_logger(self.trt, self._listen)
        self._changed = threading.Condition()  # of the three below
        self._idle: list[_Slot] = []
        self._made: list[_Slot] = []
        self._most = _CONTEXTS
        self._graph_batch: int | None = None
        self._closed = False
        try:
            with self.cuda.active():
                self._deserialize(file)
                self.smallest, self.largest = self._profile()
                self.runtime_cache = RuntimeCache.beside(file, self.engine)
            self._idle.append(self._new_slot())
        except BaseException:
            self.engine = self._runtime = None
            self.cuda.close()
            raise

    def _deserialize(self, file: Path) -> None:
        """Load the plan."""
        plan = file.read_bytes()
        try:
            self._runtime = self.trt.Runtime(self._logger)
        except TypeError:  # pybind11: the factory returned null
            raise self.failure(
                "TensorRT cannot start its runtime", "edgeresnext doctor shows what is missing."
            ) from None
        allow(self._runtime, self._options)
        self._check_validity(plan, file)
        self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise self.failure(f"TensorRT cannot load '{file}'", _REBUILD)

    def _listen(self, severity: str, text: str) -> None:
        """Keep what TensorRT complains of: its calls return None or False and say the reason here alone."""
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self._errors.append(text.strip())

    def failure(self, what: str, hint: str = "") -> BackendError:
        """Return the error for a call that failed, with the last reason that TensorRT logged."""
        reason = self._errors[-1] if self._errors else "TensorRT gave no reason"
        self._errors.clear()
        return BackendError(f"{what}: {reason}", hint)

    def _check_validity(self, plan: bytes, file: Path) -> None:
        """Ask TensorRT-RTX whether it can run the plan here, before anything is deserialised."""
        if not hasattr(self._runtime, "get_engine_validity"):
            return
        validity, reasons = self._runtime.get_engine_validity(plan)
        if validity == self.trt.EngineValidity.SUBOPTIMAL:
            _log.warning("'%s' runs here, but not as fast as one built for this GPU: %s", file, _REBUILD)
        if validity == self.trt.EngineValidity.INVALID:
            known = self.trt.EngineInvalidityDiagnostics.__members__.items()
            names = [name for name, flag in known if int(reasons) & int(flag)]
            raise BackendError(
                f"TensorRT-RTX {self.trt.__version__} cannot run '{file}': {', '.join(names) or 'no reason given'}",
                _REBUILD,
            )

    def _profile(self) -> tuple[int, int]:
        """Return the smallest and the largest batch that the engine runs."""
        engine, mode = self.engine, self.trt.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        expected = {self.model.input.name: mode.INPUT, self.model.output.name: mode.OUTPUT}
        if modes != expected:
            raise BackendError(
                f"the engine has tensors {', '.join(names)}; expected {', '.join(expected)}", "Build it again."
            )
        shapes = engine.get_tensor_profile_shape(self.model.input.name, 0)
        smallest, largest = (tuple(shape) for shape in (shapes[0], shapes[-1]))
        return int(smallest[0]), int(largest[0])

    def _new_slot(self) -> _Slot:
        with self.cuda.active():
            slot = _Slot(self)
        self._made.append(slot)
        return slot

    @contextmanager
    def _slot(self) -> Iterator[_Slot]:
        """Lend a context with its buffers: an idle one, a new one while there are few, else the next to be free."""
        slot = self._take()
        try:
            yield slot
        finally:
            with self._changed:
                self._idle.append(slot)
                self._changed.notify()

    def _take(self) -> _Slot:
        with self._changed:
            while True:
                if self._closed:
                    raise BackendError("this session is closed", "Open it again.")
                if self._idle:
                    return self._idle.pop()
                if len(self._made) < self._most:
                    try:
                        return self._new_slot()
                    except BackendError:
                        if not self._made:
                            raise
                        self._most = len(self._made)  # memory is short: share what there is
                self._changed.wait()

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        starts = range(0, len(images), self.largest)
        with self._slot() as slot, self.cuda.active():
            parts = [slot.run(images[start : start + self.largest], self._graph_batch) for start in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """Warm up, and run batches of this size as a CUDA graph where that is faster.

        TensorRT-RTX captures graphs by itself. Both ways are timed in turn, and the smaller median decides.
        """
        self.run(images)
        size = len(images)
        if hasattr(self._runtime, "get_engine_validity"):
            self.detail = "built-in CUDA graph"
            with self.cuda.active():
                self.runtime_cache.save()
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
        with self._slot() as slot, self.cuda.active():
            for start in range(0, len(images), self.largest):
                slot.run(images[start : start + self.largest], None)
                seconds += slot.compute_s()
        return seconds

    def profile(self, images: NDArray[np.uint8], runs: int) -> tuple[Operation, ...]:
        """Return what each layer of the engine took, measured by TensorRT; layers have the engine's own names."""
        trt: Any = self.trt
        seconds: dict[str, list[float]] = {}

        class Listener(trt.IProfiler):
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                seconds.setdefault(layer_name, []).append(ms / 1e3)

        self.run(images)
        with self._slot() as slot, self.cuda.active():
            for _ in range(runs):
                slot.profile(images[: self.largest], Listener())
        return tuple(Operation(name=name, kind="", seconds=median(taken)) for name, taken in seconds.items())

    def layer_information(self) -> str:
        """Return what TensorRT's inspector tells of the engine, as JSON text."""
        inspector = self.engine.create_engine_inspector()
        with self._slot() as slot, self.cuda.active():
            inspector.execution_context = slot.context
            text: str = inspector.get_engine_information(self.trt.LayerInformationFormat.JSON)
        return text

    def close(self) -> None:
        """Wait for running batches and free device memory."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()  # who waits for a context gets an error
            while len(self._idle) < len(self._made):
                self._changed.wait()
            slots = self._idle[:]
        with suppress(BackendError), self.cuda.active():  # a GPU that has failed frees nothing more
            self.runtime_cache.save()
            for slot in slots:
                with suppress(BackendError):
                    slot.close()
            self.runtime_cache.close()
            self.engine = None
            self._runtime = None
        with suppress(BackendError):
            self.cuda.close()


def _faster(times: Mapping[int | None, Sequence[float]]) -> int | None:
    """Return the way with the smaller median."""
    return min(times, key=lambda way: median(times[way]))


class _Slot:
    """An execution context with its stream and buffers; used by one thread at a time."""

    def __init__(self, session: EngineSession) -> None:
        self._session = session
        self._cuda: Cuda = session.cuda
        model, largest = session.model, session.largest
        self._image_bytes = 3 * model.preprocess.crop_px**2
        self._classes = model.classes
        self._batch = 0
        self._graph: tuple[int, Graph] | None = None
        logits_bytes = model.classes * np.dtype(np.float32).itemsize
        with ExitStack() as undo:
            self.context = self._create_context()
            self._stream = self._cuda.stream()
            undo.callback(self._stream.close)
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
            for name, buffer in addresses.items():
                if not self.context.set_tensor_address(name, buffer.pointer):
                    raise self._session.failure(f"TensorRT refuses the address of {name}")
            self._free = undo.pop_all()

    def _create_context(self) -> Any:  # noqa: ANN401 - TensorRT carries no types
        """Create an execution context, with TensorRT-RTX's own CUDA graphs and its runtime cache where it has them."""
        session = self._session
        engine, trt = session.engine, session.trt
        if hasattr(trt, "CudaGraphStrategy"):
            config = engine.create_runtime_config()
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            session.runtime_cache.use(config)
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context()
        if context is None:
            free, total = self._cuda.memory()
            size = "device_memory_size_v2" if hasattr(engine, "device_memory_size_v2") else "device_memory_size"
            needed = int(getattr(engine, size, 0))
            raise session.failure(
                f"no execution context: it needs {needed / _MIB:,.0f} MiB, and of the GPU's {total / _MIB:,.0f} MiB "
                f"{free / _MIB:,.0f} are free",
                "Close other programs on the GPU, or build with a smaller --batch.",
            )
        return context

    def _choose_profile(self) -> None:
        """Choose the one profile where TensorRT has not: up to TensorRT 8 only the first context gets it unasked."""
        if self.context.active_optimization_profile >= 0:
            return
        if not self.context.set_optimization_profile_async(0, self._stream.handle):
            raise self._session.failure("TensorRT refuses the batch profile to another context")
        self._stream.synchronize()

    def run(self, images: NDArray[np.uint8], graph_batch: int | None) -> NDArray[np.float32]:
        """Run one batch that the profile allows; a smaller one than its smallest is filled up and cut again."""
        count = len(images)
        batch = max(count, self._session.smallest)
        self._images[: count * self._image_bytes] = images.reshape(-1)
        try:
            if batch != self._batch:
                self._set_batch(batch)
            if batch == graph_batch:
                self._launch(batch)
            else:
                self._enqueue(batch)
        finally:  # what was queued before an error still reads the buffers
            self._stream.synchronize()
        logits: NDArray[np.float32] = self._logits.view(np.float32)[: count * self._classes]
        found: NDArray[np.float32] = logits.reshape(count, self._classes).copy()
        return found

    def _set_batch(self, batch: int) -> None:
        model = self._session.model
        if not self.context.set_input_shape(model.input.name, (batch, *model.input.shape[1:])):
            raise self._session.failure(f"TensorRT refuses a batch of {batch}")
        self._batch = batch
        self._drop_graph()  # it was captured for the shapes that the context had before

    def _enqueue(self, batch: int) -> None:
        """Queue the copy in, the engine and the copy out."""
        images = self._images[: batch * self._image_bytes]
        logits = self._logits[: batch * self._classes * 4]
        self._cuda.to_device(self._device_images, images, self._stream)
        if not self.context.execute_async_v3(self._stream.handle):
            raise self._session.failure(f"TensorRT failed on a batch of {batch}")
        self._cuda.to_host(logits, self._device_logits, self._stream)

    def _launch(self, batch: int) -> None:
        """Queue the same as one CUDA graph, captured when this size first comes."""
        if self._graph is None or self._graph[0] != batch:
            self._drop_graph()
            self._enqueue(batch)  # TensorRT wants one run at a size before it is captured
            self._stream.synchronize()
            captured: list[Graph] = []
            with self._cuda.capture(self._stream, captured):
                self._enqueue(batch)
            self._graph = (batch, captured[0])
        self._graph[1].launch(self._stream)

    def compute_s(self) -> float:
        """Run the batch that is on the device once more, between two events."""
        with ExitStack() as stack:
            start, end = self._cuda.event(), self._cuda.event()
            stack.callback(start.close)
            stack.callback(end.close)
            start.record(self._stream)
            if not self.context.execute_async_v3(self._stream.handle):
                raise self._session.failure("TensorRT failed on the batch that is on the device")
            end.record(self._stream)
            self._stream.synchronize()
            return end.seconds_since(start)

    def profile(self, images: NDArray[np.uint8], profiler: Any) -> None:  # noqa: ANN401 - TensorRT carries no types
        """Run one batch with a profiler attached."""
        self.context.profiler = profiler
        try:
            self.run(images, None)
        finally:
            self.context.profiler = None

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph[1].close()
            self._graph = None

    def close(self) -> None:
        """Free everything; the context goes before the memory that it points to."""
        with suppress(BackendError):  # a GPU that has failed frees nothing more
            self._stream.synchronize()
            self._drop_graph()
        self.context = None
        del self._images, self._logits
        self._free.close()
