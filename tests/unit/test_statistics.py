import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeresnext.measure.statistics import (
    PERCENTILES,
    count_outliers,
    drift,
    mcnemar,
    samples_needed,
    speedup,
    summarise,
    upper_bound,
    wilson,
)


def test_wilson_s_interval_is_the_published_one():
    # Newcombe 1998, Statistics in Medicine 17, 857, table I, method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_the_interval_holds_the_share_and_stays_between_0_and_1(count, share):
    successes = round(share * count)
    low, high = wilson(successes, count)
    assert 0 <= low <= successes / count + 1e-12
    assert successes / count - 1e-12 <= high <= 1


def test_the_interval_covers_the_truth_as_often_as_it_says():
    drawn = np.random.default_rng(0).binomial(600, 0.987, 2000)
    covered = [low <= 0.987 <= high for low, high in (wilson(int(found), 600) for found in drawn)]
    assert 0.93 < np.mean(covered) < 0.98


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_s_p_is_that_of_the_exact_binomial(lost, gained):
    flips = lost + gained
    exact = min(1, 2 * sum(math.comb(flips, k) for k in range(min(lost, gained) + 1)) / 2**flips)
    assert mcnemar(lost, gained) == pytest.approx(exact, rel=1e-9)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


@settings(deadline=None)
@given(st.integers(0, 40_000), st.integers(0, 40_000))
def test_many_flips_give_a_probability(lost, gained):
    assert 0 <= mcnemar(lost, gained) <= 1


def test_the_samples_needed_are_mlperf_s():
    needed = {name: samples_needed(share) for name, share in PERCENTILES.items()}
    assert needed == {"p50": 11, "p90": 64, "p95": 130, "p97": 219, "p99": 662, "p99_9": 6636}


DISTRIBUTIONS = {
    "exponential": (lambda g, n: g.exponential(1, n), lambda p: -math.log(1 - p)),
    "uniform": (lambda g, n: g.uniform(1, 2, n), lambda p: 1 + p),
    # Nine runs in ten are fast and the rest twenty times slower, as on a machine that is interrupted.
    "two modes": (
        lambda g, n: np.where(g.uniform(size=n) < 0.9, 1, 20) + g.uniform(0, 0.1, n),
        lambda p: 1 + p / 9 if p < 0.9 else 20 + (p - 0.9),
    ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(
    ("percentile", "count"), [("p50", 100), ("p90", 64), ("p90", 500), ("p99", 662), ("p99", 2000)]
)
def test_the_bound_covers_the_percentile_in_99_of_100_trials(name, percentile, count):
    draw, quantile = DISTRIBUTIONS[name]
    generator, share = np.random.default_rng(0), PERCENTILES[percentile]
    truth = quantile(share - 1e-12)
    covered = sum(upper_bound(draw(generator, count), share) >= truth for _ in range(1000))
    assert covered >= 990


@pytest.mark.parametrize("name", ["exponential", "uniform"])
@pytest.mark.parametrize("percentile", ["p50", "p90", "p99"])
def test_each_percentile_is_what_theory_says(name, percentile):
    draw, quantile = DISTRIBUTIONS[name]
    generator = np.random.default_rng(1)
    found = [getattr(summarise(draw(generator, 20_000))[0], percentile) for _ in range(20)]
    truth = quantile(PERCENTILES[percentile])
    assert np.mean(found) == pytest.approx(truth, rel=0.01)


@settings(deadline=None)
@given(st.integers(64, 400), st.sampled_from([0.5, 0.9]))
def test_the_bound_is_the_definition_s(count, share):
    samples = np.random.default_rng(count).permutation(count).astype(float)
    chances = (math.comb(count, k) * (1 - share) ** k * share ** (count - k) for k in range(count + 1))
    over = sum(at_most <= 0.01 for at_most in itertools.accumulate(chances)) - 1
    assert upper_bound(samples, share) == sorted(samples, reverse=True)[over - 1]


def test_a_million_samples_are_summarised_in_a_moment():
    latency, lacking = summarise(np.random.default_rng(0).exponential(1, 1_000_000))
    assert lacking == ""
    assert latency.bound["p99_9"] == pytest.approx(math.log(1000), rel=0.02)


@pytest.mark.parametrize(
    ("count", "null", "reason"),
    [
        (10, {"p50", "p90", "p99"}, "p50 needs 11"),
        (63, {"p90", "p99"}, "p90 needs 64"),
        (661, {"p99"}, "p99 needs 662"),
        (662, set(), ""),
    ],
)
def test_percentiles_without_enough_samples_are_null_with_the_number_needed(count, null, reason):
    latency, why = summarise([0.001 * (i + 1) for i in range(count)])
    assert {name for name in ("p50", "p90", "p99") if getattr(latency, name) is None} == null
    assert reason in why
    assert set(latency.bound) == {name for name in PERCENTILES if getattr(latency, name) is not None}


@given(st.lists(st.floats(1e-4, 1), min_size=1, max_size=9))
def test_percentiles_are_ordered_and_inside_the_samples_and_under_their_bounds(few):
    samples = (few * 662)[:662]
    latency, _ = summarise(samples)
    assert latency.min <= latency.p50 <= latency.p90 <= latency.p95 <= latency.p97 <= latency.p99 <= latency.max
    assert all(getattr(latency, name) <= bound + 1e-12 for name, bound in latency.bound.items())


def test_outliers_are_counted_and_stay_in():
    calm = [0.01 + 0.0001 * (i % 5) for i in range(97)]
    latency, _ = summarise([*calm, 0.5, 0.5, 0.5])
    assert latency.outliers == 3
    assert latency.max == 0.5
    assert latency.mean == pytest.approx((sum(calm) + 1.5) / 100)
    assert count_outliers(np.array(calm)) == 0
    assert count_outliers(np.array([0.01] * 9)) == 0  # nothing varies: nothing stands out


def test_drift_is_last_quarter_against_first():
    assert drift(np.linspace(1, 1, 40)) == 0
    assert drift(np.array([1.0] * 10 + [1.2] * 10 + [1.4] * 10 + [1.5] * 10)) == pytest.approx(0.5)
    assert drift(np.ones(7)) is None


def test_variation_is_that_of_the_sample():
    assert summarise([1.0, 2.0, 3.0])[0].variation == pytest.approx(0.5)
    assert summarise([1.0])[0].variation is None


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
