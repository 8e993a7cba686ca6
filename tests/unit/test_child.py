"""Children of ours import what this process does, and nothing that lies in the current directory."""

import subprocess
import sys

import pytest

from edgeresnext.machine import child


@pytest.fixture
def strangers(tmp_path, monkeypatch):
    """A current directory where packages of ours and others lie, which would leave a file."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in ("numpy", "msgspec", "edgeresnext", "runpy", "json"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w')\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    return tmp_path


def test_a_child_runs_nothing_of_the_current_directory(strangers):
    done = subprocess.run([sys.executable, "-c", "import json"], check=False)  # as it would
    assert done.returncode == 0
    assert (strangers / "json").exists()
    (strangers / "json").unlink()
    program = "import sys, json, numpy, edgeresnext.spec; print(sys.argv[1:], numpy.uint8.__name__)"
    done = subprocess.run(child.running(program, "a b"), capture_output=True, text=True, check=True)
    assert done.stdout == "['a b'] uint8\n"
    done = subprocess.run(
        child.command("edgeresnext", "--version"), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "edgeresnext" in done.stdout
    assert [one.name for one in strangers.iterdir()] == ["theirs"]


def test_what_pythonpath_names_comes_first(tmp_path, monkeypatch):
    (tmp_path / "found_by_path.py").write_text("print('here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert subprocess.run(child.command("found_by_path"), capture_output=True, text=True, check=True).stdout == "here\n"
