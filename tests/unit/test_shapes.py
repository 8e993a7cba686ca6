import numpy as np
import pytest
from shapes import drawing as shapes

from edgeresnext.errors import DataError


def test_an_image_follows_from_its_seed_alone():
    one, two = (np.asarray(shapes.draw(3, np.random.default_rng([0, 1, 2]))) for _ in range(2))
    other = np.asarray(shapes.draw(3, np.random.default_rng([0, 1, 3])))
    assert one.shape == (64, 64, 3)
    assert (one == two).all()
    assert (one != other).any()


@pytest.mark.parametrize("target", range(len(shapes.CLASSES)))
def test_every_class_can_be_drawn_and_is_not_flat(target):
    image = np.asarray(shapes.draw(target, np.random.default_rng(target)))
    assert image.std() > 5


def test_the_folders_are_balanced_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SPLITS", {"train": 40, "calibration": 20, "validation": 20})
    folders = shapes.prepare(tmp_path / "shapes")
    assert [len(list((folders["train"] / name).iterdir())) for name in shapes.CLASSES] == [2] * 20
    before = {path: path.stat().st_mtime_ns for path in folders["train"].glob("*/*.png")}
    assert shapes.prepare(tmp_path / "shapes") == folders
    assert before == {path: path.stat().st_mtime_ns for path in folders["train"].glob("*/*.png")}
    contents = {path.read_bytes() for root in folders.values() for path in root.glob("*/*.png")}
    assert len(contents) == 80  # no image is in two splits
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(DataError, match="something other"):
        shapes.prepare(tmp_path / "other")
