import msgspec
import pytest
from PIL import Image

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext.bundle import read
from edgeresnext.errors import DataError, NotInstalledError, RequestError
from edgeresnext.report.sensitivity import plot
from edgeresnext.runtime.verify import verify


@pytest.fixture(scope="module")
def found(built):
    return edgeresnext.sensitivity(built.path)


def test_every_int8_layer_is_there_with_all_together(found, built):
    plan = next(file.plan for file in built.manifest.onnx if file.file == "onnx/int8-cpu.onnx")
    assert found.file == "onnx/int8-cpu.onnx"
    assert [row.layer for row in found.layers] == list(plan.inputs)
    assert all(row.top1 is None for row in found.layers)
    assert found.images == 16
    assert all(row.snr_db > found.together.snr_db for row in found.layers)


def test_all_together_is_what_the_file_itself_does(built):
    checks = {check.artifact: check for check in verify(built.path)}
    together = edgeresnext.sensitivity(built.path).together
    assert together.snr_db == pytest.approx(checks["onnxruntime-int8"].fidelity.snr_db, abs=1.5)


def test_labelled_images_give_top_1(built, digit_folders):
    found = edgeresnext.sensitivity(built.path, data=digit_folders["validation"], samples=40, file="int8")
    assert (found.file, found.images) == ("onnx/int8.onnx", 40)
    assert all(row.top1 >= 0.9 for row in (*found.layers, found.together))


def test_images_without_classes_give_agreement_alone(built, digit_folders):
    found = edgeresnext.sensitivity(built.path, data=digit_folders["validation"] / "3", samples=8)
    assert found.images == 8
    assert found.together.top1 is None
    assert found.together.agreement >= 0.9


def test_the_plot_is_an_image(found, tmp_path):
    plot(found, tmp_path / "s.png")
    plot(found, tmp_path / "s.svg")
    with Image.open(tmp_path / "s.png") as image:
        assert image.width >= 800
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20
    text = (tmp_path / "s.svg").read_text()
    assert text.count("<path") > len(found.layers)


def test_wrong_requests_are_refused(built, found, digit_folders, tmp_path, monkeypatch):
    with pytest.raises(RequestError, match=r"unknown INT8 file 'int4'"):
        edgeresnext.sensitivity(built.path, file="int4")
    with pytest.raises(RequestError, match="samples is 0"):
        edgeresnext.sensitivity(built.path, samples=0)
    with pytest.raises(RequestError, match="samples would change nothing"):
        edgeresnext.sensitivity(built.path, samples=8)
    with pytest.raises(DataError, match="does not exist"):
        edgeresnext.sensitivity(built.path, data=tmp_path / "nowhere")
    with pytest.raises(RequestError, match=r"cannot write a plot as .*\.txt"):
        plot(found, tmp_path / "s.txt")
    with pytest.raises(RequestError, match="does not exist"):
        plot(found, tmp_path / "none" / "s.png")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else True)
    with pytest.raises(NotInstalledError, match="matplotlib"):
        plot(found, tmp_path / "s.png")


def test_a_bundle_without_int8_has_nothing_to_show(bundle_copy):
    whole = read(bundle_copy).manifest
    fp32 = msgspec.structs.replace(
        whole,
        onnx=tuple(file for file in whole.onnx if not file.plan.inputs),
        artifacts=tuple(artifact for artifact in whole.artifacts if artifact.precision != "int8"),
        files={name: entry for name, entry in whole.files.items() if name != "ranges.json"},
    )
    bundles.write_manifest(bundle_copy, fp32)
    assert read(bundle_copy).ranges() is None
    with pytest.raises(RequestError, match="no INT8 file"):
        edgeresnext.sensitivity(bundle_copy)
