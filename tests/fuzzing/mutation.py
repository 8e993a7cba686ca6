"""Bytes near to others: of a document in which one value is another, an archive or message with one part changed.

A fuzzer that changes bytes is stopped by the first bracket, length or checksum; these go on behind them.
"""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import suppress
from random import Random
from typing import Any

from edgeresnext.bundle.wire_format import fields, written

_ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308, float("inf"), float("nan"),
    "", " ", "\0", "\n", "0", "-1", "cpu", "int8", "../x", "/etc/passwd", ".", "a//b", "\u202e\x1b[2J", "\ud800", "x" * 300,
    [], [[]], {}, {"": None}, {"0": "a"},
)  # fmt: skip
_BYTES = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"{",
    b"}",
    b"[",
    b'"',
    b"\n",
    b": ",
    b"=",
    b"-",
    b"9" * 30,
    b"\xef\xbb\xbf",
)
_DEEP = 100_000


def mutated(content: bytes, random: Random) -> bytes:
    """Return bytes near to `content`: as what they are where that is known, else as bytes."""
    if random.random() < 0.7:
        for change in (_in_json, _in_zip, _in_safetensors, _in_onnx):
            with suppress(Exception):  # it is none of these
                return change(content, random)
    return _in_bytes(content, random)


def _in_bytes(content: bytes, random: Random) -> bytes:
    found = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4, 8))):
        at = random.randrange(len(found) + 1)
        to = min(len(found), at + random.choice((1, 1, 2, 4, 8, 64)))
        part = bytes(found[at:to])
        elsewhere = random.randrange(len(found) + 1)
        found[at:to] = random.choice(
            (
                b"",  # cut out
                part + part,
                random.choice(_BYTES) + part,
                random.choice(_BYTES),
                random.randbytes(len(part)),
                bytes(byte ^ 1 << random.randrange(8) for byte in part),
                bytes(found[elsewhere : elsewhere + len(part)]),
            )
        )
    return bytes(found[: random.randrange(len(found) + 1)] if random.random() < 0.1 else found)


def _in_json(content: bytes, random: Random) -> bytes:
    """Replace, remove, move or bury values of a document."""
    if content.lstrip()[:1] not in (b"{", b"["):
        raise ValueError
    whole = [json.loads(content)]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = list(_places(whole))
        where, key = random.choice(places)
        other, other_key = random.choice(places)
        value = where[key]
        roll = random.random()
        if roll < 0.1 and where is not whole:
            del where[key]
        elif roll < 0.2:
            where[key] = json.loads(json.dumps(other[other_key]))
        elif roll < 0.3 and isinstance(where, dict):
            where[random.choice(("", "0", str(other_key), "\ud800", str(key) + "x"))] = value
        elif roll < 0.35:
            where[key] = [value] if random.random() < 0.5 else {"": value}
        elif roll < 0.5 and isinstance(value, (int, float)) and not isinstance(value, bool):
            where[key] = random.choice((-value, value + 1, value * 10, value / 3, int(value), float(value)))
        else:
            where[key] = random.choice(_ODD)
    text = json.dumps(whole[0], ensure_ascii=random.random() < 0.5)
    if random.random() < 0.01:
        deep = "[" * _DEEP + "]" * _DEEP
        text = text.replace("null", deep, 1) if "null" in text else deep
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> Any:
    """Yield each place of a document as its container and key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def _in_onnx(content: bytes, random: Random) -> bytes:
    """Change a message that begins as ONNX files do, with the number of a release."""
    if not content.startswith(b"\x08"):
        raise ValueError
    return _in_message(content, random)


def _in_message(content: bytes, random: Random) -> bytes:
    """Change a field of a message of protobuf, however deep, and all lengths around it."""
    parts = list(fields(memoryview(content)))
    at = random.randrange(len(parts))
    number, value, whole = parts[at]
    new: bytes
    roll = random.random()
    if roll < 0.6 and isinstance(value, memoryview) and len(value):
        with suppress(ValueError, LookupError):
            return _joined(parts, at, written(number, _in_message(bytes(value), random)))
    if roll < 0.65:
        new = b""
    elif roll < 0.7:
        new = bytes(whole) * 2
    elif roll < 0.8:
        new = written(
            random.choice((1, 2, 3, 4, 5, 6, 7, 10, 11, 13, 14, 20, 25, number + 1)), random.choice((b"", bytes(whole)))
        )
    elif isinstance(value, int):
        new = written(number, random.choice((0, 1, 2, 127, 128, 2**31, 2**63, 2**64 - 1, value + 1)))
    else:
        new = written(number, _in_bytes(bytes(value), random))
    return _joined(parts, at, new)


def _joined(parts: list[Any], at: int, new: bytes) -> bytes:
    return b"".join(new if index == at else bytes(part.whole) for index, part in enumerate(parts))


def _in_zip(content: bytes, random: Random) -> bytes:
    """Change a member of an archive, and its checksum with it."""
    if not content.startswith(b"PK"):
        raise ValueError
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = random.choice(list(members))
    roll = random.random()
    if roll < 0.1:
        del members[name]
    elif roll < 0.2:
        members[random.choice(("x", "data.pkl", "../x", name + ".npy"))] = members.pop(name)
    else:
        members[name] = _in_bytes(members[name], random)
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member), data)
    return found.getvalue()


def _in_safetensors(content: bytes, random: Random) -> bytes:
    """Change the header of safetensors, and its length with it."""
    size = int.from_bytes(content[:8], "little")
    if content[8:9] != b"{" or size > len(content):
        raise ValueError
    header = _in_json(content[8 : 8 + size], random)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]
