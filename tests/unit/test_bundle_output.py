"""How a bundle takes the place of another: whole or not at all, and never in that of something else."""

import ctypes
import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeresnext import bundle as bundles
from edgeresnext.errors import BundleError, DataError, EdgeResNeXtError, InputError
from edgeresnext.model.catalogue import specify
from edgeresnext.spec import Artifact, Manifest, Selection


def write_one(staging, text="new"):
    """Write the smallest bundle whose content can be told apart."""
    for name in ("labels.txt", "reference.npz", "weights.safetensors", "content"):
        (staging / name).write_text(text)
    manifest = Manifest(
        model=specify("resnext20_8x4d"), trained=False, golden="", parameters=0, macs=0, onnx=(), created_with={},
        artifacts=(Artifact(backend="torch", precision="fp32", target="cpu", file="weights.safetensors"),),
        selection=Selection(machine="", timings=()), files=bundles.list_files(staging),
    )  # fmt: skip
    bundles.write_manifest(staging, manifest)


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    output = tmp_path / "out"
    with bundles.replacing(output, print) as staging:
        write_one(staging, "old")

    def broken():
        with bundles.replacing(output, print) as staging:
            write_one(staging)
            raise DataError("broken")

    with pytest.raises(DataError):
        broken()
    assert (output / "content").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.lock", "out"]
    with bundles.replacing(output, print) as staging:
        write_one(staging)
    assert (output / "content").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.lock", "out"]


def test_without_renameat2_the_bundle_is_replaced_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    for text in ("old", "new"):
        with bundles.replacing(tmp_path / "out", print) as staging:
            write_one(staging, text)
    assert (tmp_path / "out" / "content").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.lock", "out"]


def test_a_full_disk_is_said_so_and_leaves_what_was_there(tmp_path, monkeypatch):
    output = tmp_path / "out"
    with bundles.replacing(output, print) as staging:
        write_one(staging, "old")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="disk is full"), bundles.replacing(output, print) as staging:
        write_one(staging)
    assert (output / "content").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.lock", "out"]


def test_a_file_a_link_and_another_program_s_folder_are_not_replaced(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "manifest.json").write_text('{"name": "a web app", "schema": 1}')
    (tmp_path / "mixed").mkdir()
    write_one(tmp_path / "mixed")
    (tmp_path / "mixed" / "thesis.tex").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    for name in ("file", "other", "node", "link", "mixed"):
        with pytest.raises(BundleError, match=name):
            bundles.check_output(tmp_path / name)
    (tmp_path / "empty").mkdir()
    bundles.check_output(tmp_path / "empty")
    bundles.check_output(tmp_path / "deep" / "new")


def test_the_current_directory_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for output in (Path(), tmp_path):
        with pytest.raises(BundleError, match="current directory"):
            bundles.check_output(output)


def test_a_bundle_that_a_killed_build_moved_aside_comes_back(tmp_path):
    output = tmp_path / "out [1]"
    with bundles.replacing(output, print) as staging:
        write_one(staging, "old")
    output.rename(tmp_path / ".out [1].previous")
    with pytest.raises(DataError), bundles.replacing(output, print):
        raise DataError("the next build fails")
    assert (output / "content").read_text() == "old"


def replaced_but_for(count, failure, tmp_path, monkeypatch):
    """Replace an old output by a new one where folders cannot be exchanged and one of the renames fails."""
    output = tmp_path / "out"
    with bundles.replacing(output, print) as staging:
        write_one(staging, "old")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    rename, done = Path.rename, []

    def failing(self, target):
        done.append(target)
        if len(done) == count:
            raise failure
        return rename(self, target)

    with bundles.replacing(output, print) as staging:
        write_one(staging)
        monkeypatch.setattr(Path, "rename", failing)


def assert_alone(output, content):
    assert (output / "content").read_text() == content
    assert sorted(p.name for p in output.parent.iterdir()) == [".out.lock", "out"]


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_second_rename_that_fails_undoes_the_first(tmp_path, monkeypatch, failure):
    with pytest.raises((EdgeResNeXtError, KeyboardInterrupt)):
        replaced_but_for(2, failure, tmp_path, monkeypatch)
    assert_alone(tmp_path / "out", "old")


def test_a_third_rename_that_fails_leaves_the_new_one_and_nothing_else(tmp_path, monkeypatch):
    replaced_but_for(3, OSError(errno.EIO, "Input/output error"), tmp_path, monkeypatch)
    assert_alone(tmp_path / "out", "new")


def test_a_bundle_inside_a_bundle_is_refused(bundle_copy):
    for name in ("new", "onnx/new"):
        with pytest.raises(BundleError, match="lies in bundle"):
            bundles.check_output(bundle_copy / name)


def test_what_a_killed_writer_left_in_a_bundle_is_nobody_s_file(bundle_copy):
    (bundle_copy / ".0123456789ab-01234567.partial").write_text("x")
    bundles.check_output(bundle_copy)


def test_builds_of_one_output_take_turns(tmp_path):
    output, order, messages = tmp_path / "out", [], []
    entered, asked = threading.Event(), threading.Event()

    def first():
        with bundles.replacing(output, messages.append) as staging:
            entered.set()
            assert asked.wait(60)
            write_one(staging, "first")
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()

    def wait(message):
        messages.append(message)
        asked.set()

    with bundles.replacing(output, wait) as staging:
        order.append("second")
        write_one(staging, "second")
    thread.join()
    assert order == ["first", "second"]
    assert (output / "content").read_text() == "second"
    assert len(messages) == 1
    assert "waiting" in messages[0]


def test_what_a_killed_build_left_is_swept_up_by_the_next(tmp_path):
    script = (
        "import os, signal, sys, pathlib\n"
        "from edgeresnext import bundle\n"
        "with bundle.replacing(pathlib.Path(sys.argv[1]), print) as staging:\n"
        "    (staging / 'half').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "out"], check=False)
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out.partial-*"))
    with bundles.replacing(tmp_path / "out", print) as staging:
        write_one(staging)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.lock", "out"]


def test_readers_see_one_bundle_or_the_other_while_they_are_exchanged(tmp_path):
    output = tmp_path / "out"
    with bundles.replacing(output, print) as staging:
        write_one(staging, "0" * 10)

    def same(bundle):
        found = {bundle.content(name) for name in ("labels.txt", "reference.npz", "weights.safetensors", "content")}
        assert len(found) == 1
        return found.pop()

    seen, done = set(), threading.Event()

    def read_on():
        while not done.is_set():
            seen.add(bundles.reading(output, same))

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(read_on) for _ in range(2)]
        try:
            for number in range(1, 60):
                with bundles.replacing(output, print) as staging:
                    write_one(staging, str(number % 10) * 10)
        finally:
            done.set()
        for future in futures:
            future.result()
    assert len(seen) > 1
