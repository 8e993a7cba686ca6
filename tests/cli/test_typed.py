"""How values are typed: every field has one option, and errors name the options that they are about."""

import ast
import re
from pathlib import Path

import click
import pytest

import edgeresnext
from edgeresnext.cli.as_typed import command_line, options_of
from edgeresnext.cli.root import cli
from edgeresnext.errors import RequestError

PACKAGE = Path(edgeresnext.__file__).parent


def names(command):
    return {parameter.name for parameter in cli.commands[command].params}


@pytest.mark.parametrize(
    ("command", "kind", "without"),
    [
        ("bench", edgeresnext.BenchOptions, set()),
        ("build", edgeresnext.EngineOptions, set()),
        ("build", edgeresnext.Gate, set()),
        ("build", edgeresnext.Recipe, {"stratified"}),  # in recipe files alone
    ],
)
def test_every_field_of_a_value_has_an_option_of_its_name(command, kind, without):
    assert set(kind.__struct_fields__) - names(command) == without


def test_an_error_names_the_options_of_its_values():
    assert options_of(cli.commands["build"], ("max_drop", "repairs")) == "--max-drop POINTS, --repair NAME"
    assert options_of(cli.commands["build"], ("workspace_bytes",)) == "--workspace MIB"
    assert options_of(cli.commands["bench"], ("mode", "max_drop")) == "--quick, --official"
    assert not options_of(cli.commands["verify"], ("max_drop",))


def test_a_command_line_is_typed_in_the_units_that_people_type():
    asked = {
        "bundle": "my bundle",
        "latency_bound_s": 0.0125,
        "skip": ("memory", "energy"),
        "quick": True,
        "rate": 20.0,
    }
    assert command_line(cli.commands["bench"], asked) == (
        "edgeresnext bench 'my bundle' --rate 20 --latency-bound 12.5 --quick --skip memory --skip energy"
    )
    assert command_line(cli.commands["bench"], {"bundle": "b", "rounds": 0, "data": None, "skip": ()}) == (
        "edgeresnext bench b --rounds 0"
    )


def test_the_error_of_a_command_ends_it_with_one_more_line(run, monkeypatch):
    def refuse(*_, **__):
        raise RequestError("threads is 0", "Give one thread or more.", values=("threads",))

    monkeypatch.setattr(edgeresnext, "bench", refuse)
    code, out, err = run("bench", "x")
    assert (code, out) == (2, "")
    assert err == "error: threads is 0\n  Give one thread or more.\n  Options: --threads N\n"


def messages(path):
    """Yield the texts of a source file that are no docstrings, with their lines; what is filled in is X."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(one.value) if isinstance(one, ast.Constant) else "X" for one in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (parts | statements):
            yield node.lineno, node.value


def test_below_the_command_line_no_message_names_a_flag():
    whole_command = re.compile(r"\b((edgeresnext|pip|python3?|trtexec) [^`;,]*|tritonserver [^`]*)")
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] != "cli"
        and path.name not in ("svg.py", "trtexec.py")  # styles have such names, and other tools
        for line, text in messages(path)
        if re.search(r"(?<![\w-])--[a-z]", whole_command.sub("", text))
    ]
    assert found == []


def test_every_command_has_help_for_each_option():
    options = [one for command in cli.commands.values() for one in command.params if isinstance(one, click.Option)]
    assert [one.name for one in options if not one.help and one.name != "output"] == []
