"""Every file of the corpus, and what is near to it: taken, or refused in words. The same ones in every run."""

from random import Random

import pytest
from fuzzing.bounds import attempt
from fuzzing.mutation import mutated
from fuzzing.seeds import everything
from fuzzing.targets import CORPUS, TARGETS

NEAR = 150


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_file_of_the_corpus_is_taken_or_refused(path):
    attempt(path.parent.name, path.read_bytes())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", TARGETS)
def test_what_is_near_to_it_is_taken_or_refused(target):
    random = Random(0)
    seeds = [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]
    for _ in range(NEAR):
        content = random.choice(seeds)
        for _ in range(random.choice((1, 1, 2, 4))):
            content = mutated(content, random)
        attempt(target, content)


def test_the_corpus_is_small_and_has_files_for_each_target():
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.glob("*/*")) < 200_000


@pytest.mark.slow
def test_the_first_files_are_those_that_are_written_today():
    """Else the fuzzer would begin with what this release refuses at once."""
    assert {(target, name) for target, name, _ in everything()} <= {
        (path.parent.name, path.name) for path in CORPUS.glob("*/*")
    }
