import numpy as np
import pytest
from scripted import Clock, Scripted

from edgeresnext.measure.accuracy import Changes, Classified, classify


class Fixed:
    """A session whose logits are given by the image's first pixel."""

    def __init__(self, logits):
        self.logits = np.asarray(logits, np.float32)

    def run(self, images):
        return self.logits[images[:, 0, 0, 0]]


def test_the_most_changed_images_are_the_most_changed(tmp_path):
    shades = np.arange(20, dtype=np.uint8)
    images = np.broadcast_to(shades[:, None, None, None], (20, 8, 8, 3))
    reference = np.zeros((20, 2), np.float32)
    other = reference.copy()
    other[:, 0] = np.linspace(0, 3, 20)  # the later, the surer
    changes = Changes("reference", ["cat", "dog"])
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for start in (0, 16, 8):
        part = slice(start, start + 8)
        logits = {"reference": reference[part], "other": other[part]}
        changes.add(images[part], paths[part], [1] * len(paths[part]), logits)
    found = changes.found()
    assert [one.file for one in found] == [str(tmp_path / f"{i}.png") for i in range(19, 11, -1)]
    assert found[0].change == pytest.approx(1 / (1 + np.exp(-3)) - 0.5)
    assert (found[0].before, found[0].after, found[0].label) == ("cat", "cat", "dog")


def test_an_interrupted_classification_leaves_the_same_images_to_every_session(digit_folders, built):
    paths = sorted((digit_folders["validation"] / "3").iterdir())
    kept: list[Classified] = []
    clock = Clock()
    first, second = Scripted(clock, 0.0), Scripted(clock, 0.0)
    run = second._run

    def interrupted(images):
        if second.runs == 2:
            raise KeyboardInterrupt
        return run(images)

    second._run = interrupted
    with pytest.raises(KeyboardInterrupt):
        classify(
            {"a": first, "b": second}, paths, [3] * len(paths), built.manifest.model.preprocess, lambda *_: None,
            done=kept.append,
        )  # fmt: skip
    assert len(kept[0].best["a"]) == len(kept[0].best["b"]) == len(kept[0].targets) == len(kept[0].digests) == 32
