import json
import shlex

import pytest
import torch
from safetensors.torch import load_file
from stages import LATENCY_ALONE

import edgeresnext
from edgeresnext.cli.as_typed import preprocessing


@pytest.fixture
def a_digit(digit_folders):
    return min((digit_folders["validation"] / "7").iterdir())


def test_version_and_help(run):
    assert run("--version")[1] == f"edgeresnext {edgeresnext.__version__}\n"
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in ("build", "bench", "predict", "verify", "inspect", "models", "demo"))


def test_predict_names_the_artefact_and_the_digit(run, built, a_digit):
    code, out, err = run("predict", built.path, a_digit, "--top", 2)
    assert (code, len(out.splitlines())) == (0, 2)
    assert out.split()[1] == "7"
    assert built.artifacts()[0].name in err


def test_predict_takes_folders_and_prints_json_alone(run, built, a_digit):
    code, out, _ = run(
        "predict", built.path, a_digit.parent, "--json", "--backend", "onnxruntime", "--precision", "fp32"
    )
    found = json.loads(out)
    assert (code, found["artifact"], len(found["images"])) == (0, "onnxruntime-fp32", 61)
    assert found["images"][str(a_digit)][0]["label"] == "7"


def test_verify_reports_every_artefact(run, built):
    code, out, _ = run("verify", built.path)
    assert code == 0
    assert len(out.splitlines()) == len(built.manifest.artifacts)
    assert {check["status"] for check in json.loads(run("verify", built.path, "--json")[1])} <= {"ok", "skipped"}


def test_inspect_shows_a_bundle_and_its_layers(run, built):
    code, out, _ = run("inspect", built.path, "--layers")
    assert code == 0
    assert "uint8 (N, 32, 32, 3)" in out
    assert "layer2.0.conv2" in out
    found = json.loads(run("inspect", built.path, "--json")[1])
    assert found["onnx"][2]["plan"]["layers"]["layer2.0.conv2"] == "int8"
    assert found["input"]["shape"] == [None, 32, 32, 3]


@pytest.mark.parametrize(
    ("channels", "kind", "said"),
    [
        (1, "grey", "the file does not say; that of digits is assumed"),
        (3, "RGB", "the file does not say; that of digits is assumed"),
        (4, "RGBA", "the file does not say; a build asks for it"),
    ],
)
def test_inspect_says_what_weights_belong_to(run, digit_weights, tmp_path, channels, kind, said):  # noqa: PLR0917 - fixtures
    state = {f"module.{name}": tensor.half() for name, tensor in load_file(digit_weights).items()}
    kernel = state["module.conv1.weight"]
    state["module.conv1.weight"] = kernel[:, [0] * channels].contiguous()
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    code, out, _ = run("inspect", tmp_path / "w.pth")
    assert code == 0
    assert "resnext20_8x4d, 10 classes" in out
    for line in (f"images       {kind}", "weights      float16, by the names of torchvision", f"preprocess   {said}"):
        assert line in out
    assert "prefix 'module.' taken off" in out
    found = json.loads(run("inspect", tmp_path / "w.pth", "--json")[1])
    assert (found["dtype"], found["preprocess_assumed"]) == ("float16", True)
    assert len(found["model"]["preprocess"]["mean"]) == channels


def test_inspect_shows_an_onnx_file(run, built):
    code, out, _ = run("inspect", built.path / "onnx" / "int8-fp16.onnx", "--layers")
    assert code == 0
    assert "opset 19" in out
    assert "uint8 (N, 32, 32, 3)" in out
    found = json.loads(run("inspect", built.path / "onnx" / "fp16.onnx", "--json")[1])
    assert set(found["layers"].values()) == {"fp16"}
    assert found["operators"]["Conv"] == 22


def test_models_lists_the_catalogue(run):
    assert "resnext101_64x4d" in run("models")[1]
    assert json.loads(run("models", "--json")[1])["models"]["resnet50"]["parameters"] == 25_557_032


