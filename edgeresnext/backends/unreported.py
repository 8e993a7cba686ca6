"""Runtimes imported so that they report nothing: importing them plainly leaves identifiers of this machine behind.

ONNX Runtime from 1.29 on writes a device identifier and a queue of events below the user's cache when it is imported;
OpenVINO's Python package starts openvino-telemetry, which writes an identifier to `~/intel` and sends to Google
Analytics. Neither is needed to run a network. `docs/faults.md` says what was seen.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_TELEMETRY = "openvino_telemetry"


def onnxruntime() -> Any:  # noqa: ANN401 - a module
    """Return ONNX Runtime, its telemetry switched off unless the environment says otherwise.

    Raises:
        ImportError: It is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it is read when the library is loaded, not later
    import onnxruntime

    return onnxruntime


def openvino() -> Any:  # noqa: ANN401 - a module
    """Return OpenVINO, imported as if openvino-telemetry were not installed: it then uses a stub of its own.

    Raises:
        ImportError: It is not installed.
    """
    absent = _TELEMETRY not in sys.modules
    if absent:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # what Python takes for not installed
    try:
        import openvino
    finally:
        if absent:
            sys.modules.pop(_TELEMETRY, None)
    return openvino
