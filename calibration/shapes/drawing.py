"""Drawn shapes as image folders: a task with errors left in it, from nothing but a seed.

Twenty classes, ten shapes filled or striped, in any colour, size, place and rotation, before a pattern, half hidden and
in noise. Nothing is downloaded, and there are as many images as one asks for.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from edgeresnext.errors import DataError

SPLITS = {"train": 12_000, "calibration": 512, "validation": 2000}
SIZE_PX = 64
_OVERSAMPLED = 2
"""Shapes are drawn larger and scaled down, for smooth edges."""
_STRIPE_PERIOD = 0.28
_MIN_CONTRAST = 60
_OCCLUDED = 0.35
"""Share of the images in which a bar lies over the shape."""


def _regular(corners: int, inner: float = 1.0) -> list[tuple[float, float]]:
    """Return the corners of a regular polygon in the unit circle; with `inner`, every second one drawn in."""
    count = corners * (1 if inner == 1.0 else 2)
    radii = [1.0 if i % 2 == 0 else inner for i in range(count)]
    turns = [2 * math.pi * i / count for i in range(count)]
    return [(radius * math.sin(turn), -radius * math.cos(turn)) for radius, turn in zip(radii, turns, strict=True)]


_ELLIPSE = [(0.55 * math.sin(2 * math.pi * i / 48), math.cos(2 * math.pi * i / 48)) for i in range(48)]
_ARC = [math.pi * i / 24 for i in range(25)]
_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "arrow": [(0, -1), (0.8, 0), (0.3, 0), (0.3, 1), (-0.3, 1), (-0.3, 0), (-0.8, 0)],
    "circle": _regular(48),
    "crescent": [(s * math.cos(a), h * math.sin(a) - 0.4) for s, h in ((1, 1), (-1, 0.35)) for a in _ARC],
    "cross": [
        (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3),
        (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3),
    ],
    "ellipse": _ELLIPSE,
    "hexagon": _regular(6),
    "pentagon": _regular(5),
    "square": _regular(4),
    "star": _regular(5, 0.45),
    "triangle": _regular(3),
}  # fmt: skip
CLASSES = tuple(f"{fill}-{name}" for fill in ("plain", "striped") for name in _OUTLINES)


def prepare(root: str | Path, seed: int = 0) -> dict[str, Path]:
    """Write the images below `root` as `SPLIT/CLASS/NUMBER.png` and return the folder of each split.

    Each image follows from the seed, its split and its number alone. Folders that are there already, with the right
    number of images, are kept.

    Raises:
        DataError: `root` holds something else, or cannot be written.
    """
    root = Path(root)
    folders = {split: root / split for split in SPLITS}
    if all(len(list(folders[split].glob("*/*.png"))) == count for split, count in SPLITS.items()):
        return folders
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"'{root}' holds something other than the drawn shapes", "Give a new or empty directory.")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
            prepared = Path(scratch) / root.name
            for number, (split, count) in enumerate(SPLITS.items()):
                for name in CLASSES:
                    (prepared / split / name).mkdir(parents=True)
                for index in range(count):
                    target = index % len(CLASSES)
                    image = draw(target, np.random.default_rng([seed, number, index]))
                    image.save(prepared / split / CLASSES[target] / f"{index:05}.png")
            prepared.replace(root)  # whole or not at all, also when interrupted
    except OSError as error:
        raise DataError(f"cannot write the shapes to '{root}': {error.strerror}", "Give another directory.") from None
    return folders


def draw(target: int, generator: np.random.Generator) -> Image.Image:
    """Return one image of class `target`, RGB, `SIZE_PX` square."""
    edge = SIZE_PX * _OVERSAMPLED
    fill, name = CLASSES[target].split("-")
    cells = int(generator.integers(2, 5))
    coarse = generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((edge, edge), Image.Resampling.BICUBIC)
    paint = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(0, 2))):  # things that are not the shape
        _line(paint, edge, generator)
    radius = edge * generator.uniform(0.22, 0.4)
    centre = edge / 2 + generator.uniform(-1, 1, 2) * (edge / 2 - radius)
    turn = generator.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    stretch = generator.uniform(0.85, 1.15, 2)
    outline = (np.array(_OUTLINES[name]) * stretch) @ rotation.T * radius + centre
    mask = Image.new("L", (edge, edge))
    ImageDraw.Draw(mask).polygon([tuple(point) for point in outline.tolist()], fill=255)
    behind = np.asarray(image, np.int16)[int(centre[1]) % edge, int(centre[0]) % edge]
    colour = _colour(behind, generator)
    surface = np.broadcast_to(colour, (edge, edge, 3)).copy()
    if fill == "striped":
        y, x = np.mgrid[:edge, :edge]
        angle = generator.uniform(0, math.pi)
        phase = (x * math.cos(angle) + y * math.sin(angle)) / (radius * _STRIPE_PERIOD)
        surface[(phase % 2) < 1] = _colour(colour.astype(np.int16), generator)
    image.paste(Image.fromarray(surface.astype(np.uint8)), mask=mask)
    if generator.random() < _OCCLUDED:
        _line(ImageDraw.Draw(image), edge, generator)
    small = np.asarray(image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX), np.float64)
    noisy = small * generator.uniform(0.5, 1.0) + generator.normal(0, generator.uniform(2, 12), small.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _colour(other: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a colour that can be told from `other`."""
    while True:
        colour = generator.integers(0, 256, 3)
        if np.abs(colour - other).max() >= _MIN_CONTRAST:
            return colour


def _line(paint: ImageDraw.ImageDraw, edge: int, generator: np.random.Generator) -> None:
    """Draw a bar of any colour across the image."""
    ends = generator.uniform(0, edge, 4).tolist()
    paint.line(ends, fill=tuple(generator.integers(0, 256, 3).tolist()), width=int(generator.integers(2, edge // 8)))
