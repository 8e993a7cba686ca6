"""Device memory, copies and streams, by pycuda or by cuda-python: whichever is installed.

Both use the device's primary context, the one that PyTorch and TensorRT use too; `pycuda.autoinit`, which makes a
context of its own and breaks such programs, is never imported.
"""

from __future__ import annotations

from edgeresnext import extras
from edgeresnext.backends.cuda.api import Cuda
from edgeresnext.backends.cuda.cuda_python import CudaPython
from edgeresnext.backends.cuda.pycuda import PyCuda
from edgeresnext.errors import EdgeResNeXtError, NotInstalledError
from edgeresnext.machine import gpu

LIBRARIES: dict[str, type[Cuda]] = {"cuda.bindings": CudaPython, "pycuda": PyCuda}
"""The package that each implementation needs, the preferred one first: only it captures CUDA graphs."""


def how_to_install() -> str:
    """Return the command that installs a library for this machine's driver."""
    device = gpu.detect()
    package = "cuda-python" if device is None else f"'cuda-python<{int(device.driver.split('.')[0]) + 1}'"
    return f"pip install {package} (or pycuda, which compiles against the CUDA headers)"


def installed() -> type[Cuda] | None:
    """Return the implementation whose package is installed, cuda-python first."""
    return next((library for package, library in LIBRARIES.items() if extras.installed(package)), None)


def connect() -> Cuda:
    """Return CUDA by the library that is installed.

    Raises:
        NotInstalledError: None is, or none starts; the reason is given.
    """
    reasons = []
    for package, library in LIBRARIES.items():
        if extras.installed(package):
            try:
                return library()
            except (EdgeResNeXtError, ImportError, OSError) as error:
                reasons.append(f"{library.library}: {error}")
    what = "; ".join(reasons) or "none is installed"
    raise NotInstalledError(f"no Python library for CUDA memory: {what}", how_to_install())
