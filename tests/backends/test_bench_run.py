"""The ways that a benchmark may go, with sessions that know their answers and take known times on a scripted clock."""

import errno
import os
import signal

import pytest
from PIL import Image
from scripted import answers, open_known
from stages import LATENCY_ALONE

import edgeresnext
from edgeresnext import BenchOptions
from edgeresnext.backends import registry
from edgeresnext.cli import interruption
from edgeresnext.errors import BackendError, DataError, RequestError
from edgeresnext.measure import bench as module
from edgeresnext.measure import variants
from edgeresnext.measure.bench import InterruptedBenchError

TIMES = {"torch-fp32": 0.004, "openvino-int8": 0.001}
"""Seconds a run; others take 2 ms."""


def options(**changes):
    return BenchOptions(**({"rounds": 11, "skip": LATENCY_ALONE} | changes))


def bench(built, options=options(), **asked):  # noqa: B008 - frozen
    return edgeresnext.bench(built.path, options=options, **asked)


def rows_of(report):
    return {row.name: row for row in report.rows}


@pytest.fixture(scope="module")
def logits(built, digit_folders):
    return answers(built, digit_folders["validation"])


@pytest.fixture
def opened(monkeypatch, logits):
    """The sessions that a benchmark opens, by name."""
    return open_known(monkeypatch, logits, TIMES)


@pytest.mark.usefixtures("opened")
def test_one_failing_variant_does_not_end_the_run(built, monkeypatch):
    scripted = variants.open_artifact

    def refuse(bundle, artifact, threads=None):
        if artifact.backend == "onnxruntime":
            raise BackendError("refused for the test")
        return scripted(bundle, artifact, threads)

    monkeypatch.setattr(variants, "open_artifact", refuse)
    rows = rows_of(bench(built))
    assert rows["onnxruntime-fp32"].status == "failed"
    assert rows["onnxruntime-fp32"].reasons == ("refused for the test",)
    assert rows["openvino-fp32"].status == "ok"


@pytest.mark.usefixtures("opened")
def test_without_pytorch_the_recorded_logits_are_the_baseline(built, digit_folders, monkeypatch):
    monkeypatch.setattr(type(registry.get("torch")), "unavailable", lambda *_: "torch is not installed")
    for data in (None, digit_folders["validation"]):
        report = bench(built, data=data, backend="openvino")
        row = rows_of(report)["openvino-fp32"]
        assert report.baseline == "none: torch-fp32 has no figure (torch is not installed)"
        assert (report.baseline_variant, report.reference) == ("", "recorded logits")
        assert rows_of(report)["torch-fp32"].status == "skipped"
        assert (row.speedup, row.top1_drop, row.agreement) == (None, None, 1.0)
        assert any("golden images" in reason for reason in row.reasons)
        assert (row.top1 is None) == (data is None)


@pytest.mark.usefixtures("opened")
def test_another_baseline_is_what_speed_is_compared_with(built):
    report = bench(built, options(baseline="onnxruntime-fp32"), precision="int8")
    rows = rows_of(report)
    assert report.baseline_variant == "onnxruntime-fp32"
    assert rows["onnxruntime-fp32"].speedup == 1.0
    assert rows["torch-fp32"].speedup == pytest.approx(0.5, rel=0.01)
    assert report.reference == "torch-fp32"
    with pytest.raises(RequestError, match="Did you mean 'openvino-int8'"):
        bench(built, options(baseline="openvino-int4"))


@pytest.mark.usefixtures("opened")
def test_a_choice_of_backend_and_precision_keeps_the_baseline(built):
    report = bench(built, options(batch=4), backend="openvino", precision="int8")
    assert [row.name for row in report.rows] == ["torch-fp32", "openvino-int8"]
    assert all((row.batch, row.scenario) == (4, "multi-stream") for row in report.rows)
    assert rows_of(report)["openvino-int8"].speedup == pytest.approx(4, rel=0.01)


@pytest.mark.usefixtures("opened")
def test_multi_stream_takes_eight_images_a_query(built):
    row = rows_of(bench(built, scenario="multi-stream", precision="int8"))["openvino-int8"]
    assert row.batch == 8
    assert row.images_per_s == pytest.approx(8 / row.latency_s.mean)


@pytest.mark.usefixtures("opened")
def test_offline_sweeps_batches(built):
    report = bench(built, scenario="offline", mode="quick", precision="int8")
    rows = [row for row in report.rows if row.name == "openvino-int8"]
    assert [row.batch for row in rows] == [1, 8]
    assert rows[1].images_per_s == pytest.approx(8 * rows[1].latency_n / sum(rows[1].samples_s))
    assert report.rows[0].speedup == 1.0
    only = bench(built, options(batch=3), scenario="offline", precision="int8")
    assert {row.batch for row in only.rows} == {3}


