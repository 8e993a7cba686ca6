"""Write the tables of the documents from `results/`; with --check, fail if they are not up to date."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tables import building, faults, gpu, int8, speed, training

ROOT = Path(__file__).parent.parent
TABLES = {
    "demo-in-brief": speed.demo_in_brief,
    "demo": speed.demo,
    "suite": speed.suite,
    "peers-imagenet": lambda: speed.peers("ResNeXt-50"),
    "peers-digits": lambda: speed.peers("resnext20"),
    "overhead": speed.overhead,
    "arrays": speed.arrays,
    "comparisons": speed.comparisons,
    "fidelity": int8.fidelity,
    "repairs": int8.repairs,
    "rounding": int8.rounding,
    "methods": int8.methods,
    "rescaled": int8.rescaled,
    "gate": int8.gate,
    "quantisers": int8.quantisers,
    "calibration": int8.calibration,
    "processors": int8.processors,
    "int8-training": int8.trained,
    "build": building.build,
    "engines": building.engines,
    "checkpoints": building.checkpoints,
    "ensembles": faults.ensembles,
    "faults": faults.faults,
    "training": training.training,
    "cardinality": training.cardinality,
    "fuzzing": faults.fuzzing,
    "gpu-checks": gpu.checks,
    "gpu-probes": gpu.probes,
    "gpu-speed": gpu.speed,
}
_PLACE = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def documents() -> list[Path]:
    """Return every document that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rendered(text: str) -> str:
    """Return a document with what lies between `<!-- table: NAME -->` and `<!-- end -->` written anew."""
    return _PLACE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[4]}", text)


def main() -> None:
    """Render every document, or compare it with what would be rendered."""
    texts = {path: path.read_text(encoding="utf-8") for path in documents()}
    shown = {name for text in texts.values() for _, name, _, _ in _PLACE.findall(text)}
    if shown != set(TABLES):
        sys.exit(f"tables that no document shows, or that do not exist: {', '.join(sorted(shown ^ set(TABLES)))}")
    for path, text in texts.items():
        new = rendered(text)
        if new == text:
            continue
        if "--check" in sys.argv:
            sys.exit(
                f"{path.relative_to(ROOT)} is not up to date: run `make figures`, or `python benchmarks/render.py`"
            )
        path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
