"""The search for the fewest layers in floating point, on scripted verdicts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeresnext.pipeline.search import fewest

RANKING = [f"layer{i}" for i in range(12)]


def search(needed, most=12):
    """Search where exactly the plans with all of `needed` pass; return what was found, and what was tried."""
    tried = []

    def passes(layers):
        tried.append(layers)
        return set(needed) <= set(layers)

    return fewest(RANKING, most, passes), tried


@given(st.sets(st.sampled_from(RANKING), min_size=1))
def test_exactly_the_layers_that_are_needed_are_found(needed):
    found, tried = search(needed)
    assert set(found) == needed
    assert list(found) == sorted(found, key=RANKING.index)  # the most sensitive first
    assert found in tried  # what is returned was measured
    assert len(tried) == len(set(tried))  # and nothing twice
    # Doubling and halving takes two logarithms, each layer of the prefix but the last one more.
    assert len(tried) <= 2 * 4 + 1 + max(RANKING.index(name) for name in needed)


def test_the_shortest_prefix_is_doubled_and_halved_before_layers_are_spared():
    found, tried = search({"layer4", "layer1"})
    assert [len(layers) for layers in tried] == [1, 2, 4, 8, 6, 5, 4, 3, 2, 2]
    assert found == ("layer1", "layer4")


@pytest.mark.parametrize(("most", "lengths"), [(0, []), (1, [1]), (3, [1, 2, 3])])
def test_no_more_layers_are_taken_than_may_be(most, lengths):
    found, tried = search({"layer3"}, most)
    assert found is None
    assert [len(layers) for layers in tried] == lengths


def test_one_layer_is_never_left_out():
    found, tried = search(set())  # whatever is asked passes: even nothing would, and that was measured before
    assert (found, tried) == (("layer0",), [("layer0",)])
