import importlib
import inspect
import itertools
import sys
import threading
import time
from pathlib import Path

import pytest
from standins import pynvml_standin

from edgeresnext.machine import energy, gpu, jetson, nvml
from edgeresnext.machine.energy import find_meter, joules_an_image
from edgeresnext.machine.energy_meters import Ina3221Meter, MeterError
from edgeresnext.machine.gpu import Gpu

CARD = Gpu(name="Card", compute_capability="8.9", memory_bytes=8 * 2**30, driver="13.0", integrated=False)


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Scripted:
    """A meter that gives `watts` by a scripted clock."""

    source = "scripted"

    def __init__(self, clock, watts, resolution_s=0.001):
        self.clock, self.watts, self.resolution_s = clock, watts, resolution_s
        self.calls = []
        self.reads = 0

    def start(self):
        self.calls.append("start")

    def stop(self):
        self.calls.append("stop")

    def read_j(self):
        self.reads += 1
        return 1000 + self.watts * self.clock.now


@pytest.fixture(autouse=True)
def no_jetson(monkeypatch, tmp_path):
    monkeypatch.setattr(jetson, "RELEASE", tmp_path / "nv_tegra_release")


@pytest.fixture
def on_a_jetson(monkeypatch, tmp_path):
    jetson.RELEASE.write_text("# R36 (release), REVISION: 4.3\n")


@pytest.fixture
def card(monkeypatch):
    """A GPU with a driver, and NVML as asked for."""

    def call(**answers):
        monkeypatch.setattr(gpu, "detect", lambda: CARD)
        monkeypatch.setattr(nvml, "_bus_id", lambda _: b"")
        module = pynvml_standin.make(**answers)
        monkeypatch.setitem(sys.modules, "pynvml", module)
        return module

    return call


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


def zone(sysfs, number, energy_uj, *, name=None, folder="intel-rapl", span=1_000_000):
    path = sysfs / "class" / "powercap" / f"{folder}:{number}"
    write(path, name=name or f"package-{number}", energy_uj=energy_uj, max_energy_range_uj=span)
    return path


def rails(sysfs, address, **watts):
    """A chip with its rails; 5 V each."""
    folder = sysfs / "bus/i2c/drivers/ina3221" / address / "hwmon" / "hwmon3"
    for index, (label, power) in enumerate(watts.items(), 1):
        write(
            folder, **{f"in{index}_label": label, f"in{index}_input": 5000, f"curr{index}_input": int(power / 5 * 1000)}
        )
    write(folder, in7_label="sum of shunt voltages", in7_input=1)
    return folder


def test_two_packages_are_summed_and_other_zones_are_not(tmp_path):
    first, second = zone(tmp_path, 0, 100), zone(tmp_path, 1, 900)
    zone(tmp_path, "0:0", 50, name="core")
    zone(tmp_path, 2, 70, name="psys")
    zone(tmp_path, 0, 100, folder="intel-rapl-mmio")
    meter, reason = find_meter("cpu", tmp_path)
    assert (meter.source, reason) == ("RAPL package-0 + package-1", "")
    start = meter.read_j()
    (first / "energy_uj").write_text("300100")
    (second / "energy_uj").write_text("500900")
    assert meter.read_j() - start == pytest.approx(0.8)


def test_a_counter_that_begins_again_goes_on_rising(tmp_path):
    package = zone(tmp_path, 0, 900_000)
    meter, _ = find_meter("cpu", tmp_path)
    (package / "energy_uj").write_text("100000")
    assert meter.read_j() == pytest.approx(0.2)
    (package / "energy_uj").write_text("150000")
    assert meter.read_j() == pytest.approx(0.25)


@pytest.mark.parametrize("span", ["", "rubbish", "10"])
def test_a_counter_that_falls_without_a_range_is_an_error_and_no_figure(tmp_path, span):
    package = zone(tmp_path, 0, 900_000, span=span)
    meter, _ = find_meter("cpu", tmp_path)
    (package / "energy_uj").write_text("100000")
    with pytest.raises(MeterError, match="fell from 900000 to 100000"):
        meter.read_j()


@pytest.mark.parametrize("content", ["", "nan", "inf", "-5", "many"])
def test_contents_that_are_no_energy_are_refused(tmp_path, content):
    zone(tmp_path, 0, content)
    meter, reason = find_meter("cpu", tmp_path)
    assert meter is None
    assert "energy_uj cannot be read" in reason
    assert "needs root" not in reason


