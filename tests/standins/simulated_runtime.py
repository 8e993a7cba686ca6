"""What the simulated runtime, its engines and their inspector do."""

import json
import weakref

from . import plan
from .simulated_build import LOG_NAMES
from .simulated_config import has_device, is_rtx
from .simulated_gpu import gpu
from .simulated_network import free_as_minus_one
from .surface import create, log, simulated

OLD_NAMES = {"FLOAT": "FP32", "HALF": "FP16", "INT8": "Int8", "UINT8": "UInt8", "INT32": "Int32", "BOOL": "Bool"}
UNKNOWN = "N/A due to dynamic shapes"


# Runtime


@simulated("Runtime", "__init__")
def runtime_init(self, logger):
    self._sim.logger = logger
    self._sim.values["engine_host_code_allowed"] = False
    if not is_rtx(self._sim.module) and not has_device(self._sim.module, logger):
        raise TypeError("pybind11::init(): factory function returned nullptr")


@simulated("Runtime", "error_recorder", assign=True)
def assign_error_recorder(self, recorder):
    self._sim.logger._recorder = recorder  # engines and contexts of the runtime have both from it


@simulated("Runtime", "deserialize_cuda_engine")
def deserialize_cuda_engine(self, serialized):
    module, logger = self._sim.module, self._sim.logger
    if not has_device(module, logger):
        return None
    data = bytes(serialized)
    try:
        description, onnx_bytes = read_plan(self, data)
    except plan.BadPlanError as error:
        log(module, logger, "ERROR", f"IRuntime::deserializeCudaEngine: {error}")
        return None
    engine = create(module, "ICudaEngine", logger=logger, runtime=self, data=data, onnx=onnx_bytes, plan=description)
    engine._sim.device = gpu.current or 0
    engine._sim.tensors = {one["name"]: one for one in description["inputs"] + description["outputs"]}
    engine._sim.inputs = [one["name"] for one in description["inputs"]]
    weakref.finalize(engine, gpu.release, gpu.reserve(len(onnx_bytes)))
    return engine


def read_plan(runtime, data):
    """(description, ONNX bytes) of a plan that this runtime can run; BadPlanError where it cannot."""
    module = runtime._sim.module
    allowed = runtime._sim.values["engine_host_code_allowed"]
    description, onnx_bytes = plan.read(data, module.__name__, module.__version__, gpu, host_code_allowed=allowed)
    core = description["dla_core"]
    if core is not None and runtime._sim.values.get("DLA_core", -1) != core:
        raise plan.BadPlanError("MALFORMED_ENGINE", f"the engine is for DLA core {core}, which IRuntime was not told")
    return description, onnx_bytes


@simulated("Runtime", "get_engine_validity")
def get_engine_validity(self, buffer):
    module = self._sim.module
    if gpu.count == 0:
        log(module, self._sim.logger, "INTERNAL_ERROR", "Error reading CUDA GPU properties")
        return module.EngineValidity.INVALID, 0
    try:
        read_plan(self, bytes(buffer))
    except plan.BadPlanError as error:
        log(module, self._sim.logger, "INFO", str(error))
        return module.EngineValidity.INVALID, int(module.EngineInvalidityDiagnostics.__members__[error.diagnostic])
    return module.EngineValidity.VALID, 0


# Engine


def tensor(engine, name):
    """The description of an input or output, or None and an error in the log."""
    if name not in engine._sim.tensors:
        log(engine._sim.module, engine._sim.logger, "ERROR", f"{name} is no input or output of the engine")
    return engine._sim.tensors.get(name)


def simple_getters():
    """Register the engine's properties that only repeat the plan."""
    getters = {
        "num_io_tensors": lambda sim: len(sim.tensors),
        "num_bindings": lambda sim: len(sim.tensors),
        "num_layers": lambda sim: len(sim.plan["layers"]),
        "num_optimization_profiles": lambda sim: 1,
        "device_memory_size": lambda sim: sim.plan["scratch_bytes"],
        "device_memory_size_v2": lambda sim: sim.plan["scratch_bytes"],
        "name": lambda sim: sim.plan["name"],
        "refittable": lambda sim: False,
        "profiling_verbosity": lambda sim: sim.module.ProfilingVerbosity.__members__[sim.plan["verbosity"]],
    }
    for member, getter in getters.items():
        simulated("ICudaEngine", member)(lambda self, getter=getter: getter(self._sim))


