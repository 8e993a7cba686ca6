"""What each layer of the network takes: a pass of its own, because measuring single operations slows a run down.

Runtimes name operations after the nodes of our files, which are named after the modules of the network, with endings
of their own (`layer1.0.conv2/WithoutBiases`, `layer1.0.conv2_token_18`); an engine's layers stand in the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends import registry
from edgeresnext.backends.base import Operation
from edgeresnext.bundle import Bundle
from edgeresnext.errors import BackendError
from edgeresnext.measure.latency import warm_up
from edgeresnext.measure.results import LayerTime
from edgeresnext.runtime.classifier import open_artifact
from edgeresnext.spec import Artifact

OUTPUT = "logits"
_RUNS = 15


def profile(
    bundle: Bundle, artifact: Artifact, images: NDArray[np.uint8], threads: int | None
) -> tuple[LayerTime, ...]:
    """Return what each convolution and Gemm took, in execution order, then what belongs to none of them, by kind.

    Args:
        bundle: The bundle.
        artifact: What to profile, in a session of its own.
        images: One batch, uint8 `(N, H, W, 3)`.
        threads: CPU threads; None is the runtime's choice.

    Raises:
        BackendError: The runtime measures no operations, or failed.
    """
    if not registry.get(artifact.backend).profiles:
        raise BackendError(f"single operations of {artifact.backend} are not measured")
    session = open_artifact(bundle, artifact, threads, profiled=True)
    try:
        # Threads of the runtime before still spin for a moment: OpenVINO's INT8 took 11 ms instead of 6 meanwhile.
        warm_up(session, images)
        operations = session.profile(images, _RUNS)
    finally:
        session.close()
    return by_module(operations, bundle.manifest.layer_macs, _engine_modules(artifact, bundle.manifest.layer_macs))


def _engine_modules(artifact: Artifact, macs: Mapping[str, int]) -> dict[str, str]:
    """Return the module that each layer of an engine computes, the largest where several are fused."""
    if artifact.engine is None:
        return {}
    return {
        layer.name: max(own, key=lambda module: macs[module])
        for layer in artifact.engine.layers
        if layer.macs and (own := [module for module in layer.modules if module in macs])
    }


def by_module(
    operations: tuple[Operation, ...], macs: Mapping[str, int], known: Mapping[str, str]
) -> tuple[LayerTime, ...]:
    """Return the time of operations by the network's layers.

    Args:
        operations: As the runtime names them.
        macs: Multiply-accumulates of each convolution and Gemm, by module, in execution order.
        known: The module of an operation, where it cannot be told from its name.
    """
    seconds: dict[tuple[str, str], float] = {}
    for operation in operations:
        module = known.get(operation.name) or _module(operation, macs)
        kind = "" if module else operation.kind or operation.name
        seconds[module, kind] = seconds.get((module, kind), 0.0) + operation.seconds
    order = {module: index for index, module in enumerate(macs)}
    ranked = sorted(seconds.items(), key=lambda item: (order.get(item[0][0], len(order)), -item[1]))
    return tuple(LayerTime(module=module, kind=kind, seconds=value) for (module, kind), value in ranked)


def _module(operation: Operation, macs: Mapping[str, int]) -> str:
    """Return the convolution or Gemm that an operation computes; empty for one that only prepares or converts."""
    if not any(word in operation.kind.lower() for word in ("conv", "gemm", "matmul", "fullyconnected")):
        return ""
    if "convert" in operation.kind.lower():
        return ""
    computed = {module: module for module in macs} | {_last_of(module): module for module in macs}
    fitting = [name for name in computed if _named_after(operation.name, name)]
    return computed[max(fitting, key=len)] if fitting else ""


def _last_of(module: str) -> str:
    """Return the name of what follows a convolution or Gemm, and may be fused with it: then both have that name.

    By the names of `model.resnext`: `layer1.0.relu2` follows `layer1.0.conv2`, and `relu` the stem.
    """
    if module == "conv1":
        return "relu"
    return OUTPUT if module == "fc" else module.replace(".conv", ".relu")


def _named_after(name: str, module: str) -> bool:
    """Whether an operation's name is a module's, with nothing or an ending of the runtime's behind it."""
    return name.startswith(module) and not name[len(module) : len(module) + 1].isalnum()
