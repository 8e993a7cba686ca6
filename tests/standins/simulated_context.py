"""What simulated execution contexts do; ONNX Runtime computes, and the exact evaluator where it would be wrong."""

import hashlib
import weakref
from math import prod

import numpy as np
import onnx
from as_written import computed_wrongly

from edgeresnext.compiler.evaluate import Evaluator

from .simulated_config import is_rtx
from .simulated_gpu import NOT_YET_COPIED, Operation, gpu
from .simulated_runtime import free_sizes, tensor
from .simulated_runtime_config import check_config, compile_kernels, specialise, strategy
from .surface import create, log, simulated

NUMPY = {"FLOAT": "f4", "HALF": "f2", "INT8": "i1", "UINT8": "u1", "INT32": "i4", "INT64": "i8", "BOOL": "?"}
LAYER_MS = 0.1
SESSIONS_KEPT = 4
sessions = {}


class Evaluated:
    """An ONNX file of ours by our own evaluator, behind the face of an ONNX Runtime session."""

    def __init__(self, model):
        self.evaluator = Evaluator(model)

    def run(self, _names, feeds):
        return [self.evaluator.logits(*map(np.array, feeds.values()))]


def session(onnx_bytes):
    """A session without optimisations, kept for the next engine with the same network."""
    import onnxruntime

    key = hashlib.sha256(onnx_bytes).digest()
    if key not in sessions:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        while len(sessions) >= SESSIONS_KEPT:
            del sessions[next(iter(sessions))]
        model = onnx.load_from_string(onnx_bytes)
        sessions[key] = (
            Evaluated(model)
            if computed_wrongly(model)
            else onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
        )
    return sessions[key]


@simulated("ICudaEngine", "create_execution_context")
def create_execution_context(self, choice=None):
    module = self._sim.module
    config = choice if hasattr(module, "IRuntimeConfig") and isinstance(choice, module.IRuntimeConfig) else None
    strategy = config._sim.strategy if config else choice
    return new_context(self, config, own_memory=strategy is None or strategy.name != "USER_MANAGED")


@simulated("ICudaEngine", "create_execution_context_without_device_memory")
def create_execution_context_without_device_memory(self):
    return new_context(self, None, own_memory=False)


def new_context(self, config, *, own_memory):
    """A context, or None where its memory cannot be had. Without memory of its own it waits for `set_device_memory`.

    The context points to its runtime configuration and that to its cache, and keeps neither alive, as in C++.
    """
    module = self._sim.module
    scratch = self._sim.plan["scratch_bytes"] if own_memory else 0
    reserved = gpu.reserve(scratch)
    if reserved is None:
        log(
            module,
            self._sim.logger,
            "ERROR",
            f"Requested amount of GPU memory ({scratch} bytes) could not be allocated. (OutOfMemory)",
        )
        return None
    context = create(
        module,
        "IExecutionContext",
        logger=self._sim.logger,
        engine=self,
        config=config and weakref.ref(config),
        memory=None if own_memory else 0,
        addresses={},
        warm=set(),
        times=[],
    )
    plain = {name: one["dims"] for name, one in self._sim.tensors.items() if name in self._sim.inputs}
    context._sim.shapes = {
        name: tuple(dims) for name, dims in plain.items() if all(isinstance(size, int) for size in dims)
    }
    context._sim.values.update(enqueue_emits_profile=True, debug_sync=False, name="")
    # Up to TensorRT 8 only the first context has the profile chosen for it.
    first = not module.__version__.startswith("8.") or not getattr(self._sim, "contexts", 0)
    self._sim.contexts = getattr(self._sim, "contexts", 0) + 1
    context._sim.values["active_optimization_profile"] = 0 if first else -1
    weakref.finalize(context, gpu.release, reserved)
    if config is not None:
        alive = weakref.ref(context)
        weakref.finalize(
            config, lambda: alive() is not None and gpu.faults.append("a context outlives its IRuntimeConfig")
        )
    if is_rtx(module):
        if type(self._sim.logger) is not module.Logger:
            gpu.faults.append("a thread that compiles calls a logger of Python, whose lock a destructor may hold")
        compile_kernels(context, "any shape")
    return context


