import json
import subprocess
import sys

import pytest
import subset

from edgeresnext.data import folder
from edgeresnext.errors import DataError, InputError


def test_a_drawn_set_is_even_over_the_classes_and_can_be_drawn_again(digit_folders, tmp_path):
    drawn = subset.draw(digit_folders["train"], tmp_path / "one", samples=50, seed=3)
    found = folder.scan(tmp_path / "one")
    assert [found.targets.count(index) for index in range(10)] == [5] * 10
    assert {image.file for image in drawn.images} == {p.relative_to(tmp_path / "one").as_posix() for p in found.images}
    again = subset.draw_again(digit_folders["train"], tmp_path / "two", tmp_path / "one" / "manifest.json")
    assert again == drawn
    assert subset.draw(digit_folders["train"], tmp_path / "three", samples=50, seed=3) == drawn
    assert subset.draw(digit_folders["train"], tmp_path / "four", samples=50, seed=4) != drawn


def test_other_or_missing_images_are_refused_by_name(digit_folders, tmp_path):
    subset.draw(digit_folders["train"] / "3", tmp_path / "one", samples=5, seed=0)
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    name = manifest["images"][0]["file"]
    manifest["images"][0]["sha256"] = "0" * 64
    (tmp_path / "altered.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=f"1 images .* are not those .*{name}"):
        subset.draw_again(digit_folders["train"] / "3", tmp_path / "two", tmp_path / "altered.json")
    with pytest.raises(DataError, match=r"5 of the 5 images .* are not in"):
        subset.draw_again(digit_folders["train"] / "4", tmp_path / "two", tmp_path / "one" / "manifest.json")
    manifest["images"][0]["file"] = "../secret.png"
    (tmp_path / "escape.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="outside its folder"):
        subset.draw_again(digit_folders["train"] / "3", tmp_path / "two", tmp_path / "escape.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match="cannot read manifest"):
        subset.draw_again(digit_folders["train"] / "3", tmp_path / "two", tmp_path / "broken.json")
    assert not (tmp_path / "two").exists()


def test_too_few_images_and_full_folders_are_refused(digit_folders, tmp_path):
    with pytest.raises(DataError, match="holds 1000 images; 1001 were asked for"):
        subset.draw(digit_folders["train"], tmp_path / "one", samples=1001, seed=0)
    with pytest.raises(InputError, match="something other than an empty folder"):
        subset.draw(digit_folders["train"], digit_folders["validation"], samples=10, seed=0)
    with pytest.raises(DataError, match="lies in"):
        subset.draw(digit_folders["train"], digit_folders["train"] / "sub", samples=10, seed=0)
    with pytest.raises(DataError, match="0 images were asked for"):
        subset.draw(digit_folders["train"], tmp_path / "one", samples=0, seed=0)


def script(request, name, *arguments):
    path = request.config.rootpath / "calibration" / name / "prepare.py"
    return subprocess.run([sys.executable, path, *arguments], capture_output=True, text=True, check=False)


def test_the_scripts_draw_and_refuse(request, digit_folders, tmp_path):
    done = script(request, "folder", digit_folders["train"], tmp_path / "set", "--samples", "20")
    assert (done.returncode, done.stdout) == (0, f"20 images of 10 classes in {tmp_path / 'set'}, and their manifest\n")
    refused = script(request, "folder", tmp_path / "nowhere", tmp_path / "other")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: image folder")
    foreign = script(request, "imagenet", digit_folders["train"], tmp_path / "imagenet")
    assert foreign.returncode == 1
    assert "is not ImageNet's training set: 0 of its 10 folders" in foreign.stderr


def test_imagenet_is_drawn_from_512_of_its_classes(request, digit_folders, tmp_path):
    image = min(digit_folders["train"].glob("*/*.png"))
    for index in range(1000):
        (tmp_path / "train" / f"n{index:08}").mkdir(parents=True)
        (tmp_path / "train" / f"n{index:08}" / f"n{index:08}_1.JPEG").write_bytes(image.read_bytes())
    done = script(request, "imagenet", tmp_path / "train", tmp_path / "set")
    assert done.stdout == f"512 images of 512 classes in {tmp_path / 'set'}, and their manifest\n"
