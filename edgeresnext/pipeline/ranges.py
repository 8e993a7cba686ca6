"""The ranges of a build: taken from calibration images, or from an earlier build whose digests match."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from edgeresnext import bundle as bundles
from edgeresnext import files
from edgeresnext.compiler.calibrate import channel_statistics, observe, thresholds
from edgeresnext.compiler.choose import IMAGES as CHOICE_IMAGES
from edgeresnext.compiler.choose import choose_methods
from edgeresnext.compiler.equalise import (
    EIGHTHS,
    STATISTICS_IMAGES,
    WHOLE,
    Fineness,
    channel_groups,
    find_exponents,
    rescaled,
)
from edgeresnext.compiler.equalise import IMAGES as TRIAL_IMAGES
from edgeresnext.compiler.execute import in_cache
from edgeresnext.compiler.graph import Graph
from edgeresnext.compiler.plan import calibrated_tensors
from edgeresnext.compiler.thresholds import STANDARD, Method
from edgeresnext.data.calibration_set import CalibrationSet
from edgeresnext.errors import BundleError, DataError
from edgeresnext.model.resnext import normalise
from edgeresnext.progress import Progress, silent
from edgeresnext.spec import AUTO, STANDARD_REPAIRS, TRAINED, ModelSpec, Preprocess, Ranges, Recipe

_log = logging.getLogger("edgeresnext")
_WITHOUT = "Delete or rename it to calibrate anew, or train in INT8 again."


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A graph with its ranges.

    Args:
        graph: The graph, its channels rescaled by `ranges.exponents`.
        ranges: What each method says of its tensors.
    """

    graph: Graph
    ranges: Ranges


def preprocess_digest(preprocess: Preprocess) -> str:
    """Return the SHA-256 of a preprocessing; a field that came later counts where it is used alone."""
    values = msgspec.structs.asdict(preprocess)
    later = {"width_px": 0, "fit": "crop"}  # so that ranges of earlier releases stay those of the same images
    used = {name: value for name, value in values.items() if name not in later or value != later[name]}
    return hashlib.sha256(msgspec.json.encode(used)).hexdigest()


def calibrate(
    graph: Graph,
    spec: ModelSpec,
    images: CalibrationSet,
    recipe: Recipe,
    *,
    weights_digest: str,
    given: Ranges | None,
    beside: Path | None = None,
    output: Path,
    progress: Progress,
) -> Calibrated:
    """Return the graph, equalised where the recipe says so, and the ranges of its tensors.

    Ranges that were trained with the weights are taken as they are.

    Args:
        graph: The folded graph.
        spec: The network.
        images: What to calibrate on.
        recipe: Method and repairs.
        weights_digest: SHA-256 of the weights.
        given: Ranges to use; None for those of the bundle at `output` where they match.
        beside: The file beside the weights that the given ranges are from; None where they were asked for.
        output: Where the bundle will be.
        progress: Told how many images have been seen.

    Raises:
        DataError: The given ranges belong to something else, or an activation is NaN or infinite.
    """
    digests = _digests(spec, images, weights_digest)
    known = given or _of_bundle(output)
    if known is not None:
        misfit = _misfit(known, graph, recipe, digests)
        if not misfit:
            trained = known.method == TRAINED
            progress("ranges trained with the weights" if trained else "ranges of the earlier build", 1, 1)
            return Calibrated(
                graph=rescaled(graph, known.exponents),
                ranges=known if trained else msgspec.structs.replace(known, method=recipe.method),
            )
        if beside is not None:
            raise DataError(f"'{beside}' does not fit what it lies beside: {misfit}", _WITHOUT)
        if given is not None:
            raise DataError(
                f"the given ranges do not fit: {misfit}",
                "Calibrate anew, without ranges, or build as that bundle was built.",
                values=("ranges",),
            )
        _log.info("the ranges of the earlier build do not fit: %s", misfit)
    return measured(graph, spec, images, recipe, weights_digest=weights_digest, progress=progress)


def _digests(spec: ModelSpec, images: CalibrationSet, weights_digest: str) -> dict[str, str]:
    """Return what ranges belong to."""
    return {"weights": weights_digest, "images": images.digest, "preprocess": preprocess_digest(spec.preprocess)}


def read(path: str | Path) -> Ranges:
    """Return the ranges of a file, or of a bundle's directory.

    Raises:
        BundleError: There are none, or none of this release.
    """
    path = Path(path)
    return bundles.read_ranges(path / bundles.RANGES if path.is_dir() else path)


def find(path: str | Path | None, weights: Sequence[str | Path], recipe: Recipe) -> tuple[Ranges | None, Path | None]:
    """Return the ranges to use: those of a path, else those that were trained with the weights; and the latter's file.

    Raises:
        BundleError: The path holds no ranges of this release.
        DataError: The file beside the weights holds no trained ranges.
    """
    if path is not None:
        return read(path), None
    asked = "an ensemble is calibrated as a whole" if len(weights) > 1 else _instead(recipe)
    for file in (files.beside(one, bundles.RANGES) for one in weights if Path(one).is_file()):
        if file.is_file() and asked:
            _log.warning("'%s' is not used: %s", file, asked)
        elif file.is_file():
            return _trained(file), file
    return None, None


