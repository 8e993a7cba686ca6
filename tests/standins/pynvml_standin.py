"""A stand-in for nvidia-ml-py's module `pynvml`, with the functions that edgeresnext calls and no others.

It refuses calls before `nvmlInit`, and answers `NVMLError` for what a GPU does not support. It never is the source of
a figure.
"""

import types

FUNCTIONS = {
    "nvmlInit": (),
    "nvmlSystemGetDriverVersion": (),
    "nvmlDeviceGetCount": (),
    "nvmlDeviceGetHandleByIndex": ("index",),
    "nvmlDeviceGetHandleByPciBusId": ("pciBusId",),
    "nvmlDeviceGetName": ("handle",),
    "nvmlDeviceGetClockInfo": ("handle", "type"),
    "nvmlDeviceGetMaxClockInfo": ("handle", "type"),
    "nvmlDeviceGetTemperature": ("handle", "sensor"),
    "nvmlDeviceGetEnforcedPowerLimit": ("handle",),
    "nvmlDeviceGetTotalEnergyConsumption": ("handle",),
    "nvmlDeviceGetCurrentClocksEventReasons": ("handle",),
    "nvmlDeviceGetCurrentClocksThrottleReasons": ("handle",),
    "nvmlDeviceGetViolationStatus": ("device", "perfPolicyType"),
    "nvmlDeviceGetMigMode": ("device",),
    "nvmlDeviceGetMaxMigDeviceCount": ("device",),
    "nvmlDeviceGetMigDeviceHandleByIndex": ("device", "index"),
}
"""Functions, and the names of their arguments in nvidia-ml-py 12.535 and 13.615."""

CONSTANTS = {
    "NVML_CLOCK_SM": 1,
    "NVML_DEVICE_MIG_ENABLE": 1,
    "NVML_CLOCK_MEM": 2,
    "NVML_TEMPERATURE_GPU": 0,
    "NVML_PERF_POLICY_POWER": 0,
    "NVML_PERF_POLICY_THERMAL": 1,
    "NVML_PERF_POLICY_BOARD_LIMIT": 3,
    "NVML_PERF_POLICY_RELIABILITY": 5,
    "nvmlClocksEventReasonSwPowerCap": 0x04,
    "nvmlClocksEventReasonHwSlowdown": 0x08,
    "nvmlClocksEventReasonSyncBoost": 0x10,
    "nvmlClocksEventReasonSwThermalSlowdown": 0x20,
    "nvmlClocksEventReasonHwThermalSlowdown": 0x40,
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": 0x80,
}
"""Values that edgeresnext writes out, because it must know them without the module."""

ANSWERS = {
    "nvmlSystemGetDriverVersion": "580.65.06",
    "nvmlDeviceGetCount": 1,
    "nvmlDeviceGetName": "Stand-in GPU",
    "nvmlDeviceGetClockInfo": {1: 1410, 2: 7001},
    "nvmlDeviceGetMaxClockInfo": {1: 2100, 2: 7001},
    "nvmlDeviceGetTemperature": {0: 54},
    "nvmlDeviceGetEnforcedPowerLimit": 115_000,
    "nvmlDeviceGetTotalEnergyConsumption": 1_000,
    "nvmlDeviceGetCurrentClocksEventReasons": 0,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 0,
    "nvmlDeviceGetViolationStatus": {0: 0, 1: 0, 3: 0, 5: 0},
    "nvmlDeviceGetMigMode": None,
    "nvmlDeviceGetMaxMigDeviceCount": 7,
    "nvmlDeviceGetMigDeviceHandleByIndex": {},
}
"""What a healthy GPU answers, by second argument where there is one; violations in nanoseconds."""


class NVMLError(Exception):
    """What every failing call raises."""


def make(**answers):
    """Return a fresh module; `answers` replace those of `ANSWERS`, None meaning "not supported".

    The module's `answers` may be changed while it is used.
    """
    module = types.ModuleType("pynvml")
    module.NVMLError = NVMLError
    module.answers = {**ANSWERS, **answers}
    module.ready = False
    for name, arguments in FUNCTIONS.items():
        setattr(module, name, _function(module, name, len(arguments)))
    return module


def _function(module, name, arity):
    def call(*arguments):
        if len(arguments) != arity:
            raise TypeError(f"{name} takes {arity} arguments, not {len(arguments)}")
        if name == "nvmlInit":
            module.ready = True
            return None
        if not module.ready:
            raise NVMLError("Uninitialized")
        if name.startswith("nvmlDeviceGetHandle"):
            return ("handle", arguments[0])
        answer = module.answers[name]
        if isinstance(answer, dict):
            answer = answer.get(arguments[1])
        if answer is None:
            raise NVMLError("Not Supported")
        if name == "nvmlDeviceGetViolationStatus":
            return types.SimpleNamespace(referenceTime=0, violationTime=answer)
        return answer

    return call
