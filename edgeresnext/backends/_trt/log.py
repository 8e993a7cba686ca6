"""TensorRT's logger interface, as a plain function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def make_logger(trt: Any, listen: Callable[[str, str], None]) -> Any:  # noqa: ANN401 - TensorRT carries no types
    """Return a logger of module `trt` that gives every message to `listen`: the severity's name, and the text."""

    class Listener(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 demands the direct call

        def log(self, severity: Any, msg: str) -> None:  # noqa: ANN401 - an enum of that module
            listen(severity.name, msg)

    return Listener()
