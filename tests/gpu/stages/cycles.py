"""A thousand times opened, run and closed: memory of the device and of the process stays."""

import time

from gpu.building import BACKENDS, SMALL, images_for, open_engine
from gpu.check import check

BUNDLES = (SMALL,)
ENGINES = tuple((SMALL, backend) for backend in BACKENDS)
MOST_LOST = 64 << 20


@check(420, *BACKENDS)
def open_and_close(work, backend):
    """Open, run one image and close, a thousand times; memory is looked at after the first ten."""
    import psutil

    path, process = work.engines(SMALL, backend), psutil.Process()
    count, before = work.times(1000), None
    begun = time.perf_counter()
    for turn in range(count):
        session, found, _ = open_engine(path, "fp16")
        session.run(images_for(found, 1))
        cuda = session.cuda
        session.close()
        if turn == min(10, count - 2):
            before = free(cuda), process.memory_info().rss
    seconds = (time.perf_counter() - begun) / count
    lost, grown = before[0] - free(cuda), process.memory_info().rss - before[1]
    assert lost < MOST_LOST, f"{lost / 2**20:.0f} MiB of the device are gone after {count} cycles"
    assert grown < 4 * MOST_LOST, f"the process has grown by {grown / 2**20:.0f} MiB in {count} cycles"
    return {"cycles": count, "seconds_each": seconds, "device_lost_bytes": lost, "process_grown_bytes": grown}


def free(cuda):
    with cuda.active():
        return cuda.memory()[0]
