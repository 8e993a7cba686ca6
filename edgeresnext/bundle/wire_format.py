"""Protobuf's wire format, of which ONNX files are made, without a package: a device need not have `onnx`.

Source: protobuf.dev/programming-guides/encoding. A message is read as its fields, in their order; what they mean is the
reader's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types: how the value of a field is written."""

_LONGEST_VARINT = 10
_MORE = 0x80
"""Set in each byte of a number but its last."""

Value = int | memoryview


class Field(NamedTuple):
    """A field of a message: its number, its value (a number, or the bytes of a text or message), and all its bytes."""

    number: int
    value: Value
    whole: memoryview


def fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields of a message.

    Raises:
        ValueError: The message is damaged.
        IndexError: It ends early.
    """
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        kind = key & 7
        if not key >> 3:
            raise ValueError("a field has no number")
        if key >> 32:  # protobuf keeps 32 bits, and would find another field in it
            raise ValueError("the number of a field is too large")
        value: Value
        if kind == VARINT:
            value, at = _varint(message, at)
        else:
            size, at = (8, at) if kind == FIXED64 else (4, at) if kind == FIXED32 else _varint(message, at)
            if kind not in (FIXED64, FIXED32, BYTES) or at + size > len(message):
                raise ValueError("a field is of no known kind, or was cut off")
            value = message[at : at + size]
            at += size
        yield Field(key >> 3, value, message[start:at])


def grouped(message: memoryview) -> dict[int, list[Value]]:
    """Return the values of a message by the number of their field.

    Raises:
        ValueError: The message is damaged.
        IndexError: It ends early.
    """
    found: dict[int, list[Value]] = {}
    for field in fields(message):
        found.setdefault(field.number, []).append(field.value)
    return found


def as_message(value: Value) -> memoryview:
    """Return a field's message.

    Raises:
        ValueError: It is a number.
    """
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")  # noqa: TRY004 - damage, not a mistake of the caller
    return value


def as_number(value: Value) -> int:
    """Return a field's number.

    Raises:
        ValueError: It is a message.
    """
    if not isinstance(value, int):
        raise ValueError("a message stands where a number should")  # noqa: TRY004 - likewise
    return value


def as_text(value: Value) -> str:
    """Return a field's text.

    Raises:
        ValueError: It is a number, or no UTF-8.
    """
    return bytes(as_message(value)).decode("utf-8")


def written(number: int, value: bytes | int) -> bytes:
    """Return a field with its key: bytes with their length, or a number."""
    if isinstance(value, int):
        return _number(number << 3 | VARINT) + _number(value)
    return _number(number << 3 | BYTES) + _number(len(value)) + value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, lowest first, and where it ends."""
    found = 0
    for index in range(_LONGEST_VARINT):
        byte = message[at + index]
        found |= (byte & ~_MORE) << (7 * index)
        if byte < _MORE:
            return found, at + index + 1
    raise ValueError("a number is too long")


def _number(value: int) -> bytes:
    """Return a number as it is written, seven bits a byte."""
    found = bytearray()
    while value >= _MORE:
        found.append(value & ~_MORE & 0xFF | _MORE)
        value >>= 7
    found.append(value)
    return bytes(found)
