"""Train a small network on an image folder: enough for the demo's weights and for trying the toolkit on own data."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeresnext import files
from edgeresnext.data import folder
from edgeresnext.data.images import batches
from edgeresnext.errors import AccuracyError, DataError, RequestError
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import save_state
from edgeresnext.model.resnext import ResNeXt, normalise
from edgeresnext.spec import ModelSpec, Preprocess

_DECODE_BATCH = 64
_MAX_SEED = 2**32


def train(
    model: str,
    *,
    data: str | Path,
    output: str | Path,
    validation: str | Path | None = None,
    preprocess: Preprocess | None = None,
    epochs: int = 30,
    batch: int = 64,
    learning_rate: float = 0.1,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> float | None:
    """Train a network from scratch and write its weights, with its labels beside them (`OUTPUT.labels.txt`).

    Stochastic gradient descent with Nesterov momentum 0.9, weight decay 5e-4, a one-cycle learning rate and label
    smoothing 0.1; images are shifted by up to a sixteenth of their size. All images are held in memory.

    Args:
        model: A name from the catalogue.
        data: Folder with one folder of images a class.
        output: `.safetensors` file to write.
        validation: Labelled folder whose top-1 is returned.
        preprocess: Resize, crop and normalisation, where they differ from the catalogue's.
        epochs: Passes over the data.
        batch: Images a step.
        learning_rate: Its maximum.
        seed: Of weights, order and shifts: the same seed, data and machine give the same weights.
        progress: Told how many epochs are over.

    Returns:
        Top-1 on `validation`, or None without it.

    Raises:
        DataError: A folder cannot be used or has no classes, or the output cannot be written.
        AccuracyError: Training diverged.
        RequestError: The model does not exist, or `output` is not a .safetensors file.
    """
    output = Path(output)
    if output.suffix != ".safetensors":
        raise RequestError(f"output '{output}' is not a .safetensors file", "Name it NAME.safetensors.")
    if epochs < 1 or batch < 2 or not 0 < learning_rate < math.inf or not 0 <= seed < _MAX_SEED:  # noqa: PLR2004
        raise RequestError(
            f"cannot train with epochs {epochs}, batch {batch}, learning rate {learning_rate:g}, seed {seed}",
            "Epochs are 1 or more, a batch 2 or more (BatchNorm), the rate positive, the seed 0 or more.",
            values=("epochs", "batch", "learning_rate", "seed"),
        )
    if not output.absolute().parent.is_dir() or not os.access(output.absolute().parent, os.W_OK):
        raise DataError(f"cannot write in '{output.absolute().parent}'", "Create the folder, or give another file.")
    images, targets, classes = _read(data, specify(model, preprocess=preprocess))
    spec = specify(model, classes=len(classes), preprocess=preprocess)
    held_out = None if validation is None else _validation(validation, spec, classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ResNeXt(spec)
    steps = -(-len(images) // batch)
    optimiser = torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=epochs * steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    network.train()
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for indices in torch.split(order, batch):
            inputs = _shifted(normalise(images[indices], spec), generator)
            loss = loss_of(network(inputs), targets[indices])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        progress("train", epoch + 1, epochs)
    network.eval()
    if not all(torch.isfinite(parameter).all() for parameter in network.parameters()):
        raise AccuracyError(
            "training diverged: weights are NaN or infinite; nothing was written",
            f"Train with a learning rate below {learning_rate:g}.",
            values=("learning_rate",),
        )
    try:
        save_state(network, output)
        files.write(output.with_suffix(".labels.txt"), "".join(f"{name}\n" for name in classes).encode())
    except OSError as error:
        raise DataError(
            f"cannot write '{output}': {error.strerror}", "Free some space, or give another file."
        ) from None
    return None if held_out is None else _top1(network, spec, *held_out)


def _read(root: str | Path, spec: ModelSpec) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return all images of a labelled folder, their class indices, and the class names."""
    found = folder.scan(root)
    if not found.classes:
        raise DataError(f"'{root}' has no class folders", "Training needs one folder of images a class.")
    arrays = [images for images, _ in batches(found.images, spec.preprocess, _DECODE_BATCH)]
    return torch.from_numpy(np.concatenate(arrays)), torch.tensor(found.targets), found.classes


def _shifted(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to a sixteenth of its size, repeating its edge."""
    reach = inputs.shape[-1] // 16
    padded = nn.functional.pad(inputs, (reach,) * 4, mode="replicate")
    edge = inputs.shape[-1]
    offsets = torch.randint(0, 2 * reach + 1, (len(inputs), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + edge, x : x + edge] for image, (y, x) in zip(padded, offsets, strict=True)])


def _validation(root: str | Path, spec: ModelSpec, classes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return all images of a labelled folder, and their classes as the training numbers them."""
    images, targets, names = _read(root, spec)
    return images, torch.tensor(folder.match_classes(names, classes, Path(root)))[targets]


def _top1(network: ResNeXt, spec: ModelSpec, images: Tensor, targets: Tensor) -> float:
    """Return the share of images that are classified right."""
    with torch.inference_mode():
        parts = [network(normalise(part, spec)).argmax(1) for part in torch.split(images, _DECODE_BATCH)]
    return float((torch.cat(parts) == targets).float().mean())
