"""Classify the same images with every session and compare: with the labels, and with the baseline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeresnext.data.images import Skipped, batches, image_digest
from edgeresnext.errors import EdgeResNeXtError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeresnext.backends.base import Session
    from edgeresnext.spec import Preprocess

_BATCH = 16
_TOP = 5


@dataclass(kw_only=True)
class Classified:
    """The best five classes of every image, by variant; images are decoded once and none is kept.

    Args:
        best: int64 `(images, 5)` by variant, best class first; fewer columns where there are fewer classes.
        targets: Right class of each image, int64 `(images,)`; None without labels.
        digests: `images.image_digest` of each image; empty where they were not read from files.
        skipped: Images that could not be decoded.
        failures: Error message of each session that failed.
    """

    best: dict[str, NDArray[np.int64]]
    targets: NDArray[np.int64] | None = None
    digests: list[str] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def top(self, variant: str, count: int) -> float | None:
        """Return the share of images whose right class is among the best `count`; None without labels."""
        if self.targets is None:
            return None
        return float((self.best[variant][:, :count] == self.targets[:, None]).any(1).mean())

    def flips(self, variant: str, baseline: NDArray[np.int64]) -> tuple[int, int] | None:
        """Return how many images the baseline alone and the variant alone classify right; None without labels.

        Args:
            variant: The variant.
            baseline: First class of each image by the baseline, int64 `(images,)`.
        """
        if self.targets is None:
            return None
        right, still = baseline == self.targets, self.best[variant][:, 0] == self.targets
        return int((right & ~still).sum()), int((still & ~right).sum())

    def agreement(self, variant: str, baseline: str) -> float:
        """Return the share of images for which two variants name the same first class."""
        return float((self.best[variant][:, 0] == self.best[baseline][:, 0]).mean())


def classify(
    sessions: Mapping[str, Session],
    paths: Sequence[Path],
    targets: Sequence[int] | None,
    preprocess: Preprocess,
    progress: Callable[[int, int], None],
) -> Classified:
    """Run every session over the images of a folder.

    Raises:
        DataError: More than 5 % of the images cannot be decoded.
    """
    skipped = Skipped()
    alive = dict(sessions)
    found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in sessions}
    failures: dict[str, str] = {}
    kept: list[int] = []
    digests: list[str] = []
    for images, positions in batches(paths, preprocess, _BATCH, skipped):
        kept += positions
        digests += [image_digest(image) for image in images]
        for name, session in list(alive.items()):
            try:
                found[name].append(best_classes(session.run(images)))
            except EdgeResNeXtError as error:
                failures[name] = error.what
                del alive[name]
        progress(len(kept) + len(skipped.paths), len(paths))
    return Classified(
        best={name: np.concatenate(found[name]) for name in alive if found[name]},
        targets=None if targets is None else np.asarray(targets, np.int64)[kept],
        digests=digests,
        skipped=skipped.paths,
        failures=failures,
    )


def best_classes(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the indices of the five largest logits of each row, largest first; ties go to the lower index."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :_TOP]
