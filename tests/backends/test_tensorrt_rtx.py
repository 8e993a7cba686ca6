"""TensorRT-RTX for real: it builds engines on machines without a GPU."""

import subprocess
import sys

import msgspec
import onnx
import pytest

import edgeresnext
from edgeresnext.backends import base, targets
from edgeresnext.backends._trt.identity import read_header
from edgeresnext.compiler.emit import emit
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.plan import GROUPED_FLOAT_FILES, INT8_CPU, ONNX_FILES, calibrated_tensors, plan_for
from edgeresnext.compiler.quantise import quantise
from edgeresnext.errors import BackendError, RequestError
from edgeresnext.model.catalogue import CATALOGUE
from edgeresnext.model.checkpoints import random_network
from edgeresnext.runtime.inspect import inspect
from edgeresnext.spec import EngineOptions

BACKEND = base.get_engine_backend("tensorrt_rtx")
pytestmark = pytest.mark.skipif(BACKEND.missing() is not None, reason=str(BACKEND.missing()))

FILES = {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "int8-fp16": "int8"}
FILES |= dict.fromkeys(GROUPED_FLOAT_FILES, "int8")


def shallow(name):
    """The catalogue's network with one block a stage, which shows every kind of layer that the deep one has."""
    spec = CATALOGUE[name].spec
    return msgspec.structs.replace(spec, depths=(1,) * len(spec.depths))


def request(path, spec, precision, graph, **changes):
    return base.EngineRequest(
        **{
            "name": "test",
            "model": spec,
            "precision": precision,
            "compute_capabilities": ("8.9",),
            "onnx": path,
            "options": EngineOptions(),
            "layer_macs": {layer.name: layer.macs for layer in graph.layers if layer.macs},
        }
        | changes
    )


def test_the_files_here_are_all_that_tensorrt_gets():
    assert set(FILES) == set(ONNX_FILES) - {INT8_CPU} | set(GROUPED_FLOAT_FILES)


@pytest.fixture(scope="module", params=CATALOGUE)
def network(request):
    spec = shallow(request.param)
    return spec, trace(random_network(spec, 0), spec.preprocess.crop_px)


@pytest.fixture(scope="module", params=FILES)
def engine(request, network, tmp_path_factory):
    spec, graph = network
    folder = tmp_path_factory.mktemp("engine")
    thresholds = dict.fromkeys(calibrated_tensors(graph), 2.0)
    plan = plan_for(graph, request.param, thresholds)
    onnx.save(emit(graph, quantise(graph, plan, thresholds), spec), folder / "x.onnx")
    warnings = []
    asked = globals()["request"](folder / "x.onnx", spec, FILES[request.param], graph, warn=warnings.append)
    return BACKEND.build(folder / "x.engine", asked), folder / "x.engine", graph, plan, warnings


def test_every_file_of_every_family_builds(engine):
    identity, file, *_ = engine
    header = read_header(file)
    assert header.backend == "tensorrt_rtx"
    assert identity.release.startswith(header.release.rsplit(".", 1)[0])
    assert identity.compute_capabilities == ("8.9",)
    assert (identity.device, identity.driver) == ("", "")


def test_the_log_of_a_machine_without_a_driver_is_clean(engine):
    *_, warnings = engine
    assert not any("cudaError" in text or "CUDA driver" in text for text in warnings)
    assert len(warnings) == len(set(warnings))


def test_every_multiply_accumulate_is_found_in_one_layer_of_the_engine(engine):
    identity, _, graph, *_ = engine
    assert sum(layer.macs for layer in identity.layers) == graph.macs


def test_images_enter_as_uint8_and_logits_leave_as_fp32(engine):
    identity, *_ = engine
    assert identity.layers[0].types.startswith("uint8 -> ")
    assert identity.layers[-1].types.endswith("-> fp32")


def test_convolutions_run_in_the_type_that_the_plan_gives_them(engine):
    identity, _, graph, plan, _ = engine
    readings = {"fp32": {"fp32"}, "fp16": {"fp16"}, "int8": {"int8"}}
    for layer in identity.layers:
        computed = [name for name in plan.layers if name in layer.modules and layer.macs]
        for name in (one for one in computed if next(other for other in graph.layers if other.name == one).macs):
            read = layer.types.partition(" -> ")[0].split(", ")
            assert readings[plan.layers[name]] <= set(read), layer


def test_fp16_fuses_convolution_bias_and_relu(network, tmp_path):
    spec, graph = network
    onnx.save(emit(graph, quantise(graph, plan_for(graph, "fp16", {}), {}), spec), tmp_path / "x.onnx")
    identity = BACKEND.build(tmp_path / "x.engine", request(tmp_path / "x.onnx", spec, "fp16", graph))
    convolutions = {layer.name for layer in graph.layers if layer.op == "Conv"}
    relus = {layer.name: layer.inputs[0] for layer in graph.layers if layer.op == "Relu"}
    for relu, source in relus.items():
        if source in convolutions:
            assert any({relu, source} <= set(layer.modules) and layer.macs for layer in identity.layers), relu


@pytest.mark.parametrize("name", ["rtx20", "rtx30", "rtx40", "rtx50", "rtx30+rtx40+rtx50"])
def test_a_bundle_gets_engines_for_every_target(bundle_copy, name):
    bundle = edgeresnext.build_engines(bundle_copy, targets=[name])
    (artifact,) = [one for one in bundle.manifest.artifacts if one.engine]
    assert (artifact.name, artifact.file) == (f"{name}-fp16", f"engines/{name}-fp16.engine")
    assert artifact.engine.compute_capabilities == targets.parse([name])[0].compute_capabilities
    assert artifact.engine.onnx == "onnx/fp16.onnx"
    assert artifact.engine.onnx_sha256 == bundle.manifest.files["onnx/fp16.onnx"].sha256
    assert bundle.manifest.targets == ("cpu", name)
    assert bundle.file(artifact.file).stat().st_size > 100_000


