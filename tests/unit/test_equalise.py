import numpy as np
import onnx
import pytest
import torch
from as_written import as_written
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeresnext.compiler import INPUT
from edgeresnext.compiler.calibrate import channel_statistics, observe, thresholds
from edgeresnext.compiler.emit import emit
from edgeresnext.compiler.equalise import EIGHTHS, WHOLE, channel_groups, find_exponents, powers, rescaled
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.plan import plan_for
from edgeresnext.compiler.quantise import quantise
from edgeresnext.compiler.simulate import Simulation
from edgeresnext.compiler.thresholds import Method
from edgeresnext.data.synthetic import generate
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import random_network
from edgeresnext.model.resnext import normalise
from edgeresnext.spec import ModelSpec, Preprocess

SPEC = specify("resnext20_8x4d")
WITH_MAXPOOL = ModelSpec(
    name="small", depths=(1, 2), cardinality=4, width_per_group=4, base_channels=8, classes=5,
    preprocess=Preprocess(resize_px=64, crop_px=64),
)  # fmt: skip


def images(size, count=8):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=[SPEC, WITH_MAXPOOL], ids=lambda spec: spec.name)
def graph(request):
    spec = request.param
    return trace(random_network(spec, 0), spec.preprocess.size)


def size_of(graph):
    return 32 if len(graph.layers) > 50 else 64


def test_groups_hold_every_tensor_but_the_image_s_and_the_logits(graph):
    groups = channel_groups(graph)
    tensors = [tensor for group in groups for tensor in group.tensors]
    assert len(tensors) == len(set(tensors))
    assert set(tensors) == {layer.name for layer in graph.layers} - {INPUT, graph.layers[-1].name}
    stage = next(group for group in groups if "layer2.1.relu3" in group.tensors)
    assert {"layer2.0.downsample.0", "layer2.0.conv3", "layer2.1.conv3"} == {writer.name for writer in stage.writers}
    assert "layer2.1.conv1" in {reader.name for reader in stage.readers}
    inner = next(group for group in groups if "layer1.0.relu1" in group.tensors)
    assert ([w.name for w in inner.writers], [r.name for r in inner.readers]) == (
        ["layer1.0.conv1"],
        ["layer1.0.conv2"],
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_any_powers_of_two_leave_the_logits_as_they_are_to_the_bit(graph, seed, reach):
    generator = np.random.default_rng(seed)
    sizes = {layer.name: layer.shape[0] for layer in graph.layers}
    exponents = {
        group.name: tuple(generator.integers(-reach, reach + 1, sizes[group.name]).tolist())
        for group in channel_groups(graph)
    }
    batch = images(size_of(graph), 2)
    other = rescaled(graph, exponents)
    assert any((a.weight != b.weight).any() for a, b in zip(graph.layers, other.layers, strict=True) if a.computes)
    assert torch.equal(Executor(other).logits(batch), Executor(graph).logits(batch))


def test_powers_are_exact_where_exponents_are_integers():
    assert powers([-24.0, -1.0, 0.0, 3.0]).tolist() == [2.0**-24, 0.5, 1.0, 8.0]
    assert np.allclose(powers([-0.125, 1.5]), [2**-0.125, 2**1.5], rtol=1e-12)


def test_eighths_of_powers_of_two_even_out_what_whole_ones_cannot_and_leave_the_logits_within_rounding():
    network = random_network(SPEC, 0)
    with torch.no_grad():
        for block in (network.layer1[0], network.layer2[0], network.layer3[0]):
            for values in (block.bn1.weight, block.bn1.bias):
                values[::2] *= 1.4  # less than half of a power of two
    graph = trace(network, (32, 32))
    seen = images(32, 16)
    found = {
        fineness: find_exponents(graph, channel_statistics(graph, [seen]), [seen], fineness)
        for fineness in (WHOLE, EIGHTHS)
    }
    assert all(exponent.is_integer() for one in found[WHOLE].values() for exponent in one)
    exponents = np.concatenate([np.array(one) for one in found[EIGHTHS].values()])
    assert (exponents * 8 == np.rint(exponents * 8)).all()
    assert (exponents != np.rint(exponents)).any()
    exact, other = (Executor(one).logits(seen) for one in (graph, rescaled(graph, found[EIGHTHS])))
    assert float((exact - other).abs().max() / exact.abs().max()) < 1e-5


def test_scaled_channels_are_found_and_evened_out():
    network = random_network(SPEC, 0)
    with torch.no_grad():
        block = network.layer2[0]
        block.bn1.weight[:16] *= 64
        block.bn1.bias[:16] *= 64
        columns = torch.ones(64)
        columns[:16] = 1 / 64
        block.conv2.weight *= columns.view(8, 1, 8).expand(-1, 8, -1).reshape(64, 8, 1, 1)
    graph = trace(network, (32, 32))
    seen = channel_statistics(graph, [images(32, 16)])

    def spread(observed):
        largest = observed["layer2.0.relu1"].maximum
        return float(largest[:16].mean() / largest[16:].mean())

    exponents = find_exponents(graph, seen, [images(32, 16)])
    evened = channel_statistics(rescaled(graph, exponents), [images(32, 16)])
    assert spread(seen) > 30
    assert 1 / 4 < spread(evened) < 4
    assert evened["layer2.0.relu1"].maximum.max() <= seen["layer2.0.relu1"].maximum.max()  # float16's range


def test_it_does_not_make_a_healthy_network_worse(graph):
    seen, other = images(size_of(graph), 16), images(size_of(graph), 24)[16:]  # judged on images that it has not seen

    def noise(one):
        limits = thresholds(one, observe(one, [seen]), Method.parse("mse"))
        simulation = Simulation(one, quantise(one, plan_for(one, "int8", limits), limits))
        return float((simulation.logits(other) - Executor(one).logits(other)).square().sum())

    exponents = find_exponents(graph, channel_statistics(graph, [seen]), [seen])
    assert noise(rescaled(graph, exponents)) < 1.12 * noise(graph)  # 0.5 dB


def test_an_outlier_channel_costs_float16_nothing(tmp_path):
    network = random_network(SPEC, 0)
    with torch.no_grad():
        block = network.layer1[0]
        block.bn1.weight[3] *= 4096
        block.bn1.bias[3] *= 4096
        block.conv2.weight[:4, 3] /= 4096
    graph = trace(network, (32, 32))
    pixels = generate(16, (32, 32), 0)
    batch = normalise(torch.from_numpy(pixels), SPEC)
    exponents = find_exponents(graph, channel_statistics(graph, [batch]), [batch])
    assert exponents["layer1.0.conv1"][3] <= -8

    def snr(one):
        onnx.save(emit(one, quantise(one, plan_for(one, "fp16", {}), {}), SPEC), tmp_path / "x.onnx")
        exact, found = Executor(one).logits(batch).numpy(), as_written(tmp_path / "x.onnx", pixels)
        return 10 * np.log10(np.square(exact).sum() / np.square(exact - found).sum())

    assert snr(rescaled(graph, exponents)) > snr(graph) - 1
