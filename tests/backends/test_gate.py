"""The accuracy gate on real networks: what fails without it passes with it, and what cannot pass is not published."""

import shutil

import onnx
import pytest
from rescaled import rescale

import edgeresnext
from edgeresnext import Gate
from edgeresnext.backends import registry
from edgeresnext.bundle import read
from edgeresnext.data import folder
from edgeresnext.errors import AccuracyError, RequestError
from edgeresnext.measure.accuracy import classify
from edgeresnext.runtime.classifier import open_artifact

NAIVE = {"method": "max", "repairs": ()}


@pytest.fixture(scope="module")
def broken(digit_weights, tmp_path_factory):
    """The digits network with a quarter of the channels inside each block of layer 2 times 64. Read only."""
    return rescale(digit_weights, tmp_path_factory.mktemp("rescaled") / "layer2.safetensors", only="layer2")


def build_with(weights, folders, validation, output, **changes):
    options = {
        "weights": weights, "calibration": folders["calibration"], "output": output,
        "samples": 100, "precisions": ["int8"], "gate": Gate(validation=str(validation)),
    } | changes  # fmt: skip
    recipe = edgeresnext.Recipe(
        **{name: options.pop(name) for name in edgeresnext.Recipe.__struct_fields__ if name in options}
    )
    return edgeresnext.build("resnext20_8x4d", recipe=recipe, **options)


@pytest.fixture
def build(broken, digit_folders, few_digits, tmp_path):
    def call(weights=broken, **changes):
        return build_with(weights, digit_folders, few_digits, tmp_path / "out", **changes)

    return call


@pytest.fixture(scope="module")
def gated(broken, digit_folders, few_digits, tmp_path_factory):
    """The broken network by naive calibration with `fc` kept by hand, past the gate. Read only."""
    output = tmp_path_factory.mktemp("gated") / "out"
    return build_with(
        broken, digit_folders, few_digits, output, precisions=["fp32", "int8"], keep=("fp32:fc",), **NAIVE
    )


def verdicts(bundle):
    files = {file.file.removeprefix("onnx/").removesuffix(".onnx"): file for file in bundle.manifest.onnx}
    return {name: file for name, file in files.items() if file.verdict is not None}


@pytest.mark.slow
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


def test_layers_kept_by_hand_stay_kept(gated):
    for file in verdicts(gated).values():
        assert file.plan.layers["fc"] == "fp32"
        assert "by hand" in file.plan.reasons["fc"]
        assert "fc" not in file.verdict.returned


def test_repairs_leave_the_gate_nothing_to_do(build):
    for file in verdicts(build()).values():
        assert (file.verdict.returned, file.verdict.tries) == ((), 1)
        assert file.verdict.drop <= 0.5
        assert file.fidelity.snr_db > 30
        floating = {layer for layer, precision in file.plan.layers.items() if precision != "int8"}
        assert floating == ({"fc"} if "int8-cpu" in file.file else set())


def test_the_files_on_disk_are_those_of_the_plans(gated):
    for file in gated.manifest.onnx:
        names = {tensor.name for tensor in onnx.load(gated.file(file.file)).graph.initializer}
        for layer, kind in file.plan.layers.items():
            if f"{layer}.bias" in names:
                assert (f"{layer}.weight.quantised" in names) == (kind == "int8"), (file.file, layer)


def test_the_figures_are_what_runtimes_make_of_the_files(gated, few_digits):
    verdict = verdicts(gated)["int8-cpu"].verdict
    wanted = {"torch-fp32", "openvino-int8", "onnxruntime-int8"}
    known = {
        one.name: one for one in gated.manifest.artifacts if one.name in wanted and registry.unavailable(one) is None
    }
    sessions = {name: open_artifact(gated, artifact) for name, artifact in known.items()}
    photos = folder.scan(few_digits)
    found = classify(sessions, photos.images, photos.targets, gated.manifest.model.preprocess, lambda *_: None)
    assert (verdict.images, verdict.runtime) == (200, "exact")
    assert verdict.top1_fp32 == found.top("torch-fp32", 1)
    assert verdict.lost - verdict.gained == round(verdict.drop * 2)
    # The gate says what the file says; a runtime fuses and rounds elsewhere, which may turn an image.
    for name in known.keys() - {"torch-fp32"}:
        assert verdict.top1 == pytest.approx(found.top(name, 1), abs=1 / 200)
        assert verdict.agreement == pytest.approx(found.agreement(name, "torch-fp32"), abs=1 / 200)


