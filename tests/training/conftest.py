"""A small network, and digits enough for it to learn something in a second."""

import shutil

import pytest
import torch
from torch import nn

from edgeresnext import Preprocess

TINY = Preprocess(resize_px=8, crop_px=8)


class Tiny(nn.Module):
    """Two convolutions and a head, with the names that parts are told by."""

    def __init__(self, classes=3, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(8)
            self.layer1 = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12))
            self.fc = nn.Linear(12, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.layer1(x)).mean((2, 3)))


@pytest.fixture
def tiny():
    return Tiny()


@pytest.fixture(scope="session")
def three(digit_folders, tmp_path_factory):
    """Twenty training and eight validation images of three digits. Read only."""
    root = tmp_path_factory.mktemp("three")
    for split, name, count in (("train", "train", 20), ("validation", "val", 8)):
        for digit in ("0", "1", "4"):
            (root / name / digit).mkdir(parents=True)
            for image in sorted((digit_folders[split] / digit).iterdir())[:count]:
                shutil.copy(image, root / name / digit)
    return root
