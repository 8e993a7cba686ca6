import importlib.util
import json
import os
import stat
from pathlib import Path

import pytest
from sample_report import sample_report, small_report

from edgeresnext.errors import EdgeResNeXtError, InputError, NotInstalledError, ReportError, RequestError
from edgeresnext.files import to_json
from edgeresnext.report import files


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_what_is_saved_as_json_is_read_back_whole(tmp_path):
    report = small_report()
    files.save_report(report, tmp_path / "r.json")
    assert files.read_report(tmp_path / "r.json") == report
    assert (tmp_path / "r.json").read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("suffix", [".md", ".csv", ".json", ".html"])
def test_the_suffix_chooses_the_format_and_nothing_else_is_left(tmp_path, suffix):
    path = tmp_path / f"r{suffix}"
    files.save_report(small_report(), path)
    start = {".md": "# resnext50_32x4d", ".csv": "variant,backend,", ".json": "{\n", ".html": "<!DOCTYPE html>"}[suffix]
    assert path.read_text(encoding="utf-8").startswith(start)
    assert names(tmp_path) == [path.name]


def test_a_saved_report_may_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        files.save_report(small_report(), tmp_path / "r.csv")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "r.csv").stat().st_mode) == 0o644


def test_a_link_stays_one(tmp_path):
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    files.save_report(small_report(), tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text().startswith("variant,")


def test_a_disk_that_fills_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    path.write_text("old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EdgeResNeXtError, match="No space left on device") as caught:
        files.save_report(small_report(), path)
    assert caught.value.hint
    assert path.read_text() == "old"
    assert names(tmp_path) == ["r.json"]


def test_an_interrupt_leaves_no_litter(tmp_path, monkeypatch):
    def interrupt(_descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.save_report(small_report(), tmp_path / "r.json")
    assert names(tmp_path) == []


def test_names_that_cannot_be_written_are_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(RequestError, match=r"r\.docx") as caught:
        files.check_save(tmp_path / "r.docx")
    assert all(suffix in caught.value.hint for suffix in files.SUFFIXES)
    with pytest.raises(RequestError, match="does not exist"):
        files.check_save(tmp_path / "none" / "r.json")
    (tmp_path / "d.json").mkdir()
    with pytest.raises(RequestError, match="is a folder"):
        files.check_save(tmp_path / "d.json")
    files.check_save(str(tmp_path / "r.csv"))


def test_a_folder_that_is_not_ours_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda folder, _mode: folder != tmp_path)
    with pytest.raises(RequestError, match="cannot be written"):
        files.check_save(tmp_path / "r.json")


def test_html_needs_its_packages_and_the_others_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else object())
    with pytest.raises(NotInstalledError, match=r"needs jinja2, which") as caught:
        files.check_save(tmp_path / "r.html")
    assert caught.value.hint == "pip install 'edgeresnext[plot]'"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(NotInstalledError, match="jinja2 and matplotlib"):
        files.check_save(tmp_path / "r.html")
    for suffix in (".json", ".md", ".csv"):
        files.check_save(tmp_path / f"r{suffix}")


def damaged(change):
    content = json.loads(to_json(sample_report(rounds=8)))
    change(content)
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no report"),
        (b"rows,top1\n", "is no report"),
        (b"\xff\xfe{}", "is no report"),
        (b'{"schema": 2, "baseline": "", "rows": ' + b"[" * 100_000, "is no report"),
        (b"[]", "is no report"),
        (b'{"schema": 2, "model": {}}', "is no report"),
        (b'{"schema": "2", "baseline": "", "rows": []}', "is no report"),
        (b'{"schema": 1, "baseline": "", "rows": []}', "schema 1, written by edgeresnext of an unknown release"),
        (b'{"schema": 2, "baseline": "", "rows": [{"reason": 1}]}', r"damaged report: .*rows\[0\]"),
        (damaged(lambda r: r["rows"][3]["latency_s"].update(p50="fast")), r"\$\.rows\[3\]\.latency_s\.p50"),
        (damaged(lambda r: r["rows"][0].update(extra=1)), r"unknown field `extra` - at `\$\.rows\[0\]`"),
        (damaged(lambda r: r["rows"][0].update(right="%%")), r"\$\.rows\[0\]\.right"),
        (damaged(lambda r: r.pop("mode")), "missing required field `mode`"),
    ],
)  # fmt: skip
def test_what_is_no_report_is_said_to_be_none_with_a_hint(tmp_path, content, message):
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(ReportError, match=message) as caught:
        files.read_report(path)
    assert str(path) in caught.value.what
    assert "edgeresnext bench" in caught.value.hint
    assert "--save" in caught.value.hint


def test_a_report_of_schema_2_still_loads_with_the_string_of_each_row_as_one_reason(tmp_path):
    path = Path(__file__).parent.parent / "reports" / "schema-2.json"
    report = files.read_report(path)
    assert report.schema == 3
    for row, old in zip(report.rows, json.loads(path.read_bytes())["rows"], strict=True):
        assert row.reasons == (old["reason"],)
        assert row.samples_s == tuple(old["samples_s"])
    files.save_report(report, tmp_path / "r.json")
    assert files.read_report(tmp_path / "r.json") == report


@pytest.mark.parametrize(("schema", "hint"), [(1, "Measure again"), (4, "Update edgeresnext")])
def test_a_report_of_another_schema_is_refused_with_the_release_that_wrote_it(tmp_path, schema, hint):
    (tmp_path / "r.json").write_bytes(damaged(lambda r: r.update(schema=schema)))
    message = rf"schema {schema}, written by edgeresnext 0\.4\.0; edgeresnext .* reads schemas 2 to 3"
    with pytest.raises(ReportError, match=message) as caught:
        files.read_report(tmp_path / "r.json")
    assert caught.value.hint.startswith(hint)


def test_a_report_that_is_not_there_or_is_a_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        files.read_report(tmp_path / "r.json")
    with pytest.raises(ReportError, match="Is a directory"):
        files.read_report(tmp_path)
