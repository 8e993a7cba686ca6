import shutil

import msgspec
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from stages import LATENCY_ALONE

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext.backends import registry
from edgeresnext.compiler.thresholds import STANDARD
from edgeresnext.errors import AccuracyError, BundleError, CheckpointError, DataError, NotInstalledError, RequestError
from edgeresnext.model.catalogue import PREPROCESS
from edgeresnext.spec import EngineOptions, Preprocess

MODEL = "resnext20_8x4d"


@pytest.fixture
def build(digit_folders, digit_weights, tmp_path):
    """A build of the digits network, with changes."""

    def call(**changes):
        options = {
            "model": MODEL, "weights": digit_weights, "calibration": digit_folders["calibration"], "samples": 16,
            "output": tmp_path / "out",
        } | changes  # fmt: skip
        recipe = edgeresnext.Recipe(
            **{name: options.pop(name) for name in edgeresnext.Recipe.__struct_fields__ if name in options}
        )
        return edgeresnext.build(options.pop("model"), recipe=recipe, **options)

    return call


def test_every_file_is_checked_against_pytorch(built):
    found = {file.file: file for file in built.manifest.onnx}
    assert list(found) == [f"onnx/{name}.onnx" for name in ("fp32", "fp16", "int8", "int8-fp16", "int8-cpu")]
    assert found["onnx/fp32.onnx"].fidelity.max_error <= 1e-5
    assert found["onnx/fp16.onnx"].fidelity.snr_db >= 55
    assert min(found[f"onnx/{name}.onnx"].fidelity.snr_db for name in ("int8", "int8-fp16", "int8-cpu")) >= 30
    for file in found.values():
        assert onnx.load(built.file(file.file)).opset_import[0].version == file.opset


def test_the_golden_logits_are_pytorch_s_on_the_bundle_s_own_weights(built):
    golden = built.golden()
    session = registry.get("torch").open(
        built.file("weights.safetensors"), built.manifest.model, registry.BASELINE_ARTIFACT
    )
    assert golden.images.shape == (16, 32, 32, 3)
    logits = np.concatenate([session.run(image[None]) for image in golden.images])
    assert golden.compare(logits).max_error < 1e-6


def test_ranges_are_keyed_by_weights_images_and_preprocessing(built):
    ranges = msgspec.json.decode((built.path / "ranges.json").read_bytes())
    assert (ranges["method"], ranges["images"], len(ranges["image_digests"])) == ("auto", 197, 197)
    assert set(ranges["digests"]) == {"weights", "images", "preprocess"}
    assert ranges["digests"]["weights"] == built.manifest.files["weights.safetensors"].sha256
    assert set(ranges["thresholds"]) == set(STANDARD)
    assert all(value > 0 for limits in ranges["thresholds"].values() for value in limits.values())


def test_the_selection_names_the_machine_and_covers_what_runs_here(built):
    timed = {timing.artifact for timing in built.manifest.selection.timings}
    runnable = {a.name for a in built.manifest.artifacts if registry.get(a.backend).unavailable(a.precision) is None}
    assert timed == runnable
    assert "core" in built.manifest.selection.machine


def test_the_same_input_gives_the_same_files(build, built):
    assert build(samples=512).manifest.files == built.manifest.files


def test_random_weights_need_no_images_and_mark_the_bundle_untrained(tmp_path):
    bundle = edgeresnext.build(MODEL, random_weights=True, output=tmp_path / "out", precisions=["int8", "fp32"])
    assert not bundle.manifest.trained
    assert bundle.manifest.onnx[0].file == "onnx/fp32.onnx"
    assert "generated" in bundle.manifest.calibration
    report = edgeresnext.bench(
        bundle.path,
        backend="onnxruntime",
        precision="int8",
        options=edgeresnext.BenchOptions(rounds=2, skip=LATENCY_ALONE),
    )
    assert all(
        row.top1 is None and "accuracy: random weights" in row.reasons for row in report.rows if row.status == "ok"
    )


