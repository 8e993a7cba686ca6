import ctypes

import pytest

from edgeresnext.machine import allocator


class Library:
    """Takes note of what the C library is told."""

    def __init__(self):
        self.told = []

    def mallopt(self, option, value):
        self.told.append((option, value))

    def malloc_trim(self, padding):
        self.told.append(("trim", padding))


def test_freed_memory_is_kept_meanwhile_and_returned_afterwards(monkeypatch):
    library = Library()
    monkeypatch.setattr(allocator, "_library", lambda: library)

    def fail():
        with allocator.keeping_freed_memory():
            assert library.told == [(-1, 2**31 - 1), (-3, 2**31 - 1)]
            library.told = []
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert library.told == [(-1, 2**26), (-3, 2**25), ("trim", 0)]


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    with allocator.keeping_freed_memory():
        pass
