"""A clock that only moves when told, and sessions that take known times on it."""

from functools import partial

import numpy as np

from edgeresnext.backends.base import Session
from edgeresnext.data.images import load_image
from edgeresnext.errors import BackendError
from edgeresnext.measure import bench, scenarios, variants
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


class Known(Scripted):
    """A session that knows the logits of the images that it will be shown, by their bytes, and what it was prepared for."""

    def __init__(self, clock, times, logits, largest=None):
        super().__init__(clock, times)
        self.logits, self.most, self.prepared = logits, largest, []

    def prepare(self, images):
        self.prepared.append(len(images))
        super().prepare(images)

    def _run(self, images):
        super()._run(images)
        if self.most is not None and len(images) > self.most:
            raise BackendError(f"out of memory on a batch of {len(images)}")
        return np.stack([self.logits[image.tobytes()] for image in images])


def on_clock(monkeypatch, clock):
    """Let a benchmark's scenarios and scopes pass on a scripted clock."""
    for module, names in {
        scenarios: ("interleave", "warm_up", "timed", "settle"),
        bench: ("settle", "time_scopes"),
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, partial(getattr(module, name), clock=clock))
    monkeypatch.setattr(scenarios, "serve", partial(scenarios.serve, clock=clock, sleep=clock.sleep))


def answers(bundle, folders=None):
    """Return the logits of a bundle's golden images, and of every image of class folders that it is of its class."""
    golden = bundle.golden()
    found = dict(zip((image.tobytes() for image in golden.images), golden.logits, strict=True))
    for path in folders.glob("*/*.png") if folders else ():
        image = load_image(path, bundle.manifest.model.preprocess)
        found[image.tobytes()] = [10.0 * (label == path.parent.name) for label in bundle.labels()]
    return found


def open_known(monkeypatch, logits, times=None):
    """Let benchmarks open sessions that know their answers, on a scripted clock; return them by name as they are opened.

    A run takes `times` seconds by name, else 2 ms.
    """
    clock = Clock(look_s=1e-6)
    on_clock(monkeypatch, clock)
    found = {}

    def open_artifact(_bundle, artifact, _threads=None):
        found[artifact.name] = Known(clock, (times or {}).get(artifact.name, 0.002), logits)
        return found[artifact.name]

    monkeypatch.setattr(variants, "open_artifact", open_artifact)
    return found
