"""What an image file may ask of its decoder, told before Pillow sees it: time grows with the size of a file alone.

Measured with Pillow 13 and libjpeg-turbo: a JPEG of 25 megapixels and 100 kB takes 0.2 s, and 9 ms more for each
further scan, of which a megabyte holds 25,000. Blocks of EXIF are joined anew with each further one: 60 MB of them take
13 s. Animations (GIF, WebP, AVIF, PNG, TIFF) are decoded up to their first frame, texts in PNG to a megabyte; JPEG 2000
with tiny tiles, layers or code blocks takes no longer than without.
"""

from __future__ import annotations

import io
import re
from typing import IO

from edgeresnext.errors import DataError

LARGEST = 1 << 30
"""Bytes of an image file: 179 megapixels, the most that is decoded, are 716 MB without compression."""
LARGEST_JPEG = 1 << 28
MOST_SCANS = 100
"""Scans of a JPEG, and its blocks of EXIF: encoders write 1 to 20 scans (libtiff allows as many), cameras one block."""

_JPEG = b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
"""A marker that a length follows, or the end; in between are scans, whose bytes look like none."""
_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_EXIF = b"Exif\0\0"


def check(file: IO[bytes]) -> None:
    """Refuse a file that was made to keep its decoder busy; it is left at its beginning, where Pillow reads it.

    Args:
        file: Open for reading, and seekable.

    Raises:
        DataError: It has too many bytes, scans or blocks of EXIF.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    is_jpeg = file.read(len(_JPEG)) == _JPEG
    file.seek(0)
    most = LARGEST_JPEG if is_jpeg else LARGEST
    if size > most:
        raise DataError(f"has {size / 1e6:,.0f} MB; {most / 1e6:,.0f} are read", "Save it with compression.")
    if not is_jpeg:
        return
    content = file.read(most)
    file.seek(0)
    for count, kind in _parts_of_jpeg(content):
        if count > MOST_SCANS:
            raise DataError(f"has more than {MOST_SCANS} {kind}, and would take long to decode", "Save it anew.")


def _parts_of_jpeg(content: bytes) -> list[tuple[int, str]]:
    """Return how many scans and blocks of EXIF a JPEG has, counted until there are too many."""
    scans = blocks = 0
    at = 2
    while max(scans, blocks) <= MOST_SCANS and (found := _MARKER.search(content, at)) and found[1][0] != _END:
        at = found.end()
        scans += found[1][0] == _SCAN
        blocks += found[1][0] == _APP1 and content.startswith(_EXIF, at + 2)
        at += int.from_bytes(content[at : at + 2], "big")
    return [(scans, "scans"), (blocks, "blocks of EXIF")]
