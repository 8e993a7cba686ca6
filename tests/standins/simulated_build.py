"""What a simulated build does: refuse what TensorRT refuses, calibrate, report progress, and write the plan."""

import hashlib
from contextlib import contextmanager
from math import prod

from . import plan
from .signatures import is_buffer
from .simulated_config import DLA_LAYERS, dla_cores, flag_names, is_rtx
from .simulated_gpu import gpu
from .simulated_network import free_as_minus_one
from .surface import log, simulated
from .values import host_memory

MINIMUM_WORKSPACE = 1 << 20
# What TensorRT-RTX builds for where nothing is named (its support matrix).
RTX_DEFAULT = [[8, 6], [8, 9], [12, 0], [12, 1]]
ITEM_BYTES = {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT8": 1, "UINT8": 1, "INT32": 4, "INT64": 8, "BOOL": 1, "FP8": 1}
LOG_NAMES = {
    "FLOAT": "Float",
    "HALF": "Half",
    "BF16": "BFloat16",
    "INT8": "Int8",
    "UINT8": "UInt8",
    "INT32": "Int32",
    "INT64": "Int64",
    "BOOL": "Bool",
    "FP8": "FP8",
}


class BuildError(Exception):
    """Why the builder gives None; logged as an error."""


class Cancelled(Exception):  # noqa: N818 - nothing went wrong
    """The progress monitor asked to stop."""


@simulated("Builder", "build_serialized_network")
def build_serialized_network(self, network, config):
    module, logger = self._sim.module, self._sim.logger
    try:
        check(network, config)
        calibration = calibrate(config)
        report_progress(config)
    except BuildError as error:
        log(module, logger, "ERROR", f"IBuilder::buildSerializedNetwork: {error}")
        return None
    except Cancelled:
        log(module, logger, "INFO", "the build was cancelled by the progress monitor")
        return None
    description = describe(network, config, calibration)
    if is_rtx(module) and description["verbosity"] == "DETAILED":
        log(module, logger, "VERBOSE", layer_log(description))
    content = network._sim.model.SerializeToString()
    if config._sim.cache is not None:
        config._sim.cache._sim.entries.add(hashlib.sha256(content).hexdigest()[:16])
    return host_memory(module, plan.pack(module.__name__, module.__version__, description, content))


def check(network, config):
    """Raise BuildError where TensorRT would not build the network."""
    state, flags, values = network._sim, flag_names(config), config._sim.values
    operators = {node.op_type for node in state.model.graph.node} if state.model else set()
    if not state.outputs:
        raise BuildError("Network must have at least one output")
    check_profiles(network, config)
    check_dla(network, config)
    if any(one.name == "CURRENT" for one in config._sim.capabilities) and gpu.count == 0:
        raise BuildError("Cuda Runtime (cudaError 35: CUDA driver version is insufficient for CUDA runtime version)")
    if config._sim.pools.get("WORKSPACE", MINIMUM_WORKSPACE) < MINIMUM_WORKSPACE:
        raise BuildError(
            "no tactics to implement the operation within workspace limit. Consider increase the allowed workspace size"
        )
    knows_int8 = "INT8" in config._sim.module.BuilderFlag.__members__
    if "QuantizeLinear" in operators and knows_int8 and "INT8" not in flags and not state.typed:
        raise BuildError(
            "Int8 precision has been set for a layer or layer output, but int8 is not configured in the builder"
        )
    forced = sorted(flags & {"FP16", "INT8", "BF16", "FP8"})
    if state.typed and forced:
        raise BuildError(f"builder flags {forced} are set on a strongly typed network")
    free = any(-1 in tuple(tensor.shape) for tensor in state.inputs)
    if values.get("int8_calibrator") is not None and free and config._sim.calibration_profile is None:
        raise BuildError("Calibration profile must be set for a network with dynamic shapes")
    if state.typed and values.get("int8_calibrator") is not None:
        raise BuildError("a calibrator is set on a strongly typed network")
    if "INT8" in flags and "QuantizeLinear" not in operators and values.get("int8_calibrator") is None:
        message = (
            "Calibrator is not being used. Users must provide dynamic range for all tensors that are not Int32 or Bool."
        )
        log(config._sim.module, config._sim.logger, "WARNING", message)


def check_profiles(network, config):
    """Raise BuildError where a free dimension has no range, or a range does not fit the network."""
    free = [tensor for tensor in network._sim.inputs if -1 in tuple(tensor.shape)]
    if free and not config._sim.profiles:
        raise BuildError("Network has dynamic or shape inputs, but no optimization profile has been defined.")
    names = {tensor.name for tensor in network._sim.inputs}
    for profile in config._sim.profiles:
        if unknown := sorted(set(profile._sim.shapes) - names):
            raise BuildError(f"the profile has shapes for {unknown}, which are no inputs")
        for tensor in free:
            if tensor.name not in profile._sim.shapes:
                raise BuildError(f"Dynamic input tensor {tensor.name} is missing dimensions in profile 0.")
        for tensor in network._sim.inputs:
            for shape in profile._sim.shapes.get(tensor.name, []):
                here = tuple(tensor.shape)
                if len(shape) != len(here) or any(
                    size not in {-1, wanted} for size, wanted in zip(here, shape, strict=True)
                ):
                    raise BuildError(
                        f"Static dimension mismatch while setting profile of {tensor.name}: {shape} for {here}"
                    )


@contextmanager
def phase(monitor, name, parent, steps):
    """A phase of the build: the caller gets the function that reports a step."""
    monitor.phase_start(name, parent, steps)

    def step(number):
        if monitor.step_complete(name, number) is False:
            raise Cancelled

    try:
        yield step
    finally:
        monitor.phase_finish(name)


def report_progress(config):
    """Call the progress monitor as a build does, with phases inside phases."""
    monitor = config._sim.values.get("progress_monitor")
    if monitor is None:
        return
    with phase(monitor, "Building engine", None, 6) as step:
        inner = ["Cloning network graph", "Preparing graph for optimization", "Building engine from subgraph"]
        for number in range(6):
            if number < len(inner):
                with phase(monitor, inner[number], "Building engine", 3) as inner_step:
                    for inner_number in range(3):
                        inner_step(inner_number)
            step(number)


def calibration_prefix(module):
    """The first line of this release's calibration caches."""
    major, minor, patch = (int(part) for part in module.__version__.split(".")[:3])
    number = major * 1000 + minor * 100 + patch if major < 10 else major * 10000 + minor * 100 + patch
    return f"TRT-{number}-EntropyCalibration2\n".encode()


def calibrate(config):
    """Whether the calibrator's cache is taken; None where there is no calibrator. Batches of images are not simulated."""
    module, calibrator = config._sim.module, config._sim.values.get("int8_calibrator")
    if calibrator is None:
        return None
    cached = calibrator.read_calibration_cache()
    if cached is not None and not is_buffer(cached):
        raise BuildError("read_calibration_cache returned no buffer")
    if cached is not None and bytes(cached).startswith(calibration_prefix(module)):
        return True
    if cached is not None:
        log(module, config._sim.logger, "WARNING", "the calibration cache is of another release and is not used")
    calibrator.get_batch_size()
    if calibrator.get_batch([]) is not None:
        raise BuildError("the stand-in takes no calibration images")
    raise BuildError("Calibration failure occurred with no scaling factors detected.")


def targets(config):
    """(compute capabilities the plan runs on, whether it also runs on whatever is newer)."""
    module, here = config._sim.module, list(gpu.compute_capability)
    if is_rtx(module):
        chosen = [one for one in config._sim.capabilities if one.name != "NONE"]
        numbers = [here if one.name == "CURRENT" else [int(one) // 10, int(one) % 10] for one in chosen]
        return numbers or RTX_DEFAULT, False
    level = config._sim.values["hardware_compatibility_level"].name
    return [here], level == "AMPERE_PLUS"


def describe(network, config, calibration):
    """What the plan says about itself."""
    from . import network as onnx_network

    module, state = config._sim.module, network._sim
    profiles = [profile._sim.shapes for profile in config._sim.profiles]
    flags = flag_names(config)
    capabilities, portable = targets(config)
    layers = onnx_network.layers(state.model, requantise=not is_rtx(module))
    inputs, outputs = ([tensor_description(tensor) for tensor in tensors] for tensors in (state.inputs, state.outputs))
    if not state.typed and "FP16" in flags:
        halve(layers, {tensor["name"] for tensor in inputs + outputs})
    largest = {}
    for tensor in inputs:
        shape = profiles[0][tensor["name"]][2] if profiles and tensor["name"] in profiles[0] else tensor["dims"]
        largest.update(zip(map(str, tensor["dims"]), shape, strict=True))
    sizes = [
        prod(int(largest.get(str(size), 1)) if isinstance(size, str) else size for size in one["dims"])
        for layer in layers
        for one in layer["outputs"]
    ]
    return {
        "module": module.__name__,
        "version": module.__version__,
        "compute_capability": list(gpu.compute_capability),
        "targets": capabilities,
        "portable": portable,
        "profile": profiles[0] if profiles else {tensor["name"]: [tensor["dims"]] * 3 for tensor in inputs},
        "flags": sorted(flags),
        "dla_core": config._sim.values["DLA_core"] if config._sim.values["default_device_type"].name == "DLA" else None,
        "shared_profile": config._sim.previews.get("PROFILE_SHARING_0806", not module.__version__.startswith("8.")),
        "typed": state.typed,
        "inputs": inputs,
        "outputs": outputs,
        "layers": layers,
        "verbosity": config._sim.values["profiling_verbosity"].name,
        "optimization_level": config._sim.values["builder_optimization_level"],
        "workspace": config._sim.pools.get("WORKSPACE"),
        "calibration": calibration,
        "scratch_bytes": -(-8 * max(sizes, default=1) // 512) * 512,
        "name": network.name,
    }


def tensor_description(tensor):
    """The tensor as the plan describes it."""
    return {"name": tensor.name, "dtype": tensor.dtype.name, "dims": tensor._sim.dims}


def halve(layers, outside):
    """Make float tensors between layers half, as the FP16 flag does."""
    for layer in layers:
        for kind in ("inputs", "outputs"):
            layer[kind] = [
                {**one, "dtype": "HALF"} if one["dtype"] == "FLOAT" and one["name"] not in outside else one
                for one in layer[kind]
            ]


def tensor_log(tensor):
    """One tensor as TensorRT-RTX prints it."""
    sizes = free_as_minus_one(tensor["dims"])
    order = list(range(len(sizes)))[::-1]
    layout = "(Linear) Row major linear format"
    if len(sizes) == 4:
        order, layout = [3, 0, 2, 1], "(NHWC) Channel major format"
    strides, step = [0] * len(sizes), 1
    for axis in sorted(range(len(sizes)), key=lambda axis: order[axis]):
        strides[axis], step = step, step * sizes[axis]
    parts = {
        "Name": tensor["name"],
        "Dimensions": listed(sizes),
        "Strides": listed(strides),
        "StrideOrder": listed(order),
        "Datatype": LOG_NAMES.get(tensor["dtype"], tensor["dtype"]),
        "Format": layout,
    }
    return "{ " + ", ".join(f"{key}: {value}" for key, value in parts.items()) + " }"


def listed(numbers):
    """[1,2,3] without spaces, as the library prints lists."""
    return "[" + ",".join(map(str, numbers)) + "]"


def layer_log(description):
    """The message with every layer, which TensorRT-RTX logs where the profiling verbosity is DETAILED."""
    lines = ["Layers:"]
    for index, layer in enumerate(description["layers"]):
        tensors = {
            kind: "[" + ", ".join(map(tensor_log, layer[kind])) + "]" for kind in ("inputs", "constants", "outputs")
        }
        for kind, text in tensors.items():
            tensors[kind] = text.replace("[{", "[ {")
        metadata = "\x1f".join(f"[ONNX Layer: {name}]" for name in layer["nodes"])
        lines.append(
            f"Name: {layer['name']}_myl0_{index}, LayerType: {layer['kind']}, Inputs: {tensors['inputs']}, "
            f"Constants: {tensors['constants']}, Outputs: {tensors['outputs']}, TacticName: t, StreamId: 0, Metadata: {metadata}"
        )
    bindings = [
        f" Name: {one['name']}, IOMode: {mode}, DataType: {LOG_NAMES[one['dtype']]}, Dimensions: {listed(free_as_minus_one(one['dims']))}"
        for mode, kind in (("Input", "inputs"), ("Output", "outputs"))
        for one in description[kind]
    ]
    return "\n".join([*lines, "", "Bindings:", *bindings])


def check_dla(network, config):
    """Raise BuildError where the accelerator was asked for and cannot run the network."""
    if config._sim.values["default_device_type"].name != "DLA":
        return
    flags = flag_names(config)
    if not 0 <= config._sim.values["DLA_core"] < dla_cores(config._sim.module):
        raise BuildError(f"DLA core {config._sim.values['DLA_core']} does not exist")
    if not network._sim.typed and not flags & {"FP16", "INT8"}:
        raise BuildError("Default DLA is enabled but FP16 and INT8 are not")
    if any(
        smallest != largest for profile in config._sim.profiles for smallest, _, largest in profile._sim.shapes.values()
    ):
        raise BuildError("DLA does not support dynamic shapes: min, opt and max must be equal")
    outside = [layer.name for layer in network._sim.layers if layer.type.name not in DLA_LAYERS]
    if outside and "GPU_FALLBACK" not in flags:
        raise BuildError(f"layers {outside} cannot run on DLA and GPU_FALLBACK is not set")
