"""Calibration recipes: TOML files that say how a network is calibrated, for builds that are to be repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgeresnext.data import calibration_set
from edgeresnext.errors import InputError, RequestError, unknown_name
from edgeresnext.spec import REPAIRS, Recipe

_MAX_SEED = 2**32


def read(path: str | Path) -> Recipe:
    """Return the recipe of a TOML file.

    Raises:
        InputError: The file is missing, or is no recipe.
    """
    path = Path(path)
    fields = ", ".join(field.name for field in msgspec.structs.fields(Recipe))
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except OSError as error:
        raise InputError(f"cannot read recipe '{path}': {error.strerror}", "Give a .toml file.") from None
    except UnicodeDecodeError:
        raise InputError(f"'{path}' is no recipe: it is not UTF-8", "Save it as UTF-8.") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise InputError(
            f"'{path}' is no recipe: {error}",
            f"Its fields are {fields}; each may be left out. Repairs are a list of {', '.join(REPAIRS)}; [] for none.",
        ) from None


def settle(recipe: Recipe | str | Path | None, changes: dict[str, Any]) -> Recipe:
    """Return a recipe, read from its file where a path is given, with what `changes` gives in its place.

    Raises:
        RequestError: A value is out of range or unknown.
        InputError: The file is no recipe.
    """
    base = read(recipe) if isinstance(recipe, str | Path) else recipe or Recipe()
    found = msgspec.structs.replace(base, **{name: value for name, value in changes.items() if value is not None})
    if found.samples < calibration_set.MINIMUM:
        raise RequestError(
            f"{found.samples} calibration samples are too few", f"Use {calibration_set.MINIMUM} or more."
        )
    if not 0 <= found.seed < _MAX_SEED:
        raise RequestError(f"seed is {found.seed}", f"Give a number from 0 to {_MAX_SEED - 1}.")
    for name in found.repairs:
        if name not in REPAIRS:
            raise unknown_name("repair", name, REPAIRS)
    return msgspec.structs.replace(found, repairs=tuple(name for name in REPAIRS if name in found.repairs))
