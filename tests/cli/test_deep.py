"""What `verify --deep` finds in bundles whose digests agree: parts that do not belong together."""

import json

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext.model.catalogue import PREPROCESS
from edgeresnext.spec import Artifact, CheckpointOptions, Engine, EngineOptions


def written_again(path, **changes):
    """Let a bundle's manifest agree with its files, as somebody would who knows of the digests."""
    manifest = bundles.read(path).manifest
    bundles.write_manifest(path, msgspec.structs.replace(manifest, **{"files": bundles.list_files(path)} | changes))


def found(path):
    """What the checks say, by the part's name."""
    return {check.artifact: check for check in edgeresnext.verify(path, deep=True)}


def failed(path):
    return {name: check.reason for name, check in found(path).items() if check.status == "failed"}


def scaled(path, tensor, by):
    """Change one constant of an ONNX file by a factor that no golden image tells."""
    model = onnx.load(path)
    (one,) = (one for one in model.graph.initializer if one.name == tensor)
    array = np.array(numpy_helper.to_array(one))
    array.flat[0] *= by
    one.CopyFrom(numpy_helper.from_array(array, tensor))
    onnx.save(model, path)


def test_a_bundle_as_it_was_built_is_whole(built):
    checks = found(built.path)
    others = {name for name, check in checks.items() if check.status != "ok"}
    assert others <= {"openvino-bf16"}  # skipped where the CPU has no bfloat16
    parts = {"files", "weights.safetensors", "ranges.json", *(file.file for file in built.manifest.onnx)}
    assert set(list(checks)[: len(parts)]) == parts
    assert parts <= checks.keys()
    for file in built.manifest.onnx:
        if file.plan.inputs:
            assert checks[file.file].fidelity.snr_db == pytest.approx(file.fidelity.snr_db, abs=0.01)


def test_a_file_that_nobody_vouches_for_is_found(bundle_copy):
    (bundle_copy / "onnx" / "fp32.onnx.data").write_bytes(b"x")
    (bundle_copy / "link").symlink_to("/etc")
    assert failed(bundle_copy) == {"files": "the manifest does not list link, onnx/fp32.onnx.data"}


def test_one_weight_of_the_onnx_file_that_no_golden_image_tells_is_found(bundle_copy):
    scaled(bundle_copy / "onnx" / "fp32.onnx", "layer2.0.conv1.weight", 1.001)
    written_again(bundle_copy)
    assert not any(check.status == "failed" for check in edgeresnext.verify(bundle_copy))
    assert failed(bundle_copy) == {
        "onnx/fp32.onnx": "its weights are not those of weights.safetensors: layer2.0.conv1.weight"
    }


def test_other_weights_than_the_files_were_made_of_are_found(bundle_copy):
    state = load_file(bundle_copy / "weights.safetensors")
    name = next(name for name in state if name.endswith("fc.weight"))
    save_file(state | {name: state[name] * 1.01}, bundle_copy / "weights.safetensors")
    written_again(bundle_copy)
    reasons = failed(bundle_copy)
    assert "of the largest" in reasons["weights.safetensors"]
    assert reasons["ranges.json"] == "they were taken with other weights"
    assert "its weights are not those" in reasons["onnx/fp16.onnx"]
    assert reasons["torch-fp32"]


def test_what_the_manifest_says_of_an_int8_file_is_computed_again(bundle_copy):
    manifest = bundles.read(bundle_copy).manifest
    files = tuple(
        msgspec.structs.replace(file, fidelity=msgspec.structs.replace(file.fidelity, snr_db=20.0))
        if file.plan.inputs else file
        for file in manifest.onnx
    )  # fmt: skip
    written_again(bundle_copy, onnx=files, parameters=1)
    reasons = failed(bundle_copy)
    assert all("the manifest says 20.0 dB of it" in reasons[file.file] for file in files if file.plan.inputs)
    assert reasons["weights.safetensors"].startswith("the manifest's parameters and MACs are not")


def test_an_engine_of_another_file_is_found(bundle_copy):
    (bundle_copy / "engines").mkdir()
    plan = (0x74727466).to_bytes(4, "little") + bytes(20) + bytes((10, 3, 0, 0)) + b"plan"
    (bundle_copy / "engines" / "x.engine").write_bytes(plan)
    engine = Engine(
        release="10.3.0.26", compute_capabilities=("8.9",), onnx="onnx/fp32.onnx", onnx_sha256="0" * 64,
        options=EngineOptions(), built_s=1.0, platform="linux-x86_64",
    )  # fmt: skip
    artifact = Artifact(backend="tensorrt", precision="fp32", target="sm89", file="engines/x.engine", engine=engine)
    artifacts = bundles.read(bundle_copy).manifest.artifacts
    written_again(bundle_copy, artifacts=(*artifacts, artifact))
    assert failed(bundle_copy) == {"engines/x.engine": "it was built from another onnx/fp32.onnx"}
    other = msgspec.structs.replace(artifact, engine=msgspec.structs.replace(engine, release="10.8.0.1"))
    written_again(bundle_copy, artifacts=(*artifacts, other))
    assert failed(bundle_copy)["engines/x.engine"].startswith(
        "its header says tensorrt 10.3.0.0, the manifest tensorrt 10.8"
    )


def test_without_pytorch_what_needs_it_is_skipped(built, monkeypatch):
    monkeypatch.setattr(
        "edgeresnext.extras._missing", lambda packages: (packages[0], "is") if "torch" in packages else ("", "")
    )
    checks = found(built.path)
    assert checks["files"].status == checks["ranges.json"].status == "ok"
    assert checks["onnx/int8.onnx"].status == "skipped"
    assert "edgeresnext[build]" in checks["onnx/int8.onnx"].reason


def test_the_command_shows_the_parts_before_the_artefacts(run, built, bundle_copy):
    code, out, _ = run("verify", "--deep", built.path)
    assert code == 0
    assert out.index("onnx/int8-cpu.onnx") < out.index("onnxruntime-fp32")
    (bundle_copy / "more").touch()
    code, out, err = run("verify", "--deep", bundle_copy, "--json")
    assert code == 1
    assert json.loads(out)[0]["reason"] == "the manifest does not list more"
    assert "files failed" in err


SHALLOW = {"preact_resnet110": (1, 1, 1), "seresnext50_32x4d": (1, 1, 1, 1), "resnet50d": (1, 1, 1, 1)}


@pytest.mark.parametrize(
    "name",
    [
        "resnet20", "preact_resnet110", "ensemble",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("seresnext50_32x4d", "resnet50d")),
    ],
)  # fmt: skip
def test_every_kind_of_network_is_whole_as_it_was_built(digit_weights, tmp_path, name):
    if name == "ensemble":
        given = {"model": [digit_weights, digit_weights]}
    else:
        options = CheckpointOptions(input_px=(33, 47))  # where halves are rounded
        options = msgspec.structs.replace(options, depths=SHALLOW[name]) if name in SHALLOW else options
        given = {"model": name, "random_weights": True, "checkpoint_options": options}
    bundle = edgeresnext.build(**given, output=tmp_path / "b", precisions=["fp32"], preprocess=PREPROCESS["digits"])
    assert failed(bundle.path) == {}
