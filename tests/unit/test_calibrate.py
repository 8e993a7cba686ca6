import pytest
import torch

from edgeresnext.compiler import calibrate
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.thresholds import BINS, Histogram, Method
from edgeresnext.errors import DataError, RequestError
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import random_network

SPEC = specify("resnext20_8x4d")


@pytest.fixture(scope="module")
def graph():
    return trace(random_network(SPEC, 0), (32, 32))


@pytest.fixture(scope="module")
def images():
    return torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def thresholds(graph, batches, method="max"):
    return calibrate.thresholds(graph, calibrate.observe(graph, batches), Method.parse(method))


def test_max_is_the_largest_absolute_value_of_every_tensor(graph, images):
    found = thresholds(graph, images.split(8))
    assert found["input"] == pytest.approx(float(images.abs().max()))
    assert all(value > 0 for value in found.values())


def test_order_and_batch_size_do_not_matter(graph, images):
    one = calibrate.observe(graph, images.split(8))
    other = calibrate.observe(graph, images.flip(0).split(5))
    for name, seen in one.items():
        # Convolutions round differently for other batch sizes: a value at an edge falls into the next bin.
        moved = float((other[name].counts - seen.counts).abs().sum())
        assert moved <= 1e-3 * float(seen.counts.sum()), name
        assert other[name].maximum == pytest.approx(seen.maximum, rel=1e-5)


def test_what_is_seen_of_channels_is_the_same_in_any_batches(graph, images):
    one = calibrate.channel_statistics(graph, images.split(8))
    other = calibrate.channel_statistics(graph, images.flip(0).split(5))
    for name, seen in one.items():
        torch.testing.assert_close(other[name].mean_square, seen.mean_square, rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(other[name].maximum, seen.maximum, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one["input"].maximum, images.abs().amax((0, 2, 3)))
    torch.testing.assert_close(one["input"].mean_square, images.double().square().mean((0, 2, 3)), rtol=1e-5, atol=0)


def test_a_percentile_lies_under_the_maximum_and_cuts_outliers(graph, images):
    largest, cut = thresholds(graph, images.split(8)), thresholds(graph, images.split(8), "percentile:99")
    assert all(cut[name] <= largest[name] for name in cut)
    assert cut["input"] == pytest.approx(2.576, rel=0.02)  # 99 % of |x| of a standard normal distribution


def test_activations_that_are_not_finite_name_the_layer(images):
    network = random_network(SPEC, 0)
    with torch.no_grad():
        network.layer2[0].bn1.bias.fill_(0)
        network.layer2[0].bn1.weight.fill_(1e37)
    with pytest.raises(DataError, match=r"layer2\.0\.relu1"):
        thresholds(trace(network, (32, 32)), [images[:2] * 1e3])


def test_a_tensor_of_zeros_gets_a_usable_threshold():
    histogram = histogram_of(torch.zeros(100))
    assert Method.parse("max").threshold(histogram) == 1.0
    assert Method.parse("percentile").threshold(histogram) == 1.0


def test_values_that_float32_has_no_bins_for_count_as_zeros():
    histogram = histogram_of(torch.full((100,), 1e-38))
    assert Method.parse("mse").threshold(histogram) == 1.0
    assert float(histogram.counts.sum()) == 100


def test_growing_loses_no_count():
    histogram = Histogram()
    for scale in (1e-6, 1.0, 1e-3, 300.0):
        values = torch.rand(1000) * scale
        histogram.add(values)
    assert float(histogram.counts.sum()) == 4000
    assert histogram.maximum < histogram.limit <= 2 * histogram.maximum
    assert len(histogram.counts) == BINS


def histogram_of(values):
    histogram = Histogram()
    histogram.add(values)
    return histogram


def test_mse_clips_a_normal_distribution_where_theory_says():
    # Banner et al. 2019 (arXiv:1810.05723): 3.92 standard deviations at 8 bits.
    values = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))
    assert Method.parse("mse").threshold(histogram_of(values)) == pytest.approx(3.92, abs=0.12)


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_uniform_values_are_not_clipped(method):
    values = torch.rand(500_000, generator=torch.Generator().manual_seed(0)) * 3
    assert Method.parse(method).threshold(histogram_of(values)) == pytest.approx(3, rel=0.04)


@pytest.mark.parametrize("method", ["mse", "entropy", "percentile:99.9"])
def test_one_outlier_does_not_set_the_range(method):
    values = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)).abs()
    values[0] = 60.0
    assert Method.parse(method).threshold(histogram_of(values)) < 15
    assert Method.parse("max").threshold(histogram_of(values)) == 60


@pytest.mark.parametrize("method", ["max", "mse", "entropy", "percentile"])
def test_every_method_stays_under_the_maximum_and_scales_with_the_values(method):
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(2)).relu()
    one = Method.parse(method).threshold(histogram_of(values))
    assert 0 < one <= float(values.max())
    assert Method.parse(method).threshold(histogram_of(values * 8)) == pytest.approx(8 * one)


@pytest.mark.parametrize("method", ["max", "mse", "entropy", "percentile"])
def test_a_constant_tensor_keeps_its_value(method):
    found = Method.parse(method).threshold(histogram_of(torch.full((1000,), 0.75)))
    assert found == pytest.approx(0.75, rel=0.05)


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("max", "max"),
        ("mse", "mse"),
        ("entropy", "entropy"),
        ("percentile:99.9999999", "percentile:99.9999999"),
        ("percentile", "percentile:99.999"),
        ("percentile:99.9", "percentile:99.9"),
        ("percentile:100", None),
    ],
)
def test_methods_are_read_and_written(text, back):
    assert str(Method.parse(text)) == (back or text)


@pytest.mark.parametrize(
    "text", ["min", "percentile:", "percentile:0.5", "percentile:101", "percentile:x", "max:3", ""]
)
def test_other_methods_are_refused(text):
    with pytest.raises(RequestError, match="unknown calibration method"):
        Method.parse(text)
