"""Stand-ins for GPUs, and a bundle for their engines."""

import functools

import pytest
from standins import engines as on_standins


@pytest.fixture
def install(monkeypatch):
    """Install stand-ins for TensorRT and CUDA: see `standins.engines.install`."""
    return functools.partial(on_standins.install, monkeypatch)


@pytest.fixture
def lean(bundle_copy):
    """A copy of the digits bundle with PyTorch alone: whatever runs would be measured with every engine."""
    on_standins.without_cpu(bundle_copy)
    return bundle_copy
