"""Whether the parts of a bundle belong together: what agrees with every digest, and yet is not of these weights.

Nothing here runs a runtime: files are read by our own reader, and computed operator by operator (`compiler.evaluate`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeresnext import bundle as bundles
from edgeresnext import extras
from edgeresnext.backends import registry
from edgeresnext.backends.engine_header import read_header, same_release
from edgeresnext.bundle import Bundle
from edgeresnext.bundle.onnx_file import check_onnx
from edgeresnext.errors import EdgeResNeXtError, NotInstalledError, shortened
from edgeresnext.spec import Artifact, Check, Fidelity, OnnxFile

if TYPE_CHECKING:
    from torch import nn

    from edgeresnext.compiler.graph import Graph

_SAME_DB = 0.1
"""What a file's signal-to-noise ratio may differ by from the manifest's, which the same integers gave elsewhere."""
_SAME = 1e-5
"""What a weight may differ by, over the largest of its tensor: BatchNorm is folded by another release of NumPy."""


def checks(bundle: Bundle) -> Iterator[Check]:
    """Yield whether each part of a bundle, whose files have the manifest's digests, belongs to the others.

    Args:
        bundle: The bundle.

    Raises:
        BundleError: The golden images or ranges are damaged.
    """
    yield _checked("files", partial(_files, bundle))
    yield _checked(bundles.WEIGHTS, partial(_weights, bundle))
    if bundle.ranges() is not None:
        yield _checked(bundles.RANGES, partial(_ranges, bundle))
    for artifact in bundle.manifest.artifacts:
        if artifact.engine is not None:
            yield _checked(artifact.file, partial(_engine, bundle, artifact))
    for file in bundle.manifest.onnx:
        yield _checked(file.file, partial(_onnx, bundle, file))


def graph_of(bundle: Bundle) -> Graph:
    """Return the graph that a bundle's files were emitted from.

    Raises:
        BundleError: The weights or ranges are missing, altered or damaged.
        CheckpointError: The weights belong to another network.
    """
    from edgeresnext.compiler.equalise import rescaled
    from edgeresnext.compiler.graph import trace

    graph = trace(_network(bundle), bundle.manifest.model.preprocess.size)
    ranges = bundle.ranges()
    return graph if ranges is None else rescaled(graph, ranges.exponents)


def _network(bundle: Bundle) -> nn.Module:
    from edgeresnext.model import checkpoints

    path, content = bundle.path / bundles.WEIGHTS, bundle.content(bundles.WEIGHTS)
    return checkpoints.load_saved(bundle.manifest.model, path, content)


def _checked(name: str, find: Callable[[], Fidelity | str | None]) -> Check:
    """Return what came of a check: it finds nothing, how near something is to PyTorch, or in words what is wrong."""
    try:
        found = find()
    except NotInstalledError as error:
        return Check(artifact=name, status="skipped", reason=f"{error.what}: {error.hint}")
    except EdgeResNeXtError as error:
        found = error.what
    if isinstance(found, str):
        return Check(artifact=name, status="failed", reason=found)
    return Check(artifact=name, status="ok", fidelity=found)


def _files(bundle: Bundle) -> str | None:
    """Return which files nobody vouches for."""
    others = bundle.unlisted()
    return f"the manifest does not list {shortened(others)}" if others else None


def _weights(bundle: Bundle) -> Fidelity | str:
    """Return how far PyTorch, with these weights, is from the golden logits."""
    extras.require("build", "torch", "safetensors", needed_by="comparing the weights")
    from edgeresnext.compiler.graph import trace

    model, golden, network = bundle.manifest.model, bundle.golden(), _network(bundle)
    counted = sum(one.numel() for one in network.parameters()), trace(network, model.preprocess.size).macs
    if counted != (bundle.manifest.parameters, bundle.manifest.macs):
        return "the manifest's parameters and MACs are not those of its network"
    pytorch = registry.get(registry.BASELINE)
    content = bundle.content(bundles.WEIGHTS)
    session = pytorch.open(bundle.path / bundles.WEIGHTS, model, registry.BASELINE_ARTIFACT, content=content)
    try:
        found = golden.compare(np.concatenate([session.run(image[None]) for image in golden.images]))
    finally:
        session.close()
    return found.shortfall("fp32") or found


def _ranges(bundle: Bundle) -> str | None:
    """Return why the ranges are not those of these weights."""
    ranges = bundle.ranges()
    assert ranges is not None
    if ranges.digests.get("weights") != bundle.manifest.files[bundles.WEIGHTS].sha256:
        return "they were taken with other weights"
    limits = [limit for method in ranges.thresholds.values() for limit in method.values()]
    return None if all(np.isfinite(limit) and limit >= 0 for limit in limits) else "a threshold is no positive number"


def _engine(bundle: Bundle, artifact: Artifact) -> str | None:
    """Return why an engine is not what the manifest says that it is, or was not built from the file beside it."""
    engine = artifact.engine
    assert engine is not None
    digests = {name: entry.sha256 for name, entry in bundle.manifest.files.items()}
    header = read_header(bundle.path / artifact.file, bundle.content(artifact.file))
    if header.backend != artifact.backend or not same_release(header.release, engine.release):
        return f"its header says {header.backend} {header.release}, the manifest {artifact.backend} {engine.release}"
    built_from = {engine.onnx: engine.onnx_sha256, bundles.CALIBRATION_CACHE: engine.calibration_sha256}
    others = [name for name, digest in built_from.items() if digest and digests.get(name) != digest]
    return f"it was built from another {', '.join(others)}" if others else None


def _onnx(bundle: Bundle, file: OnnxFile) -> Fidelity | str:
    """Return how far what a file says is from PyTorch, or why it is not the file that the manifest describes."""
    content, golden = bundle.content(file.file), bundle.golden()
    check_onnx(content, bundle.manifest.model, bundle.path / file.file)
    extras.require("build", "torch", "onnx", "safetensors", needed_by="computing ONNX files")
    from edgeresnext.compiler.emit import emit
    from edgeresnext.compiler.evaluate import Evaluator
    from edgeresnext.compiler.quantise import quantise

    written = Evaluator.parse(content)
    found = golden.compare(written.logits(golden.images))
    method = bundle.manifest.recipe.method
    if missed := found.shortfall("int8" if file.plan.inputs else file.plan.floating, method):
        return missed
    said = file.fidelity.snr_db
    if file.plan.inputs:
        same = said is not None and found.snr_db is not None and abs(found.snr_db - said) <= _SAME_DB
        return found if same else f"the manifest says {said} dB of it, and it has {found.snr_db}"
    graph = graph_of(bundle)
    wanted = Evaluator(emit(graph, quantise(graph, file.plan, {}), bundle.manifest.model)).constants
    names = sorted({*wanted, *written.constants})
    others = [name for name in names if not _near(wanted.get(name), written.constants.get(name))]
    return f"its weights are not those of {bundles.WEIGHTS}: {shortened(others)}" if others else found


def _near(one: NDArray[Any] | None, other: NDArray[Any] | None) -> bool:
    """Whether two constants are the same but for rounding."""
    if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    step = max(_SAME, float(np.finfo(one.dtype).eps)) if one.dtype.kind == "f" else 0.0
    difference = np.abs(one.astype(np.float64) - other)
    return bool((difference <= step * np.abs(one.astype(np.float64)).max(initial=0)).all())
