"""Ranges that were trained with the weights: taken along without being asked for, as they are, or refused by name."""

import logging
import shutil
from types import SimpleNamespace

import msgspec
import numpy as np
import onnx
import pytest
import torch

import edgeresnext
from edgeresnext import files
from edgeresnext.compiler.emit import read_numbers
from edgeresnext.compiler.evaluate import Evaluator
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.quantise import quantise_weight
from edgeresnext.data import calibration_set, folder
from edgeresnext.errors import DataError
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import load_saved, save_state
from edgeresnext.model.resnext import normalise
from edgeresnext.pipeline import ranges
from edgeresnext.spec import REPAIRS, Preprocess, Recipe
from edgeresnext.training.int8 import save, start_ranges
from edgeresnext.training.quantised import QuantisedNetwork

SPEC = specify("resnext20_8x4d")


@pytest.fixture(scope="module")
def trained(digit_folders, digit_weights, tmp_path_factory):
    """The digits network with thresholds and weights that are no longer where they started, saved. Read only."""
    images = calibration_set.from_folder(folder.scan(digit_folders["train"]), SPEC.preprocess, 32, 0)
    network = load_saved(SPEC, digit_weights)
    found = QuantisedNetwork(network, SPEC, start_ranges(network, SPEC, images))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        found.log_thresholds += 0.2 * torch.rand(len(found.tensors), generator=generator)
        network.fc.weight.mul_(1.01)
    path = tmp_path_factory.mktemp("trained") / "best.safetensors"
    save(found, path)
    save_state(load_saved(SPEC, path), path.with_name("weights.safetensors"))  # as a build writes them into a bundle
    return SimpleNamespace(network=found, path=path, ranges=ranges.read(path.with_name("best.ranges.json")))


def options(trained, digit_folders, **changes):
    return {
        "weights": trained.path, "calibration": digit_folders["calibration"], "precisions": ["int8"],
        "recipe": Recipe(samples=32),
    } | changes  # fmt: skip


@pytest.fixture(scope="module")
def bundle(trained, digit_folders, tmp_path_factory):
    output = tmp_path_factory.mktemp("bundles") / "trained"
    return edgeresnext.build(SPEC.name, output=output, **options(trained, digit_folders))


def test_a_build_takes_trained_ranges_along_and_says_so(bundle, trained):
    assert bundle.ranges() == trained.ranges
    assert bundle.manifest.calibration == "trained with the weights"
    assert (bundle.manifest.recipe.method, bundle.manifest.recipe.repairs) == ("trained", ())
    assert bundle.manifest.files["weights.safetensors"].sha256 == trained.ranges.digests["weights"]


def test_what_was_trained_is_emitted_to_the_bit(bundle, trained):
    file = next(file for file in bundle.manifest.onnx if file.file == "onnx/int8.onnx")
    graph = trace(load_saved(SPEC, trained.path), SPEC.preprocess.size)
    numbers = read_numbers(graph, bundle.path / file.file, file.plan)
    steps = {name: float(step.detach()) for name, step in trained.network._steps().items()}
    assert {name: float(scale) for name, scale in numbers.scales.items()} == steps
    for layer in graph.layers:
        if layer.name in numbers.weights:
            expected = quantise_weight(layer, np.float32)
            np.testing.assert_array_equal(numbers.weights[layer.name].values, expected.values)
            np.testing.assert_array_equal(numbers.weights[layer.name].scale, expected.scale)
            np.testing.assert_array_equal(numbers.biases[layer.name], layer.bias)
    images = bundle.golden().images
    with torch.no_grad():
        found = trained.network(normalise(torch.from_numpy(images), SPEC)).numpy()
    np.testing.assert_array_equal(found, Evaluator(onnx.load(bundle.path / file.file)).logits(images))


