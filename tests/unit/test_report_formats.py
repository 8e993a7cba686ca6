import csv
import io
import re

import pytest
from msgspec.structs import replace
from rich.console import Console
from sample_report import a_row, sample_report

from edgeresnext.measure.results import Row
from edgeresnext.report.html import to_html
from edgeresnext.report.markdown import escape, to_markdown
from edgeresnext.report.table_csv import to_csv
from edgeresnext.report.terminal import render


@pytest.fixture(scope="module")
def report():
    return sample_report()


def shown(report, width=170):
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(render(report))
    return console.file.getvalue()


def test_the_terminal_shows_a_table_a_scenario_and_every_variant_s_accuracy_once(report):
    text = shown(report)
    for title in ("single-stream, batch 1\n", "offline, images/s\n", "server, batch 1\n", "accuracy and size\n"):
        assert title in re.sub(" +\n", "\n", text)
    assert text.count("77.30") == 1
    assert "109*" in text
    assert "…" not in text
    assert "warning: the CPU's governor changed" in text


@pytest.mark.parametrize("word", ["offline: 32 samples: p90 needs 64", "torch-fp32-compile: torch.compile needs a C++"])
def test_reasons_are_said_once_for_all_they_apply_to(report, word):
    assert shown(report).count(word) == 1
    assert escape(word) in to_markdown(report)


def test_a_reason_of_some_rows_names_them():
    rows = (a_row(reasons=("noisy",)), a_row(backend="openvino"), a_row(scenario="offline", images_per_s=1.0))
    assert "torch-fp32 (single-stream): noisy" in shown(sample_report(rows=rows))
    everywhere = tuple(replace(row, reasons=("noisy",)) for row in rows)
    assert "all: noisy" in shown(sample_report(rows=everywhere))


@pytest.mark.parametrize("form", [shown, to_markdown, to_csv, to_html])
def test_a_reason_that_holds_a_semicolon_stays_whole(form):
    rows = (a_row(reasons=("noisy; see [dmesg]", "hot")), a_row(backend="openvino", status="failed", reasons=("a; b",)))
    text = form(sample_report(rounds=8, rows=rows)).replace("\\", "").replace("**", "").replace("</b>", "")
    assert "noisy; see [dmesg]" in text
    assert "a; b" in text
    assert form is to_csv or ": hot" in text


@pytest.mark.parametrize("form", [shown, to_markdown])
def test_what_must_not_be_quoted_says_so_first(form):
    text = form(sample_report(rounds=8, mode="quick", partial=True))
    head = text[: text.index("single-stream")].lower()
    assert "quick: not for quoting" in head
    assert "partial: interrupted" in head
    assert "not for quoting" not in form(sample_report(rounds=8))


@pytest.mark.parametrize("form", [shown, to_markdown, to_html])
@pytest.mark.parametrize(("top1", "said"), [(0.11, True), (0.93, False), (None, False)])
def test_a_network_that_only_guesses_says_so_above_everything(form, top1, said):
    rows = (a_row((0.01,) * 12, top1=top1),)
    report = sample_report(rounds=8, rows=rows, bundle={"model": "m", "classes": "10"}, reference="torch-fp32")
    text = form(report).lower()
    assert ("itself is right for only 11.00% of the images, and guessing for 10.00%" in text) == said
    if said:
        assert text.index("itself is right for only") < text.index("baseline")


@pytest.mark.parametrize("form", [shown, to_markdown, to_csv])
def test_a_run_interrupted_at_once_has_a_form(form):
    text = form(sample_report(rows=(), partial=True, environment={}, bundle={}, command=""))
    assert "nothing had been measured" in text or text.count("\n") == 1


@pytest.mark.parametrize("form", [shown, to_markdown])
def test_where_nothing_ran_the_table_still_says_what_became_of_each(form):
    rows = (
        a_row(status="skipped", reasons=("torch is not installed",)),
        a_row(backend="openvino", status="failed", reasons=("x",)),
    )
    text = form(sample_report(rows=rows))
    assert re.search(r"torch-fp32[ |]+skipped", text)
    assert re.search(r"openvino-fp32[ |]+failed", text)
    assert "torch-fp32: torch is not installed" in text


