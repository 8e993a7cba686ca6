"""TensorRT-RTX for real: it builds engines on machines without a GPU."""

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import onnx
import pytest

import edgeresnext
from edgeresnext.backends import registry, targets
from edgeresnext.backends.engine_header import read_header
from edgeresnext.backends.request import EngineRequest
from edgeresnext.compiler.emit import emit
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.plan import GROUPED_FLOAT_FILES, INT8_CPU, ONNX_FILES, calibrated_tensors, plan_for
from edgeresnext.compiler.quantise import quantise
from edgeresnext.errors import BackendError, RequestError
from edgeresnext.model.catalogue import CATALOGUE
from edgeresnext.model.checkpoints import random_network
from edgeresnext.runtime.inspect import inspect
from edgeresnext.spec import EngineOptions

BACKEND = registry.get_engine_backend("tensorrt_rtx")
pytestmark = pytest.mark.skipif(BACKEND.missing() is not None, reason=str(BACKEND.missing()))

FILES = {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "int8-fp16": "int8"}
FILES |= dict.fromkeys(GROUPED_FLOAT_FILES, "int8")
FULLY, PARTLY = "resnext50_32x4d", ("fp16", "int8-fp16")
"""The family whose every file is built, and the files of the others; the rest is part of `make test-all`."""
WIDEST = ("resnext50_32x48d", "resnext50_32x32d")
"""Like the others, and five times as long to build."""


def shallow(name):
    """The catalogue's network with one block a stage, which shows every kind of layer that the deep one has."""
    spec = CATALOGUE[name].spec
    return msgspec.structs.replace(spec, depths=(1,) * len(spec.depths))


def families():
    """Names of networks that differ when they are shallow."""
    found = {}
    for name in CATALOGUE:
        found.setdefault(msgspec.structs.replace(shallow(name), name="", source=""), name)
    return list(found.values())


def is_slow(name, file):
    return name != FULLY and (name in WIDEST or file not in PARTLY)


CASES = [
    pytest.param(name, file, marks=[pytest.mark.slow] if is_slow(name, file) else [], id=f"{name}-{file}")
    for name in families()
    for file in FILES
]


@functools.cache
def traced(name):
    spec = shallow(name)
    return spec, trace(random_network(spec, 0), spec.preprocess.size)


def request(folder, name, file, **changes):
    """What to build an engine from: a file of a network, which is written into the folder."""
    spec, graph = traced(name)
    thresholds = dict.fromkeys(calibrated_tensors(graph), 2.0)
    plan = plan_for(graph, file, thresholds)
    onnx.save(emit(graph, quantise(graph, plan, thresholds), spec), folder / "x.onnx")
    asked = EngineRequest(
        name="test",
        backend="tensorrt_rtx",
        file=folder / "x.engine",
        precision=FILES[file],
        compute_capabilities=("8.9",),
        onnx=folder / "x.onnx",
        options=EngineOptions(),
        layer_macs={layer.name: layer.macs for layer in graph.layers if layer.macs},
    )
    return msgspec.structs.replace(asked, **changes), plan


def test_the_files_here_are_all_that_tensorrt_gets():
    assert set(FILES) == set(ONNX_FILES) - {INT8_CPU} | set(GROUPED_FLOAT_FILES)


@pytest.mark.parametrize(("name", "file"), CASES)
def test_a_file_becomes_an_engine_that_computes_as_the_plan_says(name, file, tmp_path, caplog):
    asked, plan = request(tmp_path, name, file)
    identity, (_, graph) = BACKEND.build(asked), traced(name)
    header = read_header(asked.file)
    assert header.backend == "tensorrt_rtx"
    assert identity.release.startswith(header.release.rsplit(".", 1)[0])
    assert identity.compute_capabilities == ("8.9",)
    assert (identity.device, identity.driver) == ("", "")
    # The log of a machine without a driver is clean.
    assert not any("cudaError" in text or "CUDA driver" in text for text in caplog.messages)
    assert len(caplog.messages) == len(set(caplog.messages))
    # Every multiply-accumulate is found in one layer; images enter as uint8 and logits leave as FP32.
    assert sum(layer.macs for layer in identity.layers) == graph.macs
    assert identity.layers[0].types.startswith("uint8 -> ")
    assert identity.layers[-1].types.endswith("-> fp32")
    assert_types(identity.layers, plan, {layer.name for layer in graph.layers if layer.macs})
    if file == "fp16":
        assert_fused(identity.layers, graph)


