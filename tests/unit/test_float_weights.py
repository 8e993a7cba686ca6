"""INT8 weights written as float32 behind a QuantizeLinear, for releases that take no others."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeresnext.bundle.float_weights import with_float_weights
from edgeresnext.errors import InputError

LEVELS = np.arange(-128, 128, dtype=np.int8)


def quantised(scales):
    """A model that adds every INT8 level times each scale, and has an INT8 constant that nothing dequantises."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], name="d", axis=0),
        helper.make_node("Add", ["x", "d"], ["y"], name="y"),
    ]
    shape = [len(scales), len(LEVELS)]
    constants = {
        "w": np.tile(LEVELS, (len(scales), 1)),
        "s": np.array(scales, np.float32),
        "z": np.zeros(len(scales), np.int8),
        "other": LEVELS,
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@given(st.lists(st.floats(2.0**-60, 2.0**60, width=32), min_size=1, max_size=8))
def test_rounding_gives_every_level_back_for_any_scale(scales):
    model = onnx.load_model_from_string(with_float_weights(quantised(scales).SerializeToString()))
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    floats, scale = constants["w.float"], constants["s"][:, None]
    for quotient in (floats / scale, floats * (1 / scale)):  # whichever TensorRT computes
        np.testing.assert_array_equal(np.rint(quotient), np.tile(LEVELS.astype(np.float32), (len(scales), 1)))


def test_the_rest_of_the_file_stays_and_the_checker_takes_it():
    before = quantised([0.5, 2.0])
    after = onnx.load_model_from_string(with_float_weights(before.SerializeToString()))
    onnx.checker.check_model(after, full_check=True)
    first, *rest = after.graph.node
    assert (first.op_type, list(first.input), list(first.output)) == ("QuantizeLinear", ["w.float", "s", "z"], ["w"])
    assert first.attribute == before.graph.node[0].attribute
    assert rest == list(before.graph.node)
    kept = [one for one in after.graph.initializer if one.name != "w.float"]
    assert kept == [one for one in before.graph.initializer if one.name != "w"]
    assert (after.opset_import, after.graph.input, after.graph.output) == (
        before.opset_import,
        before.graph.input,
        before.graph.output,
    )


def test_a_file_without_int8_weights_is_unchanged():
    graph = quantised([1.0])
    del graph.graph.node[0]
    content = graph.SerializeToString()
    assert onnx.load_model_from_string(with_float_weights(content)) == graph


def test_a_weight_without_raw_data_is_damage():
    model = quantised([1.0])
    model.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(InputError, match="damaged ONNX file"):
        with_float_weights(model.SerializeToString())


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda raw: b"\x3a\xff" + raw, lambda raw: b"\x3f" + raw])
def test_a_damaged_file_is_an_error_with_a_way_out(damage):
    with pytest.raises(InputError, match="damaged ONNX file") as caught:
        with_float_weights(damage(quantised([1.0]).SerializeToString()))
    assert caught.value.hint
