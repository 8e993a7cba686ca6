"""What to type for NVIDIA's own tools to build and to time the engine that this package builds and times.

Flags as samples/common/sampleOptions.cpp of NVIDIA/TensorRT has them in 8.6.1, 10.3, 10.13, 10.16 and 11.1; those of
`tensorrt_rtx` as in NVIDIA's "Best Practices" of TensorRT-RTX. Not yet run on hardware.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec

from edgeresnext import bundle as bundles
from edgeresnext.backends.engine_header import release_key
from edgeresnext.bundle import CALIBRATION_CACHE, Bundle
from edgeresnext.errors import RequestError, unknown_name
from edgeresnext.pipeline.engines import onnx_for
from edgeresnext.spec import Artifact, Engine, EngineOptions, Precision, Value

_DEFAULT: tuple[Precision, ...] = ("fp16", "int8")
"""Of a bundle without engines: what TensorRT gets unasked."""
_TYPED, _TYPED_ALONE = 10, 11
"""Releases from which types in a file may bind, where a flag says so, and from which they always do, without one."""
_UNKNOWN_RELEASE = "10"
"""Whose flags are printed where no engine tells: 11 takes them too, and says that it does so anyway."""


class Commands(Value, frozen=True, kw_only=True):
    """How one engine is built, and how it is timed, by NVIDIA's tool; `note` says where that differs."""

    name: str
    build: str
    time: str
    note: str = ""


def commands(
    path: str | Path, *, precision: Precision | None = None, target: str | None = None, batch: int | None = None
) -> tuple[Commands, ...]:
    """Return the command lines for a bundle's engines; where it has none, for those that it would get.

    Args:
        path: The bundle.
        precision: Of one engine; None for all.
        target: Of one engine; None for all.
        batch: Images a run that are timed; None for the batch that the engine was built for.

    Raises:
        BundleError: The path is no bundle.
        RequestError: The bundle has no such engine, or no ONNX file for it.
    """
    bundle = bundles.read(path)
    engines = [one for one in bundle.artifacts() if one.engine is not None]
    targets = list(dict.fromkeys(one.target for one in engines))
    if target is not None and target not in targets:
        if targets:
            raise unknown_name("engine target of this bundle", target, targets, values=("target",))
        raise RequestError(f"bundle '{bundle.path}' has no engine", "Leave the target out.", values=("target",))
    found = [one for one in engines if precision in (None, one.precision) and target in (None, one.target)]
    if not found and target is not None:
        raise RequestError(
            f"bundle '{bundle.path}' has no {precision} engine for {target}",
            f"It has {', '.join(one.name for one in engines)}.",
            values=("precision", "target"),
        )
    if not found:
        found = [_imagined(bundle, one) for one in ((precision,) if precision else _available(bundle))]
    return tuple(_commands(bundle, one, batch) for one in found)


def _available(bundle: Bundle) -> list[Precision]:
    """Return what TensorRT would get, of what the bundle has files for."""
    names = {Path(file.file).stem for file in bundle.manifest.onnx}
    return [one for one in _DEFAULT if one in names] or ["fp32"]


def _imagined(bundle: Bundle, precision: Precision) -> Artifact:
    """Return the engine that a device would build of the bundle, with the options that are usual."""
    if precision == "bf16":
        raise unknown_name("engine precision", precision, ("fp32", "fp16", "int8"), values=("precision",))
    onnx = onnx_for(bundle.manifest, precision)
    engine = Engine(
        release=_UNKNOWN_RELEASE,
        compute_capabilities=(),
        onnx=onnx,
        onnx_sha256=bundle.manifest.files[onnx].sha256,
        options=EngineOptions(),
        built_s=0.0,
        platform="",
    )
    return Artifact(backend="tensorrt", precision=precision, target="", file=f"{precision}.engine", engine=engine)