def test_engines_are_added_and_replaced_one_by_one(bundle_copy):
    edgeresnext.build_engines(bundle_copy, targets=["rtx40"], precisions=["fp16", "int8"])
    first = edgeresnext.build_engines(bundle_copy, targets=["rtx30"])
    options = EngineOptions(batch=(1, 4, 4))
    second = edgeresnext.build_engines(bundle_copy, targets=["rtx40"], engine_options=options)
    assert [one.name for one in second.manifest.artifacts if one.engine] == ["rtx40-fp16", "rtx30-fp16", "rtx40-int8"]
    (before, after) = (bundle.manifest.files for bundle in (first, second))
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["engines/rtx40-fp16.engine"]
    assert [check.status for check in edgeresnext.verify(bundle_copy)].count("skipped") >= 3


def test_int8_takes_the_fp16_remainder_where_the_bundle_has_it(bundle_copy):
    bundle = edgeresnext.build_engines(bundle_copy, targets=["rtx40"], precisions=["int8"])
    assert bundle.manifest.artifacts[0].engine.onnx == "onnx/int8-fp16.onnx"


def test_load_falls_back_to_the_cpu_and_says_so_once(bundle_copy, caplog):
    edgeresnext.build_engines(bundle_copy, targets=["rtx40"])
    for _ in range(2):
        with edgeresnext.load(bundle_copy) as classifier:
            assert classifier.artifact.target == "cpu"
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "not the engine rtx40-fp16: no NVIDIA GPU with a driver" in record.getMessage()


def test_inspect_tells_what_the_engine_is_and_estimates_its_latency(bundle_copy):
    edgeresnext.build_engines(bundle_copy, targets=["rtx40"])
    found = inspect(bundle_copy / "engines" / "rtx40-fp16.engine")
    assert found["totals"]["macs"] == 40_552_960
    assert set(found["estimate_s"]) == {"GeForce RTX 4060", "GeForce RTX 4090"}
    assert 0 < found["estimate_s"]["GeForce RTX 4090"] < found["estimate_s"]["GeForce RTX 4060"] < 1e-3


def test_an_altered_engine_is_refused_before_anything_reads_it(bundle_copy):
    edgeresnext.build_engines(bundle_copy, targets=["rtx40"])
    file = bundle_copy / "engines" / "rtx40-fp16.engine"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(edgeresnext.EdgeResNeXtError, match="was altered"):
        inspect(file)
    with pytest.raises(edgeresnext.EdgeResNeXtError, match="was altered"):
        edgeresnext.verify(bundle_copy)


def test_a_lost_engine_is_built_anew_even_in_a_write_protected_bundle(bundle_copy):
    edgeresnext.build_engines(bundle_copy, targets=["rtx40"])
    (bundle_copy / "engines" / "rtx40-fp16.engine").unlink()
    (bundle_copy / "engines").chmod(0o500)
    bundle = edgeresnext.build_engines(bundle_copy, targets=["rtx40"])
    assert bundle.file("engines/rtx40-fp16.engine").exists()
    assert sorted(path.name for path in bundle_copy.parent.iterdir()) == [".copy.lock", "copy"]


def test_two_bundles_share_no_file(bundle_copy, tmp_path):
    other = edgeresnext.build_engines(bundle_copy, targets=["rtx40"], output=tmp_path / "other")
    assert not any((bundle_copy / name).samefile(other.path / name) for name in ("labels.txt", "onnx/fp32.onnx"))


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
def test_options_that_tensorrt_rtx_does_not_have_are_refused(bundle_copy, options):
    before = sorted(path.name for path in bundle_copy.rglob("*"))
    with pytest.raises(RequestError, match="TensorRT-RTX has no --"):
        edgeresnext.build_engines(bundle_copy, targets=["rtx40"], engine_options=options)
    assert sorted(path.name for path in bundle_copy.rglob("*")) == before


def test_what_the_builder_refuses_becomes_an_error_with_its_last_words(network, tmp_path):
    spec, graph = network
    (tmp_path / "x.onnx").write_bytes(b"not an ONNX file")
    with pytest.raises(BackendError, match=r"tensorrt_rtx .* cannot read '.*x\.onnx'"):
        BACKEND.build(tmp_path / "x.engine", request(tmp_path / "x.onnx", spec, "fp16", graph))
    assert not (tmp_path / "x.engine").exists()


def test_an_unknown_compute_capability_is_refused(network, tmp_path):
    spec, graph = network
    plan = plan_for(graph, "fp16", {})
    onnx.save(emit(graph, quantise(graph, plan, {}), spec), tmp_path / "x.onnx")
    asked = request(tmp_path / "x.onnx", spec, "fp16", graph, compute_capabilities=("3.0",))
    with pytest.raises(RequestError, match=r"cannot build for compute capability 3\.0"):
        BACKEND.build(tmp_path / "x.engine", asked)


def test_a_device_needs_neither_pytorch_nor_onnx(bundle_copy):
    script = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'safetensors', 'sklearn'):\n"
        "    sys.modules[name] = None\n"
        "import edgeresnext\n"
        "edgeresnext.build_engines(sys.argv[1], targets=['rtx40'])\n"
        "print(*(check.status for check in edgeresnext.verify(sys.argv[1]) if check.artifact.startswith('rtx40')))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, bundle_copy], capture_output=True, text=True, check=False)
    assert done.stdout == "skipped\n", done.stderr
