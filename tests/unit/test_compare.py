import io
import math
import re

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console
from sample_report import a_row, sample_report
from wandering import run

from edgeresnext.comparison.compare import Comparison, compare
from edgeresnext.errors import ReportError, RequestError
from edgeresnext.measure.results import Latency as Distribution
from edgeresnext.measure.results import Report, Timed
from edgeresnext.measure.statistics import mcnemar
from edgeresnext.report.comparison import render_comparison


def a_report(*rows, **changes):
    fields = {
        "bundle": {"model": "m", "path": "here", "weights_sha256": "1", "calibration": "auto"},
        "environment": {"cpu": "c", "date": "2026-11-24", "load_1min": "0.1"},
        "mode": "default", "command": "", "baseline": "PyTorch", "baseline_variant": "torch-fp32",
        "reference": "torch-fp32", "data": "d", "images_sha256": "s",
    }  # fmt: skip
    return Report(rows=rows, **(fields | changes))


@pytest.fixture
def noisy():
    generator = np.random.default_rng(5)
    return lambda factor=1.0, count=128: factor * run(generator, count, 0.03, wander=0)


def test_rows_pair_by_variant_scenario_batch_scope_and_rate(noisy):
    one = noisy()
    old = a_report(
        a_row(one), a_row(one, batch=8), a_row(one, scenario="server", rate=10.0), a_row(one, scope="compute"), a_row(one, mode="compile")
    )  # fmt: skip
    new = a_report(
        a_row(one), a_row(one, batch=4), a_row(one, scenario="server", rate=20.0), a_row(one, scope="compute")
    )
    found = compare(old, new)
    assert [(row.variant, row.batch, row.scope) for row in found.rows] == [
        ("torch-fp32", 1, "copies"),
        ("torch-fp32", 1, "compute"),
    ]
    assert found.only_old == (
        "torch-fp32, single-stream, batch 8, copies", "torch-fp32, server, batch 1, copies, 10 queries/s",
        "torch-fp32-compile, single-stream, batch 1, copies",
    )  # fmt: skip
    assert found.only_new == (
        "torch-fp32, single-stream, batch 4, copies", "torch-fp32, server, batch 1, copies, 20 queries/s",
    )  # fmt: skip


def test_each_scope_of_a_row_is_compared_by_its_own_samples(noisy):
    distribution = Distribution(p50=1, p90=1, p95=1, p97=1, p99=1, p99_9=1, mean=1, min=1, max=1)
    rows = [
        a_row(noisy(), scopes={"compute": Timed(latency_s=distribution, samples_s=tuple(noisy(f)))}) for f in (1, 1.2)
    ]
    found = compare(*map(a_report, rows))
    assert {row.scope: row.verdict for row in found.rows} == {"copies": "no difference", "compute": "slower"}


def test_new_over_old_so_that_above_1_is_slower(noisy):
    row = compare(a_report(a_row(noisy())), a_report(a_row(noisy(0.5)))).rows[0]
    assert row.verdict == "faster"
    assert row.change.ratio == pytest.approx(0.5, rel=0.03)
    assert row.new_s == pytest.approx(0.5 * row.old_s, rel=0.03)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"samples_s": (0.1,) * 7}, "too few samples: 7 in the new run"),
        ({"samples_s": ()}, "too few samples: 0 in the new run"),
        ({"status": "failed", "reasons": ("out of memory",)}, "failed in the new run: out of memory"),
        ({"samples_s": (0.1,) * 20 + (0.0,)}, "not positive"),
    ],
)
def test_what_cannot_be_compared_says_why(noisy, changes, reason):
    old = a_row(noisy(), images_per_s=10.0)
    found = compare(a_report(old), a_report(replace(old, **changes))).rows[0]
    assert (found.verdict, found.change) == ("not comparable", None)
    assert reason in found.reasons[0]
    assert found.old_images_per_s == 10.0
    assert not compare(a_report(old), a_report(replace(old, **changes))).regressed


def test_8_samples_are_enough():
    old, new = (a_report(a_row(np.full(8, 0.1) * factor)) for factor in (1, 1.5))
    assert compare(old, new).rows[0].verdict == "slower"


