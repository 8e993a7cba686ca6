import dataclasses

import msgspec
import numpy as np
import pytest
import torch

from edgeresnext.compiler.arithmetic import round_to_levels
from edgeresnext.compiler.calibrate import observe, thresholds
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.feedback import rounded_with_feedback, second_moments, with_feedback
from edgeresnext.compiler.graph import Layer, trace
from edgeresnext.compiler.plan import plan_for
from edgeresnext.compiler.quantise import quantise, quantise_weight
from edgeresnext.compiler.saturation import pixel_layers
from edgeresnext.compiler.simulate import Simulation
from edgeresnext.compiler.thresholds import Method
from edgeresnext.data.synthetic import generate
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import random_network
from edgeresnext.model.resnext import normalise

CONVOLUTION = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "group": 2}
SEEN = 16


@pytest.fixture(scope="module", params=["resnext20_8x4d", "preact_resnet164"])
def graph(request):
    spec = specify(request.param)
    shallow = msgspec.structs.replace(spec, depths=tuple(min(depth, 2) for depth in spec.depths))
    return trace(random_network(shallow, 0), (32, 32))


@pytest.fixture(scope="module")
def images():
    return normalise(torch.from_numpy(generate(24, (32, 32), 3)), specify("resnext20_8x4d"))


def numbers(graph, images, name="int8"):
    limits = thresholds(graph, observe(graph, [images[:SEEN]]), Method.parse("percentile:99.99"))
    return quantise(graph, plan_for(graph, name, limits), limits, pixels=(-3.0, 3.0))


def layer_of(kind, generator):
    if kind == "Gemm":
        weight = generator.normal(size=(5, 12)).astype(np.float32)
        return Layer(name="fc", op="Gemm", inputs=("x",), shape=(5,), attributes={"transB": 1}, weight=weight)
    weight = generator.normal(size=(6, 4, 3, 3)).astype(np.float32)
    return Layer(name="conv", op="Conv", inputs=("x",), shape=(6, 4, 4), attributes=CONVOLUTION, weight=weight)


@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
def test_moments_are_those_of_what_each_output_reads(kind):
    generator = np.random.default_rng(0)
    layer = layer_of(kind, generator)
    shape = (3, 12) if kind == "Gemm" else (3, 8, 8, 8)
    levels = torch.from_numpy(generator.integers(-127, 128, shape).astype(np.float32))
    moments = second_moments(layer, levels)
    found = Executor.compute(layer, [levels], torch.from_numpy(layer.weight), None).double()
    power = found.square().sum((0, 2, 3) if kind == "Conv" else 0)
    rows = torch.from_numpy(layer.weight).double().view(len(moments), -1, moments.shape[1])
    assert torch.allclose(((rows @ moments) * rows).sum(2).flatten(), power, rtol=1e-4)


def test_an_input_that_is_always_zero_is_no_trouble_and_levels_stay_in_range():
    rows = torch.full((1, 3, 70), 5.0, dtype=torch.float64)
    moments = torch.zeros(1, 70, 70, dtype=torch.float64)
    assert (rounded_with_feedback(rows, torch.full((1, 3), 0.01, dtype=torch.float64), moments) == 127).all()
    moments[0, :35, :35] = 100.0  # inputs that are one and the same
    levels = rounded_with_feedback(rows, torch.full((1, 3), 0.3, dtype=torch.float64), moments)
    assert levels.abs().max() <= 127
    lost = (levels * 0.3 - rows)[:, :, :35].sum(2)
    assert lost.abs().max() < 0.3  # of 35 weights together; each to the nearest loses 3.5


@pytest.mark.parametrize("name", ["int8", "int8-fp16", "int8-cpu"])
def test_no_row_errs_more_than_rounded_to_the_nearest(graph, images, name):
    before = numbers(graph, images, name)
    after = with_feedback(graph, before, images[:SEEN], pixel_layers(before))
    changed, inputs = 0, {}
    for layer, values in Simulation(graph, before).steps(images[:SEEN]):
        inputs["input" if layer is None else layer.name] = values
        if layer is None or layer.name not in before.weights:
            continue
        read = before.plan.inputs[layer.name]
        levels = round_to_levels(inputs[read], float(before.scales[read]), *before.bounds(read))
        weights = [one.weights[layer.name] for one in (before, after)]
        assert np.array_equal(weights[0].scale, weights[1].scale)
        assert weights[1].values.dtype == np.int8
        assert weights[1].values.min() >= -127
        errors = []
        for weight in weights:
            steps = weight.scale.astype(np.float32).reshape(-1, *[1] * (layer.weight.ndim - 1))
            lost = torch.from_numpy(weight.values * steps - layer.weight)
            power = Executor.compute(layer, [levels], lost, None).square()
            errors.append(power.sum((0, 2, 3)) if power.ndim > 2 else power.sum(0))
        assert (errors[1] <= errors[0] * 1.001 + 1e-6).all(), layer.name
        changed += not np.array_equal(weights[0].values, weights[1].values)
    assert changed > len(before.weights) / 2
    assert not set(pixel_layers(before)) & {
        one for one in after.weights if after.weights[one] is not before.weights[one]
    }


def test_unseen_images_gain_and_a_second_time_is_the_same(graph, images):
    before = numbers(graph, images)
    after, again = (with_feedback(graph, before, images[:SEEN]) for _ in range(2))
    assert all(np.array_equal(one.values, again.weights[name].values) for name, one in after.weights.items())

    def noise(found):
        layers = tuple(
            dataclasses.replace(one, weight=found.weights[one.name].values * steps_of(found, one))
            if one.name in found.weights
            else one
            for one in graph.layers
        )
        other = Executor(dataclasses.replace(graph, layers=layers))
        return float((other.logits(images[SEEN:]) - Executor(graph).logits(images[SEEN:])).square().sum())

    assert noise(after) < 0.8 * noise(before)


def steps_of(found, layer):
    return found.weights[layer.name].scale.astype(np.float32).reshape(-1, *[1] * (layer.weight.ndim - 1))


def test_a_weight_that_fits_its_levels_stays(graph):
    layer = next(one for one in graph.layers if one.weight is not None and one.op == "Conv")
    weight = quantise_weight(layer, np.float32)
    steps = torch.from_numpy(weight.scale.astype(np.float64))[None]
    rows = torch.from_numpy(weight.values).double().flatten(1)[None] * steps[0][:, None]
    generator = torch.Generator().manual_seed(0)
    read = torch.randn(1, 500, rows.shape[2], generator=generator, dtype=torch.float64)
    levels = rounded_with_feedback(rows, steps, read.transpose(1, 2) @ read)
    assert np.array_equal(levels[0].numpy(), weight.values.reshape(len(weight.values), -1))
