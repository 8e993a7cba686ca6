from pathlib import Path

import pytest

from edgeresnext.model.catalogue import specify
from edgeresnext.model.licences import licence_note


@pytest.mark.parametrize(
    ("file", "layout", "network", "sign"),
    [
        ("ig_resnext101_32x8-c38310e5.pth", "torchvision", "resnext101_32x8d", "its name is that"),
        ("semi_supervised_resnext50_32x4-ddb3e555.pth", "torchvision", "resnext50_32x4d", "its name is that"),
        ("semi_weakly_supervised_resnet18-118f1556.pth", "torchvision", "resnet18", "its name is that"),
        ("resnext101_32x8d.fb_wsl_ig1b_ft_in1k.safetensors", "torchvision", "resnext101_32x8d", "its name is that"),
        ("resnext101_32x4d-29e315fa.pth", "Torch7, converted", "resnext101_32x4d", "published for Torch7"),
        ("mine.pth", "torchvision", "resnext101_32x48d", "resnext101_32x48d for ImageNet was published as"),
        ("resnext50_32x4d-7cdf4587.pth", "torchvision", "resnext50_32x4d", None),
        ("awsley.pth", "torchvision", "resnext50_32x4d", None),
        ("resnet50.pth", "Torch7, converted", "resnet50", None),
    ],
)
def test_weights_that_are_not_for_commercial_use_are_told_by_what_the_file_shows(file, layout, network, sign):
    note = licence_note(Path("downloads") / file, layout, specify(network))
    if sign is None:
        assert note is None
    else:
        assert sign in note
        assert "CC BY-NC 4.0: not for commercial use" in note


def test_a_network_of_those_sizes_for_other_classes_was_trained_by_its_owner():
    assert licence_note(Path("mine.pth"), "torchvision", specify("resnext101_32x16d", classes=12)) is None
