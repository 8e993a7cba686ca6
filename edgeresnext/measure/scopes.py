"""Time the network alone, and everything from an encoded image file to its class: the scopes beside the usual one."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends.base import Session
from edgeresnext.data.images import load_image
from edgeresnext.measure.accuracy import best_classes
from edgeresnext.measure.latency import Record, Turns, batch_of, settle
from edgeresnext.spec import Preprocess


def time_scopes(
    sessions: Mapping[str, Session],
    images: NDArray[np.uint8],
    files: Sequence[bytes],
    preprocess: Preprocess,
    batch: int,
    *,
    rounds: int,
    compute: Record,
    end_to_end: Record,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Time both scopes of every session, in turn, in sessions that are warm already.

    Args:
        sessions: What to time, by name.
        images: uint8 `(n, H, W, 3)`, for the network alone.
        files: Encoded images, in memory: reading a disk is not timed.
        preprocess: Resize and crop, part of `end-to-end` as is the choice of the best classes.
        batch: Images a run.
        rounds: How often each is timed.
        compute: Takes the samples of the network alone; none of a session that cannot tell.
        end_to_end: Takes the samples of the rest.
        progress: Called with rounds done and all.
        clock: Seconds, monotonic.
    """
    turns = Turns(sessions, compute)
    for done in range(rounds):
        inputs = batch_of(images, batch, done)
        encoded = [files[i % len(files)] for i in range(done * batch, (done + 1) * batch)]

        def once(
            name: str, session: Session, inputs: NDArray[np.uint8] = inputs, encoded: list[bytes] = encoded
        ) -> None:
            settle(session, inputs, clock)
            alone = session.compute_s(inputs)
            if alone is not None:
                compute.samples.setdefault(name, []).append(alone)
            begin = clock()
            best_classes(session.run(np.stack([load_image(io.BytesIO(raw), preprocess) for raw in encoded])))
            end_to_end.samples.setdefault(name, []).append(clock() - begin)

        turns.each(once)
        progress(done + 1, rounds)
