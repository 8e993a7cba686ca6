import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgeresnext.compiler.emit import emit
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.plan import ONNX_FILES, calibrated_tensors, plan_for, threshold_source
from edgeresnext.compiler.quantise import quantise
from edgeresnext.errors import AccuracyError
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import random_network
from edgeresnext.spec import ModelSpec, Preprocess

FILES = list(ONNX_FILES)
SPEC = specify("resnext20_8x4d")
WITH_MAXPOOL = ModelSpec(
    name="small", depths=(1, 1), cardinality=4, width_per_group=4, base_channels=8, classes=5,
    preprocess=Preprocess(resize_px=64, crop_px=64),
)  # fmt: skip


def emitted(name, spec=SPEC):
    graph = trace(random_network(spec, 0), spec.preprocess.size)
    thresholds = dict.fromkeys(calibrated_tensors(graph), 2.0)
    return emit(graph, quantise(graph, plan_for(graph, name, thresholds), thresholds), spec), graph


@pytest.fixture(
    scope="module", params=[(n, s) for n in FILES for s in (SPEC, WITH_MAXPOOL)], ids=lambda p: f"{p[0]}-{p[1].name}"
)
def model(request):
    return (*emitted(*request.param), request.param[0])


def nodes(proto, *ops):
    return [node for node in proto.graph.node if node.op_type in ops]


def test_the_onnx_checker_accepts_it(model):
    onnx.checker.check_model(model[0], full_check=True)


def test_opset_is_13_and_19_where_scales_are_float16(model):
    proto, _, name = model
    assert proto.opset_import[0].version == (19 if name == "int8-fp16" else 13)


def test_the_input_is_uint8_nhwc_with_a_free_batch_and_a_cast_follows_at_once(model):
    (value,) = model[0].graph.input
    assert value.type.tensor_type.elem_type == TensorProto.UINT8
    shape = value.type.tensor_type.shape.dim
    assert shape[0].dim_param == "batch"
    assert shape[3].dim_value == 3
    readers = [node for node in model[0].graph.node if value.name in node.input]
    assert [node.op_type for node in readers] == ["Cast"]


def test_scales_of_activations_are_scalars(model):
    """TensorRT-RTX 1.7 runs a convolution in floating point when its input's scale has the shape (1,)."""
    proto, _, _ = model
    shapes = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    for node in nodes(proto, "QuantizeLinear"):
        assert shapes[node.input[1]] == []
        assert shapes[node.input[2]] == []


def test_the_output_is_float32_logits(model):
    (value,) = model[0].graph.output
    assert (value.name, value.type.tensor_type.elem_type) == ("logits", TensorProto.FLOAT)


def test_no_dequantizelinear_takes_int32_and_all_zero_points_are_zero(model):
    constants = {t.name: numpy_helper.to_array(t) for t in model[0].graph.initializer}
    for node in nodes(model[0], "QuantizeLinear", "DequantizeLinear"):
        assert len(node.input) == 3
        zero_point = constants[node.input[2]]
        assert zero_point.dtype in (np.int8, np.uint8)
        assert not zero_point.any()
        assert (constants[node.input[1]] > 0).all()


def test_only_the_cpu_file_stores_activations_unsigned(model):
    proto, _, name = model
    unsigned = [t for t in proto.graph.initializer if t.data_type == TensorProto.UINT8]
    assert bool(unsigned) == (name == "int8-cpu")


def test_weights_are_stored_as_int8_and_dequantised_directly_before_their_layer(model):
    proto, _, name = model
    if not name.startswith("int8"):
        assert not nodes(proto, "DequantizeLinear")
        return
    producer = {node.output[0]: node for node in proto.graph.node}
    constants = {t.name: t for t in proto.graph.initializer}
    floating = [] if name != "int8-cpu" else ["fc"]  # as fast on a CPU, and exact
    for node in nodes(proto, "Conv", "Gemm"):
        if node.name in floating or (node.output[0] == "logits" and floating):
            assert node.input[1] in constants
            continue
        dequantise = producer[node.input[1]]
        assert dequantise.op_type == "DequantizeLinear"
        assert constants[dequantise.input[0]].data_type == TensorProto.INT8
        assert list(constants[dequantise.input[1]].dims) == [constants[dequantise.input[0]].dims[0]]
        assert producer[node.input[0]].op_type == "DequantizeLinear"
        assert node.input[2] in constants


