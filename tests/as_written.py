"""ONNX files computed by somebody else: operator by operator, without optimisations."""

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeresnext.compiler.emit import OPSET_FLOAT16_SCALES

FIRST_RIGHT = (1, 24)
"""Of 1.23, the last for Python 3.10, files with float16 scales come out at 8 to 13 dB; of 1.32 at 34 and more."""


def computed_wrongly(model):
    """Whether this ONNX Runtime computes a model wrongly: it has float16 scales, and the release is an old one."""
    release = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    return model.opset_import[0].version >= OPSET_FLOAT16_SCALES and release < FIRST_RIGHT


def as_written(path, images):
    """Return the logits that ONNX Runtime computes from a file as it is written."""
    if computed_wrongly(onnx.load(path)):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} itself computes files with float16 scales wrongly")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    pieces = [images[start : start + 4] for start in range(0, len(images), 4)]
    return np.concatenate([session.run(None, {"images": piece})[0] for piece in pieces])
