"""Ten minutes of an official run."""

import signal

from gpu.building import BACKENDS, LARGE
from gpu.check import check
from gpu.stages.bench import kept

BUNDLES = (LARGE,)
ENGINES = tuple((LARGE, backend) for backend in BACKENDS)


@check(900, *BACKENDS)
def ten_minutes(work, backend):
    """`bench --official` of one engine beside PyTorch, ended by Ctrl-C when its time is up; all is kept."""
    import edgeresnext
    from edgeresnext.measure.bench import InterruptedBenchError

    path = work.engines(LARGE, backend)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, work.seconds, 1)  # again and again: native code may swallow the first
    try:
        report = edgeresnext.bench(
            path,
            mode="official",
            backend=backend,
            precision="fp16",
            options=edgeresnext.BenchOptions(skip=("accuracy", "layers", "memory")),
        )
    except InterruptedBenchError as interrupted:
        report = interrupted.report
    except KeyboardInterrupt:
        raise AssertionError(f"nothing was measured within {work.seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, before)
    return kept(work, f"official-{backend}", report) | {"partial": report.partial}
