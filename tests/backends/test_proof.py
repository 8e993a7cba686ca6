"""No artefact answers before it has proved itself on this machine, and that costs once."""

import json
import logging
import os
import shutil

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext.backends import registry
from edgeresnext.errors import BackendError, BundleError
from edgeresnext.machine import cache as cache_files
from edgeresnext.machine.cache import CACHE_VARIABLE, cache_directory
from edgeresnext.runtime import load as loading
from edgeresnext.runtime import proof
from edgeresnext.runtime.proof import conditions
from edgeresnext.spec import Artifact, Engine, EngineOptions, Fidelity


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and nothing said yet."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "_told", set())
    return tmp_path / "cache"


@pytest.fixture
def replays(monkeypatch):
    """The sessions that golden images were replayed on."""
    seen = []
    replay = proof.replay
    monkeypatch.setattr(proof, "replay", lambda session, *rest: (seen.append(session), replay(session, *rest))[1])
    return seen


def written_again(path, **changes):
    """Let a bundle's manifest agree with its files."""
    manifest = bundles.read(path).manifest
    changed = msgspec.structs.replace(manifest, files=bundles.list_files(path), **changes)
    bundles.write_manifest(path, changed)
    return path


@pytest.fixture
def wrong(bundle_copy):
    """A bundle whose INT8 file for CPUs computes something else, as one that saturates does."""
    file = bundle_copy / "onnx" / "int8-cpu.onnx"
    model = onnx.load(file)
    for tensor in model.graph.initializer:
        if tensor.name == "layer2.0.conv1.weight.scale":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.08), tensor.name))
    onnx.save(model, file)
    return written_again(bundle_copy)


def proofs_in(cache):
    return [json.loads(file.read_text())["checks"] for file in sorted((cache / "proofs").glob("*.json"))]


def test_the_first_load_replays_golden_images_and_later_ones_do_not(bundle_copy, cache, replays):
    before = sorted(bundle_copy.rglob("*"))
    with edgeresnext.load(bundle_copy) as classifier:
        name = classifier.artifact.name
    assert len(replays) == 1
    (checks,) = proofs_in(cache)
    assert checks[name]["status"] == "ok"
    with edgeresnext.load(bundle_copy) as again:
        assert again.artifact.name == name
    assert len(replays) == 1
    assert sorted(bundle_copy.rglob("*")) == before  # nothing is written into the bundle


@pytest.fixture
def int8_first(wrong):
    """The same, with INT8 the fastest by what was measured."""
    selection = bundles.read(wrong).manifest.selection
    timings = sorted(selection.timings, key=lambda one: not one.artifact.endswith("int8"))
    ranked = tuple(msgspec.structs.replace(one, latency_s=(1.0 + rank) / 1e3) for rank, one in enumerate(timings))
    return written_again(wrong, selection=msgspec.structs.replace(selection, timings=ranked))


def test_what_is_wrong_here_is_passed_over_with_one_warning(int8_first, caplog, replays):
    wrong = int8_first
    with caplog.at_level(logging.WARNING, "edgeresnext"):
        with edgeresnext.load(wrong) as classifier:
            assert classifier.artifact.precision != "int8"
            assert "passed over: " in classifier.reason
            assert "dB" in classifier.reason
        count = len(replays)
        with edgeresnext.load(wrong):
            pass
    assert len(replays) == count  # the failure is remembered too
    passed_over = [record.getMessage() for record in caplog.records]
    (message,) = passed_over  # both runtimes' INT8 artefacts, once
    assert "not openvino-int8: " in message or "not onnxruntime-int8: " in message
    assert message.count("where onnx/int8-cpu.onnx says") == 2


