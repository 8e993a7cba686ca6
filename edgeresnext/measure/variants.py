"""What is under test: the artefacts of a bundle, and the ways in which PyTorch itself runs the network."""

from __future__ import annotations

from dataclasses import dataclass

from edgeresnext.backends import registry
from edgeresnext.backends.base import Session
from edgeresnext.backends.registry import COMPILE, CUDA_TARGET
from edgeresnext.bundle import WEIGHTS, Bundle
from edgeresnext.errors import EdgeResNeXtError, unknown_name
from edgeresnext.machine import gpu
from edgeresnext.measure.options import Request
from edgeresnext.runtime.classifier import open_artifact
from edgeresnext.runtime.proof import check
from edgeresnext.spec import CPU, Artifact, Precision

REFERENCE = registry.BASELINE_ARTIFACT.name
"""What accuracy is compared with: PyTorch, eager, FP32, on the CPU."""

RECORDED = "recorded logits"
"""The reference where PyTorch is not installed: its logits for the golden images, from the bundle."""

ON_GPU = f"{CUDA_TARGET}-fp32"
"""What speed is compared with where PyTorch runs on the GPU."""


@dataclass(kw_only=True)
class Variant:
    """An artefact under test, and what became of it."""

    artifact: Artifact
    session: Session | None = None
    status: str = "ok"
    reasons: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The artefact's short name."""
        return self.artifact.name

    @property
    def usable(self) -> bool:
        """Whether it is open and has not failed."""
        return self.session is not None and self.status == "ok"

    def fail(self, reason: str) -> None:
        """Take note that this variant broke; the others go on."""
        self.status = "failed"
        self.reasons = (reason,)

    def close(self) -> None:
        """Free the session."""
        session, self.session = self.session, None
        if session is not None:
            session.close()


def _torch(precision: Precision, target: str = CPU, mode: str = "") -> Artifact:
    return Artifact(backend=registry.BASELINE, precision=precision, target=target, file=WEIGHTS, mode=mode)


def pytorch_ways() -> tuple[Artifact, ...]:
    """Return PyTorch's own ways to be faster than eager FP32 on the CPU; on the GPU only where there is one."""
    on_cpu = (_torch("bf16"), _torch("fp32", mode=COMPILE), _torch("bf16", mode=COMPILE))
    if gpu.detect() is None:
        return on_cpu
    on_gpu = (_torch("fp32", CUDA_TARGET), _torch("fp16", CUDA_TARGET), _torch("fp16", CUDA_TARGET, COMPILE))
    return (*on_cpu, *on_gpu)


def choose(bundle: Bundle, request: Request) -> tuple[list[Variant], str]:
    """Return what is to be measured, PyTorch first, and the name of what speed is compared with.

    PyTorch's other ways are measured where nothing else was asked for by name, or PyTorch was; the baseline always.

    Raises:
        RequestError: The bundle has no such artefact, or there is no such baseline.
    """
    asked = bundle.artifacts(request.backend, request.precision)
    ways = pytorch_ways()
    everything = request.backend in (None, registry.BASELINE) and request.precision is None
    known = {a.name: a for a in (registry.BASELINE_ARTIFACT, *ways, *bundle.manifest.artifacts)}
    chosen = [registry.BASELINE_ARTIFACT, *ways, *asked] if everything else [registry.BASELINE_ARTIFACT, *asked]
    baseline = request.options.baseline
    if baseline is None:
        on_gpu = ON_GPU in known and registry.unavailable(known[ON_GPU]) is None
        baseline = ON_GPU if on_gpu else REFERENCE
    if baseline not in known:
        raise unknown_name("baseline", baseline, known, values=("baseline",))
    chosen.append(known[baseline])
    return [Variant(artifact=artifact) for artifact in dict.fromkeys(chosen)], baseline


def open_all(bundle: Bundle, variants: list[Variant], request: Request, baseline: str) -> None:
    """Open what this machine runs; what cannot be opened, or is to be left out, keeps the reason."""
    golden = bundle.golden()
    for variant in variants:
        artifact = variant.artifact
        extra = artifact.backend == registry.BASELINE and artifact.name not in (REFERENCE, baseline)
        stage = "compile" if artifact.mode == COMPILE else "pytorch"
        if extra and request.skips(stage):
            why = "compiling takes half a minute" if request.mode == "quick" else f"skip {stage}"
            variant.status, variant.reasons = "skipped", (f"left out: {why}",)
            continue
        reason = registry.unavailable(artifact)
        if reason is not None:
            variant.status, variant.reasons = "skipped", (reason,)
            continue
        try:
            variant.session = open_artifact(bundle, artifact, request.options.threads)
        except EdgeResNeXtError as error:
            variant.fail(error.what)
            continue
        if artifact.backend != registry.BASELINE:
            checked = check(bundle, golden, artifact, variant.session)
            if checked.status == "failed":
                variant.close()
                variant.fail(checked.reason)
