"""Write the first files of the corpus: small ones of each kind, as we and others write them.

PYTHONPATH=tests python -m fuzzing.seeds. What a fuzzer has found beside them has the name of what it found.
"""

from __future__ import annotations

import io
import json
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from fuzzing.targets import CORPUS, KEY, MANIFEST, SPEC, TARGETS, a_training
from PIL import Image
from safetensors.torch import save as save_tensors
from sample_report import small_report

from edgeresnext import files
from edgeresnext.compiler.calibration_cache import write_cache
from edgeresnext.compiler.emit import emit
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.plan import calibrated_tensors, plan_for
from edgeresnext.compiler.quantise import quantise
from edgeresnext.data.images import FORMATS
from edgeresnext.interop.exported import Export
from edgeresnext.model.checkpoints import random_network
from edgeresnext.runtime.proof import _Remembered
from edgeresnext.spec import (
    Check,
    Engine,
    EngineLayer,
    EngineOptions,
    Epoch,
    Fidelity,
    FileEntry,
    Gate,
    OnnxFile,
    Plan,
    Ranges,
    Selection,
    Timing,
    TrainingRecipe,
    Verdict,
)  # fmt: skip
from edgeresnext.training.recipes import to_toml
from edgeresnext.training.run_folder import STATE, Run, RunFolder, State

if TYPE_CHECKING:
    from collections.abc import Iterator


def networks() -> Iterator[tuple[str, bytes]]:
    """Yield ONNX files of the small network."""
    network = random_network(SPEC, 0)
    graph = trace(network, SPEC.preprocess.size)
    limits = dict.fromkeys(calibrated_tensors(graph), 2.0)
    for name in ("fp32", "int8"):
        yield name, emit(graph, quantise(graph, plan_for(graph, name, limits), limits), SPEC).SerializeToString()


def checkpoints() -> Iterator[tuple[str, bytes]]:
    """Yield weights of the small network in the containers that people have."""
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in random_network(SPEC, 0).state_dict().items()
    }
    yield "safetensors", save_tensors(state)
    for name, zipped in (("zip", True), ("pickle", False)):
        found = io.BytesIO()
        torch.save({"state_dict": state, "epoch": 3}, found, _use_new_zipfile_serialization=zipped)
        yield name, found.getvalue()


