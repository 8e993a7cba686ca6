import math
import re

import numpy as np
import pytest
from scripted import IMAGES, Clock, Scripted, on_clock

from edgeresnext.errors import RequestError
from edgeresnext.measure.options import BenchOptions, Request, check, choose_scenarios
from edgeresnext.measure.scenarios import Measured, measure
from edgeresnext.measure.server import (
    OverloadedError,
    arrivals,
    capacity,
    highest_rate,
    predicted_rate,
    serve,
    simulate,
)


def test_arrivals_are_a_poisson_process():
    due = arrivals(50, 20_000, seed=1)
    gaps = np.diff(due)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.02)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.03)  # an exponential's deviation is its mean
    counts = np.bincount(due.astype(int))[:-1]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.25)  # Poisson: variance and mean agree
    assert (arrivals(50, 10, seed=1) == due[:10]).all()


def test_latency_counts_from_the_arrival():
    clock = Clock(look_s=1e-6)
    latencies = serve(Scripted(clock, 0.1), IMAGES, np.array([0.0, 0.05, 0.06, 1.0]), clock=clock, sleep=clock.sleep)
    # The second waits for the first, the third for both, and the fourth for nobody.
    assert latencies == pytest.approx([0.1, 0.15, 0.24, 0.1], rel=1e-3)


def test_a_queue_that_only_grows_is_given_up():
    clock = Clock(look_s=1e-6)
    session = Scripted(clock, 0.1)
    with pytest.raises(OverloadedError):
        serve(session, IMAGES, np.arange(100) * 0.01, give_up_s=1.0, clock=clock, sleep=clock.sleep)
    assert 10 <= session.runs < 14


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_simulated_queues_are_those_of_theory(load):
    # M/M/1: the time in the system is exponential with rate mu - lambda.
    services = np.random.default_rng(0).exponential(1.0, 20_000)
    found = simulate(services, load, count=200_000)
    assert np.median(found) == pytest.approx(math.log(2) / (1 - load), rel=0.05)
    assert np.quantile(found, 0.9) == pytest.approx(math.log(10) / (1 - load), rel=0.05)


def test_simulated_queues_are_those_that_are_served():
    services = np.random.default_rng(3).uniform(0.01, 0.02, 400)
    clock, turn = Clock(look_s=1e-6), iter(services.tolist())
    due = np.cumsum(np.random.default_rng(4).exponential(1 / 50, 400))
    served = serve(Scripted(clock, lambda: next(turn)), IMAGES, due, clock=clock, sleep=clock.sleep)
    assert np.median(served) == pytest.approx(np.median(simulate(services, 50)), rel=0.15)


def test_the_predicted_rate_is_that_of_theory():
    services = np.random.default_rng(0).exponential(0.01, 50_000)
    # M/M/1: p90 = ln(10) / (mu - lambda), so that lambda = mu - ln(10) / bound.
    assert predicted_rate(services, 0.08, 0.9) == pytest.approx(100 - math.log(10) / 0.08, rel=0.05)
    assert predicted_rate(services, 0.001, 0.9) is None
    assert capacity(services) == pytest.approx(100, rel=0.02)


def test_an_official_server_lasts_as_long_as_it_says():
    assert arrivals(5, 10, seed=0, least_s=600)[-1] >= 600
    assert len(arrivals(500, 2000, seed=0, least_s=1)) == 2000


def test_the_highest_rate_really_kept_the_bound():
    services = [0.010] * 100

    def attempt(rate, seed):
        clock = Clock(look_s=1e-6)
        return serve(Scripted(clock, 0.010), IMAGES, arrivals(rate, 4000, seed), clock=clock, sleep=clock.sleep)

    found = highest_rate(attempt, services, 0.05, 0.99)
    # M/D/1: waits of more than 40 ms are as rare as exp(-4 x), where x = rate * 10 ms * (exp(x) - 1): 1 % at 53 a second.
    assert found.rate == pytest.approx(53, rel=0.1)
    assert np.quantile(found.latencies_s, 0.99) <= 0.05
    assert np.quantile(attempt(found.rate * 1.25, 9), 0.99) > 0.05


def test_no_rate_is_invented_where_none_holds():
    def overloaded(_rate, _seed):
        raise OverloadedError

    assert highest_rate(overloaded, [0.010] * 100, 0.05, 0.99) is None
    assert highest_rate(lambda _rate, _seed: [0.06] * 1000, [0.010] * 100, 0.05, 0.99) is None


def request(scenario=("server",), mode="quick", data=None, **options):
    return Request(path="b", scenario=scenario, mode=mode, data=data, options=BenchOptions(**options))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock(look_s=1e-6)
    on_clock(monkeypatch, clock)
    return clock


