import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeresnext.measure.statistics import mcnemar, wilson


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
