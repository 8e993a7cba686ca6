import os
import subprocess
import sys
import time

import psutil
import pytest
from standins import pynvml_standin

from edgeresnext.machine import gpu, nvml, watch
from edgeresnext.machine.watch import CpuTimes, MachineWatch

CORES = 2


class Machine:
    """A machine of two cores whose time passes by script, with a tree of the kernel's files."""

    def __init__(self, sysfs):
        self.sysfs, self.now = sysfs, 0.0
        self.busy = self.stolen = self.own = 0.0

    def cpu_times(self):
        return CpuTimes(total=CORES * self.now, busy=self.busy, stolen=self.stolen, own=self.own)

    def watch(self):
        return MachineWatch(sysfs=self.sysfs, clock=lambda: self.now, cpu_times=self.cpu_times)

    def run(self, seconds=10.0, own=0.0, others=0.0, stolen=0.0):
        """Let time pass; shares are of all cores."""
        self.now += seconds
        self.busy += (own + others) * CORES * seconds
        self.own += own * CORES * seconds
        self.stolen += stolen * CORES * seconds

    def write(self, path, content):
        file = self.sysfs / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "detect", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: CORES)
    return Machine(tmp_path)


@pytest.fixture
def card(monkeypatch, machine):
    module = pynvml_standin.make()
    device = gpu.Gpu(name="Card", compute_capability="8.9", memory_bytes=1, driver="13.0", integrated=False)
    monkeypatch.setattr(gpu, "detect", lambda: device)
    monkeypatch.setattr(nvml, "_bus_id", lambda _: b"")
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_a_quiet_machine_gives_no_warning_however_hard_the_benchmark_works(machine):
    with machine.watch() as seen:
        machine.run(own=0.97, others=0.03, stolen=0.01)
    assert seen.warnings() == ()
    assert seen.facts()["busy_others"] == "3 % of 2 cores"
    assert seen.facts()["steal"] == "1.0 %"


@pytest.mark.parametrize(("others", "warned"), [(0.05, False), (0.06, True), (0.38, True)])
def test_other_programs_above_the_threshold_are_a_warning(machine, others, warned):
    machine.run(others=1.0)  # before it begins, that is nobody's business
    with machine.watch() as seen:
        machine.run(own=0.5, others=others)
    expected = f"other programs took {100 * others:.0f} % of the processor during the benchmark: close them"
    assert [text.startswith(expected) for text in seen.warnings()] == ([True] if warned else [])


def test_a_hypervisor_that_takes_time_is_a_warning(machine):
    with machine.watch() as seen:
        machine.run(own=0.5, stolen=0.06)
    (warning,) = seen.warnings()
    assert warning.startswith("the hypervisor took 6 %")


def test_ticks_that_make_others_negative_are_nothing(machine):
    with machine.watch() as seen:
        machine.run(own=0.5, others=-0.01, stolen=-0.01)
    assert (seen.facts()["busy_others"], seen.facts()["steal"]) == ("0 % of 2 cores", "0.0 %")


def test_too_short_a_time_is_not_judged(machine):
    with machine.watch() as seen:
        machine.run(seconds=0.5, others=1.0)
    assert "busy_others" not in seen.facts()
    assert seen.warnings() == ()


def test_heat_is_told_before_and_after_and_throttling_once(machine):
    machine.write("class/hwmon/hwmon1/name", "coretemp")
    machine.write("class/hwmon/hwmon1/temp1_input", 45000)
    counters = [f"devices/system/cpu/cpu{n}/thermal_throttle/package_throttle_count" for n in (0, 1)]
    for counter in counters:
        machine.write(counter, 100)
    with machine.watch() as seen:
        machine.run(own=0.5)
        machine.write("class/hwmon/hwmon1/temp1_input", 61000)
        for counter in counters:
            machine.write(counter, 103)  # both cores count their package's three events
    assert seen.facts()["temperature_c"] == "45 -> 61"
    assert seen.facts()["cpu_throttled"] == "3 times"
    (warning,) = seen.warnings()
    assert warning.startswith("the processor throttled 3 times (too hot)")


