"""A weights file is what it holds: every container of PyTorch is read, nothing is executed, the rest is named."""

import argparse
import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
from fuzzing.bounds import bounded

from edgeresnext.errors import CheckpointError
from edgeresnext.model.states import find_state
from edgeresnext.model.unpickler import Foreign
from edgeresnext.model.weight_files import read

TENSORS = {"conv.weight": torch.arange(24.0).view(2, 3, 2, 2), "bias": torch.ones(2, dtype=torch.float16)}


@pytest.mark.parametrize("suffix", ["pth", "pt", "pth.tar", "ckpt", "bin", "PTH", "weights"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_container_and_protocol_of_torch_save_is_read(tmp_path, suffix, protocol, zipped):
    path = tmp_path / f"w.{suffix}"
    whole = {"state_dict": TENSORS, "args": argparse.Namespace(rate=0.1), "best": np.float64(0.7), "tags": {"a"}}
    torch.save(whole, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = read(path)
    assert all(torch.equal(found["state_dict"][name], tensor) for name, tensor in TENSORS.items())
    assert found["args"].name == "argparse.Namespace"
    assert found["tags"] == {"a"}


def write_tar_of_2017(path, tensors):
    """Write tensors in the container that PyTorch wrote before version 0.2."""
    storages, views = io.BytesIO(), io.BytesIO()
    pickle.dump(len(tensors), storages, 2)
    pickle.dump(len(tensors), views, 2)
    for key, tensor in enumerate(tensors.values()):
        storages.write(pickle_of_names((key, "cpu", "torch.FloatStorage")))
        storages.write(struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes())
        views.write(pickle_of_names((100 + key, key, "torch.FloatTensor")))
        views.write(struct.pack("<ii", tensor.ndim, 0))
        views.write(struct.pack(f"<{2 * tensor.ndim + 1}q", *tensor.shape, *tensor.stride(), 0))
    pickle.dump([], storages, 2)
    names = b"".join(
        pickle.BINUNICODE + struct.pack("<I", len(name)) + name.encode() + pickle.BINUNICODE
        + struct.pack("<I", 3) + str(100 + key).encode() + pickle.BINPERSID
        for key, name in enumerate(tensors)
    )  # fmt: skip
    whole = b"\x80\x02" + pickle.EMPTY_DICT + pickle.MARK + names + pickle.SETITEMS + pickle.STOP
    with tarfile.open(path, "w") as archive:
        parts = {"sys_info": pickle.dumps({}, 2), "storages": storages.getvalue(), "tensors": views.getvalue()}
        for name, content in {**parts, "pickle": whole}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def pickle_of_names(value):
    """Pickle a tuple whose last string is the name of a class."""
    *plain, name = value
    module, _, kind = name.rpartition(".")
    head = b"".join(pickle.dumps(one, 2)[2:-1] for one in plain)
    return b"\x80\x02" + pickle.MARK + head + f"c{module}\n{kind}\n".encode() + pickle.TUPLE + pickle.STOP


def test_the_tar_container_of_2017_is_read(tmp_path):
    tensors = {"conv.weight": torch.arange(24.0).view(2, 3, 2, 2), "bn.weight": torch.arange(4.0)}
    write_tar_of_2017(tmp_path / "w.pth", tensors)
    found = read(tmp_path / "w.pth")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


class Command:
    """Unpickled by Python itself it would run a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_of_a_file_is_executed(tmp_path, zipped):
    trap = tmp_path / "trap"
    whole = {"model": TENSORS, "trap": Command(f"touch {trap}"), "eval": Command("true")}
    torch.save(whole, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "w.pth")
    assert isinstance(found["trap"], Foreign)
    assert not trap.exists()
    assert find_state(found, tmp_path / "w.pth").key == "model"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (bytes(5000), "zeros alone"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 102530333\n", "Git LFS .* 102530333 bytes"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html>Sign in</html>", "HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is XML"),
        (b'{"error": "Not Found"}', "JSON text"),
        (b'{"metadata": {}, "weight_map": {}}', "index of weights that lie in several files"),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "ONNX file"),
        (b"\x1f\x8b\x08\x00 rest", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\x00", "NumPy array"),
        (b"\x89PNG\r\n\x1a\n", "PNG image"),
        (b"weights", "begins with 77 65 69 67"),
        (b"\x80\x02}q\x00.", "a pickle that PyTorch did not write"),
        (b"PK\x03\x04 and then nothing of an archive", "begins with|damaged"),
        (struct.pack("<Q", 100) + b'{"a": 1', "begins with 64|damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, message):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert caught.value.hint
    assert str(path) in caught.value.what


def test_archives_of_others_are_named(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    with pytest.raises(CheckpointError, match="NumPy arrays"):
        read(tmp_path / "w.npz")
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("w/readme.txt", "hello")
    with pytest.raises(CheckpointError, match="zip archive of readme"):
        read(tmp_path / "w.zip")
    with tarfile.open(tmp_path / "w.tar", "w") as archive:
        archive.add(tmp_path / "w.zip", "weights.pth")
    with pytest.raises(CheckpointError, match=r"tar archive of weights\.pth"):
        read(tmp_path / "w.tar")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "w.torchscript"))
    with pytest.raises(CheckpointError, match="TorchScript: a program"):
        read(tmp_path / "w.torchscript")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_named_and_not_run(tmp_path, zipped):
    path = tmp_path / "w.pth"
    torch.save(torch.nn.Conv2d(3, 4, 1), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"whole pickled torch.nn.modules.conv.Conv2d") as caught:
        find_state(read(path), path)
    assert "state_dict()" in caught.value.hint


@pytest.mark.parametrize("cut", [10, 200, -1, -400])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_ends_early_is_damaged(tmp_path, zipped, cut):
    path = tmp_path / "w.pth"
    torch.save({"conv.weight": torch.zeros(4, 3, 9, 9)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"damaged|begins with|did not write"):
        read(path)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.empty(2, 3, device="meta"), "without values"),
        (torch.zeros(2, 3, dtype=torch.complex64), "complex64"),
        (torch.zeros(2, 3, dtype=torch.int8), "int8"),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_refused_by_name(tmp_path, tensor, kind):
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {**TENSORS, "fc.weight": tensor}}, path)
    with pytest.raises(CheckpointError, match=rf"tensor 'fc.weight' of .* is {kind}"):
        find_state(read(path), path)


def test_half_double_strided_and_shared_tensors_become_plain_float32(tmp_path):
    whole = torch.arange(48.0).view(4, 3, 2, 2)
    saved = {
        "a.weight": whole.half(), "b.weight": whole.bfloat16(), "c.weight": whole.double(),
        "d.weight": whole.permute(1, 0, 2, 3), "e.weight": whole[:2], "f.weight": torch.nn.Parameter(whole),
        "num_batches_tracked": torch.tensor(3), "bn.num_batches_tracked": torch.tensor([3]), "n_averaged": torch.tensor(2),
        "epoch": 5, "name": "run 7", "optimizer": {"lr": 0.1},
    }  # fmt: skip
    torch.save(saved, tmp_path / "w.pth")
    state = find_state(read(tmp_path / "w.pth"), tmp_path / "w.pth").state
    assert list(state) == [f"{letter}.weight" for letter in "abcdef"]
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in state.values())
    assert torch.equal(state["d.weight"], whole.permute(1, 0, 2, 3))
    assert not state["f.weight"].requires_grad


@pytest.mark.parametrize(
    ("wrap", "key"),
    [
        (lambda state: state, ""),
        (lambda state: {"state_dict": state, "epoch": 3}, "state_dict"),
        (lambda state: {"model_state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2, 3, 2, 2)}}}}, "model_state_dict"),
        (lambda state: {"net": state, "acc": 93.1}, "net"),
        (lambda state: {"anything": {"deeper": state}}, "anything.deeper"),
        (lambda state: [state, 7], "0"),
        (lambda state: {"model": {"conv.weight": torch.zeros(1, 1, 1, 1)}, "model_ema": state}, "model_ema"),
        (lambda state: {"teacher": {"conv.weight": torch.zeros(1, 1, 1, 1)}, "state_dict": state}, "state_dict"),
    ],
    ids=["bare", "state_dict", "model_state_dict", "net", "nested", "list", "average beside", "teacher beside"],
)  # fmt: skip
def test_the_weights_are_found_wherever_they_lie(tmp_path, wrap, key):
    found = find_state(wrap(TENSORS), tmp_path / "w.pth")
    assert found.key == key
    assert torch.equal(found.state["conv.weight"], TENSORS["conv.weight"])


def test_an_object_below_a_key_is_named_with_the_command_that_gets_its_weights(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"args": argparse.Namespace(), "model": torch.nn.Conv2d(3, 4, 1), "epoch": 3}, path)
    with pytest.raises(CheckpointError, match=r"whole pickled torch\.nn\.modules\.conv\.Conv2d at 'model'") as caught:
        find_state(read(path), path)
    assert "['\"'\"'model'\"'\"'].state_dict()" in caught.value.hint


def test_a_classifier_in_a_dictionary_beside_the_network_is_taken_along(tmp_path):
    head = {"weight": torch.ones(5, 8), "bias": torch.zeros(5)}
    loaded = {"run": {"backbone": TENSORS, "classifier": head, "metrics": {"confusion": torch.zeros(5, 5)}, "epoch": 3}}
    found = find_state(loaded, tmp_path / "w.pth")
    assert found.key == "run.backbone"
    assert set(found.state) >= {"network.conv.weight", "classifier.weight", "classifier.bias"}
    assert not any("metrics" in name for name in found.state)


def test_weights_of_a_loss_beside_a_whole_network_are_passed_over(tmp_path):
    whole = {**TENSORS, "fc.weight": torch.zeros(5, 8), "fc.bias": torch.zeros(5)}
    found = find_state({"state_dict": whole, "criterion": {"weight": torch.zeros(5, 8)}}, tmp_path / "w.pth")
    assert set(found.state) >= {"conv.weight", "fc.weight"}
    assert not any("criterion" in name for name in found.state)


@pytest.mark.parametrize(
    "wrap",
    [lambda s: {"v1.0": s}, lambda s: {"a": {"b.c": s}}, lambda s: {0: {1: s}}],
    ids=["dot", "deeper", "numbers"],
)
def test_keys_of_any_kind_lead_to_the_weights(tmp_path, wrap):
    assert "conv.weight" in find_state(wrap(TENSORS), tmp_path / "w.pth").state


def test_of_several_averages_one_must_be_named(tmp_path):
    loaded = {"state_dict": TENSORS, "model_ema": dict(TENSORS), "swa_model": dict(TENSORS)}
    with pytest.raises(
        CheckpointError, match="several dictionaries of weights: 'state_dict', 'model_ema', 'swa_model'"
    ):
        find_state(loaded, tmp_path / "w.pth")


def test_a_damaged_tar_is_reported_in_one_line(tmp_path):
    write_tar_of_2017(tmp_path / "w.pth", {"conv.weight": torch.zeros(2, 3, 2, 2)})
    content = bytearray((tmp_path / "w.pth").read_bytes())
    content[150] ^= 1  # of the first header's checksum
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        read(tmp_path / "w.pth")
    assert "\n" not in caught.value.what


def test_one_of_several_must_be_named(tmp_path):
    path = tmp_path / "w.pth"
    two = {"student": TENSORS, "teacher": {name: -tensor for name, tensor in TENSORS.items()}}
    with pytest.raises(CheckpointError, match=r"several dictionaries of weights: 'student', 'teacher'") as caught:
        find_state(two, path)
    assert caught.value.values == ("key",)
    assert torch.equal(find_state(two, path, "teacher").state["conv.weight"], -TENSORS["conv.weight"])
    with pytest.raises(CheckpointError, match="no weights at 'pupil'"):
        find_state(two, path, "pupil")
    with pytest.raises(CheckpointError, match=r"no dictionary of weights: it is a dictionary of loss: float"):
        find_state({"loss": 0.1}, path)


def test_safetensors_are_known_by_their_header(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "model.bin"
    save_file({"conv.weight": TENSORS["conv.weight"]}, path)
    assert torch.equal(read(path)["conv.weight"], TENSORS["conv.weight"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(CheckpointError, match="damaged"):
        read(path)
    header = json.dumps({"conv.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(CheckpointError, match="damaged"):
        read(path)


def test_the_number_of_an_object_makes_no_room_for_others(tmp_path):
    """Python's unpickler in C makes a table as long as the largest number: 13 GB for these ten bytes."""
    (tmp_path / "w.pth").write_bytes(b"\x80\x02K\x01" + pickle.LONG_BINPUT + struct.pack("<I", 800_000_000) + b".")
    with bounded(seconds=30, mib=1000), pytest.raises(CheckpointError, match="a pickle that PyTorch did not write"):
        read(tmp_path / "w.pth")


def test_a_bytearray_is_refused_before_it_is_made(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"\x80\x05" + pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 33) + b".")
    with bounded(seconds=30, mib=1000), pytest.raises(CheckpointError, match="it holds a bytearray"):
        read(tmp_path / "w.pth")


def test_an_archive_that_is_packed_to_next_to_nothing_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", bytes(20_000_000))
    with pytest.raises(CheckpointError, match="packed to less than a 64th"):
        read(tmp_path / "w.pth")


def doubled(times):
    """Return the opcodes of a tuple that holds another twice, and that the next, as often as said."""
    put = [pickle.BINPUT + bytes([index]) for index in range(times + 1)]
    get = [pickle.BINGET + bytes([index]) for index in range(times + 1)]
    return b"K\x01" + put[0] + b"".join(get[i] * 2 + pickle.TUPLE2 + put[i + 1] for i in range(times))


def test_a_tuple_whose_hash_would_take_for_ever_is_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"\x80\x02" + pickle.EMPTY_DICT + doubled(100) + b"N" + pickle.SETITEM + b".")
    with bounded(seconds=30, mib=1000), pytest.raises(CheckpointError, match="tuple has more than 1,048,576 parts"):
        read(tmp_path / "w.pth")


def test_lists_that_hold_one_another_are_looked_at_once(tmp_path):
    inner = []
    for _ in range(5):
        inner = [inner] * 1000
    torch.save({"state_dict": {"conv.weight": torch.ones(2, 3, 2, 2)}, "lists": inner}, tmp_path / "w.pth")
    with bounded(seconds=60, mib=1000):
        assert find_state(read(tmp_path / "w.pth"), tmp_path / "w.pth").key == "state_dict"
