import csv
import io

import pytest
from msgspec.structs import replace
from sample_report import a_row, sample_report

from edgeresnext.measure.results import Latency
from edgeresnext.report import columns, tables
from edgeresnext.report.table_csv import to_csv


@pytest.fixture(scope="module")
def report():
    return sample_report()


def a_latency(**changes):
    fields = {"p50": 0.01, "p90": None, "p95": None, "p97": None, "p99": None, "p99_9": None}
    return Latency(**(fields | {"mean": 0.01, "min": 0.01, "max": 0.01} | changes))


def headings(rows):
    return [column.title for column in columns.columns(rows, "speed", "accuracy")]


def texts(row):
    return {column.title: column.text(row) for column in columns.columns([row], "speed", "accuracy")}


def overview(*rows):
    """The tables of rows by title: headings, then the texts of each line."""
    found = tables.overview(sample_report(rounds=8, rows=rows))
    return {
        table.title: [
            [column.title for column in table.columns],
            *([cell.text for cell in line] for line in table.lines),
        ]
        for table in found
    }


def test_figures_are_in_the_units_of_their_headings():
    row = a_row(
        latency_s=a_latency(p50=0.0124, p90=0.00071, bound={"p90": 0.2}), images_per_s=80.61, speedup=4.905,
        speedup_error=0.021, top1=0.773, top1_interval=(0.754, 0.7911), top1_drop=0.003, lost=31, gained=25, p_value=0.504,
        agreement=0.9132, energy_j_per_image=0.11284, size_bytes=3 << 19, peak_memory_bytes=318 << 20,
    )  # fmt: skip
    assert texts(row) == {
        "p50 ms": "12.40", "p90 ms": "0.710", "p90 ≤": "200.00", "images/s": "80.6", "speed-up": "4.91 ± 0.02",
        "J/image": "0.113", "peak MiB": "318", "top-1 %": "77.30", "95 %": "75.4-79.1", "drop": "+0.30",
        "flips": "-31 +25", "p": "0.50", "agree %": "91.32", "MiB": "1.5",
    }  # fmt: skip


def test_a_column_without_a_figure_is_left_out_and_a_missing_figure_is_not_zero():
    found = overview(a_row(latency_s=a_latency()), a_row(backend="openvino", latency_s=a_latency(p90=0.02), top1=0.0))
    assert found["single-stream, batch 1"] == [
        ["variant", "p50 ms", "p90 ms"], ["torch-fp32", "10.00", "n/a"], ["openvino-fp32", "10.00", "20.00"],
    ]  # fmt: skip
    assert found["accuracy and size"] == [["variant", "top-1 %"], ["openvino-fp32", "0.00"]]


def test_a_failed_row_neither_makes_a_column_nor_shows_figures():
    failed = a_row(status="failed", size_bytes=1 << 20, latency_s=a_latency(p99=1.0))
    measured = a_row(backend="openvino", latency_s=a_latency(p90=0.02))
    assert overview(failed, measured) == {
        "single-stream, batch 1": [
            ["variant", "p50 ms", "p90 ms"], ["torch-fp32", "failed", ""], ["openvino-fp32", "10.00", "20.00"],
        ]
    }  # fmt: skip
    assert overview(failed) == {"single-stream, batch 1": [["variant", ""], ["torch-fp32", "failed"]]}


def test_a_drop_that_rounds_to_nothing_has_no_minus():
    assert texts(a_row(top1_drop=-1e-6)) == {"drop": "+0.00"}


@pytest.mark.parametrize(("scenario", "has"), [("single-stream", False), ("multi-stream", True), ("server", True)])
def test_the_bound_of_p99_is_shown_where_p99_is_what_counts(scenario, has):
    row = a_row(scenario=scenario, latency_s=a_latency(p99=0.02, bound={"p99": 0.03}))
    assert ("p99 ≤" in headings([row])) == has


