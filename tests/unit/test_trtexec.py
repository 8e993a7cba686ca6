"""What is printed for trtexec says the same as our own builder, in flags that the release has."""

import shlex

import msgspec
import pytest
from standins.engines import written

from edgeresnext import bundle as bundles
from edgeresnext.errors import BundleError, RequestError
from edgeresnext.interop.trtexec import commands
from edgeresnext.spec import Artifact, Engine, EngineOptions

COMMON = {
    "--onnx", "--saveEngine", "--loadEngine", "--minShapes", "--optShapes", "--maxShapes", "--shapes", "--noTF32", "--memPoolSize",
    "--builderOptimizationLevel", "--timingCacheFile", "--versionCompatible", "--hardwareCompatibilityLevel", "--useDLACore",
    "--allowGPUFallback", "--profilingVerbosity", "--skipInference", "--useCudaGraph", "--useSpinWait", "--warmUp", "--duration",
    "--percentile",
}  # fmt: skip
FLAGS = {
    "8.6.1": COMMON | {"--fp16", "--int8", "--calib"},
    "10.3.0": COMMON | {"--fp16", "--int8", "--calib", "--stronglyTyped"},
    "10.16.0": COMMON | {"--fp16", "--int8", "--calib", "--stronglyTyped"},
    "11.1.0": COMMON | {"--stronglyTyped", "--includeDataTransfers"},
}
"""Of samples/common/sampleOptions.cpp in NVIDIA/TensorRT, by release."""
EVERYTHING = EngineOptions(
    batch=(1, 4, 8), workspace_bytes=3 << 29, optimization_level=2, timing_cache="t.cache", version_compatible=True,
    hardware_compatible=True, dla_core=1,
)  # fmt: skip


def with_engine(path, release="10.3.0", precision="fp16", backend="tensorrt", options=None, **engine):
    """A bundle with an entry for an engine; nothing here reads the engine."""
    manifest = bundles.read(path).manifest
    target = "sm87" if backend == "tensorrt" else "rtx30+rtx40"
    file = f"engines/{target}-{precision}.engine"
    (path / "engines").mkdir(exist_ok=True)
    (path / file).write_bytes(b"engine")
    entry = Engine(
        release=release, compute_capabilities=("8.7",) if backend == "tensorrt" else ("8.6", "8.9"), onnx=f"onnx/{precision}.onnx",
        onnx_sha256="", options=options or EngineOptions(), built_s=1.0, platform="linux-aarch64", **engine,
    )  # fmt: skip
    artifact = Artifact(backend=backend, precision=precision, target=target, file=file, engine=entry)
    return written(path, msgspec.structs.replace(manifest, artifacts=(*manifest.artifacts, artifact)))


def flags(line):
    """A line's flags with their values, and its program."""
    program, *words = shlex.split(line)
    return program, {name: value for name, _, value in (word.partition("=") for word in words)}


