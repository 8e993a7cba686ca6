"""The checks of tests/gpu on stand-ins: that they say what they should, before somebody's GPU has to wait for them.

Not shown: what hardware does. Figures mean nothing here.
"""

import shutil

import pytest
from gpu import building
from gpu.check import Skipped, Work, checks_of
from standins import gpu
from standins.engines import without_cpu

from edgeresnext.machine.cache import CACHE_VARIABLE

RUNTIMES = [("tensorrt", "8.6"), ("tensorrt", "11.4"), ("tensorrt_rtx", "1.7")]


@pytest.fixture
def work(built, tmp_path, monkeypatch, request):
    """With the digits bundle under the names of both networks, and few repetitions."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))  # which the checks change
    folder = tmp_path / "work"
    for name in (building.SMALL, building.LARGE):
        shutil.copytree(built.path, folder / name)
        if "fallback" not in request.node.name:  # the CPU's artefacts would be timed with every engine
            without_cpu(folder / name)
    return Work(folder=folder, out=tmp_path, seconds=6.0, scale=0.005)


def run(stage, work, *, without=()):
    """Run all checks of a stage in this process; the figures of each, or why it was skipped."""
    found = {}
    for one in checks_of(stage):
        if any(word in one.name for word in without):
            continue
        try:
            found[one.name] = one.call(work) or {}
        except Skipped as reason:
            found[one.name] = str(reason)
    return found


@pytest.mark.parametrize("library", ["libcuda", "cuda-python", "pycuda"])
def test_the_cuda_layer(install, work, library, monkeypatch):
    install(cuda=library)
    monkeypatch.setenv("EDGERESNEXT_CUDA", library)  # which the checks change
    found = run(
        "cuda", work, without=[f"[{other}]" for other in ("libcuda", "cuda-python", "pycuda") if other != library]
    )
    ran = {name.partition("[")[0] for name, figures in found.items() if isinstance(figures, dict)}
    skipped = {name.partition("[")[0] for name in found} - ran
    assert skipped <= {"beside_torch"} | ({"graph_of_copies", "broken_capture"} if library == "pycuda" else set())
    assert found[f"too_much_memory[{library}]"]["said"].endswith("are free on the GPU")
    assert [fault for fault in gpu.faults if "during its capture" not in fault] == []


@pytest.mark.parametrize(("module", "release"), RUNTIMES)
@pytest.mark.parametrize(
    "stage",
    ["engines", pytest.param("threads", marks=pytest.mark.slow), pytest.param("cycles", marks=pytest.mark.slow)],
)
def test_engines(install, work, module, release, stage):
    install(module, release, memory_bytes=64 << 20)
    found = run(stage, work)
    own = {name: figures for name, figures in found.items() if f"{module} " in name or f"[{module}]" in name}
    assert own
    skipped = {name: reason for name, reason in own.items() if isinstance(reason, str)}
    assert set(skipped.values()) <= {"PyTorch is not installed", "this PyTorch has no CUDA"}
    others = found.keys() - own.keys() - {name for name in found if name.startswith(("bundle", "engines"))}
    assert all(isinstance(found[name], str) for name in others)  # the runtime that is not installed


@pytest.mark.parametrize(("module", "release"), [("tensorrt", "10.3"), ("tensorrt_rtx", "1.7")])
def test_fallback(install, work, module, release):
    install(module, release, memory_bytes=64 << 20)
    found = run("fallback", work)
    assert found[f"the_engine_is_taken[{module}]"]["artifact"].endswith(("fp32", "fp16", "int8"))
    assert "does not start" in found[f"a_plan_of_another_build[{module}]"]["said"]
    assert "does not start" in found[f"a_full_gpu[{module}]"]["said"]


@pytest.mark.parametrize("release", ["8.6", pytest.param("10.3", marks=pytest.mark.slow), "11.4"])
def test_tensorrt_itself(install, work, release):
    install(release=release)
    found = run("classic", work)
    assert found["precision[int8]"]["onnx"] == f"onnx/{'int8' if release == '8.6' else 'int8-fp16'}.onnx"
    assert found["precision[int8]"]["int8_layers"] > 0
    refused = {name for name, figures in found.items() if isinstance(figures, str)}
    assert ("option[capability-compatible]" in refused) is (release != "11.4")


def test_probes_of_tensorrt_rtx(install, work):
    install("tensorrt_rtx", "1.7")
    found = run("probes", work)
    assert {name: figures.get("validity") for name, figures in found.items() if name.startswith("probe")} == {
        "probe[default]": "VALID",
        "probe[CURRENT]": "VALID",
        "probe[SM80]": "INVALID",
        "probe[SM86]": "INVALID",
        "probe[SM89]": "VALID",
        "probe[SM120]": "INVALID",
    }
    assert found["probe[CURRENT]"]["ran"]
    assert found["probe[SM80]"]["diagnostics"] == ["UNSUPPORTED_CC"]


# The alarm that ends the official run may strike inside a function that the stand-in gave to C; it is sent again.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_benchmarks(install, work):
    install("tensorrt_rtx", "1.7")
    found = run("official", work)["ten_minutes[tensorrt_rtx]"]
    assert found["partial"]
    assert any(row["variant"] == "rtx40-fp16" and row["samples"] for row in found["rows"])
    assert (work.out / "official-tensorrt_rtx.json").exists()


def test_arrays_on_the_gpu_wait_for_hardware(install, work):
    """PyTorch's own, that is; test_gpu_arrays.py has some for the simulated GPU."""
    install("tensorrt_rtx", "1.7")
    found = run("dlpack", work)
    reasons = {figures for name, figures in found.items() if not name.startswith(("bundle", "engines"))}
    assert reasons <= {"PyTorch is not installed", "this PyTorch has no CUDA", "CuPy is not installed"}


def test_the_inventory(install, work, monkeypatch):
    install()
    monkeypatch.setattr("shutil.which", lambda _: None)
    found = run("inventory", work)
    assert found["machine"]["environment"]["gpu"] == gpu.name
    assert found["doctor"]["findings"]["NVIDIA GPU"].startswith("ok: ")
    assert found["smi"] == "there is no nvidia-smi"
