"""What can go wrong, as one tree; the exit code of the command line stands beside each.

EdgeResNeXtError            1  failed
├── RequestError            2  an option or name that does not exist, or does not fit the others
├── AccuracyError           3  an artefact is too far from PyTorch to be published
├── NotInstalledError       4  a package, driver or device that this machine lacks
├── InputError              5  a file or value given to us is not what it should be
│   ├── CheckpointError        weights that do not fit the model, or cannot be read
│   ├── DataError              images, labels and folders
│   ├── BundleError            a bundle that is incomplete, altered or not a bundle
│   └── ReportError            a saved benchmark that is damaged, foreign or of another schema
└── BackendError            1  a runtime refused an artefact, or failed while running it

Every error says what happened and to which file or value; `hint` says what to do next. Neither speaks of flags: the
command line adds how the `values` that an error is about are typed.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class EdgeResNeXtError(Exception):
    """Root of every error that this package raises on purpose.

    Args:
        what: What happened, naming the file or value.
        hint: What to do next, as a sentence or a command to type.
        values: Names of the arguments and fields that it is about, such as "max_drop".
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, hint: str = "", *, values: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.values = values

    def __str__(self) -> str:
        """Return the message, then the hint on a line of its own."""
        return f"{self.what}\n  {self.hint}" if self.hint else self.what


class RequestError(EdgeResNeXtError):
    """An option or name that does not exist, or does not fit the others."""

    exit_code = 2


class AccuracyError(EdgeResNeXtError):
    """An artefact is too far from PyTorch to be published."""

    exit_code = 3


class NotInstalledError(EdgeResNeXtError):
    """A package, driver or device that this machine lacks."""

    exit_code = 4


class InputError(EdgeResNeXtError):
    """A file or value given to us is not what it should be."""

    exit_code = 5


class CheckpointError(InputError):
    """Weights that do not fit the model, or cannot be read."""


class DataError(InputError):
    """Images, labels or folders that cannot be used."""


class BundleError(InputError):
    """A bundle that is incomplete, altered or not a bundle."""


class ReportError(InputError):
    """A saved benchmark that is damaged, foreign or of another schema."""


class BackendError(EdgeResNeXtError):
    """A runtime refused an artefact, or failed while running it."""


_LISTED = 16
"""Names that are listed where one is unknown."""


def unknown_name(kind: str, name: str, known: Iterable[str], values: tuple[str, ...] = ()) -> RequestError:
    """Return the error for a name that is not among `known`, suggesting the nearest; `values` as an error has them."""
    known = list(known)
    near = [one for one in known if name and one.startswith(name)] or get_close_matches(name, known, n=1, cutoff=0.5)
    suggestion = f"Did you mean '{near[0]}'? " if near else ""
    return RequestError(f"unknown {kind} '{name}'", f"{suggestion}Known: {shortened(known, _LISTED)}.", values=values)


def shown(number: float) -> str:
    """Return a number as messages have it, however large: Python makes a float of no integer beyond 1.8e308."""
    try:
        return f"{number:g}"
    except OverflowError:
        return f"a number of {int(number).bit_length()} bits"


def shortened(names: Iterable[str], limit: int = 6) -> str:
    """Return names joined by commas, the ones beyond `limit` counted instead of listed."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
