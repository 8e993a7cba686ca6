"""What a benchmark has found so far: filled stage by stage, so that an interrupted run keeps what it has."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeresnext.backends import registry
from edgeresnext.bundle import Bundle
from edgeresnext.errors import BundleError
from edgeresnext.measure.accuracy import Classified
from edgeresnext.measure.latency import Record
from edgeresnext.measure.options import Request
from edgeresnext.measure.results import ChangedImage, LayerTime, Scope
from edgeresnext.measure.scenarios import Measured
from edgeresnext.measure.variants import Variant


@dataclass(kw_only=True)
class Findings:
    """Everything that was measured so far.

    Args:
        request: What was asked for.
        bundle: The bundle.
        variants: What is under test.
        baseline: Name of what speed is compared with.
        data: Which images, in words.
        measured: Latencies, one entry a scenario and batch.
        classified: Classes found on the images of the benchmark.
        against: The same, or that of the golden images where PyTorch did not run: what agreement is taken from.
        changed: The images whose probabilities changed most.
        scopes: Latencies in other scopes, at the batch of the first entry of `measured`, as are those that follow.
        layers: Profiles, by variant.
        energy: Joules an image, images a second, and the meter, by variant.
        memory: Peak bytes, by variant.
        lacking: Why something was not measured, by variant.
        notes: Warnings of the run as a whole.
        unfinished: The stage that is running; after an interruption, the one that was.
    """

    request: Request
    bundle: Bundle
    variants: list[Variant]
    baseline: str
    data: str = ""
    measured: list[Measured] = field(default_factory=list)
    classified: Classified | None = None
    against: Classified | None = None
    changed: tuple[ChangedImage, ...] = ()
    scopes: dict[Scope, Record] = field(default_factory=dict)
    layers: dict[str, tuple[LayerTime, ...]] = field(default_factory=dict)
    energy: dict[str, tuple[float, float, str]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    lacking: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unfinished: str = ""

    @property
    def has_samples(self) -> bool:
        """Whether any latency was measured."""
        return any(self.timed(variant.name) for variant in self.variants)

    def timed(self, name: str) -> bool:
        """Return whether a variant has any latency."""
        return any(measured.record.samples.get(name) for measured in self.measured)

    def baseline_in_words(self) -> str:
        """Say what speed is compared with, or why it has no figure."""
        variant = next(one for one in self.variants if one.name == self.baseline)
        if not self.timed(self.baseline):
            unable = next((one.unable[variant.name] for one in self.measured if variant.name in one.unable), "")
            why = ", ".join(variant.reasons) or unable or "interrupted"
            return f"none: {variant.name} has no figure ({why})"
        eager = variant.artifact.backend == registry.BASELINE and not variant.artifact.mode
        details = (one.record.details.get(variant.name) for one in self.measured)
        return ", ".join(filter(None, (variant.name, "eager" if eager else "", next(filter(None, details), ""))))

    def overlap(self) -> int | None:
        """Return how many images the bundle was calibrated on, by their pixels; None where that is not known."""
        try:
            ranges = self.bundle.ranges()
        except BundleError:  # of an earlier release; `verify` is what proves files
            return None
        if ranges is None or self.classified is None or not self.classified.digests:
            return None
        calibrated = frozenset(ranges.image_digests)
        return sum(digest in calibrated for digest in self.classified.digests)
