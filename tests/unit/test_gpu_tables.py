"""What tests/gpu found on a GPU, kept and shown with the GPU's name."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import hardware as keep
from tables import gpu as tables

H100 = {"name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "driver": "13.0"}


def stage(name, *checks, device=H100):
    return {"stage": name, "title": name, "gpu": device, "status": "passed", "started": "now", "checks": list(checks)}


def check(name, status="passed", figures=None, **more):
    return {"name": name, "title": name, "limit_s": 60, "status": status, "figures": figures, **more}


ROW = {
    "variant": "sm90-fp16", "batch": 1, "scenario": "single-stream", "device": H100["name"], "status": "ok", "detail": "CUDA graph of 1",
    "p50_s": 0.00042, "p90_s": 0.0005, "p99_s": 0.00051, "samples": 700, "compute_s": 0.0003, "images_per_s": 2380.0,
    "speedup": 7.25, "energy_j_per_image": None, "reasons": [],
}  # fmt: skip
RUN = [
    stage(
        "inventory",
        check("machine", figures={"environment": {"gpu": H100["name"], "cpu": "Xeon", "date": "2026-11-27 01:00 UTC"}, "packages": {"torch": "2.11"}}),
        check("distributions", figures={"installed": ["torch 2.11"] * 300}),
    ),
    stage(
        "probes",
        check("probe[SM80]", figures={"built": True, "validity": "INVALID", "diagnostics": ["UNSUPPORTED_CC"], "deserialised": False}),
        check("probe[CURRENT]", figures={"built": True, "validity": "VALID", "diagnostics": [], "ran": True, "snr_db": 57.31}),
        check("probe[default]", "crashed", reason="ended by SIGSEGV", output=["a long story"]),
    ),
    stage("bench", check("single_stream[tensorrt]", figures={"rows": [ROW, {**ROW, "variant": "torch-fp32", "device": "cpu"}]})),
]  # fmt: skip


@pytest.fixture
def results(tmp_path, monkeypatch):
    for module in (keep, tables):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for one in RUN:
        (folder / f"{one['stage']}.json").write_text(json.dumps(one))
    (folder / "bench-tensorrt.json").write_text(json.dumps({"rows": []}))  # a report beside
    return folder


def test_without_results_the_tables_say_so(results):
    assert [table() for table in (tables.checks, tables.probes, tables.speed)] == ["Not yet run on hardware."] * 3


def test_a_run_is_kept_under_the_name_of_its_gpu_and_shown(results, run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hardware.py", str(run)])
    keep.main()
    found = json.loads((results / "gpu-nvidia-h100-80gb-hbm3.json").read_text())
    assert found["environment"]["torch"] == "2.11"
    assert "a long story" not in json.dumps(found)
    assert "installed" not in json.dumps(found)
    checks = tables.checks()
    assert "| stage | NVIDIA H100 80GB HBM3 |" in checks
    assert "| probes | 2 passed, 1 crashed |" in checks
    assert "- NVIDIA H100 80GB HBM3, probes probe[default]: crashed, ended by SIGSEGV" in checks
    assert "compute capability 9.0, CUDA 13.0, Xeon, 2026-11-27." in checks
    assert "| NVIDIA H100 80GB HBM3 | SM80 | yes | INVALID UNSUPPORTED_CC | no | n/a |" in tables.probes()
    assert "| NVIDIA H100 80GB HBM3 | CURRENT | yes | VALID | yes | 57.3 |" in tables.probes()
    speed = tables.speed()
    assert "| sm90-fp16 | single-stream | 1 | 0.420 | 0.510 | 0.300 | 2,380 | 7.25 |" in speed
    assert "torch-fp32" not in speed  # on the CPU


def test_a_later_run_replaces_its_stages_and_leaves_the_others(results, run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hardware.py", str(run)])
    keep.main()
    for name in ("probes", "bench"):
        (run / f"{name}.json").unlink()
    (run / "cuda.json").write_text(json.dumps(stage("cuda", check("events[libcuda]"))))
    keep.main()
    found = json.loads((results / "gpu-nvidia-h100-80gb-hbm3.json").read_text())
    assert found["stages"].keys() == {"inventory", "probes", "bench", "cuda"}


def test_a_run_without_a_gpu_is_not_kept(results, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "cuda.json").write_text(json.dumps({**stage("cuda"), "gpu": None, "status": "no GPU"}))
    monkeypatch.setattr(sys, "argv", ["hardware.py", str(tmp_path / "empty")])
    with pytest.raises(SystemExit, match="has run on a GPU"):
        keep.main()
    assert not list(results.glob("gpu-*.json"))


def test_a_run_that_does_not_name_its_machine_is_not_kept(results, run, monkeypatch):
    (run / "inventory.json").unlink()
    monkeypatch.setattr(sys, "argv", ["hardware.py", str(run)])
    with pytest.raises(SystemExit, match="--only inventory"):
        keep.main()
