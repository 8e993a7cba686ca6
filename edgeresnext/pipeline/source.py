"""The network that a build is asked for: by its name, by its weights here or elsewhere, or several as one."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import nn

from edgeresnext.data import labels as label_files
from edgeresnext.data import preprocessing
from edgeresnext.data.calibration_set import CalibrationSet
from edgeresnext.data.labels import read_labels
from edgeresnext.errors import CheckpointError, DataError
from edgeresnext.machine.cache import cache_directory
from edgeresnext.model import checkpoints, ensemble, hub, weight_files
from edgeresnext.model.catalogue import PREPROCESS, find, name_of, specify, usually_preprocessed
from edgeresnext.model.plausibility import IMAGES, SUSPICIOUS, WRONG, statistics_gap
from edgeresnext.model.resnext import ResNeXt, normalise
from edgeresnext.pipeline.request import SHAPE
from edgeresnext.progress import Progress
from edgeresnext.spec import CHANNELS, CheckpointOptions, ModelSpec, Preprocess

_USUAL_CHANNELS = (1, 3)
"""Of images whose mean and deviation may be assumed: what is in a fourth channel only its training knows."""
_log = logging.getLogger("edgeresnext")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A network with its weights.

    Args:
        network: In evaluation mode.
        spec: What it is.
        names: The label of each logit, where somebody says them; else none.
        trained_here: Whether the weights, with the preprocessing beside them, are as a training of ours left them.
    """

    network: nn.Module
    spec: ModelSpec
    names: tuple[str, ...]
    trained_here: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each logit; its number where nobody says one."""
        return self.names or tuple(map(str, range(self.spec.classes)))


def by_name(
    model: str, preprocess: Preprocess | None, labels: str | Path | None, options: CheckpointOptions, seed: int
) -> Source:
    """Return a network of the catalogue with random weights.

    Raises:
        RequestError: There is no such network.
        DataError: The labels cannot be read.
    """
    names = None if labels is None else read_labels(labels)
    spec = specify(model, classes=len(names) if names else None, preprocess=preprocess)
    spec = _sized(_shaped(spec, options), options)
    network = checkpoints.random_network(spec, seed)
    return Source(network=network, spec=spec, names=names or ())


def by_weights(
    model: str | None,
    weights: Sequence[str | Path],
    *,
    preprocess: Preprocess | None,
    labels: str | Path | None,
    options: CheckpointOptions,
    progress: Progress,
) -> Source:
    """Return the network that weights belong to, or the ensemble of several.

    Args:
        model: A name of the catalogue that it must be; None for whatever it is.
        weights: Files, or names that `model.hub` knows.
        preprocess: How images become its input; None for what its publisher says, else what is usual.
        labels: File with the label of each logit; None for what its publisher says, else numbers.
        options: How the files are read.
        progress: Told how much of a download has come.

    Raises:
        RequestError: There is no such network, or the members of an ensemble do not fit each other.
        CheckpointError: Weights cannot be fetched or read, or belong to another network.
        DataError: There are more or fewer labels than classes.
    """
    found = [_member(model, one, preprocess, options, progress) for one in weights]
    names = read_labels(labels) if labels is not None else next((one.names for one in found if one.names), ())
    named = {file: one.names for file, one in zip(map(str, weights), found, strict=True) if one.names}
    other = next((file for file, there in named.items() if labels is None and there != names), None)
    if other is not None:
        at, mine, its = next(_differences(names, named[other]))
        raise DataError(
            f"the members of the ensemble have other labels, or the same in another order: class {at} is '{mine}' in "
            f"'{next(iter(named))}' and '{its}' in '{other}'",
            "Give the labels where you know that the logits mean the same.",
            values=("labels",),
        )
    spec = found[0].spec
    network: nn.Module = found[0].network
    if len(found) > 1:
        spec = ensemble.specify([one.spec for one in found], options.average, weights)
        network = ensemble.join([one.network for one in found if isinstance(one.network, ResNeXt)], options.average)
    if names and len(names) != spec.classes:
        raise DataError(
            f"{len(names)} labels for a checkpoint of {spec.classes} classes ('{weights[0]}')",
            "Give one label a line, in the order of the logits.",
            values=("labels",),
        )
    return Source(network=network, spec=spec, names=names, trained_here=all(one.trained_here for one in found))


def _member(
    model: str | None,
    weights: str | Path,
    preprocess: Preprocess | None,
    options: CheckpointOptions,
    progress: Progress,
) -> Source:
    """Return one network with its weights; labels only where its publisher says them."""
    fetched = None
    if hub.is_name(str(weights)):
        fetched = hub.fetch(str(weights), cache_directory(), progress)
        _tell(weights, fetched.notes)
    path = fetched.path if fetched else Path(weights)
    beside = None if fetched else preprocessing.beside(path)
    said = preprocess or (fetched.preprocess if fetched else beside)
    if said is None and path.is_file() and (known_file := hub.torchvision_file(path)) is not None:
        name, said = known_file
        _tell(weights, [f"it is torchvision's {name}"])
    named = None if model is None else _shaped(find(model).spec, options)
    usual = PREPROCESS["torchvision-v1"] if named is None else named.preprocess
    checkpoint = checkpoints.read(path, said or usual, options.key)
    found = checkpoint.spec
    _check_channels(weights, found.in_channels, said)
    if said is None and named is None:
        found = usually_preprocessed(found)
        _log.warning(
            "'%s': preprocessing is not said; that of %s is assumed, of those that `edgeresnext models` lists",
            weights,
            found.source,
        )
    if said is None and found.in_channels == 1:
        grey = found.preprocess
        _log.warning("'%s' takes grey images; mean %g and std %g are assumed", weights, grey.mean[0], grey.std[0])
    _tell(weights, checkpoint.notes)
    if model is None:
        _log.warning("'%s' is %s, with %d classes", weights, found.name, found.classes)
    spec = found
    if named is not None:  # what names and shapes do not tell is as its library has it
        spec = msgspec.structs.replace(
            named,
            classes=found.classes,
            preprocess=found.preprocess,
            stem_pool=found.stem_pool,
            stride_at=found.stride_at,
        )
    if options.bn_eps is not None:
        spec = msgspec.structs.replace(spec, bn_eps=options.bn_eps)
    spec = _sized(spec, options)
    network = checkpoints.load_network(spec, checkpoint)
    return Source(
        network=network, spec=spec, names=(fetched.labels if fetched else label_files.beside(path)) or (),
        trained_here=beside is not None and said == beside and weight_files.is_trained_here(path),
    )  # fmt: skip


def _check_channels(weights: str | Path, channels: int, said: Preprocess | None) -> None:
    """Refuse a preprocessing for images of other channels than weights take, and to guess that of RGBA."""
    usual = (said or PREPROCESS["torchvision-v1"]).for_channels(channels)
    example = msgspec.json.encode({name: getattr(usual, name) for name in ("resize_px", "crop_px", "mean", "std")})
    hint = f"Give the training's preprocessing, such as {example.decode()}; on the command line as a JSON file."
    if said is not None and said.channels != channels:
        raise CheckpointError(
            f"'{weights}' takes {CHANNELS[channels]} images, and the preprocessing is for {CHANNELS[said.channels]}",
            hint,
            values=("preprocess",),
        )
    if said is None and channels not in _USUAL_CHANNELS:
        raise CheckpointError(
            f"'{weights}' takes {CHANNELS[channels]} images, and nothing says how they are normalised",
            hint,
            values=("preprocess",),
        )


def _shaped(spec: ModelSpec, options: CheckpointOptions) -> ModelSpec:
    """Return a network of the depths, cardinality and width that are asked for, and a name that says so."""
    changes = {name: value for name in SHAPE if (value := getattr(options, name)) is not None}
    if not changes:
        return spec
    shaped = msgspec.structs.replace(spec, **changes)
    return msgspec.structs.replace(shaped, name=name_of(shaped))


def _sized(spec: ModelSpec, options: CheckpointOptions) -> ModelSpec:
    """Return a network for the input that is asked for, its margin around the crop in proportion."""
    preprocess = spec.preprocess
    if options.input_px is not None:
        width, height = options.input_px
        margin = preprocess.resize_px / min(preprocess.size)
        preprocess = msgspec.structs.replace(
            preprocess, crop_px=height, width_px=0 if width == height else width,
            resize_px=round(margin * min(width, height)),
        )  # fmt: skip
    if options.fit is not None:
        preprocess = msgspec.structs.replace(preprocess, fit=options.fit)
    return msgspec.structs.replace(spec, preprocess=preprocess)


def _tell(weights: str | Path, notes: Sequence[str]) -> None:
    for note in notes:
        _log.warning("'%s': %s", weights, note)


def _differences(one: Sequence[str], other: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield the classes whose labels differ, with both labels; one that is missing is "none"."""
    for index, (mine, its) in enumerate(itertools.zip_longest(one, other, fillvalue="none")):
        if mine != its:
            yield index, mine, its


