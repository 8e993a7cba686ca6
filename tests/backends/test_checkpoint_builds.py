"""From weights as people have them to a bundle that runs."""

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import edgeresnext
from edgeresnext.backends import registry
from edgeresnext.errors import CheckpointError, DataError, RequestError
from edgeresnext.model.catalogue import PREPROCESS
from edgeresnext.spec import CheckpointOptions, Recipe


@pytest.fixture
def build(digit_folders, tmp_path):
    def call(*models, **changes):
        options = {
            "calibration": digit_folders["calibration"], "output": tmp_path / "out", "precisions": ["fp32"],
            "recipe": Recipe(samples=32), "preprocess": PREPROCESS["digits"],
        } | changes  # fmt: skip
        return edgeresnext.build(models if len(models) > 1 else models[0], **options)

    return call


@pytest.fixture
def other_weights(digit_weights, tmp_path):
    """Weights of the same network that say something else."""
    state = load_file(digit_weights)
    state["fc.weight"] = state["fc.weight"].roll(1, 0).contiguous()
    save_file(state, tmp_path / "other.safetensors")
    return tmp_path / "other.safetensors"


def logits(bundle, images, artifact="torch-fp32"):
    found = next(one for one in bundle.manifest.artifacts if one.name == artifact)
    session = registry.get(found.backend).open(bundle.file(found.file), bundle.manifest.model, found)
    try:
        return session.run(images)
    finally:
        session.close()


def test_a_training_program_s_checkpoint_alone_becomes_the_same_bundle(build, built, digit_weights, tmp_path):
    state = {
        f"module.{name}".replace("fc.", "fc.1."): tensor.half().float()
        for name, tensor in load_file(digit_weights).items()
    }
    torch.save({"epoch": 7, "model_state_dict": state, "optimizer": {"lr": 0.1}}, tmp_path / "last.ckpt")
    bundle = build(tmp_path / "last.ckpt")
    assert (bundle.manifest.model.name, bundle.manifest.model.classes) == ("resnext20_8x4d", 10)
    images = built.golden().images
    assert (logits(bundle, images).argmax(1) == built.golden().logits.argmax(1)).all()
    assert all(check.status in ("ok", "skipped") for check in edgeresnext.verify(bundle.path))


