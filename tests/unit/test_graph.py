import pytest
import torch
from torch import nn

from edgeresnext.compiler import INPUT
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.graph import trace
from edgeresnext.errors import CheckpointError
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import random_network

SPEC = specify("resnext20_8x4d")


@pytest.fixture(scope="module")
def network():
    return random_network(SPEC, 3)


def test_the_folded_graph_computes_what_the_network_computes(network):
    graph = trace(network, (32, 32))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(images)
    got = Executor(graph).logits(images)
    assert float((expected - got).abs().max()) < 2e-6 * float(expected.abs().max())


def test_tracing_leaves_the_network_as_it_was(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trace(network, (32, 32))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_layers_keep_the_module_s_names_and_producers_come_first(network):
    graph = trace(network, (32, 32))
    names = [layer.name for layer in graph.layers]
    assert len(set(names)) == len(names)
    assert {"conv1", "layer1.0.conv2", "layer2.0.downsample.0", "layer3.1.add", "fc"} <= set(names)
    seen = {INPUT}
    for layer in graph.layers:
        assert set(layer.inputs) <= seen
        seen.add(layer.name)
    assert graph.layers[-1].name == "fc"


def test_shapes_and_groups_are_read_from_the_trace(network):
    layers = {layer.name: layer for layer in trace(network, (32, 32)).layers}
    assert layers["layer2.0.conv2"].shape == (64, 16, 16)
    assert layers["layer2.0.conv2"].attributes["group"] == 8
    assert layers["layer2.0.conv2"].weight.shape == (64, 8, 3, 3)


def test_only_tensors_after_relu_are_non_negative(network):
    found = trace(network, (32, 32)).non_negative
    assert {"relu", "layer1.0.relu1", "avgpool"} <= found
    assert not {INPUT, "conv1", "layer1.0.downsample.0", "layer1.0.add", "fc"} & found


def test_a_fold_that_overflows_names_the_layer(network):
    broken = random_network(SPEC, 0)
    broken.layer1[0].bn2.running_var.fill_(-1.0)
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv2"):
        trace(broken, (32, 32))


def test_a_module_that_has_no_onnx_form_is_named():
    with pytest.raises(NotImplementedError, match="Hardswish"):
        trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardswish()), (8, 8))
