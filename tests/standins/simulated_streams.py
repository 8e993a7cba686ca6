"""The streams of the simulated device: queues, events, graphs."""

import ctypes
import threading
from dataclasses import dataclass, field

NOT_YET_COPIED = 0xA5
COPY_MS = 0.01
HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3
LEGACY_STREAMS = (0, 1, 2)


@dataclass(frozen=True)
class Operation:
    """One piece of queued work; `on_enqueue` runs when it is queued, `run` when the stream gets to it.

    `reads` and `writes` are (address, bytes) of the memory that it uses, in host or device.
    """

    run: object
    on_enqueue: object = None
    milliseconds: float = 0.0
    reads: tuple = ()
    writes: tuple = ()
    what: str = "work"


@dataclass
class Stream:
    """A queue of (number, operation), or while it is being captured the list that will become a graph.

    `broken`: something was done that a capture forbids; until the capture is ended every use is an error.
    """

    queue: list = field(default_factory=list)
    captured: list | None = None
    broken: bool = False
    mode: int = 0
    thread: int = 0
    device: int = 0


@dataclass
class Recorded:
    """One record of an event: where, and the device's clock when it was reached; None before."""

    stream: int
    time: float | None = None


@dataclass
class Event:
    """An event, and its last record."""

    timed: bool = True
    last: Recorded | None = None


def overlap(some, others):
    """Whether any of the (address, bytes) ranges meet."""
    return any(a < b + m and b < a + n for a, n in some for b, m in others)


class Streams:
    """What `Gpu` does with streams."""

    # Streams

    def create_stream(self):
        """The handle of a new stream."""
        handle = next(self._handles)
        self.streams[handle] = Stream(device=self.current or 0)
        return handle

    def stream(self, handle):
        """The stream of a handle."""
        if handle not in self.streams:
            self.fault(f"{handle:#x} is not a stream")
        return self.streams[handle]

    def destroy_stream(self, handle):
        """Destroy a stream, which must have nothing left to do."""
        if handle in LEGACY_STREAMS:
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
        stream.queue.append((next(self._numbers), operation))

    def copy(self, destination, source, nbytes, kind, handle):
        """Queue a copy. The source is read, and the destination written, when the stream runs."""
        what = {HOST_TO_DEVICE: "host to device", DEVICE_TO_HOST: "device to host", DEVICE_TO_DEVICE: "on device"}[kind]

        def check(*, note):
            for address, device in ((destination, kind != DEVICE_TO_HOST), (source, kind != HOST_TO_DEVICE)):
                if device and not self.is_mapped(address):
                    self.locate(address, nbytes, what)
                elif not device and self.is_device(address):
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
        used = {"reads": ((source, nbytes),), "writes": ((destination, nbytes),), "what": what}
        self.enqueue(handle, Operation(run, on_enqueue, milliseconds=COPY_MS, **used))

    def _step(self, stream):
        number, operation = stream.queue.pop(0)
        self._check_order(stream, number, operation)
        operation.run()
        self.clock += operation.milliseconds

    def _check_order(self, stream, number, operation):
        """Nothing that was queued earlier on another stream, and has not run, may use the same memory."""
        for other in self.streams.values():
            for earlier, pending in other.queue if other is not stream else ():
                clash = (
                    overlap(pending.writes, operation.reads)
                    or overlap(pending.writes, operation.writes)
                    or overlap(pending.reads, operation.writes)
                )
                if earlier < number and clash:
                    self.fault(f"{operation.what} does not wait for {pending.what} on another stream")

    def synchronise(self, handle):
        """Run what the stream has queued; False while it is being captured, which that breaks."""
        stream = self.stream(handle)
        if stream.captured is not None:
            stream.broken = True
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
        last = self.event(handle).last = Recorded(stream)

        def reached():
            last.time = self.clock

        self.enqueue(stream, Operation(reached))

    def wait(self, stream, handle):
        """Let the stream wait for the event's last record."""
        last = self.event(handle).last

        self.enqueue(stream, Operation(lambda: self.reach(last)))

    def reach(self, recorded):
        """Run the stream of a record up to it."""
        while recorded is not None and recorded.time is None:
            self._step(self.stream(recorded.stream))

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

    def break_captures(self):
        """Break the captures of this thread, which did what they forbid."""
        for stream in self.streams.values():
            stream.broken |= stream.captured is not None and stream.thread == threading.get_ident()

    def begin_capture(self, handle, mode=0):
        """Record the stream's operations from now on."""
        stream = self.stream(handle)
        if stream.captured is not None:
            self.fault(f"stream {handle:#x} is being captured already")
        stream.captured, stream.mode, stream.thread = [], mode, threading.get_ident()

    def end_capture(self, handle):
        """The handle of the recorded graph, or None where the capture was broken off."""
        stream = self.stream(handle)
        captured, stream.captured = stream.captured, None
        if captured is None or stream.broken:
            stream.broken, self.left_behind = False, True
            return None
        graph = next(self._handles)
        self.graphs[graph] = captured
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
        self.launched += 1
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
