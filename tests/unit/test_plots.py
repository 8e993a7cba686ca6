import importlib.util
import re

import msgspec
import numpy as np
import pytest
from sample_report import latency, layer_names, sample_report, small_report

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from edgeresnext.errors import NotInstalledError
from edgeresnext.measure.results import LayerTime, Row
from edgeresnext.report import html, pareto, plots, summary, svg

REPORT = sample_report()
STREAM = [row for row in REPORT.rows if row.scenario == "single-stream" and row.status == "ok"]
OFFLINE = [row for row in REPORT.rows if row.scenario == "offline"]
STYLES = svg.styles(row.name for row in REPORT.rows)


def drawn(make, *arguments):
    with svg.theme():
        return svg.inline(make(*arguments), "p")


def changed(rows, **changes):
    return [msgspec.structs.replace(row, **changes) for row in rows]


def test_the_frontier_leaves_out_what_is_slower_and_no_better():
    found = pareto.trade_off(STREAM)
    assert [mark.name for mark in found.frontier()] == ["openvino-int8", "openvino-bf16", "openvino-fp32"]
    assert found.unit == "ms"


def test_offline_the_frontier_runs_from_the_most_images_a_second():
    rows = [Row(backend=name, precision="fp32", device="cpu", batch=1, scenario="offline", images_per_s=speed, top1=top1) for name, speed, top1 in (("a", 10, 0.8), ("b", 30, 0.7), ("c", 20, 0.6))]  # fmt: skip
    found = pareto.trade_off(rows)
    assert [mark.name for mark in found.frontier()] == ["b-fp32", "a-fp32"]
    assert found.unit == "images/s"


def test_all_marks_use_the_median_where_one_variant_has_no_p90():
    few = msgspec.structs.replace(STREAM[0], latency_s=latency(STREAM[0].samples_s[:40]))
    found = pareto.trade_off([few, *STREAM[1:]])
    assert found.speed == "median latency"
    assert [mark.x for mark in found.marks[1:]] == pytest.approx([1e3 * row.latency_s.p50 for row in STREAM[1:]])


def test_agreement_stands_in_for_top1_and_without_either_a_sentence_says_why():
    agreement = pareto.trade_off(changed(STREAM, top1=None, top1_interval=None))
    assert agreement.accuracy == "agreement with PyTorch"
    assert {mark.name for mark in agreement.marks} == {row.name for row in STREAM}
    assert "was measured" in pareto.trade_off(changed(STREAM, top1=None, agreement=None))
    apart = [*changed(STREAM[:1], top1=None), *changed(STREAM[1:2], latency_s=None)]
    assert pareto.trade_off(apart) == "No variant has both an accuracy and a latency."
    assert "Too few samples" in pareto.trade_off(changed(STREAM, latency_s=latency(STREAM[0].samples_s[:5])))


def test_the_same_report_gives_the_same_page():
    report = msgspec.structs.replace(REPORT, rows=REPORT.rows[::5])
    assert html.to_html(report) == html.to_html(report)


def test_a_million_samples_are_drawn_with_few_points():
    samples = tuple(np.random.default_rng(0).lognormal(-4, 0.1, 1_000_000).tolist())
    rows = changed(STREAM[:1], samples_s=samples, latency_s=latency(samples))
    for make in (plots.distributions, plots.over_time):
        paths = re.findall(r' d="([^"]*)"', drawn(make, rows, STYLES))
        assert max(path.count("L") for path in paths) < 400  # the outline of 80 bins or a band of 120 buckets
        assert max(path.count("L") for path in paths) > 50


def test_a_drift_is_drawn_and_a_single_slow_run_does_not_hide_it():
    samples = np.full(1000, 0.010) * (1 + np.linspace(0, 0.08, 1000))
    samples[500] = 5.0
    with svg.theme():
        figure = plots.over_time(changed(STREAM[:1], samples_s=tuple(samples.tolist())), STYLES).figure
    axes = figure.axes[0]
    line = axes.lines[0].get_ydata()
    assert line[-1] - line[0] == pytest.approx(7.6, abs=0.3)
    assert axes.get_ylim()[1] < 20


@pytest.mark.parametrize("samples", [(0.001,) * 700, (0.001,) * 8, (1e-6, 3.0) * 400])
def test_odd_samples_can_be_drawn(samples):
    rows = changed(STREAM[:1], samples_s=samples, latency_s=latency(samples))
    assert "<svg" in drawn(plots.distributions, rows, STYLES)
    assert "<svg" in drawn(plots.over_time, rows, STYLES)


def test_a_histogram_stands_where_its_samples_are():
    with svg.theme():
        axes = plots.distributions(STREAM, STYLES).figure.axes[0]
    for index, row in enumerate(STREAM):
        corners = (
            axes.collections[[c.get_gid() for c in axes.collections].index(f"distribution-{index}")]
            .get_paths()[0]
            .vertices
        )
        peak = corners[np.argmin(corners[:, 1]), 0]
        assert peak == pytest.approx(1e3 * row.latency_s.p50, rel=0.05)
        assert corners[:, 1].min() == pytest.approx(index - 0.8)
    assert [text.get_text() for text in axes.get_yticklabels()] == [row.name for row in STREAM]


def test_rows_without_samples_are_not_drawn_as_empty_plots():
    bare = changed(STREAM, samples_s=(), latency_s=None, images_per_s=None, layers=())
    assert plots.distributions(bare, STYLES) is None
    assert plots.over_time(bare, STYLES) is None
    assert plots.throughput(bare, STYLES) is None
    assert plots.layers(bare, STYLES) is None


