from collections import Counter

import pytest
from PIL import Image

from edgeresnext.data import digits
from edgeresnext.data.folder import match_classes, read_labels, scan
from edgeresnext.errors import DataError


def test_class_folders_give_sorted_classes_and_targets(photos):
    found = scan(photos)
    assert found.classes == ("cat", "dog")
    assert Counter(found.targets) == {0: 6, 1: 6}
    assert all(path.parent.name == found.classes[t] for path, t in zip(found.images, found.targets, strict=True))


def test_a_flat_folder_has_no_classes(photos):
    found = scan(photos / "cat")
    assert (len(found.images), found.classes, found.targets) == (6, (), ())


def test_hidden_and_other_files_are_no_images(photos):
    (photos / "cat" / "notes.txt").write_text("x")
    (photos / "cat" / "._0.jpg").write_bytes(b"x")
    (photos / ".cache").mkdir()
    (photos / ".cache" / "a.png").write_bytes(b"x")
    (photos / "empty").mkdir()
    assert len(scan(photos).images) == 12
    assert scan(photos).classes == ("cat", "dog")


def test_folders_that_cannot_be_used_are_refused(tmp_path, photos):
    with pytest.raises(DataError, match="does not exist"):
        scan(tmp_path / "none")
    with pytest.raises(DataError, match="is a file"):
        scan(photos / "cat" / "1.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        scan(tmp_path / "empty")
    Image.new("RGB", (4, 4)).save(photos / "loose.png")
    with pytest.raises(DataError, match="both images"):
        scan(photos)


def test_a_sample_is_seeded_stratified_and_without_repeats(digit_folders):
    found = scan(digit_folders["train"])
    sample = found.sample(100, seed=3)
    assert Counter(sample.targets) == dict.fromkeys(range(10), 10)
    assert len(set(sample.images)) == 100
    assert sample == found.sample(100, seed=3)
    assert sample != found.sample(100, seed=4)


def test_a_small_class_leaves_its_share_to_the_others(photos):
    for path in sorted((photos / "cat").iterdir())[1:]:
        path.unlink()
    assert Counter(scan(photos).sample(5, seed=0).targets) == {0: 1, 1: 4}
    assert len(scan(photos).sample(100, seed=0).images) == 7


@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        (("cat", "dog"), ("dog", "bird", "cat"), (2, 0)),
        (("n01", "n02"), ("n02 tench, fish", "n01 shark"), (1, 0)),
        (("x", "y"), ("0", "1"), (0, 1)),  # built without labels: sorted order, as training numbers folders
        (("1", "0"), ("0", "1"), (1, 0)),
        (("cat",), ("crane", "cat", "crane"), (1,)),
    ],
)
def test_folders_find_their_labels(classes, labels, expected, tmp_path):
    assert match_classes(classes, labels, tmp_path) == expected


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (("cat", "cow"), ("cat", "dog")),
        (("x", "y"), ("tench", "shark", "ray")),
        (("chat", "chien"), ("dog", "cat")),  # as many, but labels with meaning are never matched by position
        (("cat", "great"), ("great white shark", "cat")),
        (("cat", "crane"), ("crane", "cat", "crane")),
    ],
)
def test_folders_that_match_no_label_or_several_are_named(classes, labels, tmp_path):
    with pytest.raises(DataError, match=classes[1]):
        match_classes(classes, labels, tmp_path)


def test_labels_are_read_with_their_faults_named(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffcat, tabby\n dog \nÄffchen\n\n".encode())
    assert read_labels(path) == ("cat, tabby", "dog", "Äffchen")
    path.write_text("cat\n\ndog\n")
    with pytest.raises(DataError, match="line 2"):
        read_labels(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        read_labels(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read labels"):
        read_labels(path)
    with pytest.raises(DataError, match="cannot read labels"):
        read_labels(tmp_path / "none.txt")


def test_the_digits_are_split_without_overlap_in_content(digit_folders):
    contents = {}
    for split, folder in digit_folders.items():
        found = scan(folder)
        assert len(found.images) == digits.SPLITS[split]
        assert max(Counter(found.targets).values()) - min(Counter(found.targets).values()) <= 6
        contents[split] = {Image.open(path).tobytes() for path in found.images}
    assert sum(map(len, contents.values())) == len(set().union(*contents.values()))
    assert digits.prepare(digit_folders["train"].parent) == digit_folders


def test_preparing_leaves_a_folder_with_other_content_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="something other"):
        digits.prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
