import numpy as np
import onnx
import pytest
import torch
from as_written import as_written

from edgeresnext.compiler.calibrate import observe, thresholds
from edgeresnext.compiler.correct import channel_means, corrected
from edgeresnext.compiler.emit import emit
from edgeresnext.compiler.evaluate import Evaluator
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.plan import ONNX_FILES, parse_keep, plan_for
from edgeresnext.compiler.quantise import quantise
from edgeresnext.compiler.simulate import Simulation
from edgeresnext.compiler.thresholds import Method
from edgeresnext.data.synthetic import generate
from edgeresnext.errors import BackendError
from edgeresnext.model import ensemble
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import random_network
from edgeresnext.model.resnext import normalise
from edgeresnext.spec import ModelSpec, Preprocess

SMALL = {
    "cifar": specify("resnext20_8x4d"),
    "imagenet": ModelSpec(
        name="small", depths=(1, 2), cardinality=4, width_per_group=4, base_channels=8, classes=5,
        preprocess=Preprocess(resize_px=64, crop_px=64),
    ),
    "grey": ModelSpec(
        name="grey", depths=(1, 2), cardinality=4, width_per_group=4, base_channels=8, classes=5,
        preprocess=Preprocess(resize_px=64, crop_px=64, mean=(0.45,), std=(0.22,)),
    ),
    "rgba": ModelSpec(
        name="rgba", depths=(1, 2), cardinality=4, width_per_group=4, base_channels=8, classes=5,
        preprocess=Preprocess(resize_px=64, crop_px=64, mean=(0.5, 0.4, 0.3, 0.1), std=(0.2, 0.2, 0.3, 0.9)),
    ),
}  # fmt: skip


class Case:
    """A network with its ranges and images."""

    def __init__(self, spec):
        self.spec = spec
        self.graph = trace(random_network(spec, 0), spec.preprocess.size)
        self.pixels = generate(24, spec.preprocess.size, 3, spec.in_channels)
        self.images = normalise(torch.from_numpy(self.pixels), spec)
        self.limits = thresholds(self.graph, observe(self.graph, [self.images[:16]]), Method.parse("max"))

    def numbers(self, name, keep=()):
        plan = plan_for(self.graph, name, self.limits, parse_keep(self.graph, keep))
        found = quantise(self.graph, plan, self.limits, pixels=self.spec.preprocess.range)
        return corrected(self.graph, found, self.images[:16], channel_means(self.graph, self.images[:16]))


@pytest.fixture(scope="module", params=SMALL)
def case(request):
    return Case(SMALL[request.param])


def snr(expected, found):
    noise = float(np.square(expected.astype(np.float64) - found).sum())
    return 10 * np.log10(float(np.square(expected.astype(np.float64)).sum()) / noise) if noise else np.inf


@pytest.mark.parametrize("name", ONNX_FILES)
def test_a_file_says_what_another_implementation_reads_in_it(case, tmp_path, name):
    numbers = case.numbers(name) if "int8" in name else quantise(case.graph, plan_for(case.graph, name, {}), {})
    model = emit(case.graph, numbers, case.spec)
    onnx.save(model, tmp_path / "x.onnx")
    found, other = Evaluator(model).logits(case.pixels[16:]), as_written(tmp_path / "x.onnx", case.pixels[16:])
    exact = Executor(case.graph).logits(case.images[16:]).numpy()
    if "int8" not in name:
        assert snr(other, found) > (110 if name == "fp32" else 55)
        return
    # Float32 sums in another order move a few values over the edge between two levels; float16 moves more. Either is a
    # small part of what quantisation costs, and neither implementation is nearer to the exact network.
    assert snr(other, found) > snr(exact, found) + (-1 if "fp16" in name else 6)
    assert snr(exact, found) == pytest.approx(snr(exact, other), abs=2.5 if "fp16" in name else 0.6)


@pytest.mark.parametrize("keep", [(), ("fp32:layer1.*",)])
def test_the_simulation_and_the_file_are_equal_to_the_bit(case, keep):
    numbers = case.numbers("int8", keep)
    found = Evaluator(emit(case.graph, numbers, case.spec)).logits(case.pixels)
    simulated = Simulation(case.graph, numbers, device=torch.device("cpu")).logits(case.images).numpy()
    if not keep:
        np.testing.assert_array_equal(found, simulated)
    else:  # float32 sums here, float64 there
        assert snr(found, simulated) > snr(Executor(case.graph).logits(case.images).numpy(), simulated) + 6


def test_integers_do_not_depend_on_batches_or_threads(case):
    model = emit(case.graph, case.numbers("int8-cpu"), case.spec)
    expected = Evaluator(model).logits(case.pixels)
    one_by_one = np.concatenate([Evaluator(model).logits(case.pixels[i : i + 1]) for i in range(4)])
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        np.testing.assert_array_equal(Evaluator(model).logits(case.pixels), expected)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(one_by_one, expected[:4])


@pytest.mark.parametrize("case", ["cifar", "imagenet"], indirect=True)
def test_saturation_is_seen_in_what_a_file_says(case):
    narrow = {name: limit / 3 for name, limit in case.limits.items()}  # larger levels, of which more saturate
    numbers = quantise(case.graph, plan_for(case.graph, "int8-cpu", narrow), narrow, pixels=case.spec.preprocess.range)
    model = emit(case.graph, numbers, case.spec)
    exact = Executor(case.graph).logits(case.images).numpy()
    plain, saturated = (Evaluator(model, saturating=one).logits(case.pixels) for one in (False, True))
    assert snr(exact, saturated) < snr(exact, plain) - 1  # nothing has been done against it here
    simulated = Simulation(case.graph, numbers, saturating=True).logits(case.images).numpy()
    assert snr(simulated, saturated) > snr(exact, saturated) + 6


def test_an_operator_that_is_none_of_ours_is_refused(case):
    model = emit(case.graph, quantise(case.graph, plan_for(case.graph, "fp32", {}), {}), case.spec)
    model.graph.node[-1].op_type = "Hardmax"
    with pytest.raises(BackendError, match="operator Hardmax"):
        Evaluator(model)


def test_probabilities_that_float32_does_not_hold_have_a_floor_in_every_form(tmp_path):
    spec = SMALL["cifar"]
    members = [random_network(spec, seed) for seed in range(2)]
    for member in members:
        member.fc.weight.data *= 2000 / float(member.fc.weight.abs().max())
    together = ensemble.specify([spec, spec], "probability")
    network = ensemble.join(members, "probability")
    graph = trace(network, spec.preprocess.size)
    pixels = generate(4, spec.preprocess.size, 3)
    images = normalise(torch.from_numpy(pixels), spec)
    with torch.inference_mode():
        expected = network(images).numpy()
    assert expected.min() == pytest.approx(-87.34, abs=0.01)  # ln of float32's smallest normal number
    for name in ("fp32", "fp16"):
        model = emit(graph, quantise(graph, plan_for(graph, name, {}), {}), together)
        onnx.save(model, tmp_path / "x.onnx")
        for found in (
            Executor(graph).logits(images).numpy(), Evaluator(model).logits(pixels),
            as_written(tmp_path / "x.onnx", pixels),
        ):  # fmt: skip
            assert np.isfinite(found).all()
            if name == "fp32":
                np.testing.assert_allclose(found, expected, atol=0.05)
