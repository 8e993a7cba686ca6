"""Save a benchmark in the format that its file name asks for, and read one back."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from edgeresnext import files
from edgeresnext.errors import EdgeResNeXtError, ReportError, RequestError
from edgeresnext.extras import require
from edgeresnext.measure.results import REPORT_SCHEMA, Report

SUFFIXES = (".json", ".html", ".md", ".csv")
HTML_NEEDS = ("jinja2", "matplotlib")
_MEASURE = "Measure again with this release: edgeresnext bench BUNDLE --save report.json"
_WRITTEN_BY = "A report is the .json file that `edgeresnext bench BUNDLE --save report.json` wrote."


def check_save(path: str | Path) -> None:
    """Refuse a file that `save_report` cannot write, before anything is measured.

    Args:
        path: The file; its suffix chooses the format, one of `SUFFIXES`.

    Raises:
        RequestError: The suffix is unknown, the folder does not exist or is not ours to write, or the path is a folder.
        NotInstalledError: HTML is asked for and a package for it is missing.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise RequestError(f"cannot save a report as '{path}'", f"Known suffixes: {', '.join(SUFFIXES)}.")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise RequestError(f"folder '{folder}' does not exist", "Create it first.")
    if path.is_dir():
        raise RequestError(f"'{path}' is a folder", "Give the name of a file.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"folder '{folder}' cannot be written", "Change its permissions, or give another file.")
    if path.suffix == ".html":
        require("plot", *HTML_NEEDS, needed_by=f"'{path}'")


def save_report(report: Report, path: str | Path) -> None:
    """Write a report in the format of the suffix, whole or not at all.

    Args:
        report: What a benchmark found.
        path: The file; what was there is replaced.

    Raises:
        RequestError: As `check_save`.
        NotInstalledError: As `check_save`.
        EdgeResNeXtError: The file cannot be written.
    """
    path = Path(path)
    check_save(path)
    content = _content(report, path.suffix)
    try:
        files.write(path, content)
    except OSError as error:
        raise EdgeResNeXtError(f"cannot write report '{path}': {error.strerror}", "Give another file.") from None


def read_report(path: str | Path) -> Report:
    """Read a report that `save_report` wrote as JSON.

    Raises:
        ReportError: The file is missing, is no report, is damaged, or is of another schema.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ReportError(f"'{path}' does not exist", _WRITTEN_BY) from None
    except OSError as error:
        raise ReportError(f"cannot read '{path}': {error.strerror}", _WRITTEN_BY) from None
    try:
        schema = msgspec.json.decode(raw, type=_Outline).schema
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ReportError(f"'{path}' is no report: {error}", _WRITTEN_BY) from None
    if schema != REPORT_SCHEMA:
        raise ReportError(
            f"'{path}' is a report of schema {schema}; this release reads schema {REPORT_SCHEMA}", _MEASURE
        )
    try:
        return msgspec.json.decode(raw, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ReportError(f"'{path}' is a damaged report: {error}", _MEASURE) from None


class _Outline(msgspec.Struct):
    """What every schema of a report has, and no other file of ours: by this they are told apart."""

    schema: int
    baseline: str
    rows: msgspec.Raw


def _content(report: Report, suffix: str) -> bytes:
    """Return a report in the format of a suffix."""
    if suffix == ".json":
        return files.to_json(report)
    if suffix == ".html":
        from edgeresnext.report.html import to_html

        return to_html(report).encode("utf-8", "replace")
    if suffix == ".md":
        from edgeresnext.report.markdown import to_markdown

        return to_markdown(report).encode("utf-8", "replace")
    from edgeresnext.report.table_csv import to_csv

    return to_csv(report).encode("utf-8", "replace")
