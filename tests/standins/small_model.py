"""A small ONNX model, and the calls that build and run it, for the tests of the stand-ins themselves."""

import ctypes
import importlib

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

INPUT_BYTES = 2 * 3 * 8 * 8 * 4
OUTPUT_BYTES = 2 * 2 * 4


def small_model(*, quantised=False, zero_point_type=np.int8):
    """Conv, Relu, MaxPool, GlobalAveragePool, Flatten and Gemm, with a free batch."""
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(4, 3, 3, 3)), "b": random.normal(size=4), "g": random.normal(size=(2, 4))}
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    nodes = [
        helper.make_node("Conv", ["x_dq" if quantised else "x", "w", "b"], ["c"], name="conv1", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("MaxPool", ["r"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["a"], name="mean"),
        helper.make_node("Flatten", ["a"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "g"], ["y"], name="fc", transB=1),
    ]
    if quantised:
        constants.append(numpy_helper.from_array(np.array(0.05, np.float32), "s"))
        constants.append(numpy_helper.from_array(np.array(0, zero_point_type), "z"))
        nodes.insert(0, helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_q"], name="quantize"))
        nodes.insert(1, helper.make_node("DequantizeLinear", ["x_q", "s", "z"], ["x_dq"], name="dequantize"))
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["batch", 3, 8, 8]), ("y", ["batch", 2]))
    ]
    graph = helper.make_graph(nodes, "small", tensors[:1], tensors[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def make_logger(trt):
    """A logger that keeps what it hears in `heard`."""

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.heard = []

        def log(self, severity, msg):
            self.heard.append((severity.name, msg))

    return Logger()


def parsed(trt, model, *, typed=None):
    """(logger, builder, network, config) with the model parsed and a profile of 1 to 4 images."""
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    kinds = trt.NetworkDefinitionCreationFlag
    kind = getattr(kinds, "STRONGLY_TYPED", None) if typed is not False else None
    network = builder.create_network(1 << int(kind or kinds.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()), logger.heard
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 3, 8, 8), [2, 3, 8, 8], trt.Dims((4, 3, 8, 8)))
    assert config.add_optimization_profile(profile) == 0
    return logger, builder, network, config


def build(trt, model):
    """The plan of a model."""
    logger, builder, network, config = parsed(trt, model)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, logger.heard
    return plan


def context_of(trt, plan):
    """An execution context for two images."""
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan)
    assert engine is not None, trt.logs
    context = engine.create_execution_context()
    assert context.set_input_shape("x", (2, 3, 8, 8))
    return context


def images():
    return np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)


def expected(model):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": images()})[0]


class CudaPython:
    """Runs a context with `cuda.bindings.driver`."""

    def __init__(self):
        self.driver = importlib.import_module("cuda.bindings.driver")
        self.call("cuInit", 0)
        self.call("cuCtxPushCurrent", self.call("cuDevicePrimaryCtxRetain", self.call("cuDeviceGet", 0)))
        self.buffers = [self.call("cuMemAlloc", size) for size in (INPUT_BYTES, OUTPUT_BYTES)]
        self.addresses = [self.call("cuMemHostAlloc", size, 0) for size in (INPUT_BYTES, OUTPUT_BYTES)]
        self.source, self.target = (
            np.ctypeslib.as_array((ctypes.c_float * (size // 4)).from_address(address))
            for size, address in zip((INPUT_BYTES, OUTPUT_BYTES), self.addresses, strict=True)
        )
        self.stream = self.call("cuStreamCreate", 1)

    def call(self, name, *arguments):
        error, *values = getattr(self.driver, name)(*arguments)
        assert error == self.driver.CUresult.CUDA_SUCCESS, (name, error)
        return values[0] if values else None

    def copy_in(self, nbytes=INPUT_BYTES):
        self.call("cuMemcpyHtoDAsync", self.buffers[0], self.addresses[0], nbytes, self.stream)

    def copy_out(self):
        self.call("cuMemcpyDtoHAsync", self.addresses[1], self.buffers[1], OUTPUT_BYTES, self.stream)

    def enqueue(self, context):
        self.copy_in()
        for name, buffer in zip("xy", self.buffers, strict=True):
            assert context.set_tensor_address(name, int(buffer))
        assert context.execute_async_v3(int(self.stream))
        self.copy_out()

    def synchronize(self):
        self.call("cuStreamSynchronize", self.stream)

    def close(self):
        self.call("cuStreamDestroy", self.stream)
        for buffer, address in zip(self.buffers, self.addresses, strict=True):
            self.call("cuMemFree", buffer)
            self.call("cuMemFreeHost", address)
        self.call("cuCtxPopCurrent")
