"""TensorRT-RTX's runtime cache: the kernels that the driver compiled at first use, kept in the user's cache.

Never in the bundle, whose manifest could not vouch for it: another machine compiles for itself. The name is made of
the engine's digest, the GPU with its driver, and the release; a file begins with the SHA-256 of the rest, so that a
damaged one never reaches native code. It is then written anew.
"""

from __future__ import annotations

import hashlib
from typing import Any

from edgeresnext.machine import gpu
from edgeresnext.machine.cache import recall, remember

_DIGEST_BYTES = 32


class RuntimeCache:
    """The cache of one engine, filled with what is remembered; does nothing with runtimes that have none.

    Args:
        plan: The engine's bytes.
        engine: The deserialised engine.
        release: Of the runtime.
    """

    def __init__(self, plan: bytes, engine: Any, release: str) -> None:
        config: Any = engine.create_runtime_config() if hasattr(engine, "create_runtime_config") else None
        self._cache: Any = config.create_runtime_cache() if hasattr(config, "create_runtime_cache") else None
        self._saved = b""
        if self._cache is None:
            return
        device = gpu.detect()
        here = (hashlib.sha256(plan).hexdigest(), device and (device.name, device.compute_capability, device.driver))
        name = hashlib.sha256(repr((*here, release)).encode()).hexdigest()[:32]
        self._place = "kernels", name
        known = recall(*self._place) or b""
        blob = known[_DIGEST_BYTES:]
        if hashlib.sha256(blob).digest() == known[:_DIGEST_BYTES] and self._cache.deserialize(blob):
            self._saved = blob

    def use(self, config: Any) -> None:
        """Let contexts made from `config` read and fill the cache."""
        if self._cache is not None:
            config.set_runtime_cache(self._cache)

    def close(self) -> None:
        """Let go of the cache, before its runtime goes."""
        self._cache = None

    def save(self) -> None:
        """Write what has been added, whole or not at all; a folder that takes no files is no error."""
        if self._cache is None:
            return
        serialized = self._cache.serialize()
        blob = bytes(serialized) if serialized is not None else b""
        if blob and blob != self._saved and remember(hashlib.sha256(blob).digest() + blob, *self._place):
            self._saved = blob
