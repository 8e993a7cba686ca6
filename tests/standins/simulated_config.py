"""What the simulated builder and its configuration, profiles and timing caches do."""

from .simulated_gpu import gpu
from .surface import create, log, simulated
from .values import host_memory

DLA_LAYERS = {"ACTIVATION", "CONCATENATION", "CONVOLUTION", "ELEMENTWISE", "POOLING", "QUANTIZE", "DEQUANTIZE"}


def is_rtx(module):
    """Whether the module stands for TensorRT-RTX."""
    return module.__name__ == "tensorrt_rtx"


def has_device(module, logger):
    """Whether there is a device; logs the error where there is none."""
    if gpu.count == 0:
        log(module, logger, "ERROR", "CUDA initialization failure with error: 35")
    return gpu.count > 0


@simulated("Logger", "__init__")
def logger_init(self, min_severity):
    self._sim.values["min_severity"] = min_severity


@simulated("Builder", "__init__")
def builder_init(self, logger):
    self._sim.logger = logger
    # TensorRT-RTX builds on machines without a GPU.
    if not is_rtx(self._sim.module) and not has_device(self._sim.module, logger):
        raise TypeError("pybind11::init(): factory function returned nullptr")


@simulated("Builder", "create_builder_config")
def create_builder_config(self):
    module = self._sim.module
    config = create(
        module,
        "IBuilderConfig",
        logger=self._sim.logger,
        profiles=[],
        pools={},
        capabilities=[],
        cache=None,
        previews={},
        calibration_profile=None,
    )
    config._sim.values.update(
        flags=1 << int(module.BuilderFlag.TF32),
        avg_timing_iterations=1,
        builder_optimization_level=3,
        DLA_core=-1,
        max_aux_streams=-1,
        default_device_type=module.DeviceType.GPU,
        engine_capability=module.EngineCapability.STANDARD,
        hardware_compatibility_level=module.HardwareCompatibilityLevel.NONE,
        profiling_verbosity=module.ProfilingVerbosity.LAYER_NAMES_ONLY,
    )
    return config


@simulated("Builder", "create_optimization_profile")
def create_optimization_profile(self):
    return create(self._sim.module, "IOptimizationProfile", logger=self._sim.logger, shapes={})


@simulated("IOptimizationProfile", "set_shape")
def set_shape(self, name, smallest, optimal, largest):
    self._sim.shapes[name] = [tuple(smallest), tuple(optimal), tuple(largest)]


@simulated("IBuilderConfig", "add_optimization_profile")
def add_optimization_profile(self, profile):
    for name, (smallest, optimal, largest) in profile._sim.shapes.items():
        ordered = len(smallest) == len(optimal) == len(largest)
        if not ordered or any(not a <= b <= c for a, b, c in zip(smallest, optimal, largest, strict=True)):
            message = f"Invalid optimization profiles for input tensors {name}: MIN<=OPT<=MAX is not satisfied"
            log(self._sim.module, self._sim.logger, "ERROR", message)
            return -1
    self._sim.profiles.append(profile)
    return len(self._sim.profiles) - 1


@simulated("IBuilderConfig", "set_flag")
def set_flag(self, flag):
    self._sim.values["flags"] |= 1 << int(flag)


@simulated("IBuilderConfig", "clear_flag")
def clear_flag(self, flag):
    self._sim.values["flags"] &= ~(1 << int(flag))


@simulated("IBuilderConfig", "get_flag")
def get_flag(self, flag):
    return bool(self._sim.values["flags"] & 1 << int(flag))


def flag_names(config):
    """The names of the flags that are set."""
    return {name for name, flag in config._sim.module.BuilderFlag.__members__.items() if get_flag(config, flag)}


@simulated("IBuilderConfig", "set_memory_pool_limit")
def set_memory_pool_limit(self, pool, limit):
    self._sim.pools[pool.name] = limit


@simulated("IBuilderConfig", "set_preview_feature")
def set_preview_feature(self, feature, enable):
    if feature.name == "PROFILE_SHARING_0806" and not self._sim.module.__version__.startswith("8."):
        log(self._sim.module, self._sim.logger, "WARNING", "PROFILE_SHARING_0806 is deprecated and always on")
    self._sim.previews[feature.name] = enable


@simulated("IBuilderConfig", "set_calibration_profile")
def set_calibration_profile(self, profile):
    self._sim.calibration_profile = profile
    return True


@simulated("IBuilderConfig", "num_compute_capabilities", assign=True)
def assign_num_compute_capabilities(self, count):
    self._sim.capabilities = [self._sim.module.ComputeCapability.NONE] * count


@simulated("IBuilderConfig", "set_compute_capability")
def set_compute_capability(self, capability, index):
    known = 0 <= index < len(self._sim.capabilities)
    if known and capability.name == "CURRENT" and len(self._sim.capabilities) > 1:
        log(self._sim.module, self._sim.logger, "ERROR", "kCURRENT must be the only compute capability")
        return False
    if known:
        self._sim.capabilities[index] = capability
    else:
        log(self._sim.module, self._sim.logger, "ERROR", f"compute capability index {index} is out of range")
    return known


# Deep learning accelerators


def dla_cores(module):
    """The accelerators that a release drives: none from 10.8 to 11.4.0 (NVIDIA, "Working with DLA")."""
    release = tuple(map(int, module.__version__.split(".")[:3]))
    return 0 if (10, 8) <= release < (11, 4, 1) else gpu.dla_cores


@simulated("Builder", "num_DLA_cores")
@simulated("Runtime", "num_DLA_cores")
def num_dla_cores(self):
    return dla_cores(self._sim.module)


@simulated("IBuilderConfig", "can_run_on_DLA")
def can_run_on_dla(self, layer):
    """Whether the accelerator could run the layer as the configuration is now: it has no FP32."""
    names = {flag.name for flag in self._sim.module.BuilderFlag.__members__.values() if self.get_flag(flag)}
    half = names & {"FP16", "INT8"} or not hasattr(self._sim.module.BuilderFlag, "FP16")
    return bool(half) and dla_cores(self._sim.module) > 0 and layer.type.name in DLA_LAYERS


# Timing caches


@simulated("IBuilderConfig", "create_timing_cache")
def create_timing_cache(self, blob):
    module, prefix = self._sim.module, timing_prefix(self._sim.module)
    content = bytes(blob)
    if is_rtx(module):  # its timing caches do nothing any more, and take anything
        content = b""
    if content and not content.startswith(prefix):
        log(module, self._sim.logger, "ERROR", "the timing cache is of another version or device")
        return None
    return create(module, "ITimingCache", logger=self._sim.logger, entries=set(content[len(prefix) :].decode().split()))


def timing_prefix(module):
    """What a serialised timing cache starts with."""
    return f"TIMINGCACHE {module.__version__} {gpu.compute_capability} ".encode()


@simulated("IBuilderConfig", "set_timing_cache")
def set_timing_cache(self, cache, _ignore_mismatch):
    self._sim.cache = cache
    return True


@simulated("IBuilderConfig", "get_timing_cache")
def get_timing_cache(self):
    return self._sim.cache


@simulated("ITimingCache", "serialize")
def serialize_timing_cache(self):
    module = self._sim.module
    return host_memory(module, timing_prefix(module) + " ".join(sorted(self._sim.entries)).encode())
