"""Where a bundle can run: names of targets, and what each is given.

`cpu` runs the ONNX files as they are. `rtx*`, `sm80` and `gb10` get engines built ahead of time, on any machine;
several may share one engine (`rtx30+rtx40`). `jetson-*` get the ONNX files, from which `--target here` builds the
engine on the device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeresnext.errors import RequestError, unknown_name
from edgeresnext.spec import CPU, Precision

HERE = "here"
"""Whatever GPU this machine has."""

CPU_ARTIFACTS: dict[str, dict[Precision, str]] = {
    "openvino": {"int8": "int8-cpu", "bf16": "fp32", "fp32": "fp32"},
    "onnxruntime": {"int8": "int8-cpu", "fp32": "fp32"},
}
"""The backends that serve `cpu`, and the ONNX file that each of their precisions runs."""

RTX = {"rtx20": "7.5", "sm80": "8.0", "rtx30": "8.6", "rtx40": "8.9", "rtx50": "12.0", "gb10": "12.1"}
"""What TensorRT-RTX builds for ahead of time: GeForce generations, A100 and A30 (`sm80`), the GB10 of DGX Spark; and
their compute capability (NVIDIA, "CUDA GPU Compute Capability")."""

JETSON = {"jetson-orin": "8.7", "jetson-thor": "11.0"}
"""Jetson generations, and their compute capability."""

KNOWN = (CPU, *RTX, *JETSON, HERE)

_TURING = "7.5"
_SEPARATOR = "+"


@dataclass(frozen=True, kw_only=True)
class Target:
    """One place where a bundle will run.

    Args:
        name: As it is typed, its parts in order.
        compute_capabilities: Of the GPUs that one engine built ahead of time has to serve; empty for all others.
    """

    name: str
    compute_capabilities: tuple[str, ...] = ()

    def refuses(self, precision: Precision) -> str:
        """Return why engines of `precision` cannot be built for this target, or nothing.

        Both limits of Turing are TensorRT-RTX 1.7's: its compiler refuses FP32 matrix products there, and runs INT8
        convolutions in FP16 after dequantising, which only costs time.
        """
        if _TURING in self.compute_capabilities:
            if precision == "fp32":
                return "TensorRT-RTX has no FP32 matrix product for Turing (compute capability 7.5)"
            if precision == "int8":
                return "TensorRT-RTX computes INT8 convolutions in FP16 on Turing (compute capability 7.5)"
        return ""


def parse(names: Iterable[str]) -> tuple[Target, ...]:
    """Return the targets, each once.

    Raises:
        RequestError: One is unknown, or joins what cannot share an engine.
    """
    found = [_parse(name) for name in dict.fromkeys(names)]
    if not found:
        raise RequestError("no target given", f"Known: {', '.join(KNOWN)}.", values=("targets",))
    return tuple({target.name: target for target in found}.values())


def _parse(name: str) -> Target:
    parts = list(dict.fromkeys(name.split(_SEPARATOR)))
    for part in parts:
        if part not in KNOWN:
            raise unknown_name("target", part, KNOWN, values=("targets",))
    if all(part in RTX for part in parts):
        ordered = [part for part in RTX if part in parts]
        return Target(name=_SEPARATOR.join(ordered), compute_capabilities=tuple(RTX[part] for part in ordered))
    if len(parts) > 1:
        raise RequestError(
            f"target '{name}' joins what cannot share an engine",
            f"Only {', '.join(RTX)} can; give the others as targets of their own.",
            values=("targets",),
        )
    return Target(name=parts[0])
