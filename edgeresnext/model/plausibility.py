"""Whether weights and images belong to this network: what its BatchNorms see, against what they saw in training.

Networks that compute something else with the same names (blur pooling, another stride or activation) and wrong
preprocessing load without a complaint. Their activations do not have the variances that the weights' own statistics
remember; no label is needed to tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SUSPICIOUS = 0.15
"""A gap from which the user is warned."""
WRONG = 0.3
"""A gap from which nothing is built. Measured: right networks 0.01 to 0.07; mean and std for values of 0..255 0.5;
inverted images 0.2 to 0.4, another network's mean and std 1.5, blur pooling 1.9."""
IMAGES = 64
"""Images that are looked at, at most."""


@dataclass
class _Moments:
    """Sums of the values of each channel, and of their squares."""

    count: int
    sums: Tensor
    squares: Tensor

    @property
    def variance(self) -> Tensor:
        """Variance of each channel, float64."""
        return self.squares / self.count - (self.sums / self.count) ** 2


def statistics_gap(network: nn.Module, batches: Iterable[Tensor]) -> float:
    """Return how far the variances of activations are from those that training saw: 0 is the same.

    The median over the BatchNorms of the median over their channels of |log(variance / running variance)|; infinity
    where no channel is on.

    Args:
        network: In evaluation mode.
        batches: Normalised float32 `(N, C, H, W)` tensors.
    """
    with _watched(network) as seen, torch.inference_mode():
        for batch in batches:
            network(batch)
    gaps = []
    for norm, moments in seen.items():
        assert norm.running_var is not None
        remembered = norm.running_var.double()
        used = (remembered > norm.eps) & (moments.variance > norm.eps)  # a channel that is off says nothing
        if used.any():
            gaps.append((moments.variance[used] / remembered[used]).log().abs().median())
    return float(torch.stack(gaps).median()) if gaps else math.inf


@contextmanager
def _watched(network: nn.Module) -> Iterator[dict[nn.BatchNorm2d, _Moments]]:
    """Yield what goes into each BatchNorm while the block runs."""
    seen: dict[nn.BatchNorm2d, _Moments] = {}

    def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        values = inputs[0].double()
        sums, squares = values.sum((0, 2, 3)), values.square().sum((0, 2, 3))
        count = values[:, 0].numel()
        if norm in seen:
            before = seen[norm]
            count, sums, squares = count + before.count, sums + before.sums, squares + before.squares
        seen[norm] = _Moments(count, sums, squares)

    hooks = [one.register_forward_pre_hook(note) for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
