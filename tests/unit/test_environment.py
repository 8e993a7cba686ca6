import re
import sys

import psutil
import pytest
from standins import pynvml_standin

from edgeresnext.machine import cpu, gpu, jetson, nvml, sensors
from edgeresnext.machine import environment as measured
from edgeresnext.machine.environment import environment, machine

CARD = gpu.Gpu(name="Card", compute_capability="8.9", memory_bytes=8 * 2**30, driver="13.0", integrated=False)
X86 = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512f hypervisor amx_tile\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU part\t: 0xd42\n\nprocessor\t: 1\n"


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch, tmp_path):
    """No GPU, no Jetson, an empty tree of the kernel's files."""
    monkeypatch.setattr(gpu, "detect", lambda: None)
    monkeypatch.setattr(jetson, "RELEASE", tmp_path / "nv_tegra_release")


@pytest.fixture
def cpuinfo(monkeypatch, tmp_path):
    def call(content):
        (tmp_path / "cpuinfo").write_text(content)
        monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "cpuinfo")

    return call


def write(root, **files):
    for path, content in files.items():
        file = root / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")


def test_an_x86_processor_tells_name_instruction_sets_and_hypervisor(cpuinfo):
    cpuinfo(X86)
    assert (cpu.name(), cpu.isa(), cpu.virtualised()) == ("Some CPU @ 2 GHz", {"avx2", "avx512f"}, True)
    cpuinfo(X86.replace(" hypervisor", ""))
    assert cpu.virtualised() is False


def test_an_arm_processor_does_not_tell_whether_it_is_virtual(cpuinfo, tmp_path):
    cpuinfo(ARM)
    assert (cpu.isa(), cpu.virtualised()) == ({"asimddp", "i8mm"}, None)
    assert "virtual_machine" not in environment(tmp_path)


def test_a_system_without_cpuinfo_still_has_a_name(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "nothing")
    assert cpu.name()
    assert (cpu.isa(), cpu.virtualised()) == (frozenset(), None)


def test_keys_are_snake_case_and_no_value_is_empty(tmp_path):
    found = environment(tmp_path)
    assert {"cpu", "cores", "logical_cores", "memory_gib", "os", "python", "edgeresnext", "date"} <= set(found)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in found)
    assert all(found.values())
    assert not {"gpu", "jetson_linux", "governor", "temperature_c", "smt"} & set(found)


def test_the_processor_s_state_is_read_from_the_kernel_s_files(tmp_path, cpuinfo):
    cpuinfo(X86)
    policies = "devices/system/cpu/cpufreq"
    write(
        tmp_path,
        **{
            f"{policies}/policy0/scaling_governor": "powersave",
            f"{policies}/policy1/scaling_governor": "powersave",
            f"{policies}/policy4/scaling_governor": "performance",
            "devices/system/cpu/smt/active": "1",
            "class/hwmon/hwmon0/name": "nvme",
            "class/hwmon/hwmon0/temp1_input": "99000",
            "class/hwmon/hwmon1/name": "k10temp",
            "class/hwmon/hwmon1/temp1_input": "51250",
            "class/hwmon/hwmon1/temp3_input": "58500",
            "class/thermal/thermal_zone0/type": "acpitz",
            "class/thermal/thermal_zone0/temp": "90000",
        },
    )
    found = environment(tmp_path)
    assert found["governor"] == "performance powersave"
    assert (found["smt"], found["temperature_c"], found["isa"]) == ("on", "58", "avx2 avx512f")
    assert found["virtual_machine"] == "yes"


def test_a_board_s_thermal_zones_are_read_too(tmp_path):
    write(
        tmp_path,
        **{
            "class/thermal/thermal_zone0/type": "cpu-thermal",
            "class/thermal/thermal_zone0/temp": "48000",
            "class/thermal/thermal_zone1/type": "tj-thermal",
            "class/thermal/thermal_zone1/temp": "49500",
            "class/thermal/thermal_zone2/type": "cv0-thermal",
            "class/thermal/thermal_zone2/temp": "-256000",
        },
    )
    assert sensors.cpu_temperature_c(tmp_path) == pytest.approx(49.5)


