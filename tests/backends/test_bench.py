import json

import msgspec
import pytest
from PIL import Image

import edgeresnext
from edgeresnext.backends import base
from edgeresnext.errors import BackendError, DataError, RequestError
from edgeresnext.measure import report as reports
from edgeresnext.spec import Report

SCHEMA_KEYS = {
    "backend", "precision", "device", "batch", "scenario", "latency_s", "latency_n", "images_per_s", "speedup", "top1",
    "top5", "images", "top1_drop", "agreement", "size_bytes", "peak_memory_bytes", "energy_j_per_image", "status",
    "reason",
}  # fmt: skip


@pytest.fixture(scope="module")
def report(built, digit_folders):
    return edgeresnext.bench(built.path, data=digit_folders["validation"], rounds=10)


def rows_of(report):
    return {row.name: row for row in report.rows}


def test_int8_loses_at_most_half_a_point_on_real_images(report):
    rows = rows_of(report)
    assert rows["torch-fp32"].top1 >= 0.98
    assert rows["openvino-int8"].top1_drop <= 0.005
    assert rows["openvino-int8"].images == 600
    assert rows["openvino-int8"].agreement >= 0.99


def test_the_baseline_is_pytorch_and_comes_first(report):
    assert report.rows[0].name == "torch-fp32"
    assert report.baseline.startswith("torch-fp32, eager, c")
    assert report.rows[0].speedup == 1.0
    assert report.rows[0].agreement == 1.0


def test_rows_have_the_documented_keys_and_every_null_has_its_reason(report):
    decoded = json.loads(reports.to_json(report))
    for row in decoded["rows"]:
        assert set(row) >= SCHEMA_KEYS
        if row["status"] == "ok":
            assert row["latency_n"] == len(row["samples_s"]) == 10
            assert row["latency_s"]["p50"] > 0
            assert row["latency_s"]["p90"] is None
            assert "p90 needs 64" in row["reason"]
            assert row["size_bytes"] > 100_000
            assert row["peak_memory_bytes"] > 20 << 20
    assert {"cpu", "cores", "python", "date"} <= set(decoded["environment"])
    assert msgspec.json.decode(reports.to_json(report), type=Report) == report


def test_peak_memory_is_the_artefact_s_own(report):
    rows = rows_of(report)
    assert rows["onnxruntime-fp32"].peak_memory_bytes < rows["torch-fp32"].peak_memory_bytes


def test_the_table_explains_what_is_missing(report):
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    console.print(reports.render(report))
    text = console.export_text()
    console.file.close()
    assert "openvino-int8" in text
    assert "p99 needs 662" in text
    assert "p99 ms" not in text  # a column without a figure


@pytest.mark.usefixtures("no_memory_run")
def test_one_failing_variant_does_not_end_the_run(built, monkeypatch):
    def refuse(*_):
        raise BackendError("refused for the test")

    monkeypatch.setattr(type(base.get("onnxruntime")), "open", refuse)
    rows = rows_of(edgeresnext.bench(built.path, rounds=8))
    assert rows["onnxruntime-fp32"].status == "failed"
    assert rows["onnxruntime-fp32"].reason == "refused for the test"
    assert rows["openvino-fp32"].status == "ok"


@pytest.mark.usefixtures("no_memory_run")
def test_without_pytorch_the_recorded_logits_are_the_baseline(built, digit_folders, monkeypatch):
    monkeypatch.setattr(type(base.get("torch")), "unavailable", lambda *_: "torch is not installed")
    for data in (None, digit_folders["validation"]):
        report = edgeresnext.bench(built.path, data=data, rounds=8, backend="openvino")
        row = rows_of(report)["openvino-fp32"]
        assert report.baseline == "recorded logits"
        assert rows_of(report)["torch-fp32"].status == "skipped"
        assert (row.speedup, row.top1_drop, row.agreement) == (None, None, 1.0)
        assert "golden images" in row.reason
        assert (row.top1 is None) == (data is None)


@pytest.mark.usefixtures("no_memory_run")
def test_a_choice_of_backend_and_precision_keeps_the_baseline(built):
    report = edgeresnext.bench(built.path, rounds=8, backend="openvino", precision="int8", batch=4)
    assert [row.name for row in report.rows] == ["torch-fp32", "openvino-int8"]
    assert all(row.batch == 4 for row in report.rows)


@pytest.mark.usefixtures("no_memory_run")
def test_unlabelled_images_give_agreement_without_accuracy(built, digit_folders):
    report = edgeresnext.bench(built.path, data=digit_folders["validation"] / "3", rounds=8, precision="int8")
    row = rows_of(report)["openvino-int8"]
    assert (row.top1, row.images) == (None, 59)
    assert "no labelled images" in row.reason
    assert row.agreement > 0.95


@pytest.mark.usefixtures("no_memory_run")
def test_unreadable_images_are_counted(built, digit_folders, tmp_path):
    folder = tmp_path / "val" / "3"
    folder.mkdir(parents=True)
    for index, path in enumerate(sorted((digit_folders["validation"] / "3").iterdir())):
        Image.open(path).save(folder / f"{index}.png")
    (folder / "bad.png").write_bytes(b"x")
    report = edgeresnext.bench(built.path, data=tmp_path / "val", rounds=8, precision="int8")
    assert "1 unreadable" in report.data
    assert rows_of(report)["openvino-int8"].images == 59


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"rounds": 0}, {"seconds": 0}, {"threads": 0}, {"backend": "x"}, {"precision": "fp64"}]
)
def test_numbers_and_names_that_cannot_be_meant_are_refused(built, options):
    with pytest.raises(RequestError):
        edgeresnext.bench(built.path, **options)


@pytest.mark.usefixtures("no_memory_run")
def test_classes_that_the_model_does_not_have_are_refused(built, photos):
    with pytest.raises(DataError, match="cat, dog"):
        edgeresnext.bench(built.path, data=photos, rounds=8)


def test_reports_are_saved_by_suffix(report, tmp_path):
    reports.save(report, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["baseline"] == report.baseline
    with pytest.raises(RequestError, match=r"\.json"):
        reports.check_save(tmp_path / "r.docx")
    with pytest.raises(RequestError, match="does not exist"):
        reports.check_save(tmp_path / "none" / "r.json")
