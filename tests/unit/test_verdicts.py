"""What a gate asks and says, on values: without networks and files."""

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgeresnext.compiler.graph import trace
from edgeresnext.errors import DataError, RequestError
from edgeresnext.measure.accuracy import Classified
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import random_network
from edgeresnext.pipeline.gate import doubts, match, prepare, shortfall
from edgeresnext.pipeline.verdict import verdict
from edgeresnext.spec import Fidelity, Gate, OnnxFile, Plan, Verdict

GOOD = Verdict(images=600, runtime="exact", agreement=0.99, top1_fp32=0.98, top1=0.978, drop=0.2)
FILE = OnnxFile(
    file="onnx/int8.onnx", opset=13, plan=Plan(name="int8", floating="fp32", layers={}),
    fidelity=Fidelity(snr_db=30.0, max_error=0.01), verdict=GOOD,
)  # fmt: skip


@pytest.fixture
def classes(tmp_path):
    """A folder of two classes, and one of the same images without."""
    for name in ("with/1", "with/0", "without"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / name / "x.png")
    return tmp_path


def changed(**changes):
    return msgspec.structs.replace(FILE, verdict=msgspec.structs.replace(GOOD, **changes))


@pytest.mark.parametrize(
    ("gate", "file", "message"),
    [
        ({"max_drop": 0.5}, FILE, ""),
        ({"max_drop": 0.5}, changed(drop=0.5 + 1e-12), ""),  # three images of 600, after rounding
        ({"max_drop": 0.5}, changed(drop=4 / 6), r"top-1 drops by 0.67 points on 600 images (0.5 allowed)"),
        ({"max_drop": 0.0}, changed(drop=-1.0), ""),
        ({"min_agreement": 0.995}, FILE, "99.00% of 600 images agree with PyTorch (99.50% asked)"),
        ({"min_agreement": 0.99}, FILE, ""),
        ({"max_drop": 0.5}, changed(int8_convolutions=0.4), "40% of the convolutions are INT8 (50% asked)"),
        (
            {"max_drop": 0.5},
            msgspec.structs.replace(FILE, fidelity=Fidelity(snr_db=9.0, max_error=0.5)),
            "signal-to-noise of the logits is 9.0 dB, below 15 dB",
        ),
        (
            {"max_drop": 0.5},
            msgspec.structs.replace(changed(drop=2.0), saturated=Fidelity(snr_db=9.0, max_error=0.5)),
            "on CPUs without VNNI signal-to-noise of the logits is 9.0 dB, below 15 dB and top-1 drops by 2.00 points on 600 images (0.5 allowed)",
        ),
    ],
)
def test_a_file_passes_or_is_told_by_how_much_it_does_not(gate, file, message):
    assert shortfall(Gate(validation="", **gate), file) == message


def classified(targets):
    """Ten images: PyTorch misses one of them, the file two others."""
    right = np.array([0, 1] * 5)
    pytorch, int8 = right.copy(), right.copy()
    pytorch[0] = 1
    int8[[1, 2]] = 0, 1
    return Classified(
        best={"PyTorch": np.stack([pytorch, 1 - pytorch], 1), "int8": np.stack([int8, 1 - int8], 1)},
        targets=right if targets else None,
        digests=[f"{i:016x}" for i in range(10)],
    )


def test_a_verdict_counts_images_against_pytorch():
    found = verdict(classified(targets=True), "int8", {f"{i:016x}" for i in (3, 4, 99)}, int8_convolutions=0.9)
    assert (found.images, found.agreement, found.int8_convolutions, found.overlap) == (10, 0.7, 0.9, 2)
    assert (found.top1_fp32, found.top1, found.drop) == (0.9, 0.8, pytest.approx(10))
    assert (found.lost, found.gained, found.p_value) == (2, 1, 1.0)


def test_agreement_needs_no_labels():
    found = verdict(classified(targets=False), "int8", (), int8_convolutions=1.0)
    assert (found.agreement, found.top1_fp32, found.top1, found.drop, found.p_value) == (0.7, None, None, None, None)


@pytest.mark.parametrize(
    ("changes", "max_drop", "message"),
    [
        ({}, 0.5, None),
        ({"overlap": 100}, 0.5, "100 of the 600 validation images were calibrated on"),
        (
            {"top1_fp32": 0.02},
            0.5,
            "PyTorch itself classifies only 2.00% of the validation images right (chance is 10.00%)",
        ),
        ({"top1_fp32": None}, None, None),
        ({"images": 197}, 0.4, "one of 197 validation images is more than 0.4 points: use more"),
        ({"images": 197}, None, None),
    ],
)
def test_what_makes_a_verdict_doubtful_is_said(changes, max_drop, message):
    found = doubts(msgspec.structs.replace(GOOD, **changes), Gate(validation="", max_drop=max_drop), classes=10)
    assert [doubt.startswith(message) for doubt in found] == ([True] if message else [])


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ({"max_drop": -1}, "max_drop is -1"),
        ({"max_drop": float("nan")}, "max_drop is nan"),
        ({"min_agreement": 99}, "min_agreement is 99"),
        ({"min_agreement": 0}, "min_agreement is 0"),
        ({"min_int8": 80}, "min_int8 is 80"),
    ],
)
def test_impossible_limits_are_refused_and_named(classes, gate, message):
    with pytest.raises(RequestError, match=message) as caught:
        prepare(Gate(validation=str(classes / "with"), **gate), trained=True)
    assert set(caught.value.values) == set(gate)


def test_limits_and_images_must_fit_each_other(classes):
    with pytest.raises(DataError, match="does not exist"):
        prepare(Gate(validation="nowhere"), trained=True)
    with pytest.raises(DataError, match="no class folders"):
        prepare(Gate(validation=str(classes / "without")), trained=True)
    with pytest.raises(RequestError, match="random weights have no accuracy"):
        prepare(Gate(validation=str(classes / "with")), trained=False)
    asked = prepare(Gate(validation=str(classes / "without"), min_agreement=0.9), trained=False).gate
    assert (asked.max_drop, asked.min_agreement) == (None, 0.9)
    assert prepare(Gate(validation=str(classes / "with")), trained=True).gate.max_drop == 0.5


def test_images_get_the_classes_of_the_network_and_too_few_int8_layers_are_refused_at_once(classes):
    graph = trace(random_network(specify("resnext20_8x4d"), 0), (32, 32))
    asked = prepare(Gate(validation=str(classes / "with")), trained=True)
    assert match(asked, ("1", "0"), graph, ()).targets == (1, 0)  # folders 0 and 1
    with pytest.raises(DataError, match="match no label"):
        match(asked, ("cat", "dog"), graph, ())
    kept = [layer.name for layer in graph.layers if layer.name.endswith((".conv1", ".conv2"))]
    with pytest.raises(RequestError, match=r"leave 45% of the convolutions in INT8; min_int8 is 0\.5") as caught:
        match(asked, ("1", "0"), graph, kept)
    assert caught.value.values == ("keep", "min_int8")
