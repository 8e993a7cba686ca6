"""Where a bundle may be written, known before any work; and builds beside each other."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext.errors import BundleError


@pytest.mark.parametrize(
    ("name", "message"),
    [("x" * 250, "has 250 bytes"), ("é" * 130, "has 260 bytes"), ("deep/" * 800 + "x", "the path of output"), ("\udcff", "is no UTF-8")],
    ids=["long", "long in bytes", "deep", "no UTF-8"],
)  # fmt: skip
def test_names_that_cannot_be_written_are_refused_before_any_work(tmp_path, name, message):
    with pytest.raises(BundleError, match=message):
        bundles.check_output(tmp_path / name)
    with pytest.raises(BundleError, match=message):
        edgeresnext.build("resnet50", random_weights=True, precisions=["fp32"], output=tmp_path / name)


def test_a_long_name_that_fits_is_written(tmp_path):
    name = "x" * 230
    with bundles.replacing(tmp_path / name, print) as staging:
        (staging / "a").touch()
    assert (tmp_path / name / "a").exists()


def test_a_folder_around_the_current_one_is_not_replaced(built, tmp_path, monkeypatch):
    inside = tmp_path / "bundle" / "onnx"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    with pytest.raises(BundleError, match="around the current directory"):
        bundles.check_output(tmp_path / "bundle")
    with pytest.raises(BundleError, match="is the current directory"):
        bundles.check_output(inside)
    assert not list(inside.iterdir())


def test_a_folder_that_may_not_be_entered_is_refused(tmp_path, monkeypatch):
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.X_OK and allowed(path, mode))  # root may all
    with pytest.raises(BundleError, match="cannot write in"):
        bundles.check_output(tmp_path / "out")


def test_somebody_else_s_bundle_in_a_shared_folder_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    tmp_path.chmod(0o777 | stat.S_ISVTX)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(BundleError, match="somebody else's"):
        bundles.check_output(tmp_path / "out")
    bundles.check_output(tmp_path / "new")


def test_two_builds_in_two_threads_are_two_builds(digit_weights, tmp_path):
    def build(name):
        return edgeresnext.build(digit_weights, precisions=["fp32"], calibration=None, output=tmp_path / name)

    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(build, ("a", "b", "c", "a")))
    logits = [bundle.golden().logits for bundle in built]
    assert all((one == logits[0]).all() for one in logits)