def served(sessions, **asked):
    """Return what the server scenario makes of sessions."""
    found: list[Measured] = []
    measure("server", sessions, IMAGES, request=request(**asked), found=found, progress=lambda *_: None)
    return found[0]


def test_an_impossible_bound_says_the_rate_that_is_possible(clock):
    with pytest.raises(RequestError) as refused:
        served({"slow": Scripted(clock, 0.004)}, latency_bound_s=0.001)
    assert "nothing here keeps p90 within 1 ms at any rate" in refused.value.what
    assert "slow, the fastest" in refused.value.what
    milliseconds, rate = (float(number) for number in re.findall(r"\d+(?:\.\d+)?", refused.value.hint))
    assert milliseconds == pytest.approx(8)  # twice what a query takes alone
    assert 1 < rate < 250


def test_an_impossible_rate_says_the_rate_that_is_possible(clock):
    with pytest.raises(RequestError, match="nothing here answers 5000 queries/s; slow, the fastest, answers 250"):
        served({"slow": Scripted(clock, 0.004)}, rate=5000.0)


def test_who_cannot_keep_up_is_left_out_and_the_others_are_served(clock):
    found = served({"fast": Scripted(clock, 0.001), "slow": Scripted(clock, 0.02)}, rate=150.0, seconds=0.5)
    assert len(found.record.samples["fast"]) >= 64
    assert "slow" not in found.record.samples
    assert found.unable["slow"] == "overloaded: it answers 50 queries/s at most"


@pytest.mark.parametrize(
    ("asked", "message", "values"),
    [
        ({}, "needs a rate or a latency bound", ("rate", "latency_bound_s")),
        ({"scenario": ("single-stream",), "rate": 5.0}, "rate would change nothing", ("rate", "scenario")),
        ({"scenario": ("single-stream",), "batch": 4}, "takes one image at a time", ("scenario", "batch")),
        ({"rate": -1.0}, "rate is -1", ("rate",)),
        ({"rate": 5.0, "seconds": 0}, "seconds is 0", ("seconds",)),
        ({"rate": 5.0, "threads": 0}, "threads is 0", ("threads",)),
        ({"latency_bound_s": float("nan")}, "latency_bound_s is nan", ("latency_bound_s",)),
        ({"rate": 5.0, "skip": ("memroy",)}, "unknown stage to skip 'memroy'", ("skip",)),
        ({"rate": 5.0, "mode": "fast"}, "unknown mode 'fast'", ("mode",)),
        ({"rate": 5.0, "mode": "official", "seconds": 60.0}, "lasts 600 s", ("seconds",)),
        ({"scenario": ("offline",), "mode": "official", "rounds": 60}, "measures by time", ("rounds",)),
        ({"rate": 5.0, "data": "x", "mode": "official", "samples": 60}, "the full set of images", ("samples",)),
        ({"rate": 5.0, "rounds": 60}, "rounds would change nothing in the server scenario", ("rounds", "seconds")),
        ({"scenario": ("offline",), "rounds": 6, "seconds": 5.0}, "nothing beside rounds", ("seconds", "rounds")),
        ({"rate": 5.0, "skip": ("compile",), "baseline": "torch-fp32-compile"}, "to be skipped", ("baseline", "skip")),
        ({"rate": 5.0, "data": "x", "samples": 5, "skip": ("accuracy",)}, "accuracy is skipped", ("samples", "skip")),
        ({"rate": 5.0, "samples": 5}, "samples would change nothing", ("samples", "data")),
    ],
)
def test_requests_that_cannot_be_meant_are_refused(asked, message, values):
    with pytest.raises(RequestError, match=message) as refused:
        check(request(**asked))
    assert refused.value.values == values


def test_scenarios_are_chosen_by_name_or_by_batch():
    assert choose_scenarios(None, None) == ("single-stream",)
    assert choose_scenarios(None, 8) == ("multi-stream",)
    assert choose_scenarios("offline", None) == ("offline",)
    assert choose_scenarios(["server", "offline", "server"], None) == ("offline", "server")
    with pytest.raises(RequestError, match="Did you mean 'offline'"):
        choose_scenarios(["ofline"], None)


def test_the_recorded_call_asks_for_the_same():
    asked = request(data="my photos", rate=20.0, skip=("memory", "energy"))
    found = []
    code = asked.command().partition("; ")[2]
    eval(code, {"bench": lambda **given: found.append(Request(**given)), "BenchOptions": BenchOptions})
    assert found == [asked]
    assert code.startswith("bench(path='b', data='my photos', scenario=('server',), mode='quick', options=")
