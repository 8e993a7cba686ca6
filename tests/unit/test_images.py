import contextlib
import io
import os

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageFile

from edgeresnext.data.images import FORMATS, Skipped, batches, crop, decode, load_image
from edgeresnext.errors import DataError
from edgeresnext.spec import Preprocess

SMALL = Preprocess(resize_px=16, crop_px=12)
RED = (200, 30, 40)


def stored(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "I;16", "I"])
def test_every_mode_becomes_rgb(mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((20, 24), 0x8000, np.uint16))
    elif mode == "I":
        image = Image.fromarray(np.full((20, 24), 0x8000, np.int32))
    else:
        image = Image.new("RGB", (24, 20), (128, 128, 128)).convert(mode, palette=Image.Palette.ADAPTIVE)
    decoded = decode(image)
    assert (decoded.mode, decoded.size) == ("RGB", (24, 20))
    if mode not in ("1", "CMYK"):
        assert np.abs(np.asarray(decoded, np.int16) - 128).max() <= 1


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (4, "RGBA")])
@pytest.mark.parametrize("stored_as", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "I;16"])
def test_every_mode_becomes_grey_or_rgba(channels, mode, stored_as):
    image = Image.new("RGB", (24, 20), (128, 128, 128))
    image = (
        Image.fromarray(np.full((20, 24), 0x8000, np.uint16)) if stored_as == "I;16"
        else image.convert(stored_as, palette=Image.Palette.ADAPTIVE)
    )  # fmt: skip
    decoded = decode(image, channels)
    assert (decoded.mode, decoded.size) == (mode, (24, 20))
    values = np.asarray(decoded, np.int16).reshape(20, 24, channels)
    if stored_as not in ("1", "CMYK"):
        assert np.abs(values[:, :, :3] - 128).max() <= 1
    if channels == 4:
        assert (values[:, :, 3] == 255).all()


def test_alpha_reaches_a_network_that_takes_it_and_grey_is_luma():
    image = Image.new("RGBA", (16, 16), (*RED, 77))
    rgba = Preprocess(resize_px=16, crop_px=12, mean=(0.5,) * 4, std=(0.5,) * 4)
    assert load_image(image, rgba)[0, 0].tolist() == [*RED, 77]
    grey = Preprocess(resize_px=16, crop_px=12, mean=(0.5,), std=(0.5,))
    assert load_image(image, grey).shape == (12, 12, 1)
    assert load_image(image, grey)[0, 0, 0] == round(0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])


def test_an_array_has_the_channels_that_the_network_takes():
    grey = Preprocess(resize_px=16, crop_px=12, mean=(0.5,), std=(0.5,))
    for shape in ((16, 16), (16, 16, 1)):
        assert load_image(np.full(shape, 7, np.uint8), grey).shape == (12, 12, 1)
    with pytest.raises(DataError, match=r"uint8 grey array \(height, width, 1\), got uint8 \(16, 16, 3\)"):
        load_image(np.zeros((16, 16, 3), np.uint8), grey)
    with pytest.raises(DataError, match=r"uint8 RGB array \(height, width, 3\), got uint8 \(16, 16\)"):
        load_image(np.zeros((16, 16), np.uint8), SMALL)


@pytest.mark.parametrize(("mean", "std"), [((0.5, 0.5), (0.5, 0.5)), ((0.5,), (0.5, 0.5, 0.5)), ((), ())])
def test_a_preprocessing_for_channels_that_no_image_has_is_refused(mean, std):
    with pytest.raises(ValueError, match="both must have 1, 3 or 4"):
        Preprocess(resize_px=16, crop_px=12, mean=mean, std=std)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("F", (4, 4), 0.5), "floating-point"),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), r"outside 0\.\.65535"),
        (Image.fromarray(np.full((4, 4), -1, np.int32)), r"outside 0\.\.65535"),
        (Image.new("RGB", (0, 4)), "no pixels"),
    ],
)
def test_pixels_of_unknown_scale_are_refused(image, message):
    with pytest.raises(DataError, match=message):
        decode(image)


@pytest.mark.parametrize("source", [None, 5, (x for x in "a")])
def test_other_kinds_of_sources_are_refused(source):
    with pytest.raises(DataError, match=type(source).__name__):
        decode(source)


def test_an_image_that_would_grow_without_bound_is_refused():
    with pytest.raises(DataError, match="1 x 60000"):
        crop(Image.new("RGB", (1, 60000)), Preprocess(resize_px=256, crop_px=224))


