import onnx
import pytest
import torch
from as_written import as_written
from onnx import TensorProto

from edgeresnext.compiler.emit import emit
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.plan import calibrated_tensors, parse_keep, plan_for
from edgeresnext.compiler.quantise import quantise
from edgeresnext.data.synthetic import generate
from edgeresnext.errors import RequestError
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import random_network
from edgeresnext.model.resnext import normalise

SPEC = specify("resnext20_8x4d")


@pytest.fixture(scope="module")
def graph():
    return trace(random_network(SPEC, 0), (32, 32))


def test_patterns_match_layers_by_name_and_the_last_one_decides(graph):
    kept = parse_keep(graph, ["fp16:layer1.*", "fp32:layer1.0.conv1", "fp16:fc"])
    assert kept["layer1.1.conv2"].precision == "fp16"
    assert kept["layer1.0.conv1"].precision == "fp32"
    assert {name.partition(".")[0] for name in kept} == {"layer1", "fc"}
    assert "fp32:layer1.0.conv1" in kept["layer1.0.conv1"].reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer1.*", "cannot read"),
        ("int8:layer1.*", "cannot read"),
        ("fp16:", "cannot read"),
        ("fp16:layr1.*", r"matches no layer\n  Did you mean layer1\.\*"),
        ("fp16:layer1.0.conv4", r"Did you mean layer1\.0\.conv"),
        ("fp16:relu", "matches no layer"),
    ],
)
def test_patterns_that_match_nothing_are_refused_with_the_nearest(graph, text, message):
    with pytest.raises(RequestError, match=message):
        parse_keep(graph, ["fp16:fc", text])


@pytest.mark.parametrize(
    ("name", "fp16", "fp32"), [("int8", "fp32", "fp32"), ("int8-fp16", "fp16", "fp32"), ("fp16", "fp16", "fp32")]
)
def test_kept_layers_have_the_type_that_was_asked_for_or_the_wider_one_of_the_file(graph, name, fp16, fp32):
    keep = parse_keep(graph, ["fp16:layer1.0.conv1", "fp32:layer2.0.*"])
    limits = dict.fromkeys(calibrated_tensors(graph), 4.0)
    plan = plan_for(graph, name, limits, keep)
    assert plan.layers["layer1.0.conv1"] == fp16
    assert plan.layers["layer2.0.conv2"] == plan.layers["layer2.0.add"] == fp32
    assert "layer2.0.conv2" not in plan.inputs
    assert "by hand" in plan.reasons["layer2.0.conv2"]
    proto = emit(graph, quantise(graph, plan, limits), SPEC)
    onnx.checker.check_model(proto, full_check=True)
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    expected = {"fp16": TensorProto.FLOAT16, "fp32": TensorProto.FLOAT}
    assert types["layer1.0.conv1.weight"] == expected[fp16]
    assert types["layer2.0.conv2.weight"] == expected[fp32]


def test_a_file_of_three_types_computes_what_the_network_computes(graph, tmp_path):
    pixels = generate(8, (32, 32), 1)
    exact = Executor(graph).logits(normalise(torch.from_numpy(pixels), SPEC))
    limits = dict.fromkeys(calibrated_tensors(graph), 8.0)
    plan = plan_for(graph, "int8-fp16", limits, parse_keep(graph, ["fp32:layer*", "fp16:layer2.0.conv2"]))
    assert set(plan.layers.values()) == {"int8", "fp16", "fp32"}
    onnx.save(emit(graph, quantise(graph, plan, limits), SPEC), tmp_path / "x.onnx")
    found = torch.from_numpy(as_written(tmp_path / "x.onnx", pixels))
    assert float((found - exact).abs().max()) < 0.1 * float(exact.abs().max())
