"""Save a benchmark in the format that its file name asks for, and read one back."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeresnext import __version__, files
from edgeresnext.errors import EdgeResNeXtError, ReportError, RequestError
from edgeresnext.extras import require
from edgeresnext.measure.results import REPORT_SCHEMA, Report

SUFFIXES = (".json", ".html", ".md", ".csv")
HTML_NEEDS = ("jinja2", "matplotlib")
_READABLE = (2, REPORT_SCHEMA)
_UPDATE = "Update edgeresnext to that release or a newer one: pip install --upgrade edgeresnext"
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
    if reason := files.why_unwritable(path):
        raise RequestError(reason, "Create the folder first, or give another file.")
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
        ReportError: The file is missing, is no report, is damaged, or is of a schema that this release does not read.
    """
    path = Path(path)
    try:
        raw = files.read(path)
    except FileNotFoundError:
        raise ReportError(f"'{path}' does not exist", _WRITTEN_BY) from None
    except OSError as error:
        raise ReportError(f"cannot read '{path}': {error.strerror}", _WRITTEN_BY) from None
    try:
        outline = files.from_json(raw, _Outline)
    except msgspec.MsgspecError as error:
        raise ReportError(f"'{path}' is no report: {error}", _WRITTEN_BY) from None
    if outline.schema not in _READABLE:
        writer = outline.environment.get("edgeresnext", "of an unknown release")
        raise ReportError(
            f"'{path}' is a report of schema {outline.schema}, written by edgeresnext {writer}; edgeresnext "
            f"{__version__} reads schemas {_READABLE[0]} to {REPORT_SCHEMA}",
            _UPDATE if outline.schema > REPORT_SCHEMA else _MEASURE,
        )
    try:
        return files.from_json(raw, Report) if outline.schema == REPORT_SCHEMA else _upgraded(raw)
    except msgspec.MsgspecError as error:
        raise ReportError(f"'{path}' is a damaged report: {error}", _MEASURE) from None


class _Outline(msgspec.Struct):
    """What every schema of a report has, and no other file of ours: by this they are told apart."""

    schema: int
    baseline: str
    rows: msgspec.Raw
    environment: dict[str, object] = {}


def _upgraded(raw: bytes) -> Report:
    """Return a report of schema 2, in which all reasons of a row were one string and layers had their sensitivity."""
    content = files.from_json(raw, dict[str, object])
    rows = msgspec.convert(content["rows"], list[dict[str, object]])
    for row in rows:
        reason = row.pop("reason", "")
        row["reasons"] = [reason] if reason else []
    content.pop("sensitivity", None)
    return msgspec.convert(content | {"rows": rows, "schema": REPORT_SCHEMA}, Report)


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