def test_broken_exif_does_not_become_a_traceback(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = stored(Image.new("RGB", (20, 10)), "JPEG", exif=exif).getvalue()
    generator = np.random.default_rng(0)
    for trial in range(300):
        broken = bytearray(raw)
        for position in generator.integers(0, 120, 4):
            broken[position] = generator.integers(0, 256)
        path = tmp_path / f"{trial}.jpg"
        path.write_bytes(broken)
        with contextlib.suppress(DataError):  # anything else fails the test
            decode(path)


def test_transparency_is_dropped_not_blended():
    image = Image.new("RGBA", (8, 8), (*RED, 0))
    assert decode(image).getpixel((0, 0)) == RED


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (20, 10), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(stored(image, "JPEG", exif=exif)).size == (10, 20)


def test_paths_files_images_and_arrays_give_the_same(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = load_image(array, SMALL)
    assert expected.shape == (12, 12, 3)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(array), stored(Image.fromarray(array))):
        assert np.array_equal(load_image(source, SMALL), expected)


def test_the_shorter_edge_is_resized_and_the_centre_cut_out():
    image = Image.new("RGB", (64, 32), (0, 0, 0))
    image.paste(RED, (16, 0, 48, 32))  # the middle half
    cut = crop(image, Preprocess(resize_px=32, crop_px=32))
    assert cut.shape == (32, 32, 3)
    assert (cut == RED).all()


def test_a_wide_input_shows_the_wide_centre_or_all_of_the_image():
    image = Image.new("RGB", (40, 60), (0, 0, 0))
    image.paste(RED, (0, 20, 40, 40))  # the middle third
    wide = Preprocess(resize_px=20, crop_px=20, width_px=40)
    cut = crop(image, wide)
    assert cut.shape == (20, 40, 3)
    assert (cut == RED).all()
    squashed = crop(image, msgspec.structs.replace(wide, fit="squash"))
    assert squashed.shape == (20, 40, 3)
    assert (squashed[10] == RED).all()
    assert not squashed[[0, -1]].any()


def test_an_odd_margin_is_split_as_torchvision_splits_it():
    # torchvision: top = int(round((height - crop) / 2.0)), and Python rounds halves to even.
    column = np.repeat(np.arange(15, dtype=np.uint8)[:, None, None], 15, 1).repeat(3, 2)
    assert crop(Image.fromarray(column), Preprocess(resize_px=15, crop_px=12))[0, 0, 0] == 2
    column = np.repeat(np.arange(13, dtype=np.uint8)[:, None, None], 13, 1).repeat(3, 2)
    assert crop(Image.fromarray(column), Preprocess(resize_px=13, crop_px=12))[0, 0, 0] == 0


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((3, 4, 4), np.uint8), r"\(3, 4, 4\)"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
    ],
)
def test_arrays_of_another_kind_are_refused(array, found):
    with pytest.raises(DataError, match=found):
        load_image(array, SMALL)


def test_files_that_are_no_images_are_refused_by_name(tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    whole = stored(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    (tmp_path / "half.jpg").write_bytes(whole.getvalue()[:900])
    for name in ("text.jpg", "half.jpg", "none.jpg"):
        with pytest.raises(DataError, match=name):
            decode(tmp_path / name)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("RGB", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    assert decode(tmp_path / "bomb.png").size == (100, 100)  # Pillow warns; a large photo is none
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(DataError, match="too large"):
        decode(tmp_path / "bomb.png")


def test_batches_skip_unreadable_images_by_name_and_keep_positions(tmp_path, caplog):
    paths = [tmp_path / f"{index:02}.png" for index in range(41)]
    for index, path in enumerate(paths):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(path)
    paths[7].write_bytes(b"broken")
    skipped = Skipped()
    found = [(images, positions) for images, positions in batches(paths, SMALL, 8, skipped)]
    assert [position for _, positions in found for position in positions] == [i for i in range(41) if i != 7]
    assert all((images[k] == (positions[k], 0, 0)).all() for images, positions in found for k in range(len(positions)))
    assert skipped.paths == [paths[7]]
    assert "07.png" in caplog.text


def test_too_many_unreadable_images_end_it(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(10)]
    for path in paths:
        Image.new("RGB", (20, 20)).save(path)
    paths[3].write_bytes(b"broken")
    with pytest.raises(DataError, match=r"at least 1 of 10 images cannot be read, more than 5%.*: .*3\.png"):
        list(batches(paths, SMALL, 4, Skipped()))
    with pytest.raises(DataError, match=r"3\.png"):
        list(batches(paths, SMALL, 4))


def test_a_pipe_does_not_make_anybody_wait(tmp_path):
    os.mkfifo(tmp_path / "photo.jpg")
    with pytest.raises(DataError, match=r"cannot be read: it is a pipe"):
        load_image(tmp_path / "photo.jpg", SMALL)


@pytest.mark.parametrize("where", ["photo.jpg", "photo.eps"])
def test_what_would_start_a_program_is_no_image(tmp_path, where, monkeypatch):
    (tmp_path / where).write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(trap) (w) file\n%%EOF\n"
    )
    monkeypatch.setattr("subprocess.Popen", lambda *_a, **_k: pytest.fail("a program was started"))
    with pytest.raises(DataError, match="is not an image that can be read"):
        load_image(tmp_path / where, SMALL)


def test_many_pixels_from_few_bytes_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    Image.new("1", (9000, 9000)).save(tmp_path / "black.png")
    monkeypatch.setattr(Image.Image, "load", lambda *_a: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match=r"too large to decode safely: 9000 x 9000 pixels from [\d,]+ bytes"):
        load_image(tmp_path / "black.png", SMALL)


@pytest.mark.parametrize(
    ("mode", "kind", "size"), [("1", "PNG", (4960, 7016)), ("RGB", "PNG", (6000, 6000)), ("L", "GIF", (8000, 5000))]
)
def test_plain_pages_are_no_bombs(tmp_path, mode, kind, size):
    page = Image.new(mode, size, "white")
    page.paste(page.resize((900, 900)).point(lambda _v: 0), (50, 50))
    noise = np.random.default_rng(0).integers(0, 2, (400, 400), dtype=np.uint8) * 255
    page.paste(Image.fromarray(noise).convert(mode), (1000, 1000))
    page.save(tmp_path / "page", kind)
    assert load_image(tmp_path / "page", SMALL).shape == (12, 12, 3)


def test_a_large_photo_is_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 1000), dtype=np.uint8)
    Image.fromarray(noise).resize((10_000, 6_000)).convert("RGB").save(tmp_path / "large.jpg", quality=90)
    assert load_image(tmp_path / "large.jpg", SMALL).shape == (12, 12, 3)