def test_a_machine_that_slowed_everything_shows_in_the_baseline_and_cancels_against_it(noisy):
    base, own = noisy(), noisy(0.3)
    old = a_report(a_row(base), a_row(own, backend="openvino"), a_row(own, backend="onnxruntime"))
    new = a_report(
        a_row(base[::-1] * 1.2), a_row(own[::-1] * 1.2, backend="openvino"), a_row(own[::-1] * 1.2 * 1.1, backend="onnxruntime")
    )  # fmt: skip
    baseline, openvino, onnxruntime = compare(old, new).rows
    assert [row.verdict for row in (baseline, openvino, onnxruntime)] == ["slower"] * 3
    assert (baseline.baseline, baseline.against_baseline) == (None, None)
    assert openvino.baseline == baseline.change
    assert openvino.against_baseline.verdict == "no difference"
    assert onnxruntime.against_baseline.verdict == "slower"
    assert onnxruntime.against_baseline.ratio == pytest.approx(1.1, rel=0.02)
    assert any("torch-fp32 itself took 1.2" in note for note in compare(old, new).notes)
    assert compare(old, new).regressed
    assert not compare(a_report(*old.rows[:2]), a_report(*new.rows[:2])).regressed
    assert not any("itself took" in note for note in compare(old, old).notes)


def test_what_slows_baseline_and_variant_in_the_same_rounds_leaves_their_ratio_certain():
    generator = np.random.default_rng(6)
    rows = []
    for _ in range(2):
        shared = run(generator, 256, 0.0, wander=0.1)
        rows.append([a_row(shared), a_row(shared * np.exp(0.01 * generator.normal(size=256)), backend="openvino")])
    found = compare(a_report(*rows[0]), a_report(*rows[1])).rows[1]
    widths = [math.log(one.interval[1] / one.interval[0]) for one in (found.change, found.against_baseline)]
    assert widths[1] < 0.2 * widths[0]


def bits(right):
    return np.packbits(right).tobytes()


def accuracies(old, new, *, same=True):
    rows = [a_row(top1=float(np.mean(right)), images=len(right), right=bits(right)) for right in (old, new)]
    reports = a_report(rows[0]), a_report(rows[1], images_sha256="s" if same else "t")
    return compare(*reports).accuracy[0]


def test_top1_is_compared_image_by_image():
    old = np.ones(203, dtype=bool)
    old[:3] = False
    new = old.copy()
    new[190:203] = False
    new[0] = True
    found = accuracies(old, new)
    assert (found.lost, found.gained, found.images) == (13, 1, 203)
    assert found.p_value == mcnemar(13, 1)
    assert found.verdict == "worse"
    assert accuracies(new, old).verdict == "better"
    assert accuracies(old, old).verdict == "no difference"


def test_flips_that_chance_would_make_are_no_difference():
    old, new = np.ones(100, dtype=bool), np.ones(100, dtype=bool)
    new[:6], old[90:93] = False, False
    found = accuracies(old, new)
    assert (found.lost, found.gained, found.verdict) == (6, 3, "no difference")


def test_other_images_are_not_paired():
    right = np.ones(16, dtype=bool)
    found = accuracies(right, ~right, same=False)
    assert (found.verdict, found.p_value) == ("not paired", None)
    assert "not paired" in found.reasons[0]
    assert (found.old_top1, found.new_top1) == (1.0, 0.0)


@pytest.mark.parametrize("right", [None, b"", b"\xff" * 3])
def test_bits_that_do_not_fit_the_images_are_not_paired(right):
    old = a_row(top1=1.0, images=16, right=b"\xff\xff")
    found = compare(a_report(old), a_report(replace(old, right=right))).accuracy[0]
    assert found.verdict == "not paired"


def test_reports_that_do_not_say_which_images_they_saw_are_not_paired():
    row = a_row(top1=1.0, images=8, right=b"\xff")
    found = compare(a_report(row, images_sha256=""), a_report(row, images_sha256=""))
    assert found.accuracy[0].verdict == "not paired"


def test_accuracy_is_compared_once_a_variant(noisy):
    rows = [a_row(noisy(), batch=batch, top1=0.5, images=2, right=b"\x80") for batch in (1, 8)]
    rows.append(a_row(noisy(), backend="openvino", top1=0.5, images=2, right=b"\x80"))
    assert [one.variant for one in compare(a_report(*rows), a_report(*rows)).accuracy] == [
        "torch-fp32",
        "openvino-fp32",
    ]


def test_what_else_differs_is_told_but_not_what_always_does(noisy):
    row = a_row(noisy())
    new = a_report(
        row, mode="quick", partial=True, data="e", bundle={"model": "m", "path": "there", "weights_sha256": "2", "calibration": "auto"},
        environment={"cpu": "c", "date": "2026-11-25", "load_1min": "9", "threads": "2"},
    )  # fmt: skip
    found = compare(a_report(row), new)
    assert found.environment == {"threads": ("", "2")}
    assert found.bundle == {"weights_sha256": ("1", "2")}
    assert (found.old_date, found.new_date) == ("2026-11-24", "2026-11-25")
    notes = "; ".join(found.notes)
    for words in (
        "new run was quick",
        "new run was interrupted",
        "was default, the new one's quick",
        "d before, e now",
    ):
        assert words in notes
    same = compare(a_report(row), a_report(row))
    assert (same.environment, same.bundle, same.notes, same.regressed) == ({}, {}, (), False)


