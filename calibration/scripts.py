"""What the scripts of all calibration sets share: their arguments, what they say, and how they fail."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import subset

import edgeresnext
from edgeresnext import EdgeResNeXtError, files
from edgeresnext.cli.console import say, visible
from edgeresnext.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeresnext import Preprocess, TrainingRecipe

    Prepare = Callable[[str], dict[str, Path]]

MODEL = "resnext20_8x4d"
SAMPLES = 512


def prepare(about: str | None, write: Prepare) -> None:
    """Write the images of a set below the folder that is given, and say how many there are."""
    parser = _parser(about)
    parser.add_argument("folder")
    for split, folder in _done(lambda: write(parser.parse_args().folder)).items():
        say(f"{split:12} {len(list(folder.glob('*/*.png'))):5} images in {folder}")


def train(about: str | None, write: Prepare, name: str, *, preprocess: Preprocess, recipe: TrainingRecipe) -> None:
    """Train the small network on a set, which is written first where it is not there, and say how good it became."""
    parser = _parser(about)
    parser.add_argument("folder")
    parser.add_argument("output", nargs="?", help=f"file of the weights; FOLDER/{name} if left out")
    given = parser.parse_args()
    folders = _done(lambda: write(given.folder))
    output = Path(given.output or Path(given.folder) / name)
    done = _done(
        lambda: edgeresnext.train(
            folders["train"],
            model=MODEL,
            validation=folders["validation"],
            output=output.with_suffix(""),
            preprocess=preprocess,
            recipe=recipe,
            callbacks=[lambda one: say(f"epoch {one.epoch} of {recipe.epochs}: top-1 {one.top1:.2%}")],
        )
    )
    for beside in done.path.glob("best.*"):
        target = output.with_name(output.stem + beside.name.removeprefix("best"))
        _done(partial(_copy, beside, target))
    say(f"{output}: top-1 {done.best.top1:.2%} on {folders['validation']}")


def draw(about: str | None, check: Callable[[Path], None] = lambda _: None) -> None:
    """Draw a set from a folder of images, or the very same set again, and say what was drawn."""
    parser = _parser(about)
    parser.add_argument("source")
    parser.add_argument("output")
    parser.add_argument("--samples", type=int, help=f"images to draw; {SAMPLES} if left out")
    parser.add_argument("--seed", type=int, help="of the sample; 0 if left out")
    parser.add_argument("--like", metavar="MANIFEST", help="draw the images that this manifest names")
    given = parser.parse_args()
    if given.like and (given.samples is not None or given.seed is not None):
        parser.error("--like names the images: leave --samples and --seed out")
    check(Path(given.source))
    if given.like:
        drawn = _done(lambda: subset.draw_again(given.source, given.output, given.like))
    else:
        samples = SAMPLES if given.samples is None else given.samples
        drawn = _done(lambda: subset.draw(given.source, given.output, samples=samples, seed=given.seed or 0))
    classes = {image.file.rpartition("/")[0] for image in drawn.images} - {""}
    of = f" of {len(classes)} classes" if classes else ""
    say(f"{len(drawn.images)} images{of} in {given.output}, and their manifest")


def _parser(about: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)


def _copy(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all.

    Raises:
        InputError: It cannot be written.
    """
    try:
        files.write(target, source.read_bytes())
    except OSError as error:
        raise InputError(
            f"cannot write '{target}': {error.strerror}", "Free some space, or give another file."
        ) from None


def _done(work: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever the work returns
    """Do it, or end with what went wrong in two lines."""
    try:
        return work()
    except EdgeResNeXtError as error:
        sys.exit(visible(f"error: {error}"))
