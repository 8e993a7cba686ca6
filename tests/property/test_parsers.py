"""Whatever comes from outside is taken, or refused in words.

EDGERESNEXT_EXAMPLES says how many examples each property is tried with; `benchmarks/fuzz.py --properties` counts them.
"""

import json
from random import Random

import pytest
from fuzzing.bounds import attempt
from fuzzing.mutation import mutated
from fuzzing.stored import JSON, TEXTS, tried
from fuzzing.targets import CORPUS, TARGETS
from hypothesis import given
from hypothesis import strategies as st

of_each = pytest.mark.parametrize("target", TARGETS)
JSON_TARGETS = (
    "manifest",
    "report",
    "ranges",
    "labels",
    "hub_configuration",
    "preprocessing",
    "export_record",
    "proofs",
    "training_run",
)


@of_each
@tried
@given(st.binary(max_size=300) | TEXTS.map(str.encode) | JSON)
def test_anything_is_taken_or_refused(target, content):
    attempt(target, content)


@of_each
@tried
@given(st.data())
def test_what_is_near_to_a_real_file_is_taken_or_refused(target, data):
    seeds = sorted((CORPUS / target).iterdir())
    content = data.draw(st.sampled_from(seeds)).read_bytes()
    random = Random(data.draw(st.integers(0, 2**64)))
    for _ in range(data.draw(st.integers(1, 4))):
        content = mutated(content, random)
    attempt(target, content)


@of_each
@tried
@given(st.data())
def test_a_file_that_was_cut_off_is_taken_or_refused(target, data):
    content = data.draw(st.sampled_from(sorted((CORPUS / target).iterdir()))).read_bytes()
    attempt(target, content[: data.draw(st.integers(0, len(content)))])


@pytest.mark.parametrize("target", JSON_TARGETS)
@tried
@given(st.data())
def test_any_value_in_any_place_of_a_document_is_taken_or_refused(target, data):
    whole = [
        json.loads(
            data.draw(
                st.sampled_from(sorted(p for p in (CORPUS / target).iterdir() if p.read_bytes()[:1] == b"{"))
            ).read_bytes()
        )
    ]
    where, key = whole, 0
    while isinstance(where[key], dict | list) and where[key] and data.draw(st.integers(0, 4)):
        where = where[key]
        key = data.draw(st.sampled_from(sorted(where)) if isinstance(where, dict) else st.integers(0, len(where) - 1))
    where[key] = json.loads(data.draw(JSON))
    attempt(target, json.dumps(whole[0]).encode())


@pytest.mark.parametrize("target", [*JSON_TARGETS, "recipe", "training_recipe"])
@tried
@given(
    st.integers(1, 200_000),
    st.sampled_from([("[", "]"), ('{"a":', "}"), ('{"schema":3,"a":', "}"), ("a = [", "]"), ("a.", "b = 1")]),
)
def test_any_depth_is_taken_or_refused(target, depth, brackets):
    begin, end = brackets
    attempt(target, (begin * depth + "1" + end * depth).encode())
