"""CUDA's driver API by cuda-python, for programs whose own objects are of that library."""

from __future__ import annotations

import importlib
from typing import Any

from edgeresnext.backends.cuda.driver import Driver
from edgeresnext.errors import BackendError
from edgeresnext.machine.libcuda import CudaError


class CudaPython(Driver):
    """The driver API through cuda-python (`cuda.bindings.driver`), which links no CUDA runtime of its own.

    Its functions have cuda.h's names, take what those read, ints where C has handles, and return what those write.
    """

    name = "cuda-python"

    def start(self) -> None:
        self._driver = importlib.import_module("cuda.bindings.driver")
        try:
            self.call("cuInit", 0)
        except CudaError:
            raise
        except Exception as error:  # it finds no driver: a RuntimeError, or a class of its own by release
            raise BackendError(f"cuda-python does not start: {error}") from error

    def call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._driver, name)(*arguments)
        if error != self._driver.CUresult.CUDA_SUCCESS:
            raise CudaError(name, int(error), str(getattr(error, "name", "")))
        return values[0] if len(values) == 1 else tuple(values)

    def capture_mode(self) -> Any:
        return self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
