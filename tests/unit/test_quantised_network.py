"""The network that is trained in INT8 computes what the emitted file computes, learns, and can be kept."""

import copy

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgeresnext import files
from edgeresnext.compiler.calibrate import observe, thresholds
from edgeresnext.compiler.emit import emit
from edgeresnext.compiler.evaluate import Evaluator
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.plan import INT8_CPU, plan_for
from edgeresnext.compiler.quantise import quantise
from edgeresnext.compiler.saturation import row_steps, with_pixel_step, with_row_steps
from edgeresnext.compiler.thresholds import Method
from edgeresnext.data.synthetic import generate
from edgeresnext.errors import RequestError
from edgeresnext.model import ensemble
from edgeresnext.model.checkpoints import load_saved, random_network, save_state
from edgeresnext.model.resnext import normalise
from edgeresnext.spec import ModelSpec, Preprocess, Ranges
from edgeresnext.training.int8 import equalise, save
from edgeresnext.training.quantised import QuantisedNetwork

FILES = {"signed": "int8", "unsigned": INT8_CPU}


def small(**changes):
    values = {
        "name": "small", "depths": (1, 2), "cardinality": 4, "width_per_group": 4, "base_channels": 8, "classes": 5,
        "preprocess": Preprocess(resize_px=32, crop_px=32),
    }  # fmt: skip
    return ModelSpec(**(values | changes))


SPECS = {
    "post": small(),
    "pre": small(order="pre", final_norm=True),
    "squeeze": small(se_reduction=4),
    "pooled": small(stem="deep", shortcut="pooled"),
    "padded": small(block="basic", stem="cifar", shortcut="padded"),
    "grey": small(preprocess=Preprocess(resize_px=32, crop_px=32, mean=(0.45,), std=(0.22,))),
}


class Case:
    """A network with its images and calibrated ranges."""

    def __init__(self, spec, network=None):
        self.spec = spec
        self.network = network or random_network(spec, 0).requires_grad_()
        self.graph = trace(self.network, spec.preprocess.size)
        self.pixels = generate(24, spec.preprocess.size, 3, spec.in_channels)
        self.images = normalise(torch.from_numpy(self.pixels), spec)
        limits = thresholds(self.graph, observe(self.graph, [self.images]), Method.parse("max"))
        chosen = {kind: dict.fromkeys(limits, "max") for kind in FILES}
        self.start = Ranges(method="max", images=24, thresholds={"max": limits}, chosen=chosen, digests={})

    def quantised(self, activations="signed", *, moved=True, **options):
        found = QuantisedNetwork(
            copy.deepcopy(self.network), self.spec, self.start, activations=activations, images=self.images, **options
        )
        if moved:  # as training leaves them: no longer where calibration put them, nor in its order
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                found.log_thresholds += torch.randn(len(found.tensors), generator=generator) * 0.5
        return found

    def emitted(self, trained, activations, *, safe=False):
        graph = trace(trained.network, self.spec.preprocess.size)
        limits = trained.ranges("").limits(activations)
        plan = plan_for(graph, FILES[activations], limits)
        numbers = with_pixel_step(quantise(graph, plan, limits, pixels=self.spec.preprocess.range), self.images)
        if safe:
            numbers = with_row_steps(graph, numbers, row_steps(graph, numbers, self.images))
        return Evaluator(emit(graph, numbers, self.spec)).logits(self.pixels)


@pytest.fixture(scope="module", params=SPECS)
def case(request):
    return Case(SPECS[request.param])


@pytest.fixture(scope="module")
def post():
    return Case(SPECS["post"])


def snr(expected, found):
    noise = float(np.square(expected.astype(np.float64) - found).sum())
    return 10 * np.log10(float(np.square(expected.astype(np.float64)).sum()) / noise) if noise else np.inf


def test_training_sees_the_logits_of_the_signed_file_to_the_bit(case):
    trained = case.quantised()
    np.testing.assert_array_equal(trained(case.images).detach().numpy(), case.emitted(trained, "signed"))


def test_training_sees_the_logits_of_the_unsigned_file(case):
    # What is not INT8 in that file (the classifier, what reads both signs) is summed in float64 there, in float32 here.
    trained = case.quantised("unsigned")
    found, expected = trained(case.images).detach().numpy(), case.emitted(trained, "unsigned")
    assert snr(expected, found) > 100
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))


def test_rows_that_do_not_saturate_are_all_that_a_build_changes_in_the_unsigned_file(post):
    trained = post.quantised("unsigned", moved=False)
    found, safe = trained(post.images).detach().numpy(), post.emitted(trained, "unsigned", safe=True)
    exact = Executor(trace(trained.network, (32, 32))).logits(post.images).numpy()
    assert snr(safe, found) > snr(exact, found)


