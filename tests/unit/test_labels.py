import pytest

from edgeresnext.data.labels import read_labels
from edgeresnext.errors import DataError


def test_labels_may_be_json(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text('["cat", "dog, brown"]')
    assert read_labels(path) == ("cat", "dog, brown")
    path.write_text('{"1": "dog", "0": "cat"}')
    assert read_labels(path) == ("cat", "dog")
    path.write_text('{"0": "cat", "2": "dog"}')
    with pytest.raises(DataError, match="no list of labels"):
        read_labels(path)
    path.write_text("[sic] cat\ndog\n")
    assert read_labels(path) == ("[sic] cat", "dog")


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "looks like JSON, and is none"),
        ('["cat", "dog"', "looks like JSON, and is none"),
        ("['cat', 'dog']", "looks like JSON, and is none"),
        ('{"0": "cat", "0": "dog"}', "stands there twice"),
        ("['cat',\n'dog']", "looks like JSON, and is none"),
        ('["cat", "black\\ndog"]', "has more than one line"),
        ('{"0": 1, "1": 1}', "no list of labels"),
    ],
)
def test_labels_that_look_like_json_and_are_none_are_refused(text, message, tmp_path):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / "labels.json")


def test_labels_by_name_as_image_folders_have_them(tmp_path):
    (tmp_path / "classes.json").write_text('{"dog": 1, "cat": 0}')
    assert read_labels(tmp_path / "classes.json") == ("cat", "dog")


def test_labels_in_brackets_are_labels(tmp_path):
    (tmp_path / "labels.txt").write_text("[cat]\n[dog]\n")
    assert read_labels(tmp_path / "labels.txt") == ("[cat]", "[dog]")
