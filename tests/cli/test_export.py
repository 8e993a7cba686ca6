import json

import pytest


@pytest.fixture
def taken(tmp_path, monkeypatch):
    """The current directory, with a folder of somebody else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "something").write_text("mine")
    return tmp_path


def test_a_bundle_is_handed_over_to_all_three_and_says_what_proved_it(run, built, tmp_path):
    code, out, _ = run(
        "export", built.path, "--triton", tmp_path / "models", "--deepstream", tmp_path / "ds", "--trtexec"
    )
    assert code == 0
    golden = len(built.golden().images)
    assert out.count(f"replayed  {golden} golden images: logits differ by 0.0e+00 of the largest") == 2
    assert f"tritonserver --model-repository={tmp_path}/models" in out
    assert f"nvinfer config-file-path={tmp_path}/ds/config_infer_primary.txt" in out
    assert out.count("\ntrtexec --onnx=") == 2
    assert "nvinfer cuts nothing out" in out


def test_json_is_alone_on_stdout(run, built, tmp_path):
    code, out, _ = run(
        "export", built.path, "--deepstream", tmp_path / "ds", "--trtexec", "--precision", "int8", "--json"
    )
    assert code == 0
    found = json.loads(out)
    (export,) = found["exports"]
    assert (export["tool"], export["precision"], export["replay"]["difference"]) == ("DeepStream", "int8", 0.0)
    assert json.loads((tmp_path / "ds" / "edgeresnext.json").read_text()) == export
    assert [one["name"] for one in found["trtexec"]] == ["int8"]


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        ([], (2, "Options: --triton REPOSITORY, --deepstream DIR, --trtexec")),
        (["--triton", "models", "--precision", "fp16"], (2, "Options: --precision NAME, --target NAME")),
        (["--triton", "models", "--batch", "0"], (2, "Options: --batch N")),
        (["--triton", "models", "--name", "a b"], (2, "Options: --name")),
        (["--deepstream", "ds", "--target", "cpu"], (2, "Options: --target NAME")),
        (["--deepstream", "ds", "--precision", "fp8"], (2, "unknown precision 'fp8'")),
        (["--deepstream", "taken"], (5, "holds something other than an export for DeepStream")),
        (["--deepstream", "ds", "--trtexec", "--target", "sm87"], (2, "has no engine")),
    ],
)
def test_what_cannot_be_done_is_said_with_what_to_type(run, built, taken, arguments, refusal):
    code, out, err = run("export", built.path, *arguments)
    assert (code, out) == (refusal[0], "")
    assert refusal[1] in err
    assert [path.name for path in taken.iterdir()] == ["taken"]


def test_a_path_that_is_no_bundle_is_said_to_be_none(run, tmp_path):
    for arguments in (["--triton", tmp_path / "models"], ["--trtexec"]):
        code, _, err = run("export", tmp_path / "nothing", *arguments)
        assert (code, "does not exist" in err) == (5, True)
