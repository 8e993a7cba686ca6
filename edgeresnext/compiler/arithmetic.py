"""The arithmetic of INT8, in PyTorch: integers to the bit, the same on every machine, and as CPUs without VNNI have it.

Levels are integers in float32 tensors. Products of levels are integers too, and their sums are exact in float32 in
whatever order they are added, as long as none exceeds 2^24.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

INT16_MIN, INT16_MAX = -(2**15), 2**15 - 1
"""Between these `vpmaddubsw` keeps the sum of two neighbouring products (Intel 64 manual, volume 2, PMADDUBSW)."""

MATRIX_PRODUCT: Mapping[str, Any] = MappingProxyType({"group": 1, "pads": [0, 0, 0, 0], "strides": [1, 1]})
"""The attributes of the 1x1 convolution that a matrix product is."""

_EXACT = 2**24
"""Up to here float32 knows every integer."""
_LARGEST_LEVEL = 255
_AT_ONCE = 2**19
"""Sums of two products that are looked at together: 2 MiB."""


def round_to_levels(values: Tensor, step: float, low: int, high: int) -> Tensor:
    """Return the levels of float32 values of any shape: x / step, half to even, clipped to low..high.

    As ONNX's QuantizeLinear has them, counted from the zero point; integers in float32.
    """
    return values.div(step).round_().clamp_(low, high)


class IntegerProduct:
    """A convolution of levels, or a matrix product, as INT8 hardware accumulates it.

    Args:
        weight: Levels `(out, C / groups, h, w)`, or `(out, C)` for a matrix product; integers in -127..127.
        attributes: Of the Conv, as ONNX has them; `MATRIX_PRODUCT` for a matrix product.
        saturating: Whether two neighbouring products are added in 16 bits, as on x86 CPUs without VNNI. Neighbours are
            channels 2j and 2j + 1 of a group, at one position of the kernel. For inputs in 0..255 only.
    """

    def __init__(self, weight: Tensor, attributes: Mapping[str, Any], *, saturating: bool = False) -> None:
        self.attributes = attributes
        self.weight = weight if weight.ndim > 2 else weight[:, :, None, None]  # noqa: PLR2004 - (out, C)
        self._largest_sum = float(self.weight.abs().flatten(1).sum(1).max())
        self._pairs = Pairs(self.weight, attributes["group"]) if saturating else None

    def __call__(self, levels: Tensor) -> Tensor:
        """Return the sums, exact integers in float32 (above 2^24: the nearest float32), of levels -128..255.

        Args:
            levels: `(N, C, H, W)`, or `(N, C)` for a matrix product.
        """
        images = levels if levels.ndim > 2 else levels[:, :, None, None]  # noqa: PLR2004 - (N, C)
        exact = self._largest_sum * _LARGEST_LEVEL <= _EXACT
        total = self._convolve(images, self.weight) if exact else self._in_pieces(images)
        taken = None if self._pairs is None else self._pairs.saturation(images, self.attributes)
        total = total if taken is None else total.add_(taken)
        return total if levels.ndim > 2 else total[:, :, 0, 0]  # noqa: PLR2004 - (N, C)

    def _convolve(self, levels: Tensor, weight: Tensor) -> Tensor:
        attributes = self.attributes
        strides, pads, groups = attributes["strides"], attributes["pads"][:2], attributes["group"]
        return functional.conv2d(levels, weight, None, strides, pads, groups=groups)

    def _in_pieces(self, levels: Tensor) -> Tensor:
        """Return sums that may exceed 2^24, added up in float64 from pieces of input channels that cannot."""
        groups = self.attributes["group"]
        channels = self.weight.shape[1]
        # Every piece must stay below the limit by itself, in its worst row.
        width = channels
        while width > 1 and float(_sums(self.weight, width).max()) * _LARGEST_LEVEL > _EXACT:
            width = -(-width // 2)
        total: Tensor | None = None
        by_group = levels.reshape(len(levels), groups, channels, *levels.shape[2:])
        for start in range(0, channels, width):
            piece = by_group[:, :, start : start + width].flatten(1, 2)
            found = self._convolve(piece, self.weight[:, start : start + width]).double()
            total = found if total is None else total.add_(found)
        assert total is not None
        return total.float()


def _sums(weight: Tensor, width: int) -> Tensor:
    """Return the sums of |w| of each row over pieces of `width` input channels."""
    pieces = [weight[:, start : start + width] for start in range(0, weight.shape[1], width)]
    return torch.stack([piece.abs().flatten(1).sum(1) for piece in pieces])


class Pairs:
    """The pairs of neighbouring weights of a layer, and from which level on each can saturate."""

    def __init__(self, weight: Tensor, groups: int) -> None:
        if weight.shape[1] % 2:  # an odd channel has zeros for a neighbour
            weight = functional.pad(weight, (0, 0, 0, 0, 0, 1))
        self.groups = groups
        self.rows = weight.shape[0] // groups
        self.kernel = weight.shape[2:]
        pairs = weight.reshape(groups, self.rows, -1, 2, *self.kernel)
        reach = torch.maximum(pairs.clamp_min(0).sum(3).amax(1), pairs.clamp_max(0).sum(3).amin(1).neg())
        # Both levels at most this, and no row of this pair saturates at this position of the kernel.
        self.safe = (INT16_MAX / reach.clamp_min(1)).flatten(0, 1)  # (pairs of all groups, h, w)
        self.safe_anywhere = self.safe.amin((1, 2))
        self.filters = (
            pairs.permute(0, 2, 4, 5, 3, 1).flatten(0, 3).contiguous()
        )  # (pairs of all groups x h x w, 2, rows)

    def saturation(self, levels: Tensor, attributes: Mapping[str, Any]) -> Tensor | None:
        """Return what saturation takes from the sums, to be added to them, or None where that is nothing.

        Few levels are so large that their pair can saturate: only those pairs are multiplied out, but then in all rows.

        Args:
            levels: Integers in 0..255, `(N, C, H, W)`.
            attributes: Of the Conv, as ONNX has them.
        """
        (top, left), (down, across) = attributes["pads"][:2], attributes["strides"]
        count, height, width = (
            len(levels),
            (levels.shape[2] + 2 * top - self.kernel[0]) // down + 1,
            (levels.shape[3] + 2 * left - self.kernel[1]) // across + 1,
        )
        if levels.shape[1] // self.groups % 2:
            by_group = levels.reshape(count, self.groups, -1, *levels.shape[2:])
            levels = functional.pad(by_group, (0, 0, 0, 0, 0, 1)).flatten(1, 2)
        sides = levels[:, 0::2], levels[:, 1::2]
        higher = torch.maximum(*sides)
        image, pair, row, column = (higher > self.safe_anywhere.view(1, -1, 1, 1)).nonzero(as_tuple=True)
        if not len(image):
            return None
        first, second, larger = (values[image, pair, row, column] for values in (*sides, higher))
        group = pair // (len(self.safe) // self.groups)
        taken = levels.new_zeros(count * height * width * self.groups, self.rows)
        for y in range(self.kernel[0]):
            for x in range(self.kernel[1]):
                below, right = row + (top - y), column + (left - x)
                hit = (below % down == 0) & (right % across == 0) & (larger > self.safe[pair, y, x])
                below, right = below // down, right // across
                hit &= (below >= 0) & (below < height) & (right >= 0) & (right < width)
                found = hit.nonzero()[:, 0]
                which = (pair[found] * self.kernel[0] + y) * self.kernel[1] + x
                position = ((image[found] * height + below[found]) * width + right[found]) * self.groups + group[found]
                self._take(taken, which, position, (first[found], second[found]))
        return taken.view(count, height, width, -1).permute(0, 3, 1, 2)

    def _take(self, taken: Tensor, which: Tensor, position: Tensor, levels: tuple[Tensor, Tensor]) -> None:
        """Add what saturation takes from the sums of pairs `which` to the rows at each `position`."""
        size = max(1, _AT_ONCE // self.rows)
        first, second = (side[:, None] for side in levels)
        for start in range(0, len(which), size):
            part = slice(start, start + size)
            weights = self.filters.index_select(0, which[part])  # (n, 2, rows)
            sums = first[part] * weights[:, 0]
            sums.addcmul_(second[part], weights[:, 1])
            taken.index_add_(0, position[part], sums.clamp(INT16_MIN, INT16_MAX).sub_(sums))