@pytest.mark.parametrize("activations", FILES)
def test_everything_that_is_trained_has_a_gradient_and_statistics_stay(case, activations):
    trained = case.quantised(activations)
    before = {name: buffer.clone() for name, buffer in trained.named_buffers()}
    trained.train()(case.images).square().sum().backward()
    without = [name for name, parameter in trained.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not without
    assert trained.log_thresholds.grad.isfinite().all()
    assert all(torch.equal(buffer, before[name]) for name, buffer in trained.named_buffers())
    assert before


def test_fixed_thresholds_stay(post):
    trained = post.quantised(moved=False, learned=False)
    trained(post.images).sum().backward()
    assert trained.log_thresholds.grad is None
    found, start = trained.ranges("").limits("signed"), post.start.limits("signed")
    assert found == pytest.approx(start, rel=1e-6)


def test_the_gradient_of_a_threshold_is_that_of_the_rounding_it_causes():
    from edgeresnext.training.quantised import _round

    step = torch.tensor(0.5, requires_grad=True)
    values = torch.tensor([0.6, -0.1, 100.0, -100.0], requires_grad=True)
    (_round(values, step, -128, 127) * step.detach()).sum().backward()
    assert values.grad.tolist() == [1, 1, 0, 0]
    assert float(step.grad) == pytest.approx((1 - 1.2) + (0 + 0.2) + 127 - 128)


@pytest.mark.parametrize("learned", [True, False])
def test_a_few_steps_lower_the_loss(post, learned):
    trained = post.quantised(moved=False, learned=learned)
    with torch.no_grad():
        trained.log_thresholds -= 2  # clipped far too early
    exact = Executor(post.graph).logits(post.images)
    optimiser = torch.optim.Adam([p for p in trained.parameters() if p.requires_grad], lr=0.003)
    losses = []
    for _ in range(12):
        loss = (trained(post.images) - exact).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_array_equal(trained(post.images).detach().numpy(), post.emitted(trained, "signed"))


def test_equalised_channels_compute_the_same_and_quantise_better():
    spec = SPECS["post"]
    network = random_network(spec, 0).requires_grad_()
    norm, reader = network.get_submodule("layer2.0.bn1"), network.get_submodule("layer2.0.conv2")
    factors = torch.ones(len(norm.weight))
    factors[::4] = 64.0
    with torch.no_grad():  # channels that do not fit each other, in a function that is as it was
        norm.weight.mul_(factors)
        norm.bias.mul_(factors)
        by_group = factors.view(4, 1, -1).expand(-1, len(reader.weight) // 4, -1).reshape(len(reader.weight), -1)
        reader.weight.div_(by_group[:, :, None, None])
    before = Case(spec, network)
    equal = copy.deepcopy(network)
    equalise(equal, spec, before.images)
    after = Case(spec, equal)
    exact = network(before.images).detach().numpy()
    np.testing.assert_allclose(equal(before.images).detach().numpy(), exact, atol=1e-5)
    found = [case.quantised(moved=False)(case.images).detach().numpy() for case in (before, after)]
    assert snr(exact, found[1]) > snr(exact, found[0]) + 6


def test_mixed_precision_around_it_changes_nothing(post):
    trained = post.quantised()
    with torch.autocast("cpu", torch.bfloat16):
        found = trained(post.images)
    assert torch.equal(found, trained(post.images))


def test_copies_and_saved_states_compute_the_same(post):
    trained = post.quantised()
    expected = trained(post.images)
    assert torch.equal(copy.deepcopy(trained)(post.images), expected)
    other = post.quantised(moved=False)
    assert not torch.equal(other(post.images), expected)
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other(post.images), expected)


def test_the_network_inside_is_the_ordinary_checkpoint_and_its_ranges_lie_beside_it(post, tmp_path):
    trained = post.quantised()
    save(trained, tmp_path / "w.safetensors")
    network = load_saved(post.spec, tmp_path / "w.safetensors")
    save_state(network, tmp_path / "again.safetensors")
    before, again = (load_file(tmp_path / name) for name in ("w.safetensors", "again.safetensors"))
    assert before.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in before.items())
    ranges = files.from_json((tmp_path / "w.ranges.json").read_bytes(), Ranges)
    assert ranges == trained.ranges(files.digest(tmp_path / "again.safetensors"))
    assert ranges.digests["weights"] == files.digest(tmp_path / "again.safetensors")


def test_the_input_of_an_add_that_was_trained_is_the_one_that_is_emitted():
    # A trained tensor may end with a smaller threshold than the one that its Add quantises: the file must not swap them.
    case = Case(SPECS["squeeze"])
    trained = case.quantised(moved=False)
    inputs = plan_for(case.graph, "int8", case.start.limits("signed")).inputs
    rivals = [
        (read, other)
        for layer in case.graph.layers
        if layer.op == "Add" and (read := inputs.get(layer.name)) is not None
        for other in layer.inputs
        if other != read and other in trained.tensors
    ]
    assert rivals
    with torch.no_grad():
        for _, other in rivals:
            trained.log_thresholds[trained.tensors.index(other)] -= 3
    limits = trained.ranges("").limits("signed")
    assert plan_for(case.graph, "int8", limits).inputs == inputs
    np.testing.assert_array_equal(trained(case.images).detach().numpy(), case.emitted(trained, "signed"))


def test_what_cannot_be_trained_in_int8_is_refused(post):
    members = ensemble.join([random_network(post.spec, seed) for seed in range(2)], "logits")
    with pytest.raises(RequestError, match="ensemble"):
        QuantisedNetwork(members, post.spec, post.start)
    with pytest.raises(RequestError, match="equalised"):
        QuantisedNetwork(
            post.network, post.spec, msgspec.structs.replace(post.start, exponents={"layer1.0.conv1": (1,)})
        )


class _Functional(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return torch.relu(self.conv(x)).mean((2, 3))


class _Branching(_Functional):
    def forward(self, x):
        return self.conv(x if x.sum() > 0 else -x)


@pytest.mark.parametrize("network", [_Functional(), _Branching()])
def test_a_network_that_the_compiler_does_not_know_is_refused_in_words(post, network):
    with pytest.raises(RequestError, match="cannot be trained in INT8"):
        QuantisedNetwork(network, post.spec, post.start)


def test_two_processes_as_one_module_have_the_gradients_of_one(post):
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(post.quantised())
        wrapped(post.images).square().sum().backward()
        alone = post.quantised()
        alone(post.images).square().sum().backward()
        found = dict(wrapped.module.named_parameters())
        assert all(torch.allclose(found[name].grad, one.grad) for name, one in alone.named_parameters())
    finally:
        torch.distributed.destroy_process_group()