simple_getters()


@simulated("ICudaEngine", "get_tensor_name")
def get_tensor_name(self, index):
    names = list(self._sim.tensors)
    if not 0 <= index < len(names):
        log(self._sim.module, self._sim.logger, "ERROR", f"tensor index {index} is not in [0, {len(names)})")
        return None
    return names[index]


@simulated("ICudaEngine", "get_tensor_mode")
def get_tensor_mode(self, name):
    modes = self._sim.module.TensorIOMode
    if tensor(self, name) is None:
        return modes.NONE
    return modes.INPUT if name in self._sim.inputs else modes.OUTPUT


@simulated("ICudaEngine", "get_tensor_profile_shape")
def get_tensor_profile_shape(self, name, profile_index):
    shapes = self._sim.plan["profile"].get(name)
    if shapes is None or profile_index != 0:
        log(self._sim.module, self._sim.logger, "ERROR", f"there is no profile {profile_index} for {name}")
        return []
    return [self._sim.module.Dims(shape) for shape in shapes]


@simulated("ICudaEngine", "create_engine_inspector")
def create_engine_inspector(self):
    return create(self._sim.module, "EngineInspector", logger=self._sim.logger, engine=self)


# Inspector


def free_sizes(context):
    """What the named sizes are with the shapes that the inputs have now."""
    sizes = {}
    for name, shape in context._sim.shapes.items():
        declared = context._sim.engine._sim.tensors[name]["dims"]
        sizes.update({key: size for key, size in zip(declared, shape, strict=True) if isinstance(key, str)})
    return sizes


@simulated("EngineInspector", "get_engine_information")
def get_engine_information(self, information_format):
    engine = self._sim.engine
    layers = inspected_layers(self)
    if information_format.name == "JSON":
        return json.dumps({"Layers": layers, "Bindings": list(engine._sim.tensors)})
    return "\n".join(["Layers:", *map(str, layers), "", "Bindings:", *engine._sim.tensors])


def inspected_layers(inspector):
    """The layers as far as the build's profiling verbosity lets them be told: nothing, names, or all.

    With an execution context the shapes are those that it has.
    """
    engine, context = inspector._sim.engine, inspector._sim.values.get("execution_context")
    sizes = free_sizes(context) if context is not None else {}
    description, module = engine._sim.plan, engine._sim.module
    if description["verbosity"] == "NONE":
        return []
    if description["verbosity"] == "LAYER_NAMES_ONLY":
        return [layer["name"] for layer in description["layers"]]
    old = module.__version__.startswith("8.")

    def told(tensors):
        return [inspected_tensor(one, sizes, old=old) for one in tensors]

    separator = "\x1f" if is_rtx(module) else "\x1e"
    return [
        {
            "Name": layer["name"],
            "LayerType": layer["kind"],
            "Inputs": told(layer["inputs"]),
            "Outputs": told(layer["outputs"]),
            "Constants": told(layer["constants"]),
            "TacticName": "t",
            "StreamId": 0,
            "Metadata": separator.join(f"[ONNX Layer: {name}]" for name in layer["nodes"]),
        }
        for layer in description["layers"]
    ]


def inspected_tensor(one, known, *, old):
    """A tensor in the inspector's JSON: type and format are one text in 8.6, and apart later."""
    sizes = free_as_minus_one([known.get(size, size) for size in one["dims"]])
    found = {"Name": one["name"], "Location": "Device", "Dimensions": sizes}
    unknown = -1 in sizes
    if old:
        text = f"Row major linear {OLD_NAMES.get(one['dtype'], one['dtype'])} format"
        return {**found, "Format/Datatype": UNKNOWN if unknown else text}
    dtype, layout = LOG_NAMES[one["dtype"]], "Row major linear format"
    return {**found, "Datatype": UNKNOWN if unknown else dtype, "Format": UNKNOWN if unknown else layout}
