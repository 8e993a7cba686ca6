"""The stand-ins' API and builds: what they lack as each release does, and what they refuse."""

import importlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
from standins import VERSIONS, gpu, installed, make
from standins.small_model import make_logger, parsed, small_model

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


@pytest.mark.parametrize(
    ("cache", "built"),
    [(b"TRT-8602-EntropyCalibration2\nx: 3c010a14\n", True), (b"TRT-7000-EntropyCalibration2\n", False), (None, False)],
)
def test_only_a_calibration_cache_of_this_release_is_taken(monkeypatch, cache, built):
    trt = installed(monkeypatch, "tensorrt", "8.6")

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def __init__(self):
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self):
            return 2

        def get_batch(self, names):
            return None

        def read_calibration_cache(self):
            return cache

    _, builder, network, config = parsed(trt, small_model())
    config.set_flag(trt.BuilderFlag.INT8)
    config.int8_calibrator = Calibrator()
    assert builder.build_serialized_network(network, config) is None  # the batch of the calibration is open
    config.set_calibration_profile(builder.create_optimization_profile())
    assert (builder.build_serialized_network(network, config) is not None) is built


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


def test_a_child_process_finds_the_same_stand_ins(monkeypatch, tmp_path):
    installed(
        monkeypatch,
        "tensorrt",
        "10.16",
        gpu_settings={"name": "Thor", "compute_capability": [11, 0], "count": 1},
        cuda="cuda-python",
    )
    (tmp_path / "small.onnx").write_bytes(small_model().SerializeToString())
    script = """if True:
        import importlib.util, sys, tensorrt
        from cuda.bindings import driver
        assert importlib.util.find_spec("tensorrt") and importlib.util.find_spec("cuda.bindings")
        logger = tensorrt.Logger()
        network = tensorrt.Builder(logger).create_network(2)
        parsed = tensorrt.OnnxParser(network, logger).parse_from_file(sys.argv[1])
        print(tensorrt.__version__, driver.cuDeviceGetCount()[1], parsed, network.num_layers)
        for name in ("pycuda", "tensorrt_rtx"):
            try:
                __import__(name)
            except ImportError:
                print("no", name)
    """
    command = [sys.executable, "-W", "error", "-c", script, tmp_path / "small.onnx"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["10.16.0.1 1 True 6", "no pycuda", "no tensorrt_rtx"]


def test_failures_can_be_asked_for(monkeypatch):
    trt = installed(
        monkeypatch,
        "tensorrt",
        "10.3",
        gpu_settings={"failures": {"build_serialized_network": "fail", "cuMemAlloc": 2}},
        cuda="cuda-python",
    )
    logger, builder, network, config = parsed(trt, small_model())
    assert builder.build_serialized_network(network, config) is None
    assert logger.heard[-1][0] == "ERROR"
    assert builder.build_serialized_network(network, config) is not None
    driver = importlib.import_module("cuda.bindings.driver")
    assert driver.cuMemAlloc(8) == (driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None)
    gpu.count = 0
    assert driver.cuInit(0)[0] == driver.CUresult.CUDA_ERROR_NO_DEVICE
    with pytest.raises(TypeError, match="nullptr"):
        trt.Builder(logger)


def test_the_small_model_is_valid():
    onnx.checker.check_model(small_model(quantised=True), full_check=True)
