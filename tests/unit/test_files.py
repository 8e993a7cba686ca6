"""Files appear whole or not at all, and whoever writes next removes what a writer that was killed has left."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from edgeresnext import directories, files
from edgeresnext.errors import InputError

KILLED = """
import os, pathlib, signal, sys
from edgeresnext import files
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
files.write(pathlib.Path(sys.argv[1]), b"new")
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no process is killed there")
def test_what_a_killed_writer_left_is_removed_by_the_next_one_of_that_file(tmp_path):
    path, other = tmp_path / ("x" * 255), tmp_path / "other"
    path.write_bytes(b"old")
    for target in (path, other):
        done = subprocess.run([sys.executable, "-c", KILLED, target], check=False)
        assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    left = set(names(tmp_path)) - {path.name}
    assert len(left) == 2
    assert all(files.is_partial(name) for name in left)
    files.write(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert len(set(names(tmp_path)) & left) == 1, "that of the other file is not ours to remove"
    files.remove_abandoned(tmp_path)
    assert names(tmp_path) == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="files that are written are not locked there")
def test_what_somebody_is_writing_is_not_taken_for_left_behind(tmp_path, monkeypatch):
    path = tmp_path / "x"
    written, go_on = threading.Event(), threading.Event()
    sync = os.fsync

    def slow(descriptor):
        if threading.current_thread() is thread:
            written.set()
            assert go_on.wait(60)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    thread = threading.Thread(target=files.write, args=(path, b"slow"))
    thread.start()
    assert written.wait(60)
    files.write(path, b"fast")
    assert path.read_bytes() == b"fast"
    go_on.set()
    thread.join()
    assert path.read_bytes() == b"slow"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("name", "partial"),
    [
        (".0123456789ab-01234567.partial", True), (".0123456789ab.partial", True), (".out.partial-abcd", False),
        ("0123456789ab.partial", False), (".0123456789ab.partial.txt", False),
    ],
)  # fmt: skip
def test_our_own_rubbish_is_known_by_its_name(name, partial):
    assert files.is_partial(name) is partial


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "is a folder"), ("nowhere/x", "folder .* does not exist"), ("x" * 256, "File name too long"),
        ("loop", "symbolic links"), ("a\0b", "null character"), ("file/x", "does not exist"), ("file", None), ("new", None),
    ],
)  # fmt: skip
def test_why_a_file_cannot_be_written_is_known_before(tmp_path, name, message):
    import re

    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    found = files.why_unwritable(tmp_path / name)
    assert re.search(message, found) if message else found == ""


def test_a_disk_without_room_is_refused_before_anything_slow(tmp_path):
    output = tmp_path / "not" / "there" / "yet"
    directories.check_room(output, 1)
    with pytest.raises(InputError, match=r"no room for '.*yet', which takes 1,000,000,000,000.0 MB at least"):
        directories.check_room(output, 10**18)


def test_a_name_with_a_null_character_is_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(OSError, match="null character"):
        files.read(tmp_path / "a\0b")
    with pytest.raises(OSError, match="null character"):
        files.open_inside(tmp_path / "a\0b", "x")
