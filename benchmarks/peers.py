"""Other ways to run the same network on a CPU, each as a session: what ours are compared with.

Every quantiser sees the same images, one at a time, and is left at the defaults that its documentation gives for x86
CPUs with VNNI; every runtime chooses its threads. All take uint8 `(N, H, W, 3)` and return float32 logits, as ours do.
"""

from __future__ import annotations

import importlib.metadata
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from peer_files import open_model, open_with_onnxruntime, with_nncf, with_onnxruntime, write_fp32
from peer_networks import FX_MAPPINGS, compiled, quiet, reason, scripted, with_fx, with_torchao

from edgeresnext.bundle import WEIGHTS
from edgeresnext.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edgeresnext.backends.base import Session
    from edgeresnext.bundle import Bundle
    from edgeresnext.model.resnext import ResNeXt

METHODS = ("MinMax", "Entropy", "Percentile")
"""Of onnxruntime. Its "Entropy" gives what "MinMax" gives: `quantize_static` of 1.32.0 leaves 128 bins for 128 levels,
among which there is one threshold to choose from, the maximum; all numbers of the two files were equal."""
TORCHAO = "torchao PT2E, torch.compile"
"""The peer that a C++ compiler makes, in 20 s."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A way to run the network.

    Args:
        name: For tables.
        detail: The packages that quantise it, with their releases.
        seconds: What quantising took, imports included; None where that failed.
        build: Opens it. Raises BackendError with the reason where quantising or opening fails.
    """

    name: str
    detail: str
    seconds: float | None
    build: Callable[[], Session]


def peers(bundle: Bundle, images: NDArray[np.uint8], folder: Path) -> Iterator[Peer]:
    """Yield every peer of a bundle's network; it is quantised as it is asked for.

    Args:
        bundle: Whose weights are taken.
        images: To calibrate on, uint8 `(N, H, W, 3)`.
        folder: For the quantised files, which must stay as long as the sessions.
    """
    model = bundle.manifest.model
    fp32 = folder / "fp32.onnx"

    def network() -> ResNeXt:
        from edgeresnext.model.checkpoints import load_saved

        return load_saved(model, bundle.file(WEIGHTS))

    write_fp32(network(), model, fp32)
    yield from _way(
        lambda: with_nncf(images, fp32, folder / "nncf"),
        {
            "NNCF, OpenVINO": lambda file: open_model(file, model),
            "NNCF, OpenVINO, rest as it chooses": lambda file: open_model(file, model, ""),
        },
        _releases("nncf"),
    )
    for method in METHODS:
        yield from _way(
            partial(with_onnxruntime, images, fp32, folder / f"onnxruntime-{method}", method),
            {
                f"onnxruntime {method}": lambda file: open_with_onnxruntime(file, model),
                f"onnxruntime {method}, OpenVINO": lambda file: open_model(file, model),
            },
            _releases("onnxruntime"),
        )
    yield from _way(
        lambda: with_torchao(network(), model, images),
        {TORCHAO: lambda quantised: compiled(quantised, model, images[:1])},
        _releases("torchao", "torch"),
    )
    for mapping in FX_MAPPINGS:
        yield from _way(
            partial(lambda name: with_fx(network(), model, images, name), mapping),
            {f"PyTorch FX {mapping}, TorchScript": lambda quantised: scripted(quantised, model, images[:1])},
            _releases("torch"),
        )


def open_all(found: Iterable[Peer]) -> tuple[dict[str, Session], dict[str, str]]:
    """Return the session of each peer by name, and the reason of each that failed."""
    sessions: dict[str, Session] = {}
    failures: dict[str, str] = {}
    for peer in found:
        try:
            sessions[peer.name] = peer.build()
        except BackendError as error:
            failures[peer.name] = error.what
    return sessions, failures


def _way(quantise: Callable[[], Any], runs: Mapping[str, Callable[[Any], Session]], detail: str) -> Iterator[Peer]:
    """Yield a peer for each way to run what one quantiser makes; a failure is what `build` raises."""
    made, seconds, failure = None, None, ""
    started = time.perf_counter()
    try:
        with quiet():
            made = quantise()
        seconds = time.perf_counter() - started
    except Exception as error:  # noqa: BLE001 - whatever a peer raises, the others go on
        failure = f"quantising failed: {reason(error)}"
    for name, run in runs.items():
        yield Peer(name=name, detail=detail, seconds=seconds, build=partial(_build, run, made, failure))


def _build(run: Callable[[Any], Session], made: Any, failure: str) -> Session:
    """Open a peer, or raise the one error that callers handle."""
    if failure:
        raise BackendError(failure)
    try:
        with quiet():
            return run(made)
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(f"building failed: {reason(error)}") from error


def _releases(*packages: str) -> str:
    """Return packages with their releases."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} (not installed)")
    return ", ".join(found)