@pytest.mark.parametrize("content", ["nan", "inf", "", "hot", "-128000", "999999"])
def test_a_temperature_that_cannot_be_is_left_out(tmp_path, content):
    write(tmp_path, **{"class/hwmon/hwmon1/name": "coretemp", "class/hwmon/hwmon1/temp1_input": content})
    assert "temperature_c" not in environment(tmp_path)


def test_clocks_that_psutil_cannot_tell_are_left_out(monkeypatch, tmp_path):
    clocks = type("scpufreq", (), {"current": 2596.1, "min": 0.0, "max": 0.0})()
    monkeypatch.setattr(psutil, "cpu_freq", lambda: clocks)
    found = environment(tmp_path)
    assert found["cpu_mhz"] == "2596"
    assert "cpu_max_mhz" not in found
    for answer in (lambda: None, lambda: (_ for _ in ()).throw(NotImplementedError)):
        monkeypatch.setattr(psutil, "cpu_freq", answer)
        assert "cpu_mhz" not in environment(tmp_path)


@pytest.fixture
def card(monkeypatch):
    monkeypatch.setattr(gpu, "detect", lambda: CARD)
    monkeypatch.setattr(nvml, "_bus_id", lambda _: b"")
    module = pynvml_standin.make()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_nvml_tells_driver_clocks_and_limits(card, tmp_path):
    card.answers["nvmlDeviceGetCurrentClocksEventReasons"] = 0x04
    found = {name: value for name, value in environment(tmp_path).items() if name.startswith("gpu")}
    assert found == {
        "gpu": "Card",
        "gpu_memory_gib": "8.0",
        "gpu_cuda": "13.0",
        "gpu_driver": "580.65.06",
        "gpu_sm_mhz": "1410",
        "gpu_sm_max_mhz": "2100",
        "gpu_memory_mhz": "7001",
        "gpu_memory_max_mhz": "7001",
        "gpu_temperature_c": "54",
        "gpu_power_limit_w": "115",
        "gpu_throttle": "power limit",
    }


def test_what_a_gpu_does_not_support_is_left_out(card, tmp_path):
    card.answers.update(dict.fromkeys(card.answers, None), nvmlDeviceGetCount=1)
    found = {name for name in environment(tmp_path) if name.startswith("gpu")}
    assert found == {"gpu", "gpu_memory_gib", "gpu_cuda"}


def test_without_nvidia_ml_py_the_driver_tells_what_it_can(card, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = {name for name in environment(tmp_path) if name.startswith("gpu")}
    assert found == {"gpu", "gpu_memory_gib", "gpu_cuda"}


def test_a_jetson_tells_release_and_power_mode(monkeypatch, tmp_path):
    jetson.RELEASE.write_text("# R36 (release), REVISION: 4.3, GCID: 1\n")
    write(tmp_path, status="pmode:0002\nfmode:quiet", conf="< POWER_MODEL ID=2 NAME=MODE_30W >")
    monkeypatch.setattr(jetson, "POWER", (tmp_path / "status", tmp_path / "conf"))
    found = environment(tmp_path)
    assert (found["jetson_linux"], found["jetpack"], found["power_mode"]) == ("36.4", "6.1 or 6.2", "MODE_30W (2)")
    write(tmp_path, status="nothing of the kind")
    assert "power_mode" not in environment(tmp_path)


def test_a_machine_in_a_few_words(monkeypatch):
    monkeypatch.setattr(cpu, "name", lambda: "Some CPU")
    monkeypatch.setattr(cpu, "cores", lambda: 1)
    assert machine() == "Some CPU, 1 core"
    monkeypatch.setattr(cpu, "cores", lambda: 8)
    monkeypatch.setattr(measured.gpu, "detect", lambda: CARD)
    assert machine() == "Some CPU, 8 cores, Card"
