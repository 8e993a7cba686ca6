"""A report as a benchmark of ResNeXt-50 on two cores would give it: seeded, and consistent in itself."""

import io
import math

import msgspec
import numpy as np
from PIL import Image

from edgeresnext.measure.results import ChangedImage, ClassAccuracy, Latency, LayerTime, Report, Row, Timed
from edgeresnext.measure.statistics import mcnemar, wilson

# backend, precision, median ms, top-1 of 2000 images, lost, gained, MiB, peak MiB
VARIANTS = (
    ("torch", "fp32", 61.0, 1552, None, None, 95.6, 612),
    ("torch", "bf16", 48.5, 1550, 9, 7, 47.9, 540),
    ("openvino", "fp32", 38.2, 1552, 0, 0, 95.7, 431),
    ("openvino", "bf16", 33.9, 1551, 8, 7, 48.1, 405),
    ("openvino", "int8", 12.4, 1546, 31, 25, 24.6, 318),
    ("onnxruntime", "int8", 17.8, 1541, 38, 27, 24.9, 347),
)
IMAGES = 2000
BATCHES = (1, 4, 16)
COMMAND = (
    "edgeresnext bench resnext50-bundle --data imagenet/val --samples 2000 --scenario single-stream,offline,server"
)
ENVIRONMENT = {
    "machine": "edge-box-3",
    "cpu": "Intel(R) Celeron(R) N5105 @ 2.00GHz",
    "cores": "2",
    "threads": "2",
    "memory": "7.6 GiB",
    "os": "Debian GNU/Linux 12, Linux 6.1.0",
    "governor": "performance",
    "python": "3.11.2",
    "edgeresnext": "0.4.0",
    "torch": "2.13.0",
    "openvino": "2026.3.0",
    "onnxruntime": "1.32.0",
    "date": "2026-11-25T09:14:02+00:00",
}


def a_row(samples=(), **changes):
    """A row of PyTorch with these seconds, about which nothing more is known than `changes` say."""
    fields = {"backend": "torch", "precision": "fp32", "device": "cpu", "batch": 1, "scenario": "single-stream"}
    return Row(**(fields | {"samples_s": tuple(map(float, samples))} | changes))


def small_report(**changes) -> Report:
    """A report of the first two variants without layers, quickly drawn, for what does not depend on the content."""
    report = sample_report(rounds=16)
    rows = tuple(msgspec.structs.replace(row, layers=()) for row in report.rows[:2])
    return msgspec.structs.replace(report, **({"rows": rows, "changed": ()} | changes))


def latency(samples):
    """The distribution of samples in seconds, with an order statistic for each bound."""
    samples = np.asarray(samples)
    needed = {"p50": 8, "p90": 64, "p95": 130, "p97": 219, "p99": 662, "p99_9": 6636}
    found = {
        name: float(np.percentile(samples, float(name[1:].replace("_", ".")))) if len(samples) >= least else None
        for name, least in needed.items()
    }
    quarter = len(samples) // 4
    middle = np.median(samples)
    scores = 0.6745 * np.abs(samples - middle) / max(np.median(np.abs(samples - middle)), 1e-12)
    return Latency(
        **found,
        mean=float(samples.mean()),
        min=float(samples.min()),
        max=float(samples.max()),
        bound={name: _bound(samples, float(name[1:].replace("_", "."))) for name in needed if found[name] is not None},
        variation=float(samples.std(ddof=1) / samples.mean()),
        outliers=int((scores > 14.826).sum()),
        drift=float(np.median(samples[-quarter:]) / np.median(samples[:quarter]) - 1) if len(samples) >= 8 else None,
    )


def _bound(samples, percentile):
    share, count = percentile / 100, len(samples)
    rank = math.ceil(count * share + 2.326 * math.sqrt(count * share * (1 - share)))
    return float(np.sort(samples)[min(rank, count - 1)])


def _samples(generator, median_s, count, drift=0.0):
    noise = generator.lognormal(0, 0.03, count) * (1 + np.linspace(0, drift, count))
    noise[generator.random(count) < 0.006] *= generator.uniform(1.4, 2.2)
    return tuple((median_s * noise).tolist())


def _speedup(baseline, samples):
    ratio = float(np.median(baseline) / np.median(samples))
    errors = [1.2533 * np.std(one) / np.mean(one) / math.sqrt(len(one)) for one in (baseline, samples)]
    return {"speedup": ratio, "speedup_error": ratio * math.hypot(*errors)}


def _accuracy(right, lost, gained):
    share = right / IMAGES
    found = {"images": IMAGES, "top1": share, "top5": min(1.0, share + 0.158), "top1_interval": wilson(right, IMAGES)}
    if lost is None:  # the reference
        return found | {"agreement": 1.0}
    found |= {"top1_drop": (1552 - right) / IMAGES, "lost": lost, "gained": gained, "p_value": mcnemar(lost, gained)}
    return found | {"agreement": 1 - 1.3 * (lost + gained) / IMAGES}


def layer_names():
    """The 54 convolutions and the classifier of a ResNeXt-50."""
    names = ["conv1"]
    for stage, depth in enumerate((3, 4, 6, 3), 1):
        for block in range(depth):
            names += [f"layer{stage}.{block}.conv{index}" for index in (1, 2, 3)]
            if block == 0:
                names.append(f"layer{stage}.0.downsample.0")
    return [*names, "fc"]


def _layers(generator, total_s, own):
    names = layer_names()
    shares = generator.lognormal(0, 0.5, len(names)) * [2.5 if name.endswith("conv2") else 1 for name in names]
    shares *= 0.93 * total_s / shares.sum()
    found = [LayerTime(module=name, kind="conv", seconds=float(one)) for name, one in zip(names, shares, strict=True)]
    return tuple(found + [LayerTime(module="", kind=kind, seconds=0.07 * total_s / len(own)) for kind in own])


