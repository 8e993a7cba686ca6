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
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001345f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    "|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
"""What a terminal would act on (control characters, other directions of writing) or not show at all, and what is no
UTF-8. Unseen is what Unicode calls Default_Ignorable_Code_Point, but for the selectors and joiners that emoji, Persian
and the scripts of India are written with: a joiner between two letters that are not ASCII is let through."""


def visible(text: str) -> str:
    """Return a text of several lines whose unseen characters are shown as JSON writes them and not acted on."""
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def in_one_line(text: str) -> str:
    """Return a text that is one line: ends of lines in the names that it holds are shown too."""
    return visible(text).replace("\n", "\\u000a").replace("\t", "\\u0009")


def say(*lines: object, err: bool = False, nl: bool = True) -> None:
    """Print lines on stdout, or on stderr; what they hold of files, names and labels begins no other line."""
    click.echo("\n".join(in_one_line(str(line)) for line in lines), err=err, nl=nl)  # noqa: TID251 - a door itself


def say_text(text: str) -> None:
    """Print a text that has lines of its own on stdout: JSON, where what is escaped keeps its meaning."""
    click.echo(visible(text), nl=not text.endswith("\n"))  # noqa: TID251 - the other door


class _Lines(logging.Formatter):
    """Messages as they are shown, or as a JSON object each."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__("%(message)s")
        self._as_json = as_json

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the message alone; those of ours are one line, whatever names they hold."""
        message = super().formatMessage(record)
        return in_one_line(message) if record.name == "edgeresnext" and not self._as_json else message

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
    say_text(text)


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
    say(title, *(f"  {command}" for command in commands), err=True)


def fail(what: str, *more: str, code: int) -> NoReturn:
    """Say on stderr what went wrong, with more in lines of their own, and leave with an exit code."""
    say(f"error: {what}", *(f"  {line}" for line in more if line), err=True)
    sys.exit(code)