@pytest.mark.usefixtures("opened")
def test_a_server_is_measured_at_its_rate(built):
    asked = options(rate=40.0, rounds=None, latency_bound_s=0.01, seconds=1.0)
    report = bench(built, asked, scenario="server", mode="quick", precision="int8")
    row = rows_of(report)["openvino-int8"]
    assert (row.rate, row.images_per_s, row.within_bound, row.latency_n) == (40, 40, True, 64)
    assert row.latency_s.min == pytest.approx(0.001, rel=0.1)
    assert any("on p90" in reason for reason in row.reasons)
    assert row.speedup is None


@pytest.mark.usefixtures("opened")
def test_a_quick_run_draws_images_and_says_so(built, digit_folders):
    report = bench(built, data=digit_folders["validation"], mode="quick", precision="int8")
    assert report.mode == "quick"
    assert report.data.startswith("64 of 600 images of")
    assert rows_of(report)["openvino-int8"].images == 64
    assert {one.images for one in report.classes} <= {6, 7}  # evenly over the classes


@pytest.mark.usefixtures("opened")
def test_unlabelled_images_give_agreement_without_accuracy(built, digit_folders):
    report = bench(built, data=digit_folders["validation"] / "3", precision="int8")
    row = rows_of(report)["openvino-int8"]
    assert (row.top1, row.images) == (None, 59)
    assert any("no labelled images" in reason for reason in row.reasons)
    assert row.agreement == 1.0
    assert report.classes == ()


@pytest.mark.usefixtures("opened")
def test_unreadable_images_are_counted(built, digit_folders, tmp_path):
    folder = tmp_path / "val" / "3"
    folder.mkdir(parents=True)
    for index, path in enumerate(sorted((digit_folders["validation"] / "3").iterdir())):
        Image.open(path).save(folder / f"{index}.png")
    (folder / "bad.png").write_bytes(b"x")
    report = bench(built, options(class_order="numeric"), data=tmp_path / "val", precision="int8")
    assert "1 unreadable" in report.data
    assert rows_of(report)["openvino-int8"].images == 59


@pytest.mark.usefixtures("opened")
def test_images_that_cannot_be_read_cost_accuracy_alone(built, digit_folders, tmp_path):
    folder = tmp_path / "val" / "3"
    folder.mkdir(parents=True)
    Image.open(min((digit_folders["validation"] / "3").iterdir())).save(folder / "good.png")
    for index in range(3):
        (folder / f"bad{index}.png").write_bytes(b"x")
    report = bench(built, options(class_order="numeric"), data=tmp_path / "val", precision="int8")
    assert rows_of(report)["openvino-int8"].latency_n == 11
    assert any("accuracy was not measured: at least" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    "asked",
    [{"options": BenchOptions(batch=0)}, {"options": BenchOptions(skip=("x",))}, {"options": BenchOptions(baseline="x")},
     {"backend": "x"}, {"precision": "fp64"}, {"scenario": "x"}, {"mode": "x"}],
)  # fmt: skip
def test_numbers_and_names_that_cannot_be_meant_are_refused_before_anything_is_opened(built, opened, asked):
    with pytest.raises(RequestError):
        edgeresnext.bench(built.path, **asked)
    assert not opened


def test_classes_that_the_model_does_not_have_are_refused(built, opened, photos):
    with pytest.raises(DataError, match="cat, dog"):
        bench(built, data=photos)
    assert not opened


@pytest.mark.usefixtures("opened")
def test_an_interrupted_run_keeps_what_it_measured(built, digit_folders):
    def interrupt(stage, done, total):
        if stage == "accuracy" and done > 100:
            raise KeyboardInterrupt
        del total

    with pytest.raises(InterruptedBenchError) as interrupted:
        bench(built, data=digit_folders["validation"], precision="int8", progress=interrupt)
    report = interrupted.value.report
    rows = rows_of(report)
    assert report.partial
    assert rows["openvino-int8"].latency_n == 11
    assert 100 < rows["openvino-int8"].images == rows["torch-fp32"].images < 200
    assert rows["openvino-int8"].top1 == 1.0


def at_the_fifth_round(stage, done, _total):
    """Interrupt what a benchmark times."""
    if stage == "single-stream" and done == 5:
        raise KeyboardInterrupt