def test_build_prints_json_alone(run, tmp_path, digit_weights, digit_folders):
    code, out, err = run(
        "build", "resnext20_8x4d", "--weights", digit_weights, "--calibration", digit_folders["calibration"],
        "--samples", 16, "--precision", "int8", "--method", "max", "-o", tmp_path / "b", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["calibration"].startswith("max, 16 images")
    assert "calibrate" in err


def test_build_reads_preprocessing_from_a_file(run, tmp_path):
    file = tmp_path / "p.json"
    file.write_text('{"resize_px": 40, "crop_px": 36}')
    assert preprocessing(str(file)) == edgeresnext.Preprocess(resize_px=40, crop_px=36)
    arguments = ("build", "resnext20_8x4d", "--random-weights", "--precision", "fp32", "-o", tmp_path / "b")
    file.write_text('{"resize_px": 30, "crop_px": 36}')
    code, _, err = run(*arguments, "--preprocess", file)
    assert (code, "crop_px 36 must lie between" in err) == (5, True)
    code, _, err = run(*arguments, "--preprocess", "torchvision-v3")
    assert (code, "Did you mean 'torchvision-v" in err) == (2, True)


def test_bench_saves_what_it_prints_and_how_to_repeat_it(run, built, opened, tmp_path):
    typed = ("bench", built.path, "--precision", "int8", "--latency-bound", "12.5", "--scenario", "single-stream")
    typed += ("--scenario", "server", "--quick", "--seconds", "1", *(w for s in LATENCY_ALONE for w in ("--skip", s)))
    code, out, err = run(*typed, "--save", tmp_path / "r.json", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "r.json").read_text())
    assert "saved" in err
    repeat = shlex.split(json.loads(out)["command"])
    assert sorted(repeat) == sorted(["edgeresnext", *map(str, typed)])
    opened.clear()
    code, out, _ = run(*repeat[1:])
    assert code == 0
    assert "openvino-int8" in out
    assert set(opened) == {"torch-fp32", "openvino-int8", "onnxruntime-int8"}