def _thumbnail(generator):
    small = generator.integers(40, 220, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _changed(generator):
    found = []
    for index in range(8):
        before, change = generator.uniform(0.5, 0.9), generator.uniform(0.25, 0.5)
        found.append(
            ChangedImage(
                file=f"n0{1440764 + 1021 * index}/ILSVRC2012_val_{index:08}.JPEG",
                variant=("openvino-int8", "onnxruntime-int8")[index % 2],
                label="tench",
                before="tench",
                before_probability=before,
                after="tench" if index % 3 else "coho",
                after_probability=before - change if index % 3 else change,
                change=change,
                thumbnail=_thumbnail(generator),
            )
        )
    return tuple(sorted(found, key=lambda one: -one.change))


def _classes(generator, count, names):
    found = []
    for index in range(count):
        right = generator.binomial(50, 0.776)
        top1 = {name: max(0, right - int(generator.integers(0, 4))) / 50 for name in names[1:]}
        found.append(ClassAccuracy(label=f"class {index}", images=50, top1={names[0]: right / 50, **top1}))
    return tuple(found)


def _single_stream(generator, rounds):
    rows = []
    baseline = _samples(generator, 61e-3, rounds)
    for backend, precision, median_ms, right, lost, gained, size, peak in VARIANTS:
        name = f"{backend}-{precision}"
        samples = (
            baseline
            if name == "torch-fp32"
            else _samples(generator, median_ms / 1e3, rounds, 0.06 if name == "torch-bf16" else 0)
        )
        compute = _samples(generator, 0.95 * median_ms / 1e3, rounds // 2)
        whole = _samples(generator, (median_ms + 7.5) / 1e3, rounds // 2)
        own = ("Transpose", "Normalize") if backend == "torch" else ("Reorder", "Transpose", "Convert")
        rows.append(
            Row(
                backend=backend, precision=precision, device="cpu", batch=1, scenario="single-stream",
                detail="brgconv_avx2" if backend == "openvino" else "",
                latency_s=latency(samples), latency_n=rounds, samples_s=samples,
                scopes={"compute": Timed(latency_s=latency(compute), samples_s=compute), "end-to-end": Timed(latency_s=latency(whole), samples_s=whole)},
                images_per_s=1 / float(np.mean(samples)), **_speedup(baseline, samples), **_accuracy(right, lost, gained),
                size_bytes=int(size * 2**20), peak_memory_bytes=peak << 20,
                energy_j_per_image=median_ms * 0.0091, energy_source="RAPL package-0", energy_images_per_s=1e3 / median_ms,
                layers=_layers(generator, median_ms / 1e3, own),
            )
        )  # fmt: skip
    rows.insert(
        2,
        Row(
            backend="torch", precision="fp32", mode="compile", device="cpu", batch=1, scenario="single-stream",
            status="skipped", reasons=("torch.compile needs a C++ compiler, and there is no g++ on PATH",),
        ),
    )  # fmt: skip
    return rows


def _offline(generator):
    rows = []
    for backend, precision, median_ms, *_ in VARIANTS:
        for batch in BATCHES:
            seconds = median_ms / 1e3 * batch * (0.72 + 0.28 / batch)
            samples = _samples(generator, seconds, 32)
            rows.append(
                Row(
                    backend=backend, precision=precision, device="cpu", batch=batch, scenario="offline",
                    latency_s=latency(samples), latency_n=len(samples), samples_s=samples,
                    images_per_s=batch / float(np.mean(samples)), speedup=61 / median_ms, speedup_error=0.02,
                    reasons=("32 samples: p90 needs 64, p99 needs 662",),
                )
            )  # fmt: skip
    return rows


def _server(generator, rounds):
    rows = []
    for backend, precision, median_ms, *_ in VARIANTS[4:]:
        samples = tuple(
            (
                np.array(_samples(generator, median_ms / 1e3, rounds)) + generator.exponential(median_ms / 3e3, rounds)
            ).tolist()
        )
        rows.append(
            Row(
                backend=backend, precision=precision, device="cpu", batch=1, scenario="server", latency_s=latency(samples),
                latency_n=rounds, samples_s=samples, images_per_s=24.8, rate=25.0, latency_bound_s=0.1, within_bound=True,
            )
        )  # fmt: skip
    return rows


def sample_report(*, rounds: int = 720, class_count: int = 10, **changes) -> Report:
    """A report of six variants and one that was skipped; `changes` replace its fields."""
    generator = np.random.default_rng(7)
    names = [f"{backend}-{precision}" for backend, precision, *_ in VARIANTS]
    fields = {
        "bundle": {"model": "resnext50_32x4d", "path": "resnext50-bundle", "weights": "sha256:11ad3fa6d2c0", "calibration": "auto on 512 images"},
        "environment": ENVIRONMENT,
        "mode": "default",
        "command": COMMAND,
        "baseline": "PyTorch 2.13.0, FP32, eager, 2 threads",
        "baseline_variant": "torch-fp32",
        "reference": "torch-fp32",
        "data": "2000 images of 'imagenet/val'",
        "rows": (*_single_stream(generator, rounds), *_offline(generator), *_server(generator, rounds)),
        "warnings": ("the CPU's governor changed from performance to powersave during the run",),
        "images_sha256": "9f2b" * 16,
        "overlap": 0,
        "classes": _classes(generator, class_count, names),
        "changed": _changed(generator),
    }  # fmt: skip
    return Report(**(fields | changes))
