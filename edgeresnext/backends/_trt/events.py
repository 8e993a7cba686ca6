"""What the process that builds an engine tells the one that waits for it, as JSON lines."""

from __future__ import annotations

import msgspec

from edgeresnext.spec import EngineLayer


class Progressed(msgspec.Struct, frozen=True, tag="progress"):
    """How far the build is."""

    percent: int


class Logged(msgspec.Struct, frozen=True, tag="log"):
    """What the builder warned of."""

    text: str


class Built(msgspec.Struct, frozen=True, tag="built", kw_only=True):
    """The engine is written, compiled from the file `onnx`."""

    onnx: str
    release: str
    layers: tuple[EngineLayer, ...]
    notes: tuple[str, ...]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The build did not succeed; `error` is the class of the error, the rest its arguments."""

    error: str
    what: str
    hint: str = ""
    values: tuple[str, ...] = ()


Event = Progressed | Logged | Built | Failed
