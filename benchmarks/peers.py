"""Other ways to run the same network on a CPU, each as a session: what ours are compared with.

Every quantiser sees the same images, one at a time, and is left at the defaults that its documentation gives for x86
CPUs with VNNI; every runtime chooses its threads. All take uint8 `(N, H, W, 3)` and return float32 logits, as ours do.

PyTorch's way to INT8 is `torchao`: `prepare_pt2e` and `convert_pt2e` with `X86InductorQuantizer`, then `torch.compile`
with freezing (torchao 0.18.0, torch 2.13.0). PyTorch 2.11 removed its own copy (`torch.ao.quantization.quantize_pt2e`).
The older FX graph mode (`torch.ao.quantization.quantize_fx`) still runs in 2.13 and warns that it will be removed; it
needs no further package. Its mapping "x86" leaves one bit of the activations unused (`reduce_range`, for CPUs without
VNNI), "onednn" uses all. Both run fastest as frozen TorchScript, which is deprecated too.
"""

from __future__ import annotations

import importlib.metadata
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeresnext.backends.base import Session
from edgeresnext.bundle import WEIGHTS
from edgeresnext.errors import BackendError
from edgeresnext.machine import cpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from edgeresnext.bundle import Bundle
    from edgeresnext.model.resnext import ResNeXt
    from edgeresnext.spec import ModelSpec

METHODS = ("MinMax", "Entropy", "Percentile")
"""Of onnxruntime. Its "Entropy" gives what "MinMax" gives: `quantize_static` of 1.32.0 leaves 128 bins for 128 levels,
among which there is one threshold to choose from, the maximum; all numbers of the two files were equal."""
FX_MAPPINGS = ("x86", "onednn")
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
        from edgeresnext.model.checkpoints import load_network

        return load_network(model, bundle.file(WEIGHTS))

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
            partial(_fx, network, model, images, mapping),
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
        with _quiet():
            made = quantise()
        seconds = time.perf_counter() - started
    except Exception as error:  # noqa: BLE001 - whatever a peer raises, the others go on
        failure = f"quantising failed: {_reason(error)}"
    for name, run in runs.items():
        yield Peer(name=name, detail=detail, seconds=seconds, build=partial(_build, run, made, failure))