def assert_types(layers, plan, computing):
    """Convolutions and Gemms read the type that the plan gives them."""
    for layer in layers:
        for name in computing & set(layer.modules) if layer.macs else ():
            assert plan.layers[name] in layer.types.partition(" -> ")[0].split(", "), layer


def assert_fused(layers, graph):
    """Each ReLU behind a convolution is in the layer that computes it."""
    convolutions = {layer.name for layer in graph.layers if layer.op == "Conv"}
    relus = {layer.name: layer.inputs[0] for layer in graph.layers if layer.op == "Relu"}
    for relu, source in relus.items():
        if source in convolutions:
            assert any({relu, source} <= set(layer.modules) and layer.macs for layer in layers), relu


@pytest.fixture(scope="module")
def ahead(built, tmp_path_factory):
    """The digits bundle with one engine, for `rtx40`, built once. Read only."""
    return edgeresnext.build_engines(
        built.path, targets=["rtx40"], output=tmp_path_factory.mktemp("ahead") / "bundle"
    ).path


@pytest.fixture
def copy(ahead, tmp_path):
    """A copy of it that the test may damage."""
    return Path(shutil.copytree(ahead, tmp_path / "copy"))


@pytest.mark.parametrize(
    "name",
    [
        "rtx20",
        "rtx30+rtx40+rtx50",
        "sm80+gb10",
        pytest.param("sm80", marks=pytest.mark.slow),
        pytest.param("gb10", marks=pytest.mark.slow),
        pytest.param("rtx30", marks=pytest.mark.slow),
        pytest.param("rtx40", marks=pytest.mark.slow),
        pytest.param("rtx50", marks=pytest.mark.slow),
    ],
)
def test_a_bundle_gets_engines_for_every_target(lean, name):
    bundle = edgeresnext.build_engines(lean, targets=[name])
    (artifact,) = [one for one in bundle.manifest.artifacts if one.engine]
    assert (artifact.name, artifact.file) == (f"{name}-fp16", f"engines/{name}-fp16.engine")
    assert artifact.engine.compute_capabilities == targets.parse([name])[0].compute_capabilities
    assert artifact.engine.onnx == "onnx/fp16.onnx"
    assert artifact.engine.onnx_sha256 == bundle.manifest.files["onnx/fp16.onnx"].sha256
    assert bundle.manifest.targets == ("cpu", name)
    assert bundle.file(artifact.file).stat().st_size > 100_000


def test_engines_are_added_and_replaced_one_by_one(copy):
    first = edgeresnext.build_engines(copy, targets=["rtx30"])
    options = EngineOptions(batch=(1, 4, 4))
    second = edgeresnext.build_engines(copy, targets=["rtx40"], engine_options=options)
    assert [one.name for one in second.manifest.artifacts if one.engine] == ["rtx40-fp16", "rtx30-fp16"]
    (before, after) = (bundle.manifest.files for bundle in (first, second))
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["engines/rtx40-fp16.engine"]
    assert [check.status for check in edgeresnext.verify(copy)].count("skipped") >= 2


def test_int8_takes_the_fp16_remainder_and_two_bundles_share_no_file(lean, tmp_path):
    bundle = edgeresnext.build_engines(lean, targets=["rtx40"], precisions=["int8"], output=tmp_path / "other")
    assert bundle.manifest.artifacts[0].engine.onnx == "onnx/int8-fp16.onnx"
    assert not any((lean / name).samefile(bundle.path / name) for name in ("labels.txt", "onnx/fp32.onnx"))


def test_load_falls_back_to_the_cpu_and_says_so_once(ahead, caplog):
    for _ in range(2):
        with edgeresnext.load(ahead) as classifier:
            assert classifier.artifact.target == "cpu"
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "not the engine rtx40-fp16: no NVIDIA GPU with a driver" in record.getMessage()


