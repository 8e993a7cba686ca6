"""What a benchmark found, and its JSON form: frozen values, seconds and bytes, every sample kept.

What was not measured is None, and the row's `reasons` say why.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeresnext.spec import CPU, Precision, Value, variant_name

REPORT_SCHEMA = 3

Scenario = Literal["single-stream", "multi-stream", "offline", "server"]
"""How queries arrive (MLPerf Inference): one image after the other; several at a time; everything at once, in batches;
at random times."""

Scope = Literal["compute", "copies", "end-to-end"]
"""What a latency spans. `compute`: the network alone, its input being where the runtime reads it and its output left
where the runtime writes it. `copies`: uint8 images in memory to logits in memory, as `Classifier.logits` does.
`end-to-end`: encoded image files in memory to classes, decoding and cropping included."""

Mode = Literal["quick", "default", "official"]


class Latency(Value, frozen=True, kw_only=True):
    """The distribution of one variant's latency in seconds.

    Percentiles are the sample's own, None where it is too small for the bound. `bound` holds, for each percentile that
    is not None ("p90"), the latency under which it lies with 99 % confidence (MLPerf's early stopping; see
    `statistics.upper_bound`). `variation` is the coefficient of variation (standard deviation over mean), `outliers`
    counts the samples whose modified z-score is above 14.826, which stay in, and `drift` is how much slower the last
    quarter of the rounds was than the first (0.05: 5 %), None below 8 rounds.
    """

    p50: float | None
    p90: float | None
    p95: float | None
    p97: float | None
    p99: float | None
    p99_9: float | None
    mean: float
    min: float
    max: float
    bound: dict[str, float] = msgspec.field(default_factory=dict)
    variation: float | None = None
    outliers: int = 0
    drift: float | None = None


class Timed(Value, frozen=True, kw_only=True):
    """The latency in another scope than the row's: its distribution and every sample, in seconds."""

    latency_s: Latency
    samples_s: tuple[float, ...]


class LayerTime(Value, frozen=True, kw_only=True):
    """What one layer of the network took in a run that was profiled, a pass of its own.

    `module` is the layer's name in PyTorch; empty for what belongs to no convolution or Gemm alone, then `kind` is
    the runtime's operation, such as Transpose. `seconds` is the median over the profiled runs.
    """

    module: str
    kind: str
    seconds: float


class Row(Value, frozen=True, kw_only=True):
    """One variant in one scenario at one batch.

    `mode` is how PyTorch runs it ("compile"; empty is eager), `detail` what the runtime chose for itself. `scope` is
    what `latency_s` and `samples_s` span; `scopes` holds the others that were measured. `speedup` is the baseline's
    median latency over this one's at the same batch, in `offline` this one's images/s over the baseline's;
    `speedup_error` is its standard error. In `server`, `rate` is the queries a second that arrived, latencies are from
    arrival to logits, `latency_bound_s` is the limit that was asked for and `within_bound` whether the percentile's
    bound kept it.

    `top1`, `top5` and `agreement` (same first class as PyTorch, image by image) are shares of `images`; `top1_drop` is
    PyTorch's `top1` minus this one's, `top1_interval` Wilson's 95 % interval. `lost` and `gained` count the images
    that PyTorch alone and this one alone classify right, and `p_value` is McNemar's: how likely flips so uneven are if
    both were equally good. `right` has a bit an image, first image highest bit first, for comparing with other runs.
    `energy_j_per_image` comes from the counter named in `energy_source`, over a loop of its own at
    `energy_images_per_s`. `reasons` say why something is missing and what is to be known of the rest, each by itself.
    """

    backend: str
    precision: Precision
    device: str
    batch: int
    scenario: Scenario
    target: str = CPU
    mode: str = ""
    detail: str = ""
    scope: Scope = "copies"
    latency_s: Latency | None = None
    latency_n: int = 0
    samples_s: tuple[float, ...] = ()
    scopes: dict[Scope, Timed] = msgspec.field(default_factory=dict)
    images_per_s: float | None = None
    speedup: float | None = None
    speedup_error: float | None = None
    rate: float | None = None
    latency_bound_s: float | None = None
    within_bound: bool | None = None
    top1: float | None = None
    top5: float | None = None
    images: int = 0
    top1_drop: float | None = None
    top1_interval: tuple[float, float] | None = None
    lost: int | None = None
    gained: int | None = None
    p_value: float | None = None
    agreement: float | None = None
    right: bytes | None = None
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    energy_j_per_image: float | None = None
    energy_source: str = ""
    energy_images_per_s: float | None = None
    layers: tuple[LayerTime, ...] = ()
    status: Literal["ok", "skipped", "failed"] = "ok"
    reasons: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The short name used in tables and messages, such as `openvino-int8`, `rtx40-fp16` or `torch-fp32-compile`."""
        return variant_name(self.backend, self.precision, self.target, self.mode)


class ClassAccuracy(Value, frozen=True, kw_only=True):
    """One class: its label, how many images show it, and the share that each variant gets right."""

    label: str
    images: int
    top1: dict[str, float]


class ChangedImage(Value, frozen=True, kw_only=True):
    """An image of which a variant is much less, or more, sure than PyTorch.

    `label` is the right class, empty without labels. `change` is the largest difference of a class's softmax
    probability; the first classes of PyTorch (`before`) and of the variant (`after`) stand with their probabilities.
    `thumbnail` is a JPEG.
    """

    file: str
    variant: str
    label: str
    before: str
    before_probability: float
    after: str
    after_probability: float
    change: float
    thumbnail: bytes


class Report(Value, frozen=True, kw_only=True):
    """The result of a benchmark: a row a variant, scenario and batch, beside where and on what it was measured.

    `baseline` says in words what speed is compared with, `baseline_variant` is its name and `reference` the name of
    what accuracy is compared with. `partial` is True where the run was interrupted; what it had measured is here.
    `images_sha256` is over the pixels of all images in order: accuracies of two reports pair where it is the same.
    `overlap` counts the images that the bundle was calibrated on, None where that is not known. `command` repeats the
    run: what to type, or the call in Python where it was one.
    """

    bundle: dict[str, str]
    environment: dict[str, str]
    mode: Mode
    command: str
    baseline: str
    baseline_variant: str
    reference: str
    data: str
    rows: tuple[Row, ...]
    partial: bool = False
    warnings: tuple[str, ...] = ()
    images_sha256: str = ""
    overlap: int | None = None
    classes: tuple[ClassAccuracy, ...] = ()
    changed: tuple[ChangedImage, ...] = ()
    schema: int = REPORT_SCHEMA