def test_what_fails_while_everything_is_timed_is_told_too(wrong, caplog):
    (wrong / "onnx" / "fp32.onnx").write_bytes(b"cut short")
    selection = bundles.read(wrong).manifest.selection
    manifest = bundles.read(wrong).manifest
    other = msgspec.structs.replace(selection, conditions={"cpu": "another"})
    bundles.write_manifest(wrong, msgspec.structs.replace(manifest, selection=other))
    with edgeresnext.load(wrong) as classifier:
        assert classifier.artifact.name == "torch-fp32"  # all that is left
    assert "openvino-int8: signal-to-noise of the logits is" in caplog.text
    assert "onnxruntime-fp32: it does not start: file '" in caplog.text
    assert "passed over: " in classifier.reason


def test_asked_for_by_name_what_is_wrong_is_refused(wrong):
    with pytest.raises(BackendError, match=r"openvino-int8 of bundle .*says .* dB"):
        edgeresnext.load(wrong, backend="openvino", precision="int8")
    with edgeresnext.load(wrong, backend="openvino", precision="int8", prove=False) as classifier:
        assert classifier.artifact.name == "openvino-int8"


def test_verify_and_bench_show_it_as_failed(wrong):
    checks = {check.artifact: check for check in edgeresnext.verify(wrong)}
    assert checks["openvino-int8"].status == "failed"
    assert "onnx/int8-cpu.onnx says" in checks["openvino-int8"].reason
    report = edgeresnext.bench(
        wrong,
        precision="int8",
        options=edgeresnext.BenchOptions(rounds=3, skip=("pytorch", "scopes", "layers", "energy", "memory")),
    )
    rows = {row.name: row for row in report.rows}
    assert rows["openvino-int8"].status == "failed"
    assert "says" in rows["openvino-int8"].reasons[0]
    assert rows["torch-fp32"].status == "ok"


def test_an_engine_that_quantises_an_fp32_file_is_not_compared_with_fp32(built):
    bundle = bundles.read(built.path)
    engine = Engine(
        release="10.3.0.0", compute_capabilities=("8.7",), onnx="onnx/fp32.onnx", onnx_sha256="", options=EngineOptions(),
        built_s=1.0, platform="",
    )  # fmt: skip
    artifact = Artifact(
        backend="tensorrt", precision="int8", target="jetson-orin", file="engines/x.engine", engine=engine
    )
    assert bundle.shortfall(artifact, Fidelity(snr_db=30.0, max_error=0.01)) == ""
    assert "below 15 dB" in bundle.shortfall(artifact, Fidelity(snr_db=14.0, max_error=0.1))


def test_int8_must_come_near_what_its_file_says(built):
    bundle = bundles.read(built.path)
    artifact = next(one for one in bundle.manifest.artifacts if one.name == "openvino-int8")
    said = next(one for one in bundle.manifest.onnx if one.file == artifact.file).fidelity.snr_db

    def shortfall(lost_db):
        return bundle.shortfall(
            artifact, msgspec.structs.replace(bundle.manifest.onnx[0].fidelity, snr_db=said - lost_db)
        )

    assert shortfall(5.5) == ""
    assert f"where onnx/int8-cpu.onnx says {said:.1f} dB" in shortfall(6.5)


def test_elsewhere_everything_is_timed_and_the_fastest_taken(bundle_copy, cache, monkeypatch):
    here = bundles.read(bundle_copy).manifest.selection
    assert here.conditions == conditions(bundles.read(bundle_copy).manifest)
    slowest_first = tuple(msgspec.structs.replace(one, latency_s=1 / one.latency_s) for one in here.timings)
    other = msgspec.structs.replace(here, timings=slowest_first, conditions={"cpu": "another"})
    written_again(bundle_copy, selection=other)
    taken = {
        "openvino-int8": 0.2,
        "openvino-bf16": 0.5,
        "openvino-fp32": 0.1,
        "onnxruntime-fp32": 0.3,
        "onnxruntime-int8": 0.4,
    }
    opened = []
    real = loading.open_artifact

    def noted(bundle, artifact, threads=None):
        opened.append(artifact.name)
        return real(bundle, artifact, threads)

    monkeypatch.setattr(loading, "open_artifact", noted)
    monkeypatch.setattr(proof, "_latency_s", lambda *_: taken[opened[-1]])
    with edgeresnext.load(bundle_copy) as classifier:
        assert classifier.artifact.name == "openvino-fp32"
        assert classifier.reason.endswith("as measured on this machine")
    (checks,) = proofs_in(cache)
    runnable = {one.name for one in bundles.read(bundle_copy).manifest.artifacts if registry.unavailable(one) is None}
    assert {name for name, check in checks.items() if check["latency_s"]} == runnable - {"torch-fp32"}
    opened.clear()
    with edgeresnext.load(bundle_copy, precision="int8") as classifier:
        assert classifier.artifact.name == "openvino-int8"
    assert opened == ["openvino-int8"]  # all that there is to know is known


