from collections import Counter

import pytest
from PIL import Image

from edgeresnext.data import digits
from edgeresnext.data.folder import match_classes, scan, suffixes
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
        (("0", "1"), ("0", "1"), (0, 1)),
        (("caf\u00e9",), ("cafe\u0301", "tea"), (0,)),  # NFC and NFD
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


TWELVE = tuple(sorted(map(str, range(12))))
NUMBERS = tuple(map(str, range(12)))


@pytest.mark.parametrize(
    ("classes", "labels", "order", "expected"),
    [
        (TWELVE, NUMBERS, "sorted", tuple(range(12))),
        (TWELVE, NUMBERS, "numeric", tuple(map(int, TWELVE))),
        (("0", "7"), NUMBERS, "numeric", (0, 7)),
    ],
)
def test_folders_that_are_numbers_mean_what_is_said(classes, labels, order, expected, tmp_path):
    assert match_classes(classes, labels, tmp_path, order) == expected


@pytest.mark.parametrize(
    ("classes", "order", "message"),
    [
        (TWELVE, None, "which may be the classes' own or their place"),  # 10 before 2: nothing tells
        (("0", "1"), None, "which may be the classes' own or their place"),  # some folders of twelve classes
        (("0", "1"), "sorted", "do not fit 12 classes"),
        (("0", "12"), "numeric", "up to 12, do not fit 12 classes"),
        (("cat", "dog"), None, "say nothing of 12 classes without labels"),
    ],
)
def test_numbers_that_may_mean_two_things_are_asked_for(classes, order, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        match_classes(classes, NUMBERS, tmp_path, order)
    assert caught.value.values


def test_links_to_folders_are_followed_once_and_what_no_person_named_is_no_class(photos, tmp_path, caplog):
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "elsewhere" / "linked.jfif", "JPEG")
    (photos / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (photos / "cat" / "again").symlink_to(photos / "cat")
    (photos / "fox").symlink_to(tmp_path / "elsewhere")
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        (photos / "cat" / name).mkdir()
        Image.new("RGB", (4, 4)).save(photos / "cat" / name / "hidden.png")
        (photos / name).mkdir()
        Image.new("RGB", (4, 4)).save(photos / name / "hidden.png")
    found = scan(photos)
    assert found.classes == ("cat", "dog", "fox")
    assert Counter(found.targets) == {0: 7, 1: 6, 2: 1}
    assert not caplog.messages


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".avif", ".jp2", ".tga", ".webp"])
def test_whatever_pillow_decodes_counts_as_an_image(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"")
    if suffix.lower() not in suffixes():
        pytest.skip(f"this Pillow has no {suffix}")
    assert len(scan(tmp_path).images) == 1


def test_what_is_passed_over_is_counted_and_named(photos, caplog):
    for name in ("a.mp4", "b.txt", "Thumbs.db"):
        (photos / "cat" / name).write_bytes(b"x")
    assert len(scan(photos).images) == 12
    assert caplog.messages == [f"'{photos}': 2 files are no images and are passed over: a.mp4, b.txt"]


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


@pytest.mark.parametrize(
    ("classes", "count", "expected"),
    [
        (("1", "2", "3"), 10, None),
        (("1", "2", "3"), 3, None),
        (("0", "1", "2"), 10, (0, 1, 2)),
        (tuple(f"{index:02}" for index in range(12)), 12, tuple(range(12))),
    ],
)
def test_numbers_are_asked_for_unless_all_readings_agree(classes, count, expected, tmp_path):
    labels = tuple(map(str, range(count)))
    if expected is None:
        with pytest.raises(DataError, match="which may be the classes' own or their place"):
            match_classes(classes, labels, tmp_path, None)
    else:
        assert match_classes(classes, labels, tmp_path, None) == expected


def test_two_folders_of_one_number_are_refused(tmp_path):
    with pytest.raises(DataError, match="are the same number"):
        match_classes(("01", "1"), tuple(map(str, range(12))), tmp_path, "numeric")
