"""Interrupting a build of engines: it ends, with no child process and no file left."""

import os
import signal
import subprocess
import sys

import pytest
from processes import PATIENCE_S, children, comes, lives
from standins import installed

WORKER = "edgeresnext.backends._trt.child"


@pytest.fixture
def hanging(monkeypatch, bundle_copy, tmp_path):
    """Start a build whose native code does not return, and wait until it is there."""
    there = tmp_path / "hangs"
    failures = {"build_serialized_network": f"hang {there}"}
    installed(monkeypatch, "tensorrt_rtx", "1.7", gpu_settings={"failures": failures})
    command = [sys.executable, "-m", "edgeresnext", "build", str(bundle_copy), "--target", "rtx40"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background of a shell ignore SIGINT, and so would this child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread runs yet
    )
    assert comes(there.exists)
    there.unlink()
    yield process, children(process, WORKER)
    process.kill()
    process.wait()
    process.stderr.close()


def test_ctrl_c_ends_a_build_and_its_child(hanging, bundle_copy):
    process, workers = hanging
    assert workers
    manifest = (bundle_copy / "manifest.json").read_bytes()
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(PATIENCE_S) == 130
    assert not any(lives(worker) for worker in workers)
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert (bundle_copy / "manifest.json").read_bytes() == manifest
    assert sorted(path.name for path in bundle_copy.parent.iterdir()) == [".copy.lock", "copy"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_killed_build_takes_its_child_along(hanging):
    process, workers = hanging
    assert workers
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert comes(lambda: not any(lives(worker) for worker in workers))
