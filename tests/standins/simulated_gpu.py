"""The simulated device that the TensorRT and CUDA stand-ins share.

Work is queued on a stream and runs only when the stream is synchronised, so that a missing synchronisation, a buffer
freed too early and a copy of the wrong size show on a machine without a GPU.
"""

import ctypes
import itertools
import json
import os
import threading
from dataclasses import dataclass, field

SETTINGS = {
    "name": "NVIDIA Stand-in",
    "compute_capability": (8, 9),
    "memory_bytes": 8 << 30,
    "driver_version": 12080,
    "integrated": 0,
    "dla_cores": 0,
    "count": 1,
}
FIRST_ADDRESS = 0x7F00_0000_0000
ALIGNMENT = 256
UNINITIALISED = 0xCD
NOT_YET_COPIED = 0xA5
FREED = 0xDD
# Larger allocations start as zeros: filling them costs more than the check is worth.
FILL_LIMIT = 64 << 20
COPY_MS = 0.01
HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3


class Fault(AssertionError):  # noqa: N818 - the name that the driver gives it
    """A use of the device that would corrupt memory, crash, or read what is not there yet."""


@dataclass(frozen=True)
class Operation:
    """One piece of queued work; `on_enqueue` runs when it is queued, `run` when the stream gets to it."""

    run: object
    on_enqueue: object = None
    milliseconds: float = 0.0


@dataclass
class Stream:
    """A queue of operations, or while it is being captured the list that will become a graph."""

    queue: list = field(default_factory=list)
    captured: list | None = None
    mode: int = 0
    thread: int = 0


@dataclass
class Event:
    """`time` is the device's clock when the event was reached; None before."""

    timed: bool = True
    stream: int | None = None
    recorded: bool = False
    time: float | None = None