@simulated("IExecutionContext", "set_device_memory")
def set_device_memory(self, memory, size):
    if size < self._sim.engine._sim.plan["scratch_bytes"]:
        gpu.fault(f"{size} bytes of memory for a context that needs {self._sim.engine._sim.plan['scratch_bytes']}")
    self._sim.memory = memory


def scratch_of(context):
    """(address, bytes) of the memory that was given to a context; none where it has its own."""
    size = context._sim.engine._sim.plan["scratch_bytes"]
    memory = context._sim.values.get("device_memory") or context._sim.memory
    return ((memory, size),) if memory is not None and size else ()


# Context


@simulated("IExecutionContext", "set_input_shape")
def set_input_shape(self, name, shape):
    shape = tuple(int(size) for size in shape)
    module, logger, engine = self._sim.module, self._sim.logger, self._sim.engine
    if name not in engine._sim.inputs:
        log(module, logger, "ERROR", f"{name} is no input of the engine")
        return False
    if self._sim.values["active_optimization_profile"] < 0:
        log(module, logger, "ERROR", "No optimization profile has been chosen for this context")
        return False
    smallest, _, largest = engine._sim.plan["profile"][name]
    ranked = len(shape) == len(smallest)
    if not ranked or any(not low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)):
        message = (
            f"IExecutionContext::setInputShape: {name} {shape} does not satisfy the profile, {smallest} to {largest}"
        )
        log(module, logger, "ERROR", message)
        return False
    # Up to TensorRT 8 a profile belongs to one context of a dynamic engine, unless PROFILE_SHARING_0806 is on.
    holder = engine._sim.profile_holder() if hasattr(engine._sim, "profile_holder") else None
    if not engine._sim.plan["shared_profile"] and smallest != largest and holder not in (None, self):
        log(module, logger, "ERROR", "Profile 0 has been chosen by another IExecutionContext")
        return False
    engine._sim.profile_holder = weakref.ref(self)
    self._sim.shapes[name] = shape
    return True


def actual_shape(context, name):
    """A tensor's shape with the sizes that the inputs have now; -1 where one is not known yet."""
    if name in context._sim.shapes:
        return context._sim.shapes[name]
    sizes = free_sizes(context)
    declared = context._sim.engine._sim.tensors[name]["dims"]
    return tuple(size if isinstance(size, int) else sizes.get(size, -1) for size in declared)


@simulated("IExecutionContext", "get_tensor_shape")
def context_tensor_shape(self, name):
    return self._sim.module.Dims(actual_shape(self, name) if tensor(self._sim.engine, name) else ())


@simulated("IExecutionContext", "infer_shapes")
def infer_shapes(self):
    return [name for name in self._sim.engine._sim.inputs if name not in self._sim.shapes]


@simulated("IExecutionContext", "set_tensor_address")
def set_tensor_address(self, name, memory):
    if tensor(self._sim.engine, name) is None:
        return False
    self._sim.addresses[name] = memory
    return True


@simulated("IExecutionContext", "set_optimization_profile_async")
def set_optimization_profile_async(self, profile_index, _stream):
    if profile_index == 0:
        self._sim.values["active_optimization_profile"] = 0
    return profile_index == 0


