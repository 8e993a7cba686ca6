"""Thresholds for plain graphs: TensorRT's calibration cache, and its own calibration on our images.

The cache has a first line `TRT-<release>-EntropyCalibration2` and one line a tensor: `name: <hex>`, the big-endian
float32 of threshold / 127 (format read from caches of TensorRT 8 and 10).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeresnext.backends import cuda as cuda_library
from edgeresnext.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_LEVELS = 127
_NOMINAL_RELEASE = "8602"
"""JetPack 6.0's; the line is written anew for the release that reads it."""


def write_cache(thresholds: Mapping[str, float], release: str = _NOMINAL_RELEASE) -> str:
    """Return a calibration cache for |x| limits by tensor name."""
    lines = [f"TRT-{release}-EntropyCalibration2"]
    lines += [f"{name}: {struct.pack('>f', limit / _LEVELS).hex()}" for name, limit in thresholds.items()]
    return "\n".join(lines) + "\n"


def read_cache(text: str, file: str = "calibration cache") -> dict[str, float]:
    """Return the |x| limit of each tensor in a calibration cache.

    Raises:
        InputError: The text is no such cache.
    """
    first, *lines = text.splitlines() or [""]
    if not first.startswith("TRT-"):
        raise InputError(f"{file} does not begin with 'TRT-': {first[:40]!r}", "Build the bundle again.")
    found = {}
    for line in filter(None, lines):
        name, separator, digits = line.rpartition(": ")
        try:
            (scale,) = struct.unpack(">f", bytes.fromhex(digits))
        except (ValueError, struct.error):
            separator = ""
        if not separator:
            raise InputError(f"{file} has a damaged line: {line[:60]!r}", "Build the bundle again.")
        found[name] = scale * _LEVELS
    return found


def make_calibrator(
    trt: Any,  # noqa: ANN401 - TensorRT carries no types
    cache: Path | None,
    images: NDArray[np.uint8] | None,
    batch: int,
) -> Any:  # noqa: ANN401 - as above
    """Return an `IInt8EntropyCalibrator2` of module `trt` that gives our thresholds, or else our images.

    Args:
        trt: The module.
        cache: A calibration cache to take the thresholds from.
        images: uint8 `(N, H, W, 3)`, for TensorRT to calibrate by itself, where there is no cache.
        batch: Images a calibration step; a remainder that fills no batch is left out.
    """

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self._next = 0
            self._feed = None if images is None else _Feed(images[:batch].nbytes)

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: list[str]) -> list[int] | None:
            del names  # the network has one input
            if images is None or self._feed is None or self._next + batch > len(images):
                return None
            pointer = self._feed.put(images[self._next : self._next + batch])
            self._next += batch
            return [pointer]

        def read_calibration_cache(self) -> bytes | None:
            if cache is None:
                return None
            major, minor, patch = str(trt.__version__).split(".")[:3]
            release = (
                f"{major}{int(minor):02}{int(patch):02}" if int(major) >= _TWO_DIGITS else f"{major}{minor}0{patch}"
            )
            return write_cache(read_cache(cache.read_text(encoding="ascii"), str(cache)), release).encode()

        def write_calibration_cache(self, cache: bytes) -> None:
            """Let go what TensorRT found: it is inside the engine."""

        def close(self) -> None:
            if self._feed is not None:
                self._feed.close()

    return Calibrator()


_TWO_DIGITS = 10
"""From release 10 on minor and patch have two digits each in a cache's first line (TRT-100300, before TRT-8602)."""


class _Feed:
    """Device memory for one batch of calibration images."""

    def __init__(self, nbytes: int) -> None:
        self._cuda = cuda_library.connect()
        with self._cuda.active():
            self._device = self._cuda.allocate(nbytes)
            self._host = self._cuda.pinned(nbytes)
            self._stream = self._cuda.stream()

    def put(self, images: NDArray[np.uint8]) -> int:
        """Copy a batch to the device and return its address."""
        self._host[:] = np.ascontiguousarray(images).reshape(-1)
        with self._cuda.active():
            self._cuda.to_device(self._device, self._host, self._stream)
            self._stream.synchronize()
        return self._device.pointer

    def close(self) -> None:
        """Free the memory."""
        with self._cuda.active():
            self._stream.close()
            self._cuda.free(self._device)
            self._cuda.unpin(self._host)
        self._cuda.close()
