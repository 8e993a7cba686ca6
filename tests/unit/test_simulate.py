import dataclasses

import numpy as np
import onnx
import pytest
import torch
from as_written import as_written

from edgeresnext.compiler.calibrate import observe, thresholds
from edgeresnext.compiler.choose import choose_methods
from edgeresnext.compiler.correct import _significant, channel_means, corrected
from edgeresnext.compiler.emit import emit, read_numbers
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.plan import calibrated_tensors, parse_keep, plan_for
from edgeresnext.compiler.quantise import quantise, quantise_weight, weight_limits
from edgeresnext.compiler.sensitivity import ALL, layer_costs
from edgeresnext.compiler.simulate import Simulation
from edgeresnext.compiler.thresholds import Method
from edgeresnext.data.synthetic import generate
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import random_network
from edgeresnext.model.resnext import normalise

SPEC = specify("resnext20_8x4d")


@pytest.fixture(scope="module")
def graph():
    return trace(random_network(SPEC, 0), (32, 32))


@pytest.fixture(scope="module")
def pixels():
    return generate(32, (32, 32), 3)


@pytest.fixture(scope="module")
def images(pixels):
    return normalise(torch.from_numpy(pixels), SPEC)


@pytest.fixture(scope="module")
def limits(graph, images):
    return thresholds(graph, observe(graph, images.split(8)), Method.parse("max"))


def numbers(graph, limits, name, keep=()):
    return quantise(graph, plan_for(graph, name, limits, parse_keep(graph, keep)), limits)


def snr(expected, found):
    noise = float((expected - found).square().sum())
    return 10 * np.log10(float(expected.square().sum()) / noise) if noise else np.inf


@pytest.mark.parametrize("keep", [(), ("fp16:layer2.*",), ("fp32:conv1", "fp16:layer3.0.conv2")])
def test_the_simulation_computes_what_the_file_computes(graph, limits, pixels, tmp_path, keep):
    images = normalise(torch.from_numpy(pixels), SPEC)
    name = "int8-cpu" if len(keep) == 1 else "int8"
    quantised = corrected(graph, numbers(graph, limits, name, keep), images[:16], channel_means(graph, images[:16]))
    onnx.save(emit(graph, quantised, SPEC), tmp_path / "x.onnx")
    expected = torch.from_numpy(as_written(tmp_path / "x.onnx", pixels[16:]))
    found = Simulation(graph, quantised).logits(images[16:])
    # Another order of additions moves a few values over the edge between two levels: far under INT8's own noise.
    exact = Executor(graph).logits(images[16:])
    assert snr(expected, found) > snr(exact, found) + 12


@pytest.mark.parametrize("name", ["int8", "int8-fp16", "int8-cpu"])
def test_numbers_are_read_back_from_the_file(graph, limits, images, tmp_path, name):
    written = corrected(graph, numbers(graph, limits, name), images[:16], channel_means(graph, images[:16]))
    onnx.save(emit(graph, written, SPEC), tmp_path / "x.onnx")
    read = read_numbers(graph, tmp_path / "x.onnx", written.plan)
    assert (read.scales, read.unsigned) == (written.scales, written.unsigned)
    for layer, weight in written.weights.items():
        np.testing.assert_array_equal(read.weights[layer].values, weight.values)
        np.testing.assert_array_equal(read.weights[layer].scale, weight.scale)
        np.testing.assert_allclose(read.biases[layer], written.biases[layer], rtol=1e-3, atol=1e-6)


def test_corrected_biases_take_the_mean_error_out(graph, limits, images):
    # Clipped at a third, which moves means: what rounding alone moves is little more than chance on 16 images.
    plain = numbers(graph, {name: limit / 3 for name, limit in limits.items()}, "int8")
    fixed = corrected(graph, plain, images[:16], channel_means(graph, images[:16]))

    def mean_error(quantised):
        outputs = zip(Executor(graph).steps(images[:16]), Simulation(graph, quantised).steps(images[:16]), strict=True)
        return {
            layer.name: float((expected - found).flatten(2).mean((0, 2)).square().sum())
            for (layer, expected), (_, found) in outputs
            if layer is not None and layer.op == "Conv"
        }

    before, after = mean_error(plain), mean_error(fixed)
    assert sum(after.values()) < 0.2 * sum(before.values())
    exact = Executor(graph).logits(images[16:])  # images that no correction was taken from
    assert snr(exact, Simulation(graph, fixed).logits(images[16:])) > snr(
        exact, Simulation(graph, plain).logits(images[16:])
    )


