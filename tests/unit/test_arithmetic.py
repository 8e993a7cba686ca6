import numpy as np
import pytest
import torch
from torch.nn import functional

from edgeresnext.compiler import arithmetic
from edgeresnext.compiler.arithmetic import MATRIX_PRODUCT, IntegerProduct, round_to_levels


def levels(*shape, low=0, high=255, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, shape, generator=generator).float()


def convolution(groups=1, stride=1, kernel=1):
    return {"group": groups, "strides": [stride, stride], "pads": [kernel // 2] * 4}


def pair_by_pair(inputs, weight, attributes):
    """Add products as vpmaddubsw does: two neighbouring channels of a group at a time, in 16 bits."""
    groups, (stride, _), pad = attributes["group"], attributes["strides"], attributes["pads"][0]
    rows, channels, kernel, _ = weight.shape
    padded = functional.pad(inputs, (pad,) * 4)
    size = (padded.shape[2] - kernel) // stride + 1
    width = (padded.shape[3] - kernel) // stride + 1
    total = torch.zeros(len(inputs), rows, size, width)
    for row in range(rows):
        first = row // (rows // groups) * channels
        for y in range(kernel):
            for x in range(kernel):
                window = padded[:, :, y : y + size * stride : stride, x : x + width * stride : stride][
                    :, :, :size, :width
                ]
                for channel in range(0, channels, 2):
                    pair = sum(
                        weight[row, one, y, x] * window[:, first + one]
                        for one in range(channel, min(channel + 2, channels))
                    )
                    total[:, row] += pair.clamp(-(2**15), 2**15 - 1)
    return total


@pytest.mark.parametrize(
    "shape",
    [(8, 6, 1, 1, 1), (8, 8, 3, 2, 2), (6, 4, 3, 2, 1), (12, 8, 3, 4, 1), (3, 5, 7, 1, 2), (16, 4, 1, 1, 2)],
)
def test_saturating_sums_are_those_of_a_cpu_without_vnni(shape, monkeypatch):
    channels, rows, kernel, groups, stride = shape
    monkeypatch.setattr(arithmetic, "_AT_ONCE", 64)  # several pieces
    inputs = levels(2, channels, 9, 7)
    weight = levels(rows, channels // groups, kernel, kernel, low=-127, high=127, seed=1)
    attributes = convolution(groups, stride, kernel)
    expected = pair_by_pair(inputs, weight, attributes)
    exact = IntegerProduct(weight, attributes)(inputs)
    assert torch.equal(IntegerProduct(weight, attributes, saturating=True)(inputs), expected)
    assert not torch.equal(exact, expected)  # these inputs do saturate
    assert torch.equal(
        exact.double(), functional.conv2d(inputs.double(), weight.double(), None, stride, kernel // 2, groups=groups)
    )


def test_small_levels_never_saturate():
    inputs, weight = levels(2, 64, 5, 5, high=128), levels(8, 64, 1, 1, low=-127, high=127)
    attributes = convolution()
    product = IntegerProduct(weight, attributes, saturating=True)
    assert torch.equal(product(inputs), IntegerProduct(weight, attributes)(inputs))


@pytest.mark.parametrize("shape", [(2048, 8, 1, 1), (512, 4, 3, 3)])
def test_sums_beyond_float32_s_integers_are_rounded_once(shape):
    channels, rows, kernel, _ = shape
    inputs = levels(1, channels, 4, 4, low=250)
    weight = levels(rows, channels, kernel, kernel, low=120, high=127)  # all of one sign: sums of 60 million
    found = IntegerProduct(weight, convolution(kernel=kernel))(inputs)
    exact = functional.conv2d(inputs.double(), weight.double(), padding=kernel // 2)
    assert float(exact.max()) > 2**24
    assert torch.equal(found, exact.float())


def test_a_matrix_product_is_a_convolution_of_one_position():
    inputs, weight = levels(5, 2048, low=-128, high=127), levels(10, 2048, low=-127, high=127, seed=1)
    assert torch.equal(
        IntegerProduct(weight, MATRIX_PRODUCT)(inputs), functional.linear(inputs.double(), weight.double()).float()
    )


def test_levels_are_rounded_as_onnx_says():
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 3
    values[:4] = torch.tensor([0.5, 1.5, 2.5, -0.5]) * 0.25  # halves go to the even level
    step = 0.25
    expected = np.clip(np.rint(values.numpy() / np.float32(step)), -128, 127)
    np.testing.assert_array_equal(round_to_levels(values, step, -128, 127).numpy(), expected)
    assert round_to_levels(values[:4], step, -128, 127).tolist() == [0, 2, 2, 0]
