"""ResNeXt-50 against PyTorch eager, compiled and in FP16, as `edgeresnext bench` measures it."""

from gpu.building import BACKENDS, LARGE
from gpu.check import check

BUNDLES = (LARGE,)
ENGINES = tuple((LARGE, backend) for backend in BACKENDS)


def rows(report):
    """What tables need of a report."""
    return [
        {
            "variant": row.name,
            "batch": row.batch,
            "scenario": row.scenario,
            "device": row.device,
            "status": row.status,
            "detail": row.detail,
            "p50_s": row.latency_s.p50 if row.latency_s else None,
            "p90_s": row.latency_s.p90 if row.latency_s else None,
            "p99_s": row.latency_s.p99 if row.latency_s else None,
            "samples": row.latency_n,
            "compute_s": row.scopes["compute"].latency_s.p50 if "compute" in row.scopes else None,
            "images_per_s": row.images_per_s,
            "speedup": row.speedup,
            "energy_j_per_image": row.energy_j_per_image,
            "reasons": list(row.reasons),
        }
        for row in report.rows
    ]


def kept(work, name, report):
    """Save a report, and return what tables need of it."""
    from edgeresnext.report.files import save_report

    save_report(report, work.out / f"{name}.json")
    return {"baseline": report.baseline, "warnings": list(report.warnings), "rows": rows(report)}


@check(300, *(f"{backend} {scenario}" for backend in BACKENDS for scenario in ("single-stream", "offline")))
def beside_pytorch(work, variant):
    """One image after the other, or as many as there are, beside PyTorch on the GPU."""
    import edgeresnext
    from edgeresnext.backends.registry import CUDA_TARGET
    from edgeresnext.measure import variants

    backend, scenario = variant.split()
    ways = variants.pytorch_ways()  # those on the CPU would take the time of all others
    variants.pytorch_ways = lambda: tuple(way for way in ways if way.target == CUDA_TARGET)
    report = edgeresnext.bench(
        work.engines(LARGE, backend),
        scenario=scenario,
        mode="default" if work.scale >= 1 else "quick",
        options=edgeresnext.BenchOptions(skip=("memory", "accuracy"), seconds=60.0 * work.scale),
    )
    found = kept(work, f"bench-{backend}-{scenario}", report)
    broken = {row["variant"]: row["reasons"] for row in found["rows"] if row["status"] == "failed"}
    assert not broken, broken
    return found
