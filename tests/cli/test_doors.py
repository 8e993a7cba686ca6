"""What comes from outside to the terminal, and how the program ends."""

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from pathlib import Path

import pytest
from processes import PATIENCE_S, children, comes, lives

from edgeresnext import bundle as bundles
from edgeresnext import directories
from edgeresnext.bundle.manifest import LABELS
from edgeresnext.cli import console
from edgeresnext.cli.demo import demo
from edgeresnext.data.digits import prepare
from edgeresnext.errors import DataError
from edgeresnext.report.files import read_report

ESCAPE = "\x1b]52;c;aGVsbG8=\x07\u202eevil"
SHOWN = r"\u001b]52;c;aGVsbG8=\u0007\u202eevil"


@pytest.fixture
def evil(bundle_copy):
    """A bundle whose labels would act on a terminal."""
    (bundle_copy / LABELS).write_text("\n".join(f"{ESCAPE} {digit}" for digit in range(10)) + "\n", encoding="utf-8")
    import msgspec

    manifest = bundles.read(bundle_copy).manifest
    bundles.write_manifest(bundle_copy, msgspec.structs.replace(manifest, files=bundles.list_files(bundle_copy)))
    return bundle_copy


@pytest.fixture
def named(few_digits, tmp_path):
    """A photo whose name is no UTF-8 and would act on a terminal."""
    source = next((few_digits / "7").iterdir())
    target = os.fsencode(tmp_path) + b"/\xff\x1b[31m.png"
    shutil.copy(os.fsencode(source), target)
    return os.fsdecode(target)


def test_labels_and_names_are_shown_and_not_acted_on(run, evil, named):
    code, out, err = run("predict", evil, named, named)
    assert code == 0
    assert SHOWN in out
    assert r"\udcff\u001b[31m.png" in out
    assert not set("\x1b\x07\u202e") & set(out + err)


