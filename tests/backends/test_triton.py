"""Exports for Triton: read here by Triton's own schema, and run by the runtimes that it has."""

import msgspec
import numpy as np
import onnxruntime
import pytest
from standins import engines as on_standins
from standins.triton_schema import parse

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext.errors import BundleError, InputError, RequestError
from edgeresnext.files import digest
from edgeresnext.spec import Artifact, EngineOptions


def exported(bundle, repository, **options):
    """Export, and return the record, the folder of the model and its configuration."""
    (found,) = edgeresnext.export(bundle.path, triton=repository, **options)
    folder = repository / (options.get("name") or bundle.path.name)
    return found, folder, parse((folder / "config.pbtxt").read_text())


def enum(message, field):
    """The name of a field's value."""
    kind = message.DESCRIPTOR.fields_by_name[field].enum_type
    return kind.values_by_number[getattr(message, field)].name


def with_engine(bundle, **changes):
    """The bundle with its engine changed, as if it had been built so."""
    manifest = bundle.manifest
    changed = [
        msgspec.structs.replace(one, engine=msgspec.structs.replace(one.engine, **changes)) if one.engine else one
        for one in manifest.artifacts
    ]
    return on_standins.written(bundle.path, msgspec.structs.replace(manifest, artifacts=tuple(changed)))


@pytest.fixture
def with_tensorrt(lean, install):
    """A bundle with an engine of TensorRT, and a GPU that runs it."""
    install(release="10.3")
    return on_standins.compiled(lean, "fp16")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_model_is_what_triton_s_schema_and_onnx_runtime_expect(built, tmp_path, precision):
    found, folder, config = exported(built, tmp_path / "models", precision=precision)
    assert folder.is_dir()
    assert (config.name, config.backend, config.max_batch_size) == (folder.name, "onnxruntime", 8)
    (version,) = (path for path in folder.iterdir() if path.name.isdecimal())
    model = version / config.default_model_filename
    assert digest(model) == built.manifest.files[found.source].sha256
    session = onnxruntime.InferenceSession(model)
    for one, other, types in (
        (config.input, session.get_inputs(), {"TYPE_UINT8": "tensor(uint8)"}),
        (config.output, session.get_outputs(), {"TYPE_FP32": "tensor(float)"}),
    ):
        assert [(x.name, types[enum(x, "data_type")], list(x.dims)) for x in one] == [
            (x.name, x.type, x.shape[1:]) for x in other
        ]
    assert (folder / config.output[0].label_filename).read_text().splitlines() == list(built.labels())
    assert [enum(one, "kind") for one in config.instance_group] == ["KIND_CPU"]
    assert found.replay.difference == 0


def test_the_model_warms_up_with_a_golden_image_alone_and_in_the_largest_batch(built, tmp_path):
    _, folder, config = exported(built, tmp_path / "models", batch=5)
    assert [one.batch_size for one in config.model_warmup] == [1, 5]
    golden = built.golden().images[0]
    for one in config.model_warmup:
        (name,) = one.inputs
        image = one.inputs[name]
        assert (name, enum(image, "data_type"), list(image.dims)) == ("images", "TYPE_UINT8", [32, 32, 3])
        raw = (folder / "warmup" / image.input_data_file).read_bytes()
        assert np.array_equal(np.frombuffer(raw, np.uint8).reshape(32, 32, 3), golden)


def test_requests_are_gathered_where_batches_may_have_more_than_one_image(built, tmp_path):
    for batch, scheduling in ((4, "dynamic_batching"), (1, None)):
        _, _, config = exported(built, tmp_path / "models", batch=batch)
        assert config.WhichOneof("scheduling_choice") == scheduling
        assert config.max_batch_size == batch


def test_the_fastest_one_is_served_unasked(built, tmp_path):
    timed = {one.artifact: one.latency_s for one in built.manifest.selection.timings}
    fastest = min((name for name in timed if name.startswith("onnxruntime")), key=timed.get)
    assert exported(built, tmp_path / "models")[0].name == fastest


def test_an_engine_becomes_a_plan_byte_for_byte(with_tensorrt, tmp_path):
    found, folder, config = exported(with_tensorrt, tmp_path / "models", name="digits")
    engine = with_tensorrt.path / found.source
    assert found.name == "sm89-fp16"
    assert (folder / "1" / "model.plan").read_bytes() == engine.read_bytes()
    assert (config.backend, config.default_model_filename, config.max_batch_size) == ("tensorrt", "model.plan", 4)
    assert [(enum(one, "kind"), len(one.secondary_devices)) for one in config.instance_group] == [("KIND_GPU", 0)]
    assert found.replay.difference == 0
    (note,) = found.notes
    assert "compute capability 8.9" in note
    assert "with TensorRT 10.3" in note
    assert "TensorRT 10.3" in (folder / "config.pbtxt").read_text()


