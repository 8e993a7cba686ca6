import importlib.util
import json

import pytest

from edgeresnext.cli import doctor, main
from edgeresnext.machine import gpu
from edgeresnext.machine.gpu import Gpu

ORIN = Gpu(name="Orin", compute_capability="8.7", memory_bytes=64 * 2**30, driver="12.6", integrated=True)


def findings():
    return {finding.name: finding for finding in doctor.examine()[0]}


def jobs():
    return {job.name: job for job in doctor.examine()[1]}


@pytest.fixture
def lacking(monkeypatch):
    """Make packages impossible to find."""
    real = importlib.util.find_spec

    def call(*names):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name in names else real(name, *rest)
        )

    return call


@pytest.fixture
def on_a_jetson(monkeypatch, tmp_path):
    """A Jetson AGX Orin with JetPack 6.2."""
    monkeypatch.setattr(gpu, "detect", lambda: ORIN)
    files = {
        "release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        "status": "pmode:0002\nfmode:fanNull\n",
        "conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(doctor, "_TEGRA", tmp_path / "release")
    monkeypatch.setattr(doctor, "_POWER", (tmp_path / "status", tmp_path / "conf"))
    return tmp_path


def test_without_a_gpu_nothing_of_it_is_called_missing(monkeypatch):
    monkeypatch.setattr(gpu, "detect", lambda: None)
    found = findings()
    assert [found[name].status for name in ("NVIDIA GPU", "TensorRT", "CUDA from Python")] == ["none"] * 3
    assert not jobs()["build BUNDLE --target here"].possible


def test_what_is_missing_comes_with_the_command(lacking):
    lacking("torch", "openvino")
    found = findings()
    assert found["PyTorch"].status == found["OpenVINO"].status == "missing"
    assert found["PyTorch"].remedy == "pip install 'edgeresnext[build]'"
    assert found["OpenVINO"].remedy == "pip install 'edgeresnext[cpu]'"
    job = jobs()["build MODEL --weights FILE"]
    assert (job.possible, job.reason) == (False, "PyTorch not installed")
    assert jobs()["load, verify and bench on target cpu"].possible  # ONNX Runtime is there


def test_a_jetson_tells_jetpack_and_power_mode(on_a_jetson):
    found = findings()
    assert found["Jetson Linux"].detail == "36.4: JetPack 6.1 or 6.2"
    assert found["power mode"].detail.startswith("MODE_30W (mode 2)")
    assert "Orin, compute capability 8.7, 64 GiB, shared with the CPU" in found["NVIDIA GPU"].detail


def test_a_jetson_without_tensorrt_is_told_about_system_packages(on_a_jetson, lacking, monkeypatch):
    lacking("tensorrt", "tensorrt_rtx")
    monkeypatch.setattr("sys.prefix", "/env")
    found = findings()
    assert found["TensorRT"].status == "missing"
    assert found["virtual environment"].remedy == "python3 -m venv --system-site-packages ENV"
    assert jobs()["build BUNDLE --target here"].reason == "neither TensorRT nor TensorRT-RTX is installed"


def test_a_driver_that_is_too_old_for_a_package_is_told_with_the_way_out(on_a_jetson, monkeypatch):
    monkeypatch.setattr("edgeresnext.backends.engine.EngineBackend.missing", lambda _: None)
    monkeypatch.setattr("edgeresnext.backends.engine.EngineBackend.cuda_major", lambda _: 13)
    found = findings()["TensorRT-RTX"]
    assert found.status == "missing"
    assert found.detail == "TensorRT-RTX is installed for CUDA 13, and this driver runs CUDA up to 12.6"
    assert "pip install 'edgeresnext[rtx-cu12]'" in found.remedy
    assert "CUDA up to 12.6" in jobs()["build BUNDLE --target here"].reason
    monkeypatch.setattr("edgeresnext.backends.engine.EngineBackend.cuda_major", lambda _: 12)
    assert findings()["TensorRT-RTX"].status == "ok"


def test_unreadable_files_of_a_jetson_are_no_error(on_a_jetson):
    (on_a_jetson / "release").write_text("something new")
    (on_a_jetson / "status").unlink()
    found = findings()
    assert "does not know" in found["Jetson Linux"].detail
    assert "nvpmodel -q" in found["power mode"].detail


def test_the_command_prints_a_table_or_json(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_PACKAGES", {"nothing_like_it": ("X", "y", "build")})
    monkeypatch.setattr(doctor, "_jobs", lambda: ())
    main(["doctor"])
    assert "pip install 'edgeresnext[build]'" in capsys.readouterr().out
    monkeypatch.undo()
    main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {finding["status"] for finding in found["findings"]} <= {"ok", "missing", "none"}
    assert len(found["jobs"]) == 5
