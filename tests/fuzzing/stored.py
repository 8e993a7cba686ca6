"""Values of every stored type, for hypothesis: made from what msgspec knows of its fields.

EDGERESNEXT_EXAMPLES says with how many examples each property of the parsers is tried; without it with few, and the
same in every run.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from msgspec import inspect as kinds

from edgeresnext.compiler.thresholds import STANDARD
from edgeresnext.spec import Plan, Preprocess, Ranges

_GIVEN = os.environ.get("EDGERESNEXT_EXAMPLES")
tried = settings(
    max_examples=int(_GIVEN or 25), deadline=None, derandomize=_GIVEN is None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
_FEW = 3
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(1 << 63), (1 << 63) - 1)


def stored(kind: type) -> st.SearchStrategy[Any]:
    """Return values of a stored type; those whose fields depend on each other are made so that they fit."""
    return _of(kinds.type_info(kind), ())


def _of(kind: kinds.Type, around: tuple[type, ...]) -> st.SearchStrategy[Any]:
    """Return values of a type; `around` are the structs that it lies in, which it does not hold again."""

    def inside(inner: kinds.Type) -> st.SearchStrategy[Any]:
        return _of(inner, around)

    make = {
        kinds.IntType: lambda: WHOLE,
        kinds.FloatType: lambda: FLOATS,
        kinds.StrType: lambda: TEXTS,
        kinds.BoolType: st.booleans,
        kinds.NoneType: st.none,
        kinds.BytesType: lambda: st.binary(max_size=12),
        kinds.LiteralType: lambda: st.sampled_from(kind.values),
        kinds.UnionType: lambda: st.one_of(*map(inside, kind.types)),
        kinds.VarTupleType: lambda: _several(kind.item_type, around),
        kinds.TupleType: lambda: st.tuples(*map(inside, kind.item_types)),
        kinds.DictType: lambda: st.dictionaries(inside(kind.key_type), inside(kind.value_type), max_size=_FEW),
        kinds.StructType: lambda: _struct(kind, around),
    }
    return make[type(kind)]()


def _several(kind: kinds.Type, around: tuple[type, ...]) -> st.SearchStrategy[Any]:
    """Return tuples of a type; empty ones where it would hold itself."""
    if isinstance(kind, kinds.StructType) and kind.cls in around:
        return st.just(())
    return st.lists(_of(kind, around), max_size=_FEW).map(tuple)


def _struct(kind: kinds.StructType, around: tuple[type, ...]) -> st.SearchStrategy[Any]:
    if kind.cls in (Preprocess, Plan, Ranges):
        return {Preprocess: preprocessings, Plan: plans, Ranges: ranges}[kind.cls]()
    return st.builds(kind.cls, **{field.name: _of(field.type, (*around, kind.cls)) for field in kind.fields})


@st.composite
def preprocessings(draw: st.DrawFn) -> Preprocess:
    """Sizes that can be cut, and as many deviations as means."""
    rows, columns = draw(st.integers(1, 500)), draw(st.integers(0, 500))
    channels = draw(st.sampled_from([1, 3, 4]))
    return Preprocess(
        resize_px=min(rows, columns or rows) + draw(st.integers(0, 50)), crop_px=rows, width_px=columns,
        interpolation=draw(st.sampled_from(["bilinear", "bicubic"])), fit=draw(st.sampled_from(["crop", "squash"])),
        mean=tuple(draw(FLOATS) for _ in range(channels)), std=tuple(draw(st.floats(1e-6, 1e6)) for _ in range(channels)),
    )  # fmt: skip


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans that speak of their own layers."""
    precision = st.sampled_from(["fp32", "bf16", "fp16", "int8"])
    layers = draw(st.dictionaries(TEXTS, precision, min_size=1, max_size=_FEW))
    some = st.dictionaries(st.sampled_from(sorted(layers)), TEXTS, max_size=_FEW)
    return Plan(name=draw(TEXTS), floating=draw(precision), layers=layers, inputs=draw(some), reasons=draw(some))


@st.composite
def ranges(draw: st.DrawFn) -> Ranges:
    """Ranges that choose what they have."""
    tensors = draw(st.lists(TEXTS, min_size=1, max_size=_FEW, unique=True))
    limits = st.fixed_dictionaries(dict.fromkeys(tensors, FLOATS))
    found = {method: draw(limits) for method in STANDARD}
    chosen = st.fixed_dictionaries(dict.fromkeys(tensors, st.sampled_from(sorted(found))))
    return Ranges(
        method=draw(st.sampled_from(["auto", *found])), images=draw(WHOLE), thresholds=found,
        chosen={"signed": draw(chosen), "unsigned": draw(chosen)}, digests=draw(st.dictionaries(TEXTS, TEXTS, max_size=_FEW)),
        image_digests=tuple(draw(st.lists(TEXTS, max_size=_FEW))), equalised=draw(st.booleans()),
        exponents=draw(st.dictionaries(TEXTS, st.lists(WHOLE, max_size=_FEW).map(tuple), max_size=_FEW)),
    )  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | WHOLE | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=_FEW) | st.dictionaries(TEXTS, inner, max_size=_FEW),
    max_leaves=12,
).map(msgspec.json.encode)
"""Documents of anything."""
