"""What a run survives: it goes on to the same end, and keeps what it has."""

import shutil
import subprocess
import sys

import msgspec
import pytest
from short_runs import RECIPE, Killed, assert_equal, killed_at, state, trained

from edgeresnext import TrainingRecipe
from edgeresnext.errors import CheckpointError, DataError, InputError, RequestError
from edgeresnext.model.catalogue import PREPROCESS
from edgeresnext.training.run_folder import RUN, RunFolder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": 0.9, "mixup": 0.3, "cutmix": 0.3},
        {"optimiser": "adamw", "accumulate": 2, "clip": 1.0, "trivial": True, "erase": 0.5, "flip": True},
        {"freeze": "stem", "unfreeze_epochs": 1, "layer_decay": 0.5, "balance": "sampler"},
    ],
    ids=["plain", "ema and mixing", "adamw", "freezing"],
)
def test_a_run_that_was_killed_ends_with_the_same_weights(three, tmp_path, changes):
    recipe = msgspec.structs.replace(RECIPE, checkpoint_minutes=0.0, **changes)
    whole = trained(three, tmp_path / "whole", recipe)
    path = tmp_path / "killed"
    killed_at(2, three, output=path, recipe=recipe)
    killed_at(5, three, resume=path, recipe=None)
    again = trained(three, resume=path, recipe=None)
    assert_equal(state(whole.network), state(again.network))
    assert [one.loss for one in whole.history] == [one.loss for one in again.history]
    assert (whole.path / "best.safetensors").read_bytes() == (path / "best.safetensors").read_bytes()


def test_without_checkpoints_inside_epochs_a_killed_run_repeats_its_epoch(three, tmp_path):
    whole = trained(three, tmp_path / "whole")
    killed_at(6, three, output=tmp_path / "killed")
    assert len((tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()) == 1
    assert_equal(state(whole.network), state(trained(three, resume=tmp_path / "killed", recipe=None).network))


def test_a_finished_run_that_is_resumed_stays_as_it_is(three, tmp_path):
    run = trained(three, tmp_path / "run")
    before = (run.path / "best.safetensors").read_bytes()
    assert trained(three, resume=run.path, recipe=None).history == run.history
    assert (run.path / "best.safetensors").read_bytes() == before


def test_interrupted_a_run_saves_first(three, tmp_path):
    script = f"""
import os, signal, edgeresnext
from edgeresnext import TrainingRecipe
from edgeresnext.model.catalogue import PREPROCESS
signal.signal(signal.SIGINT, signal.default_int_handler)  # who is started in the background has it ignored
def progress(stage, done, total):
    if done == 2: os.kill(os.getpid(), signal.SIGINT)
edgeresnext.train({str(three)!r}, output={str(tmp_path / "run")!r}, model="resnet20", preprocess=PREPROCESS["digits"],
                  recipe=TrainingRecipe(epochs=2, batch=16), progress=progress)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "KeyboardInterrupt" in done.stderr
    about = (tmp_path / "run" / "state.safetensors").read_bytes()[:4000]
    assert b'\\"step\\": 3' in about


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"recipe": TrainingRecipe(epochs=4, batch=16, learning_rate=0.05)}, "epochs: 3 then, 4 now"),
        ({"data": "other"}, "images: 60 then, 59 now"),
        ({"preprocess": PREPROCESS["cifar"]}, "network"),
    ],
)
def test_a_run_is_not_resumed_with_what_is_not_its_own(three, tmp_path, changes, told):
    data = tmp_path / "data"
    shutil.copytree(three, data)
    killed_at(2, data, output=tmp_path / "run")
    if changes.pop("data", None):
        next((data / "train" / "0").iterdir()).unlink()
    with pytest.raises(RequestError, match="cannot be resumed") as caught:
        trained(data, resume=tmp_path / "run", **{"recipe": None, **changes})
    assert told in str(caught.value)


def test_two_runs_in_one_folder_and_a_folder_of_something_else(three, tmp_path):
    from edgeresnext.training.run_folder import opened

    run = trained(three, tmp_path / "run", msgspec.structs.replace(RECIPE, epochs=1))
    with pytest.raises(RequestError, match="holds a run already"):
        trained(three, run.path)
    script = f"""
import pathlib, time
from edgeresnext.training.run_folder import opened
with opened(pathlib.Path({str(run.path)!r}), resume=True):
    print("open", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        with pytest.raises(DataError, match="another process is training"):
            trained(three, resume=run.path, recipe=None)
        other.kill()
    with opened(run.path, resume=True):
        pass
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="holds no run"):
        trained(three, tmp_path / "full")
    with pytest.raises(RequestError, match="holds no run to resume"):
        trained(three, resume=tmp_path / "full", recipe=None)


def test_a_full_disk_keeps_the_last_checkpoint(three, tmp_path, monkeypatch):
    killed_at(5, three, output=tmp_path / "run")
    kept = (tmp_path / "run" / "state.safetensors").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left") as caught:
        trained(three, resume=tmp_path / "run", recipe=None)
    assert "to resume from" in str(caught.value)
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == kept
    assert not list((tmp_path / "run").glob("*.partial"))


def test_damaged_state_is_refused_by_name(three, tmp_path):
    killed_at(2, three, output=tmp_path / "run")
    path = tmp_path / "run" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        trained(three, resume=tmp_path / "run", recipe=None)


def test_a_run_that_was_killed_before_it_was_one_is_begun_again(three, tmp_path, monkeypatch):
    write = RunFolder.write

    def killed(self, name, content):
        if name == RUN:
            raise Killed
        write(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write", killed)
        with pytest.raises(Killed):
            trained(three, tmp_path / "run")
    (tmp_path / "run" / ".0123456789ab-01234567.partial").touch()
    assert trained(three, tmp_path / "run").best.top1 is not None
    assert not list((tmp_path / "run").glob("*.partial"))


def test_a_signal_that_ends_nothing_costs_no_step(three, tmp_path):
    import os
    import signal

    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(1))

    def progress(_stage, done, _total):
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        run = trained(three, tmp_path / "run", progress=progress)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [1]
    assert [one.images for one in run.history] == [60, 60, 60]
