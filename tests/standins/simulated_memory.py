"""The memory of the simulated device, and the page-locked memory that it sees."""

import ctypes

FIRST_ADDRESS = 0x7F00_0000_0000
ALIGNMENT = 256
UNINITIALISED = 0xCD
FREED = 0xDD
# Larger allocations start as zeros: filling them costs more than the check is worth.
FILL_LIMIT = 64 << 20


class Memory:
    """What `Gpu` does with memory."""

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
        self.owners[address] = self.current or 0
        return address

    def owner(self, address):
        """The device of an address, or None where it is not device memory."""
        for start, data in self.allocations.items():
            if start <= address < start + max(len(data), 1):
                return self.owners[start]
        return None

    def free(self, address):
        """Free an allocation; what is from before a reset has gone with it."""
        if address < self.first_address:
            return
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

    def is_mapped(self, address):
        """Whether the address is one of page-locked memory, which the device sees."""
        return any(start <= address < start + max(size, 1) for start, (size, _) in self.pinned.items())

    def read(self, address, nbytes, what="read"):
        """The bytes at a device address, or of page-locked memory, which is mapped."""
        if not self.is_device(address):
            self.check_host(address, nbytes, what)
            return ctypes.string_at(address, nbytes)
        data, offset = self.locate(address, nbytes, what)
        return bytes(data[offset : offset + nbytes])

    def write(self, address, content, what="write"):
        """Put bytes at a device address, or into page-locked memory, which is mapped."""
        if not self.is_device(address):
            self.check_host(address, len(content), what)
            ctypes.memmove(address, content, len(content))
            return
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
