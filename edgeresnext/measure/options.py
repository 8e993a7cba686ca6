"""What a benchmark is asked for, checked before anything is opened."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from edgeresnext.errors import RequestError, shown, unknown_name
from edgeresnext.measure.results import Mode, Scenario
from edgeresnext.measure.statistics import PERCENTILES, samples_needed
from edgeresnext.spec import ClassOrder, Value

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


class BenchOptions(Value, frozen=True, kw_only=True, repr_omit_defaults=True):
    """What a benchmark may be asked for beside its subject; what is None is left to the scenario and the mode.

    `batch` is the images a query of multi-stream, or a run of offline. `seconds` are spent on each scenario, in an
    official run on each variant of it; `rounds` asks for exactly so many interleaved rounds instead. `threads` are the
    CPU threads of every variant, without it each runtime's choice. The server scenario takes `rate` queries a second,
    or seeks the highest rate whose p99 (p90 in a quick run) stays within `latency_bound_s`.

    `baseline` names the variant that speed is compared with, without it PyTorch eager FP32, on the GPU where it runs
    there; accuracy is always compared with PyTorch eager FP32 on the CPU. `samples` images are drawn for accuracy,
    evenly over the classes, without it all (64 in a quick run). `skip` leaves out any of `STAGES`. `class_order` says
    what class folders that are numbers mean, where the network has no labels. `device` is the GPU to measure on, by its
    index among those that CUDA offers or by its UUID, without it the first.
    """

    batch: int | None = None
    seconds: float | None = None
    rounds: int | None = None
    threads: int | None = None
    rate: float | None = None
    latency_bound_s: float | None = None
    baseline: str | None = None
    samples: int | None = None
    skip: tuple[str, ...] = ()
    class_order: ClassOrder | None = None
    device: int | str | None = None


class Request(Value, frozen=True, kw_only=True, repr_omit_defaults=True):
    """What `bench` was asked for, by the names of its arguments; `scenario` holds at least one."""

    path: str
    data: str | None = None
    scenario: tuple[Scenario, ...] = ("single-stream",)
    mode: Mode = "default"
    backend: str | None = None
    precision: str | None = None
    options: BenchOptions = BenchOptions()

    @property
    def effort(self) -> Effort:
        """How long the mode measures."""
        return EFFORTS[self.mode]

    def batch_of(self, scenario: Scenario) -> int:
        """Return the images of a query."""
        if scenario == "multi-stream":
            return self.options.batch or MULTI_STREAM_BATCH
        return 1

    def budget_s(self) -> float:
        """Return the seconds to spend on one scenario; in an official run on each variant of it, untimed runs aside."""
        return self.effort.seconds if self.options.seconds is None else self.options.seconds

    def skips(self, stage: str) -> bool:
        """Whether a stage is left out."""
        skip = self.options.skip
        return stage in skip or (stage == "compile" and ("pytorch" in skip or self.mode == "quick"))

    def command(self) -> str:
        """Return the call that asks for the same; what the command line was asked for, it says in its own words."""
        return f"from edgeresnext import BenchOptions, bench; {repr(self).replace('Request', 'bench', 1)}"


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
            raise unknown_name("scenario", name, SCENARIOS, values=("scenario",))
    return tuple(scenario for scenario in SCENARIOS if scenario in names)


_POSITIVE = {
    "batch": "Give one image or more.",
    "seconds": "Give a positive time.",
    "rounds": "Give one round or more.",
    "threads": "Give one thread or more, or leave it out.",
    "rate": "Give queries a second, such as 50.",
    "latency_bound_s": "Give a positive time, such as 0.015 s (15 ms).",
    "samples": "Give one image or more.",
}


def check(request: Request) -> None:
    """Refuse what cannot be meant.

    Raises:
        RequestError: A number is out of range, or an option does not fit the others.
    """
    for name, hint in _POSITIVE.items():
        value = getattr(request.options, name)
        if value is not None and not 0 < value < math.inf:
            words = f"{value:g} s ({1e3 * value:g} ms)" if name == "latency_bound_s" else shown(value)
            raise RequestError(f"{name} is {words}", hint, values=(name,))
    if request.mode not in EFFORTS:
        raise unknown_name("mode", request.mode, EFFORTS, values=("mode",))
    if isinstance(request.options.skip, str):
        raise RequestError("skip is a text, not a list", "Write a list, also of one.", values=("skip",))
    for stage in request.options.skip:
        if stage not in STAGES:
            raise unknown_name("stage to skip", stage, STAGES, values=("skip",))
    _check_contradictions(request)
    _check_scenarios(request)
    _check_official(request)


def _check_contradictions(request: Request) -> None:
    """Refuse options of which one would change nothing beside the other."""
    asked = request.options
    if asked.samples is not None and request.data is None:
        raise _useless("samples", "without images to draw from", "Give a folder of images as data.", "data")
    if asked.samples is not None and "accuracy" in asked.skip:
        raise _useless("samples", "where accuracy is skipped", "Leave one of them out.", "skip")
    if asked.rounds is not None and asked.seconds is not None:
        raise _useless("seconds", "beside rounds", "Leave one of them out.", "rounds")
    if asked.rounds is not None and "server" in request.scenario:
        raise _useless("rounds", "in the server scenario", "Give seconds instead.", "seconds")
    if asked.baseline is not None and asked.baseline.endswith("-compile") and {"pytorch", "compile"} & {*asked.skip}:
        raise RequestError(
            f"baseline {asked.baseline} is to be skipped", "Leave one of them out.", values=("baseline", "skip")
        )


def _check_scenarios(request: Request) -> None:
    """Refuse options of scenarios that are not asked for."""
    asked = request.options
    serving = "server" in request.scenario
    if serving and asked.rate is None and asked.latency_bound_s is None:
        raise RequestError(
            "the server scenario needs a rate or a latency bound",
            "Give a rate such as 50 (queries a second), or a bound such as 15 ms for the highest rate that keeps it.",
            values=("rate", "latency_bound_s"),
        )
    for name in ("rate", "latency_bound_s"):
        if getattr(asked, name) is not None and not serving:
            raise _useless(name, "without the server scenario", "Ask for scenario 'server'.", "scenario")
    if asked.batch not in (None, 1) and not {"multi-stream", "offline"} & set(request.scenario):
        raise RequestError(
            f"{' and '.join(request.scenario)} takes one image at a time, and batch is {asked.batch}",
            "Use scenario 'multi-stream' or 'offline' for batches.",
            values=("scenario", "batch"),
        )


def _check_official(request: Request) -> None:
    """Refuse what would make an official run shorter than its name says."""
    if request.mode != "official":
        return
    asked = request.options
    if asked.rounds is not None:
        raise RequestError("an official run measures by time, and rounds is given", "Leave it out.", values=("rounds",))
    if asked.seconds is not None and asked.seconds < OFFICIAL_S:
        raise RequestError(
            f"an official run lasts 600 s a variant, and seconds is {asked.seconds:g}",
            "Give more.",
            values=("seconds",),
        )
    if asked.samples is not None:
        raise RequestError(
            "an official run takes the full set of images, and samples is given", "Leave it out.", values=("samples",)
        )


def _useless(name: str, why: str, hint: str, other: str) -> RequestError:
    """Return the error for a value that would change nothing, naming the other value that decides it."""
    return RequestError(f"{name} would change nothing {why}", hint, values=(name, other))
