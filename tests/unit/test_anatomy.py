"""Layer lists of engines, as TensorRT-RTX prints them and as TensorRT's inspector gives them."""

import json

from edgeresnext.backends._trt.anatomy import from_build_log, from_inspector
from edgeresnext.machine.peak_rates import DEVICES, estimate_s
from edgeresnext.spec import EngineLayer

LOG = """Layers:
Name: __mye2725_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: 
Name: conv1_U8_myl0_2, LayerType: correlation, Inputs: [ { Name: relu.1_24_myl0, Dimensions: [-1,4,224,224], Strides: [200704,1,896,4], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: [64,4,7,7], Strides: [196,1,28,4], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }, { Name: s, Dimensions: [1], Strides: [1], StrideOrder: [0], Datatype: Float, Format: (Linear) Row major linear format }], Outputs: [ { Name: maxpool.1_25_myl0, Dimensions: [-1,64,112,112], Strides: [802816,1,7168,64], StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: conv1][ONNX Layer: conv1.weight]
Name: __myl_MulAddRelu_myl0_3, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [-1,64,112,112], Strides: [802816,1,7168,64], StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }], Constants: [ { Name: b, Dimensions: [1,64,1,1,9999], Strides: [64,1,64,64], StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }], Outputs: [ { Name: y, Dimensions: [-1,64,112,112], Strides: [802816,1,7168,64], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], TacticName: k, StreamId: 0, Metadata: [ONNX Layer: conv1][ONNX Layer: relu]

I/O Tensors:
 Name: images, IOMode: Input
"""  # noqa: W291 - as TensorRT-RTX 1.7.1 prints it, shortened

# The shape of a layer in TensorRT 8 (trex, tests/inputs/mobilenet.qat) and 10.1 (NVIDIA/TensorRT#4020).
INT8_FORMAT = "Thirty-two wide channel vectorized row major Int8 format"
CONVOLUTION = {
    "Name": "features.1.conv.1.weight + QuantizeLinear_42 + Conv_46",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "351", "Location": "Device", "Dimensions": [1, 32, 112, 112], "Format/Datatype": INT8_FORMAT}],
    "Outputs": [{"Name": "365", "Location": "Device", "Dimensions": [1, 16, 112, 112], "Format/Datatype": INT8_FORMAT}],
    "ParameterType": "Convolution",
    "Weights": {"Type": "Int8", "Count": 512},
    "Bias": {"Type": "Float", "Count": 16},
}
GENERATED = {
    "Name": "kgen",
    "LayerType": "kgen",
    "Inputs": [{"Name": "a", "Dimensions": [1, 8], "Format": "Row major", "Datatype": "Half"}],
    "Outputs": [{"Name": "b", "Dimensions": [1, 8], "Format": "Row major", "DataType": "UInt8"}],
    "Metadata": "[ONNX Layer: relu]\x1e[ONNX Layer: add]",
}


def test_a_printed_list_gives_bytes_types_and_modules():
    convolution, kernel = from_build_log(LOG, {"conv1": 118013952})
    assert convolution.name == "conv1_U8_myl0_2"
    assert convolution.modules == ("conv1", "conv1.weight")
    assert convolution.types == "int8 -> fp32"
    assert convolution.read_bytes == 4 * 224 * 224
    assert convolution.written_bytes == 4 * 64 * 112 * 112
    assert convolution.constant_bytes == 64 * 4 * 7 * 7 + 4
    assert kernel.types == "fp32 -> int8"


def test_a_list_for_a_batch_is_told_for_one_image():
    (alone, _), (batch, _) = (from_build_log(LOG, {"conv1": 5}, size) for size in (1, 8))
    assert (batch.read_bytes, batch.written_bytes) == (alone.read_bytes // 8, alone.written_bytes // 8)
    assert (batch.constant_bytes, batch.macs) == (alone.constant_bytes, 5)


def test_macs_go_to_the_layer_that_computes_not_to_the_one_that_requantises():
    assert [layer.macs for layer in from_build_log(LOG, {"conv1": 5})] == [5, 0]


def test_a_layer_that_nothing_names_gets_no_macs_and_unknown_modules_are_no_error():
    assert sum(layer.macs for layer in from_build_log(LOG, {"elsewhere": 5})) == 0


def test_the_inspectors_json_is_read_in_its_spellings():
    convolution, kernel = from_inspector(json.dumps({"Layers": [CONVOLUTION, GENERATED], "Bindings": []}), {"add": 7})
    assert convolution.types == "int8 -> int8"
    assert convolution.formats == INT8_FORMAT
    assert (convolution.read_bytes, convolution.written_bytes) == (32 * 112 * 112, 16 * 112 * 112)
    assert convolution.constant_bytes == 512 + 4 * 16
    assert kernel.types == "fp16 -> uint8"
    assert kernel.modules == ("relu", "add")


def test_an_engine_without_details_gives_names():
    (layer,) = from_inspector(json.dumps({"Layers": ["conv1 + relu"]}), {})
    assert (layer.name, layer.read_bytes) == ("conv1 + relu", 0)


def layer(**changes):
    values = {"name": "", "kind": "", "modules": (), "types": "fp16 -> fp16", "formats": "", "read_bytes": 0}
    return EngineLayer(**values | {"written_bytes": 0, "constant_bytes": 0, "macs": 0} | changes)


def test_an_estimate_is_the_longer_of_moving_and_computing_layer_by_layer():
    device = next(device for device in DEVICES if device.name == "GeForce RTX 3090")
    moving = layer(read_bytes=936_000_000)
    computing = layer(macs=71_000_000_000, read_bytes=1)
    assert estimate_s([moving], device) == 1e-3
    assert estimate_s([computing], device) == 1e-3
    assert estimate_s([moving, computing], device) == 2e-3
    assert estimate_s([layer(macs=71_000_000_000, types="int8 -> fp32")], device) == 0.5e-3
