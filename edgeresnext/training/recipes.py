"""Recipes of training: by name, from a file, and with everything decided that they leave open."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from edgeresnext import files
from edgeresnext.errors import InputError, RequestError, unknown_name
from edgeresnext.spec import ModelSpec, TrainingRecipe

RECIPES: dict[str, TrainingRecipe] = {
    "quick": TrainingRecipe(epochs=8, warmup=0.2),
    "standard": TrainingRecipe(),
    "long": TrainingRecipe(epochs=120, warmup=0.05, trivial=True, erase=0.1, mixup=0.1, ema=0.998),
    "int8": TrainingRecipe(int8="signed", epochs=6, optimiser="adamw", warmup=0.05, label_smoothing=0.0),
}
"""The named recipes: to see that it works, to get work done, for the last points; and to win back what INT8 costs."""

PARTS = ("stem", "layer1", "layer2", "layer3", "layer4", "all-but-head")
"""What `freeze` may say, each with all before it."""

_PHOTO_PX = 96
"""From here on images are taken for photos, which may be cropped and mirrored; smaller ones are often letters."""
_THRESHOLDS = 300.0
"""Of AdamW, whose steps are as large as the rate: 0.03 of a logarithm doubles a threshold in thirty steps."""
_SMALL_BATCH = 16
"""Below this the variance of a batch says too little: BatchNorm then keeps its own (arXiv:1803.08494, figure 1)."""
_MAX_SEED = 2**32


def read(recipe: str | Path | TrainingRecipe) -> TrainingRecipe:
    """Return a recipe by its name, or that of a TOML file; what a file leaves out has the default.

    Raises:
        RequestError: There is no such name, or a value is out of range.
        InputError: The file is missing, or is no recipe.
    """
    if isinstance(recipe, TrainingRecipe):
        return check(recipe)
    if str(recipe) in RECIPES:
        return RECIPES[str(recipe)]
    path = Path(recipe)
    if path.suffix != ".toml":
        raise unknown_name("recipe", str(recipe), RECIPES, values=("recipe",))
    try:
        return check(msgspec.toml.decode(files.read(path, files.LARGEST_TOML), type=TrainingRecipe))
    except OSError as error:
        raise InputError(f"cannot read recipe '{path}': {error.strerror}", "Give a .toml file.") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InputError(
            f"'{path}' is no recipe of training: {error}",
            f"Its fields are {', '.join(TrainingRecipe.__struct_fields__)}; each may be left out.",
        ) from None


def to_toml(recipe: TrainingRecipe) -> bytes:
    """Return a recipe as TOML, without what is None."""
    import tomli_w

    known = {name: value for name, value in msgspec.structs.asdict(recipe).items() if value is not None}
    return tomli_w.dumps(known).encode()


_LIMITS: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000), "batch": (2, 65_536), "accumulate": (1, 4096), "momentum": (0, 0.9999),
    "weight_decay": (0, 10), "warmup": (0, 1), "clip": (0, 1e9), "unfreeze_epochs": (0, 100_000),
    "layer_decay": (0.01, 1), "erase": (0, 1), "mixup": (0, 100), "cutmix": (0, 100), "label_smoothing": (0, 0.9),
    "ema": (0, 0.999999), "patience": (0, 100_000), "validation_share": (0, 0.9), "checkpoint_minutes": (0, 1e6),
    "seed": (0, _MAX_SEED - 1), "temperature": (0.01, 100),
    "threshold_factor": (0, 1e6),
}  # fmt: skip


def check(recipe: TrainingRecipe) -> TrainingRecipe:
    """Return a recipe whose values are all within their limits.

    Raises:
        RequestError: One is not, or of another kind, or two contradict each other.
    """
    try:  # what is made in Python is of any kind until now
        recipe = msgspec.convert(msgspec.to_builtins(recipe), TrainingRecipe)
    except (msgspec.ValidationError, TypeError) as error:
        raise RequestError(
            f"the recipe of training does not fit: {error}", "Give values of the fields' types."
        ) from None
    for name, (low, high) in _LIMITS.items():
        value = getattr(recipe, name)
        if value is not None and not low <= value <= high:  # NaN is not either
            raise RequestError(f"{name} is {value}", f"Give a number from {low:g} to {high:g}.", values=(name,))
    rate = recipe.learning_rate
    if rate is not None and not 0 < rate < math.inf:
        raise RequestError(f"learning_rate is {rate}", "Give a positive number.", values=("learning_rate",))
    if recipe.freeze and recipe.freeze not in PARTS:
        raise unknown_name("part to freeze", recipe.freeze, PARTS, values=("freeze",))
    for applies, what, hint, values in _contradictions(recipe):
        if applies:
            raise RequestError(what, hint, values=values)
    return recipe


def _contradictions(recipe: TrainingRecipe) -> tuple[tuple[bool, str, str, tuple[str, ...]], ...]:
    """Return what would change nothing: whether it is so, what it is, what to do, and which values are meant."""
    return (
        (
            bool(recipe.unfreeze_epochs and not recipe.freeze),
            "unfreeze_epochs would change nothing: nothing is frozen",
            "Say what to freeze first.",
            ("freeze",),
        ),
        (
            recipe.distil and recipe.int8 is None,
            "distil would change nothing: a network that is not quantised is its own teacher",
            "Quantise in training too.",
            ("distil", "int8"),
        ),
        (
            recipe.distil and recipe.balance != "none",
            "balance would change nothing: a teacher knows no classes",
            "Leave it out.",
            ("balance",),
        ),
        (
            recipe.distil and bool(recipe.mixup or recipe.cutmix),
            "mixed images would change what the teacher is asked",
            "Leave mixup and cutmix out.",
            ("recipe",),
        ),
        (
            recipe.int8 is not None and recipe.frozen_statistics is False,
            "frozen_statistics = false would change nothing: in INT8, BatchNorm is folded with those that it has",
            "Leave it out.",
            ("recipe",),
        ),
    )


def decide(recipe: TrainingRecipe, spec: ModelSpec, *, fine_tuning: bool) -> TrainingRecipe:
    """Return a recipe in which nothing is None but `int8`.

    Args:
        recipe: What is asked for.
        spec: The network.
        fine_tuning: Whether it begins with weights.
    """
    photos = min(spec.preprocess.size) >= _PHOTO_PX
    decided = {
        "learning_rate": _rate(recipe, fine_tuning=fine_tuning),
        "frozen_statistics": recipe.int8 is not None or (fine_tuning and recipe.batch < _SMALL_BATCH),
        "geometry": "crop" if photos else "shift",
        "flip": photos,
        "threshold_factor": _THRESHOLDS if recipe.optimiser == "adamw" else 1.0,
    }
    return msgspec.structs.replace(
        recipe, **{name: value for name, value in decided.items() if getattr(recipe, name) is None}
    )


def _rate(recipe: TrainingRecipe, *, fine_tuning: bool) -> float:
    """Return the usual learning rate of a task: that of SGD follows the batch (arXiv:1706.02677, section 2.1)."""
    if recipe.optimiser == "adamw":
        return 1e-4 if fine_tuning or recipe.int8 else 1e-3
    per_64 = 1e-3 if recipe.int8 else 0.02 if fine_tuning else 0.1
    return per_64 * recipe.batch * recipe.accumulate / 64
