"""Classify the same images with every session and compare: with the labels, and with PyTorch."""

from __future__ import annotations

import hashlib
import heapq
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends.base import Session
from edgeresnext.data.images import Skipped, as_picture, batches, image_digest
from edgeresnext.errors import EdgeResNeXtError
from edgeresnext.measure.results import ChangedImage, ClassAccuracy
from edgeresnext.runtime.classifier import softmax
from edgeresnext.spec import Preprocess

_BATCH = 16
_TOP = 5
_CHANGED = 8
"""Images kept of each variant."""

_THUMBNAIL_PX, _THUMBNAIL_QUALITY = 96, 80


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

    def right(self, variant: str) -> NDArray[np.bool_] | None:
        """Return for each image whether the variant's first class is the right one; None without labels."""
        return None if self.targets is None else self.best[variant][:, 0] == self.targets

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

    def classes(self, labels: Sequence[str]) -> tuple[ClassAccuracy, ...]:
        """Return what each variant gets right of each class that has images."""
        if self.targets is None:
            return ()
        counts = np.bincount(self.targets, minlength=len(labels))
        right = {name: self.best[name][:, 0] == self.targets for name in self.best}
        hits = {name: np.bincount(self.targets[found], minlength=len(labels)) for name, found in right.items()}
        return tuple(
            ClassAccuracy(
                label=labels[index],
                images=int(counts[index]),
                top1={name: float(found[index] / counts[index]) for name, found in hits.items()},
            )
            for index in np.flatnonzero(counts).tolist()
        )

    def images_sha256(self) -> str:
        """Return a digest of all images in their order; empty where they were not read from files."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest() if self.digests else ""


class Watcher(Protocol):
    """Sees every batch of images that is classified, with every session's logits."""

    def add(
        self,
        images: NDArray[np.uint8],
        paths: Sequence[Path],
        targets: Sequence[int | None],
        logits: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Take note of one batch: its images, their files, their right classes and every session's logits."""


class Changes:
    """Keeps, for each variant, the images whose probabilities are furthest from the reference's.

    Args:
        reference: Name of the session that the others are compared with.
        labels: The label of each logit.
    """

    def __init__(self, reference: str, labels: Sequence[str]) -> None:
        self._reference = reference
        self._labels = labels
        self._kept: dict[str, list[tuple[float, int, ChangedImage]]] = {}
        self._order = itertools.count()  # decides between equal changes, which heaps compare next

    def add(
        self,
        images: NDArray[np.uint8],
        paths: Sequence[Path],
        targets: Sequence[int | None],
        logits: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Take note of one batch: its images, their files, their right classes and every session's logits."""
        if self._reference not in logits:
            return
        before = softmax(logits[self._reference])
        for name, found in logits.items():
            if name == self._reference:
                continue
            after = softmax(found)
            change = np.nan_to_num(np.abs(after - before).max(1), nan=0.0)  # an overflow has no probabilities
            kept = self._kept.setdefault(name, [])
            for index in np.argsort(-change)[:_CHANGED].tolist():
                if len(kept) == _CHANGED and change[index] <= kept[0][0]:
                    break
                first, then = int(before[index].argmax()), int(after[index].argmax())
                target = targets[index]
                entry = ChangedImage(
                    file=str(paths[index]),
                    variant=name,
                    label="" if target is None else self._labels[target],
                    before=self._labels[first],
                    before_probability=float(before[index, first]),
                    after=self._labels[then],
                    after_probability=float(after[index, then]),
                    change=float(change[index]),
                    thumbnail=_thumbnail(images[index]),
                )
                push = heapq.heappush if len(kept) < _CHANGED else heapq.heappushpop
                push(kept, (entry.change, next(self._order), entry))

    def found(self) -> tuple[ChangedImage, ...]:
        """Return the images, by variant, the most changed first."""
        return tuple(entry for kept in self._kept.values() for _, _, entry in sorted(kept, reverse=True))


def _thumbnail(image: NDArray[np.uint8]) -> bytes:
    """Return an image as a small JPEG."""
    picture = as_picture(image)
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    buffer = io.BytesIO()
    picture.convert("L" if picture.mode == "L" else "RGB").save(buffer, "JPEG", quality=_THUMBNAIL_QUALITY)
    return buffer.getvalue()


def classify(
    sessions: Mapping[str, Session],
    paths: Sequence[Path],
    targets: Sequence[int] | None,
    preprocess: Preprocess,
    progress: Callable[[int, int], None],
    *,
    watcher: Watcher | None = None,
    done: Callable[[Classified], object] = lambda _found: None,
) -> Classified:
    """Run every session over the images of a folder.

    Args:
        sessions: By name.
        paths: Image files.
        targets: Right class of each; None without labels.
        preprocess: Resize and crop.
        progress: Told how many images are done.
        watcher: Shown every batch.
        done: Told what is known whenever the run ends, interrupted too; the images are the same for every session.

    Raises:
        DataError: More than 5 % of the images cannot be decoded.
    """
    skipped = Skipped()
    alive = dict(sessions)
    found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in sessions}
    failures: dict[str, str] = {}
    kept: list[int] = []
    digests: list[str] = []

    def so_far() -> Classified:
        best = {name: np.concatenate(found[name]) for name in alive if found[name]}
        count = min((len(one) for one in best.values()), default=0)
        count = min(count, len(digests))
        return Classified(
            best={name: one[:count] for name, one in best.items()},
            targets=None if targets is None else np.asarray(targets, np.int64)[kept[:count]],
            digests=digests[:count],
            skipped=skipped.paths,
            failures=failures,
        )

    try:
        for images, positions in batches(paths, preprocess, _BATCH, skipped):
            logits: dict[str, NDArray[np.float32]] = {}
            for name, session in list(alive.items()):
                try:
                    logits[name] = session.run(images)
                except EdgeResNeXtError as error:
                    failures[name] = error.what
                    del alive[name]
            best = {name: best_classes(values) for name, values in logits.items()}
            hashes = [image_digest(image) for image in images]
            # Only now, and `so_far` cuts: an interruption leaves the same images to every session.
            kept += positions
            digests += hashes
            for name, values in best.items():
                found[name].append(values)
            if watcher is not None:
                right: list[int | None] = [None if targets is None else targets[i] for i in positions]
                watcher.add(images, [paths[i] for i in positions], right, logits)
            progress(len(kept) + len(skipped.paths), len(paths))
    finally:
        if kept:
            done(so_far())
    return so_far()


def best_classes(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the indices of the five largest logits of each row, largest first; ties go to the lower index."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :_TOP]
