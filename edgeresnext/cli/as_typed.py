"""How values are typed: in units that people use, as the options that an error is about, as the command of a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from edgeresnext.data.preprocessing import read_preprocess
from edgeresnext.errors import RequestError, unknown_name
from edgeresnext.spec import REPAIRS, Preprocess

_ALSO = {"mode": ("quick", "official")}
"""Values that are not typed by their own name."""


class Scaled(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A number that is typed in another unit than the one it is kept in.

    Args:
        unit: What is typed, such as "MIB".
        factor: How many of what is kept one of them is.
        whole: Whether whole numbers are kept.
    """

    def __init__(self, unit: str, factor: float, *, whole: bool = False) -> None:
        self.name = unit
        self._factor = factor
        self._whole = whole

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """Return what is kept."""
        try:
            number = float(value) * self._factor
            return int(number) if self._whole else number
        except (ValueError, OverflowError):
            self.fail(f"'{value}' is no number of {self.name}.", param, ctx)

    def typed(self, value: float) -> float:
        """Return what is typed."""
        return value / self._factor


def batch_profile(text: str) -> tuple[int, int, int]:
    """Return MIN:OPT:MAX as numbers; one number fixes the batch.

    Raises:
        RequestError: It is neither.
    """
    parts = text.split(":")
    if len(parts) in (1, 3) and all(part.isascii() and part.isdecimal() for part in parts):
        smallest, usual, largest = (int(part) for part in (parts if len(parts) > 1 else parts * 3))
        return smallest, usual, largest
    raise RequestError(
        f"cannot read batch profile '{text}'", "Give MIN:OPT:MAX such as 1:1:8, or one number.", values=("batch",)
    )


def input_size(text: str) -> tuple[int, int]:
    """Return WIDTHxHEIGHT as numbers; one number is both.

    Raises:
        RequestError: It is neither.
    """
    parts = text.lower().split("x")
    if len(parts) in (1, 2) and all(part.isascii() and part.isdecimal() for part in parts):
        return int(parts[0]), int(parts[-1])
    raise RequestError(f"cannot read input size '{text}'", "Give WIDTHxHEIGHT such as 320x240.", values=("input_px",))


def depths(text: str) -> tuple[int, ...]:
    """Return the blocks of each stage.

    Raises:
        RequestError: They are no numbers.
    """
    parts = text.replace(" ", "").split(",")
    if all(part.isascii() and part.isdecimal() for part in parts):
        return tuple(int(part) for part in parts)
    raise RequestError(f"cannot read depths '{text}'", "Give blocks a stage such as 3,4,6,3.", values=("depths",))


def preprocessing(text: str) -> Preprocess:
    """Return a named preprocessing, or one read from a JSON file.

    Raises:
        RequestError: There is no such name.
        InputError: The file cannot be read.
    """
    from edgeresnext.model.catalogue import PREPROCESS

    if text in PREPROCESS:
        return PREPROCESS[text]
    path = Path(text)
    if path.suffix != ".json":
        raise unknown_name("preprocessing", text, PREPROCESS, values=("preprocess",))
    return read_preprocess(path)


def repairs(_ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the repairs that were named; `none` is no repair, `all` is every one.

    Raises:
        RequestError: `none` or `all` stands beside others.
    """
    whole: dict[str, tuple[str, ...]] = {"none": (), "all": REPAIRS}
    named = next((name for name in names if name in whole), None)
    if named is None:
        return names
    if len(names) > 1:
        raise RequestError(
            f"repair {named} contradicts the other repairs", "Leave one of them out.", values=("repairs",)
        )
    return whole[named]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return those options of the running command that were typed."""
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    return {name: value for name, value in options.items() if context.get_parameter_source(name) is not default}


def options_of(command: click.Command, values: Iterable[str]) -> str:
    """Return how values are typed for a command, such as "--max-drop POINTS"; those that it does not take, not."""
    options = {option.name: option for option in command.params if isinstance(option, click.Option)}
    names = [name for value in values for name in _ALSO.get(value, (value,)) if name in options]
    return ", ".join(f"{options[name].opts[0]} {options[name].metavar or ''}".rstrip() for name in names)


def command_line(command: click.Command, values: dict[str, Any]) -> str:
    """Return what to type for a command with these values; what is None, False or empty is left out."""
    words = ["edgeresnext", str(command.name)]
    for parameter in command.params:
        value = values.get(str(parameter.name))
        if value is None or value is False or value == ():
            continue
        for one in value if getattr(parameter, "multiple", False) else (value,):
            words += [parameter.opts[0]] if isinstance(parameter, click.Option) else []
            words += [] if one is True else [_word(parameter.type, one)]
    return shlex.join(words)


def _word(kind: Any, value: Any) -> str:  # noqa: ANN401
    """Return one value as it is typed."""
    if isinstance(kind, Scaled):
        value = kind.typed(value)
    return f"{value:.10g}" if isinstance(value, float) else str(value)
