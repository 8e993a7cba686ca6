import itertools

import numpy as np
import pytest
from scripted import IMAGES, Clock, Scripted

from edgeresnext.measure.latency import Record, interleave, warm_up

WARM_UP = 1 + 3 * 5  # prepared once, then three windows of 50 ms at 10 ms a run


def timed(sessions, clock, **options):
    defaults = {"min_rounds": 10, "max_rounds": 10, "budget_s": 0.0}
    return interleave(sessions, IMAGES, 1, clock=clock, **(defaults | options))


def test_samples_are_the_sessions_own_times():
    clock = Clock()
    samples, failures = timed({"a": Scripted(clock, 0.010), "b": Scripted(clock, 0.002)}, clock)
    assert samples["a"] == pytest.approx([0.010] * 10)
    assert samples["b"] == pytest.approx([0.002] * 10)
    assert failures == {}


@pytest.mark.parametrize("seconds", [0.0001, 0.002, 0.05])
def test_the_harness_adds_at_most_1_percent_or_20_microseconds(seconds):
    clock = Clock(look_s=10e-6)  # a look at the clock that costs far more than a real one
    samples, _ = timed({"a": Scripted(clock, seconds)}, clock)
    assert max(samples["a"]) - seconds <= max(0.01 * seconds, 20e-6)


def test_variants_run_in_turn_in_every_round():
    clock, log = Clock(), []
    timed(
        {"a": Scripted(clock, 0.01, log, "a"), "b": Scripted(clock, 0.01, log, "b")}, clock, max_rounds=3, min_rounds=3
    )
    text = "".join(log)
    rounds = text.replace("a" * WARM_UP, "").replace("b" * WARM_UP, "")
    assert len(text) == 2 * WARM_UP + 12
    # An untimed and a timed run each, in an order that is drawn anew in each round.
    assert {rounds[i : i + 4] for i in range(0, 12, 4)} == {"aabb", "bbaa"}


def test_short_runs_are_warmed_for_three_milliseconds():
    clock, log = Clock(), []
    session = Scripted(clock, 0.001, log, "a")
    timed({"a": session}, clock, max_rounds=1, min_rounds=1)
    short = len(log)
    timed({"a": session}, clock, max_rounds=2, min_rounds=2)
    assert len(log) - 2 * short in (4, 5)  # one more round: three to four untimed, one timed


def test_warm_up_ends_when_three_windows_agree():
    clock = Clock()
    falling = itertools.chain([0.1] * 3, [0.08] * 3, [0.06] * 3, itertools.repeat(0.05))
    session = Scripted(clock, lambda: next(falling))
    assert warm_up(session, IMAGES, clock) == ""
    assert session.runs == 3 * 6  # windows at 100, 80, 60, 50, 50, 50 ms


def test_a_session_that_never_settles_is_said_so_and_still_timed():
    clock, turns = Clock(), itertools.count()
    session = Scripted(clock, lambda: 0.1 * (1 + next(turns) // 3 % 2))
    record = Record()
    samples, _ = interleave(
        {"a": session}, IMAGES, 1, min_rounds=5, max_rounds=5, budget_s=0, clock=clock, record=record
    )
    assert record.notes["a"] == ("never settled: its last three windows of warm-up differ by 100%",)
    assert len(samples["a"]) == 5


def test_it_ends_at_the_budget_but_not_before_the_minimum():
    clock = Clock()
    samples, _ = timed({"a": Scripted(clock, 0.5)}, clock, min_rounds=4, max_rounds=99, budget_s=0.1)
    assert len(samples["a"]) == 4
    samples, _ = timed({"a": Scripted(clock, 0.5)}, clock, min_rounds=4, max_rounds=99, budget_s=10)
    assert len(samples["a"]) == 10
    samples, _ = timed({"a": Scripted(clock, 0.5)}, clock, min_rounds=4, max_rounds=7, budget_s=1000)
    assert len(samples["a"]) == 7
    samples, _ = timed({"a": Scripted(clock, 0.5)}, clock, min_rounds=4, max_rounds=None, budget_s=1000)
    assert len(samples["a"]) == 1000


def test_turns_of_timed_runs_until_each_session_was_timed_for_the_budget():
    clock = Clock()
    sessions = {"fast": Scripted(clock, 0.01), "slow": Scripted(clock, 0.5)}
    samples, _ = timed(sessions, clock, min_rounds=8, max_rounds=None, budget_s=20, turn_s=1.0)
    assert 20 <= sum(samples["fast"]) < 22
    assert 20 <= sum(samples["slow"]) < 32  # its last run in each turn may take half a second longer
    assert clock.now - 100 < 1.25 * sum(map(sum, samples.values())) + 10  # hardly any time goes to untimed runs


@pytest.mark.parametrize(
    ("batch", "note"),
    [(1, ("the batch of 1 is filled up to 2",)), (4, ()), (32, ("the batch of 32 is run in pieces of 8",))],
)
def test_a_batch_that_a_runtime_does_not_take_as_it_is_is_said_so(batch, note):
    clock, record = Clock(), Record()
    session = Scripted(clock, 0.01)
    session.smallest, session.largest = 2, 8
    interleave(
        {"a": session}, IMAGES, batch, min_rounds=1, max_rounds=1, budget_s=0, clock=clock, record=record
    )  # fmt: skip
    assert record.notes["a"] == note


def test_progress_ends_at_what_it_expected():
    clock, told = Clock(), []
    timed(
        {"a": Scripted(clock, 0.5)}, clock, min_rounds=4, max_rounds=99, budget_s=10,
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert [done for done, _ in told] == list(range(1, 11))
    assert told[-1] == (10, 10)
    assert all(total >= done for done, total in told)


def test_a_session_that_fails_does_not_end_the_run():
    clock = Clock()
    sessions = {"bad": Scripted(clock, 0.01, fail_at=WARM_UP + 5), "good": Scripted(clock, 0.01)}
    samples, failures = timed(sessions, clock)
    assert failures == {"bad": "it broke"}
    assert samples["bad"] == pytest.approx([0.01] * 2)  # what it did before stays
    assert len(samples["good"]) == 10


def test_an_interrupted_run_leaves_its_samples():
    clock, record = Clock(), Record()

    def interrupt(done, _total):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        timed({"a": Scripted(clock, 0.01)}, clock, progress=interrupt, record=record)
    assert record.samples["a"] == pytest.approx([0.01] * 6)


def test_images_are_taken_in_turn_and_wrap_around():
    clock, seen = Clock(), []
    session = Scripted(clock, 0.01)
    run = session._run
    session._run = lambda images: (seen.append(images[:, 0, 0, 0].tolist()), run(images))[1]
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    interleave({"a": session}, images, 2, min_rounds=3, max_rounds=3, budget_s=0, clock=clock)
    assert [batch for i, batch in enumerate(seen[WARM_UP:]) if i % 2 == 1] == [[0, 1], [2, 0], [1, 2]]
