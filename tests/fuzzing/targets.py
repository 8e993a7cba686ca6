"""Every parser of what comes from outside, as a function of bytes: it takes them, or refuses them by an error of ours.

Anything else that leaves a target is a bug: another exception, a wait, memory without a bound. The tests run each over
its corpus and what is near to it; `benchmarks/fuzz.py` lets a fuzzer look for ways that are in neither.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import msgspec
import torch

from edgeresnext import bundle as bundles
from edgeresnext.backends.engine_header import read_header, runs_later
from edgeresnext.bundle import Bundle, signature
from edgeresnext.bundle.float_weights import with_float_weights
from edgeresnext.bundle.manifest import parse_ranges
from edgeresnext.bundle.onnx_file import check_onnx
from edgeresnext.cli import as_typed, show_bundle
from edgeresnext.compiler.calibration_cache import read_cache
from edgeresnext.data.images import load_image
from edgeresnext.data.labels import read_labels
from edgeresnext.errors import EdgeResNeXtError
from edgeresnext.interop import exported
from edgeresnext.machine.cache import CACHE_VARIABLE
from edgeresnext.model import hub
from edgeresnext.pipeline.recipe import check_recipe, read_recipe
from edgeresnext.report import files as report_files
from edgeresnext.report.markdown import to_markdown
from edgeresnext.report.table_csv import to_csv
from edgeresnext.report.terminal import render
from edgeresnext.runtime import inspect
from edgeresnext.runtime.proof import Proofs
from edgeresnext.spec import Artifact, FileEntry, Manifest, ModelSpec, Preprocess, Selection
from edgeresnext.training import recipes as training_recipes
from edgeresnext.training import run_folder

CORPUS = Path(__file__).parent / "corpus"
SPEC = ModelSpec(
    name="small", depths=(1,), cardinality=2, width_per_group=2, base_channels=4, classes=2, stem="cifar",
    preprocess=Preprocess(resize_px=8, crop_px=8),
)  # fmt: skip
"""The network of the corpus."""
MANIFEST = Manifest(
    model=SPEC, trained=True, golden="", parameters=0, macs=0, onnx=(), files={}, created_with={},
    artifacts=(Artifact(backend="onnxruntime", precision="fp32", target="cpu", file="onnx/fp32.onnx"),),
    selection=Selection(machine="", timings=()),
)  # fmt: skip
KEY = b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n"
"""The public key of RFC 8032's first test."""
_PICTURES = tuple(SPEC.preprocess.for_channels(channels) for channels in (1, 3, 4))

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
"""By name, the most dangerous first: what a bundle or checkpoint of a stranger holds."""


def refuses(target: Target) -> Target:
    """Add a target, which may end in an error of ours."""

    @functools.wraps(target)
    def run(content: bytes) -> None:
        with contextlib.suppress(EdgeResNeXtError):
            target(content)

    TARGETS[target.__name__] = run
    return run


