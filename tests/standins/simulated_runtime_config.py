"""What the runtime configuration of a context and the cache of compiled kernels do."""

import hashlib
import weakref

from .simulated_gpu import gpu
from .surface import create, log, simulated
from .values import host_memory


def check_config(context):
    """A context uses its runtime configuration as long as it lives, and that its cache."""
    if context._sim.config is None:
        return
    config = context._sim.config()
    if config is None:
        gpu.fault("use after free: the context's IRuntimeConfig is gone")
    if config._sim.cache is not None and config._sim.cache() is None:
        gpu.fault("use after free: the IRuntimeCache of the context's configuration is gone")


def strategy(context, name):
    """The name of what the configuration of a context of TensorRT-RTX chooses; empty without one."""
    config = context._sim.config() if context._sim.config is not None else None
    chosen = config._sim.values.get(name) if config is not None else None
    return chosen.name if chosen is not None else ""


def compile_kernels(context, shapes):
    """Note in `gpu.compiled` kernels that are not in the runtime cache, and put them there."""
    engine, config = context._sim.engine, context._sim.config() if context._sim.config is not None else None
    key = f"{hashlib.sha256(engine._sim.data).hexdigest()[:16]}-{hashlib.sha256(str(shapes).encode()).hexdigest()[:8]}"
    cache = config._sim.cache() if config is not None and config._sim.cache is not None else None
    if cache is None or key not in cache._sim.entries:
        gpu.compiled.append(key)
    if cache is not None:
        cache._sim.entries.add(key)


def specialise(context, shapes):
    """Compile for shapes that come at once where EAGER was chosen; LAZY does it in the background, some day."""
    if strategy(context, "dynamic_shapes_kernel_specialization_strategy") == "EAGER":
        compile_kernels(context, shapes)


@simulated("ICudaEngine", "create_runtime_config")
def create_runtime_config(self):
    module = self._sim.module
    config = create(module, "IRuntimeConfig", logger=self._sim.logger, engine=self, cache=None)
    config._sim.strategy = module.ExecutionContextAllocationStrategy.STATIC
    if hasattr(module, "CudaGraphStrategy"):
        config._sim.values["cuda_graph_strategy"] = module.CudaGraphStrategy.DISABLED
        lazy = module.DynamicShapesKernelSpecializationStrategy.LAZY
        config._sim.values["dynamic_shapes_kernel_specialization_strategy"] = lazy
    return config


@simulated("IRuntimeConfig", "create_runtime_cache")
def create_runtime_cache(self):
    return create(self._sim.module, "IRuntimeCache", logger=self._sim.logger, entries=set())


@simulated("IRuntimeConfig", "set_runtime_cache")
def set_runtime_cache(self, cache):
    self._sim.cache = weakref.ref(cache)
    return True


@simulated("IRuntimeConfig", "set_execution_context_allocation_strategy")
def set_execution_context_allocation_strategy(self, strategy):
    self._sim.strategy = strategy


def cache_prefix(module):
    """What a serialised runtime cache starts with."""
    return f"RUNTIMECACHE {module.__version__} {gpu.compute_capability} {gpu.driver_version} ".encode()


@simulated("IRuntimeCache", "serialize")
def serialize_runtime_cache(self):
    text = " ".join(sorted(self._sim.entries)).encode()
    return host_memory(self._sim.module, cache_prefix(self._sim.module) + text)


@simulated("IRuntimeCache", "deserialize")
def deserialize_runtime_cache(self, blob):
    content, prefix = bytes(blob), cache_prefix(self._sim.module)
    if not content.startswith(prefix):
        log(self._sim.module, self._sim.logger, "WARNING", "the runtime cache is of another release, driver or device")
        return False
    self._sim.entries |= set(content[len(prefix) :].decode().split())
    return True
