import json

import msgspec
import numpy as np
import pytest
from PIL import Image
from scripted import Clock, Scripted
from stages import LATENCY_ALONE

import edgeresnext
from edgeresnext.backends import base
from edgeresnext.errors import BackendError, DataError, RequestError
from edgeresnext.files import to_json
from edgeresnext.measure.accuracy import Changes, Classified, classify
from edgeresnext.measure.bench import InterruptedBenchError
from edgeresnext.measure.results import Report

SCHEMA_KEYS = {
    "backend", "precision", "device", "batch", "scenario", "latency_s", "latency_n", "images_per_s", "speedup", "top1",
    "top5", "images", "top1_drop", "agreement", "size_bytes", "peak_memory_bytes", "energy_j_per_image", "status",
    "reasons",
}  # fmt: skip


def bench(path, **options):
    return edgeresnext.bench(path, **({"rounds": 11, "skip": LATENCY_ALONE} | options))


@pytest.fixture(scope="module")
def report(built, digit_folders):
    return edgeresnext.bench(built.path, data=digit_folders["validation"], rounds=11, skip=["compile"])


def rows_of(report):
    return {row.name: row for row in report.rows}


def test_int8_loses_at_most_half_a_point_on_real_images(report):
    rows = rows_of(report)
    assert rows["torch-fp32"].top1 >= 0.98
    assert rows["openvino-int8"].top1_drop <= 0.005
    assert rows["openvino-int8"].images == 600
    assert rows["openvino-int8"].agreement >= 0.99


def test_the_baseline_is_pytorch_and_comes_first(report):
    assert report.rows[0].name == report.baseline_variant == report.reference == "torch-fp32"
    assert report.baseline.startswith("torch-fp32, eager, c")
    assert report.rows[0].speedup == 1.0
    assert report.rows[0].agreement == 1.0


def test_rows_have_the_documented_keys_and_every_null_has_its_reason(report):
    decoded = json.loads(to_json(report))
    for row in decoded["rows"]:
        assert set(row) >= SCHEMA_KEYS
        if row["status"] == "ok":
            assert row["latency_n"] == len(row["samples_s"]) == 11
            assert 0 < row["latency_s"]["p50"] <= row["latency_s"]["bound"]["p50"]
            assert row["latency_s"]["p90"] is None
            assert any("p90 needs 64" in reason for reason in row["reasons"])
            assert row["size_bytes"] > 100_000
            assert row["peak_memory_bytes"] > 20 << 20
            assert (row["energy_j_per_image"] is None) == any(
                reason.startswith("energy: ") for reason in row["reasons"]
            )
    assert {"cpu", "cores", "python", "date"} <= set(decoded["environment"])
    assert msgspec.json.decode(to_json(report), type=Report) == report


def test_every_scope_is_timed_and_end_to_end_takes_longest(report):
    for row in report.rows:
        if row.status == "ok":
            assert set(row.scopes) == {"compute", "end-to-end"}
            assert len(row.scopes["compute"].samples_s) == 11
    row = rows_of(report)["openvino-int8"]
    assert row.scopes["end-to-end"].latency_s.min > row.scopes["compute"].latency_s.min


def test_layers_are_those_of_the_network(report, built):
    row = rows_of(report)["openvino-int8"]
    found = [layer.module for layer in row.layers if layer.module]
    assert found == [module for module in built.manifest.layer_macs if module in found or module != "fc"]


def test_what_is_right_is_kept_bit_by_bit(report):
    row = rows_of(report)["openvino-int8"]
    bits = np.unpackbits(np.frombuffer(row.right, np.uint8))[: row.images]
    assert bits.mean() == pytest.approx(row.top1)
    assert len(report.images_sha256) == 64


def test_classes_add_up_to_the_whole(report):
    assert [one.label for one in report.classes] == [str(digit) for digit in range(10)]
    assert sum(one.images for one in report.classes) == 600
    hits = sum(one.images * one.top1["openvino-int8"] for one in report.classes)
    assert hits / 600 == pytest.approx(rows_of(report)["openvino-int8"].top1)


def test_the_most_changed_images_are_there(report):
    changed = [one for one in report.changed if one.variant == "openvino-int8"]
    assert len(changed) == 8
    assert [one.change for one in changed] == sorted((one.change for one in changed), reverse=True)
    assert changed[0].thumbnail.startswith(b"\xff\xd8")
    assert not [one for one in report.changed if one.variant == "torch-fp32"]


def test_peak_memory_is_the_artefact_s_own(report):
    rows = rows_of(report)
    assert rows["onnxruntime-fp32"].peak_memory_bytes < rows["torch-fp32"].peak_memory_bytes


