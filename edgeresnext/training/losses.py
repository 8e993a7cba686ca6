"""What is made small: the cross-entropy of labels, mixed and weighted, or the distance to what a teacher says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edgeresnext.spec import TrainingRecipe

_MIXING = 3
"""What is drawn (see `images`): how a batch is mixed."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of a recipe, as a sum over images.

    Args:
        recipe: What counts.
        classes: How many.
        weights: Of each class, float32 `(classes,)`, or None.
        teacher: Whose logits are learned, in evaluation mode; None to learn from labels.
    """

    recipe: TrainingRecipe
    classes: int
    weights: Tensor | None = None
    teacher: nn.Module | None = None

    def __call__(self, network: nn.Module, images: Tensor, targets: Tensor, draw: tuple[int, int]) -> Tensor:
        """Return the loss of normalised images.

        Args:
            network: Who learns.
            images: `(N, C, H, W)`.
            targets: Classes `(N,)`.
            draw: Epoch and batch, by which mixing is drawn.
        """
        if self.teacher is not None:
            with torch.no_grad():
                said = self.teacher(images)
            return distance(network(images), said, self.recipe.temperature)
        wanted = functional.one_hot(targets, self.classes).to(images.dtype)
        images, wanted = mixed(images, wanted, self.recipe, draw)
        logits = network(images).float()
        return functional.cross_entropy(
            logits, wanted, weight=self.weights, reduction="sum", label_smoothing=self.recipe.label_smoothing
        )


def distance(logits: Tensor, said: Tensor, temperature: float) -> Tensor:
    """Return the divergence (Kullback, Leibler) of softened probabilities, summed, times T squared (arXiv:1503.02531).

    Both are `(N, classes)`.
    """
    mine = functional.log_softmax(logits.float() / temperature, 1)
    its = functional.log_softmax(said.float() / temperature, 1)
    return functional.kl_div(mine, its, reduction="sum", log_target=True) * temperature**2


def mixed(images: Tensor, wanted: Tensor, recipe: TrainingRecipe, draw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return images mixed with others of their batch, and their targets in the same shares.

    Where a recipe has both, mixup and CutMix take turns by chance.
    """
    if not recipe.mixup and not recipe.cutmix:
        return images, wanted
    generator = np.random.default_rng([recipe.seed, _MIXING, *draw])
    cut = bool(recipe.cutmix) and (not recipe.mixup or generator.random() < 0.5)  # noqa: PLR2004 - a coin
    alpha = recipe.cutmix if cut else recipe.mixup
    share = float(generator.beta(alpha, alpha))
    others, theirs = images.flip(0), wanted.flip(0)
    if not cut:
        return images.lerp(others, 1 - share), wanted.lerp(theirs, 1 - share)
    height, width = images.shape[2:]
    down, across = (round(edge * (1 - share) ** 0.5) for edge in (height, width))
    top, left = int(generator.integers(0, height - down + 1)), int(generator.integers(0, width - across + 1))
    box = (..., slice(top, top + down), slice(left, left + across))
    images = images.clone()
    images[box] = others[box]
    return images, wanted.lerp(theirs, down * across / (height * width))


def class_weights(targets: NDArray[np.int64], classes: int) -> Tensor:
    """Return weights by which every class counts the same, one on the mean over the images; float32 `(classes,)`."""
    counts = np.bincount(targets, minlength=classes)
    return torch.from_numpy(len(targets) / (len(np.flatnonzero(counts)) * np.maximum(counts, 1))).float()
