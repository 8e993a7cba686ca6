"""Ranges: taken once, used again where they fit, refused where they do not."""

import shutil
from types import SimpleNamespace

import msgspec
import numpy as np
import onnx
import pytest
import torch

import edgeresnext
from edgeresnext import files
from edgeresnext.compiler.equalise import EIGHTHS
from edgeresnext.compiler.evaluate import Evaluator
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.plan import parse_keep, plan_for
from edgeresnext.compiler.thresholds import STANDARD
from edgeresnext.data import calibration_set, folder
from edgeresnext.data.digits import prepare
from edgeresnext.data.images import batches
from edgeresnext.errors import BundleError, DataError, InputError, RequestError
from edgeresnext.model.catalogue import PREPROCESS, specify
from edgeresnext.model.checkpoints import load_saved
from edgeresnext.model.resnext import normalise
from edgeresnext.pipeline import ranges
from edgeresnext.pipeline.ranges import preprocess_digest
from edgeresnext.spec import REPAIRS, Recipe

SAMPLES = 32
SPEC = specify("resnext20_8x4d")


@pytest.fixture
def build(digit_folders, digit_weights, tmp_path):
    def call(**changes):
        options = {
            "weights": digit_weights, "calibration": digit_folders["calibration"], "output": tmp_path / "out",
            "samples": SAMPLES, "precisions": ["int8"],
        } | changes  # fmt: skip
        stages = []
        fields = {name: options.pop(name) for name in Recipe.__struct_fields__ if name in options}
        bundle = edgeresnext.build(
            options.pop("model", "resnext20_8x4d"), **({"recipe": Recipe(**fields)} | options),
            progress=lambda stage, *_: stages.append(stage),
        )  # fmt: skip
        return bundle, "calibrate" in stages

    return call


@pytest.fixture(scope="module")
def digits(digit_folders, digit_weights, tmp_path_factory):
    """The digits network, its calibration folder, and a bundle of it in INT8. Read only."""
    bundle = edgeresnext.build(
        SPEC.name, weights=digit_weights, calibration=digit_folders["calibration"], precisions=["int8"],
        recipe=Recipe(samples=SAMPLES), output=tmp_path_factory.mktemp("ranges") / "bundle",
    )  # fmt: skip
    graph = trace(load_saved(SPEC, digit_weights), SPEC.preprocess.size)
    return SimpleNamespace(graph=graph, photos=folder.scan(digit_folders["calibration"]), bundle=bundle)


@pytest.fixture
def calibrate(digits, tmp_path):
    """Calibrate as a build with changes would; return the ranges, and whether images were looked at."""

    def call(*, given=None, output=tmp_path / "out", preprocess=SPEC.preprocess, digest=None, **recipe):
        recipe = Recipe(**({"samples": SAMPLES} | recipe))
        stages = []
        found = ranges.calibrate(
            digits.graph,
            msgspec.structs.replace(SPEC, preprocess=preprocess),
            calibration_set.from_folder(digits.photos, preprocess, recipe.samples, recipe.seed),
            recipe,
            weights_digest=digest or files.digest(digits.bundle.path / "weights.safetensors"),
            given=given,
            output=output,
            progress=lambda stage, *_: stages.append(stage),
        )
        return found.ranges, "calibrate" in stages

    return call


def test_a_second_build_uses_the_ranges_of_the_first_and_writes_the_same_files(build, digits, tmp_path):
    shutil.copytree(digits.bundle.path, tmp_path / "out")
    again, calibrated = build()
    assert not calibrated
    assert again.manifest.files == digits.bundle.manifest.files


