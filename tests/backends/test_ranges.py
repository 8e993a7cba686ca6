"""Ranges: taken once, used again where they fit, refused where they do not."""

import shutil

import msgspec
import numpy as np
import pytest
from PIL import Image
from rescaled import rescale

import edgeresnext
from edgeresnext.compiler.thresholds import STANDARD
from edgeresnext.data.digits import prepare
from edgeresnext.errors import DataError, InputError, RequestError
from edgeresnext.pipeline import ranges
from edgeresnext.spec import Recipe


@pytest.fixture
def build(digit_folders, digit_weights, tmp_path):
    def call(**changes):
        options = {
            "weights": digit_weights, "calibration": digit_folders["calibration"], "output": tmp_path / "out",
            "samples": 100, "precisions": ["int8"],
        } | changes  # fmt: skip
        stages = []
        fields = {name: options.pop(name) for name in Recipe.__struct_fields__ if name in options}
        bundle = edgeresnext.build(
            options.pop("model", "resnext20_8x4d"), **({"recipe": Recipe(**fields)} | options),
            progress=lambda stage, *_: stages.append(stage),
        )  # fmt: skip
        return bundle, "calibrate" in stages

    return call


def test_a_second_build_uses_the_ranges_of_the_first_and_writes_the_same_files(build, tmp_path):
    one, calibrated = build()
    files = dict(one.manifest.files)
    two, again = build()
    assert (calibrated, again) == (True, False)
    assert files == two.manifest.files


def test_another_method_needs_no_new_calibration_and_gives_its_own_thresholds(build, tmp_path):
    one, _ = build()
    two, calibrated = build(method="max")
    fresh, _ = build(method="max", output=tmp_path / "fresh")
    assert not calibrated
    assert two.manifest.files["onnx/int8.onnx"] == fresh.manifest.files["onnx/int8.onnx"]
    assert one.manifest.files["onnx/int8.onnx"] != two.manifest.files["onnx/int8.onnx"]
    three, calibrated = build(method="percentile:99.95")  # of which the ranges know nothing
    assert calibrated
    assert set(ranges.read(three.path).thresholds) == {*STANDARD, "percentile:99.95"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 1}, "calibration images"),
        ({"samples": 64}, "calibration images"),
        ({"repairs": ()}, "equalisation"),
        ({"method": "percentile:99.95"}, "percentile:99.95"),
        ({"preprocess": edgeresnext.Preprocess(resize_px=36, crop_px=32)}, "preprocessing"),
    ],
)
def test_ranges_that_do_not_fit_are_not_used_and_refused_where_they_are_given(build, tmp_path, changes, what):
    build()
    given = shutil.copy(tmp_path / "out" / "ranges.json", tmp_path / "given.json")
    with pytest.raises(DataError, match=f"do not fit.*{what}"):
        build(**changes, ranges=given, output=tmp_path / "other")
    assert build(**changes)[1]


def test_ranges_of_other_weights_are_refused(build, tmp_path, digit_weights):
    build()
    other = rescale(digit_weights, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="other weights"):
        build(weights=other, ranges=tmp_path / "out", output=tmp_path / "other")


def test_given_ranges_are_used(build, tmp_path):
    one, _ = build()
    two, calibrated = build(ranges=one.path, output=tmp_path / "two")
    assert not calibrated
    assert one.manifest.files["onnx/int8.onnx"] == two.manifest.files["onnx/int8.onnx"]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"method": "\xff"}', b'{"method": "max", "images": 3, "thresholds": {"input": 1.0}}']
)
def test_files_that_hold_no_ranges_are_refused(build, tmp_path, content):
    (tmp_path / "ranges.json").write_bytes(content)
    with pytest.raises(DataError, match="holds no ranges"):
        build(ranges=tmp_path / "ranges.json")
    with pytest.raises(DataError, match="cannot read ranges"):
        build(ranges=tmp_path / "nothing.json")


def _without_choice(found):
    return msgspec.structs.replace(found, chosen={})


def _of_a_method_that_is_not_there(found):
    return msgspec.structs.replace(found, chosen={k: dict.fromkeys(v, "kl") for k, v in found.chosen.items()})


def _negative(found):
    return msgspec.structs.replace(found, thresholds={m: dict.fromkeys(v, -1.0) for m, v in found.thresholds.items()})


def _of_other_channels(found):
    return msgspec.structs.replace(found, exponents={"layer1.0.conv1": (1, 2, 3)})


def _of_another_schema(found):
    return msgspec.structs.replace(found, schema=99)


