"""What the tests of the command line share."""

import pytest

from edgeresnext.cli.main import main


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
