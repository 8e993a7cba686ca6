"""What a training is asked that it cannot do, or not so: each is said before a run is begun, and none is ignored."""

import shutil
import unicodedata

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from short_runs import RECIPE, Tiny, assert_equal, killed_at, state, trained
from torch import nn

import edgeresnext
from edgeresnext import TrainingRecipe
from edgeresnext.errors import CheckpointError, DataError, RequestError
from edgeresnext.model.catalogue import PREPROCESS
from edgeresnext.training.images import split
from edgeresnext.training.network import frozen_parts


@pytest.mark.parametrize(
    "changes",
    [
        {"optimiser": "Adam"},
        {"balance": "sample"},
        {"precision": "fp16"},
        {"geometry": "cropp"},
        {"flip": "no"},
        {"freeze": None},
        {"epochs": 1.5},
        {"seed": 1.5},
        {"batch": np.float32(16)},
    ],
    ids=str,
)
def test_values_of_another_kind_are_refused(three, tmp_path, changes):
    with pytest.raises(RequestError, match="recipe of training"):
        trained(three, tmp_path / "run", msgspec.structs.replace(RECIPE, **changes))
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_lie_among_its_images(three, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(three, data)
    for output in (data / "run", data / "train" / "run"):
        with pytest.raises(RequestError, match="among the images"):
            trained(data, output)
    with pytest.raises(RequestError, match="among the images"):
        trained(data / "train", data / "val" / "run", validation=data / "val")


def test_images_that_judge_do_not_train(three, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(three / "train", data)
    shutil.copytree(three / "val", data / "holdout")
    with pytest.raises(DataError, match="would be learned from"):
        trained(data, tmp_path / "run", validation=data / "holdout")


@pytest.mark.parametrize(("names", "given"), [(("train", "val"), True), (("training", "dev"), False)])
def test_parts_are_found_whatever_judges(three, tmp_path, names, given):
    for name, part in zip(names, ("train", "val"), strict=True):
        shutil.copytree(three / part, tmp_path / "data" / name)
    found = split(tmp_path / "data", three / "val" if given else None, RECIPE)
    assert found.classes == ("0", "1", "4")
    assert found.train.root.name == names[0]
    assert found.validation.root == (three / "val" if given else tmp_path / "data" / "dev")


def test_what_ends_before_the_first_step_does_not_block_the_folder(three, tmp_path):
    class Odd(Tiny):
        def forward(self, x):
            return torch.special.expit(super().forward(x))

    recipe = msgspec.structs.replace(RECIPE, int8="signed", epochs=1)
    with pytest.raises(RequestError, match="cannot be trained in INT8"):
        trained(three, tmp_path / "run", recipe, model=Odd())
    assert trained(three, tmp_path / "run", msgspec.structs.replace(RECIPE, epochs=1)).history


def test_a_teacher_does_not_ask_what_folders_are_called(three, digit_weights, tmp_path, caplog):
    for part, names in (("train", ("2024-01", "2024-02")), ("val", ("2024-03",))):
        for name, source in zip(names, ("0", "1"), strict=False):
            shutil.copytree(three / part / source, tmp_path / "data" / part / name)
    recipe = TrainingRecipe(epochs=1, batch=16, int8="signed", distil=True)
    run = edgeresnext.train(
        tmp_path / "data",
        weights=digit_weights,
        output=tmp_path / "run",
        preprocess=PREPROCESS["digits"],
        recipe=recipe,
    )
    assert run.run.classes == ()
    assert "images without labels" in caplog.text
    found = split(three / "train", three / "val" / "0", recipe)
    assert found.classes == ()


class Dropping(Tiny):
    """A network that draws something itself."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.3, self.training))


def test_what_a_network_draws_follows_from_the_seed_too(three, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, epochs=2, checkpoint_minutes=0.0)
    whole = trained(three, tmp_path / "whole", recipe, model=Dropping())
    torch.rand(7)
    killed_at(3, three, output=tmp_path / "killed", recipe=recipe, model=Dropping())
    again = trained(three, resume=tmp_path / "killed", recipe=None, model=Dropping())
    assert_equal(state(whole.network), state(again.network))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda network: {"logits": network}, "returns a dict"),
        (lambda network: network.mean(), r"returns \(\)"),
        (lambda network: network @ torch.zeros(9, 9), "does not take an image of 3"),
    ],
)
def test_a_module_that_is_no_classifier_is_refused(three, tmp_path, change, told):
    class Other(Tiny):
        def forward(self, x):
            return change(super().forward(x))

    with pytest.raises(RequestError, match=told):
        trained(three, tmp_path / "run", model=Other())
    assert not (tmp_path / "run").exists()


def test_tied_weights_are_written_under_both_names(three, tmp_path):
    class Tied(Tiny):
        def __init__(self):
            super().__init__()
            self.also = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            self.also.weight = self.conv1.weight

        def forward(self, x):
            return super().forward(x) + 0 * self.also(x).mean()

    run = trained(three, tmp_path / "run", msgspec.structs.replace(RECIPE, epochs=1), model=Tied())
    assert run.network.also.weight is run.network.conv1.weight
    again = trained(three, resume=run.path, recipe=None, model=Tied())
    assert_equal(state(run.network), state(again.network))


class Wrapped(nn.Module):
    """A network in another one."""

    def __init__(self):
        super().__init__()
        self.net = Tiny()

    def forward(self, x):
        return self.net(x)


def test_a_network_in_a_wrapper_has_its_parts(three, tmp_path):
    before = Tiny()
    run = trained(three, tmp_path / "run", msgspec.structs.replace(RECIPE, freeze="all-but-head"), model=Wrapped())
    assert torch.equal(run.network.net.conv1.weight, before.conv1.weight)
    assert not torch.equal(run.network.net.fc.weight, before.fc.weight)
    with pytest.raises(RequestError, match="would freeze all of it"):
        frozen_parts(nn.Sequential(nn.Linear(2, 2)), TrainingRecipe(freeze="stem"), 0)
    with pytest.raises(RequestError, match="has its head"):
        trained(three, tmp_path / "other", new_head=True)


def test_resuming_names_the_validation_images_and_the_network(three, tmp_path):
    killed_at(2, three / "train", output=tmp_path / "run", validation=three / "val")
    with pytest.raises(RequestError, match=r"validation images: .* then, .* now"):
        trained(three / "train", resume=tmp_path / "run", recipe=None)

    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(192, 3)

        def forward(self, x):
            return self.fc(x.flatten(1))

    with pytest.raises(CheckpointError, match=r"start\.safetensors' cannot be taken up: .*fc\.weight") as caught:
        trained(three, resume=trained(three, tmp_path / "own").path, recipe=None, model=Other())
    assert "it began with" in caught.value.hint


def test_names_that_no_folder_can_have_are_an_error_of_ours(three, tmp_path):
    for asked in ({"output": tmp_path / ("n" * 300)}, {"resume": tmp_path / ("n" * 300), "recipe": None}):
        with pytest.raises((DataError, RequestError)):
            trained(three, **asked)


def test_a_recipe_of_the_user_in_the_folder_stays(three, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.toml").write_text("epochs = 1  # mine\n")
    with pytest.raises(DataError, match="holds no run"):
        trained(three, tmp_path / "mine", tmp_path / "mine" / "recipe.toml")
    assert (tmp_path / "mine" / "recipe.toml").read_text() == "epochs = 1  # mine\n"


def test_a_validation_image_that_is_gone_does_not_end_a_distillation(three, digit_weights, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeresnext.training.images._REMEMBERED_BYTES", 0)
    data = tmp_path / "data"
    shutil.copytree(three, data)
    recipe = TrainingRecipe(epochs=2, batch=16, int8="signed", distil=True)

    def gone(epoch):
        if epoch.epoch == 1:
            next((data / "val" / "0").iterdir()).unlink()

    run = edgeresnext.train(
        data, weights=digit_weights, output=tmp_path / "run", preprocess=PREPROCESS["digits"], recipe=recipe,
        callbacks=[gone],
    )  # fmt: skip
    assert len(run.history) == 3


def test_one_name_in_two_forms_is_one_class(three, tmp_path):
    names = {form: unicodedata.normalize(form, "café") for form in ("NFC", "NFD")}
    for form, name in names.items():
        shutil.copytree(three, tmp_path / form)
        for part in ("train", "val"):
            (tmp_path / form / part / "4").rename(tmp_path / form / part / name)
    quick = TrainingRecipe(epochs=1, batch=16)
    first = edgeresnext.train(
        tmp_path / "NFC", model="resnet20", output=tmp_path / "first", preprocess=PREPROCESS["digits"], recipe=quick
    )
    again = edgeresnext.train(tmp_path / "NFD", weights=first.weights, output=tmp_path / "again", recipe=quick)
    assert again.run.model.classes == 3


def test_weights_of_a_short_training_are_built_with_a_warning(three, tmp_path, caplog):
    run = edgeresnext.train(
        three, model="resnet20", output=tmp_path / "run", preprocess=PREPROCESS["digits"],
        recipe=TrainingRecipe(epochs=1, batch=60),
    )  # fmt: skip
    asked = {"calibration": three / "train", "precisions": ["fp32"]}
    edgeresnext.build(run.weights, output=tmp_path / "bundle", **asked)
    assert "variances that the weights remember" in caplog.text
    # Other preprocessing than that of the training, or weights that another program wrote, are refused as ever.
    with pytest.raises(CheckpointError, match="another network with the same names"):
        edgeresnext.build(run.weights, output=tmp_path / "other", preprocess=PREPROCESS["cifar"], **asked)
    save_file(load_file(run.weights), run.weights)
    with pytest.raises(CheckpointError, match="another network with the same names"):
        edgeresnext.build(run.weights, output=tmp_path / "other", **asked)


def test_what_would_change_nothing_in_int8_is_refused(three, tmp_path):
    with pytest.raises(RequestError, match="frozen_statistics"):
        trained(three, tmp_path / "run", msgspec.structs.replace(RECIPE, int8="signed", frozen_statistics=False))
    run = trained(three, tmp_path / "own", msgspec.structs.replace(RECIPE, epochs=1))
    with pytest.raises(RequestError, match="goes on has its head"):
        trained(three, resume=run.path, recipe=None, new_head=True)
