"""How tests/gpu runs its stages: nothing hangs, a crash is a result, everything is JSON at any moment."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gpu import runner
from gpu.check import STAGES_VARIABLE, checks_of

TESTS = Path(__file__).parents[1]
FAKES = {
    "good": '''
        """A stage that goes well."""

        @check(60)
        def figures(work):
            """It returns figures."""
            return {"cycles": work.times(1000), "seconds": work.seconds}

        @check(60, "a", "b")
        def variant(work, name):
            """One for each variant."""
            if name == "b":
                raise Skipped("there is no b here")
            (work.folder / "left").write_text("for the next")
    ''',
    "bad": '''
        """A stage in which everything goes wrong."""

        @check(60)
        def wrong(work):
            """It fails."""
            print("before it failed")
            assert 1 == 2, "one is not two"

        @check(60)
        def crash(work):
            """It crashes."""
            print("before it crashed", flush=True)
            os.abort()

        @check(60)
        def crash_on_the_way_out(work):
            """It passes, and then crashes."""
            atexit.register(os._exit, 9)

        @check(1)
        def hang(work):
            """It never ends, nor does what it has started."""
            started = subprocess.Popen(["sleep", "1000"])
            (work.folder / "started").write_text(str(started.pid))
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print("hanging", flush=True)
            time.sleep(1000)

        @check(60)
        def after(work):
            """What comes after runs all the same."""
    ''',
    "skipping": '''
        """A stage with nothing to do."""

        @check(60)
        def nothing(work):
            """It is skipped."""
            raise Skipped("nothing is here")
    ''',
}
HEAD = "import atexit, os, signal, subprocess, time\nfrom gpu.check import Skipped, check\n"


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """Stages of our own, and a GPU as far as the runner is told."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    for name, text in FAKES.items():
        lines = text.strip("\n").splitlines()
        title, *rest = (line.removeprefix("        ") for line in lines)
        (folder / f"{name}.py").write_text("\n".join([title, HEAD, *rest]) + "\n")
    monkeypatch.setenv(STAGES_VARIABLE, "fakes")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(TESTS), str(TESTS.parent)]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        runner, "probe", lambda out: (out.mkdir(parents=True, exist_ok=True), ({"name": "A GPU"}, ""))[1]
    )
    for name in FAKES:
        monkeypatch.delitem(sys.modules, f"fakes.{name}", raising=False)
    return tmp_path


def run(stages, name, *, minutes=5.0, said=None):
    found = runner.run_stage(
        name,
        stages / "out",
        stages / "out" / "work",
        deadline=time.monotonic() + 60 * minutes,
        seconds=7.0,
        scale=0.01,
        say=(said if said is not None else []).append,
    )
    assert json.loads((stages / "out" / f"{name}.json").read_text()) == found
    return found, {one["name"]: one for one in found["checks"]}


def test_a_stage_that_goes_well_is_figures_and_reasons_in_json(stages):
    said = []
    found, checks = run(stages, "good", said=said)
    assert (found["title"], found["status"], found["gpu"]) == ("A stage that goes well.", "passed", {"name": "A GPU"})
    assert checks["figures"]["figures"] == {"cycles": 10, "seconds": 7.0}
    assert checks["variant[a]"]["status"] == "passed"
    assert checks["variant[b]"]["reason"] == "there is no b here"
    assert (stages / "out" / "work" / "left").exists()
    assert said[-1] == "good  variant[b]  skipped: there is no b here"


def test_what_fails_crashes_or_hangs_is_told_and_the_next_check_runs(stages):
    found, checks = run(stages, "bad")
    assert found["status"] == "failed"
    assert {name: one["status"] for name, one in checks.items()} == {
        "wrong": "failed",
        "crash": "crashed",
        "crash_on_the_way_out": "crashed",
        "hang": "timed out",
        "after": "passed",
    }
    assert checks["wrong"]["reason"] == "AssertionError: one is not two"
    assert "before it failed" in checks["wrong"]["output"]
    assert checks["crash"]["reason"] == "ended by SIGABRT"
    assert "before it crashed" in checks["crash"]["output"]
    assert checks["crash_on_the_way_out"]["reason"] == "ended with exit code 9 after it had passed"
    assert checks["hang"]["reason"] == "it did not end within 1 s"
    assert checks["hang"]["output"] == ["hanging"]
    pid = int((stages / "out" / "work" / "started").read_text())
    assert not alive(pid)  # with all that it had started


def alive(pid):
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_where_all_is_skipped_the_stage_is(stages):
    found, _ = run(stages, "skipping")
    assert found["status"] == "skipped"


def test_when_the_time_is_up_nothing_more_is_begun(stages):
    found, checks = run(stages, "good", minutes=0)
    assert found["status"] == "not run"
    assert {one["reason"] for one in checks.values()} == {"the time was up"}


def test_the_last_check_gets_no_more_than_what_is_left(stages, monkeypatch):
    limits = []
    monkeypatch.setattr(runner, "child", lambda arguments, limit_s: (limits.append(limit_s), (None, limit_s, []))[1])
    _, checks = run(stages, "skipping", minutes=0.1)
    assert 0 < limits[0] <= 6
    assert checks["nothing"]["status"] == "timed out"


def test_a_stage_is_there_after_every_check(stages, monkeypatch):
    seen = []
    monkeypatch.setattr(runner, "write", lambda file, found: seen.append([one["name"] for one in found["checks"]]))
    runner.run_stage(
        "good", stages / "out", stages / "work", deadline=time.monotonic() + 60, scale=0.01, say=seen.append
    )
    assert [names for names in seen if isinstance(names, list)][:3] == [
        ["figures"],
        ["figures", "variant[a]"],
        ["figures", "variant[a]", "variant[b]"],
    ]


def test_without_a_gpu_every_stage_says_so_and_is_json(tmp_path):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}  # also where there is one
    done = subprocess.run(
        [TESTS / "gpu" / "run.sh", "--out", tmp_path / "out"],
        env=environment | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 4, done.stderr
    for name in runner.STAGES:
        found = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert (found["status"], found["checks"]) == ("no GPU", [])
        assert f"{name}: no GPU: no NVIDIA GPU with a driver" in done.stdout


def test_a_driver_that_does_not_answer_is_no_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "child", lambda arguments, limit_s: (None, limit_s, []))
    found = runner.run_stage("cuda", tmp_path, tmp_path, deadline=time.monotonic() + 60, say=lambda _: None)
    assert (found["status"], found["reason"]) == ("failed", "the driver did not answer within 60 s")


def test_an_unknown_stage_is_refused_with_those_that_exist(capsys):
    with pytest.raises(SystemExit):
        runner.main(["--only", "cuda,cudda"])
    assert "no stage 'cudda'; there are inventory, cuda, " in capsys.readouterr().err


@pytest.mark.parametrize("name", runner.STAGES)
def test_every_stage_stands_alone_and_its_limits_are_set(name):
    found = checks_of(name)
    assert found
    assert len({one.name for one in found}) == len(found)
    assert all(0 < one.limit_s <= 900 and one.title for one in found)
