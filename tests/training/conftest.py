"""Digits enough for a small network to learn something in a second."""

import shutil

import pytest
from short_runs import Tiny


@pytest.fixture
def tiny():
    return Tiny()


@pytest.fixture(scope="session")
def three(digit_folders, tmp_path_factory):
    """Twenty training and eight validation images of three digits. Read only."""
    root = tmp_path_factory.mktemp("three")
    for split, name, count in (("train", "train", 20), ("validation", "val", 8)):
        for digit in ("0", "1", "4"):
            (root / name / digit).mkdir(parents=True)
            for image in sorted((digit_folders[split] / digit).iterdir())[:count]:
                shutil.copy(image, root / name / digit)
    return root
