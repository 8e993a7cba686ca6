"""What a pickle may do here: make tensors, and containers of them.

The names of tensors exist; everything else (arguments, optimisers, whole modules) becomes a `Foreign` that only knows
its name. So any pickle protocol can be read, by every PyTorch.
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable
from typing import Any, ClassVar

import torch

_TENSORS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor_v3"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch.nn.parameter", "Parameter"),
    ("torch", "Size"),
    ("torch", "device"),
    ("builtins", "set"),
    ("__builtin__", "set"),
}
"""What a pickle may call: containers, and what makes tensors of bytes."""


_MOST_PARTS = 1 << 20
"""Parts of a tuple with the parts of these."""


class Foreign:
    """What stands where a pickle names a class or function that weights do not need; nothing of that is run."""

    name = ""

    def __init__(self, *_arguments: object, **_values: object) -> None:
        pass

    def __new__(cls, *_arguments: object, **_values: object) -> Foreign:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        """Take whatever the pickle gives."""
        return super().__new__(cls)

    def __setstate__(self, _state: object) -> None:
        """Ignore what the object held."""

    def __setitem__(self, _key: object, _value: object) -> None:
        """Ignore an item of a dictionary's subclass."""

    def append(self, _value: object) -> None:
        """Ignore an item of a list's subclass."""

    def add(self, _value: object) -> None:
        """Ignore an item of a set's subclass."""

    def extend(self, _values: object) -> None:
        """Ignore items of a list's subclass."""


class _Items(dict[Any, Any]):
    """A dictionary that ignores what a pickle makes it of, such as the factory of a default."""

    def __init__(self, *_arguments: object) -> None:
        super().__init__()


class _Call:
    """A function of PyTorch that a pickle may call, and cannot change: it has no attributes to be set."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse what a pickle would set.

        Raises:
            pickle.UnpicklingError: Always.
        """
        message = f"it sets {name} of a function"
        raise pickle.UnpicklingError(message)

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401 - whatever the function takes and returns
        return self._function(*arguments)


def _weighed(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return what an opcode does, with a look at what it has made."""

    def run(unpickler: Any) -> None:  # noqa: ANN401 - an `_Unpickler`, which comes below
        load(unpickler)
        unpickler._weigh()  # noqa: SLF001 - its own

    return run


class _Unpickler(pickle._Unpickler):  # noqa: SLF001 - see below
    """Finds the names of `_TENSORS`, and nothing else.

    It is Python's unpickler in Python: the one in C makes room for as many objects as the largest number that a file
    gives one, and takes 12 GB for five bytes that say 800 million.
    """

    stack: list[Any]

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as PyTorch gives them
        super().__init__(*arguments, **options)
        self._sizes: dict[int, tuple[object, int]] = {}
        """Of what was made, by its identity: itself, so that nothing else gets that, and how many parts it has."""

    def _refuse_bytearray(self) -> None:
        """Refuse what would be made as long as the file says before it is read; weights have none.

        Raises:
            pickle.UnpicklingError: Always.
        """
        message = "it holds a bytearray"
        raise pickle.UnpicklingError(message)

    def _weigh(self) -> None:
        """Refuse what has the same parts over and over: a hundred bytes make a tuple whose hash takes for ever.

        Raises:
            pickle.UnpicklingError: It has too many parts, each counted as often as it lies there.
        """
        made = self.stack[-1]
        size = 1 + sum(self._sizes.get(id(part), (part, 1))[1] for part in made)
        if size > _MOST_PARTS:
            message = f"a {type(made).__name__} has more than {_MOST_PARTS:,} parts"
            raise pickle.UnpicklingError(message)
        self._sizes[id(made)] = made, size

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        **pickle._Unpickler.dispatch,  # noqa: SLF001
        pickle.BYTEARRAY8[0]: _refuse_bytearray,
        **{
            code[0]: _weighed(pickle._Unpickler.dispatch[code[0]])  # noqa: SLF001
            for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.FROZENSET)
        },
    }

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - whatever a pickle names
        if (module, name) == ("collections", "defaultdict"):
            return type(name, (_Items,), {})
        if name == "UntypedStorage" and module in ("torch", "torch.storage"):
            # Its elements are bytes; the class itself could be changed by a pickle.
            return torch.serialization.StorageType("ByteStorage")  # type: ignore[no-untyped-call]
        if (module, name) in _TENSORS:
            found = super().find_class("builtins" if module == "__builtin__" else module, name)
            return _Call(found) if module in ("torch._utils", "torch.nn.parameter") else found
        if module == "torch" and name.endswith("Storage"):
            return torch.serialization.StorageType(name)  # type: ignore[no-untyped-call]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return type(name, (Foreign,), {"name": f"{module}.{name}"})


PICKLE = types.SimpleNamespace(
    __name__="edgeresnext", Unpickler=_Unpickler, load=lambda file, **options: _Unpickler(file, **options).load()
)
"""What PyTorch takes for Python's `pickle`."""
