"""Checkpoints that are nearly right: read where that is certain, else refused for the true reason, and never a hang."""

import collections
import pickle
import zipfile

import pytest
import torch
import torch.nn.utils.prune
from safetensors.torch import save_file

from edgeresnext.errors import CheckpointError
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import load_network, random_network, read
from edgeresnext.model.states import find_state
from edgeresnext.model.weight_files import read as read_file

SPEC = specify("resnext20_8x4d")


@pytest.fixture(scope="module")
def state():
    return {name: tensor.clone() for name, tensor in random_network(SPEC, 0).state_dict().items()}


def body(state, prefix="backbone."):
    return {prefix + name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def opened(path):
    checkpoint = read(path, SPEC.preprocess)
    return load_network(checkpoint.spec, checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: collections.defaultdict(int, s),
        lambda s: s | {0: torch.zeros(2), None: torch.ones(3)},
        lambda s: {f"model.{name}": tensor for name, tensor in s.items()} | {"metric.tp": torch.zeros(10, dtype=int)},
        lambda s: s | {"criterion.mask": torch.ones(4, 4, dtype=torch.bool)},
        lambda s: (
            body(s) | {"fc.weight": s["fc.weight"], "fc.bias": s["fc.bias"], "loss.class_weights": torch.ones(10)}
        ),
        lambda s: {f"a\nb.{name}": tensor for name, tensor in s.items()},
    ],
    ids=["defaultdict", "other keys", "metric", "mask", "head outside", "newline"],
)
def test_what_lies_beside_the_network_does_not_matter(tmp_path, state, change):
    torch.save(change(state), tmp_path / "w.pth")
    assert torch.equal(opened(tmp_path / "w.pth").fc.weight, state["fc.weight"])


def test_floating_point_of_eight_bits_is_read(tmp_path, state):
    torch.save({name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}, tmp_path / "w.pth")
    assert opened(tmp_path / "w.pth").fc.weight.dtype == torch.float32


def test_protocol_1_is_read_and_0_refused_as_pytorch_does(tmp_path, state):
    torch.save(state, tmp_path / "w.pth", pickle_protocol=1, _use_new_zipfile_serialization=False)
    assert torch.equal(opened(tmp_path / "w.pth").fc.weight, state["fc.weight"])
    for zipped in (True, False):
        torch.save(state, tmp_path / "w.pth", pickle_protocol=0, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match="is in pickle protocol 0"):
            opened(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: body(s) | {
                "head.0.weight": torch.ones(64, 256), "head.0.bias": torch.ones(64), "head.2.weight": torch.ones(10, 64),
            },
            "layers that no network known here has: head.2.weight",
        ),
        (
            lambda s: body(s) | {"fc.weight": s["fc.weight"], "fc.bias": s["fc.bias"], "last.weight": torch.ones(3, 10)},
            "last.weight",
        ),
        (
            lambda s: body(s) | {
                "fc.weight": s["fc.weight"], "fc.bias": s["fc.bias"], "neck.weight": torch.ones(256),
                "neck.running_var": torch.ones(256),
            },
            "neck",
        ),
        (
            lambda s: body(s) | {
                "fc.weight": s["fc.weight"], "fc.bias": s["fc.bias"], "adapter.weight": torch.ones(3, 3, 1, 1)
            },
            "adapter.weight",
        ),
        (lambda s: {k: v for k, v in s.items() if k != "fc.bias"}, "the classifier 'fc' of .* has no bias"),
        (lambda s: {name: tensor * 0 for name, tensor in s.items()}, "all weights of .* are zero"),
        (lambda s: s | {"extra": torch.zeros(1).expand(10**7, 10**7)}, "than are stored"),
        (lambda s: {k: v for k, v in s.items() if not k.startswith("layer2.")}, "blocks are missing"),
        (lambda s: s | {"layer1.1000000.conv1.weight": torch.ones(1, 1, 1, 1)}, "is no |blocks are missing|no network"),
        (lambda s: s | {"layer1.99999.conv1.weight": torch.ones(1, 1, 1, 1)}, "blocks are missing"),
        (lambda s: s | {"conv1.weight": torch.ones(16)}, "shapes that none has"),
        (lambda s: s | {"layer1.0.conv2.weight": torch.ones(4)}, "shapes that none has"),
        (lambda s: s | {"layer1.0.conv2.weight": torch.ones(0, 4, 3, 3)}, "shapes that none has|instead of"),
        (lambda s: s | {"layer1.0.conv2.weight": torch.ones(4, 8, 3, 3)}, "shapes that none has|instead of"),
        (lambda s: s | {"layer1.0.se.fc1.weight": torch.ones(0, 4, 1, 1)}, "shapes that none has"),
        (lambda s: s | {"layer1.0.conv1.weight": s["layer1.0.conv1.weight"].to(torch.int32)}, "int32"),
    ],
)  # fmt: skip
def test_what_would_compute_something_else_is_refused(tmp_path, state, change, message):
    torch.save(change(dict(state)), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path / "w.pth")


