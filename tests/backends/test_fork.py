"""Processes that are forked from one that runs a bundle."""

import os
import signal
import sys

import numpy as np
import pytest

import edgeresnext
from edgeresnext.errors import BackendError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def in_child(work):
    """Return what work returns in a forked child, as text; a child that waits for ever is killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.alarm(60)
            os.write(writing, str(work()).encode())
        except BaseException as error:  # noqa: BLE001 - it must not go on as a second pytest
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def images(built):
    return built.golden().images[:2]


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_a_session_of_the_parent_says_so_in_the_child(built, images, backend):
    with edgeresnext.load(built.path, backend=backend, precision="fp32") as classifier:
        expected = classifier.logits(images)
        said = in_child(lambda: classifier.logits(images))
        np.testing.assert_array_equal(classifier.logits(images), expected)
    assert said.startswith("ForkedError: this session was opened before the process was forked")
    assert "Load the bundle in each child" in said


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_a_runtime_that_does_not_survive_a_fork_is_not_waited_for(built, backend):
    edgeresnext.load(built.path, backend=backend, precision="fp32").close()
    said = in_child(lambda: edgeresnext.load(built.path, backend=backend, precision="fp32"))
    assert "was used before this process was forked" in said


def test_onnx_runtime_runs_in_a_child_as_in_its_parent(built, images):
    with edgeresnext.load(built.path, backend="onnxruntime", precision="fp32") as classifier:
        expected = classifier.logits(images)

    def work():
        with edgeresnext.load(built.path, backend="onnxruntime", precision="fp32") as again:
            return np.abs(again.logits(images) - expected).max()

    assert float(in_child(work)) == 0


def test_load_in_a_child_takes_what_runs_there(built, images):
    edgeresnext.load(built.path, backend="openvino", precision="fp32").close()

    def work():
        with edgeresnext.load(built.path) as again:
            again.logits(images)
            return again.artifact.backend

    assert in_child(work) == "onnxruntime"


def test_what_a_child_was_refused_is_not_remembered(built, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGERESNEXT_CACHE", str(tmp_path))
    edgeresnext.load(built.path, backend="openvino", precision="fp32").close()

    def work():
        with edgeresnext.load(built.path) as again:
            return again.artifact.backend

    assert in_child(work) == "onnxruntime"
    assert not any(b"forked" in file.read_bytes() for file in tmp_path.rglob("*.json"))


def test_a_child_of_a_parent_that_ran_nothing_runs_everything(built):
    program = (
        "import os, sys, edgeresnext\n"
        "child = os.fork()\n"
        "if not child:\n"
        f"    edgeresnext.load({str(built.path)!r}, backend='openvino', precision='fp32').close()\n"
        "    os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", program]) == 0


def test_the_error_is_one_of_ours(built, images):
    with edgeresnext.load(built.path, backend="onnxruntime", precision="fp32") as classifier:
        session = classifier._session
        session._process = -1  # as if this were a child
        with pytest.raises(BackendError, match="before the process was forked"):
            classifier.logits(images)
