"""The stand-ins' engines: that they compute what ONNX Runtime computes, and that misuse of memory is found."""

import importlib
import importlib.util
import json

import numpy as np
import pytest
from standins import VERSIONS, Fault, gpu, installed
from standins.small_model import (
    INPUT_BYTES,
    OUTPUT_BYTES,
    CudaPython,
    build,
    context_of,
    expected,
    images,
    make_logger,
    parsed,
    small_model,
)


@pytest.mark.parametrize(("module", "release"), VERSIONS)
def test_runs_what_onnxruntime_runs_with_cuda_python(monkeypatch, module, release):
    trt = installed(monkeypatch, module, release, cuda="cuda-python")
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
    del source, target, buffers, buffer, stream, start, end
    assert gpu.faults == []
    assert gpu.live() == []


def test_a_graph_runs_when_it_is_launched(monkeypatch):
    trt = installed(monkeypatch, "tensorrt", "10.13", cuda="cuda-python")
    model = small_model()
    cuda = CudaPython()
    context = context_of(trt, build(trt, model))
    mode = cuda.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    cuda.call("cuStreamBeginCapture", cuda.stream, mode)
    assert not context.execute_async_v3(int(cuda.stream)), "captured before the first run"
    graph = cuda.call("cuStreamEndCapture", cuda.stream)
    cuda.call("cuGraphDestroy", graph)
    cuda.source[:] = 0
    cuda.enqueue(context)
    cuda.synchronize()
    cuda.call("cuStreamBeginCapture", cuda.stream, mode)
    cuda.enqueue(context)
    graph = cuda.call("cuStreamEndCapture", cuda.stream)
    executable = cuda.call("cuGraphInstantiate", graph, 0)
    cuda.call("cuGraphDestroy", graph)
    cuda.source[:] = images().reshape(-1)
    cuda.call("cuGraphLaunch", executable, cuda.stream)
    cuda.synchronize()
    np.testing.assert_array_equal(cuda.target.reshape(2, 2), expected(model))
    cuda.call("cuGraphExecDestroy", executable)
    cuda.close()
    assert gpu.faults == []
    assert gpu.live() == []


def test_memory_faults_are_detected(monkeypatch):
    installed(monkeypatch, "tensorrt", "10.3", cuda="cuda-python")
    cuda = CudaPython()
    with pytest.raises(Fault, match="run past an allocation"):
        cuda.copy_in(INPUT_BYTES + 1)
    cuda.copy_in()
    cuda.call("cuMemFree", cuda.buffers[0])
    with pytest.raises(Fault, match="use after free"):
        cuda.synchronize()
    with pytest.raises(Fault, match="double free"):
        cuda.call("cuMemFree", cuda.buffers[0])
    pageable = np.zeros(OUTPUT_BYTES, np.uint8)
    cuda.call("cuMemcpyDtoHAsync", pageable.ctypes.data, cuda.buffers[1], OUTPUT_BYTES, cuda.stream)
    assert "pageable" in gpu.faults[-1]
    with pytest.raises(TypeError):
        cuda.driver.cuMemAlloc()
    with pytest.raises(TypeError):
        cuda.driver.cuStreamBeginCapture(cuda.stream, 1)  # the mode is a member of its enum
    assert cuda.driver.cuMemAlloc(1 << 50) == (cuda.driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None)
    assert gpu.live() != []


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
    trt = installed(monkeypatch, "tensorrt", "8.6", cuda="cuda-python")
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
