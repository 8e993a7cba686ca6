import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeresnext.errors import CheckpointError, NotInstalledError
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import count_classes, load_network, random_network, read_state, save_state

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
    ],
    ids=["plain", "state_dict", "data parallel", "compiled ema"],
)
def test_wrappers_and_prefixes_of_training_programs_come_off(tmp_path, state, wrap):
    torch.save(wrap(state), tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    expected = logits(load_network(SPEC, tmp_path / "w.safetensors"))
    assert torch.equal(logits(load_network(SPEC, tmp_path / "w.pth")), expected)


def test_half_precision_checkpoints_become_float32(tmp_path, state):
    save_file({name: t.half() if t.is_floating_point() else t for name, t in state.items()}, tmp_path / "w.safetensors")
    network = load_network(SPEC, tmp_path / "w.safetensors")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_missing_and_unexpected_keys_are_named(tmp_path, state):
    broken = dict(state)
    broken["layer1.0.conv9.weight"] = broken.pop("layer1.0.conv2.weight")
    save_file(broken, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_network(SPEC, tmp_path / "w.safetensors")
    assert "1 missing keys (layer1.0.conv2.weight)" in caught.value.what
    assert "1 unexpected keys (layer1.0.conv9.weight)" in caught.value.what


def test_weights_of_another_architecture_name_the_right_one(tmp_path):
    other = specify("resnext29_8x64d", classes=10)
    save_state(random_network(other, 0), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="These are weights of resnext29_8x64d"):
        load_network(SPEC, tmp_path / "w.safetensors")


def test_a_shape_that_does_not_fit_is_shown_with_both_sides(tmp_path, state):
    save_file(state | {"conv1.weight": torch.zeros(16, 3, 7, 7)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"'conv1.weight' is \(16, 3, 7, 7\) instead of \(16, 3, 3, 3\)"):
        load_network(SPEC, tmp_path / "w.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, state, value):
    broken = state["layer2.0.conv1.weight"].clone()
    broken[0, 0] = value
    save_file(state | {"layer2.0.conv1.weight": broken}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"layer2\.0\.conv1\.weight"):
        load_network(SPEC, tmp_path / "w.safetensors")


def test_a_pickled_module_is_refused_and_not_executed(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="not executed"):
        read_state(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"rubbish" * 9])
def test_damaged_files_are_refused_by_name(tmp_path, state, name, damage):
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=name):
        read_state(path)


def test_other_kinds_of_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_state(tmp_path / "none.pth")
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="neither"):
        read_state(tmp_path / "w.onnx")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_state(tmp_path / "list.pth")
    torch.save({"state_dict": {"fc.weight": "text"}}, tmp_path / "text.pth")
    with pytest.raises(CheckpointError, match=r"'fc.weight'.*str"):
        read_state(tmp_path / "text.pth")


def test_old_pytorch_does_not_read_pickles(tmp_path, state, monkeypatch):
    torch.save(state, tmp_path / "w.pth")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(NotInstalledError, match="CVE-2025-32434"):
        read_state(tmp_path / "w.pth")


def test_the_class_count_comes_from_fc(state):
    assert count_classes(state, "w.pth") == 10
    with pytest.raises(CheckpointError, match=r"no 'fc\.weight'"):
        count_classes({"last_linear.weight": torch.zeros(3, 4)}, "w.pth")


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
