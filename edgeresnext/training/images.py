"""The images of a training: which train and which judge, in which order, and how they come to the network."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeresnext.data import folder
from edgeresnext.data.folder import ImageFolder
from edgeresnext.data.images import MAX_SKIPPED, crop, decode
from edgeresnext.errors import DataError, shortened
from edgeresnext.spec import Preprocess, TrainingRecipe
from edgeresnext.training.augment import as_source, augmented

_REMEMBERED_BYTES = 1 << 30
"""Of decoded images that are kept; the others are decoded in every epoch."""
_AHEAD = 2
_TRAIN, _VALIDATION, _TEST = ("train", "training"), ("val", "valid", "validation", "dev", "eval"), ("test", "testing")
"""What the folders of a data set's parts are called."""
_ORDER, _IMAGE, _SPLIT = range(3)
"""What is drawn: each follows from the seed, this, and where it is, and from nothing that was drawn before."""
_log = logging.getLogger("edgeresnext")


@dataclass(frozen=True, kw_only=True)
class Split:
    """The images of a run.

    Args:
        train: Those that are learned from.
        validation: Those that it is judged on; None where there are none.
        classes: Names, in the order of the logits; empty without labels.
        about: Where the validation images are from, in words.
    """

    train: ImageFolder
    validation: ImageFolder | None
    classes: tuple[str, ...]
    about: str

    def without_labels(self) -> Split:
        """Return the same images, whose folders say nothing of what they show."""
        train, held = (
            None if part is None else replace(part, classes=(), targets=()) for part in (self.train, self.validation)
        )
        assert train is not None
        return replace(self, train=train, validation=held, classes=())

    @property
    def digest(self) -> str:
        """SHA-256 of the names and sizes of all images and of who is in which class: other data has another one."""
        found = hashlib.sha256()
        for part in (self.train, *([] if self.validation is None else [self.validation])):
            targets = part.targets or (0,) * len(part.images)
            for path, target in zip(part.images, targets, strict=True):
                name = os.path.relpath(path, part.root)
                found.update(f"{name}\0{path.stat().st_size}\0{target}\n".encode(errors="surrogateescape"))
            found.update(b"\n")
        return found.hexdigest()


def split(data: str | Path, validation: str | Path | None, recipe: TrainingRecipe) -> Split:
    """Return the images of a folder, and those that judge: of another folder, or a share of each class.

    Folders of `data` that are called `train` and `val` (see `_TRAIN` and `_VALIDATION`) are taken for the two; so is
    `train` alone, or with `test` beside it, which is not touched.

    Raises:
        DataError: A folder cannot be used, has no classes, fewer than two, or classes that the other lacks.
    """
    root, validation = _parts(Path(data), validation)
    found = folder.scan(root)
    _check_classes(found)
    if not found.classes and not recipe.distil:
        raise DataError(f"'{root}' has no class folders", "Training needs one folder of images a class.")
    if len(found.classes) == 1 and not recipe.distil:
        raise DataError(
            f"'{root}' has one class folder, '{found.classes[0]}'", "A classifier needs two classes or more."
        )
    if validation is None:
        return _drawn(found, recipe)
    held = folder.scan(validation)
    if found.root.resolve() in held.root.resolve().parents:
        raise DataError(
            f"validation folder '{held.root}' lies in '{found.root}', which would be learned from, and it with it",
            "Put it beside the images of training: train/ and val/.",
            values=("validation",),
        )
    known = {folder.comparable(name): index for index, name in enumerate(found.classes)}
    strangers = [name for name in held.classes if folder.comparable(name) not in known]
    if recipe.distil and (strangers or bool(held.classes) != bool(found.classes)):
        # A teacher judges: what one of them calls its folders says nothing of logits.
        _log.warning("'%s' and '%s' have other folders: images without labels", found.root, held.root)
        found, held = (replace(one, classes=(), targets=()) for one in (found, held))
    elif held.classes:
        if strangers:
            raise DataError(
                f"class folders in '{held.root}' are none of the training's: {shortened(strangers)}",
                f"Those of '{found.root}' are {shortened(found.classes)}.",
            )
        places = [known[folder.comparable(name)] for name in held.classes]
        held = ImageFolder(
            root=held.root,
            images=held.images,
            classes=found.classes,
            targets=tuple(places[one] for one in held.targets),
        )
    elif found.classes:
        raise DataError(
            f"validation folder '{held.root}' has no class folders", "Give a folder with one folder of images a class."
        )
    return Split(train=found, validation=held, classes=found.classes, about=f"{len(held.images)} of '{held.root}'")


