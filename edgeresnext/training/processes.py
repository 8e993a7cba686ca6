"""Several processes that train one network together, each on its part of every batch: `torchrun` starts them.

Gradients are those of the whole batch, and BatchNorm sees all of it, so that as many processes as one likes take the
steps that one would take.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from edgeresnext.errors import EdgeResNeXtError, RequestError
from edgeresnext.training.network import BATCH_NORMS

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a training: this one's `rank` among `count`."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and judges."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this one trains."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))

    def part(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this one's share of a batch."""
        return np.array_split(positions, self.count)[self.rank]

    def together(self, network: nn.Module) -> nn.Module:
        """Return a network whose gradients are the mean over all processes."""
        if self.count == 1:
            return network
        kind = nn.parallel.DistributedDataParallel
        # Buffers are equal, as BatchNorm sees all images; the option has another name since PyTorch 2.13.
        known = "forward_sync_buffers" in inspect.signature(kind).parameters
        options: dict[str, Any] = {"forward_sync_buffers" if known else "broadcast_buffers": False}
        return kind(network, **options)

    def total(self, *values: float) -> list[float]:
        """Return the sums over all processes."""
        if self.count == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(summed)
        return list(summed.tolist())

    def from_first(self, value: T) -> T:
        """Return what the first one has."""
        if self.count == 1:
            return value
        held: list[T] = [value]
        distributed.broadcast_object_list(held, src=0)
        return held[0]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def joined() -> Iterator[Processes]:
    """Yield the processes that `torchrun` has started, or this one alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(Processes().device)
    # The first one judges alone, while the others wait.
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(hours=6))
    try:
        yield Processes(rank=distributed.get_rank(), count=count)
    except RuntimeError as error:
        if "gloo" not in str(error).lower() and not isinstance(error, distributed.DistBackendError):
            raise
        raise EdgeResNeXtError(
            "another process of this training has ended, and this one with it", "What it says is the reason."
        ) from None
    finally:
        distributed.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:  # noqa: ANN401 - PyTorch's
        """Return the sum of everybody's values."""
        summed = values.clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401 - PyTorch's
        """Return the sum of everybody's gradients."""
        summed = gradients[0].clone()
        distributed.all_reduce(summed)
        return summed


class SynchronisedBatchNorm(nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - there is no other root
    """BatchNorm over the images of all processes, on any device: PyTorch's own is for GPUs alone.

    While its statistics are frozen it is PyTorch's.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x, channels in its second axis, normalised by the means and variances of all processes' images."""
        if not self.training:
            return super().forward(x)
        axes = tuple(axis for axis in range(x.ndim) if axis != 1)
        shape = (1, -1, *[1] * (x.ndim - 2))
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        summed: Tensor = _Sum.apply(torch.cat([x.float().sum(axes), count]))  # type: ignore[no-untyped-call]
        total = summed[-1].detach()
        mean = summed[:-1] / total
        # Around the mean, in a second sum: the mean of squares less the square of means loses digits.
        squares: Tensor = _Sum.apply((x.float() - mean.view(shape)).square().sum(axes))  # type: ignore[no-untyped-call]
        variance = squares / total
        if self.running_mean is not None and self.running_var is not None:
            assert self.momentum is not None
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * total / (total - 1), self.momentum)
        scale = torch.rsqrt(variance + self.eps) * (1.0 if self.weight is None else self.weight)
        shift = -mean * scale + (0.0 if self.bias is None else self.bias)
        found: Tensor = x * scale.view(shape) + shift.view(shape)
        return found


_SYNCHRONISED: dict[type[nn.Module], type[SynchronisedBatchNorm]] = {
    kind: type(f"Synchronised{kind.__name__}", (SynchronisedBatchNorm, kind), {}) for kind in BATCH_NORMS
}
"""What each BatchNorm is while it sees all processes' images: still one of its kind."""


@contextmanager
def synchronised(network: nn.Module, processes: Processes) -> Iterator[None]:
    """Let every BatchNorm of a network see all processes' images for a while.

    Raises:
        RequestError: One has no momentum, whose statistics are means over all batches.
    """
    usual = {
        module: type(module) for module in network.modules() if type(module) in _SYNCHRONISED and processes.count > 1
    }
    if any(module.momentum is None for module in usual):
        raise RequestError("BatchNorm without momentum trains in one process alone", "Give it one, such as 0.1.")
    for module, kind in usual.items():
        module.__class__ = _SYNCHRONISED[kind]  # parameters, buffers and names stay as they are
    try:
        yield
    finally:
        for module, kind in usual.items():
            module.__class__ = kind
