"""What the simulated network definition and the ONNX parser do."""

from .surface import create, log, simulated

LAST_OPSET = {"8.6": 17}


def free_as_minus_one(dims):
    """The sizes with -1 for each free one."""
    return [size if isinstance(size, int) else -1 for size in dims]


@simulated("Builder", "create_network")
def create_network(self, flags):
    module = self._sim.module
    kinds = module.NetworkDefinitionCreationFlag.__members__
    always = "EXPLICIT_BATCH" not in kinds
    flags |= 1 << int(kinds["STRONGLY_TYPED"]) if always else 0
    typed = "STRONGLY_TYPED" in kinds and bool(flags & 1 << int(kinds["STRONGLY_TYPED"]))
    network = create(module, "INetworkDefinition", logger=self._sim.logger, builder=self, flags=flags, typed=typed)
    network._sim.model, network._sim.inputs, network._sim.outputs, network._sim.layers = None, [], [], []
    network._sim.values["name"] = "Unnamed Network 0"
    return network


@simulated("INetworkDefinition", "num_layers")
def num_layers(self):
    return len(self._sim.layers)


def item(self, items, index):
    """The item, or None and an error in the log as the library does."""
    if not 0 <= index < len(items):
        log(self._sim.module, self._sim.logger, "ERROR", f"index {index} is not in [0, {len(items)})")
        return None
    return items[index]


@simulated("INetworkDefinition", "get_input")
def get_input(self, index):
    return item(self, self._sim.inputs, index)


@simulated("INetworkDefinition", "get_layer")
def get_layer(self, index):
    return item(self, self._sim.layers, index)


@simulated("ILayer", "type")
def layer_type(self):
    return self._sim.type


@simulated("ITensor", "shape")
def tensor_shape(self):
    return self._sim.module.Dims(free_as_minus_one(self._sim.dims))


@simulated("ITensor", "dtype")
def tensor_dtype(self):
    return self._sim.dtype


# Parser


@simulated("OnnxParser", "__init__")
def parser_init(self, network, logger):
    self._sim.network, self._sim.logger, self._sim.errors = network, logger, []


@simulated("OnnxParser", "parse_from_file")
def parse_from_file(self, path):
    return parse_model(self, path=path)


@simulated("OnnxParser", "parse")
def parse(self, content, _path):
    return parse_model(self, content=bytes(content))


@simulated("OnnxParser", "num_errors")
def num_errors(self):
    return len(self._sim.errors)


@simulated("OnnxParser", "get_error")
def get_error(self, index):
    return item(self, self._sim.errors, index)


@simulated("ParserError", "desc")
def error_desc(self):
    return self._sim.description


def parse_model(parser, content=None, path=None):
    """Fill the parser's network from an ONNX file; False and an error where TensorRT would refuse it."""
    from . import network as onnx_network

    module, network = parser._sim.module, parser._sim.network
    try:
        model = onnx_network.load(content, path)
        problem = parse_problem(module, network, onnx_network, model)
    except Exception as error:  # noqa: BLE001 - whatever the bytes do to the ONNX package is a parse error
        problem = f"Failed to parse the ONNX model: {type(error).__name__}: {error}"
    if problem:
        parser._sim.errors.append(create(module, "ParserError", description=problem))
        log(module, parser._sim.logger, "ERROR", problem)
        return False
    state, kinds = network._sim, module.LayerType.__members__
    inputs, outputs = onnx_network.interface(model)
    for tensors, kept in ((inputs, state.inputs), (outputs, state.outputs)):
        for tensor in tensors:
            dtype = module.DataType.__members__.get(tensor["dtype"], module.DataType.INT32)
            kept.append(create(module, "ITensor", dims=tensor["dims"], dtype=dtype, is_input=tensors is inputs))
            kept[-1]._sim.values["name"] = tensor["name"]
    for node, name in zip(model.graph.node, onnx_network.node_names(model), strict=True):
        kind = kinds[onnx_network.LAYER_TYPES.get(node.op_type, "IDENTITY")]
        state.layers.append(create(module, "ILayer", type=kind, output_types={}))
        state.layers[-1]._sim.values.update(name=name, metadata=f"[ONNX Layer: {name}]")
    state.model = model
    return True


def parse_problem(module, network, onnx_network, model):
    """Why this release does not take the model; None where it does."""
    release = ".".join(module.__version__.split(".")[:2])
    if network._sim.model is not None:
        return "Parse was called with a non-empty network definition"
    if release == "8.6" and not network._sim.flags & 1:
        return "This version of the ONNX parser only supports networks with an explicit batch dimension"
    if onnx_network.opset(model) > LAST_OPSET.get(release, 99):
        return f"opset {onnx_network.opset(model)} is newer than this parser, which knows {LAST_OPSET[release]}"
    for node in model.graph.node:
        if node.domain not in {"", "ai.onnx"}:
            return f"No importer registered for op: {node.domain}::{node.op_type}"
    return onnx_network.quantisation_problem(model, int8_weights="INT4" in module.DataType.__members__)
