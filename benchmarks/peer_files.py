"""INT8 files by other quantisers, NNCF and onnxruntime, and how they are run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeresnext.backends import registry
from edgeresnext.machine import cpu
from edgeresnext.spec import CPU, Artifact

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from edgeresnext.backends.base import Session
    from edgeresnext.model.resnext import ResNeXt
    from edgeresnext.spec import ModelSpec


def write_fp32(network: ResNeXt, model: ModelSpec, path: Path) -> None:
    """Write a network in FP32, the input of other quantisers: as it is, where a bundle's may be rescaled."""
    import onnx

    from edgeresnext.compiler.emit import emit
    from edgeresnext.compiler.graph import trace
    from edgeresnext.compiler.plan import plan_for
    from edgeresnext.compiler.quantise import quantise

    graph = trace(network, model.preprocess.size)
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

        def get_next(self) -> Any:
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
    artifact = Artifact(backend="onnxruntime", precision="int8", target=CPU, file=file.name)
    return registry.get("onnxruntime").open(file, model, artifact, None)