def with_scans(count):
    """A progressive JPEG of few bytes with so many scans more: one that refines, repeated."""
    content = stored(Image.new("L", (64, 48), 77), "JPEG", progressive=True).getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + content[-2:]


def test_a_jpeg_that_would_keep_its_decoder_busy_is_refused(tmp_path):
    (tmp_path / "slow.jpg").write_bytes(with_scans(1000))
    assert load_image(io.BytesIO(with_scans(50)), SMALL).shape == (12, 12, 3)
    with pytest.raises(DataError, match=r"slow\.jpg' has more than 100 scans"):
        load_image(tmp_path / "slow.jpg", SMALL)
    plain = stored(Image.new("L", (64, 48)), "JPEG").getvalue()
    block = b"\xff\xe1\x00\x10Exif\0\0MM\0*\0\0\0\x08"
    with pytest.raises(DataError, match="has more than 100 blocks of EXIF"):
        load_image(io.BytesIO(plain[:2] + block * 101 + plain[2:]), SMALL)


def test_what_only_looks_like_scans_is_none(tmp_path):
    """In a comment, a preview or behind the end, as videos of phones are, there may be anything."""
    content = stored(Image.new("L", (64, 48)), "JPEG").getvalue()
    comment = b"\xff\xfe" + (2 + 400).to_bytes(2, "big") + b"\xff\xda" * 200
    (tmp_path / "phone.jpg").write_bytes(content[:2] + comment + content[2:] + b"\xff\xda" * 1000)
    assert load_image(tmp_path / "phone.jpg", SMALL).shape == (12, 12, 3)


@pytest.mark.parametrize(("beginning", "most"), [(b"GIF89a", "1,074"), (b"\xff\xd8\xff", "268")])
def test_a_file_of_a_terabyte_is_not_read(tmp_path, beginning, most):
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.write(beginning)
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=f"has 1,099,512 MB; {most} are read"):
        load_image(tmp_path / "sparse.jpg", SMALL)


def test_a_stream_that_cannot_go_back_is_read():
    class Pipe:
        def __init__(self, content):
            self.read = io.BytesIO(content).read

    content = stored(Image.new("RGB", (20, 20), RED)).getvalue()
    assert decode(Pipe(content)).getpixel((3, 3)) == RED


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_an_animation_the_first_picture_is_decoded_alone(kind, monkeypatch):
    first = Image.new("RGB", (32, 32), RED)
    file = stored(
        first, kind, save_all=True, append_images=[Image.new("RGB", (32, 32), (0, index, 0)) for index in range(60)]
    )
    loads = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: (loads.append(self.tell()), load(self))[1])
    assert abs(np.asarray(load_image(file, SMALL), int) - RED).max() < 12
    assert set(loads) == {0}


ZOO_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16")


@pytest.mark.parametrize("kind", sorted(FORMATS))
@pytest.mark.parametrize("damage", ["none", "half", "header", "first byte", "noise"])
def test_every_kind_of_image_is_decoded_or_refused_in_words(kind, damage):
    generator = np.random.default_rng(len(kind))
    for mode in ZOO_MODES:
        pixels = Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8))
        image = Image.fromarray(np.full((40, 48), 0x8000, np.uint16)) if mode == "I;16" else pixels.convert(mode)
        file = io.BytesIO()
        try:
            image.save(file, kind)
        except (OSError, ValueError, KeyError):  # no such mode in this format
            continue
        content = bytearray(file.getvalue())
        if damage == "half":
            content = content[: len(content) // 2]
        elif damage == "header":
            content[8:40] = generator.bytes(32)
        elif damage == "first byte":
            content[0] ^= 0xFF
        elif damage == "noise":
            for at in generator.integers(0, len(content), 20):
                content[at] ^= int(generator.integers(1, 256))
        with contextlib.suppress(DataError):  # and nothing else
            found = load_image(io.BytesIO(content), SMALL)
            assert (found.shape, found.dtype) == ((12, 12, 3), np.uint8)
            assert damage != "half" or kind not in ("JPEG", "MPO", "WEBP")