@pytest.mark.parametrize(
    "gate", [{"min_int8": 0.95}, pytest.param({"min_agreement": 1.0, "min_int8": 0.9}, marks=pytest.mark.slow)]
)
def test_what_cannot_pass_is_not_published_and_the_old_bundle_stays(build, built, few_digits, tmp_path, gate):
    old = read(shutil.copytree(built.path, tmp_path / "out"))
    with pytest.raises(AccuracyError, match=r"cannot pass the gate.*of the convolutions in INT8") as caught:
        build(**NAIVE, gate=Gate(validation=str(few_digits), **gate))
    assert caught.value.exit_code == 3
    assert "min_int8" in caught.value.values
    assert read(old.path).digest == old.digest
    for name in old.manifest.files:
        old.file(name)


def test_images_that_were_calibrated_on_are_counted_and_agreement_needs_no_labels(
    build, digit_folders, digit_weights, tmp_path, caplog
):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, image in enumerate(sorted(digit_folders["validation"].glob("*/*.png"))[::10]):
        shutil.copy(image, flat / f"{number}.png")
    for image in sorted((digit_folders["calibration"] / "7").iterdir()):
        shutil.copy(image, flat / f"renamed-{image.name}")
    again = len(list(flat.glob("renamed-*")))
    gate = Gate(validation=str(flat), min_agreement=0.97)
    file = verdicts(build(digit_weights, samples=197, gate=gate))["int8"]
    assert (file.verdict.images, file.verdict.top1, file.verdict.drop) == (60 + again, None, None)
    assert file.verdict.agreement >= 0.97
    assert file.verdict.overlap == again
    assert f"{again} of the {60 + again} validation images were calibrated on" in caplog.text


def test_bench_counts_images_that_were_calibrated_on(built, digit_folders):
    skip = ("pytorch", "scopes", "layers", "energy", "memory", "compile")
    for split, count in (("calibration", 197), ("validation", 0)):
        report = edgeresnext.bench(
            built.path,
            data=digit_folders[split],
            backend="onnxruntime",
            precision="int8",
            options=edgeresnext.BenchOptions(rounds=2, skip=skip),
        )
        assert report.overlap == count


@pytest.mark.slow
def test_labels_that_are_not_the_network_s_are_warned_of(build, digit_weights, digit_folders, tmp_path, caplog):
    for index in range(10):
        shutil.copytree(digit_folders["validation"] / str(index), tmp_path / "rotated" / f"c{(index + 1) % 10}")
    bundle = build(digit_weights, gate=Gate(validation=str(tmp_path / "rotated")))
    assert verdicts(bundle)["int8"].verdict.top1_fp32 < 0.02
    assert "PyTorch itself classifies only 0" in caplog.text


@pytest.mark.slow
def test_random_weights_can_be_gated_by_agreement(build, digit_folders, caplog):
    gate = Gate(validation=str(digit_folders["calibration"]), min_agreement=0.5)
    build(weights=None, random_weights=True, calibration=digit_folders["calibration"], gate=gate)
    assert "100 of the 197 validation images were calibrated on" in caplog.text


def test_keeping_too_much_is_refused_before_anything_is_read(build):
    seen = []
    with pytest.raises(RequestError, match="leaves no convolution"):
        build(keep=("fp16:*",), gate=None, progress=lambda stage, *_: seen.append(stage))
    with pytest.raises(RequestError, match=r"leave 45% of the convolutions in INT8; min_int8 is 0\.5"):
        build(keep=("fp16:*.conv[12]",), progress=lambda stage, *_: seen.append(stage))
    assert seen == []
