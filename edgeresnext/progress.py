"""How long work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told how far a stage is; `total` may change while it runs."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note that `done` of `total` steps of `stage` are over."""


def silent(stage: str, done: int, total: int) -> None:
    """Ignore progress."""
    del stage, done, total
