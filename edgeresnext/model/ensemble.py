"""Several networks as one: the same images, and the mean of what they say.

One module, so that one file, one engine and one calibration follow from it as from any other network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from edgeresnext.errors import RequestError
from edgeresnext.model.resnext import ResNeXt
from edgeresnext.spec import Average, ModelSpec

_LEAST = torch.finfo(torch.float32).smallest_normal
"""What a probability is raised to: the logarithm of zero is infinite, and smaller ones are zero on some processors."""


class Ensemble(nn.Module):
    """Networks that see the same images.

    With "logits" each member's classifier has been divided by their number, and the logits are added. With
    "probability" the logits are log(p1 + p2 + ...), whose softmax is the mean of the probabilities; no logit is below
    -87.3, where float32 ends.

    Args:
        members: Take the same images, and return logits `(N, classes)` of the same classes.
        average: What is averaged.
    """

    def __init__(self, members: Sequence[nn.Module], average: Average) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.average = average

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of normalised images."""
        found = [member(x) for member in self.members]
        if self.average == "probability":
            found = [torch.softmax(logits, 1) for logits in found]
        total = found[0]
        for one in found[1:]:
            total = torch.add(total, one)
        return torch.log(torch.clamp(total, min=_LEAST)) if self.average == "probability" else total


def empty(spec: ModelSpec) -> nn.Module:
    """Return the network of a specification with weights that are still to be loaded."""
    if not spec.members:
        return ResNeXt(spec)
    return Ensemble([ResNeXt(member) for member in spec.members], spec.average)


def specify(members: Sequence[ModelSpec], average: Average, files: Sequence[str | Path] = ()) -> ModelSpec:
    """Return the specification of an ensemble.

    Args:
        members: Two or more.
        average: What is averaged.
        files: Where each comes from, for messages; by default their names.

    Raises:
        RequestError: The members do not see the same images, or tell other classes apart.
    """
    first = members[0]
    for name in ("classes", "preprocess"):
        values = [getattr(member, name) for member in members]
        other = next((index for index, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            whose = files or [member.name for member in members]
            raise RequestError(
                f"the members of an ensemble differ in {name}: '{whose[0]}' has {values[0]}, '{whose[other]}' has "
                f"{values[other]}",
                "They must see the same images and tell the same classes apart.",
            )
    return msgspec.structs.replace(
        first, name=" + ".join(member.name for member in members), members=tuple(members), average=average
    )


def join(members: Sequence[ResNeXt], average: Average) -> Ensemble:
    """Return trained networks as one, in evaluation mode; the members' classifiers are changed."""
    if average == "logits":
        for member in members:
            member.fc.weight.data /= len(members)
            member.fc.bias.data /= len(members)
    return Ensemble(members, average).requires_grad_(requires_grad=False).eval()
