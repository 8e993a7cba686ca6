"""Engines of every precision against PyTorch's golden logits, in batches, profiled, and for long."""

import time

from gpu.building import BACKENDS, LARGEST, PRECISIONS, SMALL, images_for, open_engine
from gpu.check import Skipped, check

BUNDLES = (SMALL,)
ENGINES = tuple((SMALL, backend) for backend in BACKENDS)
EACH = tuple(f"{backend} {precision}" for backend in BACKENDS for precision in PRECISIONS)


def opened(work, variant):
    backend, precision = variant.split()
    return open_engine(work.engines(SMALL, backend), precision)


@check(120, *EACH)
def golden_logits(work, variant):
    """The golden images give PyTorch's logits, as near as the precision asks."""
    from edgeresnext.runtime.proof import shortfall

    session, found, artifact = opened(work, variant)
    golden = found.golden()
    fidelity = golden.compare(session.run(golden.images))
    session.close()
    short = shortfall(found, artifact, fidelity)
    assert not short, short
    return {"snr_db": fidelity.snr_db, "max_error": fidelity.max_error, "layers": len(artifact.engine.layers)}


@check(120, *EACH)
def every_batch(work, variant):
    """Batches within the profile, beyond it and with a remainder give what single images give."""
    import numpy as np

    session, found, _ = opened(work, variant)
    images = images_for(found, 3 * LARGEST)
    alone = np.concatenate([session.run(images[index : index + 1]) for index in range(len(images))])
    worst = 0.0
    for count in (1, 2, 3, LARGEST, LARGEST + 1, 3 * LARGEST):
        together = session.run(images[:count])
        worst = max(worst, float(np.abs(together - alone[:count]).max() / np.abs(alone).max()))
    session.close()
    assert worst < (1e-3 if variant.endswith("fp32") else 5e-2), worst
    return {"largest_difference": worst}


@check(120, *(f"{backend} fp16" for backend in BACKENDS))
def the_device_takes_no_longer_than_the_whole(work, variant):
    """The network alone, by the device's clock, takes at most what the call takes."""
    session, found, _ = opened(work, variant)
    images = images_for(found, LARGEST)
    session.prepare(images)
    device_s, wall_s = [], []
    for _ in range(work.times(50)):
        device_s.append(session.compute_s(images))
        start = time.perf_counter()
        session.run(images)
        wall_s.append(time.perf_counter() - start)
    detail = session.detail
    session.close()
    assert min(device_s) > 0
    assert work.scale < 1 or min(device_s) <= min(wall_s) * 1.05, (min(device_s), min(wall_s))
    return {
        "device_s": sorted(device_s)[len(device_s) // 2],
        "call_s": sorted(wall_s)[len(wall_s) // 2],
        "detail": detail,
    }


@check(120, *(f"{backend} fp16" for backend in BACKENDS))
def layers_are_told(work, variant):
    """The profiler names layers, and they take time."""
    session, found, _ = opened(work, variant)
    session.prepare(images_for(found, 1))
    operations = session.profile(images_for(found, 1), runs=5)
    session.close()
    if not operations:
        raise AssertionError("no layer was told")
    assert sum(one.seconds for one in operations) > 0
    return {"layers": len(operations), "seconds": sum(one.seconds for one in operations)}


@check(180, *(f"{backend} fp16" for backend in BACKENDS))
def memory_is_flat(work, variant):
    """Two thousand runs leave the device's memory as it was."""
    session, found, _ = opened(work, variant)
    images = images_for(found, LARGEST)
    for _ in range(work.times(100)):
        session.run(images)
    with session.cuda.active():
        before, _ = session.cuda.memory()
    for _ in range(work.times(2000)):
        session.run(images)
    with session.cuda.active():
        after, _ = session.cuda.memory()
    session.close()
    assert before - after < 1 << 20, f"{(before - after) / 2**20:.1f} MiB are gone"
    return {"lost_bytes": before - after}


@check(120)
def calibration_on_the_gpu(work):
    """PyTorch on the GPU finds the ranges that it finds on the CPU."""
    try:
        import torch
    except ImportError:
        raise Skipped("PyTorch is not installed") from None
    if not torch.cuda.is_available():
        raise Skipped("this PyTorch has no CUDA")
    from edgeresnext.compiler.execute import Executor
    from edgeresnext.compiler.graph import trace
    from edgeresnext.model.catalogue import specify
    from edgeresnext.model.checkpoints import random_network

    graph = trace(random_network(specify(SMALL), 0), (32, 32))
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    there, here = (Executor(graph, torch.device(kind)) for kind in ("cuda", "cpu"))
    for (_, found), (_, expected) in zip(there.steps(images), here.steps(images), strict=True):
        assert abs(float(found.abs().max()) / float(expected.abs().max()) - 1) < 1e-4


@check(120, *(f"{backend} fp32" for backend in BACKENDS))
def beside_torch(work, variant):
    """PyTorch computes on the GPU before, between and after runs of an engine."""
    try:
        import torch
    except ImportError:
        raise Skipped("PyTorch is not installed") from None
    if not torch.cuda.is_available():
        raise Skipped("this PyTorch has no CUDA")
    ones = torch.ones(1000, device="cuda")
    session, found, _ = opened(work, variant)
    first = session.run(images_for(found, 2))
    assert float(ones.sum()) == 1000
    assert (session.run(images_for(found, 2)) == first).all()
    session.close()
    assert float((ones * 2).sum()) == 2000
