import dataclasses

import numpy as np
import pytest
import torch

from edgeresnext.compiler.arithmetic import IntegerProduct, round_to_levels
from edgeresnext.compiler.calibrate import observe, thresholds
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.plan import parse_keep, plan_for
from edgeresnext.compiler.quantise import quantise
from edgeresnext.compiler.saturation import (
    STEPS,
    pixel_layers,
    row_steps,
    safe_weight,
    with_pixel_step,
    with_row_steps,
)  # fmt: skip
from edgeresnext.compiler.simulate import Simulation
from edgeresnext.compiler.thresholds import Method
from edgeresnext.data.synthetic import generate
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import random_network
from edgeresnext.model.resnext import normalise

SPEC = specify("resnext20_8x4d")
NAME = "int8-cpu"


@pytest.fixture(scope="module")
def graph():
    return trace(random_network(SPEC, 0), (32, 32))


@pytest.fixture(scope="module")
def images():
    return normalise(torch.from_numpy(generate(48, (32, 32), 3)), SPEC)


@pytest.fixture(scope="module")
def limits(graph, images):
    return thresholds(graph, observe(graph, [images[:16]]), Method.parse("percentile:99.9"))


@pytest.fixture(scope="module")
def numbers(graph, images, limits):
    plan = plan_for(graph, NAME, limits, parse_keep(graph, ()))
    return with_pixel_step(quantise(graph, plan, limits, pixels=SPEC.preprocess.range), images[:16])


def snr(expected, found):
    noise = float((expected - found).double().square().sum())
    return 10 * np.log10(float(expected.double().square().sum()) / noise)


def neighbours(values):
    """Return the pairs that OpenVINO adds, and those that ONNX Runtime adds, for each row."""
    last = np.moveaxis(values.astype(int), 1, 3)
    padded = np.pad(last, ((0, 0), (0, 0), (0, 0), (0, last.shape[3] % 2)))
    flat = last.reshape(len(last), -1)
    flat = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2)))
    return [padded.reshape(len(last), -1, 2), flat.reshape(len(last), -1, 2)]


def test_pixels_cannot_saturate_whatever_they_are(graph, images, numbers):
    conv1 = graph.layers[0]
    assert pixel_layers(numbers) == ("conv1",)
    weight = safe_weight(conv1, numbers, [images[:16]])
    for pairs in neighbours(weight.values):
        assert 255 * np.maximum(pairs, 0).sum(2).max() <= 2**15 - 1
        assert 255 * np.minimum(pairs, 0).sum(2).min() >= -(2**15)


def test_rounding_with_feedback_makes_up_for_the_coarser_steps(graph, images, numbers):
    conv1 = graph.layers[0]
    careful = safe_weight(conv1, numbers, [images[:16]])
    steps = careful.scale.reshape(-1, 1, 1, 1)
    nearest = dataclasses.replace(careful, values=np.rint(conv1.weight / steps).clip(-127, 127).astype(np.int8))
    seen = images[16:]  # images that nothing was fitted to
    exact = Executor.compute(conv1, [seen], torch.from_numpy(conv1.weight), None)

    def error(weight):
        found = Executor.compute(conv1, [seen], torch.from_numpy(weight.values * steps), None)
        return float((found - exact).square().sum())

    assert error(careful) < 0.5 * error(nearest)


def test_rows_get_wider_steps_only_where_they_saturate_and_gain(graph, images, numbers):
    steps = row_steps(graph, numbers, images[:16])
    assert set(steps) <= {layer.name for layer in graph.layers if layer.op == "Conv"} - {"conv1"}
    for layer in graph.layers:
        if layer.name not in steps:
            continue
        assert set(steps[layer.name]) <= set(STEPS)
        assert len(steps[layer.name]) == len(layer.weight)
    fixed = with_row_steps(graph, numbers, steps)
    seen = images[16:]
    exact = Executor(graph).logits(seen)
    before, after = (snr(exact, Simulation(graph, one, saturating=True).logits(seen)) for one in (numbers, fixed))
    plain = snr(exact, Simulation(graph, numbers).logits(seen))
    assert before < plain - 1  # there was something to mend
    assert after > before + 0.5 * (plain - before)
    assert snr(exact, Simulation(graph, fixed).logits(seen)) > plain - 0.5  # and little is lost where nothing saturates


def test_a_row_that_cannot_saturate_keeps_its_step(graph, images, limits):
    layer = next(one for one in graph.layers if one.name == "layer2.0.conv3")
    small = dataclasses.replace(layer, weight=layer.weight * 1e-3)
    small.weight[:, 0] = layer.weight[:, 0].clip(0.01)  # one large weight a row: pairs stay under the limit
    small.weight[:, 1] = 0
    other = dataclasses.replace(graph, layers=tuple(small if one is layer else one for one in graph.layers))
    plan = plan_for(other, NAME, limits, {})
    found = quantise(other, plan, limits, pixels=SPEC.preprocess.range)
    assert "layer2.0.conv3" not in row_steps(other, found, images[:16])


def test_the_image_s_step_hits_black_and_white(numbers):
    step, zero = float(numbers.scales["input"]), numbers.zero_points["input"]
    low, high = SPEC.preprocess.range
    drawn = normalise(
        torch.from_numpy(np.where(np.arange(8 * 32 * 32 * 3) % 3, 0, 255).astype(np.uint8).reshape(8, 32, 32, 3)), SPEC
    )
    chosen = with_pixel_step(numbers, drawn)
    assert 0 <= zero <= 255
    assert -zero * step <= low + step
    assert (255 - zero) * step >= high - step

    def error(one):
        levels = round_to_levels(drawn, float(one.scales["input"]), *one.bounds("input"))
        return float((levels * float(one.scales["input"]) - drawn).square().mean().sqrt())

    assert error(chosen) < 0.15 * float(chosen.scales["input"])


def test_fc_stays_in_floating_point_and_says_why(numbers):
    assert numbers.plan.layers["fc"] == "fp32"
    assert "as fast" in numbers.plan.reasons["fc"]


def test_bounds_follow_the_zero_point(numbers):
    zero = numbers.zero_points["input"]
    assert numbers.bounds("input") == (-zero, 255 - zero)
    assert numbers.bounds("layer1.0.relu1") == (0, 255)
    product = IntegerProduct(torch.ones(1, 2, 1, 1), {"group": 1, "strides": [1, 1], "pads": [0] * 4})
    assert float(product(torch.tensor([[[[-128.0]], [[127.0]]]]))) == -1
