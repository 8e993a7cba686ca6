"""The README's blocks marked `<!-- run: ... -->` are executed, and its tables are those of the stored results."""

import contextlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(name):
    found = re.search(rf"<!-- run: {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no block '{name}'"
    return found[1]


def test_the_demo_runs_as_written(tmp_path, monkeypatch, capsys):
    from edgeresnext.cli.main import main

    monkeypatch.chdir(tmp_path)
    commands = [line.split() for line in block("demo").splitlines()]
    assert commands == [["edgeresnext", "demo"]]
    with contextlib.suppress(SystemExit):
        main(commands[0][1:])
    out, err = capsys.readouterr()
    assert "openvino-int8" in out
    suggested = [line.split() for line in err.partition("Try next:")[2].splitlines() if line.strip()]
    assert {words[1] for words in suggested} == {"predict", "inspect", "bench", "build"}
    main(suggested[0][1:])  # the first suggestion works as it stands
    assert capsys.readouterr().out.split()[1] == "7"


def test_the_python_example_runs_as_written(tmp_path, digit_folders, digit_weights):
    shutil.copy(digit_weights, tmp_path / "my.safetensors")
    shutil.copytree(digit_folders["calibration"], tmp_path / "photos")
    shutil.copytree(digit_folders["validation"], tmp_path / "val")
    Image.open(next((digit_folders["validation"] / "4").iterdir())).save(tmp_path / "cat.jpg")
    done = subprocess.run(
        [sys.executable, "-c", block("python")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "openvino-int8 Latency(" in done.stdout


def test_every_command_of_the_readme_exists():
    from edgeresnext.cli.main import cli

    named = set(re.findall(r"`?edgeresnext ([a-z]+)", README)) - {"and"}
    assert named <= set(cli.commands)
    assert set(cli.commands) <= set(re.findall(r"`(?:edgeresnext )?([a-z]+)", README))


def test_the_tables_are_those_of_the_stored_results():
    done = subprocess.run(
        [sys.executable, "benchmarks/render.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", list((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda p: p.stem)
def test_every_stored_result_names_its_machine(path):
    import json

    environment = json.loads(path.read_text())["environment"]
    assert environment["cpu"]
    assert environment["date"]