def test_pytorch_s_faster_ways_are_measured_or_say_why_not(report):
    rows = rows_of(report)
    assert rows["torch-fp32-compile"].status == "skipped"
    assert rows["torch-fp32-compile"].reasons == ("left out: --skip compile",)
    if rows["torch-bf16"].status == "ok":
        assert rows["torch-bf16"].agreement > 0.99
    else:
        assert "bfloat16" in rows["torch-bf16"].reasons[0]


def test_one_failing_variant_does_not_end_the_run(built, monkeypatch):
    def refuse(*_, **__):
        raise BackendError("refused for the test")

    monkeypatch.setattr(type(base.get("onnxruntime")), "open", refuse)
    rows = rows_of(bench(built.path))
    assert rows["onnxruntime-fp32"].status == "failed"
    assert rows["onnxruntime-fp32"].reasons == ("refused for the test",)
    assert rows["openvino-fp32"].status == "ok"


def test_without_pytorch_the_recorded_logits_are_the_baseline(built, digit_folders, monkeypatch):
    monkeypatch.setattr(type(base.get("torch")), "unavailable", lambda *_: "torch is not installed")
    for data in (None, digit_folders["validation"]):
        report = bench(built.path, data=data, backend="openvino")
        row = rows_of(report)["openvino-fp32"]
        assert report.baseline == "none: torch-fp32 has no figure (torch is not installed)"
        assert (report.baseline_variant, report.reference) == ("", "recorded logits")
        assert rows_of(report)["torch-fp32"].status == "skipped"
        assert (row.speedup, row.top1_drop, row.agreement) == (None, None, 1.0)
        assert any("golden images" in reason for reason in row.reasons)
        assert (row.top1 is None) == (data is None)


def test_another_baseline_is_what_speed_is_compared_with(built):
    report = bench(built.path, baseline="onnxruntime-fp32", precision="int8")
    rows = rows_of(report)
    assert report.baseline_variant == "onnxruntime-fp32"
    assert rows["onnxruntime-fp32"].speedup == 1.0
    assert rows["torch-fp32"].speedup != 1.0
    assert report.reference == "torch-fp32"
    assert "--baseline onnxruntime-fp32" in report.command
    with pytest.raises(RequestError, match="Did you mean 'openvino-int8'"):
        bench(built.path, baseline="openvino-int4")


def test_a_choice_of_backend_and_precision_keeps_the_baseline(built):
    report = bench(built.path, backend="openvino", precision="int8", batch=4)
    assert [row.name for row in report.rows] == ["torch-fp32", "openvino-int8"]
    assert all((row.batch, row.scenario) == (4, "multi-stream") for row in report.rows)


def test_multi_stream_takes_eight_images_a_query(built):
    (row,) = [
        r
        for r in bench(built.path, scenario="multi-stream", precision="int8", backend="openvino").rows
        if r.name == "openvino-int8"
    ]
    assert row.batch == 8
    assert row.images_per_s == pytest.approx(8 / row.latency_s.mean)


def test_offline_sweeps_batches(built):
    report = bench(built.path, scenario="offline", mode="quick", precision="int8", backend="openvino")
    rows = [row for row in report.rows if row.name == "openvino-int8"]
    assert [row.batch for row in rows] == [1, 8]
    assert rows[1].images_per_s == pytest.approx(8 * rows[1].latency_n / sum(rows[1].samples_s))
    assert report.rows[0].speedup == 1.0
    only = bench(built.path, scenario="offline", batch=3, precision="int8", backend="openvino")
    assert {row.batch for row in only.rows} == {3}


def test_a_server_is_measured_at_its_rate(built):
    report = bench(
        built.path,
        scenario="server",
        rate=40,
        rounds=None,
        latency_bound_s=10,
        mode="quick",
        seconds=1,
        precision="int8",
        backend="openvino",
    )
    row = rows_of(report)["openvino-int8"]
    assert (row.rate, row.images_per_s, row.within_bound, row.latency_n) == (40, 40, True, 64)
    assert any("on p90" in reason for reason in row.reasons)
    assert row.speedup is None


def test_a_quick_run_draws_images_and_says_so(built, digit_folders):
    report = bench(built.path, data=digit_folders["validation"], mode="quick", precision="int8", skip=())
    assert report.mode == "quick"
    assert report.data.startswith("64 of 600 images of")
    assert rows_of(report)["openvino-int8"].images == 64
    assert {one.images for one in report.classes} <= {6, 7}  # evenly over the classes


