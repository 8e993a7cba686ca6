"""PyTorch: the baseline that every other backend is compared with, and the ways in which it can be faster itself."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends import dlpack
from edgeresnext.backends.base import Backend, Opening, Session
from edgeresnext.backends.registry import COMPILE, CUDA_TARGET
from edgeresnext.errors import BackendError
from edgeresnext.extras import lacking
from edgeresnext.machine import cpu, gpu
from edgeresnext.spec import Artifact, ModelSpec, Precision

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


_TIMED_RUNS = 7
_MOST_BATCHES = 64
_COMPILERS = ("g++", "c++", "clang++")
_LAYOUTS = ("contiguous", "channels_last")


class TorchSession(Session):
    """The network in evaluation mode, in the faster of the two memory layouts once `prepare` has timed them.

    Args:
        network: With its weights, in float32 on the CPU.
        model: What it is.
        artifact: Precision, target (the CPU or `CUDA_TARGET`) and mode.
        threads: CPU threads; None leaves the choice to PyTorch.
    """

    detail = "contiguous"

    def __init__(self, network: nn.Module, model: ModelSpec, artifact: Artifact, threads: int | None) -> None:
        super().__init__(model)
        import torch

        self._thread_count = threads
        self._device = torch.device("cpu")
        if artifact.target == CUDA_TARGET:  # PyTorch counts GPUs as CUDA does
            device = gpu.detect()
            self._device = torch.device("cuda", device.index if device else 0)
        self._dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[artifact.precision]
        self._compiles = artifact.mode == COMPILE
        self._compiled: Any = None
        self._batch = 0
        self._layout = "contiguous"
        self._networks: dict[str, nn.Module] = {"contiguous": network.eval().to(self._device, self._dtype)}

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """Time both memory layouts in turn on `images` and keep the one with the smaller median; then compile."""
        import torch

        if "channels_last" not in self._networks:
            network = copy.deepcopy(self._open()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._networks["channels_last"] = network
        self._compiled = None
        times: dict[str, list[float]] = {layout: [] for layout in _LAYOUTS}
        for turn in range(_TIMED_RUNS + 1):
            for layout, samples in times.items():
                self._layout = layout
                start = time.perf_counter()
                self.run(images)
                if turn:  # the first is a warm-up
                    samples.append(time.perf_counter() - start)
        medians = {layout: median(samples) for layout, samples in times.items()}
        self._layout, other = sorted(medians, key=medians.__getitem__)
        self.detail = f"{self._layout} ({other} takes {medians[other] / medians[self._layout]:.2f} times as long)"
        if self._compiles:
            self._compile(images)

    def _compile(self, images: NDArray[np.uint8]) -> None:
        """Compile for batches like `images`, with the weights frozen: ResNeXt-50 then takes 22 ms instead of 34."""
        import torch
        from torch._dynamo import config as dynamo
        from torch._inductor import config as inductor

        mode = "default" if self._device.type == "cpu" else "reduce-overhead"  # with CUDA graphs
        self._compiled = torch.compile(self._networks[self._layout], dynamic=False, fullgraph=True, mode=mode)
        self._batch = len(images)
        self.detail = f"torch.compile, frozen, {self._layout}"
        # Beyond eight batches of one network dynamo would go on without compiling; `fullgraph` makes that an error.
        with inductor.patch(freezing=True), dynamo.patch(recompile_limit=_MOST_BATCHES):
            self.run(images)

    def _open(self) -> nn.Module:
        try:
            return self._networks[self._layout]
        except KeyError:
            raise self.closed() from None

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self._compiled is None or len(images) == self._batch:
            return self._logits(images)
        # Another batch would be compiled anew, for half a minute: run it in pieces of the size that was compiled for.
        parts = []
        for start in range(0, len(images), self._batch):
            piece = images[start : start + self._batch]
            missing = self._batch - len(piece)
            filled = np.concatenate([piece, np.zeros((missing, *piece.shape[1:]), np.uint8)]) if missing else piece
            parts.append(self._logits(filled)[: len(piece)])
        return np.concatenate(parts)

    def _tensor(self, images: NDArray[np.uint8]) -> Tensor:
        """Return images on the device; PyTorch has no read-only tensors, warns of such arrays, and only reads here."""
        import torch

        if not images.flags.writeable:
            images = dlpack.view(images.ctypes.data, images.shape, np.uint8, images)
        return torch.from_numpy(images).to(self._device)

    def _logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:

        with self._running(len(images)) as forward:
            logits: NDArray[np.float32] = forward(self._tensor(images)).cpu().numpy()
        return logits

    @contextmanager
    def _running(self, count: int) -> Iterator[Callable[[Tensor], Tensor]]:
        """Lend uint8 images -> float32 logits, both on the device, under the settings that a run needs."""
        import torch

        from edgeresnext.model.resnext import normalise

        network = self._open()
        layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
        call: Any = network if self._compiled is None else self._compiled

        def forward(images: Tensor) -> Tensor:
            inputs = normalise(images, self.model).to(self._dtype)
            logits: Tensor = call(inputs.contiguous(memory_format=layouts[self._layout]))
            return logits.float()

        try:
            with (
                torch.inference_mode(),
                _threads(self._thread_count),
                _on_gpu(self._device) if self._device.type == "cuda" else nullcontext(),
            ):
                yield forward
        except Exception as error:  # out of memory, no working compiler, a cache that cannot be written
            text = str(error).strip().splitlines()
            raise BackendError(f"PyTorch failed on a batch of {count}: {text[0] if text else error!r}") from error

    def compute_s(self, images: NDArray[np.uint8]) -> float | None:
        """Return the seconds from images to logits where both are on the device already."""
        import torch

        if self._compiled is not None and len(images) != self._batch:
            return None  # it would be compiled anew
        with self._running(len(images)) as forward:
            inputs = self._tensor(np.ascontiguousarray(images))
            if self._device.type == "cpu":
                start = time.perf_counter()
                forward(inputs)
                return time.perf_counter() - start
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            forward(inputs)
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end)) / 1e3

    def close(self) -> None:
        """Free the weights."""
        self._compiled = None
        self._networks.clear()


@contextmanager
def _on_gpu(device: torch.device) -> Iterator[None]:
    """Make a GPU current, and FP32 mean FP32: cuDNN would otherwise take TF32 for convolutions."""
    import torch

    with (
        torch.cuda.device(device),
        torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False),
    ):
        yield


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Set PyTorch's number of threads, which is the whole process's, for one run."""
    import torch

    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Torch(Backend):
    """Runs `weights.safetensors`: in float32 as the baseline, and otherwise as benchmarks ask."""

    name = "torch"
    profiles = False

    def unavailable(self, precision: Precision) -> str | None:
        """Return what is missing for `precision`."""
        if missing := lacking("build", "torch", "safetensors"):
            return missing
        if precision == "int8":
            return "PyTorch here runs fp32, fp16 and bf16, not int8"
        return None

    def misfit(self, artifact: Artifact) -> str | None:
        """Return why this machine cannot run PyTorch in this precision and mode, or not where it is asked for."""
        if artifact.target == CUDA_TARGET:
            if gpu.detect() is None:
                return "no NVIDIA GPU with a driver"
            import torch

            return None if torch.cuda.is_available() else f"this PyTorch ({torch.__version__}) does not use the GPU"
        if artifact.precision == "fp16":
            return "PyTorch emulates fp16 on a CPU; use fp32 or bf16"
        if artifact.precision == "bf16" and not cpu.bfloat16():
            return "this CPU has no bfloat16 instructions (AVX512_BF16, AMX or Arm BF16), or oneDNN may not use them"
        if artifact.mode == COMPILE and not any(map(shutil.which, _COMPILERS)):
            return "torch.compile needs a C++ compiler: sudo apt install g++"
        return None

    def start(self, opening: Opening) -> TorchSession:
        """Load the weights into the network; there is no profile of it."""
        try:
            from edgeresnext.model.checkpoints import load_saved
        except (ImportError, OSError) as error:  # a wheel for another system library, say
            raise BackendError(f"PyTorch is installed but does not start: {error}") from error
        try:
            network = load_saved(opening.model, opening.file, opening.content)
            return TorchSession(network, opening.model, opening.artifact, opening.threads)
        except RuntimeError as error:  # a GPU without the memory
            raise BackendError(f"PyTorch cannot open '{opening.file}': {error}") from error


BACKEND = Torch()
