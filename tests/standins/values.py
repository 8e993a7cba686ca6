"""Values as pybind11 makes them: enums that are no integers, shapes, serialised bytes; and classes that insist on their base."""

from functools import total_ordering
from typing import ClassVar

MAX_DIMS = 8


def is_shape(value):
    """Whether the value converts to Dims."""
    if isinstance(value, (str, bytes, dict)) or not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        return False
    return len(value) <= MAX_DIMS and all(hasattr(type(size), "__index__") for size in value)


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

    MAX_DIMS = MAX_DIMS
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