def _parts(root: Path, validation: str | Path | None) -> tuple[Path, str | Path | None]:
    """Return the folders that train and that judge, of one that may hold both."""
    try:
        folders = [path for path in root.iterdir() if path.is_dir() and not folder.is_hidden(path.name)]
    except OSError:  # which the one who lists the images says in words
        return root, validation
    inner = {path.name.lower(): path for path in folders}
    learn, judge, other = (
        next((inner[name] for name in names if name in inner), None) for names in (_TRAIN, _VALIDATION, _TEST)
    )
    if learn is None or (judge is None and not set(inner) <= {*_TRAIN, *_TEST}):
        return root, validation
    if validation is None and judge is None and other is not None:
        _log.warning("'%s' is not touched: what judges is drawn from '%s'", other, learn)
    return learn, judge if validation is None else validation


def _check_classes(found: ImageFolder) -> None:
    """Refuse class folders without an image, which would be a class here and not there, and names that are no label."""
    for name in found.classes:
        if name != name.strip() or len(name.splitlines()) != 1 or name != name.encode(errors="replace").decode():
            raise DataError(
                f"class folder '{name}' in '{found.root}' has no name that a line of labels can have",
                "Rename it: UTF-8, no line breaks, no blanks around.",
            )
    names = {path.name for path in found.root.iterdir() if path.is_dir() and not folder.is_hidden(path.name)}
    empty = sorted(names - set(found.classes)) if found.classes else []
    if empty:
        raise DataError(
            f"class folders in '{found.root}' hold no image: {shortened(empty)}", "Remove them, or put images there."
        )


def _drawn(found: ImageFolder, recipe: TrainingRecipe) -> Split:
    """Return a folder of which a share of each class, at least one image of two, is set aside."""
    generator = np.random.default_rng([recipe.seed, _SPLIT])
    targets = np.array(found.targets or (0,) * len(found.images))
    aside: set[int] = set()
    for target in np.unique(targets):
        members = np.flatnonzero(targets == target)
        count = round(recipe.validation_share * len(members))
        count = min(max(count, 1), len(members) - 1) if recipe.validation_share else 0
        aside.update(generator.permutation(members)[:count].tolist())
    if not aside:
        return Split(train=found, validation=None, classes=found.classes, about="none")
    parts = [
        ImageFolder(
            root=found.root, images=tuple(found.images[i] for i in chosen), classes=found.classes,
            targets=tuple(found.targets[i] for i in chosen) if found.targets else (),
        )
        for chosen in ([i for i in range(len(found.images)) if i not in aside], sorted(aside))
    ]  # fmt: skip
    about = (
        f"{len(aside)} of '{found.root}', {recipe.validation_share:.0%} of each class, drawn with seed {recipe.seed}"
    )
    return Split(train=parts[0], validation=parts[1], classes=found.classes, about=about)


