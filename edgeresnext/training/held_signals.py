"""Signals that wait until a step is over: what is written then is a state to resume from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

_HELD = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held() -> Iterator[Callable[[], bool]]:
    """Hold SIGINT and SIGTERM back; yield what tells whether one came. It is handled as ever when the block ends.

    A second one is handled at once. Where another thread is the main one nothing is held: signals are not ours there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers = {one: signal.getsignal(one) for one in _HELD}
    # One that is ignored stays so, and one that Python did not set is left alone.
    before = {one: found for one, found in handlers.items() if callable(found) or found == signal.SIG_DFL}

    def note(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))
        if len(came) > 1:
            _handle(before, number, frame)

    for one in before:
        signal.signal(one, note)
    try:
        yield lambda: bool(came)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if came:
        _handle(before, *came[0])


def _handle(before: Mapping[signal.Signals, object], number: int, frame: FrameType | None) -> None:
    """Do what would have been done."""
    handler = before[signal.Signals(number)]
    if callable(handler):
        handler(number, frame)
    elif handler == signal.SIG_DFL:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(signal.Signals(number))