def test_clocks_that_are_held_down_in_passing_are_seen_by_sample(machine):
    machine.write("class/thermal/cooling_device0/type", "pwm-fan")
    machine.write("class/thermal/cooling_device0/cur_state", 3)
    machine.write("class/thermal/cooling_device1/type", "cpufreq-cpu0")
    machine.write("class/thermal/cooling_device1/cur_state", 0)
    with machine.watch() as seen:
        machine.run(own=0.5)
        seen.sample()
        machine.write("class/thermal/cooling_device1/cur_state", 2)
        seen.sample()  # too soon after the last
        machine.run(seconds=1)
        seen.sample()
        machine.write("class/thermal/cooling_device1/cur_state", 0)
    assert seen.facts()["cpu_held_down_by"] == "cpufreq-cpu0"
    assert "because of heat (cpufreq-cpu0)" in seen.warnings()[0]
    with seen:
        machine.run(own=0.5)
    assert seen.warnings() == ()  # a second use begins anew


def test_a_jetson_that_draws_too_much_current_is_a_warning(machine):
    machine.write("class/hwmon/hwmon2/oc3_event_cnt", 1)
    with machine.watch() as seen:
        machine.run(own=0.5)
        machine.write("class/hwmon/hwmon2/oc3_event_cnt", 2)
    assert seen.facts()["overcurrent"] == "1 time"
    assert "too much current and was slowed 1 time:" in seen.warnings()[0]


@pytest.mark.parametrize(("governor", "warned"), [("powersave", 1), ("performance", 0), ("schedutil", 0)])
def test_powersave_is_a_warning_with_the_command(machine, governor, warned):
    machine.write("devices/system/cpu/cpufreq/policy0/scaling_governor", governor)
    with machine.watch() as seen:
        machine.run(own=0.5)
    assert len(seen.warnings()) == warned
    assert not warned or "cpupower frequency-set -g performance" in seen.warnings()[0]
    assert seen.facts()["governor"] == governor


def test_a_governor_that_changes_meanwhile_is_told(machine):
    machine.write("devices/system/cpu/cpufreq/policy0/scaling_governor", "schedutil")
    with machine.watch() as seen:
        machine.run(own=0.5)
        machine.write("devices/system/cpu/cpufreq/policy0/scaling_governor", "performance")
    assert seen.facts()["governor"] == "schedutil -> performance"


def test_garbage_in_every_sensor_is_left_out(machine):
    for path, content in {
        "class/hwmon/hwmon1/name": "coretemp",
        "class/hwmon/hwmon1/temp1_input": "nan",
        "class/hwmon/hwmon1/temp2_input": "-128000",
        "class/hwmon/hwmon2/oc1_event_cnt": "many",
        "class/thermal/thermal_zone0/type": "cpu-thermal",
        "class/thermal/thermal_zone0/temp": "",
        "class/thermal/cooling_device1/type": "cpufreq-cpu0",
        "class/thermal/cooling_device1/cur_state": "?",
        "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "1e999",
        "devices/system/cpu/cpufreq/policy0/scaling_governor": "",
    }.items():
        machine.write(path, content)
    with machine.watch() as seen:
        machine.run(own=0.5)
    assert set(seen.facts()) == {"busy_others", "steal", "load_1min"}
    assert seen.warnings() == ()


def test_what_cannot_be_read_raises_nothing(machine, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "getloadavg", refuse)
    monkeypatch.setattr(nvml, "find_board", refuse)
    for name in ("cpu_temperature_c", "governor", "throttle_counts", "overcurrent_counts", "limiters"):
        monkeypatch.setattr(watch.sensors, name, refuse)
    seen = MachineWatch(sysfs=machine.sysfs, clock=lambda: machine.now, cpu_times=refuse)
    with seen:
        machine.run(own=0.5)
        seen.sample()
    assert (seen.facts(), seen.warnings()) == ({}, ())


