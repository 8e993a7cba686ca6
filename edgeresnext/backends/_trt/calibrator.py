"""Hand the bundle's thresholds to TensorRT, as the calibrator that releases up to 10 ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeresnext import files
from edgeresnext.compiler.calibration_cache import read_cache, write_cache

_TWO_DIGITS = 10
"""From release 10 on minor and patch have two digits each."""


def make_calibrator(trt: Any, cache: Path, batch: int) -> Any:
    """Return an `IInt8EntropyCalibrator2` of module `trt` that has thresholds and no images.

    Args:
        trt: The module.
        cache: The bundle's calibration cache.
        batch: Images a calibration step, for which TensorRT asks even then.

    Raises:
        InputError: The cache is damaged.
    """
    # TensorRT ignores what another release found and would then ask for images.
    thresholds = read_cache(files.read(cache), str(cache))
    known = write_cache(thresholds, cache_release(str(trt.__version__))).encode()

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: list[str]) -> None:
            """No images: what has no threshold stays in floating point."""

        def read_calibration_cache(self) -> bytes:
            return known

        def write_calibration_cache(self, cache: bytes) -> None:
            """Nothing was found that was not known."""

    return Calibrator()


def cache_release(version: str) -> str:
    """Return a release as a cache's first line has it: 8602 for 8.6.2, 100300 for 10.3.0."""
    major, minor, patch = version.split(".")[:3]
    return f"{major}{int(minor):02}{int(patch):02}" if int(major) >= _TWO_DIGITS else f"{major}{minor}0{patch}"
