"""What a benchmark is asked for, checked before anything is opened."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from edgeresnext.errors import RequestError, unknown_name
from edgeresnext.measure.results import Mode, Scenario
from edgeresnext.measure.statistics import PERCENTILES, samples_needed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
MULTI_STREAM_BATCH = 8
"""MLPerf's queries of the multi-stream scenario."""

STAGES = ("pytorch", "compile", "accuracy", "scopes", "layers", "energy", "memory")
"""What `skip` may leave out: PyTorch's faster ways, those of them that compile, and what is measured beside latency."""

SERVER_QUERIES = 2000
"""Queries of a server run at least: three times what p99 takes, because those of one queue depend on each other."""

OFFICIAL_S = 600.0
"""Seconds that MLPerf has a run last at least."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long a mode measures.

    Args:
        seconds: Time for each scenario; in `official` for each variant of it.
        min_rounds: Rounds that are run in any case: 11 let p50 be bounded, 64 p90, 662 p99.
        max_rounds: Rounds after which it ends; None is no limit.
        server_percentile: What the server scenario judges by.
        server_queries: Queries that arrive at least.
        batches: What the offline scenario sweeps.
        offline_rounds: Rounds at each batch at least.
        scope_rounds: Rounds in which the other scopes are timed.
        energy_s: Seconds of each variant's loop.
        accuracy_images: Images to draw for accuracy; None for all.
        turn_s: Timed runs in a turn go on for so long; 0 is one run.
    """

    seconds: float
    min_rounds: int
    max_rounds: int | None
    server_percentile: str
    server_queries: int
    batches: tuple[int, ...]
    offline_rounds: int
    scope_rounds: int
    energy_s: float
    accuracy_images: int | None
    turn_s: float = 0.0


