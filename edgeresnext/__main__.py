"""`edgeresnext`, and `python -m edgeresnext`: the command line, which ends quietly from its first moment on."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False

if TYPE_CHECKING:
    from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)
"""Signals by which people and supervisors end a program: it cleans up, says so, and leaves with 128 + the number."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    _open_standard_streams()
    chosen = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]  # nohup, `&` in a script
    try:
        for number in chosen:
            signal.signal(number, _leave)
    except ValueError:  # in another thread than the main one, signals are not ours
        chosen = []
    from edgeresnext.cli import interruption, root

    for number in chosen:
        signal.signal(number, interruption.interrupt)
    root.run()


def _open_standard_streams() -> None:
    """Open what was closed (`2>&-`) on nothing: the next file would get its number, and what is printed natively."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            os.set_inheritable(number, True)  # noqa: FBT003 - os takes it so


def _leave(number: int, _frame: FrameType | None) -> None:
    """End at once: nothing has been begun while packages load, and importing must not be broken off in the middle."""
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"error: interrupted; nothing was begun\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
