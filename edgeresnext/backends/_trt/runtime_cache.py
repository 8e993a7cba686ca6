"""TensorRT-RTX's runtime cache: the kernels that the driver compiled at first use, kept beside the engine.

The file begins with the SHA-256 of the rest, so that a damaged one never reaches native code; it is then written anew.
It is no part of the bundle: another machine compiles for itself.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeresnext import files
from edgeresnext.bundle import RUNTIME_CACHE_SUFFIX

_DIGEST_BYTES = 32


class RuntimeCache:
    """The cache of one engine, filled from its file where that is whole; does nothing with runtimes that have none.

    Args:
        engine_file: Where the engine lies.
        engine: The deserialised engine.
    """

    def __init__(self, engine_file: Path, engine: Any) -> None:
        self._path = engine_file.with_name(engine_file.name + RUNTIME_CACHE_SUFFIX)
        config: Any = engine.create_runtime_config() if hasattr(engine, "create_runtime_config") else None
        self._cache: Any = config.create_runtime_cache() if hasattr(config, "create_runtime_cache") else None
        self._saved = b""
        if self._cache is not None:
            with suppress(OSError):
                raw = self._path.read_bytes()
                blob = raw[_DIGEST_BYTES:]
                if hashlib.sha256(blob).digest() == raw[:_DIGEST_BYTES] and self._cache.deserialize(blob):
                    self._saved = blob

    def use(self, config: Any) -> None:
        """Let contexts made from `config` read and fill the cache."""
        if self._cache is not None:
            config.set_runtime_cache(self._cache)

    def close(self) -> None:
        """Let go of the cache, before its runtime goes."""
        self._cache = None

    def save(self) -> None:
        """Write what has been added, whole or not at all; a directory that takes no files is no error."""
        if self._cache is None:
            return
        serialized = self._cache.serialize()
        blob = bytes(serialized) if serialized is not None else b""
        if not blob or blob == self._saved:
            return
        with suppress(OSError):
            files.write(self._path, hashlib.sha256(blob).digest() + blob)
            self._saved = blob
