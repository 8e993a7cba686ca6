"""What the command line shows: progress on stderr, tables and lines on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec

from edgeresnext.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended."""
_TABLE_WIDTH = 170


@contextmanager
def progress() -> Iterator[Progress]:
    """Show a bar a stage on stderr, where that is a terminal; otherwise a line a stage."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        seen: set[str] = set()

        def line(stage: str, done: int, total: int) -> None:
            del done
            if stage not in seen:
                seen.add(stage)
                click.echo(f"{stage} ({total}) ...", err=True)

        yield line
        return
    columns = (TextColumn("{task.description:>15}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def bar(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield bar


def wide_console() -> Console:
    """Return a console wide enough for every table: a narrow terminal wraps lines, but no figure is cut."""
    from rich.console import Console

    console = Console(highlight=False)
    return Console(highlight=False, width=max(console.width, _TABLE_WIDTH))


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


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
        table.add_row(*(Text(cell) for cell in row))  # as text: brackets are no markup
    console = wide_console()
    console.print(table)
    console.print()


def hint(title: str, *commands: str) -> None:
    """Print commands to try, on stderr so that stdout holds results alone."""
    click.echo(title, err=True)
    for command in commands:
        click.echo(f"  {command}", err=True)


def fail(message: str, code: int) -> NoReturn:
    """Say on stderr what went wrong, and leave with an exit code."""
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