def softmax(values):
    shares = np.exp(values - values.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


@pytest.mark.parametrize("average", ["probability", pytest.param("logits", marks=pytest.mark.slow)])
def test_an_ensemble_is_one_network_in_every_runtime(build, built, digit_weights, other_weights, average):
    bundle = build(
        digit_weights, other_weights, checkpoint_options=CheckpointOptions(average=average), precisions=["fp32", "int8"]
    )
    assert len(bundle.manifest.model.members) == 2
    golden = built.golden()
    members = np.stack([golden.logits, np.roll(golden.logits, 1, 1)])  # but for biases, which are small
    found, reference = logits(bundle, golden.images, "onnxruntime-fp32"), logits(bundle, golden.images)
    assert found == pytest.approx(reference, abs=1e-4)
    mean = members.mean(0) if average == "logits" else softmax(members).mean(0)
    assert (found if average == "logits" else softmax(found)) == pytest.approx(mean, abs=0.1)
    assert all(check.status in ("ok", "skipped") for check in edgeresnext.verify(bundle.path))
    assert min(one.fidelity.snr_db for one in bundle.manifest.onnx) > 25
    assert any(one.layer.startswith("members.1.") for one in edgeresnext.sensitivity(bundle.path).layers)


def test_weights_that_remember_other_images_are_refused_before_anything_is_written(build, digit_weights, tmp_path):
    with pytest.raises(CheckpointError, match="do not have the variances") as caught:
        build(digit_weights, preprocess=PREPROCESS["cifar"])
    assert "trust_network" in caught.value.values
    assert not (tmp_path / "out").exists()
    trusted = CheckpointOptions(trust_network=True)
    assert build(digit_weights, preprocess=PREPROCESS["cifar"], checkpoint_options=trusted).manifest.trained


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_an_input_that_is_not_square_is_built_and_runs_everywhere(build, digit_weights, tmp_path, fit):
    bundle = build(
        digit_weights, precisions=["int8", "fp32"],
        checkpoint_options=CheckpointOptions(input_px=(48, 32), fit=fit, trust_network=True),
    )  # fmt: skip
    assert bundle.manifest.model.input.shape == (None, 32, 48, 3)
    assert all(check.status in ("ok", "skipped") for check in edgeresnext.verify(bundle.path))
    with edgeresnext.load(bundle.path) as classifier:
        assert classifier.logits(bundle.golden().images).shape == (len(bundle.golden().images), 10)
        with pytest.raises(DataError, match=r"\(N, 32, 48, 3\)"):
            classifier.logits(np.zeros((1, 48, 32, 3), np.uint8))


@pytest.mark.parametrize("channels", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_grey_and_rgba_networks_say_what_the_rgb_one_says(  # noqa: PLR0917 - fixtures
    build, built, digit_weights, few_digits, tmp_path, channels
):
    state = load_file(digit_weights)
    kernel = state["conv1.weight"]
    state["conv1.weight"] = (
        kernel.sum(1, keepdim=True) if channels == 1 else torch.cat([kernel, torch.zeros_like(kernel[:, :1])], 1)
    ).contiguous()
    save_file(state, tmp_path / "w.safetensors")
    preprocess = PREPROCESS["digits"].for_channels(channels)
    bundle = build(tmp_path / "w.safetensors", preprocess=preprocess, precisions=["fp32", "int8"])
    golden = bundle.golden()
    assert golden.images.shape[1:] == (32, 32, channels)
    assert golden.logits == pytest.approx(built.golden().logits[: len(golden.logits)], abs=1e-4)  # digits are grey
    assert all(check.status in ("ok", "skipped") for check in edgeresnext.verify(bundle.path))
    assert min(one.fidelity.snr_db for one in bundle.manifest.onnx) > 25
    photo = next(few_digits.rglob("*.png"))
    with edgeresnext.load(bundle.path) as classifier, edgeresnext.load(built.path) as rgb:
        assert classifier.predict(photo)[0].label == rgb.predict(photo)[0].label
    report = edgeresnext.bench(bundle.path, data=few_digits, mode="quick", precision="fp32")
    assert max(row.top1 for row in report.rows if row.top1 is not None) > 0.9


@pytest.mark.parametrize("size", [(0, 32), (32, 7), (32, 5000)])
def test_an_input_of_no_usable_size_is_refused(build, digit_weights, tmp_path, size):
    with pytest.raises(RequestError, match=f"input_px is {size[0]}, {size[1]}"):
        build(digit_weights, checkpoint_options=CheckpointOptions(input_px=size))
    assert not (tmp_path / "out").exists()


def test_depths_cardinality_and_width_make_a_network_of_their_own(build, tmp_path):
    shape = CheckpointOptions(depths=(1, 2), cardinality=4, width_per_group=8)
    bundle = build(
        "resnext20_8x4d", random_weights=True, calibration=None, preprocess=None, checkpoint_options=shape
    )  # fmt: skip
    assert (bundle.manifest.model.name, bundle.manifest.model.depths) == ("resnext11_4x8d", (1, 2))
    again = build(
        "resnext20_8x4d", weights=bundle.file("weights.safetensors"), output=tmp_path / "again",
        checkpoint_options=msgspec.structs.replace(shape, trust_network=True),
    )  # fmt: skip
    assert again.manifest.model.depths == (1, 2)


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("resnext20_8x4d", {"depths": (2, 0)}, "depths is 2, 0"),
        ("resnext20_8x4d", {"cardinality": 0}, "cardinality is 0"),
        ("resnet18", {"width_per_group": 8}, "basic blocks"),
    ],
)
def test_networks_that_cannot_be_are_refused(build, model, changes, message):
    with pytest.raises(RequestError, match=message):
        build(model, random_weights=True, calibration=None, checkpoint_options=CheckpointOptions(**changes))


def test_a_family_with_its_numbers_is_a_network(build):
    with pytest.raises(RequestError, match="'resnext' is a family of networks") as caught:
        build("resnext", random_weights=True, calibration=None, checkpoint_options=CheckpointOptions(depths=(1, 1)))
    assert caught.value.values == ("depths", "cardinality", "width_per_group")
    shape = CheckpointOptions(depths=(1, 1), cardinality=4, width_per_group=4, input_px=(32, 32))
    bundle = build("resnext", random_weights=True, calibration=None, preprocess=None, checkpoint_options=shape)
    assert bundle.manifest.model.name == "resnext8_4x4d"


def test_weights_alone_have_their_own_depths(build, digit_weights):
    with pytest.raises(RequestError, match="depths would change nothing"):
        build(digit_weights, checkpoint_options=CheckpointOptions(depths=(1, 1)))


@pytest.mark.parametrize("eps", [0.0, -1.0, float("nan"), 1e9])
def test_an_epsilon_that_no_training_has_is_refused(build, digit_weights, eps):
    with pytest.raises(RequestError, match="bn_eps is"):
        build(digit_weights, checkpoint_options=CheckpointOptions(bn_eps=eps))


def test_one_wrong_member_of_an_ensemble_is_named(build, digit_weights, tmp_path):
    state = load_file(digit_weights)
    save_file({k: v * 4 if k.endswith("running_var") else v for k, v in state.items()}, tmp_path / "four.safetensors")
    with pytest.raises(CheckpointError, match="in member 3 of the ensemble"):
        build(digit_weights, digit_weights, tmp_path / "four.safetensors")
