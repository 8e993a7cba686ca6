import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeresnext.backends.base import Session
from edgeresnext.errors import BackendError
from edgeresnext.measure.latency import interleave, speedup, summarise
from edgeresnext.model.catalogue import specify

IMAGES = np.zeros((3, 32, 32, 3), np.uint8)


class Clock:
    """Time that passes only while a scripted session runs."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Scripted(Session):
    """A session whose runs take known times on a scripted clock."""

    def __init__(self, clock, times, log=None, name="", fail_at=None):
        super().__init__(specify("resnext20_8x4d"))
        self.clock, self.times, self.log, self.name, self.fail_at = clock, times, log, name, fail_at
        self.runs = 0

    def _run(self, images):
        self.runs += 1
        if self.runs == self.fail_at:
            raise BackendError("it broke")
        if self.log is not None:
            self.log.append(self.name)
        self.clock.now += self.times
        return np.zeros((len(images), 10), np.float32)


def timed(sessions, clock, **options):
    defaults = {"min_rounds": 10, "max_rounds": 10, "budget_s": 0.0}
    return interleave(sessions, IMAGES, 1, clock=clock, **(defaults | options))


def test_samples_are_the_sessions_own_times():
    clock = Clock()
    samples, failures = timed({"a": Scripted(clock, 0.010), "b": Scripted(clock, 0.002)}, clock)
    assert samples["a"] == pytest.approx([0.010] * 10)
    assert samples["b"] == pytest.approx([0.002] * 10)
    assert failures == {}


def test_variants_run_in_turn_in_every_round():
    clock, log = Clock(), []
    timed(
        {"a": Scripted(clock, 0.01, log, "a"), "b": Scripted(clock, 0.01, log, "b")}, clock, max_rounds=3, min_rounds=3
    )
    assert "".join(log) == "ab" + "aabb" * 3  # warm-up, then an untimed and a timed run each


def test_short_runs_are_warmed_for_three_milliseconds():
    clock, log = Clock(), []
    timed({"a": Scripted(clock, 0.001, log, "a")}, clock, max_rounds=1, min_rounds=1)
    assert len(log) in (5, 6)  # warm-up, three to four untimed, one timed


def test_it_ends_at_the_budget_but_not_before_the_minimum():
    clock = Clock()
    samples, _ = timed({"a": Scripted(clock, 0.5)}, clock, min_rounds=4, max_rounds=99, budget_s=0.1)
    assert len(samples["a"]) == 4
    samples, _ = timed({"a": Scripted(clock, 0.5)}, clock, min_rounds=4, max_rounds=99, budget_s=10)
    assert len(samples["a"]) == 10
    samples, _ = timed({"a": Scripted(clock, 0.5)}, clock, min_rounds=4, max_rounds=7, budget_s=1000)
    assert len(samples["a"]) == 7


def test_a_session_that_fails_does_not_end_the_run():
    clock = Clock()
    samples, failures = timed({"bad": Scripted(clock, 0.01, fail_at=6), "good": Scripted(clock, 0.01)}, clock)
    assert failures == {"bad": "it broke"}
    assert samples["bad"] == []
    assert len(samples["good"]) == 10


def test_images_are_taken_in_turn_and_wrap_around():
    clock, seen = Clock(), []
    session = Scripted(clock, 0.01)
    run = session._run
    session._run = lambda images: (seen.append(images[:, 0, 0, 0].tolist()), run(images))[1]
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    interleave({"a": session}, images, 2, min_rounds=3, max_rounds=3, budget_s=0, clock=clock)
    assert [batch for i, batch in enumerate(seen) if i % 2 == 1] == [[0, 1], [2, 0], [1, 2]]


@pytest.mark.parametrize(
    ("count", "null", "reason"),
    [
        (7, {"p50", "p90", "p99"}, "p50 needs 8"),
        (63, {"p90", "p99"}, "p90 needs 64"),
        (661, {"p99"}, "p99 needs 662"),
        (662, set(), ""),
    ],
)
def test_percentiles_without_enough_samples_are_null_with_the_number_needed(count, null, reason):
    latency, why = summarise([0.001 * (i + 1) for i in range(count)])
    assert {name for name in ("p50", "p90", "p99") if getattr(latency, name) is None} == null
    assert reason in why


def test_noise_is_said_and_no_sample_is_dropped():
    latency, why = summarise([0.01] * 80 + [0.08] * 20)
    assert "noisy: p90 is 8.0 times the median" in why
    assert latency.max == 0.08
    assert "noisy" not in summarise([0.01] * 95 + [0.08] * 5)[1]


@given(st.lists(st.floats(1e-4, 1), min_size=1, max_size=9))
def test_percentiles_are_ordered_and_inside_the_samples(few):
    samples = (few * 662)[:662]
    latency, _ = summarise(samples)
    assert latency.min <= latency.p50 <= latency.p90 <= latency.p99 <= latency.max


def test_speedup_is_the_ratio_of_medians_and_its_error_covers_the_truth():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        slow, fast = generator.normal(0.010, 0.001, 100), generator.normal(0.002, 0.0001, 100)
        ratio, error = speedup(slow, fast)
        inside += abs(ratio - 5) <= 2 * error
    assert 0.90 <= inside / 300 <= 0.99  # two standard errors: 95 %
    assert speedup([2.0] * 9, [1.0] * 9) == (2.0, 0.0)


def test_an_outlier_hardly_moves_the_error():
    calm = [0.01 + 0.0001 * (i % 5) for i in range(100)]
    assert speedup(calm, calm)[1] == pytest.approx(speedup([*calm[:-1], 9.0], calm)[1], rel=0.1)