def test_train_writes_weights_that_build_takes(run, tmp_path, photos):
    code, out, err = run("train", photos, "--model", "resnext20_8x4d", "--epochs", 1, "-o", tmp_path / "run")
    assert (code, "epoch   1  loss" in out) == (0, True)
    (line,) = [line for line in err.splitlines() if "edgeresnext build" in line]
    typed = shlex.split(line)[1:]
    typed[typed.index("--output") + 1] = tmp_path / "b"
    # After one step BatchNorm remembers next to nothing yet.
    code, out, err = run(*typed, "--precision", "fp32", "--json", "--trust-network")
    assert code == 0, err
    assert (tmp_path / "b" / "labels.txt").read_text() == "cat\ndog\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("biuld",), 2, "Did you mean 'build'"),
        (("build", "resnext50_32x4d"), 2, "Options: --output"),
        (("build", "resnext50", "-o", "x", "--random-weights"), 2, "Did you mean 'resne"),
        (("build", "resnet50", "-o", "x"), 2, "Options: --weights, --random-weights"),
        (
            ("build", "resnet50", "-o", "x", "--weights", "none.pth", "--precision", "fp32"),
            5,
            "'none.pth' does not exist",
        ),
        (("build", "resnet50", "-o", "x", "--random-weights", "--target", "rtx60"), 2, "unknown target 'rtx60'"),
        (("build", "resnet50", "-o", "x", "--random-weights", "--target", "here"), 4, "edgeresnext doctor"),
        (("build", "resnet50", "-o", "x", "--random-weights", "--batch", "1:2"), 2, "Give MIN:OPT:MAX"),
        (("build", "resnet50", "-o", "x", "--random-weights", "--batch", "8:4:2"), 2, "batch profile 8:4:2"),
        (("build", ".", "--target", "rtx40", "--weights", "x"), 2, "weights would change nothing"),
        (("build", ".", "--target", "rtx40"), 5, "is not a bundle"),
        (("build", "buid/m", "--target", "here"), 5, "neither a network nor a weights file nor the"),
        (("build", "nosuchdir", "--target", "rtx40"), 5, "'nosuchdir' is neither a network nor"),
        (("build", ".", "--target", "rtx40", "--workspace", "1e30"), 2, "workspace is 1e+30 MiB"),
        (("build", ".", "--target", "rtx40", "--dla", "0"), 2, "TensorRT-RTX has no dla_core"),
        (("build", ".", "--target", "rtx40", "--optimization-level", "9"), 2, "optimisation level is 9"),
        (("build", ".", "--target", "rtx40", "--workspace", "0"), 2, "workspace is 0 MiB"),
        (("build", ".", "--target", "rtx40", "--workspace", "nan"), 2, "'nan' is no number of MiB"),
        (
            ("build", ".", "--target", "rtx40", "--backend", "tensorrt"),
            2,
            "engine backend tensorrt would change nothing",
        ),
        (("build", "resnet50", "-o", "x", "--random-weights", "--batch", "4"), 2, "no target here gets an engine"),
        (("build", "resnet50", "-o", "x", "--random-weights", "--samples", "0"), 2, "0 calibration samples"),
        (("inspect", "none.pth"), 5, "weights file 'none.pth' does not exist"),
        (("inspect", "none.engine"), 5, "engine 'none.engine' does not exist"),
        (("bench", "none"), 5, "'none' does not exist"),
        (("bench", "none", "--save", "r.doc"), 2, "Known suffixes: .json, .html, .md, .csv"),
        (("bench", "{bundle}", "--scenario", "ofline"), 2, "Did you mean 'offline'"),
        (("bench", "{bundle}", "--scenario", "server"), 2, "Options: --rate N, --latency-bound MS"),
        (("bench", "{bundle}", "--rate", "50"), 2, "Options: --rate N, --scenario NAME"),
        (("bench", "{bundle}", "--scenario", "single-stream", "--batch", "8"), 2, "takes one image at a time"),
        (("bench", "{bundle}", "--quick", "--official"), 2, "--quick contradicts --official"),
        (("bench", "{bundle}", "--official", "--seconds", "60"), 2, "lasts 600 s"),
        (("bench", "{bundle}", "--skip", "memroy"), 2, "Did you mean 'memory'"),
        (("bench", "{bundle}", "--baseline", "torch-fp23"), 2, "Did you mean 'torch-fp32'"),
        (("bench", "{bundle}", "--samples", "9"), 2, "Options: --samples N, --data"),
        (("report", "none.json"), 5, "'none.json' does not exist"),
        (("report", "pyproject.toml"), 5, "'pyproject.toml' is no report"),
        (("report", "{bundle}/manifest.json"), 5, "is no report: Object missing required field"),
        (("report", "none.json", "--threshold", "5"), 2, "Options: --threshold PERCENT"),
        (("report", "a.json", "b.json", "--save", "c.html"), 2, "would write one of two reports"),
        (("bench", "{bundle}", "--backend", "tensorrt"), 2, "unknown backend of this bundle"),
        (("bench", "{bundle}", "--data", "none"), 5, "does not exist"),
        (("predict", "{bundle}", "none.jpg"), 5, "'none.jpg' does not exist"),
        (("predict", "{bundle}"), 2, "Missing argument"),
        (("predict", "{bundle}", "{image}", "--top", "0"), 2, "top is 0"),
        (("predict", "{bundle}", "{image}", "--precision", "fp16"), 2, "unknown precision"),
        (("verify", "pyproject.toml"), 5, "is a file, not a bundle"),
        (("inspect", "none.onnx"), 5, "does not exist"),
        (("train", "none", "--model", "resnet50", "-o", "{new}"), 5, "does not exist"),
        (("train", "none", "--model", "resnet50"), 2, "Options: --output, --resume RUN"),
        (("train", "none", "--model", "resnet50", "-o", "{new}", "--epochs", "0"), 2, "epochs is 0"),
        (("train", "none", "--model", "resnet50", "-o", "{new}", "--learning-rate", "nan"), 2, "learning_rate is nan"),
        (("train", "none", "--model", "resnet50", "-o", "{new}", "--recipe", "slow"), 2, "unknown recipe 'slow'"),
        (("train", "none", "--model", "resnet50", "-o", "{new}", "--freeze", "layer7"), 2, "Did you mean 'layer"),
        (("train", "none", "--resume", "{new}"), 2, "holds no run to resume"),
        (("train", "{photos}", "-o", "{new}"), 2, "nothing says which network"),
        (("train", "{photos}", "--model", "resnet50", "-o", "{new}", "--distil"), 2, "its own teacher"),
        (("bench", "{bundle}", "--seconds", "nan"), 2, "seconds is nan"),
        (("bench", "{bundle}", "--latency-bound", "x"), 2, "'x' is no number of ms"),
        (("demo", "-o", "{bundle}"), 5, "something other than a demo"),
    ],
)
def test_bad_input_ends_with_its_exit_code_and_what_to_do(  # noqa: PLR0917 - fixtures beside what is tried
    run, built, photos, arguments, code, message
):
    filled = [a.format(bundle=built.path, image="x.png", photos=photos, new=photos.parent / "new") for a in arguments]
    found, out, err = run(*filled)
    assert (found, message in err) == (code, True), err
    assert err.splitlines()[-1].startswith(("  ", "error: "))
    assert out == ""


def test_a_damaged_bundle_fails_verification_with_bad_input(run, bundle_copy):
    (bundle_copy / "onnx" / "int8.onnx").write_bytes(b"x")
    code, _, err = run("verify", bundle_copy)
    assert (code, "int8.onnx' has 1 bytes" in err) == (5, True)


def test_damaged_onnx_files_are_refused(run, built, tmp_path):
    raw = (built.path / "onnx" / "fp32.onnx").read_bytes()
    (tmp_path / "half.onnx").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "text.onnx").write_bytes(b"rubbish" * 10)
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("half", "text", "empty"):
        code, _, err = run("inspect", tmp_path / f"{name}.onnx")
        assert (code, f"{name}.onnx" in err) == (5, True)


def test_ctrl_c_leaves_with_130_and_nothing_half_written(run, ctrl_c, tmp_path):
    ctrl_c("calibrate", 8)
    code, out, err = run("build", "resnext20_8x4d", "--random-weights", "-o", tmp_path / "b")
    assert (code, out) == (130, "")
    assert "interrupted" in err
    assert [path.name for path in tmp_path.iterdir()] == [".b.lock"]
