"""Folders of images: what is in them, seeded samples, labels, digests.

A folder holds either images (no labels) or one folder of images a class (the folder's name is the class).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeresnext.errors import DataError, shortened

_log = logging.getLogger("edgeresnext")
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""File names that count as images."""


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """The images of a folder, in sorted order.

    Args:
        root: The folder.
        images: Paths of the images.
        classes: Names of the class folders, sorted; empty where the folder holds images without classes.
        targets: Index into `classes` for each image; empty without classes.
    """

    root: Path
    images: tuple[Path, ...]
    classes: tuple[str, ...] = ()
    targets: tuple[int, ...] = ()

    def sample(self, count: int, seed: int, *, stratified: bool = True) -> ImageFolder:
        """Return `count` images drawn with `seed`, in mixed order, evenly over the classes if `stratified`.

        All images if the folder holds no more than `count`. A class that runs short leaves its share to the others.
        """
        generator = random.Random(seed)  # noqa: S311 - reproducible sampling, not security
        by_class: dict[int, list[int]] = {}
        for index in range(len(self.images)):
            by_class.setdefault(self.targets[index] if self.targets and stratified else 0, []).append(index)
        queues = [generator.sample(indices, len(indices)) for _, indices in sorted(by_class.items())]
        generator.shuffle(queues)
        chosen: list[int] = []
        while len(chosen) < min(count, len(self.images)):
            chosen += [queue.pop() for queue in queues if queue]
        chosen = chosen[:count]
        return ImageFolder(
            root=self.root,
            images=tuple(self.images[i] for i in chosen),
            classes=self.classes,
            targets=tuple(self.targets[i] for i in chosen) if self.targets else (),
        )


def scan(root: str | Path) -> ImageFolder:
    """List the images of a folder.

    Raises:
        DataError: The folder is missing, holds no image, or mixes images with class folders.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"image folder '{root}' {what}", "Give a folder of images, or of one folder a class.")
    try:
        loose = _images(root, deep=False)
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        by_class = {folder.name: images for folder in folders if (images := _images(folder, deep=True))}
    except OSError as error:
        raise DataError(f"cannot list '{error.filename or root}': {error.strerror}", "Check its permissions.") from None
    if loose and by_class:
        raise DataError(
            f"image folder '{root}' holds both images ({loose[0].name}, ...) and class folders "
            f"({shortened(by_class, 3)})",
            "Put every image into a class folder, or all of them directly into one folder.",
        )
    if not loose and not by_class:
        raise DataError(
            f"image folder '{root}' holds no image",
            f"Looked for {', '.join(sorted(SUFFIXES))}, directly in it and in its folders.",
        )
    if loose:
        return ImageFolder(root=root, images=tuple(loose))
    return ImageFolder(
        root=root,
        images=tuple(image for images in by_class.values() for image in images),
        classes=tuple(by_class),
        targets=tuple(index for index, images in enumerate(by_class.values()) for _ in images),
    )


def _images(folder: Path, *, deep: bool) -> list[Path]:
    """Return the image files of one folder, sorted; `deep` looks into its folders too."""
    paths = list(folder.iterdir())  # raises where rglob would pass over a folder that may not be read
    if deep:
        paths = list(folder.rglob("*"))
    return sorted(p for p in paths if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())


def match_classes(classes: Sequence[str], labels: Sequence[str], root: Path) -> tuple[int, ...]:
    """Return the model's class index for each class folder.

    A folder matches the label of its name. Where every label begins with an identifier of its own (`n01440764 tench`),
    it may be named after that alone. Where the labels are plain numbers (a bundle built without labels) and there are
    as many folders, the sorted folders are the classes in order, as training on image folders numbers them.

    Raises:
        DataError: Some folders match no label, or more than one.
    """
    known: dict[str, int] = {}
    first_words = [label.split(maxsplit=1)[0] for label in labels]
    if all(" " in label for label in labels) and len(set(first_words)) == len(labels):
        known |= {word: index for index, word in enumerate(first_words)}
    known |= {label: index for index, label in enumerate(labels)}
    strangers = [name for name in classes if name not in known]
    numbered = tuple(labels) == tuple(str(index) for index in range(len(labels)))
    if strangers and numbered and len(classes) == len(labels):
        _log.warning(
            "the network has no labels: the class folders of '%s' are taken in sorted order, %s is class 0",
            root,
            classes[0],
        )
        return tuple(range(len(classes)))
    if strangers:
        raise DataError(
            f"{len(strangers)} of the {len(classes)} class folders in '{root}' match no label of the model: "
            f"{shortened(strangers)}",
            f"The model's {len(labels)} labels begin with {shortened(labels, 4)}. Name the folders after them, or "
            "begin each label with its folder's name and a space.",
        )
    ambiguous = [name for name in classes if labels.count(name) > 1]
    if ambiguous:
        raise DataError(
            f"class folders in '{root}' match several labels of the model: {shortened(ambiguous)}",
            "Begin each label with an identifier of its own, and name the folders after those.",
        )
    return tuple(known[name] for name in classes)


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Return the labels of a text file, one a line, in the order of the logits; two classes may share a label.

    Raises:
        DataError: The file is missing, not UTF-8, empty, or has an empty line before its last label.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read labels from '{path}': {error}", "Give a UTF-8 text file with one label a line."
        ) from None
    labels = tuple(line.strip() for line in lines)
    while labels and not labels[-1]:
        labels = labels[:-1]
    if not labels:
        raise DataError(f"labels file '{path}' is empty", "Write one label a line, in the order of the logits.")
    if "" in labels:
        raise DataError(f"line {labels.index('') + 1} of labels file '{path}' is empty", "Every class needs a label.")
    return labels
