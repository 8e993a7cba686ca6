"""Thresholds for plain graphs: TensorRT's calibration cache, and its own calibration on our images.

The cache has a first line `TRT-<release>-EntropyCalibration2` and one line a tensor: `name: <hex>`, the big-endian
float32 of threshold / 127 (format read from caches of TensorRT 8 and 10).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeresnext.backends import cuda as cuda_library
from edgeresnext.errors import EdgeResNeXtError, InputError

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
    cache: Path,
    images: NDArray[np.uint8] | None,
    batch: int,
) -> Any:  # noqa: ANN401 - as above
    """Return an `IInt8EntropyCalibrator2` of module `trt` that gives our thresholds, or else our images.

    Its `error` is the first that a callback met, for TensorRT swallows what they raise.

    Args:
        trt: The module.
        cache: The thresholds. Without images they must be there; with images TensorRT's are written there, and taken
            from there if they are there already.
        images: uint8 `(N, H, W, 3)`, for TensorRT to calibrate by itself.
        batch: Images a calibration step; a remainder that fills no batch is left out.

    Raises:
        InputError: The cache is damaged.
    """
    known = _known(trt, cache, images is None)
    feed = None if images is None or known is not None else _Feed(images, batch)

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        @property
        def error(self) -> EdgeResNeXtError | None:
            return feed.error if feed else None

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: list[str]) -> list[int] | None:
            del names  # the network has one input
            return feed.next_batch() if feed else None

        def read_calibration_cache(self) -> bytes | None:
            return known

        def write_calibration_cache(self, found: bytes) -> None:
            if feed:
                cache.write_bytes(bytes(found))

        def close(self) -> None:
            if feed:
                feed.close()

    return Calibrator()


def _known(trt: Any, cache: Path, ours: bool) -> bytes | None:  # noqa: ANN401, FBT001 - as above
    """Return our thresholds for the release that reads them; or what TensorRT found before, if it did."""
    if ours:
        thresholds = read_cache(cache.read_text(encoding="ascii"), str(cache))
        return write_cache(thresholds, cache_release(trt)).encode()
    # TensorRT ignores what another release found and would then ask for images.
    first = f"TRT-{cache_release(trt)}-".encode()
    found = cache.read_bytes() if cache.exists() else b""
    return found if found.startswith(first) else None


def cache_release(trt: Any) -> str:  # noqa: ANN401 - as above
    """Return the release as a cache's first line has it: 8602 for 8.6.2, 100300 for 10.3.0."""
    major, minor, patch = str(trt.__version__).split(".")[:3]
    return f"{major}{int(minor):02}{int(patch):02}" if int(major) >= _TWO_DIGITS else f"{major}{minor}0{patch}"


_TWO_DIGITS = 10
"""From release 10 on minor and patch have two digits each."""


class _Feed:
    """Calibration images, one batch after the other in the same device memory.

    TensorRT swallows what its callbacks raise, so the first error is kept as `error` and ends the images.
    """

    def __init__(self, images: NDArray[np.uint8], batch: int) -> None:
        self.error: EdgeResNeXtError | None = None
        self._images = images
        self._batch = batch
        self._next = 0
        nbytes = images[:batch].nbytes
        self._cuda = cuda_library.connect()
        with self._cuda.active():
            self._device = self._cuda.allocate(nbytes)
            self._host = self._cuda.pinned(nbytes)
            self._stream = self._cuda.stream()

    def next_batch(self) -> list[int] | None:
        """Copy the next batch to the device and return its address; None after the last."""
        images = self._images[self._next : self._next + self._batch]
        if len(images) < self._batch:
            return None
        self._next += self._batch
        self._host[:] = np.ascontiguousarray(images).reshape(-1)
        try:
            with self._cuda.active():
                self._cuda.to_device(self._device, self._host, self._stream)
                self._stream.synchronize()
        except EdgeResNeXtError as error:
            self.error = error
            return None
        return [self._device.pointer]

    def close(self) -> None:
        """Free the memory."""
        with self._cuda.active():
            self._stream.close()
            self._cuda.free(self._device)
            self._cuda.unpin(self._host)
        self._cuda.close()
