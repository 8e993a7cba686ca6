"""What the scripts share: scratch space, photographs made by a seed, and results with the machine's name."""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from edgeresnext.machine.environment import environment, package_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RESULTS = Path(__file__).parent / "results"


def save(name: str, figures: dict[str, Any], **versions: str) -> None:
    """Write figures with where they were measured to `results/NAME.json`."""
    _write(name, {"environment": environment() | versions, **figures})


def save_section(name: str, section: str, found: Any, **versions: str) -> None:
    """Write one section of `results/NAME.json`, with where it was measured; the others stay, and keep theirs."""
    here = environment() | versions
    figures = load(name) if (RESULTS / f"{name}.json").exists() else {"environment": here}
    measured = figures.get("measured", {}) | {section: here}
    _write(name, figures | {"measured": measured, section: found})


def run_sections(name: str, about: str | None, sections: dict[str, Callable[[Path], Any]], *packages: str) -> None:
    """Run the sections that are asked for (`--only`, else all), each in a folder of its own, and save what came of it."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sections, action="append")
    for section in parser.parse_args().only or sections:
        with scratch() as root:
            found = sections[section](root)
        print(section, found, flush=True)
        save_section(name, section, found, **package_versions(*packages))


def _write(name: str, figures: dict[str, Any]) -> None:
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def load(name: str) -> dict[str, Any]:
    """Return the figures of `results/NAME.json`."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="edgeresnext-") as name:
        yield Path(name)


def some_images(
    source: Path, target: Path, count: int | None = None, *, classes: Sequence[str] = (), flat: bool = False
) -> Path:
    """Copy the first images of each class folder, or of some, into folders of the same names; return `target`.

    With `flat` they go into one folder, whose images say nothing of their classes.
    """
    for folder in sorted(source / name for name in classes) if classes else sorted(source.iterdir()):
        into = target if flat else target / folder.name
        into.mkdir(parents=True, exist_ok=True)
        for image in sorted(folder.iterdir())[:count]:
            (into / f"{folder.name}-{image.name}").write_bytes(image.read_bytes())
    return target


def make_photos(folder: Path, count: int, seed: int = 0) -> Path:
    """Write JPEG files of 320 x 240 smooth colour patterns with noise; no photograph is shipped with the project."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for index in range(count):
        cells = int(generator.integers(2, 14))
        coarse = generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(image + generator.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{index:04}.jpg", quality=92)
    return folder
