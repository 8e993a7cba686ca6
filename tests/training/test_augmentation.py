"""What is done to images before they are learned from, and in which order they come."""

import numpy as np
import pytest
import torch
from PIL import Image

from edgeresnext import Preprocess, TrainingRecipe
from edgeresnext.data import folder
from edgeresnext.training import augment
from edgeresnext.training.images import Images, order
from edgeresnext.training.losses import class_weights, distance, mixed

WIDE = Preprocess(resize_px=24, crop_px=20)


def picture(width, height, mode="RGB"):
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(40, 30), (300, 20), (20, 300), (7, 5)])
def test_every_image_becomes_the_networks_input_and_follows_from_its_generator(mode, size):
    recipe = TrainingRecipe(geometry="crop", flip=True, trivial=True, erase=0.5)
    source = augment.as_source(picture(*size, mode), WIDE, recipe)
    for seed in range(30):
        found, again = (augment.augmented(source, WIDE, recipe, np.random.default_rng(seed)) for _ in range(2))
        assert (found.shape, found.dtype) == ((20, 20, len(mode)), np.uint8)
        assert np.array_equal(found, again)


def test_every_operation_changes_an_image_and_the_first_does_not():
    image = picture(24, 24)
    changed = [not np.array_equal(np.asarray(one(image, 0.9, 1)), np.asarray(image)) for one in augment._OPERATIONS]
    assert changed[0] is False
    assert sum(changed[1:]) >= len(changed) - 3  # noise over all levels is equalised already
    assert len(changed) == 14


def test_a_shift_moves_and_repeats_the_edge():
    image = np.zeros((32, 32, 3), np.uint8)
    image[10, 12] = 255
    places = set()
    for seed in range(200):
        found = augment.shifted(image, np.random.default_rng(seed))
        (where,) = np.argwhere(found[:, :, 0])
        places.add(tuple((where - (10, 12)).tolist()))
    assert places == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}


def test_what_is_remembered_of_an_image_is_its_crop_or_little_more():
    plain = TrainingRecipe(geometry="shift")
    assert augment.as_source(picture(400, 300), WIDE, plain).shape == (20, 20, 3)
    whole = augment.as_source(picture(400, 300), WIDE, TrainingRecipe(geometry="crop"))
    assert whole.shape == (36, 48, 3)


def test_erased_boxes_stay_within_the_image_and_leave_most_of_it():
    image = np.full((20, 20, 3), 7, np.uint8)
    for seed in range(100):
        share = (augment.erased(image, np.random.default_rng(seed)) != 7).any(2).mean()
        assert 0 < share < 0.35
    assert (image == 7).all()


def test_the_order_of_an_epoch_has_every_image_once_and_is_its_own(three):
    found = folder.scan(three / "train")
    recipe = TrainingRecipe(seed=5)
    first, again, next_ = order(found, recipe, 0), order(found, recipe, 0), order(found, recipe, 1)
    assert sorted(first.tolist()) == list(range(60))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, next_)


def test_balanced_all_classes_are_drawn_equally_often(three):
    found = folder.scan(three / "train")
    uneven = folder.ImageFolder(
        root=found.root, images=found.images[:26], classes=found.classes[:2], targets=found.targets[:26]
    )
    recipe = TrainingRecipe(balance="sampler")
    drawn = np.concatenate([order(uneven, recipe, epoch) for epoch in range(40)])
    assert np.mean(np.array(uneven.targets)[drawn % 26]) == pytest.approx(0.5, abs=0.05)
    weights = class_weights(np.array(uneven.targets), 2)
    assert float((weights[torch.tensor(uneven.targets)]).mean()) == pytest.approx(1)
    assert float(weights[1] / weights[0]) == pytest.approx(20 / 6)


def test_an_image_that_is_drawn_again_is_augmented_otherwise(three):
    found = folder.scan(three / "train")
    uneven = folder.ImageFolder(
        root=found.root, images=found.images[:21], classes=found.classes[:2], targets=found.targets[:21]
    )
    recipe = TrainingRecipe(balance="sampler", geometry="crop", trivial=True)
    draws = order(uneven, recipe, 0)
    rare = draws[draws % 21 == 20]
    assert sorted(rare.tolist()) == [20 + 21 * k for k in range(len(rare))]
    assert len(rare) > 4
    (batch,) = Images(folder=uneven, preprocess=WIDE, recipe=recipe).stream([rare], 0)
    assert (batch.positions == 20).all()
    assert len({image.tobytes() for image in batch.pixels}) == len(rare)


def test_images_come_the_same_from_memory_and_from_disk(three, monkeypatch):
    found = folder.scan(three / "train")
    recipe = TrainingRecipe(geometry="crop", trivial=True)
    parts = [np.arange(0, 16), np.arange(16, 20), np.arange(30, 33)]
    kept, read = [], []
    for into, room in ((kept, 1 << 30), (read, 0)):
        monkeypatch.setattr("edgeresnext.training.images._REMEMBERED_BYTES", room)
        images = Images(folder=found, preprocess=WIDE, recipe=recipe)
        for _ in range(2):
            into.extend(batch.pixels for batch in images.stream(parts, 3))
    assert [len(one) for one in kept[:3]] == [16, 4, 3]
    for one, other in zip(kept, read, strict=True):
        assert np.array_equal(one, other)


def test_mixed_targets_have_the_shares_of_the_images():
    images = torch.zeros(4, 1, 16, 16)
    images[2:] = 1  # the others of the first two
    wanted = torch.eye(2)[[0, 0, 1, 1]]
    for recipe in (TrainingRecipe(mixup=1.0), TrainingRecipe(cutmix=1.0), TrainingRecipe(mixup=0.5, cutmix=0.5)):
        for step in range(20):
            found, targets = mixed(images, wanted, recipe, (0, step))
            assert torch.allclose(targets.sum(1), torch.ones(4))
            assert torch.allclose(found.mean((1, 2, 3)), targets[:, 1], atol=1e-6)
    assert (images[:2] == 0).all()


def test_a_teacher_who_agrees_leaves_nothing_to_learn():
    logits = torch.randn(5, 7)
    assert float(distance(logits, logits, 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(distance(logits, logits.flip(1), 2.0)) > 0.1
    assert float(distance(logits, logits + 3, 2.0)) == pytest.approx(0, abs=1e-5)  # softmax does not see it
