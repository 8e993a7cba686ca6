"""Runs: what they write, how they go on, and what they refuse."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from short_runs import RECIPE, assert_equal, state, trained

import edgeresnext
from edgeresnext import TrainingRecipe
from edgeresnext.errors import AccuracyError, CheckpointError, DataError, InputError, RequestError
from edgeresnext.model.catalogue import PREPROCESS
from edgeresnext.spec import Epoch
from edgeresnext.training.images import split
from edgeresnext.training.run_folder import read_run


def test_a_run_learns_and_writes_down_what_it_did(three, tmp_path):
    epochs = []
    run = trained(three, tmp_path / "run", msgspec.structs.replace(RECIPE, epochs=8), callbacks=[epochs.append])
    assert run.best.top1 > 0.8
    assert tuple(epochs) == run.history
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 9))
    assert lines[0]["loss"] > lines[-1]["loss"]
    assert (run.path / "best.labels.txt").read_text() == "0\n1\n4\n"
    assert "learning_rate = 0.05" in (run.path / "recipe.toml").read_text()
    assert (run.path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "Who was taken for whom" in (run.path / "report.html").read_text()
    assert not run.network.training


def test_a_seed_decides_everything(three, tmp_path):
    runs = [
        trained(three, tmp_path / str(n), msgspec.structs.replace(RECIPE, seed=seed))
        for n, seed in enumerate((1, 1, 2))
    ]
    assert_equal(state(runs[0].network), state(runs[1].network))
    assert runs[0].history[0].loss != runs[2].history[0].loss


def test_a_share_of_each_class_judges_where_no_validation_images_are_given(three, tmp_path):
    run = trained(three / "train", tmp_path / "run", msgspec.structs.replace(RECIPE, validation_share=0.2))
    aside = read_run(run.path).validation
    assert sorted(Path(name).parent.name for name in aside) == ["0"] * 4 + ["1"] * 4 + ["4"] * 4
    assert run.run.images == 48


def test_a_network_of_ones_own_goes_in_and_comes_out(three, tmp_path, tiny):
    run = trained(three, tmp_path / "run", model=tiny)
    assert run.network is tiny
    images = torch.zeros(1, 3, 8, 8)
    assert tiny(images).shape == (1, 3)
    with pytest.raises(RequestError, match="a network of your own, and is given no module"):
        trained(three, resume=run.path, recipe=None, model=None)


def test_fine_tuning_begins_with_the_weights_and_a_new_head(three, digit_weights, tmp_path, caplog):
    recipe = TrainingRecipe(epochs=1, batch=16, freeze="all-but-head")
    run = trained(three, tmp_path / "run", recipe, model="resnext20_8x4d", weights=digit_weights, preprocess=None)
    assert "has 10 classes and the images 3" in caplog.text
    assert run.network.fc.out_features == 3
    from safetensors.torch import load_file

    before = load_file(digit_weights)
    after = load_file(run.path / "best.safetensors")
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}  # statistics of frozen BatchNorms too stay as they are


def test_what_a_run_wrote_is_built_with_its_labels_and_its_preprocessing(three, tmp_path):
    recipe = TrainingRecipe(epochs=1, batch=16)
    run = trained(three, tmp_path / "run", recipe, model="resnet20", preprocess=PREPROCESS["digits"])
    bundle = edgeresnext.build(
        "resnet20", weights=run.weights, output=tmp_path / "bundle", precisions=["fp32"],
    )  # fmt: skip
    assert bundle.labels() == ("0", "1", "4")
    assert bundle.manifest.model.preprocess == PREPROCESS["digits"]


def test_freezing_grows_less_with_the_epochs(tiny):
    from edgeresnext.training.network import frozen_parts, set_mode

    recipe = TrainingRecipe(freeze="layer1", unfreeze_epochs=2)
    assert [frozen_parts(tiny, recipe, epoch) for epoch in (0, 1, 2, 4)] == [
        ["stem", "layer1"], ["stem", "layer1"], ["stem"], [],
    ]  # fmt: skip
    set_mode(tiny, recipe, ["stem"])
    assert (tiny.bn1.training, tiny.layer1[1].training) == (False, True)
    assert [one.requires_grad for one in (tiny.conv1.weight, tiny.bn1.bias, tiny.fc.weight)] == [False, False, True]


def test_norms_and_biases_do_not_decay_and_early_parts_learn_slower(tiny):
    from edgeresnext.training.network import parameter_groups

    groups = parameter_groups(tiny, tiny, TrainingRecipe(weight_decay=0.1, layer_decay=0.5))
    found = {id(one): (group["weight_decay"], group["factor"]) for group in groups for one in group["params"]}
    assert len(found) == len(list(tiny.parameters()))
    assert found[id(tiny.fc.weight)] == (0.1, 1.0)
    assert found[id(tiny.fc.bias)] == (0.0, 1.0)
    assert found[id(tiny.layer1[0].weight)] == (0.1, 0.5)
    assert found[id(tiny.bn1.weight)] == (0.0, 0.25)


def test_a_bad_image_is_named_and_left_out(three, tmp_path, caplog):
    data = tmp_path / "data"
    shutil.copytree(three, data)
    (data / "train" / "0" / "bad.png").write_bytes(b"nothing")
    run = trained(data, tmp_path / "run")
    assert caplog.text.count("bad.png") == 1
    assert run.history[0].images == 60


def test_a_rate_that_diverges_stops_with_the_epoch_the_files_and_the_last_checkpoint(three, tmp_path):
    path = tmp_path / "run"
    with pytest.raises(AccuracyError) as caught:
        trained(three, path, msgspec.structs.replace(RECIPE, learning_rate=1e20))
    text = str(caught.value)
    assert "in epoch 1, step" in text
    assert ".png" in text
    kept = load_file(path / "state.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())
    assert not (path / "best.safetensors").exists()


@pytest.mark.parametrize("rate", [1e20, 3e38])
def test_a_divergence_in_the_last_step_leaves_no_best_weights(three, tmp_path, rate):
    recipe = msgspec.structs.replace(RECIPE, epochs=1, batch=60, learning_rate=rate)
    with pytest.raises(AccuracyError, match="no finite numbers"):
        trained(three, tmp_path / "run", recipe)
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_early_stopping_ends_a_run_that_becomes_no_better(three, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, epochs=30, patience=2, learning_rate=1e-9)
    run = trained(three, tmp_path / "run", recipe)
    assert len(run.history) == run.best.epoch + 2


@pytest.fixture
def one_class(tmp_path):
    (tmp_path / "one" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "cat" / "a.png")
    return tmp_path / "one"


def test_folders_that_cannot_train(three, tmp_path, one_class):
    with pytest.raises(DataError, match="one class folder, 'cat'"):
        trained(one_class, tmp_path / "run")
    shutil.copytree(three / "train", tmp_path / "empty")
    (tmp_path / "empty" / "7").mkdir()
    with pytest.raises(DataError, match="hold no image: 7"):
        trained(tmp_path / "empty", tmp_path / "run")
    shutil.copytree(three / "val", tmp_path / "val")
    (tmp_path / "val" / "4").rename(tmp_path / "val" / "9")
    with pytest.raises(DataError, match="none of the training's: 9"):
        trained(three / "train", tmp_path / "run", validation=tmp_path / "val")
    with pytest.raises(DataError, match="has no class folders"):
        trained(three / "train" / "0", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("names", "judged_by"), [(("Train", "valid"), "valid"), (("train",), "train"), (("train", "test"), "train")]
)
def test_the_parts_of_a_data_set_are_no_classes(three, tmp_path, names, judged_by, caplog):
    for name, part in zip(names, ("train", "val"), strict=False):
        shutil.copytree(three / part, tmp_path / "data" / name)
    found = split(tmp_path / "data", None, RECIPE)
    assert found.classes == ("0", "1", "4")
    assert found.train.root == tmp_path / "data" / names[0]
    assert found.validation.root.name == judged_by
    assert ("is not touched" in caplog.text) is ("test" in names)


def test_a_class_may_be_called_train(three, tmp_path):
    shutil.copytree(three / "train", tmp_path / "vehicles")
    (tmp_path / "vehicles" / "4").rename(tmp_path / "vehicles" / "train")
    assert split(tmp_path / "vehicles", None, RECIPE).classes == ("0", "1", "train")


def test_of_equally_right_epochs_the_one_with_less_loss_is_the_best():
    one = Epoch(epoch=1, loss=1.0, learning_rate=0.1, images=1, seconds=1.0, validation_loss=0.5, top1=0.75)
    later = msgspec.structs.replace(one, epoch=2, validation_loss=0.25)
    worse = msgspec.structs.replace(one, epoch=3, top1=0.5, validation_loss=0.0)
    assert max([one, later, worse], key=lambda epoch: epoch.merit) is later


def test_labels_that_are_not_the_heads_need_a_new_one(three, tmp_path):
    first = trained(
        three,
        tmp_path / "first",
        model="resnet20",
        preprocess=PREPROCESS["digits"],
        recipe=TrainingRecipe(epochs=1, batch=16),
    )
    other = tmp_path / "other"
    shutil.copytree(three, other)
    for part in ("train", "val"):
        (other / part / "4").rename(other / part / "seven")
    asked = {"model": None, "weights": first.weights, "preprocess": None, "recipe": TrainingRecipe(epochs=1, batch=16)}
    with pytest.raises(CheckpointError, match="'seven' for '4'"):
        trained(other, tmp_path / "second", **asked)
    again = trained(other, tmp_path / "third", **asked, new_head=True)
    assert not np.array_equal(again.network.fc.weight.detach(), first.network.fc.weight.detach())
    with pytest.raises(CheckpointError):
        trained(three, tmp_path / "fourth", **{**asked, "model": "resnet50"})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"freeze": "layer9"}, "unknown part"),
        ({"freeze": "layer3"}, "no part 'layer3'"),
        ({"unfreeze_epochs": 2}, "nothing is frozen"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5"),
        ({"distil": True}, "its own teacher"),
    ],
)
def test_recipes_that_mean_nothing(three, tmp_path, changes, told):
    with pytest.raises(RequestError, match=told):
        trained(three, tmp_path / "run", msgspec.structs.replace(RECIPE, **changes))
    assert not (tmp_path / "run").exists()


def test_recipes_come_from_files_and_are_written_as_they_are_read(tmp_path):
    from edgeresnext.training import recipes

    for recipe in recipes.RECIPES.values():
        (tmp_path / "r.toml").write_bytes(recipes.to_toml(recipe))
        assert recipes.read(tmp_path / "r.toml") == recipe
    (tmp_path / "r.toml").write_text("epoch = 3")
    with pytest.raises(InputError, match="Its fields are epochs"):
        recipes.read(tmp_path / "r.toml")
    with pytest.raises(RequestError, match="Did you mean 'standard'"):
        recipes.read("standart")


def test_tensorboard_gets_the_same_numbers(three, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trained(three, tmp_path / "run", msgspec.structs.replace(RECIPE, tensorboard=True))
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert [one.value for one in events.Scalars("top1")] == pytest.approx([one.top1 for one in run.history])


def test_names_that_are_no_utf_8_are_recorded_and_an_image_of_no_usual_shape_is_left_out(three, tmp_path, caplog):
    data = tmp_path / "data"
    shutil.copytree(three, data)
    (data / "val" / "1" / "f\udce9.png").write_bytes(next((data / "val" / "1").iterdir()).read_bytes())
    Image.new("RGB", (2, 30_000)).save(data / "train" / "1" / "long.bmp")
    recipe = msgspec.structs.replace(RECIPE, geometry="crop")
    run = trained(data, tmp_path / "run", recipe)
    assert any(name.endswith("f\\xe9.png") for name in run.run.validation)
    assert trained(data, resume=tmp_path / "run", recipe=recipe).history == run.history


def test_a_class_folder_whose_name_is_no_label_is_refused(three, tmp_path):
    shutil.copytree(three, tmp_path / "data")
    (tmp_path / "data" / "train" / "1").rename(tmp_path / "data" / "train" / "1 ")
    with pytest.raises(DataError, match="no name that a line of labels can have"):
        trained(tmp_path / "data", tmp_path / "run")


def test_validation_images_of_which_none_can_be_read_are_an_error_of_ours(three, tmp_path):
    shutil.copytree(three / "train", tmp_path / "data")
    (tmp_path / "val" / "0").mkdir(parents=True)
    (tmp_path / "val" / "0" / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"1 of 1 images cannot be read.*bad\.png"):
        trained(tmp_path / "data", tmp_path / "run", validation=tmp_path / "val")


def test_fewer_classes_may_judge_and_a_recipe_by_name_resumes(three, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(three, data)
    shutil.rmtree(data / "val" / "1")
    quick = msgspec.structs.replace(RECIPE, learning_rate=None, epochs=1)
    run = trained(data, tmp_path / "run", quick)
    assert run.best.top1 is not None
    assert trained(data, resume=tmp_path / "run", recipe=quick).run == run.run
