"""Engines built on stand-ins and in this process, for tests of what is built and of how it runs."""

import msgspec
import numpy as np
import onnxruntime

from edgeresnext import bundle as bundles
from edgeresnext.backends._trt import child, parent
from edgeresnext.backends.registry import BASELINE_ARTIFACT
from edgeresnext.bundle import Bundle
from edgeresnext.machine import gpu as machine_gpu
from edgeresnext.pipeline.engines import compile_engines
from edgeresnext.pipeline.wanted import Wanted
from edgeresnext.progress import silent
from edgeresnext.runtime.classifier import open_artifact
from edgeresnext.spec import EngineOptions

from . import VERSIONS, installed

CLASSIC = [release for module, release in VERSIONS if module == "tensorrt"]
ask_the_driver = machine_gpu.devices
BATCH = EngineOptions(batch=(1, 2, 4), int8_grouped="on")


def install(monkeypatch, module="tensorrt", release="10.3", cuda="libcuda", *, child=False, **settings):
    """Install stand-ins, and let the driver tell of the simulated GPU.

    Args:
        monkeypatch: pytest's.
        module: "tensorrt" or "tensorrt_rtx".
        release: one of VERSIONS.
        cuda: "libcuda", "cuda-python", "pycuda" or None.
        child: build in a child process, as users do, instead of this one.
        settings: what the simulated GPU should be.
    """
    trt = installed(monkeypatch, module, release, cuda, settings)
    devices = ask_the_driver()
    monkeypatch.setattr(machine_gpu, "devices", lambda: devices)
    # The package that is really installed here is not the one that stands in for it.
    monkeypatch.setattr("edgeresnext.backends.engine.EngineBackend.release", lambda _: "")
    monkeypatch.setattr("edgeresnext.backends.engine.EngineBackend.cuda_major", lambda _: None)
    # Latencies mean nothing here.
    monkeypatch.setattr("edgeresnext.pipeline.accept._TIMED_BUDGET_S", 0)
    monkeypatch.setattr("edgeresnext.pipeline.engines._TIMED_BUDGET_S", 0)
    if not child:
        monkeypatch.setattr(parent, "run_in_child", run_in_this_process)
        # Half a second with PyTorch in memory, for the sake of the child.
        monkeypatch.setattr("edgeresnext.pipeline.engines.return_freed_memory", lambda: None)
    return trt


def run_in_this_process(request, progress):
    """Do what the child process does, with the same JSON in and out."""
    lines = []
    child.work(msgspec.json.encode(request, enc_hook=str), lines.append)
    return parent.hear(lines, request.name, progress)


def without_cpu(path):
    """Take everything that runs out of a bundle, but for PyTorch; the ONNX files stay."""
    return written(path, msgspec.structs.replace(bundles.read(path).manifest, artifacts=(BASELINE_ARTIFACT,)))


def written(path, manifest):
    """The bundle with another manifest, which lists what is there."""
    manifest = msgspec.structs.replace(manifest, files=bundles.list_files(path))
    bundles.write_manifest(path, manifest)
    return bundles.read(path)


def compiled(path, precision="fp32", options=BATCH, backend="tensorrt"):
    """The bundle with one engine more, which nothing has looked at."""
    bundle = bundles.read(path)
    wanted = Wanted(backend=backend, target="sm89", precision=precision)
    new = compile_engines(Bundle(path=path, manifest=bundle.manifest), [wanted], options, silent)
    others = (artifact for artifact in bundle.manifest.artifacts if artifact.file != wanted.file)
    return written(path, msgspec.structs.replace(bundle.manifest, artifacts=(*new, *others)))


def engines(bundle):
    """The engines of a bundle by precision."""
    return {artifact.precision: artifact for artifact in bundle.manifest.artifacts if artifact.engine}


def opened(bundle, precision="fp32"):
    """A session of an engine."""
    return open_artifact(bundle, engines(bundle)[precision])


def expected(bundle, images):
    """What the FP32 file says to images."""
    session = onnxruntime.InferenceSession(bundle.path / "onnx" / "fp32.onnx")
    return session.run(None, {bundle.manifest.model.input.name: images})[0]


def photographs(count):
    """So many random images for the digits network."""
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def assert_near(found, reference):
    """Logits of two runtimes in FP32."""
    np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-5)


def calls(trt, name):
    """The arguments of every call of a member."""
    return [arguments for _, member, arguments in trt.calls if member == name]