def _commands(bundle: Bundle, artifact: Artifact, batch: int | None) -> Commands:
    """Return both lines of one engine."""
    engine = artifact.engine
    assert engine is not None
    smallest, usual, largest = engine.options.batch
    timed = usual if batch is None else batch
    if not smallest <= timed <= largest:
        raise RequestError(
            f"engine {artifact.name} takes {smallest} to {largest} images a run, not {timed}",
            "Ask for a number between.",
            values=("batch",),
        )
    program = "trtexec" if artifact.backend == "tensorrt" else "tensorrt_rtx"
    saved = f"{artifact.name}.engine"
    if artifact.file in bundle.manifest.files:
        loaded, note = str(bundle.path / artifact.file), ""
    else:
        loaded, note = saved, "the bundle has no engine yet: this is what it would get where it is built for `here`"
    if any(one.startswith("grouped convolutions: INT8 ") for one in engine.notes):
        note = "of the two ways to treat grouped convolutions this is the one that was kept"
    if _wants_float_weights(artifact, engine):
        engine = msgspec.structs.replace(engine, onnx="onnx/fp32.onnx", calibration_sha256=CALIBRATION_CACHE)
        note = "a plain graph with the same thresholds: this release takes no INT8 weights from a file"
    return Commands(
        name=artifact.name,
        build=shlex.join([program, *_build_flags(bundle, artifact, engine), f"--saveEngine={saved}"]),
        time=shlex.join([program, f"--loadEngine={loaded}", *_time_flags(bundle, artifact, engine, timed)]),
        note=note,
    )


def _wants_float_weights(artifact: Artifact, engine: Engine) -> bool:
    """Whether our builder has to rewrite a file for a release, which is then no file that trtexec could be given."""
    quantised = artifact.precision == "int8" and not engine.calibration_sha256
    return artifact.backend == "tensorrt" and quantised and release_key(engine.release)[0] < _TYPED


def _shape(bundle: Bundle, count: int) -> str:
    """Return a shape of the input for so many images."""
    image = bundle.manifest.model.input
    return f"{image.name}:{'x'.join(map(str, (count, *image.shape[1:])))}"


def _build_flags(bundle: Bundle, artifact: Artifact, engine: Engine) -> list[str]:
    """Return what says the same as `backends/_trt/builder.py`."""
    options = engine.options
    flags = [f"--onnx={bundle.path / engine.onnx}", *_types(bundle, artifact, engine)]
    flags += [
        f"--{bound}Shapes={_shape(bundle, count)}"
        for bound, count in zip(("min", "opt", "max"), options.batch, strict=True)
    ]
    if artifact.backend == "tensorrt_rtx":
        known = ",".join(one.replace(".", "") for one in engine.compute_capabilities)
        flags += [f"--computeCapabilities={known}"]
    if options.workspace_bytes is not None:
        flags += [f"--memPoolSize=workspace:{options.workspace_bytes / 2**20:g}"]
    if options.optimization_level is not None:
        flags += [f"--builderOptimizationLevel={options.optimization_level}"]
    flags += ["--versionCompatible"] if options.version_compatible else []
    flags += ["--hardwareCompatibilityLevel=ampere+"] if options.hardware_compatible else []
    flags += [f"--timingCacheFile={options.timing_cache}"] if options.timing_cache else []
    if options.dla_core is not None:
        flags += [f"--useDLACore={options.dla_core}", "--allowGPUFallback"]
    return [*flags, "--profilingVerbosity=detailed", "--skipInference"]


def _types(bundle: Bundle, artifact: Artifact, engine: Engine) -> list[str]:
    """Return the flags of precision: none where the file's types bind by themselves."""
    flags = ["--noTF32"] if artifact.precision == "fp32" else []
    if artifact.backend != "tensorrt":
        return flags
    beside = bool(engine.calibration_sha256)
    major = release_key(engine.release)[0]
    on_dla = engine.options.dla_core is not None
    if major >= _TYPED_ALONE:
        return flags
    if major >= _TYPED and not beside and not on_dla:
        return [*flags, "--stronglyTyped"]
    half = any(file.file.startswith("onnx/int8-fp16") for file in bundle.manifest.onnx) or on_dla
    flags += ["--fp16"] if artifact.precision == "fp16" or (artifact.precision == "int8" and half) else []
    flags += ["--int8"] if artifact.precision == "int8" else []
    return [*flags, f"--calib={bundle.path / CALIBRATION_CACHE}"] if beside else flags


def _time_flags(bundle: Bundle, artifact: Artifact, engine: Engine, batch: int) -> list[str]:
    """Return what times an engine as the benchmark does: as a CUDA graph, with the copies of images and logits."""
    flags = [f"--shapes={_shape(bundle, batch)}"]
    if artifact.backend == "tensorrt" and release_key(engine.release)[0] >= _TYPED_ALONE:  # whose defaults are others
        flags += ["--includeDataTransfers"]
    else:
        flags += ["--useCudaGraph", "--useSpinWait"]
    flags += ["--versionCompatible"] if engine.options.version_compatible else []
    flags += [] if engine.options.dla_core is None else [f"--useDLACore={engine.options.dla_core}"]
    return [*flags, "--warmUp=1000", "--duration=10", "--percentile=50,90,99"]
