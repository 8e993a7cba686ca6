"""What a Jetson tells of itself in its files. Not yet run on hardware.

Source: NVIDIA, "Jetson Linux Developer Guide" (nvpmodel: its status file and configuration; /etc/nv_tegra_release).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeresnext.machine import sensors

RELEASE = Path("/etc/nv_tegra_release")
POWER = (Path("/var/lib/nvpmodel/status"), Path("/etc/nvpmodel.conf"))
"""Where the number of the power mode stands, and where its name."""

_JETPACK = {"36.3": "6.0", "36.4": "6.1 or 6.2", "36.5": "6.2.2", "38.2": "7.0", "38.4": "7.1", "39.2": "7.2"}
"""Jetson Linux release (major.revision) to JetPack (NVIDIA, "JetPack Archive")."""


@dataclass(frozen=True, kw_only=True)
class PowerMode:
    """A power mode of nvpmodel.

    Args:
        number: What `nvpmodel -m` takes.
        name: Such as MODE_30W; "unknown" where the configuration does not name it.
    """

    number: int
    name: str


def linux_release(file: Path | None = None) -> str | None:
    """Return the release of Jetson Linux, such as "36.4"; None where this is no Jetson.

    Args:
        file: Read instead of `RELEASE`. Where its format is new, the beginning of its text is returned.
    """
    found = sensors.text(file or RELEASE)
    match = re.search(r"# R(\d+) \(release\), REVISION: (\d+)", found)
    return ".".join(match.groups()) if match else found[:60] or None


def jetpack(release: str) -> str | None:
    """Return the JetPack that a release of Jetson Linux belongs to, such as "6.0"; None where that is not known."""
    return _JETPACK.get(release)


def power_mode(files: tuple[Path, Path] | None = None) -> PowerMode | None:
    """Return the power mode: its number from the status file, its name from the configuration; None where unknown.

    Args:
        files: Read instead of `POWER`.
    """
    status, configuration = map(sensors.text, files or POWER)
    number = re.search(r"pmode:(\d+)", status)
    if number is None or not configuration:
        return None
    mode = int(number[1])
    name = re.search(rf"POWER_MODEL ID={mode} NAME=(\S+)", configuration)
    return PowerMode(number=mode, name=name[1] if name else "unknown")
