"""One bundle in several processes that were started anew, proved by all of them at once."""

import multiprocessing

import numpy as np
import pytest

import edgeresnext

PROCESSES = 3


def answered(arguments):
    """The logits of golden images, in a process of its own.

    Unprepared: PyTorch would choose its memory layout by time, and each rounds in another way.
    """
    path, backend, images = arguments
    with edgeresnext.load(path, backend=backend, precision="fp32", batches=()) as classifier:
        return [classifier.logits(image[None]) for image in images]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_processes_give_the_answers_of_one(built, backend, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGERESNEXT_CACHE", str(tmp_path))  # which all of them write to
    images = built.golden().images[:4]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        found = pool.map(answered, [(built.path, backend, images)] * PROCESSES, chunksize=1)
    expected = answered((built.path, backend, images))
    assert all(np.array_equal(one, other) for answers in found for one, other in zip(answers, expected, strict=True))
