"""What `load` does where an engine is there and does not start: the next best, with a word, never a wrong answer."""

import logging
import os
import shutil

from gpu.building import BACKENDS, SMALL, images_for
from gpu.check import check

BUNDLES = (SMALL,)
ENGINES = tuple((SMALL, backend) for backend in BACKENDS)


class Heard(logging.Handler):
    """What the package warned of."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []
        logging.getLogger("edgeresnext").addHandler(self)

    def emit(self, record):
        self.texts.append(record.getMessage())


def loaded(path):
    """Load a bundle and classify; (what ran, its logits for two images)."""
    import edgeresnext
    from edgeresnext import bundle as bundles

    with edgeresnext.load(path) as classifier:
        return classifier.artifact, classifier.logits(images_for(bundles.read(path), 2))


def untimed(work, backend, name):
    """A copy of a bundle whose engines nobody has timed or proven: they are tried before everything else."""
    import msgspec

    from edgeresnext import bundle as bundles
    from edgeresnext.machine.cache import CACHE_VARIABLE

    path = work.folder / f"{name}-{backend}"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(work.engines(SMALL, backend), path)
    os.environ[CACHE_VARIABLE] = str(work.folder / f"cache-{name}-{backend}")
    shutil.rmtree(os.environ[CACHE_VARIABLE], ignore_errors=True)
    manifest = bundles.read(path).manifest
    engines = {one.name for one in manifest.artifacts if one.engine}
    timings = tuple(one for one in manifest.selection.timings if one.artifact not in engines)
    selection = msgspec.structs.replace(manifest.selection, timings=timings)
    return written(path, msgspec.structs.replace(manifest, selection=selection))


def written(path, manifest):
    """Write a manifest that lists the files as they are now."""
    import msgspec

    from edgeresnext import bundle as bundles

    manifest = msgspec.structs.replace(manifest, files=bundles.list_files(path))
    bundles.write_manifest(path, manifest)
    return path


@check(180, *BACKENDS)
def the_engine_is_taken(work, backend):
    """With nothing in the way an engine is loaded, and says why."""
    import edgeresnext

    with edgeresnext.load(work.engines(SMALL, backend), backend=backend) as classifier:
        return {"artifact": classifier.artifact.name, "reason": classifier.reason}


@check(180, *BACKENDS)
def a_plan_of_another_build(work, backend):
    """A plan whose header names another release, listed in the manifest as if it were right, is passed over."""
    from edgeresnext import bundle as bundles

    heard, path = Heard(), untimed(work, backend, "foreign")
    manifest = bundles.read(path).manifest
    for artifact in manifest.artifacts:
        if artifact.engine:
            plan = bytearray((path / artifact.file).read_bytes())
            plan[24] ^= 0x40
            (path / artifact.file).write_bytes(plan)
    artifact, logits = loaded(written(path, manifest))
    assert artifact.engine is None, artifact.name
    assert logits.shape[0] == 2
    assert any("does not start" in text for text in heard.texts), heard.texts
    return {"ran": artifact.name, "said": heard.texts[0]}


@check(180, *BACKENDS)
def a_full_gpu(work, backend):
    """Where another program has taken the GPU's memory, the CPU answers."""
    from edgeresnext.backends import cuda as library
    from edgeresnext.errors import BackendError

    path = untimed(work, backend, "full")
    heard, cuda, taken, size = Heard(), library.connect(), [], 1 << 30
    with cuda.active():
        while size >= 1 << 14:
            try:
                taken.append(cuda.allocate(size))
            except BackendError:
                size //= 2
    try:
        artifact, logits = loaded(path)
    finally:
        with cuda.active():
            for memory in taken:
                cuda.free(memory)
    assert artifact.engine is None, artifact.name
    assert logits.shape[0] == 2
    assert heard.texts, "nothing was said"
    return {"ran": artifact.name, "said": heard.texts[0]}
