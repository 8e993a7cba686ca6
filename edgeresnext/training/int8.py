"""What training in INT8 starts from, and what it leaves behind for a build."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edgeresnext import bundle as bundles
from edgeresnext import files
from edgeresnext.compiler.calibrate import channel_statistics
from edgeresnext.compiler.equalise import IMAGES as TRIAL_IMAGES
from edgeresnext.compiler.equalise import STATISTICS_IMAGES, channel_groups, find_exponents, per_input, powers
from edgeresnext.compiler.execute import in_cache
from edgeresnext.data.calibration_set import CalibrationSet
from edgeresnext.model.checkpoints import save_state, to_safetensors
from edgeresnext.model.resnext import normalise
from edgeresnext.model.weight_files import TRAINED_HERE
from edgeresnext.pipeline.ranges import measured
from edgeresnext.progress import Progress, silent
from edgeresnext.spec import Activations, ModelSpec, Ranges, Recipe
from edgeresnext.training.quantised import QuantisedNetwork, traced

_RECIPE = Recipe()


def start_ranges(
    network: nn.Module, spec: ModelSpec, images: CalibrationSet, recipe: Recipe = _RECIPE, progress: Progress = silent
) -> Ranges:
    """Return the ranges from which thresholds start, as a build would find them without repairs.

    Args:
        network: The network before training.
        spec: What it is.
        images: Of those that it will be trained on.
        recipe: Its method counts; `auto` starts each tensor where the smallest error is left.
        progress: Told how many images have been seen.

    Raises:
        DataError: An activation is NaN or infinite.
    """
    plain = msgspec.structs.replace(recipe, repairs=())
    return measured(traced(network, spec), spec, images, plain, progress=progress).ranges


def quantised(
    network: nn.Module,
    spec: ModelSpec,
    images: CalibrationSet,
    recipe: Recipe = _RECIPE,
    *,
    activations: Activations = "signed",
    learned: bool = True,
    progress: Progress = silent,
) -> QuantisedNetwork:
    """Return a network as its INT8 file will run it, ready to be trained: equalised, with calibrated thresholds.

    Arguments are those of `start_ranges` and `QuantisedNetwork`; the network's weights are changed, by powers of two.

    Raises:
        DataError: An activation is NaN or infinite.
        RequestError: As `QuantisedNetwork`.
    """
    sample = torch.cat([normalise(torch.from_numpy(batch), spec) for batch in images.batches(STATISTICS_IMAGES)])
    equalise(network, spec, sample)
    start = start_ranges(network, spec, images, recipe, progress)
    return QuantisedNetwork(network, spec, start, activations=activations, images=sample, learned=learned)


def equalise(network: nn.Module, spec: ModelSpec, images: Tensor) -> None:
    """Rescale the channels of a network where INT8 gains by it, as a build does; what it computes stays the same.

    Training does the same far more slowly: a channel that is 64 times as large as the others needs a gain that is 64
    times smaller, and weights in its readers that are 64 times larger.

    Args:
        network: Its weights are changed, by powers of two.
        spec: What it is.
        images: Normalised, float32 `(N, channels, H, W)`.
    """
    graph = traced(network, spec)
    seen = channel_statistics(graph, in_cache(images))
    exponents = find_exponents(graph, seen, in_cache(images[:TRIAL_IMAGES]))
    with torch.no_grad():
        for group in channel_groups(graph):
            if group.name not in exponents:
                continue
            factors = powers(exponents[group.name]).astype(np.float32)
            for layer in group.writers:
                module = network.get_submodule(layer.norm or layer.name)
                for values in (module.weight, module.bias):
                    if isinstance(values, Tensor):
                        values.mul_(torch.from_numpy(factors).to(values).view(-1, *[1] * (values.ndim - 1)))
            for layer in group.readers:
                weight = network.get_submodule(layer.name).weight
                assert isinstance(weight, Tensor)
                weight.div_(torch.from_numpy(per_input(layer, factors)).to(weight))


def save(trained: QuantisedNetwork, path: Path) -> None:
    """Write the network's weights, and beside them the ranges that `build` takes along.

    Raises:
        OSError: A file cannot be written.
    """
    weights = hashlib.sha256(to_safetensors(trained.network)).hexdigest()  # as a bundle has them
    save_state(trained.network, path, TRAINED_HERE)
    files.write(files.beside(path, bundles.RANGES), files.to_json(trained.ranges(weights)))


def restore_thresholds(trained: nn.Module, path: Path) -> None:
    """Give a quantised network the thresholds that `save` wrote beside the weights `path`.

    Raises:
        BundleError: They cannot be read.
    """
    assert isinstance(trained, QuantisedNetwork)
    trained.take(bundles.read_ranges(files.beside(path, bundles.RANGES)))
