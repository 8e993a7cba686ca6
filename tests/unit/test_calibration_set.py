"""The images that a build sees: what makes a poor sample is refused or said."""

import numpy as np
import pytest
from PIL import Image

from edgeresnext.data import folder
from edgeresnext.data.calibration_set import from_folder, generated
from edgeresnext.errors import DataError
from edgeresnext.spec import Preprocess

PREPROCESS = Preprocess(resize_px=32, crop_px=32)


def draw(root, samples=100, seed=0):
    return from_folder(folder.scan(root), PREPROCESS, samples, seed)


def images(directory, arrays):
    directory.mkdir()
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(directory / f"{number:03}.png")
    return directory


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (120, 32, 32, 3), dtype=np.uint8)


def test_black_images_show_no_range(tmp_path, noise, caplog):
    black = np.zeros((20, 32, 32, 3), np.uint8)
    with pytest.raises(DataError, match=r"20 of the 20 calibration images .* of one colour"):
        draw(images(tmp_path / "black", black))
    with pytest.raises(DataError, match=r"20 of the 27 calibration images"):
        draw(images(tmp_path / "almost", [*black, *noise[:7]]))
    draw(images(tmp_path / "some", [*black[:3] + 9, *noise[:97]]))
    assert "3 calibration images are of one colour: 000.png, 001.png, 002.png" in caplog.text


def test_colours_and_copies_of_one_image_are_no_sample(tmp_path, noise):
    colours = [np.full((32, 32, 3), value, np.uint8) for value in range(0, 210, 30)]
    with pytest.raises(DataError, match="are 1 and copies"):
        draw(images(tmp_path / "one", [*colours, *[noise[0]] * 20]))


def test_copies_are_no_new_images(tmp_path, noise, caplog):
    with pytest.raises(DataError, match=r"the 40 calibration images .* are 4 and copies of them"):
        draw(images(tmp_path / "four", [*noise[:4]] * 10))
    draw(images(tmp_path / "copies", [*noise[:90], *noise[:10]]))
    assert "10 of the 100 calibration images are copies" in caplog.text
    assert "90 calibration images are few" in caplog.text


def test_too_few_images_are_refused_and_few_are_warned_of(tmp_path, noise, caplog):
    with pytest.raises(DataError, match="at least 8 are needed"):
        draw(images(tmp_path / "seven", noise[:7]))
    draw(images(tmp_path / "eight", noise[:8]))
    assert "8 calibration images are few: 100 or more" in caplog.text
    caplog.clear()
    draw(images(tmp_path / "many", noise[:100]))
    assert "few" not in caplog.text


def test_the_same_seed_draws_the_same_images_and_another_one_others(tmp_path, noise):
    root = images(tmp_path / "noise", noise)
    one, again, other = draw(root, 50), draw(root, 50), draw(root, 50, seed=1)
    assert (one.digest, one.image_digests) == (again.digest, again.image_digests)
    assert one.digest != other.digest
    assert one.about == "50 images of 'noise', seed 0"


@pytest.mark.parametrize("generate", [False, True])
def test_batches_begin_anew_at_each_call_and_golden_images_are_the_first(tmp_path, noise, generate):
    found = generated(PREPROCESS, 3) if generate else draw(images(tmp_path / "noise", noise), 64)
    whole = np.concatenate(list(found.batches(None)))
    assert whole.shape == (64, 32, 32, 3)
    assert np.array_equal(np.concatenate(list(found.batches(20))), whole[:20])
    assert np.array_equal(found.golden, whole[:16])


def test_what_cannot_be_read_is_skipped_by_name_and_counted(tmp_path, noise, caplog):
    root = images(tmp_path / "noise", noise)
    (root / "broken.png").write_bytes(b"x")
    seen = []
    found = from_folder(folder.scan(root), PREPROCESS, 999, 0, lambda done, total: seen.append((done, total)))
    assert (found.count, found.about) == (120, "120 images of 'noise', seed 0")
    assert seen[-1] == (121, 121)
    assert "broken.png" in caplog.text