def test_a_load_of_one_precision_leaves_the_others_to_be_timed(bundle_copy, monkeypatch):
    here = bundles.read(bundle_copy).manifest.selection
    written_again(bundle_copy, selection=msgspec.structs.replace(here, conditions={"cpu": "another"}))
    taken = {
        "openvino-int8": 0.1,
        "openvino-bf16": 0.5,
        "openvino-fp32": 0.2,
        "onnxruntime-fp32": 0.3,
        "onnxruntime-int8": 0.4,
    }
    opened = []
    real = loading.open_artifact
    monkeypatch.setattr(loading, "open_artifact", lambda b, a, t=None: (opened.append(a.name), real(b, a, t))[1])
    monkeypatch.setattr(proof, "_latency_s", lambda *_: taken[opened[-1]])
    with edgeresnext.load(bundle_copy, backend="openvino", precision="int8"):
        pass
    with edgeresnext.load(bundle_copy) as classifier:
        assert classifier.artifact.name == "openvino-int8"


def test_what_does_not_start_is_tried_last_and_again(bundle_copy, monkeypatch):
    def refuse(backend, *_, **__):
        raise BackendError("no memory left", "Close other programs.")

    here = bundles.read(bundle_copy).manifest.selection
    timings = sorted(here.timings, key=lambda one: not one.artifact.startswith("openvino"))
    ranked = tuple(msgspec.structs.replace(one, latency_s=(1.0 + rank) / 1e3) for rank, one in enumerate(timings))
    written_again(bundle_copy, selection=msgspec.structs.replace(here, timings=ranked))
    chosen = []
    with monkeypatch.context() as patch:
        patch.setattr(type(registry.get("openvino")), "open", refuse)
        for _ in range(2):
            with edgeresnext.load(bundle_copy) as classifier:
                chosen.append(classifier.artifact.backend)
                assert "it does not start: no memory left" in classifier.reason or len(chosen) == 2
        with pytest.raises(BackendError, match="does not start: no memory left") as caught:
            edgeresnext.load(bundle_copy, backend="openvino", precision="fp32")
    assert caught.value.hint == "Close other programs."
    assert chosen == ["onnxruntime", "onnxruntime"]
    with edgeresnext.load(bundle_copy, backend="openvino", precision="fp32") as classifier:  # it was mended
        assert classifier.artifact.name == "openvino-fp32"


def test_threads_have_an_order_of_their_own(bundle_copy, cache):
    edgeresnext.load(bundle_copy, backend="onnxruntime", precision="fp32").close()
    edgeresnext.load(bundle_copy, backend="onnxruntime", precision="fp32", threads=1).close()
    assert len(proofs_in(cache)) == 2


def test_golden_images_are_needed_for_a_proof_alone(bundle_copy):
    (bundle_copy / "reference.npz").unlink()
    with pytest.raises(BundleError, match=r"reference\.npz"):
        edgeresnext.load(bundle_copy)
    edgeresnext.load(bundle_copy, prove=False).close()