def _trained(file: Path) -> Ranges:
    """Return the ranges of a file that lies beside weights."""
    try:
        found = bundles.read_ranges(file)
    except BundleError as error:
        raise DataError(f"{error.what}; it lies beside the weights", _WITHOUT) from None
    if found.method != TRAINED:
        raise DataError(f"'{file}' lies beside the weights, and its ranges were not trained with them", _WITHOUT)
    return found


def _instead(recipe: Recipe) -> str:
    """Return what a recipe asks for that trained ranges are not, or nothing."""
    if recipe.method != AUTO:
        return f"method {recipe.method} is asked for"
    if recipe.repairs not in ((), STANDARD_REPAIRS):
        return f"{' and '.join(recipe.repairs)} are asked for"
    return ""


def _of_bundle(output: Path) -> Ranges | None:
    """Return the ranges that the bundle which is there found on images, if one is, and they are as it left them."""
    try:
        found = bundles.read(output).ranges()
    except BundleError:
        return None
    return None if found is None or found.method == TRAINED else found


def _misfit(known: Ranges, graph: Graph, recipe: Recipe, digests: dict[str, str]) -> str:
    """Return why ranges are not those of this build, or nothing."""
    trained = known.method == TRAINED
    for name, what in (("weights", "weights"), ("preprocess", "preprocessing"), ("images", "calibration images")):
        if known.digests.get(name) != digests[name] and not (trained and name == "images"):
            return f"they were {'trained' if trained else 'taken'} with other {what}"
    if trained:
        instead = _instead(recipe)
        return f"they were trained, and {instead}" if instead else "" if _is_whole(known, graph) else "they are damaged"
    if known.equalised != ("equalisation" in recipe.repairs):
        return f"they were taken {'with' if known.equalised else 'without'} equalisation"
    if known.parts != _fineness(recipe).parts:
        return f"they were taken {'without' if known.parts == WHOLE.parts else 'with'} channel steps for rounding"
    if recipe.method != AUTO and recipe.method not in known.thresholds:
        return f"they have no thresholds of {recipe.method}, only {', '.join(known.thresholds)}"
    return "" if _is_whole(known, graph) else "they are damaged"


def _fineness(recipe: Recipe) -> Fineness:
    """Return how finely channels are rescaled."""
    return EIGHTHS if {"equalisation", "rounding"} <= set(recipe.repairs) else WHOLE


def _is_whole(known: Ranges, graph: Graph) -> bool:
    """Whether ranges say something usable of each tensor of a graph, and of nothing else."""
    tensors = set(calibrated_tensors(graph))
    channels = {group.name: group.writers[0].shape[0] for group in channel_groups(graph)}
    return (
        set(known.chosen) == {"signed", "unsigned"}
        and all(set(limits) == tensors for limits in known.thresholds.values())
        and all(set(chosen) == tensors for chosen in known.chosen.values())
        and all(0 < limit < math.inf for limits in known.thresholds.values() for limit in limits.values())
        and all(channels.get(name) == len(exponents) for name, exponents in known.exponents.items())
    )


def measured(
    graph: Graph,
    spec: ModelSpec,
    images: CalibrationSet,
    recipe: Recipe,
    *,
    weights_digest: str = "",
    progress: Progress = silent,
) -> Calibrated:
    """Return the graph and its ranges, found on the images; arguments and errors are those of `calibrate`."""

    def batches(count: int | None = None) -> Iterator[Tensor]:
        for batch in images.batches(count):
            yield from in_cache(normalise(torch.from_numpy(batch), spec))

    equalise = "equalisation" in recipe.repairs
    exponents: dict[str, tuple[float, ...]] = {}
    if equalise:
        count = min(images.count, STATISTICS_IMAGES)
        seen = channel_statistics(graph, batches(count), lambda done: progress("equalise", done, count))
        exponents = find_exponents(graph, seen, list(batches(TRIAL_IMAGES)), _fineness(recipe))
        graph = rescaled(graph, exponents)
    observed = observe(graph, batches(), lambda done: progress("calibrate", done, images.count))
    methods = dict.fromkeys((*STANDARD, *([] if recipe.method == AUTO else [recipe.method])))
    by_method = {name: thresholds(graph, observed, Method.parse(name)) for name in methods}
    ranges = Ranges(
        method=recipe.method,
        images=images.count,
        thresholds=by_method,
        chosen=choose_methods(graph, by_method, batches(CHOICE_IMAGES)),
        digests=_digests(spec, images, weights_digest),
        image_digests=images.image_digests,
        equalised=equalise,
        exponents=exponents,
        parts=_fineness(recipe).parts,
    )
    return Calibrated(graph=graph, ranges=ranges)