def test_without_their_file_a_build_calibrates_also_over_a_bundle_that_was_trained(
    bundle, trained, digit_folders, tmp_path
):
    shutil.copytree(bundle.path, tmp_path / "out")
    shutil.copy(trained.path, tmp_path / "alone.safetensors")
    asked = options(
        trained, digit_folders, weights=tmp_path / "alone.safetensors", recipe=Recipe(samples=32, repairs=())
    )
    found = edgeresnext.build(SPEC.name, output=tmp_path / "out", **asked)
    assert found.ranges().method == "auto"
    assert found.manifest.calibration.startswith("auto, 32 images")


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Recipe(method="max"), "method max is asked for"),
        (Recipe(repairs=("equalisation",)), "equalisation are asked for"),
        (Recipe(repairs=REPAIRS), "equalisation and bias-correction and weight-clipping and rounding are asked for"),
    ],
)
def test_what_is_asked_for_is_done_instead(trained, caplog, recipe, said):
    with caplog.at_level(logging.WARNING):
        assert ranges.find(None, [trained.path], recipe) == (None, None)
    assert f"best.ranges.json' is not used: {said}" in caplog.text


def test_they_are_found_for_one_network_alone(trained, caplog, tmp_path):
    assert ranges.find(None, [trained.path], Recipe()) == (trained.ranges, trained.path.with_name("best.ranges.json"))
    assert ranges.find(None, [trained.path], Recipe(repairs=()))[0] is not None  # none is what they have
    assert ranges.find(None, [tmp_path / "none.safetensors", "hf:OWNER/NAME"], Recipe()) == (None, None)
    assert not caplog.text
    assert ranges.find(None, [trained.path, trained.path], Recipe()) == (None, None)
    assert "an ensemble is calibrated as a whole" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda _: b"{}", "holds no ranges"),
        (lambda found: files.to_json(_of_another_method(found)), "were not trained with them"),
    ],
)
def test_a_file_that_holds_no_trained_ranges_is_named(trained, tmp_path, content, said):
    shutil.copy(trained.path, tmp_path / "w.safetensors")
    (tmp_path / "w.ranges.json").write_bytes(content(trained.ranges))
    with pytest.raises(DataError, match=rf"w\.ranges\.json'.*{said}") as caught:
        ranges.find(None, [tmp_path / "w.safetensors"], Recipe())
    assert "Delete or rename it" in caught.value.hint


def _calibrate(trained, digit_folders, *, given, recipe=None, beside=None, spec=SPEC):
    images = calibration_set.from_folder(folder.scan(digit_folders["calibration"]), spec.preprocess, 32, 0)
    return ranges.calibrate(
        trace(trained.network.network, spec.preprocess.size), spec, images, recipe or Recipe(samples=32),
        weights_digest=files.digest(trained.path.with_name("weights.safetensors")), given=given, beside=beside, output=trained.path.parent / "none",
        progress=lambda *_: None,
    ).ranges  # fmt: skip


def _of_other_weights(found):
    return msgspec.structs.replace(found, digests=found.digests | {"weights": "0" * 64})


def _of_other_tensors(found):
    chosen = {kind: {"input": "trained"} for kind in found.chosen}
    return msgspec.structs.replace(found, thresholds={"trained": {"input": 1.0}}, chosen=chosen)


def _of_another_method(found):
    return msgspec.structs.replace(found, method="max", thresholds=found.thresholds | {"max": {}})


@pytest.mark.parametrize(("damage", "said"), [(_of_other_weights, "other weights"), (_of_other_tensors, "damaged")])
def test_a_file_that_does_not_fit_is_named(trained, digit_folders, damage, said):
    beside = trained.path.with_name("best.ranges.json")
    with pytest.raises(DataError, match=rf"best\.ranges\.json' does not fit what it lies beside.*{said}") as caught:
        _calibrate(trained, digit_folders, given=damage(trained.ranges), beside=beside)
    assert "Delete or rename it" in caught.value.hint


def test_another_preprocessing_does_not_fit(trained, digit_folders):
    spec = msgspec.structs.replace(SPEC, preprocess=Preprocess(resize_px=36, crop_px=32))
    with pytest.raises(DataError, match="trained with other preprocessing"):
        _calibrate(trained, digit_folders, given=trained.ranges, spec=spec)


def test_given_trained_ranges_are_used_and_not_mixed_with_other_methods(trained, digit_folders):
    assert _calibrate(trained, digit_folders, given=trained.ranges) == trained.ranges
    with pytest.raises(DataError, match="given ranges do not fit: they were trained, and method max is asked for"):
        _calibrate(trained, digit_folders, given=trained.ranges, recipe=Recipe(samples=32, method="max"))
