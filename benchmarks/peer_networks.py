"""PyTorch's own ways to INT8, and how such networks are run.

torchao: `prepare_pt2e` and `convert_pt2e` with `X86InductorQuantizer`, then `torch.compile` with freezing (torchao
0.18.0, torch 2.13.0). PyTorch 2.11 removed its own copy (`torch.ao.quantization.quantize_pt2e`). The older FX graph mode
(`torch.ao.quantization.quantize_fx`) still runs in 2.13 and warns that it will be removed; it needs no further package.
Its mapping "x86" leaves one bit of the activations unused (`reduce_range`, for CPUs without VNNI), "onednn" uses all.
Both run fastest as frozen TorchScript, which is deprecated too.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from edgeresnext.backends.base import Session
from edgeresnext.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from edgeresnext.model.resnext import ResNeXt
    from edgeresnext.spec import ModelSpec

FX_MAPPINGS = ("x86", "onednn")


def reason(error: Exception) -> str:
    """Return an error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Drop warnings: peers warn of what is deprecated in themselves, which the top of this file tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
            raise BackendError(f"PyTorch failed on a batch of {len(images)}: {reason(error)}") from error
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
        with inductor.patch(freezing=True), quiet():
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
