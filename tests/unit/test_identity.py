import struct

import pytest

from edgeresnext.backends.engine_header import read_header, release_key, same_release
from edgeresnext.errors import BundleError


def plan(tag, *release):
    return struct.pack("<I20x4B", tag, *release) + bytes(100)


@pytest.mark.parametrize(
    ("tag", "backend"), [(b"ftrt", "tensorrt"), (b"vtrt", "tensorrt_rtx")], ids=["TensorRT", "TensorRT-RTX"]
)
def test_the_header_tells_runtime_and_release(tmp_path, tag, backend):
    (tmp_path / "x.engine").write_bytes(plan(int.from_bytes(tag, "little"), 10, 3, 0, 30))
    header = read_header(tmp_path / "x.engine")
    assert (header.backend, header.release) == (backend, "10.3.0.30")


@pytest.mark.parametrize("content", [b"", b"ftrt", b"{}" * 50, b"PK\x03\x04" + bytes(99)], ids=repr)
def test_what_is_no_plan_is_refused(tmp_path, content):
    (tmp_path / "x.engine").write_bytes(content)
    with pytest.raises(BundleError, match=r"x\.engine' is not an? "):
        read_header(tmp_path / "x.engine")


def test_releases_are_ordered_by_number_not_by_letter():
    assert release_key("10.13.0") > release_key("10.3.0.30") > release_key("8.6.2")


def test_releases_are_compared_without_their_build_number():
    assert same_release("10.3.0.30", "10.3.0")
    assert same_release("1.7.1.116", "1.7.1.372")
    assert not same_release("10.3.0", "10.13.0")
    assert not same_release("10.3.0", "10.3.1")