def test_nothing_is_told_before_the_end(machine):
    seen = machine.watch()
    assert (seen.facts(), seen.warnings()) == ({}, ())
    with seen:
        machine.run(others=1)
        assert (seen.facts(), seen.warnings()) == ({}, ())


def test_errors_of_the_benchmark_pass_through_and_what_was_seen_remains(machine):
    seen = machine.watch()

    def broken():
        with seen:
            machine.run(others=1)
            raise KeyError("x")

    with pytest.raises(KeyError):
        broken()
    assert len(seen.warnings()) == 1


def test_a_gpu_held_down_meanwhile_is_a_warning_with_its_reasons(machine, card):
    with machine.watch() as seen:
        machine.run(own=0.5)
        card.answers["nvmlDeviceGetCurrentClocksEventReasons"] = 0x04 | 0x40 | 0x01
        card.answers["nvmlDeviceGetTemperature"] = {0: 87}
        seen.sample()
        card.answers["nvmlDeviceGetCurrentClocksEventReasons"] = 0x01  # idle, which is no warning
    assert seen.facts()["gpu_temperature_c"] == "54 -> 87"
    assert seen.facts()["gpu_throttle"] == "heat (hardware); power limit"
    assert "held down (heat (hardware); power limit)" in seen.warnings()[0]


def test_the_gpu_s_own_counters_tell_what_no_sample_saw(machine, card):
    card.answers["nvmlDeviceGetViolationStatus"] = {0: 5e9, 1: 7e9, 3: None, 5: None}
    with machine.watch() as seen:
        machine.run(own=0.5)
        card.answers["nvmlDeviceGetViolationStatus"] = {0: 5.05e9, 1: 7.5e9, 3: None, 5: None}
    assert seen.facts()["gpu_throttle"] == "heat"  # half a second of ten; the power limit's 50 ms are too little


def test_an_old_driver_is_asked_by_the_older_name(machine, card):
    card.answers["nvmlDeviceGetCurrentClocksEventReasons"] = None
    card.answers["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x20
    with machine.watch() as seen:
        machine.run(own=0.5)
    assert seen.facts()["gpu_throttle"] == "heat (software)"


def test_own_time_counts_this_process_and_its_children_living_and_ended():
    spin = "import time\ne = time.process_time() + 0.15\nwhile time.process_time() < e: pass\n"
    before = watch.read_cpu_times()
    subprocess.run([sys.executable, "-c", spin], check=True)
    ended = watch.read_cpu_times()
    assert ended.own - before.own >= 0.13
    with subprocess.Popen([sys.executable, "-c", spin + "print(flush=True)\ninput()"], stdin=-1, stdout=-1) as child:
        child.stdout.readline()
        living = watch.read_cpu_times()
        child.communicate(b"\n")
    assert living.own - ended.own >= 0.13
    assert watch.read_cpu_times().own - living.own < 0.1  # reaped: not counted a second time
    assert living.total > before.total


@pytest.mark.slow
def test_a_busy_program_is_noticed_and_the_benchmark_itself_is_not(monkeypatch):
    """Real times, in one stretch: a child counts as our own until it is taken for another program's."""
    spin = "import time\ne = time.time() + 30\nwhile time.time() < e: pass\n"
    with subprocess.Popen([sys.executable, "-c", spin]) as child:
        try:
            mine = MachineWatch()
            mine.__enter__()
            monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: [])
            with MachineWatch() as other:
                time.sleep(1.2)
            monkeypatch.undo()
            mine.__exit__()
        finally:
            child.kill()
    cores = psutil.cpu_count()
    assert other._used() is not None
    taken, own = (watch._others(seen._used()) for seen in (other, mine))
    assert taken - own > 0.2 / cores  # one core's worth, less what a crowded machine keeps from it