def test_an_engine_that_does_not_run_here_is_exported_and_said_to_be_unproven(with_tensorrt, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeresnext.machine.gpu.detect", lambda: None)
    found, folder, _ = exported(with_tensorrt, tmp_path / "models")
    assert found.replay is None
    assert found.notes[0].startswith("not replayed here: no NVIDIA GPU with a driver on this machine")
    assert (folder / "1" / "model.plan").exists()


def test_engines_for_a_dla_and_for_later_releases_say_so(with_tensorrt, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeresnext.machine.gpu.detect", lambda: None)
    options = EngineOptions(dla_core=1, batch=(1, 1, 1), version_compatible=True)
    found, _, config = exported(with_engine(with_tensorrt, options=options), tmp_path / "models")
    (group,) = config.instance_group
    assert [(enum(one, "kind"), one.device_id) for one in group.secondary_devices] == [("KIND_NVDLA", 1)]
    assert any("--backend-config=tensorrt,version-compatible=true" in note for note in found.notes)


@pytest.mark.parametrize(
    ("batch", "asked", "message"),
    [
        ((2, 2, 4), None, "takes 2 to 4 images a run, and Triton runs single ones too"),
        ((1, 2, 4), 8, "takes 4 images a run at most, not 8"),
    ],
)
def test_batches_that_an_engine_does_not_take_are_refused(with_tensorrt, tmp_path, batch, asked, message):
    bundle = with_engine(with_tensorrt, options=EngineOptions(batch=batch))
    with pytest.raises(RequestError, match=message):
        exported(bundle, tmp_path / "models", batch=asked)


def test_engines_of_tensorrt_rtx_are_refused_with_the_way_out(bundle_copy, tmp_path):
    (bundle_copy / "engines").mkdir()
    (bundle_copy / "engines" / "rtx40-fp16.engine").write_bytes(b"vtrt")
    manifest = bundles.read(bundle_copy).manifest
    engine = Artifact(backend="tensorrt_rtx", precision="fp16", target="rtx40", file="engines/rtx40-fp16.engine")
    manifest = msgspec.structs.replace(manifest, artifacts=(engine, *manifest.artifacts))
    bundle = on_standins.written(bundle_copy, manifest)
    with pytest.raises(RequestError, match="which Triton has no backend for") as caught:
        exported(bundle, tmp_path / "models", target="rtx40")
    assert "--backend tensorrt" in caught.value.hint
    assert exported(bundle, tmp_path / "models")[0].name.startswith("onnxruntime")


def test_an_engine_that_is_not_what_the_manifest_says_never_reaches_triton(with_tensorrt, tmp_path):
    file = with_tensorrt.path / "engines" / "sm89-fp16.engine"
    file.write_bytes(b"vtrt" + file.read_bytes()[4:])
    with pytest.raises(BundleError, match="altered"):
        exported(with_tensorrt, tmp_path / "models")
    bundle = on_standins.written(with_tensorrt.path, with_tensorrt.manifest)  # and whoever altered it, signed it
    with pytest.raises(InputError, match="is an engine for tensorrt_rtx, not tensorrt"):
        exported(bundle, tmp_path / "models")
    assert not (tmp_path / "models" / bundle.path.name).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "has no fp16 artefact that Triton serves"),
        ({"precision": "bf16"}, "has no bf16 artefact that Triton serves"),
        ({"precision": "int4"}, "unknown precision 'int4'"),
        ({"target": "rtx40"}, r"unknown target of this bundle 'rtx40'"),
        ({"name": "a/b"}, "'a/b' is no name for a model"),
        ({"name": ".hidden"}, "is no name for a model"),
        ({"name": ""}, "is no name for a model"),
        ({"batch": -1}, "batch is -1"),
    ],
)
def test_what_triton_cannot_serve_is_refused(built, tmp_path, options, message):
    with pytest.raises(RequestError, match=message):
        exported(built, tmp_path / "models", **options)
    assert not (tmp_path / "models").exists()


def test_a_bundle_with_nothing_for_triton_is_refused(lean, tmp_path):
    with pytest.raises(RequestError, match="has nothing that Triton serves: it has torch-fp32"):
        exported(bundles.read(lean), tmp_path / "models")


def test_other_models_of_the_repository_stay(built, tmp_path):
    exported(built, tmp_path / "models", name="one")
    exported(built, tmp_path / "models", name="two", precision="int8")
    exported(built, tmp_path / "models", name="one", precision="int8")
    assert sorted(path.name for path in (tmp_path / "models").iterdir() if path.is_dir()) == ["one", "two"]
    (tmp_path / "models" / "theirs").mkdir()
    (tmp_path / "models" / "theirs" / "config.pbtxt").write_text("name: 'theirs'")
    (tmp_path / "file").write_text("")
    for repository, name, message in (
        (tmp_path / "models", "theirs", "something other than an export for Triton"),
        (tmp_path / "file", "one", "is a file, not a model repository"),
        (built.path, "one", "lies in the bundle"),
    ):
        with pytest.raises(InputError, match=message):
            exported(built, repository, name=name)


def test_both_programs_are_served_at_once_in_places_of_their_own(built, tmp_path):
    with pytest.raises(RequestError, match="both exports would be"):
        edgeresnext.export(built.path, triton=tmp_path, name="here", deepstream=tmp_path / "here")
    first, second = edgeresnext.export(built.path, triton=tmp_path, name="here", deepstream=tmp_path / "there")
    assert (first.tool, second.tool) == ("Triton", "DeepStream")
    with pytest.raises(RequestError, match="nothing to export to"):
        edgeresnext.export(built.path)


def test_the_schema_refuses_what_triton_does_not_know():
    from google.protobuf.text_format import ParseError

    for text in ('nmae: "x"', "input [ { data_type: UINT8 } ]", 'max_batch_size: "8"'):
        with pytest.raises(ParseError):
            parse(text)