def test_other_baselines_are_told_and_not_compared_with(noisy):
    rows = a_row(noisy()), a_row(noisy(), backend="openvino")
    found = compare(a_report(*rows), a_report(*rows, baseline_variant="openvino-fp32"))
    assert found.baseline == ""
    assert all(row.against_baseline is None for row in found.rows)
    assert "the baselines differ: torch-fp32 before, openvino-fp32 now" in found.notes


def test_nothing_in_common_is_refused(noisy):
    with pytest.raises(ReportError, match="no row in common"):
        compare(a_report(a_row(noisy())), a_report(a_row(noisy(), backend="openvino")))
    with pytest.raises(ReportError, match="no row in common"):
        compare(a_report(), a_report())


@pytest.mark.parametrize("threshold", [-0.1, 1.0, math.nan, math.inf])
def test_thresholds_that_cannot_be_meant_are_refused(noisy, threshold):
    with pytest.raises(RequestError, match="threshold") as caught:
        compare(a_report(a_row(noisy())), a_report(a_row(noisy())), threshold=threshold)
    assert caught.value.values == ("threshold",)


def test_a_wider_threshold_calls_less(noisy):
    reports = a_report(a_row(noisy())), a_report(a_row(noisy(1.1)))
    assert compare(*reports).regressed
    assert compare(*reports, threshold=0.2).rows[0].verdict == "no difference"


def test_a_comparison_has_a_json_form(noisy):
    found = compare(a_report(a_row(noisy())), a_report(a_row(noisy(1.3), top1=0.5)))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Comparison) == found


def shown(comparison):
    console = Console(width=170, file=io.StringIO(), highlight=False)
    console.print(render_comparison(comparison))
    return console.file.getvalue()


def test_the_terminal_shows_verdicts_reasons_and_what_differs(noisy):
    base, own = noisy(), noisy(0.3)
    old = a_report(
        a_row(base), a_row(own, backend="openvino"), a_row(own, scenario="offline", batch=8, images_per_s=99.0)
    )
    new = a_report(
        a_row(base * 1.3, top1=0.5), a_row(own[:5], backend="openvino"), a_row(own, scenario="offline", batch=8, images_per_s=98.0),
        environment={"cpu": "\x1b[31mother"},
    )  # fmt: skip
    text = shown(compare(old, new))
    assert "1.300  1.2" in text
    assert "slower" in text
    assert "openvino-fp32: too few samples: 5 in the new run, 8 are needed" in text
    assert "99.0" in text
    assert "98.0" in text
    assert "cpu: c ->  [31mother" in text
    assert "\x1b" not in text
    assert "…" not in text
    assert "against" not in shown(compare(old, old))


def test_the_terminal_shows_what_became_of_the_accuracy(noisy):
    old = np.ones(203, dtype=bool)
    new = old.copy()
    new[:13] = False
    rows = [a_row(noisy(), top1=float(right.mean()), images=203, right=bits(right)) for right in (old, new)]
    text = shown(compare(*map(a_report, rows)))
    assert re.search(r"torch-fp32 +100\.00 +93\.60 +-6\.40 +-13 \+0 +<0\.001 +203 +worse", text)
    assert "p: McNemar's test" in text
    other = shown(compare(a_report(rows[0]), a_report(rows[1], images_sha256="t")))
    assert "flips" not in other
    assert "torch-fp32: top-1 of other images: not paired" in other


def test_highest_rates_within_a_bound_are_compared():
    def found(rate):
        row = next(one for one in sample_report(rounds=64).rows if one.name == "openvino-int8")
        served = msgspec.structs.replace(row, scenario="server", rate=rate, latency_bound_s=0.015, scopes={})
        return sample_report(rounds=64, rows=(served,))

    verdicts = [compare(found(100.0), found(rate)).rows[0].verdict for rate in (100.0, 95.0, 50.0, 150.0)]
    assert verdicts == ["no difference", "no difference", "slower", "faster"]
    halved = compare(found(100.0), found(50.0))
    assert halved.rows[0].reasons == ("100 queries/s before, 50 now, sought in steps of 7%",)
    assert halved.regressed