def test_each_tensor_is_quantised_once_and_of_an_add_one_input(model):
    proto, graph, name = model
    quantised = [node.input[0] for node in nodes(proto, "QuantizeLinear")]
    assert len(set(quantised)) == len(quantised)
    if name.startswith("int8"):
        for add in nodes(proto, "Add"):
            assert [source.endswith(".dequantised") for source in add.input].count(True) == 1
    assert graph.layers[-1].name not in quantised


def test_in_a_half_precision_file_everything_between_is_half(model):
    proto, _, name = model
    types = {t.data_type for t in proto.graph.initializer if not t.name.startswith("preprocess.")}
    assert (TensorProto.FLOAT16 in types) == (name in ("fp16", "int8-fp16"))
    assert (TensorProto.FLOAT in types) == (name not in ("fp16", "int8-fp16"))


def test_layers_keep_their_names(model):
    proto, graph, _ = model
    assert {layer.name for layer in graph.layers} <= {node.name for node in proto.graph.node}


def test_a_quantised_weight_is_within_half_a_step_of_the_original():
    proto, graph = emitted("int8")
    constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    for layer in graph.layers:
        if layer.weight is None:
            continue
        scale = constants[f"{layer.name}.weight.scale"].reshape(-1, *[1] * (layer.weight.ndim - 1))
        error = np.abs(constants[f"{layer.name}.weight.quantised"] * scale - layer.weight)
        assert (error <= 0.5001 * scale).all()


def test_of_an_add_the_identity_is_quantised_and_of_two_convolutions_the_smaller():
    graph = trace(random_network(SPEC, 0), (32, 32))
    thresholds = dict.fromkeys(calibrated_tensors(graph), 2.0)
    for smaller, larger in (("conv3", "downsample.0"), ("downsample.0", "conv3")):
        plan = plan_for(graph, "int8", thresholds | {f"layer2.0.{smaller}": 1.0, f"layer2.0.{larger}": 3.0})
        assert plan.inputs["layer2.0.add"] == f"layer2.0.{smaller}"
        assert plan.inputs["layer2.1.add"] == "layer2.0.relu3"
        assert "layer2.1.conv3" not in plan.inputs.values()


def test_a_pool_shares_its_input_s_threshold():
    graph = trace(random_network(WITH_MAXPOOL, 0), (64, 64))
    assert threshold_source(graph, "maxpool") == "relu"
    assert threshold_source(graph, "relu") == "relu"


def test_grouped_convolutions_that_int8_cannot_run_stay_in_floating_point_with_the_reason():
    spec = ModelSpec(
        name="thin", depths=(1, 1), cardinality=4, width_per_group=2, base_channels=8, classes=5, stem="cifar",
        preprocess=Preprocess(resize_px=32, crop_px=32),
    )  # fmt: skip
    graph = trace(random_network(spec, 0), (32, 32))
    plan = plan_for(graph, "int8", dict.fromkeys(calibrated_tensors(graph), 1.0))
    assert plan.layers["layer1.0.conv2"] == "fp32"
    assert "2 channels a group" in plan.reasons["layer1.0.conv2"]
    assert plan.layers["layer2.0.conv2"] == "int8"


def test_weights_that_do_not_fit_float16_are_refused_by_name():
    network = random_network(SPEC, 0)
    network.layer1[0].bn1.weight.data.fill_(1e6)
    graph = trace(network, (32, 32))
    with pytest.raises(AccuracyError, match=r"layer1\.0\.conv1"):
        emit(graph, quantise(graph, plan_for(graph, "fp16", {}), {}), SPEC)
