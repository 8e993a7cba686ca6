"""What is read of a bundle: what is verified is what runs, and whatever is wrong is said."""

import hashlib
import io
import json
import math
import os
import shutil
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext.errors import BundleError, EdgeResNeXtError, RequestError


def files_of(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def edit_manifest(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    write_raw(path, json.dumps(manifest).encode())


def write_raw(path, raw):
    """Write a manifest as somebody would who knows of its digest."""
    (path / "manifest.json").write_bytes(raw)
    (path / "manifest.sha256").write_text(f"{hashlib.sha256(raw).hexdigest()}  manifest.json\n")


def test_the_manifest_lists_every_other_file_with_its_digest(built):
    on_disk = set(files_of(built.path)) - {"manifest.json", "manifest.sha256"}
    assert set(built.manifest.files) == on_disk
    for name in on_disk:
        assert built.file(name).is_file()
    assert {"labels.txt", "weights.safetensors", "reference.npz", "ranges.json", "onnx/int8-cpu.onnx"} <= on_disk


def test_the_manifest_survives_a_round_trip(built):
    raw = msgspec.json.encode(built.manifest)
    assert msgspec.json.decode(raw, type=type(built.manifest)) == built.manifest


def test_an_altered_file_is_refused_before_it_is_used(bundle_copy):
    target = bundle_copy / "onnx" / "fp32.onnx"
    raw = bytearray(target.read_bytes())
    raw[len(raw) // 2] ^= 1
    target.write_bytes(raw)
    with pytest.raises(BundleError, match="altered"):
        bundles.read(bundle_copy).file("onnx/fp32.onnx")


@pytest.mark.parametrize("at", [0, 100, -10])
def test_damage_of_any_byte_of_the_manifest_is_found(bundle_copy, at):
    raw = bytearray((bundle_copy / "manifest.json").read_bytes())
    raw[at] ^= 1
    (bundle_copy / "manifest.json").write_bytes(raw)
    with pytest.raises(BundleError, match=r"its SHA-256 is not that in manifest\.sha256"):
        bundles.read(bundle_copy)
    (bundle_copy / "manifest.sha256").write_bytes(b"")  # damaged itself
    with pytest.raises(BundleError):
        bundles.read(bundle_copy)


def test_a_bundle_of_a_release_without_that_digest_is_read(bundle_copy):
    (bundle_copy / "manifest.sha256").unlink()
    assert bundles.read(bundle_copy).manifest.model.name == "resnext20_8x4d"


@pytest.mark.parametrize("kind", ["link", "folder that is a link", "pipe", "folder"])
def test_only_files_inside_the_bundle_are_read(bundle_copy, tmp_path, kind):
    file = bundle_copy / "onnx" / "fp32.onnx"
    outside = tmp_path / "outside"
    outside.mkdir()
    file.rename(outside / file.name)
    if kind == "link":
        file.symlink_to(outside / file.name)
    elif kind == "folder that is a link":
        shutil.rmtree(file.parent)
        file.parent.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    with pytest.raises(BundleError, match=r"onnx/fp32\.onnx"):
        bundles.read(bundle_copy).content("onnx/fp32.onnx")


def test_a_manifest_that_is_a_pipe_does_not_make_anybody_wait(bundle_copy):
    (bundle_copy / "manifest.json").unlink()
    os.mkfifo(bundle_copy / "manifest.json")
    with pytest.raises(BundleError, match=r"cannot read .*it is a pipe"):
        bundles.read(bundle_copy)


def test_deep_nesting_is_damage(bundle_copy):
    write_raw(bundle_copy, b'{"schema": 3, "created_with": ' + b"[" * 100_000)
    with pytest.raises(BundleError, match="damaged"):
        bundles.read(bundle_copy)


def test_what_is_verified_is_what_runs(bundle_copy, monkeypatch):
    """The file is exchanged between the check of its digest and the runtime's first look."""
    from edgeresnext.backends import registry
    from edgeresnext.runtime.classifier import open_artifact

    bundle = bundles.read(bundle_copy)
    artifact = next(one for one in bundle.artifacts() if one.name == "onnxruntime-fp32")
    backend = registry.get("onnxruntime")
    opened = backend.open

    def exchanged(file, *rest, **options):
        file.write_bytes(b"something else")
        return opened(file, *rest, **options)

    monkeypatch.setattr(backend, "open", exchanged)
    golden = bundle.golden()
    session = open_artifact(bundle, artifact)
    assert golden.compare(session.run(golden.images)).max_error < 1e-4
    session.close()


def test_what_the_manifest_calls_a_file_does_not_keep_it_from_being_looked_at(bundle_copy):
    import onnx

    from edgeresnext.runtime.classifier import open_artifact

    manifest = bundles.read(bundle_copy).manifest
    model = onnx.load(bundle_copy / "onnx" / "fp32.onnx")
    model.graph.node[-1].op_type = "Sinh"
    (bundle_copy / "onnx" / "fp32.bin").write_bytes(model.SerializeToString())
    renamed = tuple(
        msgspec.structs.replace(one, file="onnx/fp32.bin") if one.name == "onnxruntime-fp32" else one
        for one in manifest.artifacts
    )
    bundles.write_manifest(
        bundle_copy, msgspec.structs.replace(manifest, artifacts=renamed, files=bundles.list_files(bundle_copy))
    )
    bundle = bundles.read(bundle_copy)
    artifact = next(one for one in bundle.manifest.artifacts if one.name == "onnxruntime-fp32")
    with pytest.raises(BundleError, match="operator Sinh"):
        open_artifact(bundle, artifact)


def test_a_truncated_or_missing_file_is_named(bundle_copy):
    target = bundle_copy / "onnx" / "fp32.onnx"
    target.write_bytes(target.read_bytes()[:-10])
    with pytest.raises(BundleError, match=r"fp32\.onnx' has [\d,]+ bytes; the manifest says"):
        bundles.read(bundle_copy).file("onnx/fp32.onnx")
    target.unlink()
    with pytest.raises(BundleError, match=r"fp32\.onnx' of the bundle is missing"):
        bundles.read(bundle_copy).file("onnx/fp32.onnx")


def test_a_damaged_reference_whose_digest_matches_is_refused(bundle_copy):
    for content in (b"", b"rubbish", (bundle_copy / "weights.safetensors").read_bytes()):
        (bundle_copy / "reference.npz").write_bytes(content)
        edit_manifest(bundle_copy, lambda m: m.update(files=msgspec.to_builtins(bundles.list_files(bundle_copy))))
        with pytest.raises(BundleError, match=r"reference\.npz' is damaged"):
            bundles.read(bundle_copy).golden()
    np.savez(
        bundle_copy / "reference.npz", images=np.zeros((2, 8, 8, 3), np.uint8), logits=np.zeros((2, 10), np.float32)
    )
    edit_manifest(bundle_copy, lambda m: m.update(files=msgspec.to_builtins(bundles.list_files(bundle_copy))))
    with pytest.raises(BundleError, match="not the model's"):
        bundles.read(bundle_copy).golden()


def archived(compression, shape, real=0):
    """An archive as np.savez writes it, whose images are said to have this shape."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, kind, size in (("images", "|u1", shape), ("logits", "<f4", (shape[0], 10))):
            header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {size}, }}".ljust(117) + "\n"
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00v\x00" + header.encode() + bytes(real))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda golden: archived(zipfile.ZIP_DEFLATED, (1000, 32, 32, 3), 3_072_000), "it is compressed"),
        (lambda golden: archived(zipfile.ZIP_STORED, (10**12, 32, 32, 3)), "is damaged"),
        (lambda golden: saved(golden.images, golden.logits * np.nan), "no finite numbers"),
        (lambda golden: saved(golden.images, golden.logits.astype("c8")), "logits complex64"),
        (lambda golden: saved(golden.images.astype("f4"), golden.logits), "images float32"),
    ],
    ids=["a bomb", "a shape of petabytes", "NaN", "complex logits", "float images"],
)
def test_golden_images_that_are_none_are_refused(bundle_copy, content, message):
    (bundle_copy / "reference.npz").write_bytes(content(bundles.read(bundle_copy).golden()))
    edit_manifest(bundle_copy, lambda m: m.update(files=msgspec.to_builtins(bundles.list_files(bundle_copy))))
    with pytest.raises(BundleError, match=message):
        bundles.read(bundle_copy).golden()


def saved(images, logits):
    """The content of an archive with these arrays."""
    file = io.BytesIO()
    np.savez(file, images=images, logits=logits)
    return file.getvalue()


def test_a_manifest_without_artefacts_is_refused(bundle_copy):
    edit_manifest(bundle_copy, lambda m: m.update(artifacts=[]))
    with pytest.raises(BundleError, match="has no artefact"):
        bundles.read(bundle_copy)


def test_an_artefact_of_a_backend_that_this_release_lacks_is_skipped(bundle_copy):
    edit_manifest(bundle_copy, lambda m: m["artifacts"][0].update(backend="future"))
    checks = {check.artifact: check for check in edgeresnext.verify(bundle_copy)}
    (skipped,) = (check for name, check in checks.items() if name.startswith("future-"))
    assert (skipped.status, skipped.reason) == ("skipped", "this release has no backend 'future'")


@pytest.mark.parametrize("name", ["../secret", "a\0b", "/etc/passwd", "a/../../b", "..\\x", "C:x", ""])
def test_names_that_leave_the_bundle_are_refused(bundle_copy, name):
    edit_manifest(bundle_copy, lambda m: m["files"].update({name: {"bytes": 1, "sha256": "0"}}))
    with pytest.raises(BundleError, match="outside the bundle"):
        bundles.read(bundle_copy)


def test_an_artefact_that_the_manifest_does_not_list_is_refused(bundle_copy):
    edit_manifest(bundle_copy, lambda m: m["artifacts"][0].update(file="../../evil.onnx"))
    with pytest.raises(BundleError, match=r"does not list \.\./\.\./evil\.onnx"):
        bundles.read(bundle_copy)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "damaged"),
        (b"{}", "damaged"),
        (b'{"schema": 1}', "damaged"),
        (b'{"schema": 99}', "schema 99, which an unnamed release wrote"),
        (b"\xff", "damaged"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_why(bundle_copy, raw, message):
    write_raw(bundle_copy, raw)
    with pytest.raises(BundleError, match=message):
        bundles.read(bundle_copy)


OLD = Path(__file__).parents[1] / "data" / "schema-1"
"""What releases before schema 2 wrote: a manifest, and ranges from before there were several methods."""


def test_a_manifest_of_schema_1_is_read():
    manifest = bundles.read(OLD).manifest
    assert (manifest.schema, manifest.model.name) == (1, "resnext20_8x4d")
    assert [file.saturated for file in manifest.onnx] == [None] * len(manifest.onnx)
    assert manifest.selection.conditions == {}  # so that `load` times everything anew


def test_an_engine_built_with_an_option_that_is_gone_is_read(bundle_copy):
    options = {"batch": [1, 1, 8], "gone": "calibration/"}
    engine = {
        "release": "10.3.0.0", "compute_capabilities": ["8.7"], "onnx": "onnx/fp32.onnx", "onnx_sha256": "", "options": options,
        "built_s": 1.0, "platform": "",
    }  # fmt: skip
    edit_manifest(bundle_copy, lambda m: m["artifacts"][0].update(engine=engine))
    assert bundles.read(bundle_copy).manifest.artifacts[0].engine.options.batch == (1, 1, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 9}, r"has schema 9, which edgeresnext 7\.8\.9 wrote; this release \(.*\) reads 1 to 3"),
        ({"layers": 3}, r"which edgeresnext 7\.8\.9 wrote, is damaged or does not fit this release.*`layers`"),
        ({"macs": None}, r"which edgeresnext 7\.8\.9 wrote, is damaged or does not fit this release.*\$\.macs"),
    ],
)
def test_a_manifest_of_another_release_is_refused_by_the_name_of_that_release(bundle_copy, change, message):
    edit_manifest(bundle_copy, lambda m: m.update({"created_with": {"edgeresnext": "7.8.9"}} | change))
    with pytest.raises(BundleError, match=message) as caught:
        bundles.read(bundle_copy)
    assert "install the one that wrote it" in caught.value.hint


def test_ranges_of_another_release_are_refused_by_its_name(tmp_path):
    with pytest.raises(BundleError, match=r"which edgeresnext 0\.1\.0 wrote, holds no ranges of this release"):
        bundles.read_ranges(OLD / "ranges.json")
    (tmp_path / "ranges.json").write_bytes((OLD / "ranges.json").read_bytes())
    with pytest.raises(BundleError, match="which an unnamed release wrote"):  # no manifest beside it
        bundles.read_ranges(tmp_path / "ranges.json")


def test_paths_that_are_no_bundle_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, message in ((tmp_path, "no manifest"), (tmp_path / "file", "is a file"), (tmp_path / "x", "not exist")):
        with pytest.raises(BundleError, match=message):
            bundles.read(path)


def test_labels_of_another_count_are_refused(bundle_copy):
    (bundle_copy / "labels.txt").write_text("a\nb\n")
    edit_manifest(bundle_copy, lambda m: m.update(files=msgspec.to_builtins(bundles.list_files(bundle_copy))))
    with pytest.raises(BundleError, match="2 labels for 10 classes"):
        bundles.read(bundle_copy).labels()


def test_a_bundle_s_labels_are_lines_whatever_they_look_like(bundle_copy):
    labels = ("[", *(f'"{index}",' for index in range(8)), "]")
    (bundle_copy / "labels.txt").write_text("\n".join(labels) + "\n")
    edit_manifest(bundle_copy, lambda m: m.update(files=msgspec.to_builtins(bundles.list_files(bundle_copy))))
    assert bundles.read(bundle_copy).labels() == labels


def test_artefacts_are_ranked_by_the_recorded_measurement(built):
    timings = {timing.artifact: timing.latency_s for timing in built.manifest.selection.timings}
    ranked = [timings.get(artifact.name, math.inf) for artifact in built.artifacts()]  # bf16 is not timed everywhere
    assert ranked == sorted(ranked)
    assert len(timings) >= 4
    assert [a.name for a in built.artifacts(backend="torch")] == ["torch-fp32"]
    with pytest.raises(RequestError, match="openvno"):
        built.artifacts(backend="openvno")
    with pytest.raises(RequestError, match="has no int8 artefact for torch"):
        built.artifacts(backend="torch", precision="int8")


WRONG = (None, True, -1, 10**400, 1.5, "", "../x", "x" * 100_000, [], [[]], {}, {"x": {}}, [None])


def fields_of(value, kind=()):
    """Each field of a JSON value, one of those that differ in an index or name alone: its kind, and a setter."""
    pairs = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for name, inner in list(pairs):
        generic = isinstance(value, list) or len(value) > 30 or "/" in str(name) or "." in str(name)
        below = (*kind, "*" if generic else name)
        yield below, lambda new, name=name: value.__setitem__(name, new), inner
        yield from fields_of(inner, below)


def test_whatever_stands_in_a_field_of_the_manifest_nothing_but_our_errors_come_of_it(built, tmp_path):
    shutil.copytree(built.path, tmp_path / "b")
    manifest = json.loads((built.path / "manifest.json").read_text())
    tried, refused, seen = 0, 0, set()
    for kind, put, before in fields_of(manifest):
        if kind in seen:
            continue
        seen.add(kind)
        for wrong in WRONG:
            put(wrong)
            write_raw(tmp_path / "b", json.dumps(manifest).encode())
            tried += 1
            try:
                bundle = bundles.read(tmp_path / "b")
                bundle.artifacts()
                bundle.ranges()
                bundle.labels()
            except EdgeResNeXtError:
                refused += 1
        put(before)
    assert len(seen) > 60
    assert refused > tried / 2
