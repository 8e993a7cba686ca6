"""The process of one check, or of the question whether there is a GPU.

python -m gpu.child probe RESULT
python -m gpu.child check STAGE NAME RESULT FOLDER OUT SECONDS SCALE
"""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import sys
import time
import traceback
from pathlib import Path

from gpu.check import Skipped, Work, checks_of


def run(stage, name, work):
    """Run one check; what it found, as JSON has it."""
    (found,) = (one for one in checks_of(stage) if one.name == name)
    start = time.perf_counter()
    try:
        figures = found.call(work)
    except Skipped as reason:
        return {"status": "skipped", "reason": str(reason)}
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is what was to be found
        traceback.print_exc()
        said = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
        return {"status": "failed", "reason": reason, "seconds": time.perf_counter() - start}
    return {"status": "passed", "figures": figures or {}, "seconds": time.perf_counter() - start}


def probe():
    """What the driver says of the GPU; None where there is none."""
    from edgeresnext.machine import gpu

    device = gpu.detect()
    return None if device is None else dataclasses.asdict(device)


def main(what, *arguments):
    faulthandler.enable()
    if what == "probe":
        (result,) = arguments
        found = probe()
    else:
        stage, name, result, folder, out, seconds, scale = arguments
        found = run(stage, name, Work(Path(folder), Path(out), float(seconds), float(scale)))
    partial = Path(f"{result}.partial")
    partial.write_text(json.dumps(found), encoding="utf-8")
    partial.replace(result)


if __name__ == "__main__":
    main(*sys.argv[1:])
