"""Signals that end the program: an exception where it stands, so that everything cleans up, and the right exit code."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

_came: list[int] = []
"""The signals that came: a native library may turn the exception that one raises into another error."""


class Interrupted(KeyboardInterrupt):
    """A signal asked this program to end."""


def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """Handle a signal that ends the program.

    Raises:
        Interrupted: Always.
    """
    _came.append(number)
    raise Interrupted(number)


def came() -> bool:
    """Whether a signal has asked this program to end."""
    return bool(_came)


def how() -> str:
    """Say which kind of signal it was; where none is known it was Ctrl-C."""
    return "terminated" if _came[-1:] == [signal.SIGTERM] else "interrupted"


def exit_code() -> int:
    """Return the exit code of a program that a signal ended: 128 and its number."""
    return 128 + (_came[-1] if _came else signal.SIGINT)
