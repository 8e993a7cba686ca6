"""Keep what tests/gpu/run.sh found on somebody's GPU: `results/gpu-DEVICE.json`, from which `render.py` writes tables.

    python benchmarks/hardware.py FOLDER

A run on the same kind of GPU replaces the stages that it ran; the others stay.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from common import RESULTS

_KEPT = ("title", "status", "reason", "started", "ended")
_KEPT_OF_A_CHECK = ("name", "status", "seconds", "reason", "figures")
_LISTS = ("installed",)
"""Figures that serve who looks into a failure, and no table."""


def kept(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the name and the content of the result file for a run's folder."""
    stages = {}
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("gpu") and found.get("checks"):
            stages[found["stage"]] = found
    if not stages:
        sys.exit(f"no stage in {folder} has run on a GPU")
    machine = next((one for one in stages.get("inventory", {}).get("checks", ()) if one["name"] == "machine"), {})
    environment = machine.get("figures", {}).get("environment")
    if not environment:
        sys.exit(f"{folder} does not say which machine it was: run `tests/gpu/run.sh --only inventory` there too")
    name = re.sub(r"[^a-z0-9]+", "-", environment["gpu"].lower()).strip("-")
    return f"gpu-{name}", {
        "environment": environment | machine["figures"].get("packages", {}),
        "gpu": stages["inventory"]["gpu"],
        "stages": {stage: _of_stage(found) for stage, found in stages.items()},
    }


def _of_stage(found: dict[str, Any]) -> dict[str, Any]:
    checks = [{key: one[key] for key in _KEPT_OF_A_CHECK if key in one} for one in found["checks"]]
    for one in checks:
        one["figures"] = {key: value for key, value in (one.get("figures") or {}).items() if key not in _LISTS}
    return {key: found[key] for key in _KEPT if key in found} | {"checks": checks}


def main() -> None:
    """Keep the results of the folder that is named."""
    if len(sys.argv) != 2:  # noqa: PLR2004
        sys.exit(__doc__)
    name, found = kept(Path(sys.argv[1]))
    file = RESULTS / f"{name}.json"
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        found["stages"] = before["stages"] | found["stages"]
    file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
