"""Whether arguments fit a signature of the API data, and what the library receives."""

from dataclasses import dataclass
from functools import cache

from .values import Dims, is_shape

# Pointers, where Python's None is the null pointer; everything else is taken by reference or value.
NULLABLE = {"IExecutionContext", "IProgressMonitor", "IInt8Calibrator", "IProfiler", "IRuntimeCache", "IRuntimeConfig"}
UNSIGNED = {"flags", "pool_size", "memory", "stream_handle", "stream", "size"}


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
