"""What tests ask of processes that they have started."""

import time

import psutil

PATIENCE_S = 60
"""For what happens at once on a machine that does nothing else."""


def children(process, word):
    """Return the children of this process alone that have a word in their command line: other tests run beside this one."""
    return [
        child for child in psutil.Process(process.pid).children(recursive=True) if word in " ".join(child.cmdline())
    ]


def lives(process):
    """Whether a process runs; one that ended and whose parent has not asked for it yet does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def comes(condition):
    """Whether a condition comes true before patience ends."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