def test_inspect_tells_what_the_engine_is_and_estimates_its_latency(ahead):
    found = inspect(ahead / "engines" / "rtx40-fp16.engine")
    assert found["totals"]["macs"] == 40_552_960
    assert set(found["estimate_s"]) == {"GeForce RTX 4060", "GeForce RTX 4090"}
    assert 0 < found["estimate_s"]["GeForce RTX 4090"] < found["estimate_s"]["GeForce RTX 4060"] < 1e-3


def test_an_altered_engine_is_refused_before_anything_reads_it(copy):
    file = copy / "engines" / "rtx40-fp16.engine"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(edgeresnext.EdgeResNeXtError, match="was altered"):
        inspect(file)
    with pytest.raises(edgeresnext.EdgeResNeXtError, match="was altered"):
        edgeresnext.verify(copy)


def test_a_lost_engine_is_built_anew_even_in_a_write_protected_bundle(copy):
    (copy / "engines" / "rtx40-fp16.engine").unlink()
    (copy / "engines").chmod(0o500)
    bundle = edgeresnext.build_engines(copy, targets=["rtx40"])
    assert bundle.file("engines/rtx40-fp16.engine").exists()
    assert sorted(path.name for path in copy.parent.iterdir()) == [".copy.lock", "copy"]


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(dla_core=0),
        EngineOptions(version_compatible=True),
        EngineOptions(timing_cache="x"),
        EngineOptions(int8_grouped="off"),
    ],
    ids=["dla", "version-compatible", "timing-cache", "int8-grouped"],
)
def test_options_that_tensorrt_rtx_does_not_have_are_refused(ahead, options):
    before = sorted(path.name for path in ahead.rglob("*"))
    with pytest.raises(RequestError, match="TensorRT-RTX has no ") as caught:
        edgeresnext.build_engines(ahead, targets=["rtx40"], engine_options=options)
    (value,) = caught.value.values
    assert getattr(options, value) != getattr(EngineOptions(), value)
    assert sorted(path.name for path in ahead.rglob("*")) == before


@pytest.mark.parametrize(
    ("target", "precision", "message"),
    [
        ("rtx20", "fp32", "no FP32 matrix product for Turing"),
        ("rtx20+rtx40", "int8", "computes INT8 convolutions in FP16 on Turing"),
        ("jetson-orin", "fp16", "gets no engine from a bundle"),
        ("rtx40", "bf16", "bf16 has no file of its own"),
    ],
)
def test_what_a_target_cannot_have_is_refused(ahead, target, precision, message):
    with pytest.raises(RequestError, match=message) as caught:
        edgeresnext.build_engines(ahead, targets=[target], precisions=[precision])
    assert set(caught.value.values) & {"targets", "precisions"}


def test_what_the_builder_refuses_becomes_an_error_with_its_last_words(tmp_path):
    asked, _ = request(tmp_path, "resnext20_8x4d", "fp16")
    asked.onnx.write_bytes(b"not an ONNX file")
    with pytest.raises(BackendError, match=r"tensorrt_rtx .* cannot read '.*x\.onnx'"):
        BACKEND.build(asked)
    assert not asked.file.exists()


def test_an_unknown_compute_capability_is_refused(tmp_path):
    asked, _ = request(tmp_path, "resnext20_8x4d", "fp16", compute_capabilities=("3.0",))
    with pytest.raises(RequestError, match=r"cannot build for compute capability 3\.0") as caught:
        BACKEND.build(asked)
    assert caught.value.values == ("targets",)


def test_a_device_needs_neither_pytorch_nor_onnx(copy):
    script = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'safetensors', 'sklearn'):\n"
        "    sys.modules[name] = None\n"
        "import edgeresnext\n"
        "edgeresnext.build_engines(sys.argv[1], targets=['rtx40'])\n"
        "print(*(check.status for check in edgeresnext.verify(sys.argv[1]) if check.artifact.startswith('rtx40')))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, copy], capture_output=True, text=True, check=False)
    assert done.stdout == "skipped\n", done.stderr
