"""The page of a run says who was taken for whom, and shows what was most wrong."""

import re

import msgspec
import numpy as np
import pytest

from edgeresnext.data import folder
from edgeresnext.model.catalogue import specify
from edgeresnext.spec import Epoch, TrainingRecipe
from edgeresnext.training.judging import Judgement
from edgeresnext.training.page import Outcome, confusion, pictures
from edgeresnext.training.recipes import decide
from edgeresnext.training.run_folder import Run


@pytest.fixture
def outcome(three):
    spec = specify("resnet20", classes=3)
    run = Run(
        model=spec, recipe=decide(TrainingRecipe(), spec, fine_tuning=False), classes=("<b>0</b>", "1", "4"), data="",
        weights="", images=60, validation=("a",), about_validation="24 of 'val'", created_with={"torch": "2"},
    )  # fmt: skip
    held = folder.scan(three / "val")
    logits = np.eye(3, dtype=np.float32)[list(held.targets)] * 4
    logits[0] = (0, 0, 9)  # a zero taken for a four, and very sure
    logits[9] = (0, 1, 1.5)
    judgement = Judgement(positions=np.arange(24), logits=logits)
    history = [
        Epoch(epoch=n, loss=1 / n, learning_rate=0.1, images=60, seconds=1.0, validation_loss=2 / n, top1=0.5 + n / 20)
        for n in (1, 2, 3)
    ]
    return Outcome(run=run, history=history, validation=held, judgement=judgement)


def test_confusion_counts_rows_of_labels_and_columns_of_answers(outcome):
    assert confusion(outcome).tolist() == [[7, 0, 1], [0, 7, 1], [0, 0, 8]]


def test_the_page_stands_alone_escapes_names_and_shows_the_surest_mistake_first(outcome):
    files = pictures(outcome)
    page = files["report.html"].decode()
    assert "://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert "<b>0</b>" not in page
    assert "&lt;b&gt;0&lt;/b&gt;" in page
    assert page.count("data:image/jpeg") == 2
    first = page.index("100 %") if "100 %" in page else -1
    assert 0 < first < page.index("right: 1")
    assert "Top-1 65.00 % in epoch 3 of 30" in page
    assert files["curve.svg"].startswith(b"<?xml")
    assert "mathdefault" not in page


def test_without_validation_images_the_page_says_so(outcome):
    history = [msgspec.structs.replace(one, top1=None, validation_loss=None) for one in outcome.history]
    page = pictures(Outcome(run=outcome.run, history=history, validation=None, judgement=None))["report.html"].decode()
    assert "there were no validation images" in page
    assert "Who was taken" not in page


def test_of_many_classes_the_pairs_are_shown_and_no_matrix(outcome):
    classes = tuple(str(n) for n in range(60))
    run = msgspec.structs.replace(outcome.run, classes=classes)
    logits = np.zeros((24, 60), np.float32)
    logits[:, 59] = 1
    judged = Judgement(positions=np.arange(24), logits=logits)
    page = pictures(Outcome(run=run, history=outcome.history, validation=outcome.validation, judgement=judged))
    assert "Who was taken" not in page["report.html"].decode()
    assert "Most often mistaken" in page["report.html"].decode()
