"""The user's cache: what this machine has found out for itself, and can find out again."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from edgeresnext import files

CACHE_VARIABLE = "EDGERESNEXT_CACHE"
_log = logging.getLogger("edgeresnext")


def cache_directory() -> Path:
    """Return where it lies: EDGERESNEXT_CACHE, or edgeresnext/ below XDG_CACHE_HOME or ~/.cache.

    Raises:
        RuntimeError: There is no home directory.
    """
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).expanduser()
    base_directory = os.environ.get("XDG_CACHE_HOME")
    return (Path(base_directory) if base_directory else Path.home() / ".cache") / "edgeresnext"


def recall(*names: str) -> bytes | None:
    """Return what is remembered under a path below the cache; None where nothing is, or it cannot be read."""
    try:
        return files.read(cache_directory().joinpath(*names))
    except (OSError, RuntimeError):
        return None


def remember(content: bytes, *names: str) -> bool:
    """Write what is to be remembered, whole or not at all, and return whether that could be done.

    Folders that are made for it are the user's alone: what lies there is believed.
    """
    try:
        path = cache_directory().joinpath(*names)
        for folder in reversed([one for one in path.parents if not one.exists()]):
            folder.mkdir(mode=0o700, exist_ok=True)
        files.write(path, content)
    except (OSError, RuntimeError) as error:
        _log.debug("%s is not remembered: %s", "/".join(names), error)
        return False
    return True
