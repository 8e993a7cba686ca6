"""`bench` and `report` as a user types them."""

import json

import msgspec
import pytest
from sample_report import sample_report
from scripted import answers, open_known
from stages import LATENCY_ALONE

from edgeresnext.cli import main
from edgeresnext.report.files import read_report, save_report

SKIPPED = [word for stage in LATENCY_ALONE for word in ("--skip", stage)]


@pytest.fixture(scope="module")
def saved(built, tmp_path_factory):
    """A saved quick benchmark."""
    file = tmp_path_factory.mktemp("reports") / "r.json"
    with pytest.MonkeyPatch.context() as monkeypatch:
        open_known(monkeypatch, answers(built))
        main(["bench", str(built.path), "--quick", "--precision", "int8", *SKIPPED, "--save", str(file)])
    return file


@pytest.mark.usefixtures("opened")
def test_every_format_is_written(run, built, tmp_path):
    files = [tmp_path / f"r.{suffix}" for suffix in ("json", "html", "md", "csv")]
    options = [word for file in files for word in ("--save", file)]
    code, out, err = run("bench", built.path, "--rounds", 11, "--precision", "int8", *SKIPPED, *options)
    assert (code, err.count("saved ")) == (0, 4)
    assert "openvino-int8" in out
    for file in files:
        assert "openvino-int8" in file.read_text() or file.suffix == ".json"
    assert files[1].read_text().startswith("<!DOCTYPE html>")


def test_a_quick_run_is_marked(run, saved):
    code, out, _ = run("report", saved)
    assert code == 0
    assert "QUICK: NOT FOR QUOTING" in out


def test_a_saved_report_is_shown_as_it_was_and_converted(run, saved, tmp_path):
    code, out, _ = run("report", saved, "--json")
    assert (code, json.loads(out)) == (0, json.loads(saved.read_text()))
    code, _, err = run("report", saved, "--save", tmp_path / "r.html")
    assert (code, "saved" in err) == (0, True)
    assert "not for quoting" in (tmp_path / "r.html").read_text()


def test_a_run_is_no_different_from_itself(run, saved):
    code, out, _ = run("report", saved, saved, "--fail-if-worse")
    assert (code, "no difference" in out) == (0, True)
    rows = json.loads(run("report", saved, saved, "--json")[1])["rows"]
    assert {row["verdict"] for row in rows} == {"no difference"}


def test_a_slower_run_fails_where_that_was_asked_for(run, tmp_path):
    report = sample_report(rounds=64)
    slower = [
        row if row.backend == "torch" else msgspec.structs.replace(row, samples_s=tuple(1.5 * one for one in row.samples_s))
        for row in report.rows
    ]  # fmt: skip
    save_report(report, tmp_path / "old.json")
    save_report(msgspec.structs.replace(report, rows=tuple(slower)), tmp_path / "slow.json")
    code, out, _ = run("report", tmp_path / "old.json", tmp_path / "slow.json")
    assert (code, "slower" in out) == (0, True)
    code, _, err = run("report", tmp_path / "old.json", tmp_path / "slow.json", "--fail-if-worse")
    assert (code, "slow.json' is worse than" in err) == (1, True)
    assert run("report", tmp_path / "slow.json", tmp_path / "old.json", "--fail-if-worse")[0] == 0


def test_a_report_of_another_schema_is_refused(run, saved, tmp_path):
    report = json.loads(saved.read_text()) | {"schema": 1}
    (tmp_path / "old.json").write_text(json.dumps(report))
    code, _, err = run("report", tmp_path / "old.json", saved)
    assert code == 5
    assert "is a report of schema 1, written by edgeresnext" in err
    assert "edgeresnext bench BUNDLE --save report.json" in err


def test_an_empty_data_folder_is_refused_before_anything_is_opened(run, built, opened, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = run("bench", built.path, "--data", tmp_path / "empty")
    assert (code, "holds no image" in err) == (5, True)
    assert not opened


@pytest.mark.usefixtures("opened")
def test_an_impossible_latency_bound_says_what_is_possible(run, built):
    typed = ("bench", built.path, "--scenario", "server", "--latency-bound", "0.001", "--precision", "int8", "--quick")
    code, _, err = run(*typed, *SKIPPED)
    assert code == 2
    assert "nothing here keeps p90 within 0.001 ms at any rate" in err
    assert "queries/s are possible" in err


@pytest.mark.usefixtures("opened")
def test_ctrl_c_saves_what_was_measured_and_marks_it_partial(run, built, ctrl_c, tmp_path):
    ctrl_c("single-stream", 40)
    files = ("--save", tmp_path / "r.json", "--save", tmp_path / "r.html")
    code, out, err = run("bench", built.path, "--seconds", "100", "--precision", "int8", *SKIPPED, *files)
    assert code == 130
    assert "marked partial" in err
    assert "PARTIAL" in out.upper()
    report = read_report(tmp_path / "r.json")
    assert report.partial
    assert report.rows[0].latency_n == 40
    assert report.command.startswith("edgeresnext bench ")
    assert "interrupted" in (tmp_path / "r.html").read_text()
