"""A model of a Triton model repository: what `tritonserver --model-repository` serves.

Fields and their meaning: model_config.proto of triton-inference-server/common; folders and names: Triton's "Model
Repository" page. Not yet run on hardware, nor by a Triton server.
"""

from __future__ import annotations

import json
import re
import shlex
from contextlib import closing
from pathlib import Path

from edgeresnext.backends import registry
from edgeresnext.backends.engine_header import read_header
from edgeresnext.bundle import LABELS, Bundle
from edgeresnext.errors import InputError, NotInstalledError, RequestError, unknown_name
from edgeresnext.interop.exported import Job, as_comments, source_content
from edgeresnext.interop.replay import Replay, judge
from edgeresnext.runtime.classifier import open_artifact
from edgeresnext.spec import CHANNELS, CPU, Artifact, Precision

BATCH = 8
"""Largest batch of an ONNX file, where none is asked for; the files take any."""

_SERVED = ("onnxruntime", "tensorrt")
"""Backends that Triton has under the same names, and artefacts of which it takes as they are."""

_FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
"""What Triton's backends look for in the folder of a version."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def prepare(
    bundle: Bundle,
    repository: Path,
    *,
    precision: Precision | None = None,
    target: str | None = None,
    batch: int | None = None,
    name: str | None = None,
) -> Job:
    """Return the export of a bundle as a model of a repository, checked.

    Args:
        bundle: The bundle.
        repository: Where models lie, each in a folder of its name.
        precision: Of the artefact; None for the fastest one.
        target: Likewise.
        batch: Largest batch that Triton may form; None for what the engine takes, else 8.
        name: Of the model; None for that of the bundle's directory.

    Raises:
        RequestError: Triton can serve no such artefact, or not in such batches, or under no such name.
        InputError: The repository is a file.
    """
    artifact = _choose(bundle, precision, target)
    found = bundle.path.resolve().name if name is None else name
    if not _NAME.fullmatch(found):
        raise RequestError(
            f"'{found}' is no name for a model: it stands in folders and URLs",
            "Give letters, digits, dots, dashes and underscores, a letter or a digit first.",
            values=("name",),
        )
    if repository.exists() and not repository.is_dir():
        raise InputError(f"'{repository}' is a file, not a model repository", "Give a directory.")
    largest = _largest_batch(artifact, batch)
    return Job(
        tool="Triton",
        output=repository / found,
        artifact=artifact,
        batch=largest,
        write=lambda folder: _write(bundle, artifact, found, largest, folder),
        replay=lambda folder: _replay(bundle, artifact, folder),
        start=f"tritonserver --model-repository={shlex.quote(str(repository))}",
        notes=_notes(artifact),
    )


def _choose(bundle: Bundle, precision: Precision | None, target: str | None) -> Artifact:
    """Return the most promising artefact that Triton can serve.

    Raises:
        RequestError: There is none, or none of this precision or for this target.
    """
    served = [one for one in bundle.artifacts() if one.backend in _SERVED]
    if not served:
        others = ", ".join(artifact.name for artifact in bundle.artifacts())
        raise RequestError(
            f"bundle '{bundle.path}' has nothing that Triton serves: it has {others}",
            "Build it with fp32 or int8 for the CPU, or add a TensorRT engine: edgeresnext build BUNDLE --target here.",
        )
    targets = list(dict.fromkeys(one.target for one in served))
    if target is not None and target not in targets:
        raise _unfit(bundle, target, targets)
    found = [one for one in served if precision in (None, one.precision) and target in (None, one.target)]
    if not found:
        raise RequestError(
            f"bundle '{bundle.path}' has no {precision} artefact that Triton serves"
            f"{'' if target is None else f' for {target}'}",
            f"It has {', '.join(one.name for one in served)}. On a GPU Triton runs TensorRT's engines: "
            "edgeresnext build BUNDLE --target here.",
            values=("precision", "target"),
        )
    return found[0]


def _unfit(bundle: Bundle, target: str, served: list[str]) -> RequestError:
    """Return the error for a target that the bundle has no artefact of for Triton, or none at all."""
    if any(one.target == target for one in bundle.artifacts()):
        return RequestError(
            f"engines for {target} are TensorRT-RTX's, which Triton has no backend for",
            f"Triton serves of this bundle: {', '.join(served)}. "
            "Build an engine with TensorRT on the device: edgeresnext build BUNDLE --target here --backend tensorrt.",
            values=("target",),
        )
    return unknown_name("target of this bundle", target, served, values=("target",))


def _largest_batch(artifact: Artifact, asked: int | None) -> int:
    """Return the largest batch that Triton may form.

    Raises:
        RequestError: The engine does not take it, or takes no single images.
    """
    if artifact.engine is None:
        return BATCH if asked is None else asked
    smallest, _, largest = artifact.engine.options.batch
    if smallest > 1:
        raise RequestError(
            f"engine {artifact.name} takes {smallest} to {largest} images a run, and Triton runs single ones too",
            f"Build it again with a smallest batch of 1: edgeresnext build BUNDLE --target here --batch 1:1:{largest}.",
        )
    if asked is not None and asked > largest:
        raise RequestError(
            f"engine {artifact.name} takes {largest} images a run at most, not {asked}",
            f"Ask for {largest} or less, or build it for larger batches.",
            values=("batch",),
        )
    return largest if asked is None else asked


def _write(bundle: Bundle, artifact: Artifact, name: str, batch: int, folder: Path) -> None:
    """Write the model: configuration, labels, one golden image to warm up with, and the file itself as version 1.

    Raises:
        BundleError: A file is missing or altered, or none of ours.
        InputError: The engine is none of TensorRT's.
    """
    file = folder / "1" / _FILES[artifact.backend]
    file.parent.mkdir()
    file.write_bytes(source_content(bundle, artifact))
    if artifact.engine is not None and (found := read_header(file).backend) != artifact.backend:
        raise InputError(f"'{artifact.file}' is an engine for {found}, not {artifact.backend}", "Build it again.")
    (folder / LABELS).write_text("".join(f"{label}\n" for label in bundle.labels()), encoding="utf-8")
    (folder / "warmup").mkdir()
    (folder / "warmup" / "golden").write_bytes(bundle.golden().images[0].tobytes())
    (folder / "config.pbtxt").write_text(_config(bundle, artifact, name, batch), encoding="utf-8")


def _replay(bundle: Bundle, artifact: Artifact, folder: Path) -> Replay:
    """Return what golden images make of the exported file, in the runtime that Triton has for it.

    Raises:
        NotInstalledError: This machine cannot run it.
        AccuracyError: It does not reproduce them.
    """
    reason = registry.unavailable(artifact)
    if reason is not None:
        raise NotInstalledError(reason)
    backend, model, images = registry.get(artifact.backend), bundle.manifest.model, bundle.golden().images
    with closing(backend.open(folder / "1" / _FILES[artifact.backend], model, artifact)) as session:
        exported = session.run(images)
    with closing(open_artifact(bundle, artifact)) as session:
        own = session.run(images)
    return judge(bundle, artifact, exported, own)


def _notes(artifact: Artifact) -> tuple[str, ...]:
    """Return what to know of an engine: where it runs, and how Triton has to be started for it."""
    engine = artifact.engine
    if engine is None:
        return ()
    where = f"model.plan runs on compute capability {' or '.join(engine.compute_capabilities)}, {engine.platform}"
    if engine.options.version_compatible:
        return (f"{where}; start it with `tritonserver --backend-config=tensorrt,version-compatible=true`",)
    return (f"{where}, with TensorRT {engine.release}: take the Triton release that has it",)


def _config(bundle: Bundle, artifact: Artifact, name: str, batch: int) -> str:
    """Return `config.pbtxt`."""
    model = bundle.manifest.model
    dims = ", ".join(map(str, model.input.shape[1:]))
    clients = (
        f"Clients send uint8 {CHANNELS[model.in_channels]} images, channels last, resized as the weights need: "
        f"{model.preprocess.in_words}, by Pillow or another filter that averages where it shrinks. Scaling to [0, 1], "
        "mean and deviation are inside the model. Answers are logits: a softmax makes them probabilities."
    )
    title = f"{artifact.name} of bundle '{bundle.path.resolve().name}' ({artifact.file}), written by edgeresnext."
    comments = (title, "Not yet run by a Triton server.", clients, *_notes(artifact))
    batching = "\ndynamic_batching { }" if batch > 1 else ""
    return f"""{as_comments(comments)}
