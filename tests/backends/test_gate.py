"""The accuracy gate on real networks: what fails without it passes with it, and what cannot pass is not published."""

import shutil

import onnx
import pytest
from rescaled import rescale

import edgeresnext
from edgeresnext import Gate
from edgeresnext.bundle import read
from edgeresnext.errors import AccuracyError, DataError, RequestError
from edgeresnext.runtime.inspect import inspect

NAIVE = {"method": "max", "repairs": ()}


@pytest.fixture(scope="module")
def broken(digit_weights, tmp_path_factory):
    """The digits network with a quarter of the channels inside each block of layer 2 times 64. Read only."""
    return rescale(digit_weights, tmp_path_factory.mktemp("rescaled") / "layer2.safetensors", only="layer2")


def build_with(weights, folders, output, **changes):
    options = {
        "weights": weights, "calibration": folders["calibration"], "output": output,
        "samples": 100, "precisions": ["int8"], "gate": Gate(validation=str(folders["validation"])),
    } | changes  # fmt: skip
    recipe = edgeresnext.Recipe(
        **{name: options.pop(name) for name in edgeresnext.Recipe.__struct_fields__ if name in options}
    )
    return edgeresnext.build("resnext20_8x4d", recipe=recipe, **options)


@pytest.fixture
def build(broken, digit_folders, tmp_path):
    def call(**changes):
        return build_with(**({"weights": broken, "folders": digit_folders, "output": tmp_path / "out"} | changes))

    return call


@pytest.fixture(scope="module")
def gated(broken, digit_folders, tmp_path_factory):
    """The broken network by naive calibration, past the gate. Read only."""
    return build_with(broken, digit_folders, tmp_path_factory.mktemp("gated") / "out", **NAIVE)


def verdicts(bundle):
    return {file.file.removeprefix("onnx/").removesuffix(".onnx"): file for file in bundle.manifest.onnx}


def test_what_naive_calibration_breaks_is_built_with_few_layers_in_floating_point(build, gated):
    with pytest.raises(AccuracyError, match="dB"):
        build(**NAIVE, gate=None)
    file = verdicts(gated)["int8"]
    assert file.verdict.drop <= 0.5
    assert 0 < len(file.verdict.returned) <= 6
    assert {name.partition(".")[0] for name in file.verdict.returned} == {"layer2"}
    assert file.verdict.int8_convolutions >= 0.75
    for name in file.verdict.returned:
        assert file.plan.layers[name] == "fp32"
        assert "accuracy gate" in file.plan.reasons[name]
        assert "dB alone" in file.plan.reasons[name]


def test_repairs_leave_the_gate_nothing_to_do(build):
    for file in verdicts(build()).values():
        assert (file.verdict.returned, file.verdict.tries) == ((), 1)
        assert file.verdict.drop <= 0.5
        assert file.fidelity.snr_db > 30
        floating = {layer for layer, precision in file.plan.layers.items() if precision != "int8"}
        assert floating == ({"fc"} if "int8-cpu" in file.file else set())


def test_the_figures_are_those_of_bench(build, digit_folders):
    bundle = build(precisions=["fp32", "int8"])
    verdict = verdicts(bundle)["int8-cpu"].verdict
    report = edgeresnext.bench(
        bundle.path, data=digit_folders["validation"], options=edgeresnext.BenchOptions(rounds=2)
    )
    rows = {row.name: row for row in report.rows}
    assert verdict.images == 600
    assert verdict.top1_fp32 == rows["torch-fp32"].top1
    assert verdict.lost - verdict.gained == round(verdict.drop * 6)
    row = rows["openvino-int8"]
    # The gate says what the file says; a runtime fuses and rounds elsewhere, which may turn one image of 600 or two.
    assert verdict.runtime == "exact"
    assert verdict.top1 == pytest.approx(row.top1, abs=2 / 600)
    assert verdict.agreement == pytest.approx(row.agreement, abs=2 / 600)
    assert verdict.drop == pytest.approx(100 * row.top1_drop, abs=100 * 2 / 600)
    assert row.top1_interval[0] < row.top1 < row.top1_interval[1]
    assert (rows["torch-fp32"].lost, rows["torch-fp32"].gained, rows["torch-fp32"].p_value) == (0, 0, 1.0)


@pytest.mark.parametrize("gate", [{"min_int8": 0.95}, {"min_agreement": 1.0, "min_int8": 0.9}])
def test_what_cannot_pass_is_not_published_and_the_old_bundle_stays(
    build, digit_folders, tmp_path, gate, digit_weights
):
    old = build(weights=digit_weights, gate=None)
    with pytest.raises(AccuracyError, match=r"cannot pass the gate.*of the convolutions in INT8") as caught:
        build(**NAIVE, gate=Gate(validation=str(digit_folders["validation"]), **gate))
    assert caught.value.exit_code == 3
    assert "--min-int8" in caught.value.hint
    assert read(old.path).manifest == old.manifest
    assert all(check.status != "failed" for check in edgeresnext.verify(old.path))


