"""The demo as a user runs it: its report, and how long all of it took."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from common import save, scratch


def main() -> None:
    """Run `edgeresnext demo` in a fresh folder and save its report without the single samples."""
    with scratch() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "edgeresnext", "demo", "--output", str(folder / "demo"), "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        wall_s = time.perf_counter() - start
    report = json.loads(done.stdout)
    for row in report["rows"]:
        for name in ("samples_s", "scopes", "layers", "right"):
            del row[name]
    for name in ("classes", "changed", "command"):
        del report[name]
    del report["bundle"]["path"]
    report["data"] = "the 600 validation images"
    environment = report.pop("environment")
    save("demo", {"wall_s": wall_s, **report}, **environment)


if __name__ == "__main__":
    main()
