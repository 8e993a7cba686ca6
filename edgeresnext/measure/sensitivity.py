"""What the quantisation of each layer of a bundle costs: `edgeresnext sensitivity`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeresnext import bundle as bundles
from edgeresnext.bundle import Bundle
from edgeresnext.data import folder
from edgeresnext.data.folder import ImageFolder
from edgeresnext.data.images import Skipped, batches
from edgeresnext.errors import DataError, RequestError, unknown_name
from edgeresnext.extras import require
from edgeresnext.measure.photos import targets_of
from edgeresnext.progress import Progress, silent
from edgeresnext.runtime.deep import graph_of
from edgeresnext.spec import LayerCost, OnnxFile, Sensitivity

if TYPE_CHECKING:
    from torch import Tensor


DEFAULT_SAMPLES = 64
_PREFERRED = "int8-cpu"
_BATCH = 8


def sensitivity(
    path: str | Path,
    *,
    file: str | None = None,
    data: str | Path | None = None,
    samples: int | None = None,
    progress: Progress = silent,
) -> Sensitivity:
    """Return what each INT8 layer of a bundle's file costs alone, with the rest in floating point.

    The arithmetic is that of the file, with its own scales, weights and biases, in PyTorch; nothing is built.

    Args:
        path: The bundle.
        file: An INT8 file of it, such as int8 or int8-cpu; None for int8-cpu, or the first that there is.
        data: Folder of images, with one folder a class for top-1; None for the bundle's golden images.
        samples: Images to draw from `data`, at most; None for 64.
        progress: Told how many layers are done.

    Raises:
        BundleError: The path is no bundle, or a file of it is missing or altered.
        RequestError: The bundle has no such INT8 file.
        DataError: The images cannot be used, or their classes are not the model's.
        NotInstalledError: A package of the `build` extra is missing.
    """
    if samples is not None and samples < 1:
        raise RequestError(f"samples is {samples}", "Give one image or more.", values=("samples",))
    if samples is not None and data is None:
        raise RequestError(
            "samples would change nothing without images to draw from",
            "Give a folder of images as data.",
            values=("samples", "data"),
        )
    bundle = bundles.read(path)
    chosen = _choose(bundle, file)
    require("build", "torch", "onnx", "safetensors", needed_by="sensitivity")
    photos, targets = _images(bundle, data, samples or DEFAULT_SAMPLES)
    import torch

    from edgeresnext.compiler.emit import read_numbers
    from edgeresnext.compiler.sensitivity import ALL, layer_costs
    from edgeresnext.model.resnext import normalise

    graph = graph_of(bundle)
    numbers = read_numbers(graph, bundle.file(chosen.file), chosen.plan)
    seen = 0

    def normalised() -> Iterator[tuple[Tensor, Tensor | None]]:
        nonlocal seen
        for images, right in _batches(bundle, photos, targets):
            seen += len(images)
            inputs = normalise(torch.from_numpy(images), bundle.manifest.model)
            yield inputs, None if right is None else torch.tensor(right)

    batches_in_all = -(-(len(photos.images) if photos else len(bundle.golden().images)) // _BATCH)

    def report(done: int, total: int) -> None:
        before = (seen - 1) // _BATCH * total
        progress("layers", before + done, batches_in_all * total)

    costs = layer_costs(graph, numbers, normalised(), report)
    together = next(cost for cost in costs if cost.layer == ALL)
    rows = [
        LayerCost(
            layer=cost.layer,
            snr_db=cost.snr_db if cost.noise else None,
            share=cost.noise / together.noise if together.noise else 0.0,
            agreement=cost.agreeing / seen,
            top1=cost.right / seen if targets is not None else None,
        )
        for cost in costs
    ]
    return Sensitivity(
        bundle=str(bundle.path),
        file=chosen.file,
        data="the bundle's golden images" if photos is None else f"'{photos.root}'",
        images=seen,
        together=rows.pop(),
        layers=tuple(rows),
        floating=tuple(name for name, kind in chosen.plan.layers.items() if kind != "int8"),
    )


def _choose(bundle: Bundle, name: str | None) -> OnnxFile:
    """Return an INT8 file of a bundle.

    Raises:
        RequestError: The bundle has no such file.
    """
    known = {
        file.file.removeprefix("onnx/").removesuffix(".onnx"): file for file in bundle.manifest.onnx if file.plan.inputs
    }
    if not known:
        raise RequestError(f"bundle '{bundle.path}' has no INT8 file", "Build it with precision int8.")
    if name is None:
        return known.get(_PREFERRED, next(iter(known.values())))
    if name not in known:
        raise unknown_name("INT8 file", name, known, values=("file",))
    return known[name]


def _images(bundle: Bundle, data: str | Path | None, samples: int) -> tuple[ImageFolder | None, list[int] | None]:
    """Return a sample of a folder, and each image's right class where it has classes and the network is trained."""
    if data is None:
        return None, None
    photos = folder.scan(data).sample(samples, seed=0)
    return photos, targets_of(bundle, photos) if bundle.manifest.trained else None


def _batches(
    bundle: Bundle, photos: ImageFolder | None, targets: list[int] | None
) -> Iterator[tuple[NDArray[np.uint8], list[int] | None]]:
    """Yield images with their right classes."""
    if photos is None:
        golden = bundle.golden().images
        for start in range(0, len(golden), _BATCH):
            yield golden[start : start + _BATCH], None
        return
    empty = True
    for images, positions in batches(photos.images, bundle.manifest.model.preprocess, _BATCH, Skipped()):
        empty = False
        yield images, None if targets is None else [targets[i] for i in positions]
    if empty:
        raise DataError(f"no image of '{photos.root}' can be read", "Replace them, or give another folder.")
