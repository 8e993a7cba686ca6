"""Device memory, copies, streams and graphs, by CUDA's driver API: by ctypes, by cuda-python or by pycuda.

All three work in the device's primary context, the one that PyTorch and TensorRT use too, and none links a CUDA runtime
of its own, whose release would have to fit the driver.
"""

from __future__ import annotations

import functools
import os

from edgeresnext import extras
from edgeresnext.backends.cuda.api import Cuda
from edgeresnext.backends.cuda.cuda_python import CudaPython
from edgeresnext.backends.cuda.driver import Driver
from edgeresnext.backends.cuda.pycuda import PyCuda
from edgeresnext.errors import EdgeResNeXtError, NotInstalledError, unknown_name
from edgeresnext.machine import gpu

VARIABLE = "EDGERESNEXT_CUDA"
"""Environment variable that names the library to use, for programs whose own streams are of that library."""

LIBRARIES: dict[str, type[Cuda]] = {"ctypes": Driver, "cuda.bindings": CudaPython, "pycuda": PyCuda}
"""The package that each implementation needs, in the order in which they are tried."""

_HOW_TO_INSTALL = {"cuda-python": "pip install cuda-python", "pycuda": "pip install pycuda (needs the CUDA headers)"}
_LATER = "edgeresnext doctor shows what is missing."


def connect() -> Cuda:
    """Return CUDA on the GPU in use, by the library that is asked for, else by the first that starts.

    Raises:
        NotInstalledError: None starts; the reasons are given.
        RequestError: `EDGERESNEXT_CUDA` names no library.
    """
    device = gpu.detect()
    reasons = []
    for package, library in _asked_for().items():
        if not extras.installed(package):
            reasons.append(f"{library.name} is not installed")
            continue
        try:
            return _connected(library, device.index if device else 0)
        except (EdgeResNeXtError, ImportError, OSError) as error:
            what = error.what if isinstance(error, EdgeResNeXtError) else error
            reasons.append(f"{library.name}: {what}")
    raise NotInstalledError(f"no CUDA from Python: {'; '.join(reasons)}", how_to_install())


def unavailable() -> str | None:
    """Return None where CUDA starts here, or one line: why not, and the way out. Asked by connecting."""
    try:
        connect()
    except EdgeResNeXtError as error:
        return f"{error.what}: {error.hint}"
    return None


def how_to_install() -> str:
    """Return what to do where CUDA does not start: only a library that was asked for by name has to be installed."""
    return _HOW_TO_INSTALL.get(os.environ.get(VARIABLE, ""), _LATER)


def _asked_for() -> dict[str, type[Cuda]]:
    name = os.environ.get(VARIABLE)
    if not name:
        return LIBRARIES
    found = {package: library for package, library in LIBRARIES.items() if library.name == name}
    if not found:
        raise unknown_name(f"library in {VARIABLE}", name, [library.name for library in LIBRARIES.values()])
    return found


@functools.cache
def _connected(library: type[Cuda], device: int) -> Cuda:
    """Return the one connection of this process to a device by a library."""
    return library(device)
