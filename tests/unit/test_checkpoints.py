import os

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeresnext.errors import CheckpointError
from edgeresnext.model import ensemble
from edgeresnext.model.catalogue import CATALOGUE, specify
from edgeresnext.model.checkpoints import load_network, load_saved, open_network, random_network, read, save_state

SPEC = specify("resnext20_8x4d")


@pytest.fixture(scope="module")
def state():
    network = random_network(SPEC, 0)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def logits(network):
    with torch.inference_mode():
        return network(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"state_dict_ema": {f"module._orig_mod.{k}": v for k, v in s.items()}, "state_dict": {}},
        lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
    ],
    ids=["plain", "state_dict", "data parallel", "compiled ema", "double"],
)
def test_a_checkpoint_gives_the_network_that_was_saved(tmp_path, state, wrap):
    torch.save(wrap(state), tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    expected = logits(open_network(tmp_path / "w.safetensors", SPEC.preprocess))
    assert torch.equal(logits(open_network(tmp_path / "w.pth", SPEC.preprocess)), expected)


def test_weights_of_another_architecture_name_the_right_one(tmp_path):
    other = specify("resnext29_8x64d", classes=10)
    save_state(random_network(other, 0), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="These are weights of resnext29_8x64d"):
        load_network(SPEC, read(tmp_path / "w.safetensors", SPEC.preprocess))


def test_a_shape_that_does_not_fit_is_shown_with_both_sides(tmp_path, state):
    save_file(state | {"conv1.weight": torch.zeros(16, 3, 7, 7)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"'conv1.weight' is \(16, 3, 7, 7\) instead of \(16, 3, 3, 3\)"):
        load_network(SPEC, read(tmp_path / "w.safetensors", SPEC.preprocess))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, state, value):
    broken = state["layer2.0.conv1.weight"].clone()
    broken[0, 0] = value
    save_file(state | {"layer2.0.conv1.weight": broken}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"layer2\.0\.conv1\.weight"):
        read(tmp_path / "w.safetensors", SPEC.preprocess)


def test_one_logit_becomes_two_whose_softmax_is_its_sigmoid(tmp_path, state):
    one = state | {"fc.weight": state["fc.weight"][:1].clone(), "fc.bias": state["fc.bias"][:1].clone()}
    save_file(one, tmp_path / "w.safetensors")
    found = read(tmp_path / "w.safetensors", SPEC.preprocess)
    assert any("one logit, of a sigmoid" in note for note in found.notes)
    probabilities = logits(load_network(found.spec, found)).softmax(1)[0]
    with torch.inference_mode():
        network = open_network(tmp_path / "w.safetensors", SPEC.preprocess)
        z = logits(network)[0, 1]
    assert torch.allclose(probabilities, torch.stack([1 - z.sigmoid(), z.sigmoid()]))


@pytest.mark.parametrize("average", ["logits", "probability"])
def test_an_ensemble_is_the_mean_of_its_members_and_comes_back_from_its_file(tmp_path, average):
    other = msgspec.structs.replace(CATALOGUE["resnet20"].spec, preprocess=SPEC.preprocess)
    members = [random_network(SPEC, 0), random_network(other, 1)]
    alone = [logits(member) for member in members]
    spec = ensemble.specify([SPEC, other], average)
    network = ensemble.join(members, average)
    together = logits(network)
    if average == "logits":
        assert torch.allclose(together, (alone[0] + alone[1]) / 2, atol=1e-6)
    else:
        assert torch.allclose(together.softmax(1), (alone[0].softmax(1) + alone[1].softmax(1)) / 2, atol=1e-6)
    save_state(network, tmp_path / "w.safetensors")
    assert torch.allclose(logits(load_saved(spec, tmp_path / "w.safetensors")), together, atol=1e-6)


def test_random_weights_depend_on_the_seed_alone():
    first, again, other = (logits(random_network(SPEC, seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_random_weights_tell_images_apart():
    network = random_network(SPEC, 0)
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        out = network(images)
    assert float(out.std(0).mean()) > 0.03 * float(out.abs().max())


def test_saved_weights_can_be_read_by_others(tmp_path):
    save_state(random_network(SPEC, 0), tmp_path / "w.safetensors")
    assert not any(name.endswith("num_batches_tracked") for name in load_file(tmp_path / "w.safetensors"))
    assert np.bitwise_and((tmp_path / "w.safetensors").stat().st_mode, 0o400)


def test_a_disk_that_fills_leaves_the_weights_that_were_there(tmp_path, monkeypatch):
    save_state(random_network(SPEC, 0), tmp_path / "w.safetensors")
    before = (tmp_path / "w.safetensors").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        save_state(random_network(SPEC, 1), tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
