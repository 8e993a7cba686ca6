"""Every library's names become torchvision's, and the network is recognised from names and shapes alone."""

import re

import msgspec
import pytest
import torch

from edgeresnext.errors import CheckpointError
from edgeresnext.model import checkpoints
from edgeresnext.model.catalogue import CATALOGUE, PREPROCESS, name_of
from edgeresnext.model.layouts import canonical
from edgeresnext.model.recognise import recognise
from edgeresnext.model.resnext import ResNeXt
from edgeresnext.spec import ModelSpec, Preprocess

IMAGENET = ModelSpec(
    name="small", depths=(2, 1, 1, 1), cardinality=4, width_per_group=2, base_channels=4, classes=5,
    preprocess=PREPROCESS["torchvision-v1"],
)  # fmt: skip
CIFAR = msgspec.structs.replace(IMAGENET, depths=(2, 1, 1), stem="cifar")


def weights_of(spec):
    torch.manual_seed(0)
    return {name: tensor for name, tensor in ResNeXt(spec).state_dict().items() if "num_batches" not in name}


def renamed(state, *pairs):
    """Rename entries by regular expressions whose replacements may be functions."""
    found = {}
    for name, tensor in state.items():
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901
        found[name] = tensor
    return found


TORCH7 = {"conv1": "0.0.0.0", "bn1": "0.0.0.1", "conv2": "0.0.0.3", "bn2": "0.0.0.4", "conv3": "0.0.1", "bn3": "0.0.2"}
CADENE = (
    (r"^conv1\.", "features.0."),
    (r"^bn1\.", "features.1."),
    (r"^layer(\d)\.(\d+)\.downsample\.", lambda m: f"features.{int(m[1]) + 3}.{m[2]}.0.1."),
    (r"^layer(\d)\.(\d+)\.(\w+\d)\.", lambda m: f"features.{int(m[1]) + 3}.{m[2]}.{TORCH7[m[3]]}."),
    (r"^fc\.", "last_linear."),
)
HUGGING_FACE = (
    (r"^conv1\.", "resnet.embedder.embedder.convolution."),
    (r"^bn1\.", "resnet.embedder.embedder.normalization."),
    (r"^layer(\d)\.(\d+)\.downsample\.0\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.shortcut.convolution."),
    (r"^layer(\d)\.(\d+)\.downsample\.1\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.shortcut.normalization."),
    (r"^layer(\d)\.(\d+)\.conv(\d)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.layer.{int(m[3]) - 1}.convolution."),
    (r"^layer(\d)\.(\d+)\.bn(\d)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.layer.{int(m[3]) - 1}.normalization."),
    (r"^fc\.", "classifier.1."),
)  # fmt: skip
CHILDREN = (
    (r"^conv1\.", "0."),
    (r"^bn1\.", "1."),
    (r"^layer(\d)\.", lambda m: f"{int(m[1]) + 3}."),
    (r"^fc\.", "9."),
)
PORT = (
    (r"^conv1\.", "conv_1_3x3."),
    (r"^bn1\.", "bn_1."),
    (r"^layer(\d)\.(\d+)\.conv1\.", r"stage_\1.stage_\1_bottleneck_\2.conv_reduce."),
    (r"^layer(\d)\.(\d+)\.bn1\.", r"stage_\1.stage_\1_bottleneck_\2.bn_reduce."),
    (r"^layer(\d)\.(\d+)\.conv2\.", r"stage_\1.stage_\1_bottleneck_\2.conv_conv."),
    (r"^layer(\d)\.(\d+)\.bn2\.", r"stage_\1.stage_\1_bottleneck_\2.bn."),
    (r"^layer(\d)\.(\d+)\.conv3\.", r"stage_\1.stage_\1_bottleneck_\2.conv_expand."),
    (r"^layer(\d)\.(\d+)\.bn3\.", r"stage_\1.stage_\1_bottleneck_\2.bn_expand."),
    (r"^layer(\d)\.(\d+)\.downsample\.0\.", r"stage_\1.stage_\1_bottleneck_\2.shortcut.shortcut_conv."),
    (r"^layer(\d)\.(\d+)\.downsample\.1\.", r"stage_\1.stage_\1_bottleneck_\2.shortcut.shortcut_bn."),
    (r"^fc\.", "classifier."),
)


@pytest.mark.parametrize(
    ("spec", "pairs", "note"),
    [
        (IMAGENET, (), None),
        (IMAGENET, ((r"^", "module."),), "prefix 'module.' taken off"),
        (IMAGENET, ((r"^", "_orig_mod.module.model."),), "prefix '_orig_mod.module.model.' taken off"),
        (IMAGENET, ((r"^fc\.", "fc.1."),), "its classifier is 'fc.1'"),
        (IMAGENET, ((r"^(?!fc)", "backbone."), (r"^fc\.", "head.classifier.")), "its classifier is 'head.classifier'"),
        (IMAGENET, CHILDREN, "its names are those of torchvision's children in an nn.Sequential"),
        (IMAGENET, (*CHILDREN, (r"^(?!9)", "features."), (r"^9\.", "classifier.")), "prefix 'features.' taken off"),
        (IMAGENET, CADENE, "its names are those of Torch7, converted"),
        (IMAGENET, (*CADENE, (r"^features\.", "")), "its names are those of Torch7, converted"),
        (IMAGENET, (*CADENE, (r"^features\.", ""), (r"^last_linear\.", "10.1.")), "those of Torch7"),
        (IMAGENET, HUGGING_FACE, "its names are those of Hugging Face transformers"),
        (CIFAR, PORT, "its names are those of CIFAR ports of ResNeXt"),
        (CIFAR, ((r"\.downsample\.", ".shortcut."), (r"^fc\.", "linear.")), "its classifier is 'linear'"),
    ],
    ids=["torchvision", "parallel", "compiled", "dropout", "backbone", "children", "children below", "Cadene", "no features", "raw", "transformers", "port", "cifar"],
)  # fmt: skip
def test_a_layout_is_told_by_its_names_and_nothing_is_lost(tmp_path, spec, pairs, note):
    expected = weights_of(spec)
    found = canonical(renamed(expected, *pairs), tmp_path / "w.pth")
    assert found.state.keys() == expected.keys()
    assert all(torch.equal(found.state[name], tensor) for name, tensor in expected.items())
    assert (not found.notes) if note is None else any(note in one for one in found.notes)
    told = recognise(found.state, spec.preprocess, tmp_path / "w.pth")
    assert msgspec.structs.replace(told, name=spec.name) == spec