def test_only_what_was_asked_for_is_built(build):
    bundle = build(precisions=["fp16", "fp32"], calibration=None)
    assert [file.file for file in bundle.manifest.onnx] == ["onnx/fp32.onnx", "onnx/fp16.onnx"]
    assert "int8" not in {artifact.precision for artifact in bundle.manifest.artifacts}
    assert "ranges.json" not in bundle.manifest.files


def test_a_network_that_overflows_float16_can_still_be_int8(build, tmp_path, digit_weights):
    state = load_file(digit_weights)
    state["fc.weight"] *= 1e6
    save_file(state, tmp_path / "huge.safetensors")
    with pytest.raises(AccuracyError, match="float16") as caught:
        build(weights=tmp_path / "huge.safetensors", precisions=["fp32", "fp16"], calibration=None)
    assert "fp32:fc" in caught.value.hint
    bundle = build(weights=tmp_path / "huge.safetensors", precisions=["int8"])
    assert [file.file for file in bundle.manifest.onnx] == ["onnx/int8.onnx", "onnx/int8-cpu.onnx"]


def test_an_artefact_that_fails_here_is_left_out_here_and_ends_nothing(build, monkeypatch, caplog):
    monkeypatch.setitem(__import__("edgeresnext.spec", fromlist=["x"]).MIN_SNR_DB, "bf16", 99.0)
    if registry.get("openvino").unavailable("bf16"):
        pytest.skip(registry.get("openvino").unavailable("bf16"))
    bundle = build(precisions=["fp32"])
    on_other_machines = {artifact.name for artifact in bundle.manifest.artifacts}
    assert on_other_machines == {"openvino-bf16", "openvino-fp32", "onnxruntime-fp32", "torch-fp32"}
    assert {one.artifact for one in bundle.manifest.selection.timings} == on_other_machines - {"openvino-bf16"}
    assert "openvino-bf16 is left out on this machine: signal-to-noise of the logits is" in caplog.text


def test_the_class_count_is_inferred_from_fc(build, tmp_path, digit_weights):
    state = load_file(digit_weights)
    state["fc.weight"], state["fc.bias"] = state["fc.weight"][:7].clone(), state["fc.bias"][:7].clone()
    save_file(state, tmp_path / "seven.safetensors")
    bundle = build(weights=tmp_path / "seven.safetensors", precisions=["fp32"])
    assert bundle.manifest.model.classes == 7
    assert bundle.labels() == tuple("0123456")


def test_other_preprocessing_travels_with_the_bundle(build):
    bundle = build(
        preprocess=Preprocess(resize_px=40, crop_px=36, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), precisions=["fp32"]
    )
    assert bundle.golden().images.shape[1:] == (36, 36, 3)
    with edgeresnext.load(bundle.path) as classifier:
        assert classifier.preprocess.crop_px == 36


def test_a_failed_build_leaves_the_old_bundle_as_it_was(build, built, tmp_path, digit_weights):
    old = bundles.read(shutil.copytree(built.path, tmp_path / "out"))
    before = (old.path / "manifest.json").read_bytes()
    state = load_file(digit_weights)
    state["layer1.0.bn1.weight"] = torch.full_like(state["layer1.0.bn1.weight"], 1e6)  # does not fit float16
    save_file(state, tmp_path / "huge.safetensors")
    with pytest.raises(AccuracyError, match="float16"):
        build(weights=tmp_path / "huge.safetensors", precisions=["fp32", "fp16"], calibration=None)
    assert (old.path / "manifest.json").read_bytes() == before
    assert not list(tmp_path.glob(".out.partial-*"))


def test_a_file_too_far_from_pytorch_is_not_published(build, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("edgeresnext.spec", fromlist=["x"]).MIN_SNR_DB, "int8", 99.0)
    with pytest.raises(AccuracyError, match=r"onnx/int8\.onnx is too far .* below 99 dB"):
        build(precisions=["int8"])
    assert not (tmp_path / "out").exists()


