"""What all stored values are made of."""

from __future__ import annotations

from typing import Literal

import msgspec

Precision = Literal["fp32", "bf16", "fp16", "int8"]


ClassOrder = Literal["sorted", "numeric"]
"""What class folders that are numbers mean: their place among the sorted names, or their value."""


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all stored values: immutable, keyword-only, strict when decoded."""