def test_json_has_the_same_text_whatever_it_is(run, evil, named):
    code, out, _ = run("predict", evil, named, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["images"][named][0]["label"].startswith(ESCAPE)
    assert not set("\x1b\x07\u202e") & set(out)


def test_messages_of_errors_are_shown_too(run):
    code, _, err = run("verify", f"no{ESCAPE}where")
    assert code == 5
    assert f"no{SHOWN}where" in err


@pytest.mark.parametrize(
    "text", ["a\tb\nc", "é 日本 🙂", "\\u001b", "❤\ufe0f\u200d🔥", "\u0645\u06cc\u200c\u062e", "क्\u200dष"]
)
def test_text_of_people_is_left_alone(text):
    assert console.visible(text) == text


@pytest.mark.parametrize(
    "unseen",
    ["\xad", "\u200b", "\u200c", "\u200d", "\u2060", "\u3164", "\ufeff", "\ufffb", "\U000e0041", "\U000e0100"],
)
def test_characters_of_no_width_are_shown_as_json_writes_them(unseen):
    shown = console.visible(f"ad{unseen}min")
    assert shown.isascii()
    assert json.loads(f'"{shown}"') == f"ad{unseen}min"


def test_every_character_that_unicode_calls_invisible_formatting_is_shown():
    kept = {found for code in range(sys.maxunicode) if unicodedata.category(found := chr(code)) == "Cf"}
    kept = {found for found in kept if console.visible(found) == found}
    # Signs of Arabic, Syriac and Kaithi numbers and verses, which are drawn.
    assert {ord(found) for found in kept} <= {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}


def test_the_end_of_a_line_in_a_name_begins_no_other(run, built, few_digits, tmp_path):
    name = "x.png\nerror: all images were deleted"
    (tmp_path / name).write_bytes(b"no image")
    shown = name.replace("\n", r"\u000a")
    for arguments in (("predict", built.path, tmp_path / name), ("verify", tmp_path / name)):
        code, _, err = run(*arguments)
        assert code in (2, 5)
        assert shown in err
        assert name not in err


def test_the_end_of_a_line_in_a_message_of_the_log_begins_no_other(run, built, monkeypatch, few_digits):
    def told(*_arguments, **_options):
        logging.getLogger("edgeresnext").warning("skipped: '%s'", "a\nerror: b")
        raise DataError("c\nerror: d", "e\nerror: f")

    monkeypatch.setattr("edgeresnext.verify", told, raising=False)
    assert run("verify", "x")[2].splitlines() == [
        r"skipped: 'a\u000aerror: b'", r"error: c\u000aerror: d", r"  e\u000aerror: f",
    ]  # fmt: skip


def test_an_end_of_file_that_nobody_foresaw_is_no_interruption(run, monkeypatch):
    def broken(*_arguments, **_options):
        raise EOFError("marker missing")

    monkeypatch.setattr("edgeresnext.verify", broken, raising=False)
    code, _, err = run("verify", "x")
    assert code == 1
    assert err.startswith("error: EOFError: marker missing\n  This is a bug")


def test_a_bad_image_does_not_hide_the_others(run, built, few_digits, tmp_path):
    (tmp_path / "b.png").write_bytes(b"no image")
    shutil.copy(next((few_digits / "7").iterdir()), tmp_path / "a.png")
    shutil.copy(next((few_digits / "3").iterdir()), tmp_path / "c.png")
    code, out, err = run("predict", built.path, tmp_path, "--json")
    found = json.loads(out)
    assert code == 5
    assert [found["images"][str(tmp_path / f"{name}.png")][0]["label"] for name in "ac"] == ["7", "3"]
    assert list(found["skipped"]) == [str(tmp_path / "b.png")]
    assert "1 of 3 images could not be classified" in err


def test_how_much_is_said_is_chosen(run, built, few_digits):
    photo = next((few_digits / "7").iterdir())
    said = "running " + built.artifacts()[0].name.split("-", maxsplit=1)[0]
    assert run("-v", "-q", "predict", built.path, photo)[0] == 2
    assert said not in run("predict", built.path, photo)[2]
    assert said in run("-v", "predict", built.path, photo)[2]
    lines = run("--log-json", "-v", "predict", built.path, photo)[2].splitlines()
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    assert any(said in message["message"] and message["level"] == "info" for message in messages)
    logging.getLogger("edgeresnext").setLevel(logging.NOTSET)


def test_an_error_that_nobody_foresaw_is_one_line(run, monkeypatch):
    def broken(*_arguments, **_options):
        raise ZeroDivisionError("for a test")

    monkeypatch.setattr("edgeresnext.verify", broken, raising=False)
    code, _, err = run("verify", "x")
    assert code == 1
    assert (
        err == "error: ZeroDivisionError: for a test\n  This is a bug; report it with what `edgeresnext -vv` prints.\n"
    )


def test_what_the_system_refuses_is_said_in_its_words(run):
    code, _, err = run("verify", "x" * 5000)
    assert code == 5
    assert "File name too long" in err


def wait_for_handler(pid, number):
    """Wait until a process handles SIGTERM and another signal: before that Python itself has only begun."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        caught = next(
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")
        )
        if all(int(caught.split()[1], 16) >> (one - 1) & 1 for one in (signal.SIGTERM, number)):
            return
        time.sleep(0.005)
    pytest.fail("it never handles the signal")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which signals a process handles")
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
@pytest.mark.parametrize("stage", ["start", "calibrate"])
def test_a_build_that_is_asked_to_end_leaves_what_was_there(tmp_path, number, code, word, stage):
    images = prepare(tmp_path / "digits")["calibration"]
    output = tmp_path / "out" / "bundle"
    output.parent.mkdir()
    command = [
        sys.executable, "-m", "edgeresnext", "build", "resnet110", "--random-weights", "--calibration", images,
        "--output", output,
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread runs yet
    ) as process:  # fmt: skip
        if stage == "start":
            wait_for_handler(process.pid, number)
            said = ""
        else:
            said = next(line for line in process.stderr if line.startswith("calibrate"))
        process.send_signal(number)
        said += process.stderr.read()
        assert process.wait(60) == code
    assert "Traceback" not in said
    assert stage == "start" or word in said
    assert [path.name for path in output.parent.iterdir()] in ([], [".bundle.lock"])


@pytest.mark.skipif(sys.platform == "win32", reason="of POSIX shells")
def test_streams_that_are_closed_do_not_lend_their_numbers_to_files(built):
    program = "import os, sys; from edgeresnext import __main__; __main__._open_standard_streams(); print(os.dup(1))"
    script = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(program)} <&- 2>&-"
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == "3\n"
    script = f"exec {shlex.quote(sys.executable)} -m edgeresnext inspect {shlex.quote(str(built.path))} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", script], check=False).returncode == 0


def test_the_command_line_runs_in_any_thread(built, capsys, monkeypatch):
    from edgeresnext.__main__ import main

    monkeypatch.setattr(sys, "argv", ["edgeresnext", "inspect", str(built.path)])
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
    assert "resnext20_8x4d" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which signals a process handles")
def test_a_benchmark_that_is_terminated_while_a_child_measures_memory_leaves_none(built, tmp_path):
    skipped = ("pytorch", "compile", "accuracy", "scopes", "energy", "layers")
    command = [
        sys.executable, "-m", "edgeresnext", "bench", built.path, "--rounds", "1", "--save", tmp_path / "r.json",
        *(word for stage in skipped for word in ("--skip", stage)),
    ]  # fmt: skip
    worker = "edgeresnext.measure.memory"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        said = next(line for line in process.stderr if line.startswith("memory"))
        assert comes(lambda: children(process, worker))
        workers = children(process, worker)
        process.send_signal(signal.SIGTERM)
        said += process.stderr.read()
        assert process.wait(PATIENCE_S) == 143
    assert comes(lambda: not any(lives(one) for one in workers))
    assert "terminated; the report holds what was measured before" in said
    assert read_report(tmp_path / "r.json").partial


@pytest.mark.skipif(sys.platform == "win32", reason="no process is killed there")
def test_a_build_goes_on_with_a_bundle_that_a_killed_one_left_aside(run, bundle_copy):
    aside = directories.previous(bundle_copy)
    bundle_copy.rename(aside)
    code, _, err = run("verify", bundle_copy)
    assert code == 5
    assert f"it waits in '{aside}'" in err
    code, _, err = run("build", bundle_copy, "--target", "jetson-orin")
    assert "neither a network nor" not in err
    code, _, err = run("build", bundle_copy, "--target", "rtx40", "--precision", "bf16")
    assert code == 2
    assert aside.exists(), "nothing is done before the request is right"


def test_a_demo_goes_on_where_one_was_killed(tmp_path, monkeypatch):
    for name in (".digits.partial-1", ".bundle.partial-2", ".bundle.previous"):
        (tmp_path / name).mkdir()
    (tmp_path / ".bundle.lock").touch()

    def enough(*_arguments, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr("edgeresnext.cli.demo.build", enough)
    with pytest.raises(ZeroDivisionError):
        demo(tmp_path)
    assert (tmp_path / "digits" / "validation").is_dir()
    assert not (tmp_path / ".digits.partial-1").exists()
    (tmp_path / "mine").touch()
    with pytest.raises(DataError, match="something other than a demo: mine"):
        demo(tmp_path)
