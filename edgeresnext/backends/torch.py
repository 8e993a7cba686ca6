"""PyTorch eager: the baseline that every other backend is compared with."""

from __future__ import annotations

import copy
import importlib.util
import time
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING

from edgeresnext.backends.base import Backend, Session
from edgeresnext.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edgeresnext.model.resnext import ResNeXt
    from edgeresnext.spec import Engine, ModelSpec, Precision

_TIMED_RUNS = 7


class TorchSession(Session):
    """The network in evaluation mode, in the faster of the two memory layouts once `prepare` has timed them."""

    detail = "contiguous"

    def __init__(self, network: ResNeXt, model: ModelSpec, threads: int | None) -> None:
        super().__init__(model)
        self._thread_count = threads
        import torch

        self._layouts = {"contiguous": (network.eval(), torch.contiguous_format)}

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """Time both memory layouts in turn on `images` and keep the one with the smaller median."""
        import torch

        if "channels_last" not in self._layouts:
            network = copy.deepcopy(self._layouts["contiguous"][0]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._layouts["channels_last"] = (network, torch.channels_last)
        times: dict[str, list[float]] = {layout: [] for layout in self._layouts}
        for turn in range(_TIMED_RUNS + 1):
            for layout, samples in times.items():
                self.detail = layout
                start = time.perf_counter()
                self.run(images)
                if turn:  # the first is a warm-up
                    samples.append(time.perf_counter() - start)
        self.detail = min(times, key=lambda layout: median(times[layout]))

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        from edgeresnext.model.resnext import normalise

        try:
            network, memory_format = self._layouts[self.detail]
        except KeyError:
            raise BackendError("this session is closed", "Open it again.") from None
        try:
            with torch.inference_mode(), _threads(self._thread_count):
                inputs = normalise(torch.from_numpy(images), self.model).contiguous(memory_format=memory_format)
                logits: NDArray[np.float32] = network(inputs).numpy()
        except RuntimeError as error:  # out of memory, most of all
            raise BackendError(f"PyTorch failed on a batch of {len(images)}: {error}") from error
        return logits

    def close(self) -> None:
        """Free the weights."""
        self._layouts.clear()


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
    """Runs `weights.safetensors` on the CPU in float32."""

    name = "torch"

    def unavailable(self, precision: Precision) -> str | None:
        """Return what is missing for `precision`."""
        missing = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]
        if missing:
            return f"{' and '.join(missing)} not installed: pip install 'edgeresnext[build]'"
        if precision != "fp32":
            return f"the PyTorch baseline runs fp32, not {precision}"
        return None

    def open(
        self, file: Path, model: ModelSpec, precision: Precision, threads: int | None, engine: Engine | None = None
    ) -> TorchSession:
        """Load the weights into the network."""
        del engine  # there is none
        del precision  # fp32 alone
        try:
            from edgeresnext.model.checkpoints import load_network
        except (ImportError, OSError) as error:  # a wheel for another system library, say
            raise BackendError(f"PyTorch is installed but does not start: {error}") from error
        return TorchSession(load_network(model, file), model, threads)


BACKEND = Torch()
