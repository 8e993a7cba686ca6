"""Exports for DeepStream's nvinfer: read here by its own rules, which its sources state."""

import contextlib
import re
import shutil

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image
from standins.engines import written

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext.backends import registry
from edgeresnext.backends.request import EngineRequest
from edgeresnext.compiler import float_input
from edgeresnext.data.images import crop
from edgeresnext.errors import AccuracyError, BackendError, BundleError, InputError, RequestError
from edgeresnext.interop import deepstream
from edgeresnext.interop.replay import judge, run_as_written
from edgeresnext.model.catalogue import PREPROCESS
from edgeresnext.runtime.classifier import softmax
from edgeresnext.spec import Artifact, CheckpointOptions, EngineOptions, Preprocess

NVINFER_KEYS = {
    "process-mode", "gie-unique-id", "operate-on-gie-id", "network-type", "classifier-type", "onnx-file", "model-engine-file",
    "network-mode", "int8-calib-file", "batch-size", "infer-dims", "model-color-format", "net-scale-factor", "offsets",
    "maintain-aspect-ratio", "scaling-filter", "output-blob-names", "labelfile-path", "classifier-threshold",
}  # fmt: skip
"""Of gstnvinfer_property_parser.h of DeepStream 9.1, those that are written."""
IMAGENET = Preprocess(resize_px=36, crop_px=32)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory, digit_weights, digit_folders):
    """A bundle whose channels have a mean and a deviation each. Read only."""
    return edgeresnext.build(
        "resnext20_8x4d", weights=digit_weights, preprocess=IMAGENET, calibration=digit_folders["calibration"],
        precisions=["fp32", "int8"], output=tmp_path_factory.mktemp("uneven") / "bundle",
        checkpoint_options=CheckpointOptions(trust_network=True),
    )  # fmt: skip


def exported(bundle, output, **options):
    """Export, and return the record."""
    (found,) = edgeresnext.export(bundle.path, deepstream=output, **options)
    return found


def read_labels(path):
    """Labels as `InferPostprocessor::parseLabelsFile` reads them: a line an output layer, semicolons between."""
    return [line.split(";") for line in path.read_text().split("\n") if line]


def attributes(probabilities, labels, threshold=0.0):
    """What `ClassifyPostprocessor::parseAttributesFromSoftmaxLayers` finds in one output layer."""
    best, found = 0.0, None
    for index, probability in enumerate(probabilities):
        if probability > threshold and probability > best:
            best, found = probability, labels[0][index]
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_network_is_untouched_and_its_pixels_are_exact(built, tmp_path, precision):
    found = exported(built, tmp_path / "ds", precision=precision)
    assert found.replay.difference == 0
    assert found.replay.images == len(built.golden().images)
    config = deepstream.read_config(tmp_path / "ds" / deepstream.PRIMARY)
    assert config["network-mode"] == {"fp32": "0", "int8": "1", "fp16": "2"}[precision]
    assert ("int8-calib-file" in config) is (precision == "int8")
    on_disk = {path.name for path in (tmp_path / "ds").iterdir()}
    assert on_disk == {"edgeresnext.json", *found.files}
    assert {config[key] for key in ("onnx-file", "labelfile-path")} <= on_disk
    nodes = onnx.load(tmp_path / "ds" / "model.onnx").graph.node
    weights = [node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0].endswith(".float")]
    assert bool(weights) is (precision == "int8")  # TensorRT 8 takes no others
    original = onnx.load(built.path / found.source).graph.node[4:]
    assert [node for node in nodes if node not in weights][1:-1] == list(original)


def test_fp16_is_what_is_exported_unasked(built, uneven, tmp_path):
    assert exported(built, tmp_path / "half").precision == "fp16"
    assert exported(uneven, tmp_path / "whole").precision == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_means_and_deviations_of_three_channels_survive(uneven, tmp_path, precision):
    found = exported(uneven, tmp_path / "ds", precision=precision)
    assert found.replay.difference == 0
    config = deepstream.read_config(tmp_path / "ds" / deepstream.PRIMARY)
    offsets = [float(one) for one in config["offsets"].split(";")]
    assert offsets == pytest.approx([123.675, 116.28, 103.53], abs=1e-5)
    assert config["net-scale-factor"] == "1"
    file = onnx.load(tmp_path / "ds" / "model.onnx")
    gain = next(one for one in file.graph.initializer if one.name == "preprocess.gain")
    assert 1 / (255 * numpy_helper.to_array(gain).ravel()) == pytest.approx([0.229, 0.224, 0.225])
    assert [(d.dim_param, d.dim_value) for d in file.graph.input[0].type.tensor_type.shape.dim] == [
        ("batch", 0), ("", 3), ("", 32), ("", 32)
    ]  # fmt: skip


