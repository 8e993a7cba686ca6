"""Folders of images: what is in them, seeded samples, digests, and which class each is.

A folder holds either images (no labels) or one folder of images a class (the folder's name is the class).
"""

from __future__ import annotations

import functools
import logging
import os
import random
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from edgeresnext.data.images import FORMATS
from edgeresnext.errors import DataError, shortened
from edgeresnext.spec import ClassOrder

_log = logging.getLogger("edgeresnext")
_NO_CLASSES = frozenset({"@eaDir", "__MACOSX", "$RECYCLE.BIN", "lost+found"})
"""What file managers and network drives leave in folders; names that begin with a dot are passed over too."""
_NO_LOSS = frozenset({"thumbs.db", "desktop.ini", "manifest.json"})


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the ends of file names that count as images: those of `images.FORMATS` that this Pillow decodes."""
    return frozenset(
        suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS and kind in Image.OPEN
    )


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
    """List the images of a folder; links are followed, each folder once, and what is no image is named in a warning.

    Raises:
        DataError: The folder is missing, holds no image, or mixes images with class folders.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"image folder '{root}' {what}", "Give a folder of images, or of one folder a class.")
    others: list[str] = []
    try:
        loose = _images(_files(root, deep=False), others)
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
        by_class = {folder.name: found for folder in folders if (found := _images(_files(folder, deep=True), others))}
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
            f"Looked for {', '.join(sorted(suffixes()))}, directly in it and in its folders.",
        )
    if others:
        _log.warning(
            "'%s': %d files are no images and are passed over: %s", root, len(others), shortened(sorted(others), 3)
        )
    if loose:
        return ImageFolder(root=root, images=tuple(loose))
    return ImageFolder(
        root=root,
        images=tuple(image for images in by_class.values() for image in images),
        classes=tuple(by_class),
        targets=tuple(index for index, images in enumerate(by_class.values()) for _ in images),
    )


def is_hidden(name: str) -> bool:
    """Whether a name is one that people do not give."""
    return name.startswith(".") or name in _NO_CLASSES


def _files(folder: Path, *, deep: bool) -> Iterator[Path]:
    """Yield the files of a folder, `deep` of its folders too, links followed and each folder once."""
    seen: set[str] = set()

    def fail(error: OSError) -> None:
        raise error

    for where, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(where)
        new = real not in seen
        seen.add(real)
        folders[:] = [name for name in folders if new and deep and not is_hidden(name)]
        if new:
            yield from (Path(where, name) for name in names if not is_hidden(name))


def _images(paths: Iterator[Path], others: list[str]) -> list[Path]:
    """Return the image files among paths, sorted; others are added to `others` by name."""
    found = []
    for path in paths:
        if path.suffix.lower() in suffixes():
            if path.is_file():
                found.append(path)
        elif path.name.lower() not in _NO_LOSS:
            others.append(path.name)
    return sorted(found)


def match_classes(
    classes: Sequence[str], labels: Sequence[str], root: Path, order: ClassOrder | None = None
) -> tuple[int, ...]:
    """Return the model's class index for each class folder.

    A folder matches the label of its name, whatever Unicode's form of either. Where every label begins with an
    identifier of its own (`n01440764 tench`), it may be named after that alone.

    Where the labels are plain numbers (a bundle built without labels), training has numbered the classes, and folders
    say how only where there is one for each: the sorted folders in order, as PyTorch's ImageFolder does it. Folders
    that are numbers themselves may mean either that ("10" before "2") or their own value.

    Args:
        classes: Names of the folders, sorted.
        labels: The labels, in the order of the logits.
        root: The folder, for messages.
        order: What folders that are numbers mean: their place among the "sorted" names, or their "numeric" value.

    Raises:
        DataError: Some folders match no label, or more than one, or it must be said what their numbers mean.
    """
    classes, labels = [comparable(name) for name in classes], [comparable(label) for label in labels]
    if labels == [str(index) for index in range(len(labels))]:
        return _numbered(classes, len(labels), root, order)
    known: dict[str, int] = {}
    first_words = [label.split(maxsplit=1)[0] for label in labels]
    if all(" " in label for label in labels) and len(set(first_words)) == len(labels):
        known |= {word: index for index, word in enumerate(first_words)}
    known |= {label: index for index, label in enumerate(labels)}
    strangers = [name for name in classes if name not in known]
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


def comparable(name: str) -> str:
    """Return a name in the one form in which equal ones are equal (Unicode's NFC; macOS writes files in NFD)."""
    return unicodedata.normalize("NFC", name)


_ONE_DIGIT = 10
"""Numbers up to which sorting as text and by value is the same."""


def _numbered(classes: Sequence[str], count: int, root: Path, order: ClassOrder | None) -> tuple[int, ...]:
    """Return the class index of each folder for a network whose classes have numbers alone."""
    by_place = tuple(range(len(classes)))
    by_value = tuple(int(name) for name in classes) if all(name.isdecimal() for name in classes) else None
    if by_value is None:
        if len(classes) != count:
            raise DataError(
                f"{len(classes)} class folders in '{root}' ({shortened(classes, 4)}) say nothing of {count} classes "
                "without labels",
                "Give the labels where the bundle is built.",
                values=("labels",),
            )
        _log.warning(
            "the network has no labels: the class folders of '%s' are taken in sorted order, %s is class 0",
            root,
            classes[0],
        )
        return by_place
    whole = len(classes) == count or count <= _ONE_DIGIT  # else "2" may be the place among names that are not here
    if order is None and not (whole and by_place == by_value):
        raise DataError(
            f"the class folders in '{root}' are numbers ({shortened(classes, 4)}), which may be the classes' own or "
            f"their place among the {count} sorted names",
            "Training on image folders sorts them as text (0, 1, 10, 11, 2): class_order is then sorted, else numeric.",
            values=("class_order", "labels"),
        )
    chosen = by_place if order == "sorted" else by_value
    if (order == "sorted" and len(classes) != count) or max(chosen) >= count:
        raise DataError(
            f"{len(classes)} class folders in '{root}', up to {classes[-1]}, do not fit {count} classes",
            "Give the labels where the bundle is built, or the other class_order.",
            values=("class_order", "labels"),
        )
    if len(set(chosen)) < len(chosen):
        raise DataError(f"two class folders in '{root}' are the same number", "Rename one of them.")
    return chosen
