"""CUDA graphs, batches of several sizes, and threads, all at once."""

import threading
import time

from gpu.building import BACKENDS, LARGEST, SMALL, images_for, open_engine
from gpu.check import check

BUNDLES = (SMALL,)
ENGINES = tuple((SMALL, backend) for backend in BACKENDS)
SIZES = (1, 4, LARGEST)


@check(180, *BACKENDS)
def prepared_batches(work, backend):
    """Eight threads run prepared and other batches of one session, and every logit is right."""
    import numpy as np

    session, found, _ = open_engine(work.engines(SMALL, backend), "fp16")
    images = images_for(found, 64)
    expected = np.concatenate([session.run(images[index : index + 1]) for index in range(len(images))])
    for size in SIZES[:2]:
        session.prepare(images[:size])
    wrong, counts = [], []

    def run(seed):
        generator, done = np.random.default_rng(seed), 0
        for _ in range(work.times(500)):
            size = int(generator.choice((*SIZES, 3)))
            start = int(generator.integers(0, len(images) - size))
            logits = session.run(images[start : start + size])
            error = float(np.abs(logits - expected[start : start + size]).max() / np.abs(expected).max())
            if not error < 5e-2:
                wrong.append((size, start, error))
            done += size
        counts.append(done)

    workers = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds, detail = time.perf_counter() - begun, session.detail
    session.close()
    assert len(counts) == 8, "a thread ended early"
    assert not wrong, f"{len(wrong)} runs differ, such as batch {wrong[0][0]} at {wrong[0][1]} by {wrong[0][2]:.3g}"
    return {"images_per_s": sum(counts) / seconds, "detail": detail}


@check(120, *BACKENDS)
def each_way(work, backend):
    """A batch gives the same logits in every way that it can be run, whichever is the fastest here."""
    import numpy as np

    from edgeresnext.backends._trt import session as sessions

    ways, choose = {}, sessions._faster
    for place in (0, -1):  # the usual way; the last of the others, a graph where there is one
        sessions._faster = lambda times, place=place: list(times)[place]
        session, found, _ = open_engine(work.engines(SMALL, backend), "fp16")
        images = images_for(found, 10 * SIZES[1])
        session.prepare(images[: SIZES[1]])
        pieces = [images[start : start + SIZES[1]] for start in range(0, len(images), SIZES[1])]
        ways[session.detail] = np.concatenate([session.run(piece) for piece in pieces])
        session.close()
    sessions._faster = choose
    usual, *others = ways.values()
    for other in others:
        assert np.abs(other - usual).max() <= 1e-3 * np.abs(usual).max(), list(ways)
    return {"ways": list(ways)}


@check(120, *BACKENDS)
def closing_while_others_run(work, backend):
    """A session that closes under its threads gives each logits or an error, and ends."""
    from edgeresnext.errors import EdgeResNeXtError

    session, found, _ = open_engine(work.engines(SMALL, backend), "fp16")
    images, ends = images_for(found, 4), []

    def run():
        try:
            for _ in range(work.times(100_000)):
                session.run(images)
        except EdgeResNeXtError as error:
            ends.append(error.what)

    workers = [threading.Thread(target=run) for _ in range(4)]
    for worker in workers:
        worker.start()
    time.sleep(0.5 if work.scale >= 1 else 0.05)
    session.close()
    for worker in workers:
        worker.join(60)
    assert not any(worker.is_alive() for worker in workers), "a thread hangs"
    assert set(ends) <= {"this session is closed"}, ends
    return {"ended_by_an_error": len(ends)}