@pytest.mark.parametrize(
    "damage", [_without_choice, _of_a_method_that_is_not_there, _negative, _of_other_channels, _of_another_schema]
)
def test_damaged_ranges_are_refused(build, tmp_path, damage):
    one, _ = build()
    (tmp_path / "ranges.json").write_bytes(msgspec.json.encode(damage(ranges.read(one.path))))
    with pytest.raises(DataError, match="damaged"):
        build(ranges=tmp_path / "ranges.json", output=tmp_path / "other")


def test_the_file_carries_every_method_and_the_choice_for_each_tensor(build):
    bundle, _ = build()
    found = ranges.read(bundle.path)
    assert set(found.thresholds) == set(STANDARD)
    tensors = set(found.thresholds["max"])
    assert all(set(limits) == tensors for limits in found.thresholds.values())
    assert all(set(chosen) == tensors for chosen in found.chosen.values())
    assert len(set(found.chosen["signed"].values())) > 1  # no method is the best for all
    assert all(found.thresholds["max"][name] >= limit for name, limit in found.thresholds["mse"].items())


def images(folder, arrays):
    folder.mkdir()
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (120, 32, 32, 3), dtype=np.uint8)


def test_black_images_show_no_range(build, tmp_path, noise, caplog):
    black = np.zeros((20, 32, 32, 3), np.uint8)
    with pytest.raises(DataError, match=r"20 of the 20 calibration images .* of one colour"):
        build(calibration=images(tmp_path / "black", black))
    with pytest.raises(DataError, match=r"20 of the 27 calibration images"):
        build(calibration=images(tmp_path / "almost", [*black, *noise[:7]]))
    build(calibration=images(tmp_path / "some", [*black[:3] + 9, *noise[:97]]))
    assert "3 calibration images are of one colour: 000.png, 001.png, 002.png" in caplog.text


def test_colours_and_copies_of_one_image_are_no_sample(build, tmp_path, noise):
    colours = [np.full((32, 32, 3), value, np.uint8) for value in range(0, 210, 30)]
    with pytest.raises(DataError, match="are 1 and copies"):
        build(calibration=images(tmp_path / "one", [*colours, *[noise[0]] * 20]))


def test_copies_are_no_new_images(build, tmp_path, noise, caplog):
    with pytest.raises(DataError, match=r"the 40 calibration images .* are 4 and copies of them"):
        build(calibration=images(tmp_path / "four", [*noise[:4]] * 10))
    build(calibration=images(tmp_path / "copies", [*noise[:90], *noise[:10]]))
    assert "10 of the 100 calibration images are copies" in caplog.text
    assert "90 calibration images are few" in caplog.text


def test_too_few_images_are_refused_and_few_are_warned_of(build, tmp_path, noise, caplog):
    with pytest.raises(DataError, match="at least 8 are needed"):
        build(calibration=images(tmp_path / "seven", noise[:7]))
    build(calibration=images(tmp_path / "eight", noise[:8]))
    assert "8 calibration images are few: 100 or more" in caplog.text
    caplog.clear()
    build(calibration=images(tmp_path / "many", noise[:100]))
    assert "few" not in caplog.text


def test_activations_that_are_not_finite_name_the_layer_and_leave_nothing(build, tmp_path, digit_weights):
    from safetensors.torch import load_file, save_file

    state = load_file(digit_weights)
    state["layer2.0.bn1.weight"] = state["layer2.0.bn1.weight"] * 1e38
    save_file(state, tmp_path / "huge.safetensors")
    with pytest.raises(DataError, match=r"layer 'layer2\.0\.(relu1|conv2|relu2)' is NaN or infinite"):
        build(weights=tmp_path / "huge.safetensors")
    assert not (tmp_path / "out").exists()


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
        build(precisions=["fp32"], keep=["fp16:fc"])
    bundle, _ = build(precisions=["fp32", "fp16"], keep=["fp32:fc"])
    plans = {file.file: file.plan for file in bundle.manifest.onnx}
    assert plans["onnx/fp16.onnx"].layers["fc"] == "fp32"
    assert "by hand" in plans["onnx/fp16.onnx"].reasons["fc"]


@pytest.mark.parametrize("recipe", ["default", "max", "entropy", "quick"])
def test_the_recipes_of_the_repository_are_recipes(recipe, request):
    found = edgeresnext.read_recipe(request.config.rootpath / "calibration" / "recipes" / f"{recipe}.toml")
    assert found.samples >= 64
    if recipe == "default":
        assert found == Recipe()


def test_the_digits_are_kept_apart(digit_folders):
    assert prepare(digit_folders["train"].parent) == digit_folders