def test_agreement_needs_no_labels(build, digit_folders, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, image in enumerate(sorted(digit_folders["validation"].glob("*/*.png"))[::5]):
        shutil.copy(image, flat / f"{number}.png")
    with pytest.raises(DataError, match="no class folders"):
        build(gate=Gate(validation=str(flat)))
    file = verdicts(build(gate=Gate(validation=str(flat), min_agreement=0.97)))["int8"]
    assert (file.verdict.images, file.verdict.top1, file.verdict.drop) == (120, None, None)
    assert file.verdict.agreement >= 0.97


def test_calibration_images_among_the_validation_images_are_counted(build, digit_folders, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(digit_folders["validation"] / "3", mixed / "3")
    for image in sorted((digit_folders["calibration"] / "7").iterdir()):
        (mixed / "7").mkdir(exist_ok=True)
        shutil.copy(image, mixed / "7" / f"renamed-{image.name}")
    bundle = build(samples=197, gate=Gate(validation=str(mixed), max_drop=5))
    assert verdicts(bundle)["int8"].verdict.overlap == len(list((mixed / "7").iterdir()))
    report = edgeresnext.bench(bundle.path, data=mixed, options=edgeresnext.BenchOptions(rounds=2))
    assert report.overlap == len(list((mixed / "7").iterdir()))
    assert (
        edgeresnext.bench(
            bundle.path, data=digit_folders["validation"], options=edgeresnext.BenchOptions(rounds=2)
        ).overlap
        == 0
    )


@pytest.mark.parametrize(
    ("gate", "error", "message"),
    [
        ({"max_drop": -1}, RequestError, "--max-drop is -1"),
        ({"min_agreement": 99}, RequestError, "--min-agreement is 99"),
        ({"min_int8": 80}, RequestError, "--min-int8 is 80"),
        ({"validation": "nowhere"}, DataError, "does not exist"),
    ],
)
def test_impossible_gates_are_refused(build, digit_folders, gate, error, message):
    with pytest.raises(error, match=message):
        build(gate=Gate(**({"validation": str(digit_folders["validation"])} | gate)))


def test_labels_that_are_not_the_network_s_are_warned_of(build, digit_weights, digit_folders, tmp_path, caplog):
    for index in range(10):
        shutil.copytree(digit_folders["validation"] / str(index), tmp_path / "rotated" / f"c{(index + 1) % 10}")
    bundle = build(weights=digit_weights, gate=Gate(validation=str(tmp_path / "rotated")))
    assert verdicts(bundle)["int8"].verdict.top1_fp32 < 0.02
    assert "PyTorch itself classifies only 0" in caplog.text
    assert "taken in sorted order, c0 is class 0" in caplog.text


def test_foreign_classes_are_refused_before_anything_is_read(build, photos):
    seen = []
    with pytest.raises(DataError, match=r"match no label of the model: cat, dog"):
        build(gate=Gate(validation=str(photos)), progress=lambda stage, *_: seen.append(stage))
    assert seen == []


def test_random_weights_have_no_accuracy(tmp_path, digit_folders):
    gate = Gate(validation=str(digit_folders["validation"]))
    with pytest.raises(RequestError, match="random weights"):
        edgeresnext.build("resnext20_8x4d", random_weights=True, output=tmp_path / "out", gate=gate)


def test_the_manifest_says_what_was_asked_and_found(gated, digit_folders):
    found = inspect(gated.path)
    assert found["gate"]["validation"] == str(digit_folders["validation"])
    assert found["gate"]["max_drop"] == 0.5
    assert found["recipe"]["method"] == "max"
    int8 = next(file for file in found["onnx"] if file["file"] == "onnx/int8.onnx")
    assert int8["verdict"]["returned"]
    assert int8["verdict"]["tries"] > 1


def test_the_files_on_disk_are_those_of_the_plans(gated):
    for file in gated.manifest.onnx:
        names = {tensor.name for tensor in onnx.load(gated.file(file.file)).graph.initializer}
        for layer, kind in file.plan.layers.items():
            if f"{layer}.bias" in names:
                assert (f"{layer}.weight.quantised" in names) == (kind == "int8"), (file.file, layer)


def test_each_file_returns_its_own_layers(gated):
    files = verdicts(gated)
    signed, unsigned = files["int8"].verdict, files["int8-cpu"].verdict
    assert len(unsigned.returned) <= len(signed.returned)  # twice the levels after a ReLU


def test_few_validation_images_and_calibrated_ones_are_warned_of(build, digit_folders, caplog):
    build(weights=None, random_weights=True, calibration=digit_folders["calibration"], gate=Gate(
        validation=str(digit_folders["calibration"]), min_agreement=0.5))  # fmt: skip
    assert "100 of the 197 validation images were calibrated on" in caplog.text


def test_a_drop_smaller_than_one_image_is_warned_of(build, digit_folders, digit_weights, caplog):
    gate = Gate(validation=str(digit_folders["calibration"]), max_drop=0.4)
    build(gate=gate, weights=digit_weights)
    assert "one of 197 validation images is more than 0.4 points" in caplog.text


def test_layers_kept_by_hand_stay_kept(build):
    bundle = build(**NAIVE, keep=["fp32:layer2.*"])
    for file in verdicts(bundle).values():
        assert {name for name, kind in file.plan.layers.items() if kind == "fp32"} >= {
            name for name in file.plan.layers if name.startswith("layer2.")
        }
        assert all("by hand" in file.plan.reasons[name] for name in file.plan.layers if name.startswith("layer2."))


def test_keeping_too_much_is_refused_before_anything_is_read(build, digit_folders):
    seen = []
    with pytest.raises(RequestError, match="leaves no convolution"):
        build(keep=["fp16:*"], gate=None, progress=lambda stage, *_: seen.append(stage))
    with pytest.raises(RequestError, match=r"leaves 45% of the convolutions in INT8, less than --min-int8 0\.5"):
        build(keep=["fp16:*.conv[12]"], progress=lambda stage, *_: seen.append(stage))
    assert seen == []
