import asyncio
import copy
import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import edgeresnext
from edgeresnext.data.folder import scan
from edgeresnext.errors import BackendError, DataError, EdgeResNeXtError, RequestError


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
    for top in (0, -1, 1.5, "3", True, None):
        with pytest.raises(RequestError, match="top is"):
            classifier.predict(images.images[0], top=top)


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


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_classifier_is_neither_copied_nor_sent_away(classifier, copied):
    with pytest.raises(RequestError, match="cannot be copied or sent to another process"):
        copied(classifier)


@pytest.mark.parametrize(
    "wrong",
    [{"threads": 2.5}, {"threads": "4"}, {"threads": True}, {"batches": 3}, {"batches": "12"}, {"batches": [True]}],
)
def test_numbers_that_are_none_are_refused(built, wrong):
    with pytest.raises(RequestError) as caught:
        edgeresnext.load(built.path, backend="onnxruntime", precision="fp32", prove=False, **wrong)
    assert caught.value.values == tuple(wrong)


def test_batches_that_do_not_fit_into_memory_are_an_error(built):
    with pytest.raises(BackendError, match=r"batches of 1,000,000,000,000 images do not fit into memory") as caught:
        edgeresnext.load(built.path, backend="onnxruntime", precision="fp32", prove=False, batches=[10**12])
    assert caught.value.values == ("batches",)


def test_closing_while_other_threads_run_ends_them_with_an_error_of_ours(built):
    classifier = edgeresnext.load(built.path, backend="onnxruntime", precision="fp32", prove=False)
    image, begun = np.zeros((1, 32, 32, 3), np.uint8), threading.Barrier(4)

    def run():
        classifier.logits(image)
        begun.wait()
        try:
            while True:
                classifier.logits(image)
        except EdgeResNeXtError as error:
            return error

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(run) for _ in range(3)]
        begun.wait()
        classifier.close()
        assert all("closed" in str(future.result()) for future in futures)


def test_many_tasks_of_asyncio_get_the_answers_of_one(classifier, built):
    golden = built.golden().images
    expected = [classifier.logits(image[None]) for image in golden]

    async def ask():
        return await asyncio.gather(*(asyncio.to_thread(classifier.logits, image[None]) for image in [*golden] * 4))

    found = asyncio.run(ask())
    assert all(np.array_equal(one, other) for one, other in zip(found, expected * 4, strict=True))
