import json
import shutil

import pytest
from rescaled import rescale


@pytest.fixture
def build(run, digit_weights, digit_folders, tmp_path):
    def call(*arguments, weights=digit_weights):
        return run(
            "build", "resnext20_8x4d", "--weights", weights, "--calibration", digit_folders["calibration"],
            "--precision", "int8", "--output", tmp_path / "out", "--samples", 100, *arguments,
        )  # fmt: skip

    return call


@pytest.fixture
def validation(digit_folders, tmp_path):
    """Every sixth validation image."""
    for path in sorted(digit_folders["validation"].glob("*/*.png"))[::6]:
        (tmp_path / "few" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "few" / path.parent.name)
    return tmp_path / "few"


def test_a_gate_that_cannot_pass_exits_3_and_leaves_nothing(build, digit_weights, validation, tmp_path):
    broken = rescale(digit_weights, tmp_path / "broken.safetensors")
    code, out, err = build(
        *("--method", "max", "--repair", "none", "--validation", validation, "--min-int8", 1), weights=broken
    )
    assert (code, out) == (3, "")
    assert "onnx/int8.onnx cannot pass the gate" in err
    assert "Nothing was published" in err
    assert not (tmp_path / "out").exists()


def test_a_build_with_a_gate_and_kept_layers_shows_their_figures_and_reasons(build, run, validation, tmp_path):
    (tmp_path / "recipe.toml").write_text('method = "max"\nrepairs = []\nkeep = ["fp16:layer1.*"]\nsamples = 8\n')
    recipe = ("--recipe", tmp_path / "recipe.toml", "--keep", "fp16:layer1.0.*", "--keep", "fp32:fc")
    code, out, _ = build(*recipe, "--validation", validation, "--max-drop", 5)
    assert code == 0
    assert "5 points of top-1 at most" in out
    assert "agree" in out
    assert "of 100" in out
    found = json.loads(run("inspect", tmp_path / "out", "--json")[1])
    assert found["gate"]["max_drop"] == 5.0
    assert all(file["verdict"]["images"] == 100 for file in found["onnx"])
    assert found["recipe"] == {
        "method": "max", "samples": 100, "seed": 0, "stratified": True, "repairs": [],
        "keep": ["fp16:layer1.0.*", "fp32:fc"],
    }  # fmt: skip
    _, out, _ = run("inspect", tmp_path / "out", "--layers")
    assert "fc fp32: kept by hand: fp32:fc" in out
    assert "int8-cpu: layer1.0.conv1 fp32, layer1.0.conv2 fp32" in out
    assert "kept by hand: fp16:layer1.0.* (FP32 where the file has no FP16)" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--keep", "fp16:layr1.*"), 2, "Did you mean layer1.*"),
        (("--max-drop", 1), 2, "Options: --max-drop POINTS, --validation"),
        (("--repair", "none", "--repair", "equalisation"), 2, "contradicts"),
        (("--repair", "rounding", "--repair", "all"), 2, "repair all contradicts"),
        (("--repair", "equalization"), 2, "Did you mean 'equalisation'?"),
        (("--recipe", "nowhere.toml"), 5, "cannot read recipe"),
        (("--ranges", "nowhere.json"), 5, "cannot read ranges"),
        (("--validation", "nowhere"), 5, "does not exist"),
        (("--method", "kl"), 2, "unknown calibration method 'kl'"),
    ],
)
def test_wrong_input_is_refused_by_name(build, arguments, code, message, tmp_path):
    found, out, err = build(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_sensitivity_ranks_the_layers_and_draws_them(run, built, tmp_path):
    code, out, err = run("sensitivity", built.path, "--plot", tmp_path / "s.svg")
    assert code == 0
    lines = out.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("all together"))
    shares = [
        float(next(word for word in line.split() if word.endswith("%"))[:-1]) for line in lines[first:] if "%" in line
    ]
    assert shares[0] == 100
    assert shares[1:] == sorted(shares[1:], reverse=True)
    assert "--keep" not in err  # nothing is wrong with it
    assert (tmp_path / "s.svg").stat().st_size > 10_000
    found = json.loads(run("sensitivity", built.path, "--json", "--file", "int8")[1])
    assert found["file"] == "onnx/int8.onnx"
    assert len(found["layers"]) == len(shares)  # of int8-cpu, in which fc is in floating point, and of all together


def test_options_of_calibration_would_change_nothing_for_a_bundle(run, built):
    code, _, err = run("build", built.path, "--repair", "none", "--keep", "fp16:fc", "--validation", "x")
    assert code == 2
    assert "repairs, keep, validation would change nothing: a bundle is given" in err
    assert "Options: --repair NAME, --keep PRECISION:LAYERS, --validation" in err