def test_another_method_needs_no_new_calibration_and_gives_its_own_thresholds(calibrate, digits):
    known = digits.bundle.ranges()
    found, calibrated = calibrate(method="max", output=digits.bundle.path)
    fresh, anew = calibrate(method="max")
    assert (calibrated, anew) == (False, True)
    assert found == fresh
    assert found.limits("signed") == known.thresholds["max"] != known.limits("signed")
    found, calibrated = calibrate(method="percentile:99.95", output=digits.bundle.path)  # of which they know nothing
    assert calibrated
    assert set(found.thresholds) == {*STANDARD, "percentile:99.95"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 1}, "calibration images"),
        ({"samples": 24}, "calibration images"),
        ({"repairs": ()}, "equalisation"),
        ({"repairs": REPAIRS}, "without channel steps for rounding"),
        ({"method": "percentile:99.95"}, "percentile:99.95"),
        ({"preprocess": edgeresnext.Preprocess(resize_px=36, crop_px=32)}, "preprocessing"),
        ({"digest": "0" * 64}, "weights"),
    ],
)
def test_ranges_that_do_not_fit_are_refused_where_they_are_given(calibrate, digits, changes, what):
    with pytest.raises(DataError, match=f"do not fit.*{what}") as caught:
        calibrate(**changes, given=digits.bundle.ranges())
    assert caught.value.values == ("ranges",)


def test_ranges_of_the_bundle_at_the_output_are_left_alone_where_they_do_not_fit(calibrate, digits):
    found, calibrated = calibrate(samples=24, output=digits.bundle.path)
    assert calibrated
    assert found.images == 24


def test_given_ranges_are_used(build, digits):
    bundle, calibrated = build(ranges=digits.bundle.path)
    assert not calibrated
    assert bundle.manifest.files["onnx/int8.onnx"] == digits.bundle.manifest.files["onnx/int8.onnx"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"method": "\xff"}',
        b'{"method": "max", "images": 3, "thresholds": {"input": 1.0}}',
        b'{"method": "max", "images": 3, "thresholds": {}, "chosen": {}, "digests": {}, "schema": 99}',
    ],
)
def test_files_that_hold_no_ranges_are_refused(build, tmp_path, content):
    (tmp_path / "ranges.json").write_bytes(content)
    for path in (tmp_path / "ranges.json", tmp_path):
        with pytest.raises(BundleError, match="holds no ranges"):
            ranges.read(path)
    with pytest.raises(InputError, match="holds no ranges"):
        build(ranges=tmp_path / "ranges.json")
    with pytest.raises(InputError, match="cannot read ranges"):
        build(ranges=tmp_path / "nothing.json")


@pytest.mark.parametrize("change", [{"method": "kl"}, {"chosen": {"signed": {"images": "kl"}}}])
def test_ranges_that_choose_what_they_do_not_have_are_refused(digits, tmp_path, change):
    path = tmp_path / "ranges.json"
    path.write_bytes(msgspec.json.encode(msgspec.to_builtins(digits.bundle.ranges()) | change))
    with pytest.raises(BundleError, match=r"holds no ranges of this release.*kl"):
        ranges.read(path)


def _without_choice(found):
    return msgspec.structs.replace(found, chosen={})


def _negative(found):
    return msgspec.structs.replace(found, thresholds={m: dict.fromkeys(v, -1.0) for m, v in found.thresholds.items()})


def _of_other_channels(found):
    return msgspec.structs.replace(found, exponents={"layer1.0.conv1": (1, 2, 3)})


@pytest.mark.parametrize("damage", [_without_choice, _negative, _of_other_channels])
def test_damaged_ranges_are_refused(calibrate, digits, damage):
    with pytest.raises(DataError, match="damaged"):
        calibrate(given=damage(digits.bundle.ranges()))


def test_the_file_carries_every_method_and_the_choice_for_each_tensor(digits):
    found = ranges.read(digits.bundle.path)
    assert set(found.thresholds) == set(STANDARD)
    tensors = set(found.thresholds["max"])
    assert all(set(limits) == tensors for limits in found.thresholds.values())
    assert all(set(chosen) == tensors for chosen in found.chosen.values())
    assert len(set(found.chosen["signed"].values())) > 1  # no method is the best for all
    assert all(found.thresholds["max"][name] >= limit for name, limit in found.thresholds["mse"].items())


