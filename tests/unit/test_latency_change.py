import math

import numpy as np
import pytest
from wandering import run

from edgeresnext.comparison.latency_change import change, t_quantile
from edgeresnext.measure.statistics import block_medians, blocks_of

TRIALS = 200


def verdict(old, new, threshold=0.03):
    runs = [block_medians(one, blocks_of(len(one))) for one in (old, new)]
    return change(*runs, threshold).verdict


def share(called, count, noise, slowdown, **drift):
    generator = np.random.default_rng(1)
    found = [
        verdict(run(generator, count, noise, **drift), slowdown * run(generator, count, noise, **drift))
        for _ in range(TRIALS)
    ]
    return np.mean([one == called for one in found])


@pytest.mark.parametrize(("count", "noise"), [(64, 0.03), (64, 0.1), (128, 0.05), (256, 0.1), (700, 0.03), (700, 0.1)])
def test_two_runs_of_the_same_are_called_no_difference(count, noise):
    assert share("no difference", count, noise, 1.0) >= 0.95


@pytest.mark.parametrize(("count", "noise"), [(64, 0.03), (128, 0.05), (256, 0.05), (256, 0.1), (700, 0.1)])
def test_a_run_that_is_10_percent_slower_is_called_slower(count, noise):
    assert share("slower", count, noise, 1.1) >= 0.95


def test_what_the_threshold_covers_is_no_difference_even_where_it_is_certain():
    assert share("no difference", 700, 0.03, 1.02, wander=0) == 1.0
    assert share("slower", 700, 0.03, 1.05, wander=0) >= 0.95


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says():
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(400):
        old, new = (block_medians(run(generator, 96, 0.05, wander=0), 16) for _ in range(2))
        low, high = change(old, new + math.log(1.2), 0.03).interval
        held += low <= 1.2 <= high
    assert 0.975 <= held / 400 <= 1


def test_samples_that_resemble_their_neighbours_do_not_narrow_the_interval():
    generator = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        old, new = (block_medians(run(generator, 700, 0.03, memory=10), 16) for _ in range(2))
        low, high = change(old, new, 0.0).interval
        held += low <= 1 <= high
    assert held / 200 >= 0.96


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(7, 3.49948), (10, 3.16927), (15, 2.94671), (30, 2.74999), (1e9, 2.57583)]
)
def test_the_t_quantile_is_the_tabulated_one(freedom, quantile):
    assert t_quantile(freedom) == pytest.approx(quantile, rel=2e-3)


def test_a_change_below_the_resolution_is_not_called_and_one_above_is():
    generator = np.random.default_rng(4)
    old = block_medians(run(generator, 128, 0.05), 16)
    resolution = change(old, old, 0.03).resolution
    for sign, name in ((1, "slower"), (-1, "faster")):
        assert change(old, old + sign * math.log(resolution * 0.999), 0.03).verdict == "no difference"
        assert change(old, old + sign * math.log(resolution * 1.001), 0.03).verdict == name


def test_equal_samples_need_no_spread():
    same = np.zeros(8)
    assert change(same, same, 0.03).interval == (1.0, 1.0)
    assert change(same, same + 0.2, 0.03).verdict == "slower"


def test_a_wander_longer_than_the_runs_deceives_the_latency_but_not_its_ratio_to_the_baseline():
    generator = np.random.default_rng(7)
    verdicts = []
    for _ in range(TRIALS):
        halves = []
        for _ in range(2):
            shared = run(generator, 128, 0.0, memory=1000)
            halves.append([block_medians(shared * np.exp(0.03 * generator.normal(size=128)), 16) for _ in range(2)])
        (old_base, old), (new_base, new) = halves
        verdicts.append((change(old, new, 0.03).verdict, change(old - old_base, new - new_base, 0.03).verdict))
    wrong = [np.mean([one != "no difference" for one in which]) for which in zip(*verdicts, strict=True)]
    assert 0.05 < wrong[0] < 0.25  # what `Comparison.regressed` says of it
    assert wrong[1] == 0
