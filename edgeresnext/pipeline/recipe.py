"""Calibration recipes: TOML files that say how a network is calibrated, for builds that are to be repeated."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeresnext import files
from edgeresnext.data import calibration_set
from edgeresnext.errors import InputError, RequestError, unknown_name
from edgeresnext.spec import REPAIRS, Recipe

_MAX_SEED = 2**32


def read_recipe(path: str | Path) -> Recipe:
    """Return the recipe of a TOML file; what it leaves out has the default.

    Raises:
        InputError: The file is missing, or is no recipe.
    """
    path = Path(path)
    try:
        return msgspec.toml.decode(files.read(path, files.LARGEST_TOML), type=Recipe)
    except OSError as error:
        raise InputError(f"cannot read recipe '{path}': {error.strerror}", "Give a .toml file.") from None
    except UnicodeDecodeError:
        raise InputError(f"'{path}' is no recipe: it is not UTF-8", "Save it as UTF-8.") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InputError(
            f"'{path}' is no recipe: {error}",
            f"Its fields are {', '.join(Recipe.__struct_fields__)}; each may be left out. Repairs are a list of "
            f"{', '.join(REPAIRS)}; [] for none.",
        ) from None


def check_recipe(recipe: Recipe) -> Recipe:
    """Return a recipe with its repairs in order, each once.

    Raises:
        RequestError: A value is out of range or unknown; of the method that is told only when PyTorch is there.
    """
    for name in ("keep", "repairs"):
        if isinstance(getattr(recipe, name), str):
            raise RequestError(f"{name} is a text, not a list", "Write a list, also of one.", values=(name,))
    if recipe.samples < calibration_set.MINIMUM:
        raise RequestError(
            f"{recipe.samples} calibration samples are too few",
            f"Use {calibration_set.MINIMUM} or more.",
            values=("samples",),
        )
    if not 0 <= recipe.seed < _MAX_SEED:
        raise RequestError(f"seed is {recipe.seed}", f"Give a number from 0 to {_MAX_SEED - 1}.", values=("seed",))
    for name in recipe.repairs:
        if name not in REPAIRS:
            raise unknown_name("repair", name, REPAIRS, values=("repairs",))
    return msgspec.structs.replace(recipe, repairs=tuple(name for name in REPAIRS if name in recipe.repairs))
