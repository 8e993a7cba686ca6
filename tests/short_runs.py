"""A network that learns something in a second, and runs of it that die on the way."""

import pytest
import torch
from torch import nn

import edgeresnext
from edgeresnext import Preprocess, TrainingRecipe

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


RECIPE = TrainingRecipe(epochs=3, batch=16, learning_rate=0.05)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and nothing is saved."""


def trained(data, output=None, recipe=RECIPE, **options):
    options.setdefault("model", Tiny())
    preprocess = options.pop("preprocess", TINY)
    return edgeresnext.train(data, output=output, recipe=recipe, preprocess=preprocess, **options)


def killed_at(step, data, **options):
    """Train until a step is over, and die there."""

    def progress(_stage, done, _total):
        if done == step:
            raise Killed

    with pytest.raises(Killed):
        trained(data, progress=progress, **options)


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items() if value.is_floating_point()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
