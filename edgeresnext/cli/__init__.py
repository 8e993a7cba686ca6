"""The command line: parse, call, print. Nothing is decided here; `edgeresnext.__main__` is where it begins."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    from edgeresnext.cli.root import run

    run(arguments)
