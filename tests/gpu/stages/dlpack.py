"""Arrays on the GPU in and out: PyTorch's tensors, CuPy's arrays, the caller's stream, and what has to be refused."""

from gpu.building import BACKENDS, LARGEST, SMALL, images_for
from gpu.check import Skipped, check

BUNDLES = (SMALL,)
ENGINES = tuple((SMALL, backend) for backend in BACKENDS)


def prepared(work, backend):
    """(PyTorch, a classifier that runs an engine, images on the host)."""
    import edgeresnext
    from edgeresnext import bundle as bundles

    try:
        import torch
    except ImportError:
        raise Skipped("PyTorch is not installed") from None
    if not torch.cuda.is_available():
        raise Skipped("this PyTorch has no CUDA")
    path = work.engines(SMALL, backend)
    classifier = edgeresnext.load(path, backend=backend, precision="fp16", prove=False, batches=(1, LARGEST))
    return torch, classifier, images_for(bundles.read(path), LARGEST)


@check(120, *BACKENDS)
def same_as_on_the_host(work, backend):
    """A tensor on the GPU gives the logits that the same array on the host gives, on the GPU."""
    torch, classifier, images = prepared(work, backend)
    with classifier:
        expected = classifier.logits(images)
        found = torch.from_dlpack(classifier.logits(torch.from_numpy(images).cuda()))
        assert found.is_cuda
        assert (found.cpu().numpy() == expected).all()


@check(120, *BACKENDS)
def into_memory_of_the_caller(work, backend):
    """Logits go where the caller wants them, also for a part of a batch."""
    torch, classifier, images = prepared(work, backend)
    with classifier:
        expected = classifier.logits(images)
        out = torch.full(expected.shape, float("nan"), device="cuda")
        classifier.logits(torch.from_numpy(images).cuda(), out=out)
        assert (out.cpu().numpy() == expected).all()
        classifier.logits(torch.from_numpy(images[:3]).cuda(), out=out[:3])
        assert (out[:3].cpu().numpy() == classifier.logits(images[:3])).all()


@check(120, *BACKENDS)
def on_the_callers_stream(work, backend):
    """On a stream of the caller everything is queued in order, and nothing waited for."""
    torch, classifier, images = prepared(work, backend)
    with classifier:
        expected = classifier.logits(images)
        stream = torch.cuda.Stream()
        device, out = (
            torch.empty(images.shape, dtype=torch.uint8, device="cuda"),
            torch.empty(expected.shape, device="cuda"),
        )
        source = torch.from_numpy(images).pin_memory()
        for _ in range(work.times(100)):
            with torch.cuda.stream(stream):
                out.zero_()
                torch.cuda._sleep(200_000)  # so that images which were read too early are wrong
                device.copy_(source, non_blocking=True)
                classifier.logits(device, out=out, stream=stream.cuda_stream)
                copy = out.clone()
            stream.synchronize()
            assert (copy.cpu().numpy() == expected).all()
            device.zero_()


@check(120, *BACKENDS)
def of_cupy(work, backend):
    """CuPy's arrays give the same, and the logits come back to it."""
    try:
        import cupy
    except ImportError:
        raise Skipped("CuPy is not installed") from None
    _, classifier, images = prepared(work, backend)
    with classifier:
        expected = classifier.logits(images)
        found = cupy.from_dlpack(classifier.logits(cupy.asarray(images)))
        assert (cupy.asnumpy(found) == expected).all()
        out = cupy.empty(expected.shape, cupy.float32)
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            classifier.logits(cupy.asarray(images), out=out, stream=stream.ptr)
        stream.synchronize()
        assert (cupy.asnumpy(out) == expected).all()


@check(120, *BACKENDS)
def what_cannot_be_taken_is_refused(work, backend):
    """Another dtype, another layout, a view that is not contiguous: each is an error with what to do."""
    import edgeresnext

    torch, classifier, images = prepared(work, backend)
    right = torch.from_numpy(images).cuda()
    used = torch.utils.dlpack.to_dlpack(right)
    classifier.logits(used)
    wrong = {
        "a capsule used twice": used,
        "float": right.float(),
        "channels first": right.permute(0, 3, 1, 2).contiguous(),
        "every second": torch.cat([right, right], dim=2)[:, :, ::2],
    }
    said, hints = {}, {}
    with classifier:
        for name, tensor in wrong.items():
            try:
                classifier.logits(tensor)
            except edgeresnext.EdgeResNeXtError as error:
                said[name], hints[name] = error.what, error.hint
        assert said.keys() == wrong.keys(), f"taken: {', '.join(wrong.keys() - said.keys())}"
        assert all(hints.values()), hints
        classifier.logits(right)
    return {"said": said}


@check(180, *BACKENDS)
def what_it_saves(work, backend):
    """A call with images on the GPU, beside a call with them on the host."""
    import time

    torch, classifier, images = prepared(work, backend)
    found = {}
    with classifier:
        device, out = torch.from_numpy(images).cuda(), torch.empty(classifier.logits(images).shape, device="cuda")
        for name, call in {
            "host_s": lambda: classifier.logits(images),
            "gpu_s": lambda: classifier.logits(device, out=out),
        }.items():
            taken = []
            for _ in range(work.times(300)):
                torch.cuda.synchronize()
                start = time.perf_counter()
                call()
                torch.cuda.synchronize()
                taken.append(time.perf_counter() - start)
            found[name] = sorted(taken)[len(taken) // 2]
    return found
