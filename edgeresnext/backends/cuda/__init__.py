"""Device memory, copies and streams, by pycuda or by cuda-python: whichever is installed.

Both use the device's primary context, the one that PyTorch and TensorRT use too; `pycuda.autoinit`, which makes a
context of its own and breaks such programs, is never imported.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from edgeresnext.backends import gpu
from edgeresnext.backends.cuda.driver import PyCuda
from edgeresnext.backends.cuda.runtime import CudaPython
from edgeresnext.errors import EdgeResNeXtError, NotInstalledError

if TYPE_CHECKING:
    from edgeresnext.backends.cuda.api import Cuda

LIBRARIES: dict[str, type[Cuda]] = {"cuda.bindings": CudaPython, "pycuda": PyCuda}
"""The package that each implementation needs, the preferred one first: only it captures CUDA graphs."""


def how_to_install() -> str:
    """Return the command that installs a library for this machine's driver."""
    device = gpu.detect()
    package = "cuda-python" if device is None else f"'cuda-python<{int(device.driver.split('.')[0]) + 1}'"
    return f"pip install {package} (or pycuda, which compiles against the CUDA headers)"


def installed() -> type[Cuda] | None:
    """Return the implementation whose package is installed, cuda-python first."""
    return next((library for package, library in LIBRARIES.items() if _found(package)), None)


def _found(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):  # its parent package is missing; or a module without a spec
        return False


def connect() -> Cuda:
    """Return CUDA by the library that is installed.

    Raises:
        NotInstalledError: None is, or none starts; the reason is given.
    """
    reasons = []
    for package, library in LIBRARIES.items():
        if _found(package):
            try:
                return library()
            except (EdgeResNeXtError, ImportError, OSError) as error:
                reasons.append(f"{library.library}: {error}")
    what = "; ".join(reasons) or "none is installed"
    raise NotInstalledError(f"no Python library for CUDA memory: {what}", how_to_install())
