import msgspec
import pytest
import torch

from edgeresnext.compiler.graph import trace
from edgeresnext.errors import RequestError
from edgeresnext.model import size
from edgeresnext.model.catalogue import CATALOGUE, PREPROCESS, find, specify
from edgeresnext.model.resnext import ResNeXt

PUBLISHED = {
    # torchvision's and timm's model pages, Cadene's pretrainedmodels, He et al. 2015 (table 6), Xie et al. 2017
    "resnet18": (11_689_512, 1.81), "resnet34": (21_797_672, 3.66), "resnet50": (25_557_032, 4.09),
    "resnet101": (44_549_160, 7.80), "resnet152": (60_192_808, 11.51), "resnext50_32x4d": (25_028_904, 4.23),
    "resnext101_32x4d": (44_177_704, 7.97), "resnext101_64x4d": (83_455_272, 15.46),
    "resnext101_32x8d": (88_791_336, 16.41), "resnext101_32x16d": (194_026_792, 36.16),
    "resnext101_32x32d": (468_530_472, 87.11), "resnext101_32x48d": (828_411_176, 153.3),
    "wide_resnet50_2": (68_883_240, 11.40), "wide_resnet101_2": (126_886_696, 22.75),
    "seresnext50_32x4d": (27_559_896, None), "seresnext101_32x4d": (48_955_416, None),
    "resnet50d": (25_576_264, None), "resnext50d_32x4d": (25_048_136, None), "resnet20": (269_722, None),
    "resnet56": (853_018, None), "resnet110": (1_727_962, None), "resnext29_8x64d": (34_426_698, None),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    parameters, gmacs = PUBLISHED[name]
    assert CATALOGUE[name].parameters == parameters
    assert gmacs is None or CATALOGUE[name].gmacs == pytest.approx(gmacs, abs=0.02)


@pytest.mark.parametrize("name", CATALOGUE)
def test_parameters_are_those_of_the_module(name):
    with torch.device("meta"):
        network = ResNeXt(CATALOGUE[name].spec)
    assert sum(parameter.numel() for parameter in network.parameters()) == CATALOGUE[name].parameters


@pytest.mark.parametrize(
    "name", [name for name in CATALOGUE if "x16d" not in name and "x32d" not in name and "x48d" not in name]
)
def test_multiply_accumulates_are_those_of_the_graph(name):
    spec = CATALOGUE[name].spec
    shallow = msgspec.structs.replace(spec, depths=tuple(min(depth, 2) for depth in spec.depths))
    counted = trace(ResNeXt(shallow), spec.preprocess.size).macs
    # The graph takes shortcuts of zeros and ones for convolutions.
    shortcuts = sum(
        layer.macs for layer in trace(ResNeXt(shallow), spec.preprocess.size).layers
        if layer.name.endswith("downsample") and spec.shortcut.startswith("padded")
    )  # fmt: skip
    assert size.macs(shallow) == counted - shortcuts


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
