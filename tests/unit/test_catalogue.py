import pytest
import torch

from edgeresnext.compiler.graph import trace
from edgeresnext.errors import RequestError
from edgeresnext.model.catalogue import CATALOGUE, PREPROCESS, find, specify
from edgeresnext.model.resnext import ResNeXt


@pytest.mark.parametrize("name", CATALOGUE)
def test_published_size_is_the_network_s(name):
    entry = CATALOGUE[name]
    with torch.device("meta"):
        network = ResNeXt(entry.spec)
    assert sum(parameter.numel() for parameter in network.parameters()) == entry.parameters


@pytest.mark.parametrize("name", CATALOGUE)
def test_published_gmacs_are_the_graph_s(name):
    entry = CATALOGUE[name]
    graph = trace(ResNeXt(entry.spec), entry.spec.preprocess.crop_px)
    assert graph.macs / 1e9 == pytest.approx(entry.gmacs, abs=0.006)


@pytest.mark.parametrize(("name", "keys"), [("resnext50_32x4d", 267), ("resnext101_32x8d", 522)])
def test_parameter_names_are_torchvision_s(name, keys):
    with torch.device("meta"):
        state = ResNeXt(CATALOGUE[name].spec).state_dict()
    plain = [key for key in state if not key.endswith("num_batches_tracked")]
    assert len(plain) == keys
    assert {"conv1.weight", "layer1.0.downsample.1.running_var", "layer4.2.bn3.bias", "fc.bias"} <= set(plain)


@pytest.mark.parametrize(
    ("model", "resize", "crop"),
    [("resnext50_32x4d", 256, 224), ("resnext101_64x4d", 232, 224), ("resnext29_8x64d", 32, 32)],
)
def test_preprocessing_travels_with_the_entry(model, resize, crop):
    preprocess = CATALOGUE[model].spec.preprocess
    assert (preprocess.resize_px, preprocess.crop_px) == (resize, crop)
    assert preprocess in PREPROCESS.values()


def test_an_unknown_model_suggests_the_nearest():
    with pytest.raises(RequestError, match="resnext50_32x4d"):
        find("resnext50-32x4d")


def test_specify_changes_classes_and_nothing_else():
    spec = specify("resnet50", classes=7)
    assert (spec.classes, spec.depths, spec.preprocess) == (7, (3, 4, 6, 3), CATALOGUE["resnet50"].spec.preprocess)
