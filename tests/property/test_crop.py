import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeresnext.data.images import crop, decode
from edgeresnext.spec import Preprocess

sizes = st.integers(1, 300)
edges = st.integers(8, 64)


@settings(max_examples=150, deadline=None)
@given(sizes, sizes, edges, st.integers(0, 30), st.sampled_from(["bilinear", "bicubic"]))
def test_any_size_gives_the_crop_and_a_flat_image_stays_flat(width, height, edge, margin, interpolation):
    preprocess = Preprocess(resize_px=edge + margin, crop_px=edge, interpolation=interpolation)
    cut = crop(decode(Image.new("RGB", (width, height), (10, 200, 90))), preprocess)
    assert cut.shape == (edge, edge, 3)
    assert cut.dtype == np.uint8
    assert (cut == (10, 200, 90)).all()


@settings(max_examples=100, deadline=None)
@given(sizes, sizes, st.tuples(edges, edges), st.integers(0, 30), st.sampled_from(["crop", "squash"]))
def test_an_input_that_is_not_square_is_covered_without_borders(width, height, size, margin, fit):
    rows, columns = size
    preprocess = Preprocess(resize_px=min(rows, columns) + margin, crop_px=rows, width_px=columns, fit=fit)
    cut = crop(decode(Image.new("RGB", (width, height), (10, 200, 90))), preprocess)
    assert cut.shape == (rows, columns, 3)
    assert (cut == (10, 200, 90)).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(20, 120), st.integers(20, 120), st.integers(0, 2**32 - 1))
def test_a_mirrored_image_gives_the_mirrored_crop(width, height, seed):
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    preprocess = Preprocess(resize_px=min(width, height), crop_px=min(width, height))
    margin = max(width, height) - min(width, height)
    if margin % 2:  # the centre is off by half a pixel
        return
    cut = crop(Image.fromarray(array), preprocess)
    mirrored = crop(Image.fromarray(array[:, ::-1]), preprocess)
    assert np.array_equal(mirrored, cut[:, ::-1])
