"""What the benchmarks compare ours with is the same network, and really quantised."""

import shutil
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nncf")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from peers import TORCHAO, Peer, open_all, peers

from edgeresnext.data import folder
from edgeresnext.data.images import batches
from edgeresnext.errors import BackendError
from edgeresnext.machine import cpu

IMAGES = 32


@pytest.fixture(scope="module")
def calibrated(built, digit_folders, tmp_path_factory):
    """Peers one after the other, calibrated on a few digits; each is quantised when it is asked for."""
    paths = folder.scan(digit_folders["calibration"]).images[:IMAGES]
    images = np.concatenate([images for images, _ in batches(paths, built.manifest.model.preprocess, IMAGES)])
    return peers(built, images, tmp_path_factory.mktemp("peers"))


FEW = ["NNCF, OpenVINO", "NNCF, OpenVINO, rest as it chooses", "onnxruntime MinMax", "onnxruntime MinMax, OpenVINO"]
REST = [
    "onnxruntime Entropy",
    "onnxruntime Entropy, OpenVINO",
    "onnxruntime Percentile",
    "onnxruntime Percentile, OpenVINO",
    "PyTorch FX x86, TorchScript",
    "PyTorch FX onednn, TorchScript",
]


@pytest.fixture(scope="module")
def few(calibrated):
    """The first peers by name."""
    return {peer.name: peer for peer in islice(calibrated, len(FEW))}


@pytest.fixture(scope="module")
def found(few, calibrated):
    """All of them."""
    return few | {peer.name: peer for peer in calibrated}


FLOOR_DB = 5 if cpu.saturates() else 15
"""Nobody but us does anything about CPUs without VNNI by default."""


@pytest.mark.slow
def test_no_peer_is_left_out_of_the_tests_unnamed(found):
    assert set(found) == {*FEW, *REST, TORCHAO}


@pytest.mark.parametrize("name", [*FEW, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)])
def test_a_quantised_peer_is_the_same_network_in_int8(name, request, built):
    golden = built.golden()
    session = request.getfixturevalue("few" if name in FEW else "found")[name].build()
    logits = np.concatenate([session.run(image[None]) for image in golden.images])
    assert np.isfinite(logits).all()
    assert FLOOR_DB < golden.compare(logits).snr_db < 60  # above, it would not be INT8
    assert (logits.argmax(1) == golden.logits.argmax(1)).mean() >= (0.75 if cpu.saturates() else 0.95)
    assert np.abs(session.run(golden.images) - logits).max() < 0.02 * np.abs(logits).max()
    session.close()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_peer_runs_any_batch(found, built):
    golden = built.golden()
    session = found[TORCHAO].build()  # for one image
    logits = session.run(golden.images)
    assert FLOOR_DB < golden.compare(logits).snr_db < 60
    session.prepare(golden.images[:3])  # 16 images are five batches of 3 and one that is filled up
    assert np.abs(session.run(golden.images) - logits).max() < 0.02 * np.abs(logits).max()


def test_seconds_are_of_quantising(few):
    assert list(few) == FEW
    assert all(peer.seconds > 0 for peer in few.values())


def test_a_peer_that_fails_does_not_end_the_others(few):
    def broken():
        raise BackendError("building failed: RuntimeError: no such operator")

    failing = Peer(name="broken", detail="", seconds=None, build=broken)
    sessions, failures = open_all([failing, few["NNCF, OpenVINO"]])
    assert list(sessions) == ["NNCF, OpenVINO"]
    assert failures == {"broken": "building failed: RuntimeError: no such operator"}


def test_a_quantiser_that_fails_says_why(built, tmp_path, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'nncf'")

    monkeypatch.setattr("peers.with_nncf", missing)
    peer = next(iter(peers(built, built.golden().images, tmp_path)))
    assert peer.seconds is None
    with pytest.raises(BackendError, match="quantising failed: ModuleNotFoundError: No module named 'nncf'"):
        peer.build()