def pictures() -> Iterator[tuple[str, bytes]]:
    """Yield an image of each format, and of modes that are converted."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 4), dtype=np.uint8)
    for kind in FORMATS:
        found = io.BytesIO()
        image = Image.fromarray(pixels).convert("RGB")
        image.save(found, kind, **({"save_all": True, "append_images": [image]} if kind in ("GIF", "MPO") else {}))
        yield kind.lower(), found.getvalue()
    grey = pixels[:, :, 0]
    for name, image, kind in (
        ("palette", Image.fromarray(grey).convert("P"), "PNG"),
        ("grey16", Image.fromarray(grey.astype(np.uint16) * 200), "PNG"),
        ("float", Image.fromarray(grey.astype(np.float32)), "TIFF"),
        ("bilevel", Image.fromarray(grey).convert("1"), "TIFF"),
        ("cmyk", Image.fromarray(pixels).convert("CMYK"), "JPEG"),
    ):
        found = io.BytesIO()
        options = {"compression": "group4"} if name == "bilevel" else {}
        image.save(found, kind, **options)
        yield name, found.getvalue()
    exif = Image.Exif()
    exif[0x0112] = 6
    found = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(found, "JPEG", exif=exif)
    yield "turned", found.getvalue()


def manifests() -> Iterator[tuple[str, bytes]]:
    """Yield a manifest in which every field is used."""
    fidelity = Fidelity(snr_db=30.0, max_error=0.01)
    plan = Plan(
        name="int8",
        floating="fp32",
        layers={"stem.conv": "int8", "fc": "fp32"},
        inputs={"stem.conv": "images"},
        reasons={"fc": "kept"},
    )
    verdict = Verdict(
        images=10, runtime="onnxruntime", agreement=0.9, top1_fp32=0.9, top1=0.8, drop=10.0, lost=1, returned=("fc",)
    )
    engine = Engine(
        release="10.3.0.30", compute_capabilities=("8.9",), onnx="onnx/int8.onnx", onnx_sha256="0" * 64, built_s=1.0, platform="linux-x86_64",
        options=EngineOptions(),
        layers=(EngineLayer(name="a", kind="Conv", modules=("fc",), types="int8", formats="x", read_bytes=1, written_bytes=2, constant_bytes=3, macs=4),),
    )  # fmt: skip
    artifact = MANIFEST.artifacts[0]
    entry = FileEntry(bytes=2, sha256="0" * 64)
    names = (
        "weights.safetensors",
        "reference.npz",
        "labels.txt",
        "onnx/fp32.onnx",
        "onnx/int8.onnx",
        "engines/a.engine",
    )
    whole = msgspec.structs.replace(
        MANIFEST,
        artifacts=(artifact, msgspec.structs.replace(artifact, backend="tensorrt", target="rtx40", precision="int8", file=names[-1], engine=engine)),
        onnx=(
            OnnxFile(file="onnx/fp32.onnx", opset=17, plan=msgspec.structs.replace(plan, name="fp32", layers={"fc": "fp32"}, inputs={}), fidelity=fidelity),
            OnnxFile(file="onnx/int8.onnx", opset=17, plan=plan, fidelity=fidelity, saturated=fidelity, wider_rows={"fc": 2}, pixel_layers=("stem.conv",), verdict=verdict),
        ),
        selection=Selection(machine="a", timings=(Timing(artifact="onnxruntime-fp32", latency_s=0.001, samples=9),), conditions={"cpu": "a"}),
        files=dict.fromkeys(names, entry), created_with={"edgeresnext": "0.1.0"}, calibration="photos", layer_macs={"fc": 8},
        gate=Gate(validation="photos", max_drop=1.0, min_agreement=0.9, class_order="sorted"),
    )  # fmt: skip
    yield "whole", msgspec.json.encode(whole)


def exports() -> Export:
    """Return the record of an export."""
    return Export(
        tool="Triton", path="out", name="fp32", precision="fp32", batch=1, source="onnx/fp32.onnx", bundle_sha256="0" * 64, files={}, replay=None, start="tritonserver"
    )  # fmt: skip


def ranges() -> Ranges:
    """Return ranges of two tensors."""
    tensors = {"images": 2.0, "stem.relu": 3.5}
    return Ranges(
        method="auto", images=8, thresholds={"minmax": tensors, "entropy": tensors}, digests={"weights": "0" * 64},
        chosen={kind: dict.fromkeys(tensors, "minmax") for kind in ("signed", "unsigned")}, image_digests=("0" * 16,),
        equalised=True, exponents={"stem.conv": (0, 1, -1)},
    )  # fmt: skip


def state_of_a_run() -> bytes:
    """Return the checkpoint of a run after a step."""
    network, optimiser = a_training()
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    with tempfile.TemporaryDirectory() as folder:
        state = State(epoch=1, history=[Epoch(epoch=1, loss=0.5, learning_rate=0.1, images=8, seconds=1.0, top1=0.5)])
        RunFolder(path=Path(folder)).save(state, network, optimiser, None)
        return (Path(folder) / STATE).read_bytes()


def everything() -> Iterator[tuple[str, str, bytes]]:
    """Yield target, name and content of each file."""
    for name, content in networks():
        yield "onnx", name, content
        yield "onnx_shown", name, content
        yield "float_weights", name, content
    for target, found in (("weights", checkpoints()), ("images", pictures()), ("manifest", manifests())):
        for name, content in found:
            yield target, name, content
    yield "report", "small", msgspec.json.encode(small_report())
    yield "ranges", "two", msgspec.json.encode(ranges())
    arrays = io.BytesIO()
    np.savez(arrays, images=np.zeros((2, 8, 8, 3), np.uint8), logits=np.eye(2, dtype=np.float32))
    yield "golden", "two", arrays.getvalue()
    yield "engine", "tensorrt", b"ftrt" + bytes(20) + bytes((10, 3, 0, 30))
    yield "engine", "tensorrt_rtx", b"vtrt" + bytes(20) + bytes((1, 3, 0, 1))
    yield "calibration_cache", "two", write_cache({"images": 1.0, "a: b": 2.5}).encode()
    yield "labels", "lines", "cat\ndog\nKäfer\n".encode()
    yield "labels", "list", b'["cat", "dog"]'
    yield "labels", "numbers", b'{"0": "cat", "1": "dog"}'
    yield "labels", "class_to_idx", b'{"cat": 0, "dog": 1}'
    yield (
        "recipe",
        "whole",
        b'method = "percentile-99.9"\nsamples = 64\nseed = 1\nrepairs = ["equalisation"]\nkeep = ["fc"]\n',
    )
    yield "training_recipe", "whole", to_toml(TrainingRecipe(int8="signed", freeze="stem", learning_rate=0.1))
    run = Run(
        model=SPEC, recipe=TrainingRecipe(), classes=("cat", "dog"), data="0" * 64, weights="", images=8, validation=("cat/1.png",),
        about_validation="set aside", created_with={"edgeresnext": "0.1.0"},
    )  # fmt: skip
    yield "training_run", "whole", msgspec.json.encode(run)
    yield "training_state", "one-epoch", state_of_a_run()
    timm = {"pretrained_cfg": {"input_size": [3, 8, 8], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3, "license": "mit"}, "label_names": ["a", "b"]}  # fmt: skip
    other = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 9}, "crop_size": {"height": 8, "width": 8}, "resample": 2, "id2label": {"0": "a", "1": "b"}}  # fmt: skip
    yield "hub_configuration", "timm", json.dumps(timm).encode()
    yield "hub_configuration", "transformers", json.dumps(other).encode()
    yield "preprocessing", "whole", msgspec.json.encode(SPEC.preprocess)
    yield "signed", "zeros", b"A" * 86 + b"==\n"
    yield "keys", "ed25519", KEY
    yield "export_record", "triton", msgspec.json.encode(exports())
    check = Check(
        artifact="onnxruntime-fp32", status="ok", fidelity=Fidelity(snr_db=None, max_error=0.0), latency_s=0.001
    )
    yield (
        "proofs",
        "one",
        msgspec.json.encode(_Remembered(schema=1, bundle="0" * 64, conditions={}, checks={check.artifact: check})),
    )


if __name__ == "__main__":
    warnings.simplefilter("error")
    for target, name, content in everything():
        assert target in TARGETS
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        files.write(CORPUS / target / name, content)
