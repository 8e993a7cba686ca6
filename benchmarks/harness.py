"""What the harness itself adds to a run, and whether two runs of the same compare as the same.

Overhead: sessions that sleep, or keep the processor busy, for a known time, which they measure from inside; what
`measure.latency` reports is more by what the harness adds. Comparison: pairs of real runs of the digits network in INT8,
one of which may take a known share longer, judged by `edgeresnext.compare` as saved reports would be. Arrays: what
`Classifier.logits` adds to the runtime's own call on the same memory, for arrays of NumPy and PyTorch.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from common import save, save_section, scratch

import edgeresnext
from edgeresnext.backends.base import Session
from edgeresnext.cli.demo import weights
from edgeresnext.data import digits
from edgeresnext.measure.latency import timed
from edgeresnext.model.catalogue import specify

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edgeresnext.measure.results import Report

ROUNDS = 200
TIMES_S = (0.0001, 0.001, 0.010, 0.050)
SLOWER = (0.0, 0.02, 0.05, 0.10, 0.20)
PAIRS = 4
PAIR_ROUNDS = 200
ARRAY_ROUNDS = 2000


class Known(Session):
    """A session that takes a known time, and keeps how long its last run really took."""

    def __init__(self, wait: Callable[[float], None], seconds: float) -> None:
        super().__init__(specify("resnext20_8x4d"))
        self._wait, self._seconds = wait, seconds
        self.took_s = 0.0
        self._logits = np.zeros((1, 10), np.float32)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        del images
        start = time.perf_counter()
        self._wait(self._seconds)
        self.took_s = time.perf_counter() - start
        return self._logits


def busy(seconds: float) -> None:
    """Keep the processor busy."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def overhead() -> list[dict[str, Any]]:
    """Return what the harness adds to each known time, in seconds."""
    image = np.zeros((1, 32, 32, 3), np.uint8)
    rows = []
    for kind, wait in {"sleeps": time.sleep, "is busy": busy}.items():
        for seconds in TIMES_S:
            session = Known(wait, seconds)
            samples, added = [], []
            for _ in range(ROUNDS):
                samples.append(timed(session, image))
                added.append(samples[-1] - session.took_s)
            row = {
                "kind": kind, "known_s": seconds, "median_s": median(samples), "added_s": median(added),
                "added_p99_s": float(np.quantile(added, 0.99)), "rounds": ROUNDS,
            }  # fmt: skip
            rows.append(row)
            print(row, flush=True)
    return rows


class Longer(Session):
    """Another session, that takes a share longer."""

    def __init__(self, session: Any, share: float) -> None:
        super().__init__(session.model)
        self._session, self._share = session, share

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        start = time.perf_counter()
        logits: NDArray[np.float32] = self._session.run(images)
        busy(self._share * (time.perf_counter() - start))
        return logits


def comparisons() -> list[dict[str, Any]]:
    """Return how pairs of runs compare: `PAIRS` for each share by which the second takes longer."""
    from edgeresnext.measure import variants

    opened = variants.open_artifact
    rows = []
    with scratch() as root:
        folders = digits.prepare(root / "digits")
        with weights() as path:
            bundle = edgeresnext.build(
                "resnext20_8x4d", weights=path, calibration=folders["calibration"], precisions=["int8"],
                output=root / "bundle",
            )  # fmt: skip

        def run(share: float) -> Report:
            variants.open_artifact = lambda bundle, artifact, threads=None, **more: (  # type: ignore[assignment]
                Longer(opened(bundle, artifact, threads, **more), share)
                if artifact.name == "openvino-int8"
                else opened(bundle, artifact, threads, **more)
            )
            return edgeresnext.bench(
                bundle.path, backend="openvino",
                options=edgeresnext.BenchOptions(
                    rounds=PAIR_ROUNDS, skip=("pytorch", "accuracy", "scopes", "layers", "energy", "memory")
                ),
            )  # fmt: skip

        for share in SLOWER:
            pairs = [edgeresnext.compare(run(0.0), run(share)) for _ in range(PAIRS)]
            ours = [next(row for row in pair.rows if row.variant == "openvino-int8") for pair in pairs]
            verdicts = Counter(row.verdict for row in ours)
            against = Counter(row.against_baseline.verdict for row in ours if row.against_baseline)
            ratios = [row.change.ratio for row in ours if row.change]
            row = {"slower": share, "verdicts": verdicts, "against_baseline": against, "ratios": ratios}
            rows.append(row)
            print(row, flush=True)
    variants.open_artifact = opened  # type: ignore[assignment]
    return rows


class Timed:
    """A runtime's own call, which keeps how long the last one took."""

    def __init__(self, run: Callable[[Any], Any]) -> None:
        self._run = run
        self.took_s = 0.0

    def __call__(self, images: Any) -> Any:
        """Call the runtime."""
        start = time.perf_counter()
        logits = self._run(images)
        self.took_s = time.perf_counter() - start
        return logits


def arrays() -> list[dict[str, Any]]:
    """Return what `logits` adds to a runtime's own call, measured from inside, by the library of the array."""
    import torch

    rows = []
    with scratch() as root:
        folders = digits.prepare(root / "digits")
        with weights() as path:
            bundle = edgeresnext.build(
                "resnext20_8x4d", weights=path, calibration=folders["calibration"], precisions=["fp32"],
                output=root / "bundle",
            )  # fmt: skip
        tensor = torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
        kinds: dict[str, tuple[Any, ...]] = {
            "NumPy": (tensor.numpy(),), "PyTorch": (tensor,), "PyTorch, out": (tensor, torch.zeros((1, 10))),
        }  # fmt: skip
        for backend in ("openvino", "onnxruntime"):
            with edgeresnext.load(bundle.path, backend=backend, prove=False) as classifier:
                session: Any = classifier._session  # noqa: SLF001
                session._run = timer = Timed(session._run)  # noqa: SLF001
                added: dict[str, list[float]] = {name: [] for name in kinds}
                took = []
                for _ in range(ARRAY_ROUNDS):
                    for name, given in kinds.items():
                        start = time.perf_counter()
                        classifier.logits(*given)
                        added[name].append(time.perf_counter() - start - timer.took_s)
                        took.append(timer.took_s)
            for name, samples in added.items():
                row = {
                    "backend": backend, "array": name, "runtime_s": median(took), "added_s": median(samples),
                    "added_p99_s": float(np.quantile(samples, 0.99)), "rounds": ARRAY_ROUNDS,
                }  # fmt: skip
                rows.append(row)
                print(row, flush=True)
    return rows


def main() -> None:
    """Measure and save; with `arrays` as its argument that alone, beside what was measured before."""
    if sys.argv[1:] == ["arrays"]:
        save_section("harness", "arrays", arrays())
        return
    figures = {
        "overhead": overhead(), "comparisons": comparisons(), "pairs": PAIRS, "pair_rounds": PAIR_ROUNDS,
        "arrays": arrays(),
    }  # fmt: skip
    save("harness", msgspec.to_builtins(figures))


if __name__ == "__main__":
    main()