@pytest.mark.parametrize("name", [deepstream.PRIMARY, deepstream.SECONDARY])
@pytest.mark.parametrize(
    ("key", "value"),
    [("offsets", "103.53;116.28;123.675"), ("offsets", "0;0;0"), ("net-scale-factor", "0.0039215697906911373")],
)
def test_a_configuration_that_prepares_pixels_otherwise_fails_the_replay(uneven, tmp_path, name, key, value):
    job = deepstream.prepare(uneven, tmp_path / "ds", "fp32", 1)
    (tmp_path / "files").mkdir()
    job.write(tmp_path / "files")
    text = (tmp_path / "files" / name).read_text()
    (tmp_path / "files" / name).write_text(re.sub(rf"^{key}=.*$", f"{key}={value}", text, flags=re.MULTILINE))
    with pytest.raises(AccuracyError, match="of the largest; nothing is left"):
        job.replay(tmp_path / "files")


@pytest.mark.parametrize(
    ("off", "passes"), [(0.0, True), (0.9e-3, True), (1.1e-3, False), (np.nan, False), (np.inf, False)]
)
def test_logits_are_those_of_the_bundle_s_own_file_within_a_thousandth_of_the_largest(built, off, passes):
    half = Artifact(backend="onnxruntime", precision="fp16", target="deepstream", file="onnx/fp16.onnx")
    own = built.golden().logits
    logits = own.copy()
    logits[3, 5] += np.float32(off) * np.abs(own).max()
    with contextlib.nullcontext() if passes else pytest.raises(AccuracyError, match="does not reproduce"):
        assert judge(built, half, logits, own).difference == pytest.approx(off, abs=1e-6)


def test_files_that_fail_are_not_left(uneven, tmp_path, monkeypatch):
    def backwards(*arguments):
        return real(*arguments)[::-1]

    exported(uneven, tmp_path / "ds")
    before = {path: path.read_bytes() for path in (tmp_path / "ds").iterdir()}
    real = float_input.with_float_input
    monkeypatch.setattr(float_input, "with_float_input", backwards)
    for output in (tmp_path / "new", tmp_path / "ds"):
        with pytest.raises(AccuracyError):
            exported(uneven, output)
    assert {path: path.read_bytes() for path in (tmp_path / "ds").iterdir()} == before
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".*.partial-*"))


def test_nvinfer_s_own_parsers_name_the_classes(built, tmp_path):
    exported(built, tmp_path / "ds", precision="fp32")
    labels = read_labels(tmp_path / "ds" / "labels.txt")
    assert labels == [list(built.labels())]
    golden, model = built.golden(), built.manifest.model
    config = deepstream.read_config(tmp_path / "ds" / deepstream.SECONDARY)
    file = onnx.load(tmp_path / "ds" / "model.onnx")
    assert [one.name for one in file.graph.output] == [config["output-blob-names"]]  # each output is an attribute there
    pixels = deepstream.preprocessed(golden.images, config)
    session = onnxruntime.InferenceSession(tmp_path / "ds" / "model.onnx")
    (probabilities,) = session.run(None, {model.input.name: pixels})
    np.testing.assert_allclose(probabilities, softmax(golden.logits), atol=1e-5)
    best = [built.labels()[index] for index in golden.logits.argmax(1)]
    assert [attributes(row, labels, float(config["classifier-threshold"])) for row in probabilities] == best


@pytest.mark.parametrize("average", ["logits", "probability"])
def test_an_ensemble_is_exported_as_one_network(digit_weights, tmp_path, average):
    weights = [shutil.copy(digit_weights, tmp_path / f"{name}.safetensors") for name in "ab"]
    bundle = edgeresnext.build(
        weights, precisions=["fp32"], output=tmp_path / "bundle", checkpoint_options=CheckpointOptions(average=average)
    )
    assert exported(bundle, tmp_path / "ds").replay.difference == 0


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_rtx_reads_the_file_and_fuses_the_division_into_its_first_kernel(built, tmp_path, precision):
    backend = registry.get_engine_backend("tensorrt_rtx")
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    source = exported(built, tmp_path / "ds", precision=precision).source
    layers = {}
    for name, onnx_file in (("exported", tmp_path / "ds" / "model.onnx"), ("own", built.path / source)):
        request = EngineRequest(
            name=name, backend="tensorrt_rtx", file=tmp_path / f"{name}.engine", precision=precision, compute_capabilities=("8.9",),
            onnx=onnx_file, options=EngineOptions(), layer_macs=built.manifest.layer_macs,
        )  # fmt: skip
        layers[name] = backend.build(request).layers
    assert 0 < len(layers["exported"]) <= len(layers["own"]) + 1  # the softmax, with the last bias
    assert layers["exported"][0].types.startswith("fp32 ->")
    assert layers["exported"][-1].types.endswith("-> fp32")


