"""The pages that users read, as blocks to run: what may be left out of a run is said beside each block."""

import ast
import inspect
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "calibration" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>not run: [^>]+|slow) -->\n *)?```(?P<language>sh|python|toml)\n(?P<text>.*?)```", re.DOTALL
)
_SMALL = ("resnext50_32x4d", "resnext20_8x4d")
"""The network of the pages, and the one that the tests have weights for."""
_ONE_ARTEFACT = {"backend": "onnxruntime", "precision": "int8"}


@dataclass(frozen=True)
class Block:
    """A block of code: `mark` is `slow`, or why it cannot run here, or empty."""

    language: str
    text: str
    mark: str

    @property
    def kind(self):
        """`run`, `slow` or `not run`."""
        return self.mark.partition(":")[0] or "run"

    @property
    def lines(self):
        """The commands, without comments."""
        return [words for words in (shlex.split(line, comments=True) for line in self.text.splitlines()) if words]


def blocks(page):
    """Return the blocks of a page, in order."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(one["language"], inspect.cleandoc(one["text"]) + "\n", one["mark"] or "") for one in found]


def run(block, *, whole):
    """Run a block as a reader would, on a small network and in quick benchmarks; unless `whole`, of one artefact alone."""
    if block.language == "sh":
        for words in block.lines:
            command(words, whole=whole)
    elif block.language == "python":
        text = block.text.replace(*_SMALL)
        if not whole:
            text = text.replace(
                'mode="quick"', ", ".join(['mode="quick"', *(f'{k}="{v}"' for k, v in _ONE_ARTEFACT.items())])
            )
        exec(compile(text, "block", "exec"), {"__name__": "__main__"})
    else:
        recipe(block.text)


def command(words, *, whole):
    """Type an `edgeresnext` command."""
    from edgeresnext.cli import main

    assert words[0] == "edgeresnext", f"{words} cannot be run: say so with `<!-- not run: REASON -->`"
    words = [word.replace(*_SMALL) for word in words[1:]]
    if words[0] == "bench":
        words += [] if "--quick" in words else ["--quick"]
    if words[0] == "bench" and not whole:
        words += [word for name, value in _ONE_ARTEFACT.items() for word in (f"--{name}", value)]
        words += ["--seconds", "0.2", "--skip", "pytorch", "--skip", "memory", "--skip", "layers", "--skip", "scopes"]
    main(words)  # which ends the process, and so the test, where anything goes wrong


def check(block):
    """Check what can be checked of a block without running it: names, options, arguments, files."""
    if block.language == "sh":
        for words in block.lines:
            check_words(words)
    elif block.language == "python":
        _check_calls(block.text)
    else:
        recipe(block.text)


def recipe(text):
    """Read a recipe."""
    import msgspec

    from edgeresnext.spec import Recipe

    return msgspec.convert(tomllib.loads(text), Recipe)


def check_words(words):
    """Check that a command exists, with its options; of other programs, what it names of ours."""
    from edgeresnext.cli.root import cli

    program = words[0].rpartition("/")[2]
    if program == "edgeresnext":
        cli.commands[words[1]].make_context(words[1], words[2:])
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = re.findall(r"\[(.*?)\]", " ".join(words))
        assert {extra for some in extras for extra in some.split(",")} <= set(project["optional-dependencies"])
    elif program.startswith("python") and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), words[1]


def _check_calls(text):
    import edgeresnext

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("edgeresnext."):
            function = getattr(edgeresnext, node.func.attr)
            inspect.signature(function).bind(*node.args, **{word.arg: word.value for word in node.keywords})
