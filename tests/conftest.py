"""What several groups of tests share: the prepared digits, and one bundle built from them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgeresnext
from edgeresnext.cli.demo import weights
from edgeresnext.data import digits
from edgeresnext.machine.cache import CACHE_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Proofs of these tests are remembered in a folder of their own; child processes too."""
    before = os.environ.get(CACHE_VARIABLE)
    os.environ[CACHE_VARIABLE] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop(CACHE_VARIABLE)
    if before is not None:
        os.environ[CACHE_VARIABLE] = before


@pytest.fixture(scope="session")
def digit_folders(tmp_path_factory):
    """The folders of the train, calibration and validation digits. Read only."""
    return digits.prepare(tmp_path_factory.mktemp("digits") / "digits")


@pytest.fixture(scope="session")
def few_digits(digit_folders, tmp_path_factory):
    """Twenty validation digits of each class. Read only."""
    root = tmp_path_factory.mktemp("few")
    for folder in sorted(digit_folders["validation"].iterdir()):
        (root / folder.name).mkdir()
        for image in sorted(folder.iterdir())[:20]:
            shutil.copy(image, root / folder.name)
    return root


@pytest.fixture(scope="session")
def digit_weights():
    """The demo's trained weights. Read only."""
    with weights() as path:
        yield path


@pytest.fixture(scope="session")
def built(tmp_path_factory, digit_folders, digit_weights):
    """A bundle of the digits network. Read only: tests that alter one take `bundle_copy`."""
    output = tmp_path_factory.mktemp("bundles") / "digits"
    return edgeresnext.build(
        "resnext20_8x4d", weights=digit_weights, calibration=digit_folders["calibration"], output=output
    )


@pytest.fixture
def bundle_copy(built, tmp_path) -> Path:
    """A copy of the digits bundle that the test may damage."""
    return Path(shutil.copytree(built.path, tmp_path / "copy"))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twelve small JPEG files in two class folders."""
    generator = np.random.default_rng(0)
    for index in range(12):
        folder = tmp_path / "photos" / ("cat" if index % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (48, 40, 3), dtype=np.uint8)).save(folder / f"{index}.jpg")
    return tmp_path / "photos"
