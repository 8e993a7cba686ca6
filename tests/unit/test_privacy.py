"""Nothing that we import reports anything: the home directory stays as it was, and nobody is called."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
called = []
sys.addaudithook(lambda event, arguments: called.append(event) if event.startswith(("socket.connect", "socket.getaddrinfo", "urllib.")) else None)
import edgeresnext
with edgeresnext.load({bundle!r}, backend={backend!r}, precision="fp32", prove=False) as classifier:
    classifier.logits({images})
print(called)
"""


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_running_a_bundle_leaves_nothing_at_home_and_calls_nobody(built, tmp_path, backend):
    home = tmp_path / "home"
    home.mkdir()
    keep = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    for name in ("ORT_DISABLE_TELEMETRY", "CI", "TF_BUILD", "JENKINS_URL"):  # which switch it off by themselves
        keep.pop(name, None)
    images = "__import__('numpy').zeros((1, 32, 32, 3), 'uint8')"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(bundle=str(built.path), backend=backend, images=images)],
        env=keep | {"HOME": str(home)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
    assert [path.relative_to(home).as_posix() for path in home.rglob("*")] == []


def test_a_program_that_has_chosen_telemetry_keeps_it(monkeypatch):
    from edgeresnext.backends import unreported

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    unreported.onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    unreported.openvino()
    assert "openvino_telemetry" not in sys.modules or sys.modules["openvino_telemetry"] is not None
