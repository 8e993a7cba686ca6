import pytest

from edgeresnext.backends.base import Operation
from edgeresnext.measure.layers import by_module

MACS = {"conv1": 1, "layer1.0.conv1": 2, "layer1.0.conv1x": 2, "layer1.0.downsample.0": 3, "fc": 4}


def op(name, kind="Convolution", seconds=1.0):
    return Operation(name=name, kind=kind, seconds=seconds)


@pytest.mark.parametrize(
    ("name", "kind", "module"),
    [
        ("conv1/WithoutBiases", "Convolution", "conv1"),  # OpenVINO
        ("layer1.0.downsample.0/WithoutBiases", "GroupConvolution", "layer1.0.downsample.0"),
        ("fc/WithoutBiases", "FullyConnected", "fc"),
        ("layer1.0.conv1_token_10", "QLinearConv", "layer1.0.conv1"),  # ONNX Runtime
        ("layer1.0.conv1", "FusedConv", "layer1.0.conv1"),
        ("layer1.0.conv1x", "Conv", "layer1.0.conv1x"),
        ("fc_MatMul", "Gemm", "fc"),
        ("layer1.0.relu1_nchwc", "Conv", "layer1.0.conv1"),  # named after the ReLU that was fused with it
        ("relu_nchwc", "Conv", "conv1"),
        ("logits", "FullyConnected", "fc"),
        ("layer1.0.relu1", "Relu", ""),
        ("conv1.weight_quantized", "DequantizeLinear", ""),
        ("images.nchw_original_abcd_acdb_conv1/WithoutBiases", "Reorder", ""),
        ("images.nchw", "Convert", ""),
    ],
)
def test_operations_are_those_of_their_module(name, kind, module):
    (found,) = by_module((op(name, kind),), MACS, {})
    assert (found.module, found.kind) == (module, "" if module else kind)


def test_layers_come_in_execution_order_and_the_rest_by_time():
    operations = (
        op("fc", "Gemm", 0.5), op("a", "Reorder", 0.1), op("conv1/X", seconds=0.2), op("b", "Reorder", 0.1),
        op("c", "MaxPool", 0.3), op("conv1/Y", seconds=0.05),
    )  # fmt: skip
    found = by_module(operations, MACS, {})
    assert [(one.module or one.kind, round(one.seconds, 9)) for one in found] == [
        ("conv1", 0.25), ("fc", 0.5), ("MaxPool", 0.3), ("Reorder", 0.2),
    ]  # fmt: skip
    assert sum(one.seconds for one in found) == pytest.approx(sum(one.seconds for one in operations))


def test_an_engine_s_layers_are_known_from_its_manifest():
    (found,) = by_module((op("__myl_Fused_17", ""),), MACS, {"__myl_Fused_17": "layer1.0.conv1"})
    assert found.module == "layer1.0.conv1"
