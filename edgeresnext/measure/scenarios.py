"""How queries arrive: one after the other, several at a time, everything at once, or at random times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends.base import Session
from edgeresnext.errors import RequestError
from edgeresnext.measure.latency import Record, Turns, batch_of, interleave, settle, timed, warm_up
from edgeresnext.measure.options import Request
from edgeresnext.measure.results import Scenario
from edgeresnext.measure.server import (
    OverloadedError,
    Served,
    arrivals,
    capacity,
    highest_rate,
    predicted_rate,
    serve,
)
from edgeresnext.measure.statistics import PERCENTILES

_SERVICES = 100
"""Runs from which the server scenario learns how long a query takes alone."""

_PARTS = 4
"""Turns in which the variants of a server scenario at one rate are served."""

_GIVE_UP = 100
"""Times the usual service that a query may take before the queue is taken for endless."""


@dataclass(kw_only=True)
class Measured:
    """One scenario at one batch, filled while it goes on.

    Args:
        scenario: Which.
        batch: Images a query.
        record: Samples, failures and notes by variant.
        rates: Queries a second that arrived, by variant (server).
        unable: Why a variant has no figure here though it works (server).
    """

    scenario: Scenario
    batch: int
    record: Record = field(default_factory=Record)
    rates: dict[str, float] = field(default_factory=dict)
    unable: dict[str, str] = field(default_factory=dict)


def measure(
    scenario: Scenario,
    sessions: Mapping[str, Session],
    images: NDArray[np.uint8],
    *,
    request: Request,
    found: list[Measured],
    progress: Callable[[int, int], None],
) -> None:
    """Run one scenario with every session, adding to `found` as soon as it begins.

    Raises:
        RequestError: No session can keep the rate or the latency bound.
    """
    budget_s = request.budget_s()
    if scenario == "server":
        found.append(Measured(scenario=scenario, batch=1))
        _Server(sessions, images, request=request, measured=found[-1], budget_s=budget_s, progress=progress).run()
        return
    effort = request.effort
    batches: tuple[int, ...] = (request.batch_of(scenario),)
    fewest = effort.min_rounds
    if scenario == "offline":
        batches = (request.options.batch,) if request.options.batch else effort.batches
        fewest = effort.offline_rounds
    for index, batch in enumerate(batches):
        found.append(Measured(scenario=scenario, batch=batch))
        interleave(
            sessions,
            images,
            batch,
            min_rounds=request.options.rounds or fewest,
            max_rounds=request.options.rounds or (effort.max_rounds if request.options.seconds is None else None),
            budget_s=budget_s / len(batches),
            progress=lambda done, total, index=index: progress(index * total + done, len(batches) * total),  # type: ignore[misc]
            record=found[-1].record,
            turn_s=effort.turn_s,
        )


class _Server:
    """The server scenario."""

    def __init__(
        self,
        sessions: Mapping[str, Session],
        images: NDArray[np.uint8],
        *,
        request: Request,
        measured: Measured,
        budget_s: float,
        progress: Callable[[int, int], None],
    ) -> None:
        self._images = images
        self._request = request
        self._measured = measured
        official = request.mode == "official"
        self._budget_s = budget_s if official else budget_s / max(1, len(sessions))
        self._progress = progress
        self._turns = Turns(sessions, measured.record)
        self._services: dict[str, list[float]] = {}
        self._percentile = request.effort.server_percentile
        self._share = PERCENTILES[self._percentile]

    def run(self) -> None:
        """Learn how long a query takes alone, refuse what nobody can do, then serve."""
        asked, measured = self._request.options, self._measured
        first = batch_of(self._images, 1, 0)

        def learn(name: str, session: Session) -> None:
            session.prepare(first)
            measured.record.notes[name] = tuple(filter(None, (warm_up(session, first),)))
            measured.record.details[name] = session.detail
            self._services[name] = [timed(session, first) for _ in range(_SERVICES)]

        self._turns.each(learn)
        if asked.rate is not None:
            self._refuse_rate(asked.rate)
            self._serve_rate(asked.rate)
        else:
            assert asked.latency_bound_s is not None
            self._refuse_bound(asked.latency_bound_s)
            self._serve_bound(asked.latency_bound_s)

    def _fastest(self) -> tuple[str, list[float]]:
        return min(self._services.items(), key=lambda item: sum(item[1]))

    def _refuse_rate(self, rate: float) -> None:
        """Leave out who cannot answer as many; refuse a rate that nobody can."""
        for name, services in self._services.items():
            if rate >= capacity(services):
                self._measured.unable[name] = f"overloaded: it answers {_rounded(capacity(services))} queries/s at most"
        if self._services and len(self._measured.unable) == len(self._services):
            name, services = self._fastest()
            raise RequestError(
                f"nothing here answers {rate:g} queries/s; {name}, the fastest, answers {_rounded(capacity(services))}",
                f"Ask for {_rounded(0.8 * capacity(services))} queries/s, or for the highest rate that keeps a latency "
                "bound.",
                values=("rate", "latency_bound_s"),
            )

    def _refuse_bound(self, bound_s: float) -> None:
        """Leave out who is slower even without a queue; refuse a bound that nobody keeps, and say what is possible."""
        rates = {name: predicted_rate(services, bound_s, self._share) for name, services in self._services.items()}
        for name, rate in rates.items():
            if rate is None:
                alone_s = _quantile(self._services[name], self._share)
                self._measured.unable[name] = (
                    f"no rate keeps {self._percentile} within {bound_s * 1e3:g} ms: "
                    f"a query alone takes {_rounded(alone_s * 1e3)} ms"
                )
        if rates and not any(rates.values()):
            name, services = self._fastest()
            alone_s = _quantile(services, self._share)
            possible_s = 2 * alone_s
            rate = predicted_rate(services, possible_s, self._share)
            raise RequestError(
                f"nothing here keeps {self._percentile} within {bound_s * 1e3:g} ms at any rate: a query alone takes "
                f"{_rounded(alone_s * 1e3)} ms with {name}, the fastest",
                f"Give a bound of {_rounded(possible_s * 1e3)} ms, at which about {_rounded(rate or 0)} queries/s are "
                "possible.",
                values=("latency_bound_s",),
            )

    def _queries(self, rate: float) -> int:
        """Return how many queries to send: as many as the time allows, and enough for the percentile."""
        return max(self._request.effort.server_queries, int(self._budget_s * rate))

    def _attempt(self, name: str, session: Session, rate: float, seed: int, parts: int = 1) -> list[float]:
        settle(session, batch_of(self._images, 1, 0))
        count = -(-self._queries(rate) // parts)
        least_s = self._budget_s / parts if self._request.mode == "official" else 0.0
        give_up_s = _GIVE_UP * _quantile(self._services[name], 0.5) + (self._request.options.latency_bound_s or 0)
        return serve(session, self._images, arrivals(rate, count, seed, least_s), give_up_s=give_up_s)

    def _serve_rate(self, rate: float) -> None:
        """Serve every session at the same rate, in turns, each turn from an empty queue."""
        for part in range(_PARTS):

            def once(name: str, session: Session, part: int = part) -> None:
                if name in self._measured.unable:
                    return
                try:
                    latencies = self._attempt(name, session, rate, part, _PARTS)
                except OverloadedError:
                    self._measured.unable[name] = f"overloaded at {rate:g} queries/s: the queue only grew"
                    self._measured.record.samples.pop(name, None)
                    return
                self._measured.rates[name] = rate
                self._measured.record.samples.setdefault(name, []).extend(latencies)

            self._turns.each(once)
            self._progress(part + 1, _PARTS)

    def _serve_bound(self, bound_s: float) -> None:
        """Find the highest rate of every session, one after the other."""
        names = list(self._turns.alive)

        def once(name: str, session: Session) -> None:
            if name in self._measured.unable:
                return

            def keep(served: Served) -> None:
                self._measured.rates[name] = served.rate
                self._measured.record.samples[name] = served.latencies_s

            served = highest_rate(
                lambda rate, seed: self._attempt(name, session, rate, seed),
                self._services[name], bound_s, self._share, keep,
            )  # fmt: skip
            if served is None:
                self._measured.unable[name] = (
                    f"no rate that was tried kept {self._percentile} within {bound_s * 1e3:g} ms"
                )
            self._progress(names.index(name) + 1, len(names))

        self._turns.each(once)


def _rounded(value: float) -> str:
    """Return two digits of a number, never as a power of ten."""
    return f"{float(f'{value:.2g}'):.10g}"


def _quantile(values: list[float], share: float) -> float:
    """Return a quantile of a list."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]
