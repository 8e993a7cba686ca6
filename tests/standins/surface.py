"""Classes with exactly the members that the API data of one release lists.

What is missing raises AttributeError, arguments that fit no signature raise TypeError, and every call and property
assignment is appended to the module's `calls`. What a member does is registered with `simulated`; the others return None.
"""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

from .signatures import Parameter, accepts, bind
from .simulated_gpu import gpu
from .values import BoundType, Dims, HostMemory, Ordered, enumeration

SIMULATED = {}
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
BASES = {"Logger": "ILogger", "IInt8EntropyCalibrator2": "IInt8Calibrator"}
HOLDERS = {"ICudaEngine", "IExecutionContext", "IRuntimeConfig", "IRuntimeCache"}
# The data does not say what a property takes.
PROPERTY_TYPES = {
    "DLA_core": "int",
    "avg_timing_iterations": "int",
    "builder_optimization_level": "int",
    "cuda_graph_strategy": "CudaGraphStrategy",
    "debug_sync": "bool",
    "device_memory": "int",
    "default_device_type": "DeviceType",
    "dynamic_shapes_kernel_specialization_strategy": "DynamicShapesKernelSpecializationStrategy",
    "engine_capability": "EngineCapability",
    "execution_context": "IExecutionContext",
    "engine_host_code_allowed": "bool",
    "error_recorder": "IErrorRecorder",
    "enqueue_emits_profile": "bool",
    "flags": "int",
    "hardware_compatibility_level": "HardwareCompatibilityLevel",
    "int8_calibrator": "IInt8Calibrator",
    "max_aux_streams": "int",
    "max_threads": "int",
    "max_workspace_size": "int",
    "min_severity": "ILogger.Severity",
    "name": "str",
    "num_compute_capabilities": "int",
    "precision": "DataType",
    "profiler": "IProfiler",
    "profiling_verbosity": "ProfilingVerbosity",
    "progress_monitor": "IProgressMonitor",
    "runtime_platform": "RuntimePlatform",
    "tiling_optimization_level": "TilingOptimizationLevel",
}


def simulated(class_name, member, *, assign=False):
    """Register what a method does, or what a property gives (or, with `assign`, takes)."""

    def register(function):
        SIMULATED[class_name, member, assign] = function
        return function

    return register


def create(module, class_name, **state):
    """An object of a class that user code cannot construct."""
    cls = getattr(module, class_name)
    instance = cls.__new__(cls)
    attach(instance, module, **state)
    return instance


def attach(instance, module, **state):
    """Give an object the state that the simulation keeps for it."""
    object.__setattr__(instance, "_sim", SimpleNamespace(module=module, values={}, **state))


def log(module, logger, severity, message):
    """Send a message to a logger, and to the module's `logs`."""
    module.logs.append((severity, message))
    recorder = getattr(logger, "_recorder", None)
    if (
        recorder is not None and severity == "ERROR"
    ):  # it then is told instead of the logger (seen with TensorRT-RTX 1.7)
        recorder.report_error(module.ErrorCodeTRT.UNSPECIFIED_ERROR, message)
        return
    member = module.ILogger.Severity.__members__[severity]
    if type(logger) is not module.Logger:
        logger.log(member, message)
    elif member.value <= logger.min_severity.value:
        os.write(2, f"[TRT] [{severity}] {message}\n".encode())


def injected(instance, member, signature):
    """Whether a test asked for this call to fail (the result to give is then `outcome[0]`)."""
    action = gpu.failures.pop(member, None)
    if action is None:
        return None
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "abort":
        os.write(2, b"native code gave up\n")
        os.abort()
    if action == "exit":
        os._exit(7)
    if str(action).startswith("hang "):
        Path(action.removeprefix("hang ")).touch()
        time.sleep(3600)
    if logger := getattr(instance._sim, "logger", None):
        log(instance._sim.module, logger, "ERROR", f"{member}: failure asked for by the test")
    return (False if signature.endswith("-> bool") else None,)


def recorded(values):
    """The arguments for `calls`: what holds device memory is only named, so that the record keeps none alive."""
    return tuple(type(value).__name__ if type(value).__name__ in HOLDERS else value for value in values)


def method(module, class_name, member, signatures):
    """A method that checks its arguments, records the call, and does what was registered for it."""

    def call(self, *args, **kwargs):
        for signature in signatures:
            bound = bind(module, signature, args, kwargs)
            if bound is not None:
                break
        else:
            listing = "\n".join(f"    {number}. {text}" for number, text in enumerate(signatures, 1))
            raise TypeError(f"{member}(): incompatible function arguments. These are supported:\n{listing}")
        given, values = bound
        if member == "__init__":
            attach(self, module)
        module.calls.append((class_name, member, recorded(given)))
        if outcome := injected(self, member, signature):
            return outcome[0]
        function = SIMULATED.get((class_name, member, False))
        return function(self, *values) if function else None

    call.__name__ = member
    return call


def attribute(module, class_name, member, *, settable):
    """A property that the simulation computes, or that keeps what was assigned."""

    def get(self):
        if function := SIMULATED.get((class_name, member, False)):
            return function(self)
        return self._sim.values.get(member)

    def assign(self, value):
        wanted = PROPERTY_TYPES.get(member)
        if wanted and not accepts(module, Parameter(member, wanted, None), value):
            raise TypeError(f"{class_name}.{member} takes {wanted}, not {type(value).__name__}")
        module.calls.append((class_name, member, recorded((value,))))
        if function := SIMULATED.get((class_name, member, True)):
            function(self, value)
        else:
            self._sim.values[member] = value

    return property(get, assign if settable else None)


def no_constructor(self, *_args, **_kwargs):
    """Stand for the constructor of a class that only the library makes."""
    raise TypeError(f"{type(self).__name__}: No constructor defined!")


def generate(module, class_name, members):
    """A class with the members of the API data."""
    base = BASES.get(class_name)
    slots = ("_recorder",) if class_name == "Logger" else () if base else ("__weakref__", "_sim")
    namespace = {"__slots__": slots, "__module__": module.__name__, "_api": members}
    if "__init__" not in members:
        namespace["__init__"] = no_constructor
    for member, spec in members.items():
        if isinstance(spec, bool):
            namespace[member] = attribute(module, class_name, member, settable=spec)
        else:
            namespace[member] = method(module, class_name, member, tuple(spec))
    if class_name == "ILogger":
        severities = {name: value for value, name in enumerate(SEVERITIES)}
        severity = enumeration("Severity", severities, module.__name__, Ordered)
        namespace.update(severity.__members__, Severity=severity)
    return BoundType(class_name, (getattr(module, base),) if base else (), namespace)


def populate(module, api):
    """Put every class of the API data into the module."""
    for class_name in sorted(api, key=lambda name: name in BASES):
        if class_name == "Dims":
            cls = Dims
        elif class_name == "IHostMemory":
            cls = type("IHostMemory", (HostMemory,), {"__slots__": (), "__module__": module.__name__, "module": module})
        elif "enum" in api[class_name]:
            cls = enumeration(class_name, api[class_name]["enum"], module.__name__)
        else:
            cls = generate(module, class_name, api[class_name]["members"])
        setattr(module, class_name, cls)
