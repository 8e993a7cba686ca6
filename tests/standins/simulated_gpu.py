"""The simulated device that the TensorRT and CUDA stand-ins share.

Work is queued on a stream and runs only when the stream is synchronised, or when another stream that is synchronised
waits for it; so a missing synchronisation, a buffer freed too early, a copy of the wrong size and work on a wrong stream
show on a machine without a GPU.
"""

import itertools
import json
import os
import threading
import uuid

from .simulated_memory import FIRST_ADDRESS, Memory
from .simulated_streams import (
    DEVICE_TO_DEVICE,
    DEVICE_TO_HOST,
    HOST_TO_DEVICE,
    LEGACY_STREAMS,
    NOT_YET_COPIED,
    Operation,
    Stream,
    Streams,
)

__all__ = [
    "DEVICE_TO_DEVICE",
    "DEVICE_TO_HOST",
    "FIRST_CONTEXT",
    "HOST_TO_DEVICE",
    "LEGACY_STREAMS",
    "NOT_YET_COPIED",
    "Fault",
    "Gpu",
    "Operation",
    "gpu",
]

SETTINGS = {
    "name": "NVIDIA Stand-in",
    "compute_capability": (8, 9),
    "memory_bytes": 8 << 30,
    "driver_version": 12080,
    "integrated": 0,
    "multiprocessors": 128,
    "dla_cores": 0,
    "count": 1,
    "others": (),  # settings of the devices behind the first
}
FIRST_CONTEXT = 0xC000


class Fault(AssertionError):  # noqa: N818 - the name that the driver gives it
    """A use of the device that would corrupt memory, crash, or read what is not there yet."""


class Gpu(Memory, Streams):
    """One device. Every setting of SETTINGS is an attribute and may be changed by a test.

    Attributes:
        faults: what went wrong so far, in words.
        failures: {function or method name: "fail" | "kill" | "abort" | "exit" | "hang FILE" (made when it hangs) | a CUDA error number}, used up by the next call.
        copies: (kind, destination, source, nbytes) of each copy that was queued.
        left_behind: a capture failed, and the runtime that TensorRT links has kept the error.
        compiled: the engines whose kernels TensorRT-RTX had to compile, with no runtime cache that had them.
    """

    def __init__(self):
        # Host memory freed by the code under test stays mapped, so that a late access is seen and does not crash.
        self._graveyard = []
        # Never given out twice, so that what outlives a reset cannot touch what came after it.
        self._next_address = FIRST_ADDRESS
        self._handles = itertools.count(0x5000, 0x10)
        self._numbers = itertools.count()
        self._current = threading.local()
        self.reset()

    def reset(self, **settings):
        """Forget everything; settings come from SETTINGS, then STANDIN_GPU, then the arguments."""
        chosen = {**SETTINGS, "failures": {}, **json.loads(os.environ.get("STANDIN_GPU", "{}")), **settings}
        for name, value in chosen.items():
            setattr(self, name, tuple(value) if name in ("compute_capability", "others") else value)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        for index, device in enumerate(self.devices):
            if visible == f"GPU-{self.uuid(index)}":
                self.name, self.compute_capability = device["name"], tuple(device["compute_capability"])
                self.others = ()
        self._graveyard.extend(owner for _, owner in getattr(self, "pinned", {}).values())
        self.first_address = self._next_address
        self.allocations = {}
        self.owners = {}
        self.freed = {}
        self.pinned = {}
        self.freed_pinned = {}
        self.reserved = {}
        self.streams = {handle: Stream() for handle in LEGACY_STREAMS}
        self.streams[1] = self.streams[0]  # CU_STREAM_LEGACY is the default stream by another number
        self.events = {}
        self.graphs = {}
        self.executables = {}
        self.contexts = {}
        self._current.stack = []
        self.left_behind = False
        self.faults = []
        self.copies = []
        self.compiled = []
        self.launched = 0
        self.clock = 0.0

    def fault(self, message):
        """Record the fault and raise it."""
        self.faults.append(message)
        raise Fault(message)

    # Devices and contexts

    @property
    def devices(self):
        """The settings of each device."""
        own = {"name": self.name, "compute_capability": self.compute_capability}
        return [own, *({**own, **other} for other in self.others)][: self.count if self.count < 1 else None]

    @property
    def capability(self):
        """The compute capability of the device that is current; the first without a context, as CUDA's runtime has it."""
        return list(self.devices[self.current or 0]["compute_capability"])

    @staticmethod
    def uuid(index):
        """The UUID of a device."""
        return uuid.UUID(int=(0xA100_0000 + index) << 96 | 0x1234)

    @property
    def stack(self):
        """The contexts that are current in this thread, as the devices that they belong to."""
        if not hasattr(self._current, "stack"):
            self._current.stack = []
        return self._current.stack

    @property
    def current(self):
        """The device that is current in this thread; None without a context."""
        return self.stack[-1] if self.stack else None

    def retain(self, device):
        """Retain the primary context of a device; its handle."""
        handle = FIRST_CONTEXT + device
        self.contexts[handle] = self.contexts.get(handle, 0) + 1
        return handle

    def release_context(self, device):
        """Give one reference up; with the last the context goes."""
        handle = FIRST_CONTEXT + device
        if not self.contexts.get(handle):
            self.fault(f"the primary context of device {device} is released more often than it was retained")
        self.contexts[handle] -= 1
        if not self.contexts[handle]:
            del self.contexts[handle]

    def live(self):
        """What the code under test still holds: (kind, handle or address) pairs, empty where nothing leaks.

        Primary contexts are not among them: others may use them too, and they stay as long as the process.
        """
        kinds = {
            "device memory": self.allocations,
            "pinned memory": self.pinned,
            "stream": [handle for handle in self.streams if handle not in LEGACY_STREAMS],
            "event": self.events,
            "graph": self.graphs,
            "executable graph": self.executables,
        }
        return [(kind, handle) for kind, handles in kinds.items() for handle in handles]


gpu = Gpu()