def test_unlabelled_images_give_agreement_without_accuracy(built, digit_folders):
    report = bench(built.path, data=digit_folders["validation"] / "3", precision="int8")
    row = rows_of(report)["openvino-int8"]
    assert (row.top1, row.images) == (None, 59)
    assert "accuracy: no labelled images" in row.reasons
    assert row.agreement > 0.95
    assert report.classes == ()


def test_unreadable_images_are_counted(built, digit_folders, tmp_path):
    folder = tmp_path / "val" / "3"
    folder.mkdir(parents=True)
    for index, path in enumerate(sorted((digit_folders["validation"] / "3").iterdir())):
        Image.open(path).save(folder / f"{index}.png")
    (folder / "bad.png").write_bytes(b"x")
    report = bench(built.path, data=tmp_path / "val", precision="int8")
    assert "1 unreadable" in report.data
    assert rows_of(report)["openvino-int8"].images == 59


@pytest.mark.parametrize(
    "options",
    [{"batch": 0}, {"rounds": 0}, {"seconds": 0}, {"threads": 0}, {"backend": "x"}, {"precision": "fp64"},
     {"scenario": "x"}, {"mode": "x"}, {"skip": ["x"]}, {"baseline": "x"}],
)  # fmt: skip
def test_numbers_and_names_that_cannot_be_meant_are_refused(built, options):
    with pytest.raises(RequestError):
        edgeresnext.bench(built.path, **options)


def test_classes_that_the_model_does_not_have_are_refused(built, photos):
    with pytest.raises(DataError, match="cat, dog"):
        bench(built.path, data=photos)


def test_an_interrupted_run_keeps_what_it_measured(built, digit_folders):
    def interrupt(stage, done, total):
        if stage == "accuracy" and done > 100:
            raise KeyboardInterrupt
        del total

    with pytest.raises(InterruptedBenchError) as interrupted:
        bench(built.path, data=digit_folders["validation"], precision="int8", progress=interrupt)
    report = interrupted.value.report
    rows = rows_of(report)
    assert report.partial
    assert rows["openvino-int8"].latency_n == 11
    assert 100 < rows["openvino-int8"].images == rows["torch-fp32"].images < 200
    assert rows["openvino-int8"].top1 > 0.9


def test_a_run_that_is_interrupted_while_timing_keeps_its_samples(built):
    def interrupt(stage, done, _total):
        if stage == "single-stream" and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedBenchError) as interrupted:
        bench(built.path, precision="int8", progress=interrupt)
    row = rows_of(interrupted.value.report)["openvino-int8"]
    assert row.latency_n == 5
    assert row.agreement is None
    assert "accuracy: not measured" in row.reasons


