"""Runs that quantise in training: judged as INT8, resumed to the bit, and built as they were trained."""

import msgspec
import numpy as np
import pytest
import torch
from short_runs import Killed, assert_equal, state

import edgeresnext
from edgeresnext import TrainingRecipe
from edgeresnext.compiler.evaluate import Evaluator
from edgeresnext.data import folder
from edgeresnext.data.images import batches
from edgeresnext.errors import AccuracyError, RequestError
from edgeresnext.model.catalogue import PREPROCESS
from edgeresnext.training.network import parameter_groups

RECIPE = TrainingRecipe(epochs=1, batch=20, int8="signed", distil=True, checkpoint_minutes=0.0)


@pytest.fixture(scope="module")
def quantised(few_digits, digit_weights, tmp_path_factory):
    """A run over 200 digits. Read only."""
    return edgeresnext.train(
        few_digits, weights=digit_weights, validation=few_digits, output=tmp_path_factory.mktemp("int8") / "run",
        preprocess=PREPROCESS["digits"], recipe=RECIPE,
    )  # fmt: skip


def test_it_is_judged_before_it_is_trained_and_never_ends_below(quantised):
    assert [one.epoch for one in quantised.history] == [0, 1]
    assert quantised.history[0].loss is None
    assert quantised.best in quantised.history
    assert all(one.agreement > 0.95 for one in quantised.history)


def test_the_built_file_says_what_the_run_was_judged_by(quantised, few_digits, tmp_path):
    bundle = edgeresnext.build(
        quantised.weights, calibration=few_digits, output=tmp_path / "bundle", precisions=["fp32", "int8"]
    )
    assert bundle.labels() == tuple("0123456789")
    assert bundle.manifest.calibration == "trained with the weights"
    images = folder.scan(few_digits)
    pixels = np.concatenate([array for array, _ in batches(images.images, PREPROCESS["digits"], 64)])
    logits = Evaluator.read(bundle.file("onnx/int8.onnx")).logits(pixels)
    assert (logits.argmax(1) == images.targets).mean() == pytest.approx(quantised.best.top1)


def test_it_is_resumed_to_the_bit(quantised, few_digits, digit_weights, tmp_path):
    def progress(stage, done, _total):
        if stage == "train" and done == 5:
            raise Killed

    path = tmp_path / "killed"
    with pytest.raises(Killed):
        edgeresnext.train(
            few_digits, weights=digit_weights, validation=few_digits, output=path, preprocess=PREPROCESS["digits"],
            recipe=RECIPE, progress=progress,
        )  # fmt: skip
    again = edgeresnext.train(few_digits, validation=few_digits, resume=path)
    assert_equal(state(again.network), state(quantised.network))
    assert (path / "best.ranges.json").read_bytes() == (quantised.path / "best.ranges.json").read_bytes()
    assert again.history[1].loss == quantised.history[1].loss


def test_labels_are_not_needed_where_the_network_in_floating_point_teaches(few_digits, digit_weights, tmp_path):
    run = edgeresnext.train(
        few_digits / "3", weights=digit_weights, output=tmp_path / "run", preprocess=PREPROCESS["digits"], recipe=RECIPE
    )
    assert run.network.fc.out_features == 10
    assert [one.top1 for one in run.history] == [None, None]
    assert all(one.agreement is not None for one in run.history)
    assert all(one.validation_loss is not None for one in run.history)  # the distance to the teacher


def test_folders_that_are_not_its_classes_are_images_for_a_teacher(three, digit_weights, tmp_path, caplog):
    asked = {"weights": digit_weights, "preprocess": PREPROCESS["digits"], "recipe": RECIPE}
    run = edgeresnext.train(three, output=tmp_path / "run", **asked)
    assert "without labels" in caplog.text
    assert run.run.classes == ()
    assert run.network.fc.out_features == 10
    assert [one.top1 for one in run.history] == [None, None]
    edgeresnext.train(three, resume=tmp_path / "run")  # which is over, and takes them as it took them
    with pytest.raises(RequestError, match="a new head"):
        edgeresnext.train(three, output=tmp_path / "other", new_head=True, **asked)


def test_the_page_of_a_run_that_became_worse_after_it_was_resumed_shows_its_best(few_digits, digit_weights, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, epochs=2, learning_rate=0.01)  # which ruins it
    asked = {"validation": few_digits, "preprocess": PREPROCESS["digits"], "recipe": recipe}
    run = edgeresnext.train(few_digits, weights=digit_weights, output=tmp_path / "run", **asked)
    assert run.best.epoch == 0
    assert run.history[-1].top1 < run.best.top1
    page = (run.path / "report.html").read_text()
    assert "Confusion matrix" in page
    edgeresnext.train(few_digits, validation=few_digits, resume=run.path)
    assert (run.path / "report.html").read_text() == page


def test_a_new_head_is_not_trained_in_int8_at_once(three, digit_weights, tmp_path):
    with pytest.raises(RequestError, match="its last layer would be new"):
        edgeresnext.train(
            three, weights=digit_weights, output=tmp_path / "run", preprocess=PREPROCESS["digits"],
            recipe=msgspec.structs.replace(RECIPE, distil=False),
        )  # fmt: skip
    with pytest.raises(RequestError, match="begins with weights"):
        edgeresnext.train(three, model="resnet20", output=tmp_path / "run", recipe=RECIPE)
    assert torch.is_grad_enabled()


def test_thresholds_have_a_rate_of_their_own(tiny):
    tiny.log_thresholds = torch.nn.Parameter(torch.zeros(3))
    groups = parameter_groups(tiny, tiny, TrainingRecipe(int8="signed", weight_decay=0.1, threshold_factor=50.0))
    (own,) = [group for group in groups if group["factor"] == 50.0]
    assert own["params"] == [tiny.log_thresholds]
    assert own["weight_decay"] == 0
    assert sum(len(group["params"]) for group in groups) == len([*tiny.parameters()])


def test_trained_ranges_that_clip_everything_are_not_published(quantised, few_digits, tmp_path):
    for beside in quantised.path.glob("best.*"):
        (tmp_path / beside.name).write_bytes(beside.read_bytes())
    path = tmp_path / "best.ranges.json"
    ranges = msgspec.json.decode(path.read_bytes())
    (trained,) = ranges["thresholds"].values()
    ranges["thresholds"] = {"trained": {name: value / 30 for name, value in trained.items()}}
    path.write_bytes(msgspec.json.encode(ranges))
    with pytest.raises(AccuracyError, match="too far from PyTorch") as caught:
        edgeresnext.build(
            tmp_path / "best.safetensors", calibration=few_digits, output=tmp_path / "bundle", precisions=["int8"]
        )
    assert "Train in INT8 again" in caught.value.hint
    assert not (tmp_path / "bundle").exists()