EFFORTS: dict[Mode, Effort] = {
    "quick": Effort(
        seconds=5, min_rounds=samples_needed(PERCENTILES["p50"]), max_rounds=200, server_percentile="p90",
        server_queries=samples_needed(PERCENTILES["p90"]), batches=(1, 8), offline_rounds=3, scope_rounds=11,
        energy_s=1, accuracy_images=64,
    ),
    "default": Effort(
        seconds=20, min_rounds=samples_needed(PERCENTILES["p90"]), max_rounds=700, server_percentile="p99",
        server_queries=SERVER_QUERIES, batches=(1, 2, 4, 8, 16, 32), offline_rounds=8, scope_rounds=64,
        energy_s=3, accuracy_images=None,
    ),
    "official": Effort(
        seconds=OFFICIAL_S, min_rounds=samples_needed(PERCENTILES["p99"]), max_rounds=None, server_percentile="p99",
        server_queries=SERVER_QUERIES, batches=(1, 2, 4, 8, 16, 32), offline_rounds=8, scope_rounds=662,
        energy_s=10, accuracy_images=None, turn_s=1.0,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `bench` was asked for; see there."""

    path: Path
    data: Path | None
    backend: str | None
    precision: str | None
    scenarios: tuple[Scenario, ...]
    batch: int | None
    mode: Mode
    seconds: float | None
    rounds: int | None
    threads: int | None
    rate: float | None
    latency_bound_s: float | None
    baseline: str | None
    samples: int | None
    skip: frozenset[str]
    sensitivity: bool

    @property
    def effort(self) -> Effort:
        """How long the mode measures."""
        return EFFORTS[self.mode]

    def batch_of(self, scenario: Scenario) -> int:
        """Return the images of a query."""
        if scenario == "multi-stream":
            return self.batch or MULTI_STREAM_BATCH
        return 1

    def budget_s(self) -> float:
        """Return the seconds to spend on one scenario; in an official run on each variant of it, untimed runs aside."""
        return self.effort.seconds if self.seconds is None else self.seconds

    def skips(self, stage: str) -> bool:
        """Whether a stage is left out."""
        return stage in self.skip or (stage == "compile" and ("pytorch" in self.skip or self.mode == "quick"))

    def command(self) -> str:
        """Return the command that asks for the same."""
        words = ["edgeresnext", "bench", str(self.path)]
        options = {
            "--data": self.data, "--backend": self.backend, "--precision": self.precision, "--batch": self.batch,
            "--seconds": self.seconds, "--rounds": self.rounds, "--threads": self.threads, "--rate": self.rate,
            "--latency-bound": None if self.latency_bound_s is None else f"{self.latency_bound_s * 1e3:g}",
            "--baseline": self.baseline, "--samples": self.samples,
        }  # fmt: skip
        for scenario in self.scenarios:
            words += ["--scenario", scenario]
        for name, value in options.items():
            words += [] if value is None else [name, f"{value:g}" if isinstance(value, float) else str(value)]
        words += [f"--{self.mode}"] if self.mode != "default" else []
        words += ["--sensitivity"] if self.sensitivity else []
        for stage in sorted(self.skip):
            words += ["--skip", stage]
        return shlex.join(words)


def choose_scenarios(given: str | Iterable[str] | None, batch: int | None) -> tuple[Scenario, ...]:
    """Return the scenarios that are asked for; one image at a time without any, several with a batch.

    Raises:
        RequestError: There is no such scenario.
    """
    names = [given] if isinstance(given, str) else list(given or ())
    if not names:
        return ("single-stream",) if batch in (None, 1) else ("multi-stream",)
    for name in names:
        if name not in SCENARIOS:
            raise unknown_name("scenario", name, SCENARIOS)
    return tuple(scenario for scenario in SCENARIOS if scenario in names)


def check(request: Request) -> None:
    """Refuse what cannot be meant.

    Raises:
        RequestError: A number is out of range, or an option does not fit the others.
    """
    positive = {
        "batch": (request.batch, "Give one image or more."),
        "seconds": (request.seconds, "Give a positive time."),
        "rounds": (request.rounds, "Give one round or more."),
        "threads": (request.threads, "Give one thread or more, or leave it out."),
        "rate": (request.rate, "Give queries a second, such as 50."),
        "latency bound": (request.latency_bound_s, "Give milliseconds, such as 15."),
        "samples": (request.samples, "Give one image or more."),
    }
    for name, (value, hint) in positive.items():
        if value is not None and not 0 < value < math.inf:
            raise RequestError(f"{name} is {value:g}", hint)
    if request.mode not in EFFORTS:
        raise unknown_name("mode", request.mode, EFFORTS)
    for stage in request.skip:
        if stage not in STAGES:
            raise unknown_name("stage to skip", stage, STAGES)
    if request.samples is not None and request.data is None:
        raise RequestError("--samples would change nothing without images to draw from", "Add --data DIR.")
    _check_contradictions(request)
    _check_scenarios(request)
    _check_official(request)


def _check_contradictions(request: Request) -> None:
    """Refuse options of which one would change nothing beside the other."""
    if request.rounds is not None and request.seconds is not None:
        raise RequestError("--seconds would change nothing beside --rounds", "Leave one of them out.")
    if request.rounds is not None and "server" in request.scenarios:
        raise RequestError("--rounds would change nothing in the server scenario", "Give --seconds instead.")
    if request.samples is not None and "accuracy" in request.skip:
        raise RequestError("--samples would change nothing beside --skip accuracy", "Leave one of them out.")
    compiled = request.baseline is not None and request.baseline.endswith("-compile")
    if compiled and request.skip & {"pytorch", "compile"}:
        raise RequestError(f"--skip contradicts --baseline {request.baseline}", "Leave one of them out.")


def _check_scenarios(request: Request) -> None:
    """Refuse options of scenarios that are not asked for."""
    serving = "server" in request.scenarios
    if serving and request.rate is None and request.latency_bound_s is None:
        raise RequestError(
            "the server scenario needs a rate or a latency bound",
            "Add --rate 50 (queries a second), or --latency-bound 15 (ms) for the highest rate that keeps it.",
        )
    for name, value in {"--rate": request.rate, "--latency-bound": request.latency_bound_s}.items():
        if value is not None and not serving:
            raise RequestError(f"{name} would change nothing without the server scenario", "Add --scenario server.")
    if request.batch is not None and not {"multi-stream", "offline"} & set(request.scenarios) and request.batch != 1:
        raise RequestError(
            f"{' and '.join(request.scenarios)} takes one image at a time, and batch is {request.batch}",
            "Use --scenario multi-stream or offline for batches.",
        )


def _check_official(request: Request) -> None:
    """Refuse what would make an official run shorter than its name says."""
    if request.mode != "official":
        return
    if request.rounds is not None:
        raise RequestError("--rounds does not fit --official, which measures by time", "Leave one of them out.")
    if request.seconds is not None and request.seconds < OFFICIAL_S:
        raise RequestError(f"an official run lasts 600 s a variant, and seconds is {request.seconds:g}", "Give more.")
    if request.samples is not None:
        raise RequestError("an official run takes the full set of images, and --samples is given", "Leave it out.")