def test_a_server_s_row_says_what_was_asked_and_whether_it_was_kept():
    row = a_row(scenario="server", rate=25.0, latency_bound_s=0.1, within_bound=False)
    assert texts(row) == {"queries/s": "25.0", "bound ms": "100.00", "in bound": "no"}


def test_the_batch_is_a_column_only_where_it_varies():
    rows = [a_row(batch=batch, latency_s=a_latency()) for batch in (1, 8)]
    assert headings(rows) == ["batch", "p50 ms"]
    assert headings(rows[:1]) == ["p50 ms"]


def test_a_row_s_own_scope_is_its_latency(report):
    row = report.rows[0]
    assert texts(row)["compute ms"] == f"{1e3 * row.scopes['compute'].latency_s.p50:.2f}"
    assert row.scope == "copies"
    (copies,) = (column for column in columns.COLUMNS if column.name == "copies_p50_s")
    assert copies.raw(row) == row.latency_s.p50
    assert "copies ms" not in texts(row)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "<0.001"), (0.00099, "<0.001"), (0.0034, "0.003"), (0.25, "0.25"), (1.0, "1.00")]
)
def test_a_probability_is_never_rounded_to_nothing(value, text):
    assert columns.probability(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1234"), (12.345, "12.3"), (1.2345, "1.23"), (0.00012345, "0.000123"), (0.0, "0")],
)
def test_energies_have_three_digits(value, text):
    assert columns.joules(value) == text


def test_offline_is_variants_by_batches_with_the_best_of_each_and_speed_ups_of_bests():
    rows = [
        a_row(scenario="offline", batch=batch, backend=backend, images_per_s=speed)
        for backend, batch, speed in (
            ("torch", 1, 10.0),
            ("torch", 8, 20.0),
            ("openvino", 1, 50.0),
            ("openvino", 8, 40.0),
        )
    ]
    rows.append(a_row(scenario="offline", batch=1, backend="onnxruntime", status="failed"))
    report = sample_report(rounds=8, rows=rows)
    (found,) = tables.overview(report)
    assert [column.title for column in found.columns] == ["variant", "batch 1", "batch 8", "speed-up"]
    assert [[cell.text for cell in line] for line in found.lines] == [
        ["torch-fp32", "10.0", "20.0", "1.00"],
        ["openvino-fp32", "50.0", "40.0", "2.50"],
        ["onnxruntime-fp32", "failed", "", "n/a"],
    ]
    assert [[cell.text for cell in line if cell.tone == "best"] for line in found.lines] == [["20.0"], ["50.0"], []]
    (bare,) = tables.overview(replace(report, baseline_variant="torch-bf16"))
    assert [column.title for column in bare.columns] == ["variant", "batch 1", "batch 8"]


def test_a_page_shows_and_sorts_by_what_csv_holds(report):
    rows = [row for row in report.rows if row.scenario == "single-stream"]
    found = tables.details("x", rows)
    lines = list(csv.DictReader(io.StringIO(to_csv(replace(report, rows=tuple(rows))))))
    named = [index for index, column in enumerate(found.columns) if column.name and column.numeric]
    assert len(named) > 15
    for cells, line in zip(found.lines, lines, strict=True):
        for index in named:
            name, key = found.columns[index].name, cells[index].key
            nothing = "0" if name == "latency_n" else ""  # no sample is none, for a program
            assert line[name] == (nothing if key is None else str(key))
            assert (cells[index].text == "n/a") == (key is None)
    assert found.lines[2][0].text == "torch-fp32-compile (skipped)"


def test_classes_that_lose_most_come_first(report):
    found = tables.classes(report)
    losses = [line[2].key for line in found.lines]
    assert losses == sorted(losses, reverse=True)
    one = next(one for one in report.classes if one.label == found.lines[0][0].text)
    worst = min(share for name, share in one.top1.items() if name != "torch-fp32")
    assert found.lines[0][2].text == f"{100 * (one.top1['torch-fp32'] - worst):+.1f}"
    assert [column.title for column in found.columns[3:]] == list(one.top1)
