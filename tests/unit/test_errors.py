import inspect
import re

import pytest

from edgeresnext import errors


def error_classes():
    return [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]


@pytest.mark.parametrize("error", error_classes(), ids=lambda e: e.__name__)
def test_every_error_has_one_root_and_stands_in_the_drawn_tree_with_its_exit_code(error):
    assert issubclass(error, errors.EdgeResNeXtError)
    line = next(line for line in errors.__doc__.splitlines() if re.search(rf"\b{error.__name__}\b", line))
    drawn = re.search(r"\s(\d)\s", line)
    assert drawn is None or int(drawn[1]) == error.exit_code


def test_a_message_carries_its_hint_on_the_next_line():
    assert str(errors.DataError("it broke", "mend it")) == "it broke\n  mend it"


def test_an_unknown_name_suggests_the_nearest():
    error = errors.unknown_name("model", "resnext50_32x4", ["resnet50", "resnext50_32x4d"])
    assert "Did you mean 'resnext50_32x4d'?" in error.hint
    assert "Did you mean" not in errors.unknown_name("model", "zzz", ["resnet50"]).hint