def _build(run: Callable[[Any], Session], made: Any, failure: str) -> Session:  # noqa: ANN401 - a file or a network
    """Open a peer, or raise the one error that callers handle."""
    if failure:
        raise BackendError(failure)
    try:
        with _quiet():
            return run(made)
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(f"building failed: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return an error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop warnings: peers warn of what is deprecated in themselves, which the top of this file tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _releases(*packages: str) -> str:
    """Return packages with their releases."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} (not installed)")
    return ", ".join(found)


# Files, made by NNCF and onnxruntime


def write_fp32(network: ResNeXt, model: ModelSpec, path: Path) -> None:
    """Write a network in FP32, the input of other quantisers: as it is, where a bundle's may be rescaled."""
    import onnx

    from edgeresnext.compiler.emit import emit
    from edgeresnext.compiler.graph import trace
    from edgeresnext.compiler.plan import plan_for
    from edgeresnext.compiler.quantise import quantise

    graph = trace(network, model.preprocess.crop_px)
    onnx.save(emit(graph, quantise(graph, plan_for(graph, "fp32", {}), {}), model), path)


def with_nncf(images: Iterable[NDArray[np.uint8]], fp32: Path, output: Path, overflow_fix: str | None = None) -> Path:
    """Quantise with NNCF's defaults, or one of its settings against saturation, and return the file."""
    import nncf
    import openvino

    data = [image[None] for image in images]
    fix = {} if overflow_fix is None else {"overflow_fix": nncf.OverflowFix[overflow_fix]}
    found = nncf.quantize(
        openvino.Core().read_model(fp32), nncf.Dataset(data), subset_size=len(data),
        advanced_parameters=nncf.AdvancedQuantizationParameters(**fix),
    )  # fmt: skip
    output.mkdir(exist_ok=True)
    openvino.save_model(found, output / "model.xml", compress_to_fp16=False)
    return output / "model.xml"


def with_onnxruntime(images: Iterable[NDArray[np.uint8]], fp32: Path, output: Path, method: str) -> Path:
    """Quantise with onnxruntime and return the file: Q/DQ, weights per channel, as its documentation advises for VNNI."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.data = ({"images": image[None]} for image in images)

        def get_next(self) -> Any:  # noqa: ANN401 - the base class's signature
            return next(self.data, None)

    output.mkdir(exist_ok=True)
    quantize_static(
        fp32, output / "model.onnx", Reader(),
        quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
        op_types_to_quantize=["Conv", "Gemm", "Add", "MaxPool", "GlobalAveragePool"],
    )  # fmt: skip
    return output / "model.onnx"


def open_model(file: Path, model: ModelSpec, precision: str = "f32") -> Session:
    """Compile a file with OpenVINO, what is not INT8 in float32 or, for "", as OpenVINO chooses."""
    import openvino

    from edgeresnext.backends.openvino import OpenVINOSession

    if not precision and not cpu.bfloat16():
        precision = "f32"  # where oneDNN is told to leave bfloat16 out, OpenVINO chooses it all the same, and fails
    config = {"PERFORMANCE_HINT": "LATENCY"} | ({"INFERENCE_PRECISION_HINT": precision} if precision else {})
    compiled_model = openvino.Core().compile_model(str(file), "CPU", config)
    session = OpenVINOSession(compiled_model, model)
    session.detail = f"rest in {compiled_model.get_property('INFERENCE_PRECISION_HINT').get_type_name()}"
    return session


def open_with_onnxruntime(file: Path, model: ModelSpec) -> Session:
    """Open a file with onnxruntime, as our own are opened."""
    from edgeresnext.backends import base
    from edgeresnext.spec import CPU, Artifact

    artifact = Artifact(backend="onnxruntime", precision="int8", target=CPU, file=file.name)
    return base.get("onnxruntime").open(file, model, artifact, None)


# Networks, run by PyTorch


class NetworkSession(Session):
    """A PyTorch module that takes uint8 images."""

    def __init__(self, whole: Callable[[Tensor], Tensor], model: ModelSpec) -> None:
        super().__init__(model)
        self._whole: Callable[[Tensor], Tensor] | None = whole

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        if self._whole is None:
            raise BackendError("this session is closed", "Open it again.")
        try:
            with torch.inference_mode():
                logits: NDArray[np.float32] = self._whole(torch.from_numpy(images)).numpy()
        except RuntimeError as error:
            raise BackendError(f"PyTorch failed on a batch of {len(images)}: {_reason(error)}") from error
        return logits

    def close(self) -> None:
        """Free the network."""
        self._whole = None


class CompiledSession(NetworkSession):
    """A module that is compiled for one batch size, that of the last `prepare`; other batches are cut and filled up."""

    detail = "frozen, channels_last"
    _batch = 0

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """Compile for batches like `images`, with the weights as constants that may be laid out anew."""
        import torch._inductor.config as inductor

        self._batch = len(images)
        # As an option of torch.compile, freezing breaks INT8: 2.13.0 then meets onednn.qconv_prepack as an unknown
        # operator. Without it, ResNeXt-50 takes 34 ms in FP32 instead of 22.
        with inductor.patch(freezing=True), _quiet():
            self.run(images)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not self._batch:
            self.prepare(images)
        parts = []
        for start in range(0, len(images), self._batch):
            piece = images[start : start + self._batch]
            # A copy, for its strides: those that numpy gives an axis of length 1 vary, and others are compiled anew.
            filled = np.zeros((self._batch, *images.shape[1:]), np.uint8)
            filled[: len(piece)] = piece
            parts.append(super()._run(filled)[: len(piece)])
        return np.concatenate(parts)


def whole(network: nn.Module, model: ModelSpec) -> nn.Module:
    """Return a network with what comes before and after it: uint8 images to float32 logits."""
    from torch import nn

    from edgeresnext.model.resnext import normalise

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Tensor:
            inputs = normalise(images, model)  # channels last, as the images are
            logits: Tensor = self.network(inputs)
            return logits

    return Whole()


def compiled(network: nn.Module, model: ModelSpec, sample: NDArray[np.uint8]) -> Session:
    """Return a network that `torch.compile` has compiled for batches like the sample."""
    import torch

    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    session = CompiledSession(torch.compile(whole(network, model), fullgraph=True, dynamic=False), model)
    session.prepare(sample)
    return session


def scripted(network: nn.Module, model: ModelSpec, sample: NDArray[np.uint8]) -> Session:
    """Return a network as frozen TorchScript, warmed up."""
    import torch

    with torch.no_grad():
        frozen = torch.jit.freeze(torch.jit.trace(whole(network, model).eval(), torch.from_numpy(sample)))
    session = NetworkSession(frozen, model)
    for _ in range(3):  # it specialises itself in the first runs
        session.run(sample)
    return session


def _inputs(images: NDArray[np.uint8], model: ModelSpec) -> Iterator[Tensor]:
    """Yield normalised images, one at a time, channels last."""
    import torch

    from edgeresnext.model.resnext import normalise

    for image in images:
        yield normalise(torch.from_numpy(image[None]), model).contiguous(memory_format=torch.channels_last)


def with_torchao(network: ResNeXt, model: ModelSpec, images: NDArray[np.uint8]) -> nn.Module:
    """Quantise with torchao's defaults for x86, for any batch."""
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    two = torch.cat(list(_inputs(images[:2], model)))  # a batch of one would be exported as a constant
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        exported = torch.export.export(network, (two,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        prepared = prepare_pt2e(exported.module(), quantizer)
        for inputs in _inputs(images, model):
            prepared(inputs)
        quantised: nn.Module = convert_pt2e(prepared)
    return quantised


def with_fx(network: ResNeXt, model: ModelSpec, images: NDArray[np.uint8], mapping: str) -> nn.Module:
    """Quantise with PyTorch's FX graph mode and one of its default mappings."""
    import torch
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    engines = torch.backends.quantized
    before, engines.engine = engines.engine, mapping
    try:
        with torch.no_grad():
            example = next(_inputs(images, model))
            prepared = prepare_fx(network.eval(), get_default_qconfig_mapping(mapping), (example,))
            for inputs in _inputs(images, model):
                prepared(inputs)
            quantised: nn.Module = convert_fx(prepared)
    finally:
        engines.engine = before
    return quantised


def _fx(network: Callable[[], ResNeXt], model: ModelSpec, images: NDArray[np.uint8], mapping: str) -> nn.Module:
    """Load a network and quantise it with FX graph mode."""
    return with_fx(network(), model, images, mapping)
