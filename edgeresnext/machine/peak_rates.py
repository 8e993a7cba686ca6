"""What known GPUs can move and compute at best, and the latency that follows for an engine's layers.

Rates are dense, at the boost clock, FP16 with FP16 accumulation: peaks that no kernel quite reaches. Sources: NVIDIA's
architecture whitepapers (Turing TU102; Ampere GA102; Ada v2.1, appendix A; RTX Blackwell, table 3), the T4 data sheet,
the Jetson AGX Orin technical brief (GPU alone, 1.3 GHz) and the Jetson Orin data sheets; rates that these do not print
are multiprocessors x operations a clock x boost clock, which agrees with the printed ones to 1 %.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeresnext.spec import EngineLayer

_OPERATIONS_A_MAC = 2


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU's peak rates.

    Args:
        name: Marketing name.
        compute_capability: Such as "8.9".
        bytes_per_s: Memory bandwidth.
        fp32_per_s: FP32 operations, two a multiply-accumulate.
        fp16_per_s: The same in FP16, on tensor cores.
        int8_per_s: The same in INT8, on tensor cores.
    """

    name: str
    compute_capability: str
    bytes_per_s: float
    fp32_per_s: float
    fp16_per_s: float
    int8_per_s: float


def _device(name: str, capability: str, gb: float, rates: tuple[float, float, float]) -> Device:
    """Return a device from GB/s and the tera-operations a second in FP32, FP16 and INT8."""
    fp32, fp16, int8 = rates
    return Device(
        name=name,
        compute_capability=capability,
        bytes_per_s=gb * 1e9,
        fp32_per_s=fp32 * 1e12,
        fp16_per_s=fp16 * 1e12,
        int8_per_s=int8 * 1e12,
    )


DEVICES = (
    _device("GeForce RTX 2080 Ti", "7.5", 616, (13.4, 107.6, 215.2)),
    _device("T4", "7.5", 320, (8.1, 65.1, 130)),
    _device("GeForce RTX 3090", "8.6", 936, (35.6, 142, 284)),
    _device("GeForce RTX 4060", "8.9", 272, (15.1, 60.5, 120.9)),
    _device("GeForce RTX 4090", "8.9", 1008, (82.6, 330.3, 660.6)),
    _device("GeForce RTX 5090", "12.0", 1792, (104.8, 419, 838)),
    _device("Jetson AGX Orin 64GB", "8.7", 204.8, (5.3, 42.6, 85)),
    _device("Jetson Orin Nano 8GB Super", "8.7", 102, (2.09, 16.7, 33.4)),
)


def estimate_s(layers: Iterable[EngineLayer], device: Device) -> float:
    """Return the seconds that one image takes at least if every layer runs at the device's peak, one after the other.

    A layer takes the longer of moving its tensors and constants through memory and of its multiply-accumulates (the
    roofline model; Williams, Waterman and Patterson, CACM 52, 2009). It is an estimate, not a bound: a cache that keeps
    tensors between layers beats it, and launches and imperfect kernels miss it.
    """
    total = 0.0
    for layer in layers:
        read = layer.types.partition(" -> ")[0].split(", ")
        rate = device.int8_per_s if "int8" in read else device.fp16_per_s if "fp16" in read else device.fp32_per_s
        moved = layer.read_bytes + layer.written_bytes + layer.constant_bytes
        total += max(moved / device.bytes_per_s, _OPERATIONS_A_MAC * layer.macs / rate)
    return total