@pytest.mark.parametrize(
    "changes",
    [
        {"block": "basic", "cardinality": 1, "width_per_group": 4},
        {"stem": "cifar", "depths": (3, 2, 1)},
        {"stem": "deep", "shortcut": "pooled"},
        {"stem": "deep"},
        {"se_reduction": 4},
        {"order": "pre", "final_norm": True},
        {"order": "pre", "stem": "cifar"},
        {"preprocess": Preprocess(resize_px=64, crop_px=64, mean=(0.5,), std=(0.5,))},
        {"preprocess": Preprocess(resize_px=64, crop_px=64, mean=(0.5,) * 4, std=(0.5,) * 4)},
        {"stem_channels": 12},
        {"cardinality": 1, "width_per_group": 8},
        {"block": "basic", "cardinality": 1, "width_per_group": 4, "shortcut": "padded-centred", "stem": "cifar"},
    ],
    ids=str,
)
def test_a_network_is_told_by_its_shapes(tmp_path, changes):
    spec = msgspec.structs.replace(IMAGENET, **changes)
    told = recognise(weights_of(spec), spec.preprocess, tmp_path / "w.pth")
    assert msgspec.structs.replace(told, name=spec.name) == spec


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_network_of_the_catalogue_is_recognised_by_name(tmp_path, name):
    spec = CATALOGUE[name].spec
    with torch.device("meta"):
        state = {key: tensor for key, tensor in ResNeXt(spec).state_dict().items() if "num_batches" not in key}
    assert recognise(state, spec.preprocess, tmp_path / "w.pth").name == name


def test_other_networks_have_names_too():
    spec = CATALOGUE["resnext50_32x4d"].spec
    assert name_of(msgspec.structs.replace(spec, cardinality=16, width_per_group=8)) == "resnext50_16x8d"
    assert name_of(msgspec.structs.replace(spec, depths=(2, 2, 2, 2), se_reduction=16)) == "seresnext26_32x4d"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("fc.weight"), "no classifier"),
        (lambda state: state.update({"aux.weight": state["fc.weight"]}), "several that may be the classifier: fc, aux"),
        (lambda state: state.update({"layer1.0.attention.weight": torch.zeros(3)}), "1 unexpected keys .layer1.0.attention"),
        (lambda state: state.update({"gate.weight": torch.zeros(3)}), "layers that no network known here"),
        (lambda state: state.update({f"teacher.{name}": tensor for name, tensor in list(state.items())}), "several networks"),
        (lambda state: state.pop("layer1.0.conv1.weight"), "no ResNet or ResNeXt that is known"),
        (lambda state: state.pop("layer1.0.conv2.weight"), "no whole ResNet"),
        (lambda state: state.pop("layer2.0.bn2.running_var"), "1 missing keys"),
        (lambda state: state.update({"layer2.0.bn2.bias": torch.zeros(3)}), "1 tensors of another shape"),
        (lambda state: state["conv1.weight"].fill_(float("nan")), "NaN or infinity in conv1.weight"),
    ],
    ids=["no head", "two heads", "unknown part", "unknown layer", "two networks", "no anchor", "hole", "missing", "shape", "NaN"],
)  # fmt: skip
def test_what_is_no_whole_network_is_refused_with_the_reason(tmp_path, change, message):
    state = weights_of(IMAGENET)
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.open_network(tmp_path / "w.pth", IMAGENET.preprocess)
    assert caught.value.hint


def test_what_lies_beside_the_network_is_passed_over_and_named(tmp_path):
    state = renamed(weights_of(IMAGENET), (r"^", "model.")) | {"criterion.weight": torch.ones(5), "mean": torch.ones(3)}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    found = checkpoints.read(tmp_path / "w.pth", IMAGENET.preprocess)
    assert "passed over: criterion.weight, mean" in found.notes


def test_weights_under_another_network_s_name_are_named_for_what_they_are(tmp_path):
    spec = msgspec.structs.replace(CATALOGUE["resnext20_8x4d"].spec, classes=3)
    torch.save(weights_of(spec), tmp_path / "w.pth")
    found = checkpoints.read(tmp_path / "w.pth", spec.preprocess)
    with pytest.raises(CheckpointError, match="does not fit resnet50") as caught:
        checkpoints.load_network(CATALOGUE["resnet50"].spec, found)
    assert "weights of resnext20_8x4d" in caught.value.hint
