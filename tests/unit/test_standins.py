"""The stand-ins themselves: what they refuse, what they detect, and that they compute what ONNX Runtime computes."""

import ctypes
import importlib
import importlib.util
import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from standins import VERSIONS, Fault, gpu, installed, make

ABSENT = {
    ("tensorrt", "8.6"): [
        "IProgressMonitor",
        "IRuntimeConfig",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "DataType.INT64",
    ],
    ("tensorrt", "10.3"): [
        "IRuntimeConfig",
        "ICudaEngine.num_bindings",
        "IExecutionContext.execute_async_v2",
        "EngineValidity",
    ],
    ("tensorrt", "10.13"): ["EngineStat", "ComputeCapability"],
    ("tensorrt", "10.16"): ["ICudaEngine.num_bindings", "Runtime.get_engine_validity"],
    ("tensorrt", "11.0"): [
        "BuilderFlag.FP16",
        "IInt8EntropyCalibrator2",
        "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    ],
    ("tensorrt", "11.4"): ["BuilderFlag.INT8", "ICudaEngine.device_memory_size", "IRuntimeCache", "CudaGraphStrategy"],
    ("tensorrt_rtx", "1.7"): ["BuilderFlag.FP16", "IBuilderConfig.int8_calibrator", "IInt8Calibrator"],
}
WEAK = [("tensorrt", "8.6"), ("tensorrt", "10.3")]
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
    logger = make_logger(trt)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    assert engine is not None, logger.heard
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
    """Runs a context with `cuda.bindings.runtime`."""

    def __init__(self):
        self.runtime = importlib.import_module("cuda.bindings.runtime")
        self.buffers = [self.call("cudaMalloc", size) for size in (INPUT_BYTES, OUTPUT_BYTES)]
        self.addresses = [self.call("cudaHostAlloc", size, 0) for size in (INPUT_BYTES, OUTPUT_BYTES)]
        self.source, self.target = (
            np.ctypeslib.as_array((ctypes.c_float * (size // 4)).from_address(address))
            for size, address in zip((INPUT_BYTES, OUTPUT_BYTES), self.addresses, strict=True)
        )
        self.stream = self.call("cudaStreamCreateWithFlags", self.runtime.cudaStreamNonBlocking)

    def call(self, name, *arguments):
        error, *values = getattr(self.runtime, name)(*arguments)
        assert error == self.runtime.cudaError_t.cudaSuccess, (name, error)
        return values[0] if values else None

    def copy_in(self, nbytes=INPUT_BYTES):
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", self.buffers[0], self.addresses[0], nbytes, kind, self.stream)

    def copy_out(self):
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", self.addresses[1], self.buffers[1], OUTPUT_BYTES, kind, self.stream)

    def enqueue(self, context):
        self.copy_in()
        for name, buffer in zip("xy", self.buffers, strict=True):
            assert context.set_tensor_address(name, buffer)
        assert context.execute_async_v3(int(self.stream))
        self.copy_out()

    def synchronize(self):
        self.call("cudaStreamSynchronize", self.stream)

    def close(self):
        self.call("cudaStreamDestroy", self.stream)
        for buffer, address in zip(self.buffers, self.addresses, strict=True):
            self.call("cudaFree", buffer)
            self.call("cudaFreeHost", address)


@pytest.mark.parametrize(("module", "release"), VERSIONS)
def test_a_release_lacks_what_it_lacks(module, release):
    trt = make(module, release)
    for name in ABSENT[module, release]:
        *parents, last = name.split(".")
        owner = trt
        for parent in parents:
            owner = getattr(owner, parent)
        with pytest.raises(AttributeError):
            getattr(owner, last)
    logger = trt.Logger(trt.Logger.ERROR)
    config = trt.Builder(logger).create_builder_config()
    for instance in (logger, config):
        with pytest.raises(AttributeError):
            instance.unheard_of = 1
    with pytest.raises(AttributeError):
        config.num_optimization_profiles = 1


@pytest.mark.parametrize(("module", "release"), VERSIONS)
def test_wrong_arguments_are_refused(module, release):
    trt = make(module, release)
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    wrong = [
        trt.Builder,
        lambda: trt.Builder(logger, 1),
        trt.ICudaEngine,
        lambda: trt.Logger("warning"),
        lambda: builder.create_network(1.5),
        lambda: builder.create_network(flag=1),
        lambda: config.set_flag(6),
        lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, -1),
        lambda: profile.set_shape("x", (1, 3, 8.0, 8), (1, 3, 8, 8), (1, 3, 8, 8)),
        lambda: profile.set_shape("x", (1,), (1,)),
        lambda: setattr(config, "profiling_verbosity", 2),
        lambda: trt.OnnxParser(builder.create_network(1), logger).parse("text"),
        lambda: trt.Runtime(logger).deserialize_cuda_engine("plan"),
        lambda: 1 << trt.BuilderFlag.TF32,
        lambda: trt.BuilderFlag.TF32 < trt.BuilderFlag.DEBUG,
        lambda: trt.IHostMemory(b""),
        lambda: config.set_timing_cache(None, ignore_mismatch=False),
    ]
    for call in wrong:
        with pytest.raises(TypeError):
            call()
    assert int(trt.BuilderFlag.TF32) == 6
    assert trt.Logger.ERROR < trt.Logger.WARNING
    assert {trt.Logger.WARNING: 1}[trt.ILogger.Severity.WARNING] == 1
    assert ("Builder", "__init__", (logger,)) in trt.calls


def test_a_subclass_must_call_the_base():
    trt = make("tensorrt", "10.3")

    class Silent(trt.ILogger):
        def __init__(self):
            pass

    with pytest.raises(TypeError, match="must be called"):
        Silent()


@pytest.mark.parametrize(("module", "release"), VERSIONS)
def test_runs_what_onnxruntime_runs_with_cuda_python(monkeypatch, module, release):
    trt = installed(monkeypatch, module, release)
    model = small_model()
    cuda = CudaPython()
    context = context_of(trt, build(trt, model))
    cuda.source[:] = images().reshape(-1)
    cuda.enqueue(context)
    assert (cuda.target.view(np.uint8) == 0xA5).all()
    cuda.synchronize()
    np.testing.assert_array_equal(cuda.target.reshape(2, 2), expected(model))
    cuda.close()
    assert gpu.faults == []
    assert gpu.live() == []


@pytest.mark.parametrize(("module", "release"), VERSIONS)
def test_runs_what_onnxruntime_runs_with_pycuda(monkeypatch, module, release):
    trt = installed(monkeypatch, module, release, cuda="pycuda")
    assert importlib.util.find_spec("cuda") is None
    driver = importlib.import_module("pycuda.driver")
    with pytest.raises(AssertionError, match="autoinit"):
        importlib.import_module("pycuda.autoinit")
    model = small_model()
    driver.init()
    primary = driver.Device(0).retain_primary_context()
    with pytest.raises(driver.LogicError, match="invalid device context"):
        driver.mem_alloc(8)
    primary.push()
    stream = driver.Stream()
    source, target = driver.pagelocked_empty((2, 3, 8, 8), np.float32), driver.pagelocked_empty(4, np.float32)
    buffers = driver.mem_alloc(source.nbytes), driver.mem_alloc(target.nbytes)
    context = context_of(trt, build(trt, model))
    source[:] = images()
    start, end = driver.Event(), driver.Event()
    start.record(stream)
    driver.memcpy_htod_async(buffers[0], source, stream)
    for name, buffer in zip("xy", buffers, strict=True):
        context.set_tensor_address(name, int(buffer))
    assert context.execute_async_v3(stream.handle)
    driver.memcpy_dtoh_async(target, buffers[1], stream)
    end.record(stream)
    stream.synchronize()
    np.testing.assert_array_equal(target.reshape(2, 2), expected(model))
    assert start.time_till(end) > 0
    primary.pop()
    primary.detach()
    del source, target, buffers, buffer, stream, start, end
    assert gpu.faults == []
    assert gpu.live() == []


def test_a_graph_runs_when_it_is_launched(monkeypatch):
    trt = installed(monkeypatch, "tensorrt", "10.13")
    model = small_model()
    cuda = CudaPython()
    context = context_of(trt, build(trt, model))
    mode = cuda.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    cuda.call("cudaStreamBeginCapture", cuda.stream, mode)
    assert not context.execute_async_v3(int(cuda.stream)), "captured before the first run"
    graph = cuda.call("cudaStreamEndCapture", cuda.stream)
    cuda.call("cudaGraphDestroy", graph)
    cuda.source[:] = 0
    cuda.enqueue(context)
    cuda.synchronize()
    cuda.call("cudaStreamBeginCapture", cuda.stream, mode)
    cuda.enqueue(context)
    assert cuda.runtime.cudaMalloc(8)[0] == cuda.runtime.cudaError_t.cudaErrorStreamCaptureUnsupported
    graph = cuda.call("cudaStreamEndCapture", cuda.stream)
    executable = cuda.call("cudaGraphInstantiate", graph, 0)
    cuda.call("cudaGraphDestroy", graph)
    cuda.source[:] = images().reshape(-1)
    cuda.call("cudaGraphLaunch", executable, cuda.stream)
    cuda.synchronize()
    np.testing.assert_array_equal(cuda.target.reshape(2, 2), expected(model))
    cuda.call("cudaGraphExecDestroy", executable)
    cuda.close()
    assert gpu.faults == []
    assert gpu.live() == []


def test_memory_faults_are_detected(monkeypatch):
    installed(monkeypatch, "tensorrt", "10.3")
    cuda = CudaPython()
    with pytest.raises(Fault, match="run past an allocation"):
        cuda.copy_in(INPUT_BYTES + 1)
    cuda.copy_in()
    cuda.call("cudaFree", cuda.buffers[0])
    with pytest.raises(Fault, match="use after free"):
        cuda.synchronize()
    with pytest.raises(Fault, match="double free"):
        cuda.call("cudaFree", cuda.buffers[0])
    pageable = np.zeros(OUTPUT_BYTES, np.uint8)
    kind = cuda.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
    cuda.call("cudaMemcpyAsync", pageable.ctypes.data, cuda.buffers[1], OUTPUT_BYTES, kind, cuda.stream)
    assert "pageable" in gpu.faults[-1]
    with pytest.raises(TypeError):
        cuda.runtime.cudaMalloc()
    with pytest.raises(TypeError):
        cuda.runtime.cudaMemcpyAsync(1, 2, 3, 2, cuda.stream)
    assert cuda.runtime.cudaMalloc(1 << 50) == (cuda.runtime.cudaError_t.cudaErrorMemoryAllocation, None)
    assert gpu.live() != []


@pytest.mark.parametrize(("module", "release"), WEAK)
def test_builds_that_tensorrt_refuses(monkeypatch, module, release):
    trt = installed(monkeypatch, module, release)

    def outcome(model, change, *, typed=False):
        logger, builder, network, config = parsed(trt, model, typed=typed)
        change(config)
        plan = builder.build_serialized_network(network, config)
        return "built" if plan else next(text for severity, text in logger.heard if severity == "ERROR")

    quantised = small_model(quantised=True)
    assert "int8 is not configured" in outcome(quantised, lambda config: None)
    assert outcome(quantised, lambda config: config.set_flag(trt.BuilderFlag.INT8)) == "built"
    assert "workspace" in outcome(
        small_model(), lambda config: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1000)
    )
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        assert "strongly typed" in outcome(
            small_model(), lambda config: config.set_flag(trt.BuilderFlag.FP16), typed=True
        )
        assert outcome(quantised, lambda config: None, typed=True) == "built"
    logger, builder, network, _ = parsed(trt, small_model())
    assert builder.build_serialized_network(network, builder.create_builder_config()) is None
    assert "no optimization profile" in logger.heard[-1][1]


def test_models_that_the_parser_refuses(monkeypatch):
    trt = installed(monkeypatch, "tensorrt", "8.6")
    unsigned, newer = small_model(quantised=True, zero_point_type=np.uint8), small_model()
    newer.opset_import[0].version = 19
    cases = [(0, small_model().SerializeToString(), "explicit batch"), (1, b"abc", "Failed to parse")]
    cases += [(1, unsigned.SerializeToString(), "UINT8"), (1, newer.SerializeToString(), "opset 19")]
    for flags, content, reason in cases:
        logger = make_logger(trt)
        parser = trt.OnnxParser(trt.Builder(logger).create_network(flags), logger)
        assert not parser.parse(content)
        assert parser.num_errors == 1
        assert reason in parser.get_error(0).desc()


def test_calibration_reads_live_memory(monkeypatch):
    trt = installed(monkeypatch, "tensorrt", "8.6")
    cuda = CudaPython()

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def __init__(self, pointers, cache=None):
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.pointers, self.cache, self.written = list(pointers), cache, None

        def get_batch_size(self):
            return 2

        def get_batch(self, names):
            return [self.pointers.pop()] if self.pointers else None

        def read_calibration_cache(self):
            return self.cache

        def write_calibration_cache(self, cache):
            self.written = bytes(cache)

    def calibrated(calibrator):
        _, builder, network, config = parsed(trt, small_model())
        config.set_flag(trt.BuilderFlag.INT8)
        config.int8_calibrator = calibrator
        return builder.build_serialized_network(network, config)

    good = Calibrator([cuda.buffers[0], cuda.buffers[0]])
    assert calibrated(good) is not None
    assert good.written.startswith(b"TRT-8602-EntropyCalibration2\n")
    assert calibrated(Calibrator([], good.written)) is not None
    assert calibrated(Calibrator([], b"TRT-7000-EntropyCalibration2\n")) is None
    assert calibrated(Calibrator([cuda.buffers[1]])) is None
    cuda.copy_in()
    assert calibrated(Calibrator([cuda.buffers[0]])) is None
    assert "not waited for" in gpu.faults[-1]


def test_a_progress_monitor_can_stop_the_build(monkeypatch):
    trt = installed(monkeypatch, "tensorrt", "10.3")

    class Monitor(trt.IProgressMonitor):
        def __init__(self, last):
            trt.IProgressMonitor.__init__(self)
            self.last, self.open = last, []

        def phase_start(self, phase_name, parent_phase, num_steps):
            assert parent_phase == (self.open[-1] if self.open else None)
            self.open.append(phase_name)

        def step_complete(self, phase_name, step):
            return phase_name != "Building engine" or step < self.last

        def phase_finish(self, phase_name):
            assert self.open.pop() == phase_name

    for last, built in ((6, True), (2, False)):
        _, builder, network, config = parsed(trt, small_model())
        config.progress_monitor = Monitor(last)
        assert (builder.build_serialized_network(network, config) is not None) is built
        assert config.progress_monitor.open == []


@pytest.mark.parametrize(("module", "release"), VERSIONS)
def test_engines_are_refused_elsewhere(monkeypatch, module, release):
    trt = installed(monkeypatch, module, release)
    plan = build(trt, small_model())
    runtime = trt.Runtime(make_logger(trt))
    data = bytes(plan)
    assert len(data) == plan.nbytes
    assert ".".join(map(str, data[24:27])) == trt.__version__.rsplit(".", 1)[0]
    damaged = bytearray(data)
    damaged[-3] ^= 1
    for bad in (data[:100], data[:-1], b"x" * 200, bytes(damaged), data[:24] + b"\x09" + data[25:]):
        assert runtime.deserialize_cuda_engine(bad) is None
    gpu.compute_capability = (7, 5)
    assert runtime.deserialize_cuda_engine(data) is None
    if hasattr(runtime, "get_engine_validity"):
        assert runtime.get_engine_validity(data) == (
            trt.EngineValidity.INVALID,
            int(trt.EngineInvalidityDiagnostics.UNSUPPORTED_CC),
        )
    gpu.compute_capability, gpu.memory_bytes = (8, 9), len(data) + 100
    engine = runtime.deserialize_cuda_engine(data)
    assert engine.create_execution_context() is None
    gpu.memory_bytes = 1 << 30
    context = engine.create_execution_context()
    assert context.infer_shapes() == ["x"]
    assert not context.execute_async_v3(0)
    assert not context.set_input_shape("x", (5, 3, 8, 8))
    assert context.set_input_shape("x", (4, 3, 8, 8))
    assert context.get_tensor_shape("y") == (4, 2)
    assert not context.execute_async_v3(0)
    assert [tuple(shape) for shape in engine.get_tensor_profile_shape("x", 0)] == [
        (1, 3, 8, 8),
        (2, 3, 8, 8),
        (4, 3, 8, 8),
    ]
    assert gpu.used_bytes > 0
    del context, engine
    assert gpu.used_bytes == 0


def test_layers_are_told(monkeypatch):
    for module, release in VERSIONS:
        trt = installed(monkeypatch, module, release)
        logger, builder, network, config = parsed(trt, small_model())
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        plan = builder.build_serialized_network(network, config)
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
        inspector = engine.create_engine_inspector()
        told = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        assert told["Layers"][0]["Inputs"][0]["Dimensions"] == [-1, 3, 8, 8]
        assert "N/A due to dynamic shapes" in told["Layers"][0]["Inputs"][0].values()
        inspector.execution_context = context_of(trt, plan)
        told = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        assert told["Layers"][0]["Inputs"][0]["Dimensions"] == [2, 3, 8, 8]
        assert [layer["Name"] for layer in told["Layers"]] == ["conv1", "pool", "mean", "flat", "fc"]
        assert "[ONNX Layer: relu]" in told["Layers"][0]["Metadata"]
        lists = [text for severity, text in logger.heard if severity == "VERBOSE" and text.startswith("Layers:\n")]
        assert len(lists) == (module == "tensorrt_rtx")
    assert "Name: conv1_myl0_0, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [-1,3,8,8]" in lists[0]


def test_layers_are_timed(monkeypatch):
    trt = installed(monkeypatch, "tensorrt", "8.6")
    cuda = CudaPython()
    context = context_of(trt, build(trt, small_model()))

    class Profiler(trt.IProfiler):
        def __init__(self):
            trt.IProfiler.__init__(self)
            self.times = {}

        def report_layer_time(self, layer_name, ms):
            self.times[layer_name] = ms

    context.profiler = Profiler()
    cuda.enqueue(context)
    assert context.profiler.times == {}
    cuda.synchronize()
    assert list(context.profiler.times) == ["conv1", "pool", "mean", "flat", "fc"]


def test_a_runtime_cache_saves_compiling(monkeypatch):
    trt = installed(monkeypatch, "tensorrt_rtx", "1.7")
    plan, saved = build(trt, small_model()), b""
    for compiled in (1, 1):
        engine = trt.Runtime(make_logger(trt)).deserialize_cuda_engine(plan)
        config = engine.create_runtime_config()
        cache = config.create_runtime_cache()
        assert cache.deserialize(saved) is bool(saved)
        assert config.set_runtime_cache(cache)
        assert engine.create_execution_context(config) is not None
        assert len(gpu.compiled) == compiled
        saved = bytes(cache.serialize())


def test_a_child_process_finds_the_same_stand_ins(monkeypatch, tmp_path):
    installed(
        monkeypatch, "tensorrt", "10.16", gpu_settings={"name": "Thor", "compute_capability": [11, 0], "count": 1}
    )
    (tmp_path / "small.onnx").write_bytes(small_model().SerializeToString())
    script = """if True:
        import importlib.util, sys, tensorrt
        from cuda.bindings import runtime
        assert importlib.util.find_spec("tensorrt") and importlib.util.find_spec("cuda.bindings")
        properties = runtime.cudaGetDeviceProperties(0)[1]
        logger = tensorrt.Logger()
        network = tensorrt.Builder(logger).create_network(2)
        parsed = tensorrt.OnnxParser(network, logger).parse_from_file(sys.argv[1])
        print(tensorrt.__version__, properties.name, properties.major, parsed, network.num_layers)
        for name in ("pycuda", "tensorrt_rtx"):
            try:
                __import__(name)
            except ImportError:
                print("no", name)
    """
    command = [sys.executable, "-W", "error", "-c", script, tmp_path / "small.onnx"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["10.16.0.1 b'Thor' 11 True 6", "no pycuda", "no tensorrt_rtx"]


def test_failures_can_be_asked_for(monkeypatch):
    trt = installed(
        monkeypatch,
        "tensorrt",
        "10.3",
        gpu_settings={"failures": {"build_serialized_network": "fail", "cudaMalloc": 2}},
    )
    logger, builder, network, config = parsed(trt, small_model())
    assert builder.build_serialized_network(network, config) is None
    assert logger.heard[-1][0] == "ERROR"
    assert builder.build_serialized_network(network, config) is not None
    runtime = importlib.import_module("cuda.bindings.runtime")
    assert runtime.cudaMalloc(8)[0] == runtime.cudaError_t.cudaErrorMemoryAllocation
    gpu.count = 0
    assert runtime.cudaGetDeviceCount() == (runtime.cudaError_t.cudaErrorNoDevice, None)
    with pytest.raises(TypeError, match="nullptr"):
        trt.Builder(logger)


def test_the_small_model_is_valid():
    onnx.checker.check_model(small_model(quantised=True), full_check=True)