def test_a_counter_for_root_alone_says_how_to_open_it(tmp_path, monkeypatch):
    zone(tmp_path, 0, 5)
    real = Path.read_text

    def refuse(self, *args, **kwargs):
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    meter, reason = find_meter("cpu", tmp_path)
    assert meter is None
    assert "intel-rapl:0/energy_uj needs root; sudo chmod a+r" in reason


def test_machines_without_rapl_say_so(tmp_path):
    assert find_meter("cpu", tmp_path) == (
        None,
        f"this machine has no RAPL: {tmp_path}/class/powercap does not exist",
    )
    (tmp_path / "class" / "powercap").mkdir(parents=True)
    assert find_meter("cpu", tmp_path)[1].endswith("lists no processor package")


def test_the_module_s_power_is_its_input_where_that_is_measured(tmp_path, on_a_jetson):
    rails(tmp_path, "1-0040", VDD_IN=20, VDD_CPU_GPU_CV=8, VDD_SOC=4)
    for device in ("cpu", "gpu"):
        meter, reason = find_meter(device, tmp_path)
        assert (meter.source, reason) == ("INA3221 module power VDD_IN", "")
    clock = Clock()
    meter._clock = clock
    meter._last = None
    start = meter.read_j()
    clock.now = 2.0
    assert meter.read_j() - start == pytest.approx(40)


def test_an_agx_orin_sums_its_three_rails_over_two_chips(tmp_path, on_a_jetson):
    rails(tmp_path, "1-0040", VDD_GPU_SOC=10, VDD_CPU_CV=5, VIN_SYS_5V0=4)
    rails(tmp_path, "1-0041", NC=100, VDDQ_VDD2_1V8AO=1)
    meter, _ = find_meter("gpu", tmp_path)
    assert meter.source == "INA3221 module power VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    assert meter._watts() == pytest.approx(19)


def test_rails_of_an_unknown_board_are_listed_and_not_guessed(tmp_path, on_a_jetson):
    rails(tmp_path, "1-0040", VDD_GPU=10, VDD_CPU_SOC_MSS=5)
    meter, reason = find_meter("gpu", tmp_path)
    assert meter is None
    assert reason.endswith("are VDD_CPU_SOC_MSS, VDD_GPU")
    assert find_meter("gpu", tmp_path / "nothing")[1].endswith("are none")


def test_a_rail_without_a_current_is_no_meter(tmp_path, on_a_jetson):
    folder = rails(tmp_path, "1-0040", VDD_IN=20)
    (folder / "curr1_input").unlink()
    meter, reason = find_meter("gpu", tmp_path)
    assert meter is None
    assert "VDD_IN cannot be read" in reason


def ina(folder, clock):
    return Ina3221Meter([("VDD_IN", folder / "in1_input", folder / "curr1_input")], clock)


def test_power_is_summed_by_the_trapezoid_rule(tmp_path):
    folder = rails(tmp_path, "1-0040", VDD_IN=10)
    clock = Clock()
    meter = ina(folder, clock)
    assert meter.read_j() == 0
    clock.now = 2.0
    (folder / "curr1_input").write_text("6000")  # 30 W
    assert meter.read_j() == pytest.approx(40)
    clock.now = 3.0
    assert meter.read_j() == pytest.approx(70)


def test_the_thread_samples_between_reads_and_ends(tmp_path):
    seconds, sampled = itertools.count(), threading.Event()

    def clock():
        now = next(seconds)
        if now == 4:
            sampled.set()
        return float(now)

    meter = ina(rails(tmp_path, "1-0040", VDD_IN=10), clock)
    before = threading.active_count()
    meter.start()
    try:
        assert sampled.wait(60)  # nobody but the thread reads
    finally:
        meter.stop()
    assert threading.active_count() == before
    assert meter.read_j() == pytest.approx(10 * (next(seconds) - 1))


def test_a_pause_between_two_loops_is_not_counted(tmp_path):
    clock = Clock()
    meter = ina(rails(tmp_path, "1-0040", VDD_IN=10), clock)
    meter.start()
    first = meter.read_j()
    meter.stop()
    clock.now = 1000.0
    meter.start()
    assert meter.read_j() == first
    meter.stop()


def test_a_gap_in_the_samples_is_an_error(tmp_path):
    folder = rails(tmp_path, "1-0040", VDD_IN=10)
    meter = ina(folder, time.perf_counter)
    meter.start()
    (folder / "in1_input").write_text("rubbish")
    meter._thread.join(timeout=5)
    (folder / "in1_input").write_text("5000")
    with pytest.raises(MeterError, match="VDD_IN cannot be read"):
        meter.read_j()
    meter.stop()
    meter.start()
    assert meter.read_j() >= 0
    meter.stop()


