"""Ask an engine of TensorRT for its layers, on the GPU that it was built for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeresnext.backends._trt.anatomy import from_inspector
from edgeresnext.backends._trt.module import allow
from edgeresnext.backends.request import EngineRequest
from edgeresnext.errors import BackendError
from edgeresnext.spec import EngineLayer


def inspected_layers(
    trt: Any, logger: Any, request: EngineRequest, last_words: Callable[[], str]
) -> tuple[EngineLayer, ...]:
    """Return the layers of the engine that a request has built, for its smallest batch.

    Args:
        trt: The module.
        logger: What its runtime says goes there.
        request: What was built, and where it lies.
        last_words: What the logger heard of errors.

    Raises:
        BackendError: The module refuses the engine that it has just built.
    """
    runtime = trt.Runtime(logger)
    allow(runtime, request.options)
    loaded = runtime.deserialize_cuda_engine(request.file.read_bytes())
    if loaded is None:
        raise BackendError(f"{request.backend} cannot load the engine it has just built: {last_words()}")
    inspector = loaded.create_engine_inspector()
    context = loaded.create_execution_context()
    if context is not None:  # without shapes the inspector says "N/A due to dynamic shapes"
        name = loaded.get_tensor_name(0)
        shapes = loaded.get_tensor_profile_shape(name, 0)
        if not context.set_input_shape(name, tuple(shapes[0])):
            raise BackendError(f"{request.backend} refuses its own smallest batch: {last_words()}")
        inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return from_inspector(text, request.layer_macs, request.options.batch[0])