@pytest.mark.usefixtures("opened")
def test_a_run_that_is_interrupted_while_timing_keeps_its_samples(built):
    with pytest.raises(InterruptedBenchError) as interrupted:
        bench(built, precision="int8", progress=at_the_fifth_round)
    row = rows_of(interrupted.value.report)["openvino-int8"]
    assert row.latency_n == 5
    assert row.agreement is None
    assert any("accuracy: not measured" in reason for reason in row.reasons)


def test_a_run_that_is_interrupted_before_anything_was_measured_has_no_report(built, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(variants, "open_artifact", interrupt)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        bench(built)
    assert not isinstance(interrupted.value, InterruptedBenchError)


@pytest.mark.usefixtures("opened")
def test_a_second_ctrl_c_loses_nothing(built, monkeypatch):
    report_of = module.report_of

    def again(*found, **more):
        os.kill(os.getpid(), signal.SIGINT)
        return report_of(*found, **more)

    monkeypatch.setattr(module, "report_of", again)
    with pytest.raises(InterruptedBenchError) as interrupted:
        bench(built, precision="int8", progress=at_the_fifth_round)
    assert interrupted.value.report.rows[0].latency_n == 5


@pytest.mark.usefixtures("opened")
def test_sigterm_while_the_report_is_made_loses_nothing_either(built, monkeypatch):
    report_of = module.report_of

    def ended(*found, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return report_of(*found, **more)

    monkeypatch.setattr(module, "report_of", ended)
    before = signal.signal(signal.SIGTERM, interruption.interrupt)
    try:
        assert bench(built, precision="int8").rows[0].latency_n == 11
        assert signal.getsignal(signal.SIGTERM) is interruption.interrupt
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("opened")
def test_a_stage_that_the_system_refuses_costs_itself_alone(built, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/profile")

    monkeypatch.setattr(module, "profile", full)
    report = bench(built, options(skip=tuple(stage for stage in LATENCY_ALONE if stage != "layers")), precision="int8")
    assert rows_of(report)["openvino-int8"].latency_n == 11
    assert any("layers was not measured: [Errno 28] No space left on device" in said for said in report.warnings)


def test_what_was_measured_before_a_variant_broke_is_kept(built, opened, monkeypatch):
    scripted = variants.open_artifact

    def breaking(bundle, artifact, threads=None):
        session = scripted(bundle, artifact, threads)
        session.most = 1 if artifact.name == "openvino-int8" else None
        return session

    monkeypatch.setattr(variants, "open_artifact", breaking)
    report = bench(
        built, options(skip=(*LATENCY_ALONE, "accuracy")), scenario=["single-stream", "multi-stream"], precision="int8"
    )
    single, several = (row for row in report.rows if row.name == "openvino-int8")
    assert (single.status, single.latency_n) == ("ok", 11)
    assert (several.status, several.reasons) == ("failed", ("out of memory on a batch of 8",))
    assert any("multi-stream at batch 8: out of memory" in reason for reason in single.reasons)
    assert opened["onnxruntime-int8"].runs > opened["openvino-int8"].runs


@pytest.mark.usefixtures("opened")
def test_a_server_that_cannot_be_does_not_cost_the_other_scenarios(built):
    asked = options(latency_bound_s=1e-6, rounds=None, seconds=1.0)
    report = bench(built, asked, scenario=["single-stream", "server"], mode="quick", precision="int8")
    single, server = (row for row in report.rows if row.name == "openvino-int8")
    assert single.latency_n >= 11
    assert (server.status, "nothing here keeps p90" in server.reasons[0]) == ("skipped", True)


def test_sessions_are_prepared_once_more_where_another_batch_was_measured_last(built, opened, digit_folders):
    asked, data = options(skip=("pytorch", "accuracy", "energy", "layers", "memory")), digit_folders["validation"]
    bench(built, asked, data=data, scenario=["single-stream", "multi-stream"], precision="int8")
    assert opened["openvino-int8"].prepared == [1, 8, 1]  # the scenarios, then once for the scopes
    bench(built, asked, data=data, precision="int8")
    assert opened["openvino-int8"].prepared == [1]


@pytest.mark.usefixtures("opened")
def test_peak_memory_is_the_artefact_s_own(built):
    asked = options(skip=tuple(stage for stage in LATENCY_ALONE if stage != "memory"))
    rows = rows_of(bench(built, asked, backend="onnxruntime", precision="int8"))
    assert 20 << 20 < rows["onnxruntime-int8"].peak_memory_bytes < rows["torch-fp32"].peak_memory_bytes