@simulated("IExecutionContext", "execute_async_v3")
def execute_async_v3(self, stream_handle):
    module, logger, engine = self._sim.module, self._sim.logger, self._sim.engine
    for name in engine._sim.tensors:
        if -1 in actual_shape(self, name):
            log(
                module,
                logger,
                "ERROR",
                f"IExecutionContext::enqueueV3: the shape of {name} is not known: set the input shapes",
            )
            return False
        if not self._sim.addresses.get(name):
            log(module, logger, "ERROR", f"IExecutionContext::enqueueV3: Address is not set for tensor {name}")
            return False
    check_config(self)
    if (gpu.current or 0) != engine._sim.device:
        gpu.fault(f"an engine of device {engine._sim.device} runs while device {gpu.current} is current")
    stream = gpu.stream(stream_handle)
    captured = stream.captured is not None
    if stream.broken or (gpu.left_behind and not captured):
        log(
            module,
            logger,
            "ERROR",
            "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (an earlier capture failed)",
        )
        gpu.left_behind = False
        return False
    if captured and gpu.failures.pop("capture execute_async_v3", None):
        stream.broken = True
        log(module, logger, "ERROR", "IExecutionContext::enqueueV3: operation not permitted when stream is capturing")
        return False
    shapes = {name: actual_shape(self, name) for name in engine._sim.tensors}
    key = tuple(shapes.values())
    # NVIDIA: run once after a change of shape before capturing, which updates the context's state.
    if captured and key not in self._sim.warm:
        log(
            module,
            logger,
            "ERROR",
            "IExecutionContext::enqueueV3: the stream is being captured before the first run at this shape",
        )
        return False
    if not captured:
        self._sim.warm = {key}
    specialise(self, key)
    if stream_handle == 0:
        log(module, logger, "WARNING", "Using default stream in enqueueV3() may lead to performance issues")
    addresses = dict(self._sim.addresses)
    gpu.enqueue(stream_handle, operation(self, shapes, addresses))
    return True


def operation(context, shapes, addresses):
    """One run of the engine, for a stream or a graph: what it reads and writes stays as it is now."""
    engine = context._sim.engine
    sizes = {
        name: prod(shape) * np.dtype(NUMPY[engine._sim.tensors[name]["dtype"]]).itemsize
        for name, shape in shapes.items()
    }
    ranges = {name: (addresses[name], size) for name, size in sizes.items()}
    scratch = scratch_of(context)
    outputs = tuple(one for name, one in ranges.items() if name not in engine._sim.inputs)

    def run():
        for address, size in scratch:
            gpu.locate(address, size, "engine's scratch memory")
        execute(context, shapes, addresses)

    def spoil():  # what the host sees of mapped memory before the run is not the result
        for address, size in outputs:
            if not gpu.is_device(address):
                gpu.write(address, bytes([NOT_YET_COPIED]) * size)

    return Operation(
        run,
        spoil,
        milliseconds=LAYER_MS * len(engine._sim.plan["layers"]),
        reads=tuple(one for name, one in ranges.items() if name in engine._sim.inputs),
        writes=(*outputs, *scratch),
        what="the engine",
    )


def execute(context, shapes, addresses):
    """Read the inputs from the device, run the network, and write the outputs to the device."""
    engine = context._sim.engine
    feeds = {}
    for name, shape in shapes.items():
        dtype = np.dtype(NUMPY[engine._sim.tensors[name]["dtype"]])
        if name in engine._sim.inputs:
            content = gpu.read(addresses[name], prod(shape) * dtype.itemsize, f"engine reads {name}")
            feeds[name] = np.frombuffer(content, dtype).reshape(shape)
    names = [name for name in shapes if name not in feeds]
    for name, values in zip(names, session(engine._sim.onnx).run(names, feeds), strict=True):
        dtype = np.dtype(NUMPY[engine._sim.tensors[name]["dtype"]])
        gpu.write(addresses[name], np.ascontiguousarray(values, dtype).tobytes(), f"engine writes {name}")
    context._sim.times = [(layer["name"], LAYER_MS) for layer in engine._sim.plan["layers"]]
    if context._sim.values["enqueue_emits_profile"]:
        report_times(context)


def report_times(context):
    """Give the time of each layer of the last run to the profiler."""
    # What is replayed as a graph tells no layers.
    replayed = strategy(context, "cuda_graph_strategy") == "WHOLE_GRAPH_CAPTURE"
    profiler = None if replayed else context._sim.values.get("profiler")
    for name, milliseconds in context._sim.times if profiler is not None else ():
        profiler.report_layer_time(name, milliseconds)
