"""TensorRT's logger interface, as a plain function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def make_logger(trt: Any, listen: Callable[[str, str], None]) -> Any:
    """Return a logger of module `trt` that gives every message to `listen`: the severity's name, and the text."""

    class Listener(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 demands the direct call

        def log(self, severity: Any, msg: str) -> None:
            listen(severity.name, msg)

    return Listener()