def test_joules_and_speed_come_from_one_loop():
    clock = Clock()
    meter = Scripted(clock, watts=30)

    def run():
        clock.now += 0.1
        return 4

    joules, rate = joules_an_image(meter, run, clock=clock)
    assert rate == pytest.approx(40)
    assert joules == pytest.approx(30 / 40)
    assert clock.now == pytest.approx(2.0, abs=0.11)
    assert meter.calls == ["start", "stop"]


def test_a_coarse_meter_takes_longer():
    clock = Clock()

    def run():
        clock.now += 1
        return 1

    joules_an_image(Scripted(clock, 30, resolution_s=0.1), run, clock=clock)
    assert clock.now == 5


def test_a_long_loop_reads_the_counter_before_it_can_be_full_twice():
    clock = Clock()
    meter = Scripted(clock, 30)

    def run():
        clock.now += 7
        return 1

    joules_an_image(meter, run, seconds=100, clock=clock)
    assert meter.reads >= 2 + 4


@pytest.mark.parametrize("watts", [0, float("nan"), -1])
def test_a_meter_that_stands_still_gives_no_figure(watts):
    clock = Clock()
    meter = Scripted(clock, watts)

    def run():
        clock.now += 1
        return 1

    with pytest.raises(MeterError, match=r"scripted stood still for 2\.0 s"):
        joules_an_image(meter, run, clock=clock)
    assert meter.calls == ["start", "stop"]


def test_a_run_that_breaks_stops_the_meter():
    clock = Clock()
    meter = Scripted(clock, 30)
    with pytest.raises(ZeroDivisionError):
        joules_an_image(meter, lambda: 1 // 0, clock=clock)
    assert meter.calls == ["start", "stop"]


def test_no_images_are_no_figure():
    clock = Clock()

    def run():
        clock.now += 1
        return 0

    with pytest.raises(MeterError, match="no image"):
        joules_an_image(Scripted(clock, 30), run, clock=clock)


def test_the_gpu_s_energy_is_the_board_s_alone(card, tmp_path):
    zone(tmp_path, 0, 5)  # the processor's is not added
    module = card()
    meter, reason = find_meter("gpu", tmp_path)
    assert (meter.source, reason) == ("NVML total energy of the GPU board", "")
    start = meter.read_j()
    module.answers["nvmlDeviceGetTotalEnergyConsumption"] += 2500
    assert meter.read_j() - start == pytest.approx(2.5)
    module.answers["nvmlDeviceGetTotalEnergyConsumption"] = None
    with pytest.raises(MeterError):
        meter.read_j()


def test_why_there_is_no_gpu_meter(card, monkeypatch):
    card(nvmlDeviceGetTotalEnergyConsumption=None)
    assert "Volta and newer" in find_meter("gpu")[1]
    card(nvmlDeviceGetCount=2)
    assert "lists 2 GPUs" in find_meter("gpu")[1]
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_meter("gpu") == (None, "nvidia-ml-py is not installed: pip install nvidia-ml-py")
    monkeypatch.setattr(gpu, "detect", lambda: None)
    assert find_meter("gpu") == (None, "no NVIDIA GPU with a driver")


def test_of_several_gpus_the_one_that_cuda_uses_is_measured(card, monkeypatch):
    card(nvmlDeviceGetCount=2)
    monkeypatch.setattr(nvml, "_bus_id", lambda _: b"0000:41:00.0")
    assert find_meter("gpu")[0]._board.handle == ("handle", b"0000:41:00.0")


def test_the_stand_in_has_the_names_and_values_of_the_real_module():
    try:
        real = importlib.import_module("pynvml")
    except ImportError:
        pytest.skip("nvidia-ml-py is not installed (extra cuda)")
    for name, arguments in pynvml_standin.FUNCTIONS.items():
        assert tuple(inspect.signature(getattr(real, name)).parameters) == arguments, name
    for name, value in pynvml_standin.CONSTANTS.items():
        assert getattr(real, name) == value, name
    assert issubclass(real.NVMLError, Exception)
    assert {bit for name, bit in pynvml_standin.CONSTANTS.items() if "Reason" in name} == set(nvml._REASONS)
    assert {bit for name, bit in pynvml_standin.CONSTANTS.items() if "POLICY" in name} == set(nvml._POLICIES)


def test_this_machine_has_a_meter_or_a_reason():
    for device in ("cpu", "gpu"):
        meter, reason = energy.find_meter(device)
        assert (meter is None) == bool(reason)