def test_a_changed_byte_and_a_missing_end_are_damage(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    whole = bytearray((tmp_path / "w.pth").read_bytes())
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged: its end is missing"):
        opened(tmp_path / "half.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    whole[largest.header_offset + 1000] ^= 255
    (tmp_path / "w.pth").write_bytes(whole)
    with pytest.raises(CheckpointError, match="damaged: the checksum of its record"):
        opened(tmp_path / "w.pth")


def test_a_file_without_checksums_is_read(tmp_path, state):
    set_checksums = getattr(torch.serialization, "set_crc32_options", None)
    if set_checksums is None:
        pytest.skip("this PyTorch always writes checksums")
    set_checksums(False)
    try:
        torch.save(state, tmp_path / "w.pth")
    finally:
        set_checksums(True)
    assert torch.equal(opened(tmp_path / "w.pth").fc.weight, state["fc.weight"])


@pytest.mark.parametrize("size", [100, 3000, -10])
def test_safetensors_without_their_end_are_damaged(tmp_path, state, size):
    save_file(state, tmp_path / "whole.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"w\.safetensors' is damaged"):
        read_file(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("content", "message"), [(b"\x08", "is no weights file"), (b"version https://git-lfs\nsize \n", "Git LFS pointer")]
)
def test_files_of_a_few_bytes_are_named(tmp_path, content, message):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_file(tmp_path / "w.pth")


def test_containers_that_hold_themselves_are_looked_at_once(tmp_path, state):
    around = [{"state_dict": state}]
    around.append(around)
    around[0]["all"] = around
    found = find_state([[around] * 400] * 400, tmp_path / "w.pth")
    assert found.key.endswith("state_dict")
    assert found.others == ()


@pytest.mark.parametrize("name", ["torch._utils _rebuild_tensor_v2", "torch.nn.parameter Parameter"])
@pytest.mark.parametrize("slots", [True, False])
def test_a_pickle_changes_nothing_of_pytorch(tmp_path, name, slots):
    module, attribute = name.split()
    values = pickle.dumps((None, {"spoilt": 7}) if slots else {"spoilt": 7}, 2)[2:-1]
    program = b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + values + b"b."
    (tmp_path / "w.pth").write_bytes(
        b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})) + program
    )
    with pytest.raises(CheckpointError):
        read_file(tmp_path / "w.pth")
    changed = {"torch._utils": torch._utils._rebuild_tensor_v2, "torch.nn.parameter": torch.nn.Parameter}[module]
    assert not hasattr(changed, "spoilt")


def test_the_command_for_a_whole_module_is_quoted(tmp_path):
    path = tmp_path / "it's $(x).pth"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError) as caught:
        find_state(read_file(path), path)
    assert "'\"'\"'" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: torch.nn.utils.prune.random_unstructured(layer, "weight", 0.5),
        torch.nn.utils.parametrizations.weight_norm,
    ],
    ids=["pruned", "parametrised"],
)
def test_weights_that_are_computed_from_others_are_refused_by_name(tmp_path, change):
    network = random_network(SPEC, 0)
    change(network.layer2[0].conv2)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="its weights are computed from others"):
        opened(tmp_path / "w.pth")