@pytest.mark.parametrize("release", FLAGS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("options", [EngineOptions(), EVERYTHING], ids=["usual", "everything"])
def test_every_flag_is_one_of_the_release(bundle_copy, release, precision, options):
    (found,) = commands(with_engine(bundle_copy, release, precision, options=options).path)
    for line in (found.build, found.time):
        program, given = flags(line)
        assert program == "trtexec"
        assert set(given) <= FLAGS[release]


def test_options_of_the_engine_are_typed(bundle_copy):
    (found,) = commands(with_engine(bundle_copy, options=EVERYTHING).path)
    _, build = flags(found.build)
    assert build == {
        "--onnx": f"{bundle_copy}/onnx/fp16.onnx", "--fp16": "", "--minShapes": "images:1x32x32x3", "--optShapes": "images:4x32x32x3",
        "--maxShapes": "images:8x32x32x3", "--memPoolSize": "workspace:1536", "--builderOptimizationLevel": "2",
        "--versionCompatible": "", "--hardwareCompatibilityLevel": "ampere+", "--timingCacheFile": "t.cache", "--useDLACore": "1",
        "--allowGPUFallback": "", "--profilingVerbosity": "detailed", "--skipInference": "", "--saveEngine": "sm87-fp16.engine",
    }  # fmt: skip
    _, time = flags(found.time)
    assert time["--loadEngine"] == f"{bundle_copy}/engines/sm87-fp16.engine"
    assert time["--shapes"] == "images:4x32x32x3"
    assert {"--versionCompatible", "--useDLACore", "--useCudaGraph"} <= set(time)


@pytest.mark.parametrize(
    ("release", "precision", "typed"),
    [
        ("8.6.1", "fp32", {"--noTF32"}),
        ("8.6.1", "fp16", {"--fp16"}),
        ("8.6.1", "int8", {"--int8", "--fp16", "--calib"}),
        ("10.3.0", "fp32", {"--noTF32", "--stronglyTyped"}),
        ("10.3.0", "int8", {"--stronglyTyped"}),
        ("11.1.0", "int8", set()),
    ],
)
def test_precision_is_said_as_the_release_wants_it(bundle_copy, release, precision, typed):
    (found,) = commands(with_engine(bundle_copy, release, precision).path)
    _, build = flags(found.build)
    assert set(build) & {"--noTF32", "--stronglyTyped", "--fp16", "--int8", "--calib"} == typed


def test_a_release_without_int8_weights_gets_the_plain_graph_and_is_told_so(bundle_copy):
    (found,) = commands(with_engine(bundle_copy, "8.6.1", "int8").path)
    _, build = flags(found.build)
    assert build["--onnx"].endswith("onnx/fp32.onnx")
    assert "takes no INT8 weights" in found.note
    (found,) = commands(with_engine(bundle_copy, "8.6.1", "fp16").path, precision="fp16")
    assert not found.note


def test_thresholds_beside_a_plain_graph_are_named(bundle_copy):
    options = EngineOptions(dla_core=0, batch=(1, 1, 1))
    bundle = with_engine(bundle_copy, precision="int8", options=options, calibration_sha256="of the cache")
    _, build = flags(commands(bundle.path)[0].build)
    assert build["--calib"] == f"{bundle_copy}/calibration.cache"
    assert {"--int8", "--fp16"} <= set(build)
    assert "--stronglyTyped" not in build


@pytest.mark.parametrize(
    ("release", "given", "not_given"),
    [("10.3.0", "--useCudaGraph", "--noDataTransfers"), ("11.1.0", "--includeDataTransfers", "--noCudaGraph")],
)
def test_engines_are_timed_with_copies_and_as_a_graph_whatever_is_usual(bundle_copy, release, given, not_given):
    _, time = flags(commands(with_engine(bundle_copy, release).path)[0].time)
    assert given in time
    assert not_given not in time


def test_tensorrt_rtx_has_a_tool_of_its_own(bundle_copy):
    program, build = flags(commands(with_engine(bundle_copy, "1.7.1", backend="tensorrt_rtx").path)[0].build)
    assert program == "tensorrt_rtx"
    assert build["--computeCapabilities"] == "86,89"
    assert "--stronglyTyped" not in build


def test_a_bundle_without_engines_says_what_a_device_would_build(built):
    found = commands(built.path)
    assert [one.name for one in found] == ["fp16", "int8"]
    for one in found:
        _, build = flags(one.build)
        _, time = flags(one.time)
        assert build["--saveEngine"] == time["--loadEngine"] == f"{one.name}.engine"
        assert "the bundle has no engine yet" in one.note
    assert [flags(one.build)[1]["--onnx"] for one in commands(built.path, precision="int8")] == [
        f"{built.path}/onnx/int8-fp16.onnx"
    ]


def test_a_path_with_spaces_can_be_pasted(bundle_copy, tmp_path):
    path = bundle_copy.rename(tmp_path / "my bundle; rm -rf ~")
    program, build = flags(commands(path)[0].build)
    assert (program, build["--onnx"]) == ("trtexec", f"{path}/onnx/fp16.onnx")


def test_what_cannot_be_printed_is_refused(bundle_copy, tmp_path):
    for options, message in (
        ({"target": "sm87"}, "has no engine"),
        ({"precision": "bf16"}, "unknown engine precision 'bf16'"),
        ({"batch": 9}, "takes 1 to 8 images a run, not 9"),
    ):
        with pytest.raises(RequestError, match=message):
            commands(bundle_copy, **options)
    with_engine(bundle_copy)
    for options, message in (
        ({"target": "sm89"}, "unknown engine target of this bundle 'sm89'"),
        ({"target": "sm87", "precision": "int8"}, "has no int8 engine for sm87"),
    ):
        with pytest.raises(RequestError, match=message):
            commands(bundle_copy, **options)
    with pytest.raises(BundleError):
        commands(tmp_path)
