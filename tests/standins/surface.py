"""Classes with exactly the members that the API data of one release lists.

What is missing raises AttributeError, arguments that fit no signature raise TypeError, and every call and property
assignment is appended to the module's `calls`. What a member does is registered with `simulated`; the others return None.
"""

import os
import signal
import time
from dataclasses import dataclass
from functools import cache, total_ordering
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

from .simulated_gpu import gpu

SIMULATED = {}
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
BASES = {"Logger": "ILogger", "IInt8EntropyCalibrator2": "IInt8Calibrator"}
# Pointers, where Python's None is the null pointer; everything else is taken by reference or value.
NULLABLE = {"IExecutionContext", "IProgressMonitor", "IInt8Calibrator", "IProfiler", "IRuntimeCache", "IRuntimeConfig"}
HOLDERS = {"ICudaEngine", "IExecutionContext", "IRuntimeConfig"}
UNSIGNED = {"flags", "pool_size", "memory", "stream_handle", "stream", "size"}
# The data does not say what a property takes.
PROPERTY_TYPES = {
    "DLA_core": "int",
    "avg_timing_iterations": "int",
    "builder_optimization_level": "int",
    "cuda_graph_strategy": "CudaGraphStrategy",
    "debug_sync": "bool",
    "default_device_type": "DeviceType",
    "dynamic_shapes_kernel_specialization_strategy": "DynamicShapesKernelSpecializationStrategy",
    "engine_capability": "EngineCapability",
    "execution_context": "IExecutionContext",
    "engine_host_code_allowed": "bool",
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


class Enumeration:
    """An enum as pybind11 makes them: convertible with int(), and not equal to one."""

    __slots__ = ("name", "value")
    __members__: ClassVar[dict] = {}

    def __new__(cls, value):
        for member in cls.__members__.values():
            if member.value == value:
                return member
        raise ValueError(f"{value} is not a {cls.__name__}")

    def __setattr__(self, name, value):
        raise AttributeError(f"property {name!r} of {type(self).__name__!r} object has no setter")

    def __int__(self):
        return self.value

    __index__ = __int__

    def __str__(self):
        return f"{type(self).__name__}.{self.name}"

    def __repr__(self):
        return f"<{type(self).__name__}.{self.name}: {self.value}>"

    def __reduce__(self):
        return type(self), (self.value,)


@total_ordering
class Ordered(Enumeration):
    """An enum whose members compare, as the logger's severities do."""

    __slots__ = ()

    def __lt__(self, other):
        return self.value < other.value if type(other) is type(self) else NotImplemented


def enumeration(name, values, module_name, base=Enumeration):
    """An enum class; names with equal values are one member."""
    cls = type(name, (base,), {"__slots__": (), "__module__": module_name})
    cls.__members__ = {}
    for key, value in values.items():
        member = next((one for one in cls.__members__.values() if one.value == value), None)
        if member is None:
            member = object.__new__(cls)
            object.__setattr__(member, "name", key)
            object.__setattr__(member, "value", value)
        cls.__members__[key] = member
        setattr(cls, key, member)
    return cls


class Dims:
    """A shape: a sequence, equal to the tuple of its sizes."""

    MAX_DIMS = 8
    __slots__ = ("_sizes",)
    __hash__ = None

    def __init__(self, shape=()):
        if not is_shape(shape):
            raise TypeError("Dims takes a sequence of at most 8 integers")
        self._sizes = tuple(int(size) for size in shape)

    def __len__(self):
        return len(self._sizes)

    def __getitem__(self, index):
        return self._sizes[index]

    def __eq__(self, other):
        return tuple(self) == tuple(other) if isinstance(other, (Dims, tuple, list)) else NotImplemented

    def __repr__(self):
        return repr(self._sizes)


class HostMemory(bytes):
    """Serialised bytes: a buffer, and not a sequence, as with the real class."""

    __slots__ = ()

    def __new__(cls, *_args):
        raise TypeError("IHostMemory: No constructor defined!")

    @property
    def nbytes(self):
        """How many bytes there are."""
        return memoryview(self).nbytes

    @property
    def dtype(self):
        """The type of one item."""
        return type(self).module.DataType.INT8

    def __getattribute__(self, name):
        if name not in {"nbytes", "dtype"} and not name.startswith("__"):
            raise AttributeError(f"'IHostMemory' object has no attribute {name!r}")
        return super().__getattribute__(name)

    def __bool__(self):
        return True

    def _not_a_sequence(self, *_):
        raise TypeError("an IHostMemory is a buffer: take bytes() or memoryview() of it")

    __len__ = __getitem__ = __iter__ = __add__ = __contains__ = _not_a_sequence


def host_memory(module, content):
    """An IHostMemory, which user code cannot construct."""
    return bytes.__new__(module.IHostMemory, content)


class BoundType(type):
    """Insists, as pybind11 does, that a subclass's __init__ calls its base's."""

    def __call__(cls, *args, **kwargs):
        instance = super().__call__(*args, **kwargs)
        if not hasattr(instance, "_sim"):
            base = next(one for one in cls.__mro__ if "_api" in vars(one))
            raise TypeError(f"{base.__module__}.{base.__name__}.__init__() must be called when overriding __init__")
        return instance


@dataclass(frozen=True)
class Parameter:
    """One parameter of a signature; `default` is its text, or None where there is none."""

    name: str
    type: str
    default: str | None


@cache
def parameters(signature):
    """The parameters of "(flags: int = 0) -> INetworkDefinition"."""
    body = signature[1 : signature.rindex(") -> ")]
    parts, depth = [""], 0
    for character in body:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    found = []
    for part in filter(None, map(str.strip, parts)):
        name, rest = part.split(": ", 1)
        type_name, _, default = rest.partition(" = ")
        found.append(Parameter(name, type_name, default or None))
    return tuple(found)


def is_integer(value):
    """Whether pybind11 takes the value for an integer: whatever converts, and no float."""
    kind = type(value)
    return hasattr(kind, "__index__") or (hasattr(kind, "__int__") and not hasattr(kind, "__float__"))


def is_shape(value):
    """Whether the value converts to Dims."""
    if isinstance(value, (str, bytes, dict)) or not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        return False
    return len(value) <= Dims.MAX_DIMS and all(hasattr(type(size), "__index__") for size in value)


def is_buffer(value):
    """Whether the value offers the buffer protocol."""
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def is_list_of(check):
    """A check for sequences whose items all pass `check`."""
    return lambda value: isinstance(value, (list, tuple)) and all(map(check, value))


CHECKS = {
    "int": is_integer,
    "float": lambda value: hasattr(type(value), "__float__") and not isinstance(value, str),
    "bool": lambda value: type(value).__name__ in {"bool", "bool_"},
    "str": lambda value: isinstance(value, str),
    "buffer": is_buffer,
    "Dims": is_shape,
    "tuple": lambda value: isinstance(value, tuple),
    "list": lambda value: isinstance(value, list),
    "list[int]": is_list_of(is_integer),
    "list[str]": is_list_of(lambda value: isinstance(value, str)),
}


def find(module, name):
    """The module's class or enum member of a dotted name; None where the API data leaves it out."""
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def accepts(module, parameter, value):
    """Whether the value fits the parameter."""
    if value is None and (parameter.default == "None" or parameter.type in NULLABLE):
        return True
    if check := CHECKS.get(parameter.type):
        negative = parameter.type == "int" and parameter.name in UNSIGNED and check(value) and int(value) < 0
        return check(value) and not negative
    cls = find(module, parameter.type)
    return cls is None or isinstance(value, cls)


def default_value(module, text):
    """The value of a default in a signature."""
    if text in {None, "None"}:
        return None
    return int(text) if text.isdigit() else find(module, text)


def bind(module, signature, args, kwargs):
    """(arguments given, all arguments) in the signature's order, or None where they do not fit it."""
    expected = parameters(signature)
    if len(args) > len(expected) or set(kwargs) - {one.name for one in expected[len(args) :]}:
        return None
    given, values = [], []
    for index, parameter in enumerate(expected):
        if index < len(args) or parameter.name in kwargs:
            value = args[index] if index < len(args) else kwargs[parameter.name]
            if not accepts(module, parameter, value):
                return None
            given.append(value)
            values.append(converted(parameter.type, value))
        elif parameter.default is None:
            return None
        else:
            values.append(default_value(module, parameter.default))
    return tuple(given), tuple(values)


def converted(type_name, value):
    """The value as the library receives it."""
    if type_name == "int":
        return int(value)
    return Dims(value) if type_name == "Dims" and value is not None else value


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
    namespace = {"__slots__": () if base else ("__weakref__", "_sim"), "__module__": module.__name__, "_api": members}
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
