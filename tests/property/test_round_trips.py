"""What we write is what we read: every stored value, label, recipe, message, tensor and pixel comes back as it was."""

import io
import json

import msgspec
import numpy as np
import pytest
import torch
from fuzzing.stored import TEXTS, stored, tried
from fuzzing.targets import SPEC, a_bundle, a_file
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from safetensors.torch import save

from edgeresnext import bundle as bundles
from edgeresnext import files
from edgeresnext.backends.engine_header import read_header
from edgeresnext.bundle.wire_format import fields, written
from edgeresnext.data.images import decode
from edgeresnext.data.labels import read_labels
from edgeresnext.errors import BundleError
from edgeresnext.interop.exported import Export
from edgeresnext.measure.results import Report
from edgeresnext.model import weight_files
from edgeresnext.pipeline.recipe import read_recipe
from edgeresnext.report.files import read_report, save_report
from edgeresnext.runtime.proof import _Remembered
from edgeresnext.spec import REPAIRS, Manifest, Preprocess, Ranges, Recipe, TrainingRecipe
from edgeresnext.training.run_folder import Run

LINES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
PIXELS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3, 4])))


@pytest.mark.parametrize(
    "kind", [Manifest, Ranges, Report, Export, Preprocess, Recipe, TrainingRecipe, Run, _Remembered]
)
@tried
@given(st.data())
def test_a_stored_value(kind, data):
    value = data.draw(stored(kind))
    assert files.from_json(files.to_json(value), kind) == value


@tried
@given(stored(Report))
def test_a_report(value):
    value = msgspec.structs.replace(value, schema=3)
    path = a_file("round.json", b"")
    save_report(value, path)
    assert read_report(path) == value


@tried
@given(st.integers(), st.sampled_from(["{}", '{{"a": {}}}', "[1, [{}]]", '{{"a": "text {}"}}']))
def test_whole_numbers_have_64_bits(number, form):
    text = form.format(number)
    small = -(1 << 63) <= number < 1 << 63 or "text" in form
    if small:
        assert files.from_json(text, object) == json.loads(text)
    else:
        with pytest.raises(msgspec.DecodeError, match="64 bits"):
            files.from_json(text, object)


@tried
@given(st.lists(LINES, min_size=1, max_size=5, unique=True))
def test_labels(labels):
    assume(not labels[0].startswith(("[", "{")))
    forms = (
        "\n".join(labels), "\r\n".join(labels) + "\n", json.dumps(labels), json.dumps(dict(enumerate(labels))),
    )  # fmt: skip
    assert {read_labels(a_file("labels", form.encode())) for form in forms} == {tuple(labels)}


@tried
@given(
    st.builds(
        Recipe,
        method=LINES,
        samples=st.integers(0, 2**62),
        seed=st.integers(0, 2**32),
        stratified=st.booleans(),
        repairs=st.lists(st.sampled_from(REPAIRS), max_size=3).map(tuple),
        keep=st.lists(LINES, max_size=3).map(tuple),
    )
)
def test_a_recipe(recipe):
    values = msgspec.to_builtins(recipe)
    text = "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())
    assert read_recipe(a_file("round.toml", text.encode())) == recipe


@tried
@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.integers(0, 2**64 - 1) | st.binary(max_size=200))))
def test_a_message_of_protobuf(values):
    message = b"".join(written(number, value) for number, value in values)
    found = list(fields(memoryview(message)))
    assert [(field.number, field.value) for field in found] == values
    assert b"".join(field.whole for field in found) == message


@tried
@given(
    st.sampled_from([(b"ftrt", "tensorrt"), (b"vtrt", "tensorrt_rtx")]),
    st.binary(min_size=20),
    st.lists(st.integers(0, 255), min_size=4, max_size=4),
)
def test_the_release_of_an_engine(tag, between, release):
    found = read_header("x.engine", tag[0] + between[:20] + bytes(release) + between[20:])
    assert (found.backend, found.release) == (tag[1], ".".join(map(str, release)))


@tried
@given(
    st.dictionaries(
        LINES, arrays.arrays(np.float32, arrays.array_shapes(max_side=4), elements=st.floats(width=32)), max_size=3
    ),
    st.booleans(),
)
def test_tensors(state, zipped):
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    container = io.BytesIO()
    torch.save(tensors, container, _use_new_zipfile_serialization=zipped)
    for content in (save(tensors), container.getvalue()):
        found = weight_files.read(a_file("round.weights", content))
        assert found.keys() == tensors.keys()
        assert all(np.array_equal(found[name].numpy(), array, equal_nan=True) for name, array in state.items())


@tried
@given(
    st.integers(0, 3),
    st.sampled_from(["uint8", "float32", "int16"]),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([(8, 8, 3), (8, 8), (8, 8, 1), ()]),
    st.booleans(),
)
def test_golden_images_are_those_of_the_model_or_refused(count, kind, logits_kind, shape, packed):
    images, logits = np.ones((count, *shape), kind), np.ones((count, 2), logits_kind)
    container = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(container, images=images, logits=logits)
    bundle = a_bundle(bundles.REFERENCE, container.getvalue())
    fits = (kind, logits_kind, shape) == ("uint8", "float32", SPEC.input.shape[1:]) and count
    if fits and not packed:
        assert np.array_equal(bundle.golden().images, images)
    elif not fits:
        with pytest.raises(BundleError, match=r"reference\.npz"):
            bundle.golden()


@tried
@given(PIXELS, st.sampled_from(["PNG", "TIFF", "WEBP", "TGA"]))
def test_pixels(pixels, kind):
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    container = io.BytesIO()
    image.save(container, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    found = np.asarray(decode(io.BytesIO(container.getvalue()), pixels.shape[2]))
    assert np.array_equal(found.reshape(pixels.shape), pixels)


@tried
@given(TEXTS)
def test_a_text_that_is_no_utf_8_is_refused_or_kept(text):
    raw = json.dumps(text).encode()
    try:
        found = files.from_json(raw, str)
    except msgspec.DecodeError:
        return
    assert found == text
