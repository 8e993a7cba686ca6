"""A clock that only moves when told, and sessions that take known times on it."""

import numpy as np

from edgeresnext.backends.base import Session
from edgeresnext.errors import BackendError
from edgeresnext.model.catalogue import specify

IMAGES = np.zeros((3, 32, 32, 3), np.uint8)


class Clock:
    """Time that passes while a scripted session runs, while somebody sleeps, and a little at every look."""

    def __init__(self, look_s=0.0):
        self.now = 100.0
        self.look_s = look_s

    def __call__(self):
        self.now += self.look_s
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Scripted(Session):
    """A session whose runs take a known time on a scripted clock, or times that a function gives."""

    def __init__(self, clock, times, log=None, name="", fail_at=None):
        super().__init__(specify("resnext20_8x4d"))
        self.clock, self.log, self.name, self.fail_at = clock, log, name, fail_at
        self.times = times if callable(times) else lambda: times
        self.runs = 0

    def _run(self, images):
        self.runs += 1
        if self.runs == self.fail_at:
            raise BackendError("it broke")
        if self.log is not None:
            self.log.append(self.name)
        self.clock.now += self.times()
        return np.zeros((len(images), 10), np.float32)
