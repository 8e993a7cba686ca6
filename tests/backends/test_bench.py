"""One benchmark with every runtime and stage but one, and what its report holds; `test_bench_run.py` has the ways it may go."""

import json

import msgspec
import numpy as np
import pytest

import edgeresnext
from edgeresnext import BenchOptions
from edgeresnext.files import to_json
from edgeresnext.measure.results import Report

SCHEMA_KEYS = {
    "backend", "precision", "device", "batch", "scenario", "latency_s", "latency_n", "images_per_s", "speedup", "top1",
    "top5", "images", "top1_drop", "agreement", "size_bytes", "peak_memory_bytes", "energy_j_per_image", "status",
    "reasons",
}  # fmt: skip


@pytest.fixture(scope="module")
def report(built, digit_folders):
    return edgeresnext.bench(
        built.path, data=digit_folders["validation"], options=BenchOptions(rounds=11, skip=("compile", "memory"))
    )


def rows_of(report):
    return {row.name: row for row in report.rows}


def test_int8_loses_at_most_half_a_point_on_real_images(report):
    rows = rows_of(report)
    assert rows["torch-fp32"].top1 >= 0.98
    assert rows["openvino-int8"].top1_drop <= 0.005
    assert rows["openvino-int8"].images == 600
    assert rows["openvino-int8"].agreement >= 0.99


def test_a_call_in_python_is_recorded_as_one(report, built, digit_folders):
    data = str(digit_folders["validation"])
    assert report.command == (
        f"from edgeresnext import BenchOptions, bench; bench(path={str(built.path)!r}, data={data!r}, "
        "options=BenchOptions(rounds=11, skip=('compile', 'memory')))"
    )


def test_the_baseline_has_no_error_and_others_have(report):
    rows = rows_of(report)
    assert (rows["torch-fp32"].speedup, rows["torch-fp32"].speedup_error) == (1.0, None)
    assert rows["openvino-int8"].speedup_error > 0


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
            assert row["peak_memory_bytes"] is None
            assert "left out: compile, memory" in row["reasons"]
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


def test_pytorch_s_faster_ways_are_measured_or_say_why_not(report):
    rows = rows_of(report)
    assert rows["torch-fp32-compile"].status == "skipped"
    assert rows["torch-fp32-compile"].reasons == ("left out: skip compile",)
    if rows["torch-bf16"].status == "ok":
        assert rows["torch-bf16"].agreement > 0.99
    else:
        assert "bfloat16" in rows["torch-bf16"].reasons[0]