def random_network(output, channels):
    """A bundle of random weights for images of so many channels."""
    preprocess = PREPROCESS["digits"].for_channels(channels)
    return edgeresnext.build(
        "resnext20_8x4d", random_weights=True, preprocess=preprocess, precisions=["fp32"], output=output
    )


def test_grey_networks_take_grey_frames_and_four_channels_nvinfer_does_not_have(tmp_path):
    found = exported(random_network(tmp_path / "grey", 1), tmp_path / "ds")
    assert found.replay.difference == 0
    config = deepstream.read_config(tmp_path / "ds" / deepstream.PRIMARY)
    assert (config["model-color-format"], config["infer-dims"], config["offsets"]) == ("2", "1;32;32", "127.5")
    with pytest.raises(RequestError, match="takes RGBA images, and nvinfer gives RGB or grey ones"):
        exported(random_network(tmp_path / "rgba", 4), tmp_path / "ds")


@pytest.mark.parametrize("name", [deepstream.PRIMARY, deepstream.SECONDARY])
def test_configurations_have_keys_that_nvinfer_knows_and_comments_on_lines_of_their_own(built, tmp_path, name):
    exported(built, tmp_path / "ds", precision="int8", batch=4)
    config = deepstream.read_config(tmp_path / "ds" / name)
    assert set(config) <= NVINFER_KEYS
    assert not any("#" in value for value in config.values())  # GLib's key files have no comments behind values
    assert config["process-mode"] == ("1" if name == deepstream.PRIMARY else "2")
    assert ("operate-on-gie-id" in config) is (name == deepstream.SECONDARY)
    assert config["model-engine-file"] == "model.onnx_b4_gpu0_int8.engine"
    assert max(map(len, (tmp_path / "ds" / name).read_text().splitlines())) <= 112


SQUASH = Preprocess(resize_px=32, crop_px=32, fit="squash")