def test_activations_that_are_not_finite_name_the_layer_and_leave_nothing(build, tmp_path, digit_weights):
    from safetensors.torch import load_file, save_file

    state = load_file(digit_weights)
    state["layer2.0.bn1.weight"] = state["layer2.0.bn1.weight"] * 1e38
    save_file(state, tmp_path / "huge.safetensors")
    with pytest.raises(DataError, match=r"layer 'layer2\.0\.(relu1|conv2|relu2)' is NaN or infinite"):
        build(weights=tmp_path / "huge.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_rounding_makes_int8_better_on_other_images_and_leaves_fp32_within_rounding(
    build, digits, digit_folders, tmp_path
):
    plain, _ = build(samples=100, output=tmp_path / "plain")
    bundle, _ = build(samples=100, repairs=REPAIRS, precisions=["fp32", "fp16", "int8"])
    assert bundle.ranges().parts == EIGHTHS.parts
    photos = folder.scan(digit_folders["validation"]).images[::3]
    seen = np.concatenate([images for images, _ in batches(photos, SPEC.preprocess, 16)])
    exact = Executor(digits.graph).logits(normalise(torch.from_numpy(seen), SPEC)).numpy()

    def noise(of, name, **how):
        found = Evaluator(onnx.load(of.path / "onnx" / f"{name}.onnx"), **how).logits(seen)
        return float(np.square(found - exact).sum() / np.square(exact).sum())

    assert noise(bundle, "fp32") < 1e-10
    assert noise(bundle, "int8") < 0.8 * noise(plain, "int8")
    assert noise(bundle, "int8-fp16") < 0.8 * noise(plain, "int8")
    assert noise(bundle, "int8-cpu") < noise(plain, "int8-cpu")
    saturated = [noise(one, "int8-cpu", saturating=True) for one in (bundle, plain)]
    assert saturated[0] < 1.12 * saturated[1]  # 0.5 dB
    costs = edgeresnext.sensitivity(bundle.path, data=digits.photos.root, samples=16)  # reads the file's own numbers
    assert costs.together.snr_db > 25


def test_a_recipe_is_read_from_a_file(build, tmp_path):
    (tmp_path / "r.toml").write_text('method = "mse"\nsamples = 24\nseed = 3\nrepairs = ["bias-correction"]\n')
    bundle, _ = build(recipe=edgeresnext.read_recipe(tmp_path / "r.toml"))
    assert bundle.manifest.recipe == Recipe(method="mse", samples=24, seed=3, repairs=("bias-correction",))
    assert bundle.manifest.calibration == "mse, 24 images of 'calibration', seed 3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method = 3", "is no recipe.*method"),
        ("methods = 'max'", "is no recipe.*methods"),
        ("method = ", "is no recipe"),
        ('repairs = ["adaround"]', "is no recipe.*repairs"),
        (None, "cannot read recipe"),
    ],
)
def test_files_that_are_no_recipe_are_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "r.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        edgeresnext.read_recipe(tmp_path / "r.toml")


def test_repairs_that_do_not_exist_are_refused(build):
    with pytest.raises(RequestError, match=r"unknown repair 'bias-corection'\n  Did you mean 'bias-correction'"):
        build(repairs=["bias-corection"])


def test_ranges_and_kept_layers_are_refused_where_they_would_change_nothing(build, tmp_path):
    with pytest.raises(RequestError, match="for INT8"):
        build(precisions=["fp32"], ranges=tmp_path)
    with pytest.raises(RequestError, match="only FP32 is built"):
        build(precisions=["fp32"], keep=("fp16:fc",))


def test_layers_are_kept_in_a_file_without_int8_too(digits):
    plan = plan_for(digits.graph, "fp16", {}, parse_keep(digits.graph, ["fp32:fc"]))
    assert plan.layers["fc"] == "fp32"
    assert "by hand" in plan.reasons["fc"]


@pytest.mark.parametrize("recipe", ["default", "max", "entropy", "quick", "rounding"])
def test_the_recipes_of_the_repository_are_recipes(recipe, request):
    found = edgeresnext.read_recipe(request.config.rootpath / "calibration" / "recipes" / f"{recipe}.toml")
    assert found.samples >= 64
    if recipe == "default":
        assert found == Recipe()


def test_the_digits_are_kept_apart(digit_folders):
    assert prepare(digit_folders["train"].parent) == digit_folders


def test_ranges_of_earlier_releases_know_the_same_preprocessing():
    digits = PREPROCESS["digits"]
    assert preprocess_digest(digits) == "0065f25b93b4c35fadf3763c8eea1d92d64b64b542d1f6f9d32ac1af2d8bd5fb"
    changed = [digits, *(msgspec.structs.replace(digits, **one) for one in ({"width_px": 40}, {"fit": "squash"}))]
    assert len(set(map(preprocess_digest, changed))) == len(changed)