def test_a_run_that_is_interrupted_before_anything_was_measured_has_no_report(built, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeresnext.measure.variants.open_artifact", interrupt)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        bench(built.path)
    assert not isinstance(interrupted.value, InterruptedBenchError)


def test_sensitivity_is_added_when_asked_for(built):
    report = bench(built.path, precision="int8", sensitivity=True)
    assert {layer.layer for layer in report.sensitivity.layers} >= set(built.manifest.layer_macs) - {"fc"}
    assert report.sensitivity.floating == ("fc",)
    assert "--sensitivity" in report.command


class Fixed:
    """A session whose logits are given by the image's first pixel."""

    def __init__(self, logits):
        self.logits = np.asarray(logits, np.float32)

    def run(self, images):
        return self.logits[images[:, 0, 0, 0]]


def test_the_most_changed_images_are_the_most_changed(tmp_path):
    shades = np.arange(20, dtype=np.uint8)
    images = np.broadcast_to(shades[:, None, None, None], (20, 8, 8, 3))
    reference = np.zeros((20, 2), np.float32)
    other = reference.copy()
    other[:, 0] = np.linspace(0, 3, 20)  # the later, the surer
    changes = Changes("reference", ["cat", "dog"])
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for start in (0, 16, 8):
        part = slice(start, start + 8)
        logits = {"reference": reference[part], "other": other[part]}
        changes.add(images[part], paths[part], [1] * len(paths[part]), logits)
    found = changes.found()
    assert [one.file for one in found] == [str(tmp_path / f"{i}.png") for i in range(19, 11, -1)]
    assert found[0].change == pytest.approx(1 / (1 + np.exp(-3)) - 0.5)
    assert (found[0].before, found[0].after, found[0].label) == ("cat", "cat", "dog")


def test_an_interrupted_classification_leaves_the_same_images_to_every_session(digit_folders, built):
    paths = sorted((digit_folders["validation"] / "3").iterdir())
    kept: list[Classified] = []
    clock = Clock()
    first, second = Scripted(clock, 0.0), Scripted(clock, 0.0)
    run = second._run

    def interrupted(images):
        if second.runs == 2:
            raise KeyboardInterrupt
        return run(images)

    second._run = interrupted
    with pytest.raises(KeyboardInterrupt):
        classify(
            {"a": first, "b": second}, paths, [3] * len(paths), built.manifest.model.preprocess, lambda *_: None,
            done=kept.append,
        )  # fmt: skip
    assert len(kept[0].best["a"]) == len(kept[0].best["b"]) == len(kept[0].targets) == len(kept[0].digests) == 32


class Breaking:
    """A session that breaks from some batch on."""

    def __init__(self, session, largest):
        self.session, self.most = session, largest

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run(self, images):
        if len(images) > self.most:
            raise BackendError(f"out of memory on a batch of {len(images)}")
        return self.session.run(images)

    def prepare(self, images):
        self.run(images)


def broken(monkeypatch, largest):
    from edgeresnext.measure import variants

    opened = variants.open_artifact

    def open_artifact(bundle, artifact, threads=None, **more):
        session = opened(bundle, artifact, threads, **more)
        return Breaking(session, largest) if artifact.name == "openvino-int8" else session

    monkeypatch.setattr(variants, "open_artifact", open_artifact)


def test_what_was_measured_before_a_variant_broke_is_kept(built, monkeypatch):
    broken(monkeypatch, largest=1)
    report = bench(
        built.path, scenario=["single-stream", "multi-stream"], backend="openvino", precision="int8",
        skip=(*LATENCY_ALONE, "accuracy"),
    )  # fmt: skip
    single, several = (row for row in report.rows if row.name == "openvino-int8")
    assert (single.status, single.latency_n) == ("ok", 11)
    assert (several.status, several.reasons) == ("failed", ("out of memory on a batch of 8",))
    assert any(reason.startswith("multi-stream at batch 8: out of memory") for reason in single.reasons)


def test_a_server_that_cannot_be_does_not_cost_the_other_scenarios(built):
    report = bench(
        built.path, scenario=["single-stream", "server"], latency_bound_s=1e-6, mode="quick", rounds=None, seconds=1,
        backend="openvino", precision="int8",
    )  # fmt: skip
    single, server = (row for row in report.rows if row.name == "openvino-int8")
    assert single.latency_n >= 11
    assert (server.status, "nothing here keeps p90" in server.reasons[0]) == ("skipped", True)


def test_images_that_cannot_be_read_cost_accuracy_alone(built, tmp_path):
    folder = tmp_path / "val" / "3"
    folder.mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(folder / "good.png")
    for index in range(3):
        (folder / f"bad{index}.png").write_bytes(b"x")
    report = bench(built.path, data=tmp_path / "val", precision="int8", backend="openvino")
    assert rows_of(report)["openvino-int8"].latency_n == 11
    assert any("accuracy was not measured: at least" in warning for warning in report.warnings)


def test_the_baseline_has_no_error_and_others_have(built):
    rows = rows_of(bench(built.path, precision="int8", backend="openvino"))
    assert (rows["torch-fp32"].speedup, rows["torch-fp32"].speedup_error) == (1.0, None)
    assert rows["openvino-int8"].speedup_error > 0


def test_a_second_ctrl_c_loses_nothing(built, monkeypatch):
    import os
    import signal

    def again(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)
        return report_of(*_, **__)

    from edgeresnext.measure import bench as module

    report_of = module.report_of
    monkeypatch.setattr(module, "report_of", again)

    def interrupt(_stage, done, _total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedBenchError) as interrupted:
        bench(built.path, precision="int8", progress=interrupt)
    assert interrupted.value.report.rows[0].latency_n == 5


def test_sessions_are_prepared_once_more_where_another_batch_was_measured_last(built, monkeypatch):
    prepared = []
    session = type(
        base.get("openvino").open(built.file("onnx/fp32.onnx"), built.manifest.model, base.BASELINE_ARTIFACT)
    )
    before = session.prepare
    monkeypatch.setattr(
        session, "prepare", lambda self, images: (prepared.append(len(images)), before(self, images))[1]
    )
    skip = ("pytorch", "accuracy", "layers", "memory")
    options = {"backend": "openvino", "precision": "int8", "skip": skip}
    bench(built.path, scenario=["single-stream", "multi-stream"], **options)
    assert prepared == [1, 8, 1]  # the scenarios, then once for the scopes and energy
    prepared.clear()
    bench(built.path, **options)
    assert prepared == [1]
