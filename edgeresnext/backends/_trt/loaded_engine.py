"""A plan, deserialised: by which module, what was heard from it, and which batches it runs."""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path
from typing import Any

from edgeresnext import files
from edgeresnext.backends._trt.module import allow, load_module, make_runtime
from edgeresnext.backends._trt.runtime_cache import RuntimeCache
from edgeresnext.errors import BackendError
from edgeresnext.spec import EngineOptions, ModelSpec

_REBUILD = "Build it again: edgeresnext build BUNDLE --target here."
_REMEDIES = {
    "UNSUPPORTED_CC": "This release has no kernels for this GPU, and neither would another engine of it: "
    "take TensorRT (edgeresnext build BUNDLE --target here --backend tensorrt), another release, or the CPU.",
    "OLD_CUDA_DRIVER": "Update the driver: edgeresnext doctor shows which CUDA release it runs.",
    "INSUFFICIENT_GPU_MEMORY": "Close other programs on the GPU, or build with a smaller batch.",
    "CUDA_ERROR": "edgeresnext doctor shows what is missing.",
}
"""What to do where TensorRT-RTX cannot run a plan and building it again would not help."""
_KEPT_ERRORS = 10
_log = logging.getLogger("edgeresnext")


class LoadedEngine:
    """A deserialised engine, with the logger, the runtime and the cache that must live as long as it does.

    Args:
        module: `tensorrt` or `tensorrt_rtx`.
        file: The plan; its digest, header and compute capability have been checked.
        model: The network that it holds.
        options: How it was built.
        content: The plan's bytes, where they have been read.

    Attributes:
        smallest: Images a run that its profile takes, at least.
        largest: And at most.
        scratch_bytes: Device memory that a context works in.

    Raises:
        BackendError: TensorRT refuses the plan.
    """

    def __init__(
        self, module: str, file: Path, model: ModelSpec, options: EngineOptions, content: bytes | None = None
    ) -> None:
        self.trt: Any = load_module(module)
        self.engine: Any = None
        self._runtime: Any = None
        self._errors: deque[str] = deque(maxlen=_KEPT_ERRORS)
        self._kept: tuple[Any, ...] = ()
        try:
            plan = files.read(file, files.ANY_SIZE) if content is None else content
            self._deserialize(plan, file, options)
            self.smallest, self.largest = self._profile(model)
            size = "device_memory_size_v2" if hasattr(self.engine, "device_memory_size_v2") else "device_memory_size"
            self.scratch_bytes = int(getattr(self.engine, size))
            self.cache = RuntimeCache(plan, self.engine, str(self.trt.__version__))
        except BaseException:
            self.engine = self._runtime = None
            raise

    @property
    def captures_graphs(self) -> bool:
        """Whether the runtime makes CUDA graphs by itself, as TensorRT-RTX does."""
        return hasattr(self.trt, "CudaGraphStrategy")

    def _deserialize(self, plan: bytes, file: Path, options: EngineOptions) -> None:
        """Load the plan."""
        try:
            self._runtime, self._kept = make_runtime(self.trt, self._listen)
        except TypeError:  # pybind11: the factory returned null
            raise self.failure(
                "TensorRT cannot start its runtime", "edgeresnext doctor shows what is missing."
            ) from None
        allow(self._runtime, options)
        self._check_validity(plan, file)
        self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise self.failure(f"TensorRT cannot load '{file}'", _REBUILD)

    def _listen(self, severity: str, text: str) -> None:
        """Keep what TensorRT complains of: its calls return None or False and say the reason here alone."""
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self._errors.append(text.strip())

    def failure(self, what: str, hint: str = "", values: tuple[str, ...] = ()) -> BackendError:
        """Return the error for a call that failed, with the last reason that TensorRT logged."""
        reason = self._errors[-1] if self._errors else "TensorRT gave no reason"
        self._errors.clear()
        return BackendError(f"{what}: {reason}", hint, values=values)

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
                next((_REMEDIES[name] for name in names if name in _REMEDIES), _REBUILD),
            )

    def _profile(self, model: ModelSpec) -> tuple[int, int]:
        """Return the smallest and the largest batch that the engine runs."""
        engine, mode = self.engine, self.trt.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        expected = {model.input.name: mode.INPUT, model.output.name: mode.OUTPUT}
        if modes != expected:
            raise BackendError(
                f"the engine has tensors {', '.join(names)}; expected {', '.join(expected)}", "Build it again."
            )
        shapes = engine.get_tensor_profile_shape(model.input.name, 0)
        return int(shapes[0][0]), int(shapes[-1][0])

    def close(self) -> None:
        """Let go of everything; contexts have gone before."""
        self.cache.close()
        self.engine = self._runtime = None
