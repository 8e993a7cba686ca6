"""The packages of our extras: which are installed, and the one way to ask for those that are not."""

from __future__ import annotations

import importlib.util

from edgeresnext.errors import NotInstalledError

_NAMES = {"sklearn": "scikit-learn", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "torch": "PyTorch"}
"""What packages are called, where that is not what is imported."""


def installed(package: str) -> bool:
    """Return whether a package, or a module of one, can be imported; it is not."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):  # its parent package is missing; or a module without a spec
        return False


def lacking(extra: str, *packages: str) -> str | None:
    """Return None where all packages are installed, or one line: which are not, and how to get them.

    Args:
        extra: The extra of this package that installs them.
        packages: As they are imported.
    """
    missing, are = _missing(packages)
    return f"{missing} {are} not installed: {how_to_install(extra)}" if missing else None


def require(extra: str, *packages: str, needed_by: str) -> None:
    """Refuse to go on without packages.

    Args:
        extra: The extra of this package that installs them.
        packages: As they are imported.
        needed_by: What needs them, as the start of a sentence, such as "building".

    Raises:
        NotInstalledError: One is missing.
    """
    missing, are = _missing(packages)
    if missing:
        raise NotInstalledError(f"{needed_by} needs {missing}, which {are} not installed", how_to_install(extra))


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'edgeresnext[{extra}]'"


def _missing(packages: tuple[str, ...]) -> tuple[str, str]:
    """Return what is missing as people call it, empty where nothing is, and the verb that fits."""
    missing = [_NAMES.get(package, package) for package in packages if not installed(package)]
    return " and ".join(missing), "is" if len(missing) == 1 else "are"
