import sys
import types
from typing import ClassVar

import pytest

from edgeresnext.backends.nvtx_ranges import nvtx_range


@pytest.fixture(autouse=True)
def asked_anew():
    """Whether `nvtx` is there is asked once a process."""
    nvtx_range.cache_clear()
    yield
    nvtx_range.cache_clear()


class Annotate:
    """`nvtx.annotate` of nvtx 0.2, as a list of what is pushed and popped."""

    seen: ClassVar = []

    def __init__(self, message=None, color=None, domain=None, category=None, payload=None):
        self.name = f"{domain}:{message}"

    def __enter__(self):
        self.seen.append(f"+{self.name}")
        return self

    def __exit__(self, *_):
        self.seen.append(f"-{self.name}")
        return False


def test_ranges_are_pushed_and_popped_also_where_the_block_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvtx", types.SimpleNamespace(annotate=Annotate, __spec__=types.SimpleNamespace()))
    monkeypatch.setattr(Annotate, "seen", [])
    with pytest.raises(ZeroDivisionError), nvtx_range("run"), nvtx_range("copy"):
        _ = 1 / 0
    with nvtx_range("run"):
        pass
    assert Annotate.seen == [
        "+edgeresnext:run", "+edgeresnext:copy", "-edgeresnext:copy", "-edgeresnext:run", "+edgeresnext:run", "-edgeresnext:run",
    ]  # fmt: skip


@pytest.mark.parametrize("why", ["not installed", "does not start"])
def test_without_nvtx_there_are_none_and_errors_pass_through(monkeypatch, why):
    monkeypatch.setitem(sys.modules, "nvtx", None)  # which makes the import fail
    monkeypatch.setattr("edgeresnext.backends.nvtx_ranges.installed", lambda _: why == "does not start")
    with pytest.raises(KeyError), nvtx_range("run"), nvtx_range("run"):
        raise KeyError


def test_the_package_itself_where_it_is_installed():
    pytest.importorskip("nvtx")
    with nvtx_range("run"), nvtx_range("copy"), nvtx_range("run"):
        pass
