"""Arrays of other libraries on the simulated GPU, which are strict about streams and lifetimes.

Their content is there only when their stream has run, and as soon as nobody holds them their memory goes, in the order of
that stream: who has not waited there, or still reads it on another stream, is found out.
"""

import numpy as np

from edgeresnext.backends import dlpack

from .simulated_gpu import gpu
from .simulated_streams import Operation


class GpuMemory:
    """Memory on a device which its library frees in the order of its own stream, when the object goes."""

    def __init__(self, nbytes, stream, device=0, offset=0):
        gpu.stack.append(device)
        self.start, self.nbytes = gpu.allocate(max(nbytes + offset, 1)), max(nbytes + offset, 1)
        gpu.stack.pop()
        self.address = self.start + offset
        self.stream = stream

    def __del__(self):
        if self.start in gpu.allocations and self.stream in gpu.streams:
            freed = Operation(
                lambda: gpu.free(self.start), writes=((self.start, self.nbytes),), what="the library's next use of it"
            )
            gpu.enqueue(self.stream, freed)


class Strict:
    """What both kinds of arrays have: values that a stream of their own writes."""

    def __init__(self, values, stream=None, *, device=0, offset=0, strides=None):
        values = np.asarray(values)
        self.shape, self.numpy_dtype = values.shape, values.dtype
        self.strides = strides
        self.device = device
        self.stream = gpu.create_stream() if stream is None else stream
        self.memory = GpuMemory(values.nbytes, self.stream, device, offset)
        content = values.tobytes()
        address = self.memory.address
        written = Operation(
            lambda: gpu.write(address, content), writes=((address, len(content)),), what="a library's own kernel"
        )
        gpu.enqueue(self.stream, written)

    def values(self):
        """What lies there now, whatever still runs."""
        nbytes = int(np.prod(self.shape)) * self.numpy_dtype.itemsize
        return np.frombuffer(gpu.read(self.memory.address, nbytes), self.numpy_dtype).reshape(self.shape)


class Lending(Strict):
    """An array with `__dlpack__`."""

    def __dlpack_device__(self):
        return 2, self.device

    def __dlpack__(self, *, stream=None):
        assert stream != 0, "DLPack: 0 is ambiguous"
        if stream != -1:
            wait_for(1 if stream is None else stream, self.stream)
        return capsule(
            self.memory.address, self.shape, self.numpy_dtype, (2, self.device), owner=self.memory, strides=self.strides
        )


class Described(Strict):
    """An array with `__cuda_array_interface__`."""

    @property
    def __cuda_array_interface__(self):
        strides = self.strides and tuple(one * self.numpy_dtype.itemsize for one in self.strides)
        return {
            "shape": self.shape, "typestr": self.numpy_dtype.str, "data": (self.memory.address, False), "version": 3,
            "strides": strides, "stream": self.stream,
        }  # fmt: skip


def wait_for(stream, other):
    """Let a stream wait for what is queued on another."""
    event = gpu.create_event(timed=False)
    gpu.record(event, other)
    gpu.wait(stream, event)
    gpu.destroy_event(event)


def capsule(address, shape, dtype, device, *, owner=None, strides=None):
    """A DLPack capsule: one of NumPy's, which is told that its memory, never looked into, lies on another device."""
    values = dlpack.view(address or 4096, shape, dtype, owner)
    if strides:
        steps = tuple(one * values.itemsize for one in strides)
        values = np.lib.stride_tricks.as_strided(values, shape, steps)
    found = values.__dlpack__()
    dlpack._Managed.from_address(dlpack._pointer(found, b"dltensor")).tensor.device = dlpack._Device(*device)
    return found


def taken(array, stream=None):
    """The values of an array with `__dlpack__`, taken as another library would: on a stream, which is then run."""
    stream = gpu.create_stream() if stream is None else stream
    lent = dlpack.Lent(array.__dlpack__(stream=stream))
    found, nbytes = [], int(np.prod(lent.shape)) * 4
    where = ((lent.address, nbytes),)
    gpu.enqueue(stream, Operation(lambda: found.append(gpu.read(lent.address, nbytes)), reads=where, what="a reader"))
    assert gpu.synchronise(stream)
    return np.frombuffer(found[0], np.float32).reshape(lent.shape)
