"""What the tests of the command line share."""

import os
import signal
from contextlib import contextmanager

import pytest
from scripted import answers, open_known

from edgeresnext.cli import console, main


@pytest.fixture
def run(capsys):
    """Run the command line in this process and return its exit code, stdout and stderr."""

    def call(*arguments):
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture
def opened(monkeypatch, built):
    """The sessions that a benchmark of the digits bundle opens, by name: they know the golden images."""
    return open_known(monkeypatch, answers(built))


@pytest.fixture
def ctrl_c(monkeypatch):
    """Interrupt this process, as a terminal does, when a stage has come so far."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

    def at(stage, done):
        @contextmanager
        def progress():
            def tell(name, now, _total):
                if (name, now) == (stage, done):
                    os.kill(os.getpid(), signal.SIGINT)

            yield tell

        monkeypatch.setattr(console, "progress", progress)

    yield at
    signal.signal(signal.SIGINT, before)