def test_pytorch_is_left_as_it_was(graph, limits, images):
    before = torch.backends.cudnn.allow_tf32
    corrected(graph, numbers(graph, limits, "int8"), images[:16], channel_means(graph, images[:16]))
    steps = Executor(graph).steps(images[:2])
    next(steps)
    next(steps)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    assert torch.backends.cudnn.allow_tf32 == before


def test_an_error_without_a_mean_is_left_alone():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 2000, 1, 1, generator=generator)[:, :, 0, 0]
    assert float(_significant(noise).abs().mean()) < 0.35 * float(noise.mean(0).abs().mean())
    assert torch.allclose(_significant(noise + 5), (noise + 5).mean(0), rtol=3e-3)


def test_the_method_with_the_smallest_error_is_chosen_for_each_tensor(graph, limits, images):
    by_method = {
        "right": limits,
        "far too small": {name: value / 50 for name, value in limits.items()},
        "far too large": {name: value * 50 for name, value in limits.items()},
    }
    chosen = choose_methods(graph, by_method, images[:16].split(8))
    assert set(chosen) == {"signed", "unsigned"}
    assert chosen["signed"] == chosen["unsigned"] == dict.fromkeys(calibrated_tensors(graph), "right")


def test_finer_levels_may_choose_a_wider_range(graph, limits, images):
    shares = {str(share): {n: v * share for n, v in limits.items()} for share in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)}
    chosen = choose_methods(graph, shares, images.split(8))
    wider = [float(chosen["unsigned"][name]) - float(chosen["signed"][name]) for name in limits]
    assert sum(wider) > 0


def test_clipped_weights_have_no_larger_error_than_unclipped_ones(graph):
    limits = weight_limits(graph)
    for layer in graph.layers:
        if layer.weight is None:
            continue
        axes = tuple(range(1, layer.weight.ndim))

        def error(limit, layer=layer, axes=axes):
            weight = quantise_weight(layer, np.float32, limit)
            steps = weight.scale.reshape(-1, *[1] * len(axes))
            return np.square(weight.values * steps - layer.weight).sum(axes)

        assert (error(limits[layer.name]) <= error(None) * (1 + 1e-6)).all()


def test_a_weight_that_stands_alone_is_clipped(graph):
    values = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0)).numpy()
    values[0, 0] = 8.0
    layer = dataclasses.replace(graph.layers[-1], weight=values, bias=None)
    limits = weight_limits(dataclasses.replace(graph, layers=(layer,)))[layer.name]
    assert limits[0] < 8.0
    assert limits[1] >= 0.95 * np.abs(values[1]).max()  # one among many is not


def test_what_a_layer_costs_alone_is_found_by_quantising_it_alone(graph, limits, images):
    quantised = numbers(graph, limits, "int8")
    costs = {cost.layer: cost for cost in layer_costs(graph, quantised, [(images[:8], None)])}
    assert set(costs) == {*quantised.plan.inputs, ALL}
    exact = Executor(graph).logits(images[:8])
    for name in ("conv1", "layer2.0.add", "layer3.1.conv2", "fc"):
        alone = Simulation(graph, quantised, layers=[name]).logits(images[:8])
        assert costs[name].snr_db == pytest.approx(snr(exact, alone), abs=0.01)
    assert costs[ALL].snr_db == pytest.approx(snr(exact, Simulation(graph, quantised).logits(images[:8])), abs=0.01)


def test_a_layer_that_is_made_worse_is_ranked_first(graph, limits, images):
    quantised = numbers(graph, limits | {"layer2.0.relu1": limits["layer2.0.relu1"] / 20}, "int8")
    targets = Executor(graph).logits(images[:8]).argmax(1)
    costs = layer_costs(graph, quantised, [(images[:8], targets)])
    worst = min((cost for cost in costs if cost.layer != ALL), key=lambda cost: cost.snr_db)
    assert worst.layer == "layer2.0.conv2"
    assert worst.right <= 8
    assert worst.right == worst.agreeing  # the targets are what the exact network says
