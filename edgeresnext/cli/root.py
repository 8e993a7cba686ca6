"""The command line: parse, call, print. Nothing is decided here.

Progress and messages go to stderr; results to stdout, as JSON alone with `--json`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

import edgeresnext
from edgeresnext.cli import building, console, exporting, interruption, measuring, running, starting, training
from edgeresnext.cli.as_typed import options_of
from edgeresnext.errors import EdgeResNeXtError, InputError, RequestError, unknown_name

_log = logging.getLogger("edgeresnext")


_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
"""By how often `-v` is given."""


class _Root(click.Group):
    """A group that shows errors of ours, and suggests the nearest command for a mistyped one."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an error of ours ends it with its exit code, naming the options that it is about."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # who read has enough; click would call it an error
            sys.stderr.close()
            sys.exit(0)
        except EdgeResNeXtError as error:
            if interruption.came():  # native code made another error of it
                _end()
            command = self.commands.get(ctx.invoked_subcommand or "")
            options = options_of(command, error.values) if command else ""
            console.fail(error.what, error.hint, f"Options: {options}" if options else "", code=error.exit_code)
        except EOFError as error:  # which click would take for the end of what somebody types
            _unforeseen(error)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            error = unknown_name("command", args[0], self.list_commands(ctx))
            raise click.UsageError(f"{error.what}. {error.hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(edgeresnext.__version__, message="%(prog)s %(version)s")
@click.option("-v", "--verbose", count=True, help="Say what is chosen and why; twice: everything.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("--log-json", is_flag=True, help="Messages as JSON on stderr, one a line.")
def cli(verbose: int, quiet: bool, log_json: bool) -> None:  # noqa: FBT001
    """Export, quantise, run and benchmark ResNeXt image classifiers on edge devices.

    \b
    A first look:      edgeresnext demo
    Your own network:  edgeresnext build resnext50_32x4d --weights w.safetensors --labels labels.txt
                           --calibration photos/ --output build/mine
                       edgeresnext bench build/mine --data val/
    """  # noqa: D301 - click wants the character, not the two
    if quiet and verbose:
        raise RequestError("quiet contradicts verbose", "Leave one of them out.")
    console.log(logging.ERROR if quiet else _LEVELS[min(verbose, len(_LEVELS) - 1)], as_json=log_json)


_COMMANDS = (
    *(building.build, training.train, building.models),
    *(measuring.bench, measuring.report, measuring.sensitivity),
    *(running.predict, running.verify, running.sign, running.inspect, exporting.export),
    *(starting.doctor, starting.demo),
)

for _command in _COMMANDS:
    cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code; no error becomes a traceback."""
    console.log(logging.WARNING)
    if bad := [one for one in arguments or () if "\0" in one]:  # no system passes one, and click would ask it of a file
        console.fail(f"'{bad[0]}' has a null character, which no name has", code=RequestError.exit_code)
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="edgeresnext", standalone_mode=False)
    except click.UsageError as error:
        usage = f"{error.ctx.command_path} --help shows the options" if error.ctx else ""
        console.fail(error.format_message(), usage, code=RequestError.exit_code)
    except click.ClickException as error:
        console.fail(error.format_message(), code=error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _end()
    except Exception as error:  # noqa: BLE001 - whatever nobody foresaw; `_unforeseen` says it
        _unforeseen(error)


def _end() -> NoReturn:
    """Leave after a signal, with the exit code that shells give it."""
    console.fail(f"{interruption.how()}; nothing was left half-written", code=interruption.exit_code())


def _unforeseen(error: Exception) -> NoReturn:
    """Leave after an error that nobody foresaw: of the system with its own words, of ours as the bug that it is."""
    if interruption.came():
        _end()
    _log.debug("unforeseen", exc_info=error)
    if isinstance(error, OSError) and error.strerror:
        where = f" '{error.filename}'" if error.filename is not None else ""
        console.fail(f"the system refuses{where}: {error.strerror}", code=InputError.exit_code)
    hint = "This is a bug; report it with what `edgeresnext -vv` prints."
    console.fail(f"{type(error).__name__}: {error}", hint, code=EdgeResNeXtError.exit_code)
