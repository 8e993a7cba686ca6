"""What a check on hardware is: a function with a time limit that returns figures, and the place where it works."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

STAGES_VARIABLE = "GPU_STAGES"
"""The package with the stages; tests of the runner put their own in its place."""

BUNDLE_LIMIT_S = 300


class Skipped(Exception):  # noqa: N818 - nothing went wrong
    """There is nothing to check here, for the reason given."""


@dataclass(frozen=True)
class Work:
    """Where a check works.

    Args:
        folder: What stages share: bundles that one has built and the others find.
        out: Where reports go that people will read.
        seconds: How long the long runs take.
        scale: How many repetitions, of those that hardware gets; tests on stand-ins take few.
    """

    folder: Path
    out: Path
    seconds: float = 600.0
    scale: float = 1.0

    def times(self, count):
        """How often to do what hardware does `count` times."""
        return max(2, int(count * self.scale))

    def bundle(self, name):
        """Return a bundle of random weights that the stage's first check has built."""
        path = self.folder / name
        if not (path / "manifest.json").exists():
            raise Skipped(f"there is no bundle {name}: its build stands above")
        return path

    def engines(self, name, backend):
        """Return that bundle with engines for the GPU of this machine, which the stage's first checks have built."""
        return self.bundle(f"{name}-{backend}")


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        name: Of its function, with the variant.
        title: The first line of its docstring.
        limit_s: Seconds after which its process is ended.
        call: Takes the `Work` and returns figures, as JSON has them, or None.
    """

    name: str
    title: str
    limit_s: float
    call: Callable[[Work], dict | None]


def check(limit_s, *variants):
    """Make a function a check with a time limit; with variants it is one for each, which it takes as second argument."""

    def mark(function):
        title = (function.__doc__ or function.__name__).strip().splitlines()[0]
        function.checks = tuple(
            Check(
                name=f"{function.__name__}[{variant}]" if variant else function.__name__,
                title=title,
                limit_s=limit_s,
                call=functools.partial(_call, function, *([variant] if variant else [])),
            )
            for variant in variants or ("",)
        )
        return function

    return mark


def _call(function, *arguments):
    *variant, work = arguments
    return function(work, *variant)


def stage(name):
    """Return the module of a stage."""
    return importlib.import_module(f"{os.environ.get(STAGES_VARIABLE, 'gpu.stages')}.{name}")


def checks_of(name):
    """Return the checks of a stage in their order, those that build its bundles and engines first."""
    module = stage(name)
    found = [*_builds(getattr(module, "BUNDLES", ()), getattr(module, "ENGINES", ()))]
    for value in vars(module).values():
        if getattr(value, "__module__", "") == module.__name__:
            found += getattr(value, "checks", ())
    return found


def _builds(bundles, engines) -> Iterator[Check]:
    from gpu import building  # whose imports nobody needs who builds nothing

    for name in bundles:
        title = f"A bundle of {name} with random weights is built"
        yield Check(f"bundle[{name}]", title, BUNDLE_LIMIT_S, functools.partial(_call, building.bundle, name))
    for name, backend in engines:
        title = f"Its engines for this GPU are built by {backend}"
        call = functools.partial(_call, building.engines, (name, backend))
        yield Check(f"engines[{name}-{backend}]", title, BUNDLE_LIMIT_S, call)