def check_statistics(source: Source, images: CalibrationSet, *, trusted: bool) -> None:
    """Refuse weights whose own statistics say that they belong to another network, or to other images.

    Args:
        source: The network.
        images: What it will be calibrated on.
        trusted: Whether the user knows better; then nothing is looked at.

    Raises:
        CheckpointError: They do, beyond doubt.
    """
    if trusted:
        return
    batches = [normalise(torch.from_numpy(batch), source.spec) for batch in images.batches(IMAGES)]
    ensemble_of = source.network.members if isinstance(source.network, ensemble.Ensemble) else [source.network]
    gaps = [statistics_gap(network, batches) for network in ensemble_of]
    gap = max(gaps)
    if gap < SUSPICIOUS:
        return
    whose = f"in member {gaps.index(gap) + 1} of the ensemble, " if len(gaps) > 1 else ""
    what = (
        f"{whose}activations do not have the variances that the weights remember of their training (off by {gap:.2f}; "
        "right networks by 0.01 to 0.07)"
    )
    # A short training, or one with frozen statistics, ends with weights that remember other variances.
    if gap >= WRONG and not source.trained_here:
        raise CheckpointError(
            f"{what}: this is another network with the same names, or other images or preprocessing than in training",
            "Compare mean, std and the order of channels with the training's; networks with blur pooling, another "
            "stride or another activation have the same names. Where you know that it is right, trust it.",
            values=("preprocess", "trust_network"),
        )
    _log.warning("%s: compare the preprocessing and the calibration images with the training's", what)
