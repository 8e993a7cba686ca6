"""The network that a build is asked for: by name and weights, or by weights alone."""

import logging

import msgspec
import pytest
import torch

from edgeresnext import files
from edgeresnext.data import calibration_set, folder
from edgeresnext.errors import CheckpointError, DataError, RequestError
from edgeresnext.model import hub
from edgeresnext.model.catalogue import CATALOGUE, PREPROCESS, Entry
from edgeresnext.model.checkpoints import random_network
from edgeresnext.pipeline.request import named
from edgeresnext.pipeline.source import by_weights, check_statistics
from edgeresnext.progress import silent
from edgeresnext.spec import CheckpointOptions, ModelSpec, Preprocess

SE = ModelSpec(
    name="small", depths=(1, 1, 1, 1), cardinality=1, width_per_group=4, base_channels=4, classes=5, se_reduction=4,
    preprocess=PREPROCESS["torchvision-v1"],
)  # fmt: skip


def source(*weights, model=None, labels=None, preprocess=None, **options):
    return by_weights(
        model, weights, preprocess=preprocess, labels=labels, options=CheckpointOptions(**options), progress=silent
    )


@pytest.fixture
def cadene(tmp_path):
    """Weights of a small SE-ResNet by Cadene's names."""
    state = random_network(msgspec.structs.replace(SE, stem_pool="ceil", stride_at="1x1"), 0).state_dict()
    names = {
        name: name.replace(".se.", ".se_module.").replace("fc.", "last_linear.", name.startswith("fc."))
        for name in state
    }
    torch.save({new: state[name] for name, new in names.items()}, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def test_what_names_and_shapes_do_not_tell_is_as_the_library_has_it_also_for_a_network_by_name(cadene, monkeypatch):
    monkeypatch.setitem(CATALOGUE, "small", Entry(spec=SE, about=""))
    for model in (None, "small"):
        found = source(cadene, model=model)
        assert (found.spec.stem_pool, found.spec.stride_at) == ("ceil", "1x1")


def test_preprocessing_that_nobody_says_is_assumed_and_said(digit_weights, caplog):
    with caplog.at_level(logging.WARNING):
        found = source(digit_weights)
    assert found.spec.preprocess == PREPROCESS["digits"]
    assert any("that of digits is assumed" in message for message in caplog.messages)
    assert any("is resnext20_8x4d, with 10 classes" in message for message in caplog.messages)


def of_channels(channels, path):
    """Write the weights of a network for images of so many channels."""
    state = random_network(SE, 0).state_dict()
    state["conv1.weight"] = state["conv1.weight"][:, [0] * channels].contiguous()
    torch.save(state, path)
    return path


def test_the_first_convolution_says_how_many_channels_images_have(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = source(of_channels(1, tmp_path / "grey.pth")).spec
    assert found.input.shape[-1] == 1
    assert (found.preprocess.mean, found.preprocess.std) == ((0.449,), (0.226,))
    assert any("takes grey images; mean 0.449 and std 0.226 are assumed" in message for message in caplog.messages)


def test_what_is_in_a_fourth_channel_is_asked_for(tmp_path):
    path = of_channels(4, tmp_path / "rgba.pth")
    with pytest.raises(CheckpointError, match="takes RGBA images, and nothing says how they are normalised") as caught:
        source(path)
    assert '"mean":[0.449,0.449,0.449,0.449]' in caught.value.hint
    preprocess = Preprocess(resize_px=64, crop_px=64, mean=(0.5,) * 4, std=(0.5,) * 4)
    assert source(path, preprocess=preprocess).spec.input.shape == (None, 64, 64, 4)


def test_images_of_another_number_of_channels_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="takes images of 2 channels; images here are grey, RGB or RGBA"):
        source(of_channels(2, tmp_path / "two.pth"))
    with pytest.raises(CheckpointError, match="takes grey images, and the preprocessing is for RGB"):
        source(of_channels(1, tmp_path / "grey.pth"), preprocess=PREPROCESS["digits"])


def test_labels_must_be_as_many_as_classes(tmp_path, digit_weights):
    (tmp_path / "labels.json").write_text('["a", "b"]')
    with pytest.raises(DataError, match="2 labels for a checkpoint of 10 classes") as caught:
        source(digit_weights, labels=tmp_path / "labels.json")
    assert caught.value.values == ("labels",)


def test_members_of_an_ensemble_must_tell_the_same_classes_apart(cadene, digit_weights):
    with pytest.raises(RequestError, match=r"differ in classes: '.*' has 5, '.*\.safetensors' has 10"):
        source(cadene, digit_weights)


def images(digit_folders, preprocess):
    return calibration_set.from_folder(folder.scan(digit_folders["calibration"]), preprocess, 64, 0)


def test_right_images_have_the_variances_that_weights_remember(digit_weights, digit_folders, caplog):
    found = source(digit_weights)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        check_statistics(found, images(digit_folders, found.spec.preprocess), trusted=False)
    assert not [message for message in caplog.messages if "variances" in message]


@pytest.mark.parametrize(
    "changes",
    [{"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, {"mean": (127.5,) * 3, "std": (127.5,) * 3}],
)
def test_wrong_preprocessing_is_told_without_labels(digit_weights, digit_folders, changes):
    found = source(digit_weights, preprocess=msgspec.structs.replace(PREPROCESS["digits"], **changes))
    seen = images(digit_folders, found.spec.preprocess)
    with pytest.raises(CheckpointError, match="do not have the variances that the weights remember") as caught:
        check_statistics(found, seen, trusted=False)
    assert "trust_network" in caught.value.values
    check_statistics(found, seen, trusted=True)


def test_another_network_with_the_same_names_is_told(digit_weights, digit_folders, caplog):
    found = source(digit_weights)
    for block in (module for module in found.network.modules() if hasattr(module, "relu2")):
        block.relu2 = torch.nn.Sigmoid()
    with pytest.raises(CheckpointError, match="another network with the same names"):
        check_statistics(found, images(digit_folders, found.spec.preprocess), trusted=False)


@pytest.mark.parametrize(
    ("model", "weights", "random", "message"),
    [
        ("resnext50", None, False, "Did you mean 'resnext50_32x4d'"),
        ("resnext50_32x4d", None, False, "either weights or random weights"),
        ("resnext50_32x4d", "w.pth", True, "not both"),
        ("./w.pth", None, True, "random weights are asked for too"),
        ("./w.pth", "v.pth", False, "weights are asked for too"),
    ],
)
def test_requests_that_contradict_themselves_are_refused(model, weights, random, message):
    with pytest.raises(RequestError, match=message):
        named(model, weights, CheckpointOptions(), random_weights=random)


def test_members_whose_publishers_number_the_classes_otherwise_are_named(cadene, monkeypatch, tmp_path):
    said = {"hf:a/one": ("cat", "dog", "emu", "fox", "gnu"), "hf:a/two": ("cat", "dog", "fox", "emu", "gnu")}
    monkeypatch.setattr(
        hub, "fetch", lambda name, *_: hub.Fetched(path=cadene, labels=said[name], preprocess=SE.preprocess, notes=())
    )
    with pytest.raises(DataError, match="class 2 is 'emu' in 'hf:a/one' and 'fox' in 'hf:a/two'") as caught:
        source(*said)
    assert caught.value.values == ("labels",)
    (tmp_path / "labels.txt").write_text("\n".join(said["hf:a/one"]))
    assert source(*said, labels=tmp_path / "labels.txt").labels == said["hf:a/one"]


def test_a_file_of_torchvision_is_known_by_its_digest_whatever_it_is_called(cadene, monkeypatch, caplog):
    assert hub.torchvision_file(cadene) is None
    monkeypatch.setitem(hub.TORCHVISION, "Small_Weights.IMAGENET1K_V2", f"small-{files.digest(cadene)[:8]}")
    with caplog.at_level(logging.WARNING):
        found = source(cadene)
    assert found.spec.preprocess == PREPROCESS["torchvision-v2"]
    assert any("it is torchvision's Small_Weights.IMAGENET1K_V2" in message for message in caplog.messages)
    assert not any("assumed" in message for message in caplog.messages)
