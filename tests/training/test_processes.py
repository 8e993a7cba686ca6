"""Several processes take the steps that one would take."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from edgeresnext.errors import RequestError
from edgeresnext.training.processes import Processes, SynchronisedBatchNorm, synchronised

_SCRIPT = """
import sys, torch
import edgeresnext
from edgeresnext import TrainingRecipe
from short_runs import TINY, Tiny
torch.set_num_threads(1)
recipe = TrainingRecipe(epochs=3, batch=16, learning_rate=0.05, balance="weights", **eval(sys.argv[3]))
edgeresnext.train(sys.argv[1], output=sys.argv[2], model=Tiny(), preprocess=TINY, recipe=recipe)
"""


def losses(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["validation_loss"], line["images"]) for line in lines]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"frozen_statistics": True},
        pytest.param(
            {"frozen_statistics": True, "accumulate": 2, "freeze": "stem", "ema": 0.5, "checkpoint_minutes": 1e-4},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_have_the_loss_curve_of_one(three, tmp_path, changes):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, start in (("one", [sys.executable]), ("two", together)):
        command = [*start, str(script), str(three), str(tmp_path / name), repr(changes)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 3
    for mine, other in zip(one, two, strict=True):
        assert other == pytest.approx(mine, abs=1e-4)


def test_batch_norm_over_processes_is_batch_norm_while_it_is_frozen():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Flatten(2), nn.BatchNorm1d(4))
    images = torch.randn(2, 3, 5, 5)
    before = network.eval()(images)
    with synchronised(network, Processes(rank=0, count=2)):
        assert all(isinstance(one, SynchronisedBatchNorm) for one in network[1::2])
        assert [isinstance(one, nn.BatchNorm2d) for one in network[1::2]] == [True, False]
        assert torch.equal(network(images), before)
    assert [type(one) for one in network[1::2]] == [nn.BatchNorm2d, nn.BatchNorm1d]


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(4), (6, 4)),
        (nn.BatchNorm1d(4), (6, 4, 3)),
        (nn.BatchNorm2d(4, affine=False), (6, 4, 3, 3)),
        (nn.BatchNorm2d(4, track_running_stats=False), (6, 4, 3, 3)),
    ],
)
def test_batch_norm_over_processes_is_that_of_one(norm, shape, monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor)  # the other one has no images
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    usual = copy.deepcopy(norm)
    expected = usual.train()(images)
    with synchronised(norm, Processes(rank=0, count=2)):
        assert torch.allclose(norm.train()(images), expected, atol=1e-6)
    for name, value in usual.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.allclose(norm.state_dict()[name], value, atol=1e-6), name


def test_batch_norm_without_momentum_is_for_one_process():
    with (
        pytest.raises(RequestError, match="without momentum"),
        synchronised(nn.BatchNorm2d(4, momentum=None), Processes(rank=0, count=2)),
    ):
        pass