@pytest.mark.parametrize(
    ("preprocess", "frame", "region"),
    [
        (Preprocess(resize_px=256, crop_px=224), (1920, 1080), (487, 67, 945, 945)),
        (Preprocess(resize_px=256, crop_px=224), (1080, 1920), (67, 487, 945, 945)),
        (Preprocess(resize_px=32, crop_px=32), (640, 480), (80, 0, 480, 480)),
        (Preprocess(resize_px=240, crop_px=240, width_px=320), (1920, 1080), (240, 0, 1440, 1080)),
        (Preprocess(resize_px=256, crop_px=224, width_px=448), (1000, 1000), (62, 281, 875, 438)),
        (SQUASH, (1920, 1080), (0, 0, 1920, 1080)),
    ],
)
def test_the_region_that_is_named_is_what_the_network_saw(preprocess, frame, region):
    assert deepstream.source_region(*frame, preprocess) == region
    rows, columns = np.mgrid[: frame[1], : frame[0]]
    picture = np.stack([columns * 255 // frame[0], rows * 255 // frame[1], (rows + columns) * 255 // sum(frame)], -1)
    image = Image.fromarray(picture.astype(np.uint8))
    left, top, width, height = region
    cut = image.crop((left, top, left + width, top + height)).resize(preprocess.size[::-1], Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(cut).astype(int) - crop(image, preprocess)).max() <= 2


def test_what_nvinfer_does_otherwise_is_said(built, uneven, tmp_path):
    for bundle, region in ((built, "420:0:1080:1080"), (uneven, "480:60:960:960")):
        found = exported(bundle, tmp_path / region, precision="fp32")
        text = (tmp_path / region / deepstream.PRIMARY).read_text()
        assert f"src-crop={region}" in text
        assert any(region in note for note in found.notes)
    squashed = deepstream._notes(deepstream._choose(built, None), SQUASH)
    assert not any("src-crop" in note for note in squashed)


def test_what_nvinfer_built_of_an_earlier_file_goes_with_it(built, tmp_path):
    exported(built, tmp_path / "ds")
    (tmp_path / "ds" / "model.onnx_b1_gpu0_fp16.engine").write_bytes(b"of the earlier file")
    exported(built, tmp_path / "ds")
    assert not list((tmp_path / "ds").glob("*.engine"))


def test_a_directory_with_other_things_is_left_alone(built, bundle_copy, tmp_path):
    exported(built, tmp_path / "ds")
    (tmp_path / "ds" / "notes.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config_infer_primary.txt").write_text("[property]\n")
    (tmp_path / "file").write_text("mine")
    edgeresnext.export(built.path, triton=tmp_path / "models", name="digits")
    for output, message in (
        (tmp_path / "ds", "other files, which would be lost: notes.txt"),
        (tmp_path / "other", "something other than an export for DeepStream"),
        (tmp_path / "models" / "digits", "something other than an export for DeepStream"),
        (tmp_path / "file", "is a file or a link"),
        (bundle_copy, "lies in the bundle"),
        (bundle_copy / "ds", "lies in the bundle"),
    ):
        with pytest.raises(InputError, match=message):
            edgeresnext.export(bundle_copy, deepstream=output)
    assert (tmp_path / "ds" / "notes.txt").read_text() == "mine"


def test_a_label_with_a_semicolon_is_refused_before_anything_is_written(bundle_copy, tmp_path):
    labels = [*"012345678", "nine; or 9"]
    (bundle_copy / bundles.LABELS).write_text("\n".join(labels) + "\n")
    bundle = written(bundle_copy, bundles.read(bundle_copy).manifest)
    with pytest.raises(RequestError, match="'nine; or 9' has a semicolon"):
        exported(bundle, tmp_path / "ds")
    assert list(tmp_path.iterdir()) == [bundle_copy]


def test_a_name_in_a_manifest_adds_nothing_to_a_configuration(bundle_copy, tmp_path):
    manifest = bundles.read(bundle_copy).manifest
    model = msgspec.structs.replace(manifest.model, name="x\ncustom-lib-path=/tmp/evil.so\n[y]")
    bundle = written(bundle_copy, msgspec.structs.replace(manifest, model=model))
    bundle = bundles.read(bundle.path.rename(tmp_path / "b\ncustom-lib-path=evil"))
    exported(bundle, tmp_path / "ds")
    for name in (deepstream.PRIMARY, deepstream.SECONDARY):
        assert set(deepstream.read_config(tmp_path / "ds" / name)) <= NVINFER_KEYS


def test_a_file_that_would_make_a_runtime_do_more_is_refused(bundle_copy, tmp_path):
    file = onnx.load(bundle_copy / "onnx" / "fp32.onnx")
    weights = file.graph.initializer[2]
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/passwd")
    (bundle_copy / "onnx" / "fp32.onnx").write_bytes(file.SerializeToString())
    bundle = written(bundle_copy, bundles.read(bundle_copy).manifest)
    for program in ("deepstream", "triton"):
        with pytest.raises(BundleError, match="is none of ours"):
            edgeresnext.export(bundle.path, **{program: tmp_path / program}, precision="fp32")
        assert not list((tmp_path / program).glob("[!.]*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, r"no ONNX file for fp16: it has onnx/fp32\.onnx"),
        ({"precision": "bf16"}, "unknown precision of DeepStream 'bf16'"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"batch": 0}, "batch is 0"),
        ({"batch": 1025}, "nvinfer takes 1024 at most"),
        ({"target": "cpu"}, "target would change nothing"),
        ({"name": "flowers"}, "name would change nothing"),
    ],
)
def test_what_cannot_be_exported_is_refused(uneven, tmp_path, options, message):
    with pytest.raises(RequestError, match=message):
        exported(uneven, tmp_path / "ds", **options)
    assert not (tmp_path / "ds").exists()


def test_int8_without_a_calibration_cache_would_be_fp16_there(bundle_copy, tmp_path):
    (bundle_copy / bundles.CALIBRATION_CACHE).unlink()
    bundle = written(bundle_copy, bundles.read(bundle_copy).manifest)
    with pytest.raises(RequestError, match=r"has no calibration\.cache, without which nvinfer turns INT8 into FP16"):
        exported(bundle, tmp_path / "ds", precision="int8")


def test_a_damaged_bundle_is_refused_and_an_earlier_export_stays(bundle_copy, tmp_path):
    bundle = bundles.read(bundle_copy)
    exported(bundle, tmp_path / "ds")
    before = (tmp_path / "ds" / "model.onnx").read_bytes()
    file = bundle_copy / "onnx" / "fp16.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match="was altered"):
        exported(bundle, tmp_path / "ds")
    assert (tmp_path / "ds" / "model.onnx").read_bytes() == before


def test_a_file_that_is_none_of_ours_is_refused(built, tmp_path):
    once, model = tmp_path / "once.onnx", built.manifest.model
    float_input.with_float_input((built.path / "onnx" / "fp32.onnx").read_bytes(), once, model)
    with pytest.raises(BackendError, match="does not begin and end as files of this release do"):
        float_input.with_float_input(once.read_bytes(), tmp_path / "twice.onnx", model)
    with pytest.raises(BackendError, match="ONNX Runtime refuses"):
        run_as_written(once.read_bytes(), model, built.golden().images)
