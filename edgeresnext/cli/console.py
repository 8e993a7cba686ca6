"""What the command line shows: progress on stderr, tables and lines on stdout."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec

from edgeresnext.progress import Progress, silent

if TYPE_CHECKING:
    from rich.console import Console

_TABLE_WIDTH = 170
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal would act on or hide (control characters, other directions of writing), and what is no UTF-8."""


def visible(text: str) -> str:
    """Return a text whose control characters are shown as JSON writes them and not acted on."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def in_one_line(text: str) -> str:
    """Return a name as it is shown where a line has a meaning: its own ends of lines too."""
    return visible(text).replace("\n", "\\u000a").replace("\t", "\\u0009")


def say(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text on stdout, or on stderr: the one door to the terminal for what files, names and labels hold."""
    click.echo(visible(str(text)), err=err, nl=nl)  # noqa: TID251 - the door itself


class _Lines(logging.Formatter):
    """Messages as they are shown, or as a JSON object each."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__("%(message)s")
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return one message; a traceback follows where one belongs to it."""
        if not self._as_json:
            return visible(super().format(record))
        found = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": super().format(record)}
        return json.dumps(found)


def log(level: int, *, as_json: bool = False) -> None:
    """Show messages of the library from a level on, on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(as_json=as_json))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("edgeresnext").setLevel(level)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show a bar a stage on stderr, where that is a terminal; otherwise a line a stage."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    if logging.getLogger("edgeresnext").getEffectiveLevel() > logging.WARNING:  # -q
        yield silent
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        seen: set[str] = set()

        def line(stage: str, done: int, total: int) -> None:
            del done
            if stage not in seen:
                seen.add(stage)
                say(f"{stage} ({total}) ...", err=True)

        yield line
        return
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    columns = (TextColumn("{task.description:>15}"), BarColumn(), MofNCompleteColumn(), *times)
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def bar(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(escape(visible(stage)), total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield bar


def wide_console() -> Console:
    """Return a console wide enough for every table: a narrow terminal wraps lines, but no figure is cut."""
    from rich.console import Console

    console = Console(highlight=False)
    return Console(highlight=False, width=max(console.width, _TABLE_WIDTH))


def print_json(value: object) -> None:
    """Print a value as indented JSON; file names that are no UTF-8 keep their bytes as lone surrogates."""
    try:
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), indent=2)
    say(text)  # what it escapes has the same meaning in JSON


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> None:
    """Print rows under headings; the columns in `left` are aligned left, the others right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, heading in enumerate(headings):
        last = index in left[-1:]
        table.add_column(
            heading,
            justify="left" if index in left else "right",
            no_wrap=not last,
            overflow="fold" if last else "ellipsis",
        )
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))  # as text: brackets are no markup
    console = wide_console()
    console.print(table)
    console.print()


def hint(title: str, *commands: str) -> None:
    """Print commands to try, on stderr so that stdout holds results alone."""
    say(title, err=True)
    for command in commands:
        say(f"  {command}", err=True)


def fail(message: str, code: int) -> NoReturn:
    """Say on stderr what went wrong, and leave with an exit code."""
    say(f"error: {message}", err=True)
    sys.exit(code)
