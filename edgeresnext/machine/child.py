"""Start Python anew: with what this process imports, and nothing from the current directory.

`python -m` and `python -c` look for every package in the current directory first, which may be a stranger's: a
`numpy.py` there would run.
"""

from __future__ import annotations

import os
import sys


def command(module: str, *arguments: str) -> list[str]:
    """Return what runs a module of ours as a program."""
    return running(f"import runpy; runpy.run_module({module!r}, None, '__main__', True)", *arguments)


def running(program: str, *arguments: str) -> list[str]:
    """Return what runs a program, given as text, with this process's own path behind what PYTHONPATH names."""
    named = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    path = list(dict.fromkeys([*named, *sys.path]))
    return [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}\n{program}", *arguments]
