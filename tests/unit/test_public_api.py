import inspect
import subprocess
import sys

import pytest

import edgeresnext

HEAVY = {"torch", "onnx", "onnxruntime", "openvino", "sklearn", "tensorrt", "tensorrt_rtx", "scipy", "numpy", "PIL"}


def test_the_public_names_are_these():
    assert set(edgeresnext.__all__) == {
        "BenchOptions", "Bundle", "CheckpointOptions", "Classifier", "EdgeResNeXtError", "EngineOptions", "Gate", "Prediction", "Preprocess",
        "Recipe", "Report", "Training", "TrainingRecipe", "__version__", "bench", "build", "build_engines", "compare", "export", "load", "read_recipe",
        "read_report", "save_report", "sensitivity", "sign", "train", "verify",
    }  # fmt: skip


@pytest.mark.parametrize("name", edgeresnext.__all__)
def test_every_public_name_is_documented(name):
    value = getattr(edgeresnext, name)
    assert name == "__version__" or value.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        _ = edgeresnext.biuld


@pytest.mark.parametrize(
    "code",
    [
        "import edgeresnext",
        "from edgeresnext.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass",
    ],
)
def test_import_and_help_load_no_framework(code):
    script = f"import sys\n{code}\nprint('loaded:', *sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_loading_and_running_a_bundle_imports_neither_torch_nor_onnx(built):
    script = (
        "import sys, edgeresnext\n"
        "with edgeresnext.load(sys.argv[1], backend='openvino') as classifier:\n"
        "    classifier.logits(edgeresnext.bundle.read(sys.argv[1]).golden().images)\n"
        "print('loaded:', *sorted(set(sys.modules) & {'torch', 'onnx', 'onnxruntime'}))"
    )
    done = subprocess.run([sys.executable, "-c", script, built.path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("kind", ["BenchOptions", "CheckpointOptions", "EngineOptions", "Gate", "Recipe"])
def test_values_are_frozen_and_take_keywords_alone(kind):
    value = getattr(edgeresnext, kind)
    with pytest.raises(TypeError, match="positional"):
        value("x")
    with pytest.raises(AttributeError, match="immutable"):
        value(**({"validation": "x"} if kind == "Gate" else {})).batch = 1


@pytest.mark.parametrize(("name", "most"), [("bench", 8), ("build", 15), ("build_engines", 6), ("export", 7)])
def test_what_is_rarely_asked_for_stays_in_the_values(name, most):
    assert len(inspect.signature(getattr(edgeresnext, name)).parameters) <= most
