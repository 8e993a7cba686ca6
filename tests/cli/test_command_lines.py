"""Every option of every command with values that nobody means: an exit code that is written down, words, and no traceback.

The lines are made from the commands themselves: an option that is added is tried.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from PIL import Image
from sample_report import small_report

from edgeresnext.cli.root import cli
from edgeresnext.report.files import save_report

RUNNER = Path(__file__).with_name("forked_lines.py")
CODES = range(6)
"""Those that `edgeresnext.errors` writes down."""
BASES = {
    "build": ["resnext20_8x4d", "--random-weights", "--output", "new"],
    "train": ["photos", "--model", "resnext20_8x4d", "--output", "run", "--epochs", "1"],
    "models": [],
    "bench": ["bundle", "--rounds", "1"],
    "report": ["report.json"],
    "sensitivity": ["bundle", "--samples", "1"],
    "predict": ["bundle", "photos"],
    "verify": ["bundle"],
    "sign": ["bundle", "--key", "file"],
    "inspect": ["bundle"],
    "export": ["bundle", "--triton", "models"],
    "doctor": [],
    "demo": ["--output", "demo"],
}
"""A line of each command that is right."""
PATHS = ["nowhere", "photos", "pipe", "file", "file/below", "link", "/dev/zero", "/proc/self/mem", "locked.json", "."]
NUMBERS = ["-1", "0", "nan", "inf", "-inf", "1e400", "9" * 400, "9" * 5000, "1_0", "٣", "0x10", "1e-400"]
TEXTS = ["", " ", "\0", "a\0b", "\udcff", "x" * 5000, "日本🙂", "\x1b]52;c;eA==\x07", "--", "-", "%s{0}", "[red]", "../..", "a" * 256, "*", "1:1:1:1", "9" * 400 + "x1"]  # fmt: skip
CONTRADICTIONS = [
    "-v -q models", "--nothing", "nothing", "models extra", "predict", "verify", "sign bundle", "report report.json report.json --save a.json",
    "build", "build resnext20_8x4d", "build resnext20_8x4d -o new", "build photos -o new", "build bundle --random-weights",
    "build resnext20_8x4d --random-weights --weights file -o new", "build file -o new", "build file file -o new", "build file file --ensemble -o new",
    "build resnext20_8x4d --random-weights -o new --validation photos", "build resnext20_8x4d --random-weights -o new --precision int8 --max-drop 1",
    "build resnext20_8x4d --random-weights -o new --repair none --repair equalisation", "build resnext20_8x4d --random-weights -o bundle/inside",
    "build resnext20_8x4d --random-weights -o file", "build resnext20_8x4d --random-weights -o link", "build resnext20_8x4d --random-weights -o .",
    "build resnext20_8x4d --random-weights -o new --target cpu --target cpu", "build resnext20_8x4d --random-weights -o new --target rtx30+cpu",
    "build resnext20_8x4d --random-weights -o new --batch 4:2:1", "build resnext20_8x4d --random-weights -o new --keep int8:*",
    "bench bundle --quick --official", "bench bundle --rate 1", "bench bundle --scenario server --rate 1 --latency-bound 1", "bench bundle --save a.json --save a.txt",
    "bench bundle --save photos", "bench bundle --save nowhere/a.json", "bench bundle --seconds 1 --rounds 1", "bench bundle --skip everything",
    "bench bundle --baseline nothing", "bench bundle --backend torch --precision int8", "predict bundle photos --backend nothing",
    "predict bundle photos --threads 0", "predict bundle photos --top 0", "predict bundle pipe", "predict bundle nowhere pipe file",
    "export bundle", "export bundle --triton models --deepstream models/bundle", "export bundle --triton bundle", "export bundle --triton models --name ../x",
    "report report.json --fail-if-worse", "report pipe", "report file file", "inspect pipe", "inspect file", "inspect /dev/zero", "verify pipe", "verify file",
    "train photos --model resnext20_8x4d --output run --epochs 0", "train photos --model nothing --output run", "train photos --output run",
    "train photos --model resnext20_8x4d --output photos", "train photos --resume photos", "train pipe --model resnext20_8x4d --output run",
    "train photos --model resnext20_8x4d --output run --distil", "train photos --model resnext20_8x4d --output run --resume run", "demo --output photos", "demo --output file", "demo --output pipe",
]  # fmt: skip


def words_of(command):
    """Yield each option of a command, with what can be wrong with it; arguments stand in its place."""
    for parameter in cli.commands[command].params:
        if getattr(parameter, "is_flag", False) and parameter.type is click.BOOL:
            yield [*BASES[command], parameter.opts[0], parameter.opts[0]]
            yield [*BASES[command], f"{parameter.opts[0]}=x"]
            continue
        kind = type(parameter.type).__name__
        values = {"Path": PATHS + TEXTS, "StringParamType": TEXTS + PATHS, "Choice": TEXTS}.get(kind, NUMBERS + TEXTS)
        for value in values:
            if isinstance(parameter, click.Option):
                yield [*BASES[command], parameter.opts[0], value]
            else:
                before = cli.commands[command].params.index(parameter)
                yield [*BASES[command][:before], value, *BASES[command][before + 1 :]]
        if isinstance(parameter, click.Option):
            yield [*BASES[command], parameter.opts[0]]
            yield [*BASES[command], *[parameter.opts[0], values[0]] * 2]


def lines():
    """Return every line, those of the command and those of `CONTRADICTIONS`."""
    made = [[command, *words] for command in cli.commands for words in words_of(command)]
    return made + [line.split() for line in CONTRADICTIONS]


def furnish(place, bundle):
    """Put into a folder what the lines name."""
    shutil.copytree(bundle, place / "bundle")
    for index in range(12):
        folder = place / "photos" / ("cat" if index % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 40), (index, 99, 200)).save(folder / f"{index}.jpg")
    (place / "file").write_bytes(b"\0\xff{[")
    (place / "link").symlink_to("link")
    os.mkfifo(place / "pipe")
    save_report(small_report(), place / "report.json")


@pytest.fixture
def place(tmp_path, built):
    """A folder with what the lines name."""
    furnish(tmp_path, built.path)
    return tmp_path


def refused(place, chosen):
    """Return the lines that did not end as they should, and how they did."""
    asked = json.dumps({"folder": str(place), "lines": chosen})
    done = subprocess.run(
        [sys.executable, str(RUNNER)], input=asked, capture_output=True, text=True, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(place / "home")},
    )  # fmt: skip
    wrong = []
    found = json.loads(done.stdout)
    assert len(found) == len(chosen)
    for line, (code, seconds, out, err) in zip(chosen, found, strict=True):
        traceback = "Traceback" in out + err or "This is a bug" in err or "Warning:" in err
        acts = set("\x1b\x07\u202e") & set(out + err)
        if code not in CODES or traceback or acts or (code and "error: " not in err) or (code and not err.strip()):
            wrong.append((" ".join(map(ascii, line))[:300], code, round(seconds, 1), (out[-200:], err[-600:])))
    return wrong


def test_command_lines_that_nobody_means(place):
    assert not refused(place, [*lines()[::97], *(line.split() for line in CONTRADICTIONS[::4])])


@pytest.mark.slow
def test_more_command_lines_that_nobody_means(place):
    """A fifth of them, so that it takes minutes."""
    assert len(chosen := lines()[::5]) >= 500
    assert not refused(place, chosen)
