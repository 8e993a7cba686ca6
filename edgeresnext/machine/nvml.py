"""The GPU's clocks, heat, limits and energy, through nvidia-ml-py where it is installed. Not yet run on hardware.

Source: NVIDIA, "NVML API Reference Guide" (nvml.h). NVML numbers GPUs by their place on the bus and ignores
`CUDA_VISIBLE_DEVICES`; CUDA puts the fastest first. So the GPU that CUDA offers first is looked up by its bus address.
"""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from typing import Any

from edgeresnext.errors import BackendError, NotInstalledError
from edgeresnext.machine import gpu, libcuda

INSTALL = "pip install nvidia-ml-py"

_REASONS = {
    0x04: "power limit",  # nvmlClocksEventReasonSwPowerCap
    0x08: "hardware slowdown",  # HwSlowdown
    0x10: "sync boost",  # SyncBoost
    0x20: "heat (software)",  # SwThermalSlowdown
    0x40: "heat (hardware)",  # HwThermalSlowdown
    0x80: "power brake",  # HwPowerBrakeSlowdown
}
"""Why clocks are lower than they could be. Not here: idle (0x01), and clocks that the user (0x02) or the display
(0x100) asked for: these are settings."""
_POLICIES = {0: "power limit", 1: "heat", 3: "board limit", 5: "voltage reliability"}
"""NVML_PERF_POLICY_POWER, _THERMAL, _BOARD_LIMIT and _RELIABILITY: what held clocks down, counted in time."""
_SM, _MEMORY, _GPU_SENSOR = 1, 2, 0
"""NVML_CLOCK_SM, NVML_CLOCK_MEM and NVML_TEMPERATURE_GPU."""
_BUS_ID_BYTES = 32
_MIG_ENABLED = 1
"""NVML_DEVICE_MIG_ENABLE."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A GPU as NVML knows it.

    Args:
        nvml: The module `pynvml`.
        handle: Its handle of the GPU.
    """

    nvml: Any
    handle: Any

    def ask(self, function: str, *arguments: int) -> Any | None:  # noqa: ANN401  # whatever NVML answers
        """Return what an NVML function answers for this GPU; None where module, driver or GPU do not support it."""
        call = getattr(self.nvml, function, None)
        try:
            return call(self.handle, *arguments) if call else None
        except self.nvml.NVMLError:
            return None

    def temperature_c(self) -> float | None:
        """Return the temperature of the GPU itself."""
        # Deprecated in release 13 of the module, but the one function that all releases and drivers have.
        return _number(self.ask("nvmlDeviceGetTemperature", _GPU_SENSOR))

    def throttle_reasons(self) -> frozenset[str]:
        """Return in words why clocks are held down just now; empty where they are not."""
        bits = self.ask("nvmlDeviceGetCurrentClocksEventReasons")  # drivers from 535 on; before, its older name
        bits = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons") if bits is None else bits
        return frozenset(reason for bit, reason in _REASONS.items() if int(bits or 0) & bit)

    def throttled_s(self) -> dict[str, float]:
        """Return how many seconds clocks have been held down so far, by reason; only what this GPU counts."""
        found = {reason: self.ask("nvmlDeviceGetViolationStatus", policy) for policy, reason in _POLICIES.items()}
        return {reason: status.violationTime / 1e9 for reason, status in found.items() if status is not None}

    def divided(self) -> bool:
        """Return whether MIG divides it: CUDA then offers its instances, and not the whole."""
        mode = self.ask("nvmlDeviceGetMigMode")
        return mode is not None and mode[0] == _MIG_ENABLED

    def instances(self) -> int:
        """Return how many MIG instances there are."""
        most = int(self.ask("nvmlDeviceGetMaxMigDeviceCount") or 0)
        return sum(self.ask("nvmlDeviceGetMigDeviceHandleByIndex", index) is not None for index in range(most))

    def facts(self) -> dict[str, str]:
        """Return name, driver, clocks, temperature, power limit and throttling; what is not known is left out."""
        reasons = "; ".join(sorted(self.throttle_reasons()))
        limit_mw = _number(self.ask("nvmlDeviceGetEnforcedPowerLimit"))
        found = {
            "gpu": self.ask("nvmlDeviceGetName"),
            "gpu_driver": _driver(self.nvml),
            "gpu_sm_mhz": self.ask("nvmlDeviceGetClockInfo", _SM),
            "gpu_sm_max_mhz": self.ask("nvmlDeviceGetMaxClockInfo", _SM),
            "gpu_memory_mhz": self.ask("nvmlDeviceGetClockInfo", _MEMORY),
            "gpu_memory_max_mhz": self.ask("nvmlDeviceGetMaxClockInfo", _MEMORY),
            "gpu_temperature_c": self.ask("nvmlDeviceGetTemperature", _GPU_SENSOR),
            "gpu_power_limit_w": None if limit_mw is None else f"{limit_mw / 1000:.0f}",
            "gpu_throttle": reasons or None,
        }
        return {name: str(value) for name, value in found.items() if value is not None}


def find_board() -> tuple[Board | None, str]:
    """Return the GPU that this call is about as NVML knows it, or None and why not, with the way out."""
    device = gpu.detect()
    if device is None:
        return None, "no NVIDIA GPU with a driver"
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None, f"nvidia-ml-py is not installed: {INSTALL}"
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
        bus_id = _bus_id(device.index)
        if bus_id:
            return Board(nvml=nvml, handle=nvml.nvmlDeviceGetHandleByPciBusId(bus_id)), ""
        if count == 1:
            return Board(nvml=nvml, handle=nvml.nvmlDeviceGetHandleByIndex(0)), ""
    except nvml.NVMLError as error:
        return None, f"NVML: {error}"
    return None, f"NVML lists {count} GPUs and which of them CUDA uses is not known"


def without_instances() -> tuple[str, ...]:
    """Return the names of the GPUs in MIG mode of which no instance has been made: CUDA offers nothing of them."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    except Exception:  # noqa: BLE001 - no module; or its NVMLError: no driver
        return ()
    boards = [Board(nvml=nvml, handle=handle) for handle in handles]
    return tuple(str(board.ask("nvmlDeviceGetName")) for board in boards if board.divided() and not board.instances())


def _bus_id(index: int) -> bytes:
    """Return the bus address of a GPU that CUDA offers; empty where it does not tell."""
    name = ctypes.create_string_buffer(_BUS_ID_BYTES)
    try:
        cuda = libcuda.load()
        cuda.call("cuDeviceGetPCIBusId", name, _BUS_ID_BYTES, cuda.call("cuDeviceGet", index))
    except (NotInstalledError, BackendError):
        return b""
    return name.value


def _driver(nvml: Any) -> str | None:  # noqa: ANN401  # a module without types
    try:
        return str(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError:
        return None


def _number(value: Any) -> float | None:  # noqa: ANN401  # whatever NVML answers
    return None if value is None else float(value)