@functools.cache
def _scratch() -> Path:
    """Return a folder that goes when the process ends."""
    place = tempfile.mkdtemp(prefix="edgeresnext-fuzzing-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return Path(place)


def a_file(name: str, content: bytes) -> Path:
    """Return a file of this name that holds this."""
    path = _scratch() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def a_bundle(name: str, content: bytes) -> Bundle:
    """Return a bundle with one file, as its manifest says it is."""
    path = a_file(f"bundle/{name}", content)
    entry = FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return Bundle(path=path.parent, manifest=msgspec.structs.replace(MANIFEST, files={name: entry}))


@refuses
def onnx(content: bytes) -> None:
    """A file that a runtime is to be given."""
    check_onnx(content, SPEC, "x.onnx")


@refuses
def manifest(content: bytes) -> None:
    """A bundle's table of contents, and all that is done with it before a file is opened."""
    path = a_file("manifest/manifest.json", content).parent
    inspect.inspect_bundle(path)
    bundle = bundles.read(path)
    with contextlib.redirect_stdout(io.StringIO()):
        show_bundle.show_bundle(bundle, layers=True)
    for name in bundle.manifest.files:
        with contextlib.suppress(EdgeResNeXtError):
            bundle.content(name)


@refuses
def images(content: bytes) -> None:
    """An image of any format, as grey, RGB or RGBA."""
    load_image(io.BytesIO(content), _PICTURES[len(content) % len(_PICTURES)])


@refuses
def weights(content: bytes) -> None:
    """A checkpoint, whatever container it is in."""
    inspect.inspect_weights(a_file("weights.pth", content))


@refuses
def report(content: bytes) -> None:
    """A saved benchmark, and how it is shown."""
    found = report_files.read_report(a_file("report.json", content))
    to_markdown(found)
    to_csv(found)
    render(found)


@refuses
def ranges(content: bytes) -> None:
    """What an earlier calibration found."""
    found = parse_ranges(content, _scratch() / "ranges.json")
    for kind in found.chosen:
        found.limits(kind)


@refuses
def golden(content: bytes) -> None:
    """The images that an artefact proves itself by."""
    found = a_bundle(bundles.REFERENCE, content).golden()
    found.compare(found.logits[:, ::-1])


@refuses
def engine(content: bytes) -> None:
    """The header of an engine."""
    found = read_header(Path("x.engine"), content)
    runs_later(found.release, "10.3.0")


@refuses
def calibration_cache(content: bytes) -> None:
    """TensorRT's thresholds."""
    read_cache(content)


@refuses
def labels(content: bytes) -> None:
    """The names of the classes."""
    read_labels(a_file("labels.txt", content))


@refuses
def recipe(content: bytes) -> None:
    """How to calibrate, in TOML."""
    check_recipe(read_recipe(a_file("recipe.toml", content)))


@refuses
def training_recipe(content: bytes) -> None:
    """How to train, in TOML."""
    training_recipes.read(a_file("training.toml", content))


@refuses
def training_run(content: bytes) -> None:
    """What a run that is to be resumed trains."""
    found = run_folder.read_run(a_file("run/run.json", content).parent)
    run_folder.differences(found, found)


@refuses
def training_state(content: bytes) -> None:
    """The checkpoint of a run that is to be resumed."""
    network, optimiser = a_training()
    folder = run_folder.RunFolder(path=a_file(f"run/{run_folder.STATE}", content).parent)
    assert folder.restore(network, optimiser, None).best is not False


def a_training() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Return a small network and what trains it."""
    network = torch.nn.Linear(2, 2)
    return network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)


@refuses
def hub_configuration(content: bytes) -> None:
    """What a hub says of weights."""
    said = hub._json(a_file("config.json", content))
    hub._preprocess(said)
    hub._labels(said)


@refuses
def preprocessing(content: bytes) -> None:
    """A preprocessing, in JSON."""
    found = as_typed.preprocessing(str(a_file("preprocess.json", content)))
    assert found.in_words
    assert found.range


@refuses
def float_weights(content: bytes) -> None:
    """An ONNX file that is rewritten for an older TensorRT."""
    with_float_weights(content)


@refuses
def onnx_shown(content: bytes) -> None:
    """An ONNX file that is only looked at."""
    inspect.inspect_onnx(a_file("x.onnx", content))


@refuses
def signed(content: bytes) -> None:
    """A signature beside a manifest."""
    signature.check_signature(Path("bundle"), b"{}", content, [a_file("public.pem", KEY)])


@refuses
def keys(content: bytes) -> None:
    """A public key."""
    signature.check_signature(Path("bundle"), b"{}", b"", [a_file("other.pem", content)])


@refuses
def export_record(content: bytes) -> None:
    """What lies beside exported files."""
    folder = a_file("export/edgeresnext.json", content).parent
    job = exported.Job(
        tool="Triton", output=folder, artifact=MANIFEST.artifacts[0], batch=1, write=print, replay=print, start="", notes=()
    )  # fmt: skip
    exported.check_output(job, Bundle(path=_scratch() / "bundle", manifest=MANIFEST))


@functools.cache
def _proofs() -> Proofs:
    found = Proofs(Bundle(path=_scratch() / "bundle", manifest=MANIFEST, digest="0" * 64))
    found._conditions = {}  # on every machine
    return found


@refuses
def proofs(content: bytes) -> None:
    """What is remembered of a bundle: never an error, not even of ours."""
    with mock.patch.dict(os.environ, {CACHE_VARIABLE: str(_scratch() / "cache")}):
        known = _proofs()
        a_file("/".join(("cache", *known._place)), content)
        known.checks = known._read()
    known.failures(MANIFEST.artifacts)
    known.latency_s(MANIFEST.artifacts[0])