def test_throughput_has_a_line_a_variant_through_every_batch():
    with svg.theme():
        axes = plots.throughput(OFFLINE, STYLES).figure.axes[0]
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 4, 16]] * 6
    assert list(axes.lines[4].get_ydata()) == [row.images_per_s for row in OFFLINE if row.name == "openvino-int8"]


def test_layers_share_an_axis_in_the_network_s_order_and_the_rest_is_grouped_by_kind():
    own = [LayerTime(module="", kind=f"kind {index}", seconds=1e-3 * (index + 1)) for index in range(8)]
    fused = [msgspec.structs.replace(STREAM[0], layers=(*STREAM[0].layers[:10], *own, own[7]))]
    with svg.theme():
        figure = plots.layers([*fused, *STREAM[1:]], STYLES).figure
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names[:54] == layer_names()
    assert all(name.startswith("between layers: ") for name in names[54:])
    widths = {names[round(bar.get_y() + bar.get_height() / 2)]: bar.get_width() for bar in figure.axes[0].patches}
    assert widths["between layers: kind 7"] == pytest.approx(16)
    assert widths["between layers: others"] == pytest.approx(1 + 2 + 3)
    assert len(widths) == 10 + 6
    assert widths["conv1"] == pytest.approx(1e3 * STREAM[0].layers[0].seconds)


def test_colours_of_the_page_replace_those_drawn_but_not_text_that_looks_like_one():
    rows = changed(STREAM, target=svg.INK)
    page = drawn(pareto.draw, pareto.trade_off(rows[:1]), svg.styles(row.name for row in rows))
    assert set(re.findall(r"#[0-9a-f]{6}", re.sub(r">[^<]*<", "><", page)) + re.findall(r"#0102\w\w", page)) == {
        svg.INK
    }
    assert f"{rows[0].name}: top-1" in page
    assert "var(--series-0)" in page
    assert "var(--ink)" in page or "var(--muted)" in page


def test_a_variant_keeps_its_style_and_styles_repeat_late():
    styles = svg.styles(f"variant {index}" for index in range(50))
    assert len(set(styles.values())) == 50
    assert len({style.colour for style in list(styles.values())[:8]}) == 8
    assert svg.styles(["a", "b", "a"])["a"] == svg.styles(["a"])["a"]


def test_labels_hold_what_xml_can_hold():
    assert svg.clean("a\x00b\udcffc\nd") == "a b c d"
    assert svg.clean("x" * 20 + "y" * 20, 11) == "xxxxx…yyyyy"
    assert len(svg.clean("z" * 99)) == 28


@pytest.mark.parametrize(
    ("drops", "expected"),
    [
        ({}, "openvino-int8 is the fastest variant within 0.5 points"),
        ({"openvino-int8": 0.02}, "openvino-bf16 is the fastest"),
        (
            dict.fromkeys([row.name for row in STREAM], 0.02),
            "No variant within 0.5 points of the top-1 of torch-fp32 is faster",
        ),
    ],
)
def test_the_summary_names_the_fastest_variant_that_keeps_the_accuracy(drops, expected):
    rows = [
        msgspec.structs.replace(row, top1_drop=drops.get(row.name, min(row.top1_drop or 0, 0.004))) for row in STREAM
    ]
    rows[5] = msgspec.structs.replace(rows[5], top1_drop=0.02)
    assert summary.fastest(msgspec.structs.replace(REPORT, rows=tuple(rows))).startswith(expected)


def test_the_summary_says_when_accuracy_is_not_known():
    rows = tuple(changed(STREAM, top1=None, top1_drop=None, agreement=None))
    assert "(no accuracy was measured)" in summary.fastest(msgspec.structs.replace(REPORT, rows=rows))
    rows = tuple(changed(STREAM, top1=None, top1_drop=None))
    assert summary.fastest(msgspec.structs.replace(REPORT, rows=rows)).startswith(
        "openvino-bf16 is the fastest variant that"
    )
    assert "could be compared" in summary.fastest(msgspec.structs.replace(REPORT, rows=()))


def test_offline_the_fastest_batch_speaks_for_a_variant():
    report = msgspec.structs.replace(REPORT, rows=tuple(OFFLINE))
    assert [row.batch for row in summary.one_a_variant(report)] == [16] * 6


@pytest.mark.parametrize("rows", [(), REPORT.rows[2:3], tuple(OFFLINE), tuple(STREAM[:1])])
def test_a_report_of_little_is_a_page_all_the_same(rows):
    bare = msgspec.structs.replace(REPORT, rows=rows, classes=(), changed=(), environment={}, bundle={})
    page = html.to_html(bare)
    assert page.startswith("<!DOCTYPE html>")
    assert "None" not in re.sub(r"(?s)<(style|script)>.*?</\1>", "", page)


def test_thumbnails_beyond_the_page_s_size_are_counted():
    picture = msgspec.structs.replace(REPORT.changed[0], thumbnail=bytes(200_000))
    page = html.to_html(small_report(changed=(picture,) * 10))
    assert page.count("data:image/jpeg") == 7
    assert "3 more are in the report as JSON" in page


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named_with_what_to_type(monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(NotInstalledError, match=rf"needs {missing}") as caught:
        html.to_html(REPORT)
    assert caught.value.hint == "pip install 'edgeresnext[plot]'"