def test_calibration_images_among_those_measured_are_a_warning():
    assert "warning: 3 of these images were calibrated on" in shown(sample_report(rounds=8, overlap=3))
    assert "calibrated on:" not in shown(sample_report(rounds=8, overlap=0))


def test_a_terminal_obeys_nothing_that_a_report_says():
    evil = "\x1b[2Jgone [bold]brackets[/bold]\nnext"
    text = shown(sample_report(rounds=8, data=evil, baseline=evil, warnings=(evil,)))
    assert "\x1b[2J" not in text
    assert text.count("[bold]brackets[/bold] next") == 3


def markdown_tables(markdown):
    """The tables of a Markdown text: lists of rows, each a list of cells."""
    found = []
    for block in markdown.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("| "):
            found.append([re.split(r"(?<!\\)\|", line)[1:-1] for line in lines])
    return found


def test_every_line_of_a_markdown_table_has_as_many_cells_as_its_heading():
    evil = "a|b\nc `d` <img src=x> \\| [l](u)"
    report = sample_report(rounds=64, warnings=(evil,), data=evil, environment={"cpu": evil, evil: "x"})
    text = to_markdown(report)
    found = markdown_tables(text)
    assert len(found) == 6
    for table in found:
        assert len({len(line) for line in table}) == 1
    assert "<img" not in text
    assert "\nc " not in text
    assert r"\[l\](u)" in text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("a|b", r"a\|b"), ("`x`", r"\`x\`"), ("<b>", "&lt;b>"), ("a\nb", "a b"), ("\\", r"\\"), ("&lt;", "&amp;lt;")],
)
def test_what_markdown_would_obey_is_escaped(text, escaped):
    assert escape(text) == escaped


def test_markdown_says_how_to_reproduce_in_a_block_that_nothing_ends(report):
    text = to_markdown(replace(report, command="edgeresnext bench x\n```\n# injected"))
    assert text.endswith("\n    edgeresnext bench x ``` # injected\n")
    assert "| torch | 2.13.0 |" in text
    assert "**109**" in text


def test_csv_has_raw_values_a_line_a_row(report):
    lines = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert len(lines) == len(report.rows)
    for line, row in zip(lines, report.rows, strict=True):
        assert None not in line
        assert (line["variant"], line["scenario"], line["status"]) == (row.name, row.scenario, row.status)
        assert line["top1"] == ("" if row.top1 is None else str(row.top1))
        if row.latency_s:
            assert float(line["latency_p50_s"]) == row.latency_s.p50
            assert float(line["latency_mean_s"]) == row.latency_s.mean
    first = report.rows[0]
    assert float(lines[0]["bound_p90_s"]) == first.latency_s.bound["p90"]
    assert float(lines[0]["end_to_end_p50_s"]) == first.scopes["end-to-end"].latency_s.p50
    assert lines[0]["copies_p50_s"] == lines[0]["latency_p50_s"]
    assert lines[0]["report_mode"] == "default"


def test_csv_s_columns_do_not_depend_on_what_was_measured(report):
    heading = to_csv(report).splitlines()[0]
    assert to_csv(sample_report(rows=())).splitlines() == [heading]
    assert not {"samples_s", "right", "layers"} & set(heading.split(","))
    named = {
        name
        for name in Row.__struct_fields__
        if name not in ("latency_s", "samples_s", "scopes", "top1_interval", "right", "layers")
    }
    assert named <= set(heading.split(","))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " ="])
def test_no_spreadsheet_takes_text_of_a_report_for_a_formula(start):
    row = a_row(reasons=(f'{start}HYPERLINK("x")\n2',), top1_drop=-0.25)
    line = next(csv.DictReader(io.StringIO(to_csv(sample_report(rows=(row,))))))
    assert line["reasons"].startswith("'")
    assert "\n" not in line["reasons"]
    assert line["top1_drop"] == "-0.25"