name: {json.dumps(name)}
backend: "{artifact.backend}"
default_model_filename: "{_FILES[artifact.backend]}"
max_batch_size: {batch}
input [ {{ name: "{model.input.name}" data_type: TYPE_UINT8 format: FORMAT_NHWC dims: [ {dims} ] }} ]
output [
  {{ name: "{model.output.name}" data_type: TYPE_FP32 dims: [ {model.classes} ] label_filename: "{LABELS}" }}
]
instance_group [ {{ {_instances(artifact)} }} ]{batching}
{"".join(_warm_up(model.input.name, dims, size) for size in dict.fromkeys((1, batch)))}"""


def _instances(artifact: Artifact) -> str:
    """Return where instances run: on the CPU, on every GPU, or on a DLA with a GPU for the rest."""
    if artifact.target == CPU:
        return "count: 1 kind: KIND_CPU"
    assert artifact.engine is not None
    core = artifact.engine.options.dla_core
    dla = "" if core is None else f" secondary_devices [ {{ kind: KIND_NVDLA device_id: {core} }} ]"
    return f"count: 1 kind: KIND_GPU{dla}"


def _warm_up(image: str, dims: str, batch: int) -> str:
    """Return a request that is made before the model is ready; Triton repeats the one image to fill the batch."""
    return f"""model_warmup [ {{
  name: "golden, batch {batch}"
  batch_size: {batch}
  inputs {{
    key: "{image}"
    value {{ data_type: TYPE_UINT8 dims: [ {dims} ] input_data_file: "golden" }}
  }}
}} ]
"""
