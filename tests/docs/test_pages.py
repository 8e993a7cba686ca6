"""What users read is true: blocks run as written, commands exist, links lead somewhere, tables are those of the results.

Blocks are run on the digits network in the place of a large one, in quick benchmarks; in the fast run of one artefact alone.
"""

import json
import re
import shutil
import subprocess
import sys

import pages
import pytest
from pages import PAGES, ROOT
from PIL import Image
from sample_report import sample_report

README = PAGES[0].read_text(encoding="utf-8")
FOREIGN_OPTIONS = {
    *("--like", "--onnx", "--help", "--only", "--check"),
    *("--build-arg", "--gpus", "--runtime", "--health-interval", "--no-healthcheck"),
}
"""Of the scripts beside the package, of trtexec and of every command; of Docker."""


def page_name(page):
    return str(page.relative_to(ROOT))


def blocks(kind):
    """Return the blocks of every page that are run, and those that cannot run here."""
    found = {page_name(page): [one for one in pages.blocks(page) if one.kind == kind] for page in PAGES}
    return [pytest.param(some, id=name) for name, some in found.items() if some]


@pytest.fixture
def desk(tmp_path, monkeypatch, built, digit_folders, digit_weights):
    """A folder with the files that the pages speak of."""
    for name in ("my", "w", "other"):
        shutil.copy(digit_weights, tmp_path / f"{name}.safetensors")
    (tmp_path / "labels.txt").write_text("\n".join(map(str, range(10))) + "\n")
    for split, names, each in (("calibration", ("photos", "train"), 10), ("validation", ("val",), 3)):
        for digit in digit_folders[split].iterdir():
            for name in names:
                (tmp_path / name / digit.name).mkdir(parents=True)
                for image in sorted(digit.iterdir())[:each]:
                    shutil.copy(image, tmp_path / name / digit.name)
    Image.open(min((digit_folders["validation"] / "4").iterdir())).save(tmp_path / "cat.jpg")
    shutil.copytree(ROOT / "calibration" / "recipes", tmp_path / "calibration" / "recipes")
    shutil.copytree(built.path, tmp_path / "build" / "flowers")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("some", blocks("run"))
def test_blocks_run_as_written(some, desk):
    for block in some:
        pages.run(block, whole=False)


@pytest.mark.parametrize("some", blocks("not run"))
def test_blocks_that_cannot_run_here_name_what_exists(some):
    for block in some:
        pages.check(block)


@pytest.mark.slow
def test_the_readme_runs_with_every_artefact(desk, capsys):
    for block in pages.blocks(PAGES[0]):
        if block.kind == "run":
            pages.run(block, whole=True)
    assert "openvino-int8 Latency(" in capsys.readouterr().out


@pytest.mark.slow
def test_the_demo_runs_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert [block.lines for block in pages.blocks(PAGES[0]) if block.kind == "slow"] == [[["edgeresnext", "demo"]]]
    check_demo(capsys)


def test_the_demo_builds_verifies_and_suggests_what_works(tmp_path, monkeypatch, capsys):
    """What it measures is the slow test's, and that of `bench`."""
    monkeypatch.setattr("edgeresnext.cli.demo.bench", lambda *_, **__: sample_report(rounds=20))
    monkeypatch.chdir(tmp_path)
    check_demo(capsys)


def check_demo(capsys):
    """Run the demo; what it suggests exists, and the first suggestion works as it stands."""
    from edgeresnext.cli import main

    main(["demo"])
    out, err = capsys.readouterr()
    assert re.search(r"^ok +openvino-int8", out, re.MULTILINE)
    suggested = [line.split() for line in err.partition("Try next:")[2].splitlines() if line.strip()]
    assert {words[1] for words in suggested} == {"predict", "inspect", "bench", "build"}
    for words in suggested:
        pages.check_words(words)
    main(suggested[0][1:])
    assert capsys.readouterr().out.split()[1] == "7"


def test_the_readme_fits_on_a_screen_or_two_and_says_at_once_what_has_run():
    assert len(README.splitlines()) <= 130
    assert len(README.encode()) <= 8192
    assert "not yet run on hardware" in README.splitlines()[2]


def test_the_readme_names_every_command():
    from edgeresnext.cli.root import cli

    assert set(cli.commands) <= set(re.findall(r"`(?:edgeresnext )?([a-z]+)", README))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_and_options_that_a_page_names_exist(page):
    from edgeresnext.cli.root import cli

    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"`edgeresnext ([a-z]+)", text)) <= set(cli.commands)
    ours = {name for command in cli.commands.values() for one in command.params for name in one.opts}
    assert set(re.findall(r"`(--[a-z][a-z0-9-]*)", text)) <= ours | FOREIGN_OPTIONS


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "benchmarks").glob("*.md"))], ids=page_name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file, _, heading = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


def test_the_tables_are_those_of_the_stored_results():
    done = subprocess.run(
        [sys.executable, "benchmarks/render.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda p: p.stem)
def test_every_stored_result_names_its_machine(path):
    environment = json.loads(path.read_text())["environment"]
    assert environment["cpu"]
    assert environment["date"]