def test_an_interrupted_build_leaves_nothing_and_progress_counts_every_image_until_then(build, tmp_path):
    seen = []

    def interrupt(stage, done, total):
        if stage == "calibrate":
            seen.append((done, total))
            if done == total:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(progress=interrupt)
    assert seen == [(8, 16), (16, 16)]
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "resnext20-8x4d"}, RequestError, "Did you mean 'resnext20_8x4d'"),
        ({"precisions": ["int4"]}, RequestError, "unknown precision 'int4'"),
        ({"precisions": ["bf16"]}, RequestError, "run from fp32"),
        ({"precisions": []}, RequestError, "no precision"),
        ({"targets": ["gpu"]}, RequestError, "unknown target 'gpu'"),
        ({"targets": ["here"]}, NotInstalledError, "needs an NVIDIA GPU with a driver"),
        ({"targets": ["rtx20"], "precisions": ["int8"]}, RequestError, "'rtx20' cannot have int8"),
        ({"targets": ["rtx30+jetson-orin"]}, RequestError, "joins what cannot share an engine"),
        ({"engine_options": EngineOptions(batch=(4, 1, 8))}, RequestError, "batch profile 4:1:8 is impossible"),
        ({"engine_options": EngineOptions(optimization_level=9)}, RequestError, "optimisation level is 9"),
        ({"targets": []}, RequestError, "no target"),
        ({"calibration": None}, RequestError, "INT8 needs calibration images"),
        ({"weights": None}, RequestError, "either weights or random weights"),
        ({"random_weights": True}, RequestError, "not both"),
        ({"samples": 3}, RequestError, "3 calibration samples are too few"),
        ({"seed": -1}, RequestError, "seed is -1"),
        ({"precisions": ["fp16"]}, RequestError, "target 'cpu' runs nothing in fp16"),
        ({"method": "entropyy"}, RequestError, "unknown calibration method"),
        ({"calibration": "nowhere"}, DataError, "does not exist"),
        ({"weights": "none.pth"}, CheckpointError, "does not exist"),
        ({"model": "resnet50"}, CheckpointError, "These are weights of resnext20_8x4d"),
        ({"labels": "none.txt"}, DataError, "cannot read labels"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_requests_are_refused_before_anything_is_written(build, tmp_path, changes, error, message):
    with pytest.raises(error) as caught:
        build(**changes)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_labels_of_another_count_are_refused(build, tmp_path):
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="2 labels for a checkpoint of 10 classes"):
        build(labels=tmp_path / "labels.txt")


def test_too_few_readable_images_are_refused(build, tmp_path, digit_folders):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(digit_folders["calibration"].glob("3/*.png"))[:7]:
        shutil.copy(path, few)
    with pytest.raises(DataError, match="7 readable images"):
        build(calibration=few)


def test_an_output_that_is_something_else_is_refused(build, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(BundleError, match="left alone"):
        build()


def test_building_without_torch_names_the_extra(build, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torch" else find(name, *a))
    with pytest.raises(NotInstalledError, match="building needs PyTorch") as caught:
        build()
    assert "edgeresnext[build]" in caught.value.hint


def test_verify_replays_every_artefact(built):
    checks = edgeresnext.verify(built.path)
    assert {check.artifact for check in checks} == {artifact.name for artifact in built.manifest.artifacts}
    assert all(check.status in ("ok", "skipped") for check in checks)


def test_verify_catches_logits_that_are_not_the_recorded_ones(bundle_copy):
    golden = bundles.read(bundle_copy).golden()
    np.savez(bundle_copy / "reference.npz", images=golden.images, logits=golden.logits[::-1])
    manifest = bundles.read(bundle_copy).manifest
    altered = msgspec.structs.replace(manifest, files=bundles.list_files(bundle_copy))
    bundles.write_manifest(bundle_copy, altered)
    checks = edgeresnext.verify(bundle_copy)
    assert {check.status for check in checks} <= {"failed", "skipped"}
    assert all(check.reason for check in checks)


@pytest.mark.parametrize("name", ["cifar", "torchvision-v2"])
def test_named_preprocessings_are_values(name):
    assert PREPROCESS[name].crop_px <= PREPROCESS[name].resize_px
