"""What a runtime would do that an ONNX file asks for, and none of ours asks for."""

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeresnext.bundle.onnx_file import OPERATORS, check_onnx
from edgeresnext.compiler.emit import emit
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.plan import GROUPED_FLOAT_FILES, ONNX_FILES, calibrated_tensors, plan_for
from edgeresnext.compiler.quantise import quantise
from edgeresnext.errors import BundleError
from edgeresnext.model import ensemble
from edgeresnext.model.catalogue import CATALOGUE
from edgeresnext.model.checkpoints import random_network
from edgeresnext.spec import ModelSpec, Preprocess

SPEC = ModelSpec(
    name="small", depths=(1, 1), cardinality=4, width_per_group=4, base_channels=8, classes=5, se_reduction=4,
    stem="deep", shortcut="pooled", preprocess=Preprocess(resize_px=64, crop_px=64),
)  # fmt: skip


def emitted(name, spec, network):
    graph = trace(network, spec.preprocess.size)
    limits = dict.fromkeys(calibrated_tensors(graph), 2.0)
    return emit(graph, quantise(graph, plan_for(graph, name, limits), limits), spec)


@pytest.fixture
def model():
    return emitted("int8", SPEC, random_network(SPEC, 0))


@pytest.mark.parametrize("name", [*ONNX_FILES, *GROUPED_FLOAT_FILES])
def test_our_own_files_are_let_in(name):
    check_onnx(emitted(name, SPEC, random_network(SPEC, 0)).SerializeToString(), SPEC, "x.onnx")


def test_the_operators_are_those_that_some_network_needs():
    small = CATALOGUE["resnet20"].spec
    together = ensemble.specify([small, small], "probability")
    network = ensemble.join([random_network(small, seed) for seed in (0, 1)], "probability")
    pre = CATALOGUE["preact_resnet110"].spec
    shallow = ModelSpec(**{name: getattr(pre, name) for name in pre.__struct_fields__} | {"depths": (1, 1)})
    models = [
        emitted("int8", SPEC, random_network(SPEC, 0)), emitted("fp16", together, network),
        emitted("int8", shallow, random_network(shallow, 0)),
    ]  # fmt: skip
    assert {node.op_type for model in models for node in model.graph.node} == OPERATORS


def add(**changes):
    return lambda model: model.graph.node.add(**{"op_type": "Relu", "input": ["logits"], "output": ["x"]} | changes)


def external(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="labels.txt")


def loop(model):
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["n", "c"], ["y"], body=body))


def constant(model):
    tensor = numpy_helper.from_array(np.zeros(1, np.float32))
    model.graph.node[0].attribute.append(helper.make_attribute("value", tensor))


def wider(model):
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (add(op_type="Loop"), "operator Loop"),
        (add(op_type="If"), "operator If"),
        (loop, "operator Loop"),
        (add(domain="com.microsoft"), "operator Relu"),
        (add(op_type=""), "operator without a name|operator ,"),
        (external, "weights in other files"),
        (constant, "holds a graph or a tensor"),
        (wider, r"its output is logits: float32 \(None, 6\), not logits: float32 \(None, 5\)"),
        (lambda model: model.graph.output.add(name="more"), "no ONNX file|its output is"),
        (lambda model: model.graph.input.pop(), "its input is missing"),
        (lambda model: setattr(model.opset_import[0], "version", 2**40), "no release of ONNX"),
        (lambda model: setattr(model.opset_import[0], "version", -1), "no release of ONNX"),
        (lambda model: model.opset_import.add(domain="ai.onnx.ml", version=1), "no release of ONNX"),
        (lambda model: model.opset_import.pop(), "no release of ONNX"),
        (lambda model: model.functions.add(name="f"), "not one graph alone"),
        (lambda model: model.training_info.add(), "not one graph alone"),
        (lambda model: model.graph.sparse_initializer.add(), "sparse weights"),
    ],
    ids=[
        "loop",
        "if",
        "body",
        "domain",
        "no operator",
        "external",
        "constant",
        "wider",
        "two outputs",
        "no input",
        "release to come",
        "release before all",
        "two sets of operators",
        "no operators",
        "function",
        "training",
        "sparse",
    ],
)
def test_what_none_of_ours_asks_for_is_refused(model, change, reason):
    change(model)
    with pytest.raises(BundleError, match=reason):
        check_onnx(model.SerializeToString(), SPEC, "x.onnx")


def test_a_second_graph_that_protobuf_would_merge_into_the_first_is_seen(model):
    other = onnx.ModelProto()
    other.graph.node.add(op_type="Loop")
    with pytest.raises(BundleError, match="not one graph alone"):
        check_onnx(model.SerializeToString() + other.SerializeToString(), SPEC, "x.onnx")


def varint(number):
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def test_a_field_whose_number_protobuf_would_cut_is_seen(model):
    """Beyond 32 bits a key is another field to us, and to protobuf the one of its lower bits."""
    node = model.graph.node[5]
    hidden = varint(4 << 3 | 2 | 1 << 32) + varint(4) + b"Loop"
    whole = model.SerializeToString()
    inner = node.SerializeToString()
    changed = inner + hidden
    graph = model.graph.SerializeToString().replace(
        varint(1 << 3 | 2) + varint(len(inner)) + inner, varint(1 << 3 | 2) + varint(len(changed)) + changed, 1
    )
    head = model.__class__()
    head.CopyFrom(model)
    head.ClearField("graph")
    content = head.SerializeToString() + varint(7 << 3 | 2) + varint(len(graph)) + graph
    assert len(content) > len(whole)
    with pytest.raises(BundleError, match="none of ours"):
        check_onnx(content, SPEC, "x.onnx")


def test_an_input_that_is_named_twice_is_refused(model):
    value = model.graph.input[0].SerializeToString()
    doubled = model.graph.input[0].__class__(name="other").SerializeToString() + value
    model.graph.input[0].MergeFromString(b"")
    graph = model.graph.SerializeToString().replace(
        varint(11 << 3 | 2) + varint(len(value)) + value, varint(11 << 3 | 2) + varint(len(doubled)) + doubled, 1
    )
    head = model.__class__()
    head.CopyFrom(model)
    head.ClearField("graph")
    with pytest.raises(BundleError, match="none of ours"):
        check_onnx(head.SerializeToString() + varint(7 << 3 | 2) + varint(len(graph)) + graph, SPEC, "x.onnx")


def test_a_file_that_is_two_formats_at_once_is_refused(model):
    content = b"\x12\xff\x80\x00ORTM" + bytes(123) + model.SerializeToString()
    with pytest.raises(BundleError, match="ONNX Runtime's own format"):
        check_onnx(content, SPEC, "x.onnx")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_rubbish_is_refused_and_nothing_else_is_raised(content):
    with pytest.raises(BundleError):
        check_onnx(content, SPEC, "x.onnx")


@settings(max_examples=300, deadline=None)
@given(at=st.integers(min_value=0), byte=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_leaves_a_plain_graph(at, byte):
    content = bytearray(_WHOLE)
    content[at % len(content)] = byte
    try:
        check_onnx(bytes(content), SPEC, "x.onnx")
    except BundleError:
        return
    try:
        read = onnx.load_from_string(bytes(content))
    except DecodeError:  # then runtimes, which read it with the same library, refuse it too
        return
    assert {node.op_type for node in read.graph.node} <= OPERATORS
    assert not read.functions


_WHOLE = emitted("fp32", SPEC, random_network(SPEC, 0)).SerializeToString()