class Gpu:
    """One device. Every setting of SETTINGS is an attribute and may be changed by a test.

    Attributes:
        faults: what went wrong so far, in words.
        failures: {function or method name: "fail" | "kill" | "abort" | "exit" | "hang FILE" (made when it hangs) | a CUDA error number}, used up by the next call.
        copies: (kind, destination, source, nbytes) of each copy that was queued.
        compiled: the engines whose kernels TensorRT-RTX had to compile, with no runtime cache that had them.
    """

    def __init__(self):
        # Host memory freed by the code under test stays mapped, so that a late access is seen and does not crash.
        self._graveyard = []
        # Never given out twice, so that what outlives a reset cannot touch what came after it.
        self._next_address = FIRST_ADDRESS
        self._handles = itertools.count(0x5000, 0x10)
        self.reset()

    def reset(self, **settings):
        """Forget everything; settings come from SETTINGS, then STANDIN_GPU, then the arguments."""
        chosen = {**SETTINGS, "failures": {}, **json.loads(os.environ.get("STANDIN_GPU", "{}")), **settings}
        for name, value in chosen.items():
            setattr(self, name, tuple(value) if name == "compute_capability" else value)
        self._graveyard.extend(owner for _, owner in getattr(self, "pinned", {}).values())
        self.allocations = {}
        self.freed = {}
        self.pinned = {}
        self.freed_pinned = {}
        self.reserved = {}
        self.streams = {0: Stream()}
        self.events = {}
        self.graphs = {}
        self.executables = {}
        self.contexts = {}
        self.faults = []
        self.copies = []
        self.compiled = []
        self.clock = 0.0

    def fault(self, message):
        """Record the fault and raise it."""
        self.faults.append(message)
        raise Fault(message)

    # Device memory

    @property
    def used_bytes(self):
        """Bytes taken by allocations and by what engines and contexts reserve."""
        return sum(map(len, self.allocations.values())) + sum(self.reserved.values())

    def allocate(self, nbytes):
        """The address of new device memory, or None when the device is full."""
        if nbytes > self.memory_bytes - self.used_bytes:
            return None
        address = self._next_address
        self._next_address += (nbytes // ALIGNMENT + 2) * ALIGNMENT
        self.allocations[address] = bytearray(nbytes) if nbytes > FILL_LIMIT else bytearray([UNINITIALISED]) * nbytes
        return address

    def free(self, address):
        """Free an allocation."""
        if address in self.freed:
            self.fault(f"double free of {address:#x}")
        if address not in self.allocations:
            self.fault(f"free of {address:#x}, which was never allocated")
        self.freed[address] = len(self.allocations.pop(address))

    def reserve(self, nbytes):
        """Take memory for an engine or a context; a handle for `release`, or None when the device is full."""
        if nbytes > self.memory_bytes - self.used_bytes:
            return None
        handle = next(self._handles)
        self.reserved[handle] = nbytes
        return handle

    def release(self, handle):
        """Give back what `reserve` took; nothing happens after a reset."""
        self.reserved.pop(handle, None)

    def locate(self, address, nbytes, what):
        """The bytearray and offset of a device range, which must lie in one live allocation."""
        for start, data in self.allocations.items():
            if start <= address < start + max(len(data), 1):
                if address + nbytes > start + len(data):
                    self.fault(f"{what}: {nbytes} bytes at {address:#x} run past an allocation of {len(data)} bytes")
                return data, address - start
        for start, size in self.freed.items():
            if start <= address < start + max(size, 1):
                self.fault(f"{what}: use after free of {start:#x}")
        return self.fault(f"{what}: {address:#x} is not device memory")

    def is_device(self, address):
        """Whether the address lies in the device's part of the address space."""
        return FIRST_ADDRESS <= address < self._next_address

    def read(self, address, nbytes, what="read"):
        """The bytes at a device address."""
        data, offset = self.locate(address, nbytes, what)
        return bytes(data[offset : offset + nbytes])

    def write(self, address, content, what="write"):
        """Put bytes at a device address."""
        data, offset = self.locate(address, len(content), what)
        data[offset : offset + len(content)] = content

    # Host memory

    def pin(self, address, nbytes, owner):
        """Remember page-locked host memory; `owner` keeps it mapped."""
        self.freed_pinned.pop(address, None)
        self.pinned[address] = (nbytes, owner)

    def unpin(self, address, *, keep=True):
        """Forget page-locked host memory, and fill it with FREED where it stays mapped."""
        if address not in self.pinned:
            self.fault(f"free of host memory {address:#x} that is not pinned")
        nbytes, owner = self.pinned.pop(address)
        if keep:
            ctypes.memset(address, FREED, nbytes)
            self._graveyard.append(owner)
            self.freed_pinned[address] = nbytes

    def check_host(self, address, nbytes, what, *, note=True):
        """A pinned range must hold the copy; pageable memory is noted in `faults` and nothing raised."""
        for start, (size, _) in self.pinned.items():
            if start <= address < start + max(size, 1):
                if address + nbytes > start + size:
                    self.fault(f"{what}: {nbytes} bytes at {address:#x} run past a pinned buffer of {size} bytes")
                return
        for start, size in self.freed_pinned.items():
            if start <= address < start + max(size, 1):
                self.fault(f"{what}: use after free of pinned memory {start:#x}")
        if note:
            self.faults.append(f"pageable: {what} of {nbytes} bytes at {address:#x}, which is not pinned")

    # Streams

    def create_stream(self):
        """The handle of a new stream."""
        handle = next(self._handles)
        self.streams[handle] = Stream()
        return handle

    def stream(self, handle):
        """The stream of a handle."""
        if handle not in self.streams:
            self.fault(f"{handle:#x} is not a stream")
        return self.streams[handle]

    def destroy_stream(self, handle):
        """Destroy a stream, which must have nothing left to do."""
        if handle == 0:
            self.fault("the default stream cannot be destroyed")
        if self.stream(handle).queue:
            self.fault(f"stream {handle:#x} destroyed with work that nobody waited for")
        del self.streams[handle]

    def enqueue(self, handle, operation):
        """Queue an operation, or record it while the stream is being captured."""
        stream = self.stream(handle)
        if stream.captured is not None:
            stream.captured.append(operation)
            return
        if operation.on_enqueue:
            operation.on_enqueue()
        stream.queue.append(operation)

    def copy(self, destination, source, nbytes, kind, handle):
        """Queue a copy. The source is read, and the destination written, when the stream runs."""
        what = {HOST_TO_DEVICE: "host to device", DEVICE_TO_HOST: "device to host", DEVICE_TO_DEVICE: "on device"}[kind]

        def check(*, note):
            for address, device in ((destination, kind != DEVICE_TO_HOST), (source, kind != HOST_TO_DEVICE)):
                if device:
                    self.locate(address, nbytes, what)
                elif self.is_device(address):
                    self.fault(f"{what}: {address:#x} is device memory")
                else:
                    self.check_host(address, nbytes, what, note=note)

        def run():
            check(note=False)
            content = ctypes.string_at(source, nbytes) if kind == HOST_TO_DEVICE else self.read(source, nbytes, what)
            if kind == DEVICE_TO_HOST:
                ctypes.memmove(destination, content, nbytes)
            else:
                self.write(destination, content, what)

        def spoil():
            ctypes.memset(destination, NOT_YET_COPIED, nbytes)

        check(note=True)
        self.copies.append((what, destination, source, nbytes))
        on_enqueue = spoil if kind == DEVICE_TO_HOST else None
        self.enqueue(handle, Operation(run, on_enqueue, milliseconds=COPY_MS))

    def _step(self, stream):
        operation = stream.queue.pop(0)
        operation.run()
        self.clock += operation.milliseconds

    def synchronise(self, handle):
        """Run what the stream has queued; False while it is being captured, which that ends."""
        stream = self.stream(handle)
        if stream.captured is not None:
            stream.captured = None
            self.faults.append(f"stream {handle:#x} synchronised during its capture")
            return False
        while stream.queue:
            self._step(stream)
        return True

    # Events

    def create_event(self, *, timed=True):
        """The handle of a new event."""
        handle = next(self._handles)
        self.events[handle] = Event(timed)
        return handle

    def event(self, handle):
        """The event of a handle."""
        if handle not in self.events:
            self.fault(f"{handle:#x} is not an event")
        return self.events[handle]

    def record(self, handle, stream):
        """Queue the event on the stream."""
        event = self.event(handle)
        event.stream, event.recorded, event.time = stream, True, None

        def reached():
            event.time = self.clock

        self.enqueue(stream, Operation(reached))

    def destroy_event(self, handle):
        """Destroy an event."""
        self.event(handle)
        del self.events[handle]

    # Graphs

    @property
    def capturing(self):
        """Whether a stream is being captured in a mode that forbids allocations in this thread."""
        captured = [stream for stream in self.streams.values() if stream.captured is not None]
        here = threading.get_ident()
        return any(stream.mode == 0 or (stream.mode == 1 and stream.thread == here) for stream in captured)

    def begin_capture(self, handle, mode=0):
        """Record the stream's operations from now on."""
        stream = self.stream(handle)
        if stream.captured is not None:
            self.fault(f"stream {handle:#x} is being captured already")
        stream.captured, stream.mode, stream.thread = [], mode, threading.get_ident()

    def end_capture(self, handle):
        """The handle of the recorded graph, or None where the capture was broken off."""
        stream = self.stream(handle)
        if stream.captured is None:
            return None
        graph = next(self._handles)
        self.graphs[graph] = stream.captured
        stream.captured = None
        return graph

    def instantiate(self, graph):
        """The handle of an executable graph."""
        if graph not in self.graphs:
            self.fault(f"{graph:#x} is not a graph")
        handle = next(self._handles)
        self.executables[handle] = list(self.graphs[graph])
        return handle

    def launch(self, executable, stream):
        """Queue a graph's operations."""
        if executable not in self.executables:
            self.fault(f"{executable:#x} is not an executable graph")
        for operation in self.executables[executable]:
            self.enqueue(stream, operation)

    def destroy_graph(self, handle):
        """Destroy a graph."""
        if self.graphs.pop(handle, None) is None:
            self.fault(f"{handle:#x} is not a graph")

    def destroy_executable(self, handle):
        """Destroy an executable graph."""
        if self.executables.pop(handle, None) is None:
            self.fault(f"{handle:#x} is not an executable graph")

    def live(self):
        """What the code under test still holds: (kind, handle or address) pairs, empty where nothing leaks."""
        kinds = {
            "device memory": self.allocations,
            "pinned memory": self.pinned,
            "stream": [handle for handle in self.streams if handle],
            "event": self.events,
            "graph": self.graphs,
            "executable graph": self.executables,
            "context": self.contexts,
        }
        return [(kind, handle) for kind, handles in kinds.items() for handle in handles]


gpu = Gpu()
