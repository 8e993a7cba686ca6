import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import edgeresnext
from edgeresnext.data.folder import scan
from edgeresnext.errors import DataError, RequestError


@pytest.fixture(scope="module")
def classifier(built):
    with edgeresnext.load(built.path) as classifier:
        yield classifier


@pytest.fixture(scope="module")
def images(digit_folders):
    return scan(digit_folders["validation"])


def test_real_digits_are_recognised(classifier, images):
    paths, targets = images.images[::20], images.targets[::20]
    found = [predictions[0].index for predictions in classifier.predict(list(paths))]
    assert np.mean(np.array(found) == targets) >= 0.95


def test_predictions_are_labelled_probabilities_most_probable_first(classifier, images):
    predictions = classifier.predict(images.images[0], top=10)
    probabilities = [prediction.probability for prediction in predictions]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    assert all(prediction.label == str(prediction.index) for prediction in predictions)
    assert len({prediction.index for prediction in predictions}) == 10


def test_every_kind_of_source_gives_the_same(classifier, images):
    path = images.images[0]
    image = Image.open(path)
    rgb = image.convert("RGB")
    expected = classifier.predict(path)
    for source in (str(path), image, np.asarray(rgb), io.BytesIO(path.read_bytes())):
        assert classifier.predict(source) == expected
    assert classifier.predict([path, rgb]) == [expected, expected]
    assert classifier.predict(np.stack([np.asarray(rgb)] * 2)) == [expected, expected]
    with path.open("rb") as file:
        assert classifier.predict(file) == expected


def test_top_is_at_most_the_number_of_classes(classifier, images):
    assert len(classifier.predict(images.images[0], top=3)) == 3
    assert len(classifier.predict(images.images[0], top=99)) == 10
    with pytest.raises(RequestError):
        classifier.predict(images.images[0], top=0)


def test_many_images_come_back_in_order(classifier, images):
    paths = list(images.images[:37])
    assert classifier.predict(paths) == [classifier.predict(path) for path in paths]
    assert classifier.predict([]) == []


def test_threads_share_a_classifier(classifier, images):
    paths = list(images.images[:40])
    expected = [classifier.predict(path) for path in paths]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(classifier.predict, paths)) == expected


def test_an_unreadable_image_is_named(classifier, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"bad\.png"):
        classifier.predict(tmp_path / "bad.png")


def test_a_closed_classifier_says_so(built, images):
    classifier = edgeresnext.load(built.path)
    classifier.close()
    classifier.close()
    with pytest.raises(RequestError, match="closed"):
        classifier.predict(images.images[0])