def test_processes_that_prove_at_once_do_not_lose_each_other_s_findings(bundle_copy, cache):
    one, other = (proof.Proofs(bundles.read(bundle_copy)) for _ in range(2))
    artifacts = {artifact.name: artifact for artifact in bundles.read(bundle_copy).manifest.artifacts}
    one.fail(artifacts["openvino-fp32"], "x")
    other.fail(artifacts["onnxruntime-fp32"], "y")
    assert set(proofs_in(cache)[0]) == {"openvino-fp32", "onnxruntime-fp32"}


def test_other_conditions_need_another_proof(bundle_copy, replays, monkeypatch):
    edgeresnext.load(bundle_copy, backend="onnxruntime", precision="fp32").close()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "no such instruction set")
    edgeresnext.load(bundle_copy, backend="onnxruntime", precision="fp32").close()
    assert len(replays) == 2


def test_another_bundle_needs_another_proof(bundle_copy, tmp_path, replays):
    other = shutil.copytree(bundle_copy, tmp_path / "other")
    edgeresnext.load(bundle_copy, backend="onnxruntime", precision="fp32").close()
    edgeresnext.load(other, backend="onnxruntime", precision="fp32").close()
    assert len(replays) == 1  # the same bundle in another place is the same bundle
    labels = (other / "labels.txt").read_text()
    (other / "labels.txt").write_text(labels.replace("0", "zero"))
    written_again(other)
    edgeresnext.load(other, backend="onnxruntime", precision="fp32").close()
    assert len(replays) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"[" * 100_000,
        b'{"schema": 99, "bundle": "x", "conditions": {}, "checks": {}}',
        b"\xff\xfe",
        None,
    ],
    ids=["empty", "half", "other", "deep", "schema", "binary", "directory"],
)
def test_a_damaged_cache_entry_is_proved_again(bundle_copy, cache, replays, content):
    edgeresnext.load(bundle_copy, backend="onnxruntime", precision="fp32").close()
    (file,) = (cache / "proofs").glob("*.json")
    file.unlink()
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    for _ in range(2):
        edgeresnext.load(bundle_copy, backend="onnxruntime", precision="fp32").close()
    assert len(replays) == (3 if content is None else 2)


def test_an_entry_of_other_conditions_under_the_same_name_is_not_believed(bundle_copy, cache, replays):
    edgeresnext.load(bundle_copy, backend="onnxruntime", precision="fp32").close()
    (file,) = (cache / "proofs").glob("*.json")
    entry = json.loads(file.read_text())
    file.write_text(json.dumps(entry | {"conditions": entry["conditions"] | {"cpu": "another"}}))
    edgeresnext.load(bundle_copy, backend="onnxruntime", precision="fp32").close()
    assert len(replays) == 2


def test_a_cache_that_cannot_be_used_costs_only_time(bundle_copy, tmp_path, monkeypatch, replays):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv(CACHE_VARIABLE, str(place))
        edgeresnext.load(bundle_copy, backend="onnxruntime", precision="fp32").close()
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "full"))
    edgeresnext.load(bundle_copy, backend="onnxruntime", precision="fp32").close()
    assert len(replays) == 3
    assert not list((tmp_path / "full").rglob("*.partial"))


def test_without_a_home_there_is_no_cache_and_no_error(bundle_copy, monkeypatch, replays):
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cache_files.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    edgeresnext.load(bundle_copy, backend="onnxruntime", precision="fp32").close()
    assert len(replays) == 1


def test_where_proofs_are_remembered(monkeypatch, tmp_path):
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "edgeresnext"


def test_a_replay_ends_with_its_budget_after_four_images(built):
    class Slow:
        runs = 0

        def run(self, images):
            self.runs += 1
            return golden.logits[self.runs - 1][None]

    golden = bundles.read(built.path).golden()
    for budget_s, expected in ((0.0, 4), (None, len(golden.images)), (60.0, len(golden.images))):
        session = Slow()
        fidelity = proof.replay(session, golden, budget_s)
        assert (session.runs, fidelity.max_error) == (expected, 0.0)