def order(found: ImageFolder, recipe: TrainingRecipe, epoch: int) -> NDArray[np.int64]:
    """Return the draws of an epoch: each image once, or all classes equally often where they are balanced.

    The k-th draw of an image, k from 0, is its position plus k times the number of images: it is augmented otherwise.
    """
    generator = np.random.default_rng([recipe.seed, _ORDER, epoch])
    count = len(found.images)
    if recipe.balance != "sampler" or not found.targets:
        return generator.permutation(count)
    targets = np.array(found.targets)
    chance = 1.0 / np.bincount(targets)[targets]
    chosen = generator.choice(count, count, p=chance / chance.sum())
    by_image = np.argsort(chosen, kind="stable")
    again = np.empty_like(chosen)
    again[by_image] = np.arange(count) - np.searchsorted(chosen[by_image], chosen[by_image])
    return chosen + count * again


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images of one step, perhaps none: uint8 `(n, height, width, channels)`, and their positions in the folder."""

    pixels: NDArray[np.uint8]
    positions: NDArray[np.int64]


@dataclass(kw_only=True)
class Images:
    """The images of a folder, decoded two batches ahead, and remembered where they fit into memory.

    Args:
        folder: The images.
        preprocess: How they become the network's input.
        recipe: What is done to those that are learned from; None for those that judge.
    """

    folder: ImageFolder
    preprocess: Preprocess
    recipe: TrainingRecipe | None
    bad: set[int] = field(default_factory=set)
    _known: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stream(self, parts: Sequence[NDArray[np.int64]], epoch: int) -> Iterator[Batch]:
        """Yield the images of each part, draws of `order`; one that cannot be read is left out, and named once.

        Raises:
            DataError: More than 5 % of the folder cannot be read.
        """
        with ThreadPoolExecutor(max(2, (os.cpu_count() or 2) // 2)) as pool:
            ahead: deque[tuple[NDArray[np.int64], list[Future[NDArray[np.uint8] | None]]]] = deque()
            for part in [*parts, *[None] * _AHEAD]:
                if part is not None:
                    ahead.append((part, [pool.submit(self._one, int(index), epoch) for index in part]))
                if len(ahead) > _AHEAD or (part is None and ahead):
                    positions, futures = ahead.popleft()
                    found = [future.result() for future in futures]
                    good = [image for image in found if image is not None]
                    kept = positions[[image is not None for image in found]] % len(self.folder.images)
                    yield Batch(pixels=np.array(good, np.uint8), positions=kept)

    def _one(self, draw: int, epoch: int) -> NDArray[np.uint8] | None:
        """Return one image as it is given to the network, or None where it cannot be read."""
        index = draw % len(self.folder.images)
        if index in self.bad:
            return None
        try:
            source = self._known.get(index)
            if source is None:
                source = self._source(self.folder.images[index])
                self._remember(index, source)
            if self.recipe is None:
                return source
            generator = np.random.default_rng([self.recipe.seed, _IMAGE, epoch, draw])
            return augmented(source, self.preprocess, self.recipe, generator)
        except DataError as error:
            self._note(index, error)
            return None

    def _source(self, path: Path) -> NDArray[np.uint8]:
        image = decode(path, self.preprocess.channels)
        return crop(image, self.preprocess) if self.recipe is None else as_source(image, self.preprocess, self.recipe)

    def _remember(self, index: int, source: NDArray[np.uint8]) -> None:
        with self._lock:
            if self._bytes + source.nbytes <= _REMEMBERED_BYTES:
                self._bytes += source.nbytes
                self._known[index] = source

    def _note(self, index: int, error: DataError) -> None:
        """Take note of an image that cannot be read."""
        with self._lock:
            if index not in self.bad:
                self.bad.add(index)
                path = str(self.folder.images[index])  # which `crop` does not know
                _log.warning("skipped: %s", error.what if path in error.what else f"'{path}': {error.what}")
            count = len(self.folder.images)
            if len(self.bad) > max(1, MAX_SKIPPED * count) or len(self.bad) == count:  # of few images one may be bad
                names = shortened(str(self.folder.images[one]) for one in sorted(self.bad))
                raise DataError(
                    f"at least {len(self.bad)} of {count} images cannot be read, more than {MAX_SKIPPED:.0%}: {names}",
                    "Remove or replace them.",
                )
