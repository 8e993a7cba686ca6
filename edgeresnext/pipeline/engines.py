"""Engines: which a request asks for, how each is built from a bundle's ONNX files, and which of two is kept.

Below the pipeline: it works on a bundle that is being written, and publishes nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeresnext import bundle as bundles
from edgeresnext import files
from edgeresnext.backends import base, cuda, targets
from edgeresnext.compiler.plan import grouped_float
from edgeresnext.data import calibration_set, folder
from edgeresnext.errors import BackendError, NotInstalledError, RequestError, shortened, unknown_name
from edgeresnext.machine import gpu
from edgeresnext.machine.allocator import return_freed_memory
from edgeresnext.measure.latency import interleave
from edgeresnext.spec import Artifact, EngineOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from edgeresnext.backends.targets import Target
    from edgeresnext.bundle import Bundle
    from edgeresnext.progress import Progress
    from edgeresnext.spec import Engine, Manifest, Precision

FOLDER = "engines"
DEFAULT_SAMPLES = 512
"""Images that TensorRT calibrates on by itself, at most."""

_DEFAULT: dict[str, tuple[Precision, ...]] = {"tensorrt": ("fp16", "int8"), "tensorrt_rtx": ("fp16",)}
"""What is built where no precision is asked for. TensorRT-RTX 1.7 does not fuse requantisation into INT8 convolutions:
ResNeXt-50 moves 148 MB an image in INT8 against 71 MB in FP16 (the engines' own layer lists, SM89)."""

_MAX_BATCH = 4096
_MAX_WORKSPACE = 2**50
_TIMED_ROUNDS = 50
_TIMED_BUDGET_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One engine to build.

    Args:
        backend: Which builds and runs it.
        target: The name under which it is kept.
        precision: What it computes in.
        compute_capabilities: What to build for; empty for the GPU of this machine.
    """

    backend: str
    target: str
    precision: Precision
    compute_capabilities: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Its file in the bundle."""
        return f"{FOLDER}/{self.target}-{self.precision}.engine"

    @property
    def name(self) -> str:
        """The name of the artefact."""
        return f"{self.target}-{self.precision}"


def _check_options(options: EngineOptions) -> None:
    """Refuse options that no engine can be built with.

    Raises:
        RequestError: A number is out of range, or the batch profile is impossible.
    """
    smallest, usual, largest = options.batch
    if not 1 <= smallest <= usual <= largest <= _MAX_BATCH:
        raise RequestError(
            f"batch profile {smallest}:{usual}:{largest} is impossible",
            f"Give MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX <= {_MAX_BATCH}, such as 1:1:8.",
        )
    if options.optimization_level is not None and not 0 <= options.optimization_level <= 5:  # noqa: PLR2004
        raise RequestError(f"optimisation level is {options.optimization_level}", "Give 0 (fast build) to 5 (slow).")
    if options.workspace_bytes is not None and not 1 <= options.workspace_bytes <= _MAX_WORKSPACE:
        raise RequestError(
            f"workspace is {options.workspace_bytes / 2**20:g} MiB", "Give a positive number of MiB, or leave it out."
        )
    if options.dla_core is not None and options.dla_core < 0:
        raise RequestError(f"DLA core is {options.dla_core}", "Give 0 or 1, or leave --dla out.")
    if options.implicit_calibration:
        folder.scan(options.implicit_calibration)


def wanted(
    asked: Sequence[Target],
    precisions: Collection[Precision] | None,
    options: EngineOptions,
    backend: str | None = None,
) -> tuple[Wanted, ...]:
    """Return the engines that a request asks for, after checking that they can be built on this machine.

    Args:
        asked: The targets; `cpu` and Jetsons get no engine here.
        precisions: Any of fp32, fp16 and int8; None for what suits each backend.
        options: How they will be built.
        backend: Which builds for `here`, where both are installed.

    Raises:
        RequestError: A target cannot have a precision, the backend is ambiguous, or an option would change nothing.
        NotInstalledError: The package, or the GPU, is missing.
    """
    _check_options(options)
    if backend is not None and not any(target.name == targets.HERE for target in asked):
        raise RequestError(f"--backend {backend} would change nothing: it is for --target here", "Leave it out.")
    found: list[Wanted] = []
    for target in asked:
        if target.name == targets.HERE:
            found += _here(precisions, options, backend)
        elif target.compute_capabilities:
            found += _ahead_of_time(target, precisions)
    found = list({one.file: one for one in found}.values())
    for one in found:
        base.get_engine_backend(one.backend).check(options, one.precision)
    _check_use(options, asked, found)
    return tuple(found)


def _check_use(options: EngineOptions, asked: Sequence[Target], found: Sequence[Wanted]) -> None:
    """Refuse options that nothing which was asked for would use."""
    # Without an engine the treatment of grouped convolutions still decides which files a Jetson gets.
    rest = msgspec.structs.replace(options, int8_grouped="auto")
    for_jetson = any(target.name in targets.JETSON for target in asked)
    if not found and (rest if for_jetson else options) != EngineOptions():
        raise RequestError(
            "options of engines would change nothing: no target here gets an engine",
            "Give them where the engine is built: edgeresnext build BUNDLE --target here.",
        )
    int8 = any(one.precision == "int8" for one in found)
    if options.implicit_calibration and not int8:
        raise RequestError("--implicit-calibration would change nothing: no INT8 engine is built", "Leave it out.")
    plain = options.dla_core is not None or bool(options.implicit_calibration)
    if options.int8_grouped == "off" and found and (plain or not int8):
        why = "TensorRT decides layer by layer there" if plain else "no INT8 engine is built"
        raise RequestError(f"--int8-grouped off would change nothing: {why}", "Leave it out.")


def _ahead_of_time(target: Target, precisions: Collection[Precision] | None) -> list[Wanted]:
    name = "tensorrt_rtx"
    missing = base.get_engine_backend(name).missing()
    if missing is not None:
        raise NotInstalledError(
            f"target '{target.name}' needs TensorRT-RTX: {missing}", "pip install 'edgeresnext[rtx]'"
        )
    chosen = _DEFAULT[name] if precisions is None else precisions
    for precision in chosen:
        if reason := target.refuses(precision):
            raise RequestError(
                f"target '{target.name}' cannot have {precision}: {reason}",
                "Ask for --precision fp16, or name the other targets in a build of their own.",
            )
    return [
        Wanted(backend=name, target=target.name, precision=precision, compute_capabilities=target.compute_capabilities)
        for precision in chosen
    ]


def _here(precisions: Collection[Precision] | None, options: EngineOptions, backend: str | None) -> list[Wanted]:
    """Return the engines for the GPU of this machine."""
    device = gpu.detect()
    if device is None:
        raise NotInstalledError(
            "target 'here' needs an NVIDIA GPU with a driver, and this machine has none",
            "edgeresnext doctor shows what is missing; --target rtx40 builds for a GPU elsewhere.",
        )
    installed = [name for name in base.ENGINE_NAMES if base.get_engine_backend(name).missing() is None]
    if backend is not None and backend not in base.ENGINE_NAMES:
        raise unknown_name("engine backend", backend, base.ENGINE_NAMES)
    if backend is None and len(installed) > 1:
        raise RequestError(
            f"both TensorRT and TensorRT-RTX are installed, for {device.name}",
            "Choose: --backend tensorrt (tuned on this GPU) or --backend tensorrt_rtx.",
        )
    name = backend or (installed[0] if installed else "tensorrt")
    missing = base.get_engine_backend(name).missing()
    if missing is not None:
        raise NotInstalledError(f"target 'here' needs TensorRT for {device.name}: {missing}", "edgeresnext doctor")
    if cuda.installed() is None:
        raise NotInstalledError(
            "an engine is checked where it is built, and no Python library for CUDA memory is installed",
            cuda.how_to_install(),
        )
    if name == "tensorrt":
        label = f"sm{device.compute_capability.replace('.', '')}"
    else:
        known = {capability: rtx for rtx, capability in targets.RTX.items()}
        label = known.get(device.compute_capability, f"rtx-sm{device.compute_capability.replace('.', '')}")
    if options.dla_core is not None:
        label += f"-dla{options.dla_core}"
    chosen = _DEFAULT[name] if precisions is None else precisions
    return [Wanted(backend=name, target=label, precision=precision) for precision in chosen]


def build_engines(
    bundle: Bundle,
    wanted_engines: Iterable[Wanted],
    options: EngineOptions,
    progress: Progress,
    warn: Callable[[str], None],
) -> tuple[Artifact, ...]:
    """Build engines into a bundle that is being written, one after the other, and return them.

    Args:
        bundle: Directory and manifest of what is there so far.
        wanted_engines: What to build.
        options: How.
        progress: Told how far each is, in percent.
        warn: Told what the builder warns of.

    Raises:
        RequestError: The bundle lacks the ONNX file, or the options do not fit.
        BackendError: A build failed.
    """
    found = []
    return_freed_memory()
    for one in wanted_engines:
        (bundle.path / FOLDER).mkdir(exist_ok=True)
        if one.backend == "tensorrt_rtx" and one.precision == "int8":
            warn(f"{one.name}: TensorRT-RTX 1.7 moves twice the bytes in INT8 that it moves in FP16 (README, engines)")
        with tempfile.TemporaryDirectory(prefix="edgeresnext-") as scratch:
            request = _request(bundle, one, options, progress, warn)
            engine = _build(bundle, one, request, Path(scratch))
        found.append(
            Artifact(backend=one.backend, precision=one.precision, target=one.target, file=one.file, engine=engine)
        )
    return tuple(found)


def onnx_for(manifest: Manifest, precision: Precision, *, typed: bool = True, grouped: bool = True) -> str:
    """Return the ONNX file that an engine of a precision is compiled from.

    INT8 engines compute the rest in FP16 where the bundle has such a file, else in FP32. Releases without typed
    networks (TensorRT 8) take the FP32 scales of `int8` and an FP16 flag.

    Raises:
        RequestError: The bundle has no file for it.
    """
    have = {file.file for file in manifest.onnx}
    names = [precision] if precision != "int8" else ["int8-fp16", "int8"] if typed else ["int8"]
    for name in names:
        file = f"onnx/{name if grouped else grouped_float(name)}.onnx"
        if file in have:
            return file
    what = f"{precision} with grouped convolutions in floating point" if not grouped else precision
    raise RequestError(
        f"the bundle has no ONNX file for {what}: it has {', '.join(sorted(have))}",
        f"Build the bundle again from the checkpoint, with --precision {precision} and this target.",
    )


def check_files(manifest: Manifest, wanted_engines: Iterable[Wanted], options: EngineOptions) -> None:
    """Refuse engines whose ONNX file a bundle does not have, before any is built.

    Raises:
        RequestError: A file is missing.
    """
    for one in wanted_engines:
        onnx_for(manifest, one.precision)
        if one.precision != "int8" or one.backend != "tensorrt":
            continue
        if options.dla_core is not None or options.implicit_calibration:
            onnx_for(manifest, "fp32")
            if bundles.CALIBRATION_CACHE not in manifest.files and not options.implicit_calibration:
                raise RequestError(
                    "the bundle has no calibration cache, which a DLA needs for INT8",
                    "Build the bundle again from the checkpoint, with this release.",
                )
        elif options.int8_grouped == "off":
            onnx_for(manifest, "int8", grouped=False)
            onnx_for(manifest, "int8", typed=False, grouped=False)


def _request(
    bundle: Bundle, one: Wanted, options: EngineOptions, progress: Progress, warn: Callable[[str], None]
) -> base.EngineRequest:
    """Return what to build one engine from, with grouped convolutions like the others."""
    manifest = bundle.manifest
    weak = None
    if one.precision == "int8" and any(file.file == "onnx/int8.onnx" for file in manifest.onnx):
        weak = bundle.file(onnx_for(manifest, "int8", typed=False))
    return base.EngineRequest(
        name=one.name,
        model=manifest.model,
        precision=one.precision,
        compute_capabilities=one.compute_capabilities,
        onnx=bundle.file(onnx_for(manifest, one.precision)),
        weak_onnx=weak,
        options=options,
        layer_macs=manifest.layer_macs,
        progress=lambda done, total: progress(f"engine {one.name}", done, total),
        warn=warn,
    )


def _beside(bundle: Bundle, request: base.EngineRequest, scratch: Path) -> base.EngineRequest:
    """Return a request with the thresholds beside a plain graph, as a DLA and TensorRT's own calibration want them."""
    plain = bundle.file(onnx_for(bundle.manifest, "fp32"))
    kept = {name for file in bundle.manifest.onnx if file.file == "onnx/int8.onnx" for name in file.plan.reasons}
    if kept:
        request.warn(
            f"{request.name}: TensorRT decides layer by layer here, also on {shortened(sorted(kept), 3)}, "
            "which the bundle's INT8 files keep in floating point"
        )
    if not request.options.implicit_calibration:
        cache = bundle.file(bundles.CALIBRATION_CACHE)
        return dataclasses.replace(request, plain_onnx=plain, calibration_cache=cache)
    photos = folder.scan(request.options.implicit_calibration)
    drawn = calibration_set.from_folder(photos, request.model.preprocess, DEFAULT_SAMPLES, seed=0)
    batch = request.options.batch[1]
    if drawn.count < batch:
        raise RequestError(
            f"{drawn.count} images in '{photos.root}' do not fill one calibration batch of {batch}",
            "Give more images, or a smaller OPT in --batch MIN:OPT:MAX.",
        )
    images = scratch / "images.npy"
    np.save(images, np.concatenate(list(drawn.batches(None))))
    # What TensorRT finds depends on the images, their batches and the network, and is kept under their digest.
    key = hashlib.sha256(f"{drawn.digest} {batch} {files.digest(plain)}".encode()).hexdigest()[:16]
    found = bundle.path / FOLDER / f"implicit-{key}.cache"
    return dataclasses.replace(request, plain_onnx=plain, implicit_images=images, implicit_cache=found)


def _grouped_floating(bundle: Bundle, request: base.EngineRequest) -> base.EngineRequest:
    """Return a request for the same with grouped convolutions in floating point."""
    return dataclasses.replace(
        request,
        onnx=bundle.file(onnx_for(bundle.manifest, "int8", grouped=False)),
        weak_onnx=bundle.file(onnx_for(bundle.manifest, "int8", typed=False, grouped=False)),
    )


def _build(bundle: Bundle, one: Wanted, request: base.EngineRequest, scratch: Path) -> Engine:
    """Build one engine; of INT8 for TensorRT both ways to treat grouped convolutions, where that is asked for."""
    backend = base.get_engine_backend(one.backend)
    file = bundle.path / one.file
    options = request.options
    if one.precision != "int8" or one.backend != "tensorrt":
        return backend.build(file, request)
    if options.dla_core is not None or options.implicit_calibration:
        return backend.build(file, _beside(bundle, request, scratch))
    if options.int8_grouped == "on":
        return backend.build(file, request)
    try:
        floating = _grouped_floating(bundle, request)
    except RequestError:
        if options.int8_grouped == "off":
            raise
        note = "grouped convolutions: INT8; the bundle has no file with them in floating point to compare with"
        engine = backend.build(file, request)
        return msgspec.structs.replace(engine, notes=(*engine.notes, note))
    if options.int8_grouped == "off":
        return backend.build(file, floating)
    other = scratch / "grouped-float.engine"
    built = {"INT8": (file, backend.build(file, request)), "floating point": (other, backend.build(other, floating))}
    seconds = _compare(bundle, backend, built, options.batch[1])
    faster = min(seconds, key=seconds.__getitem__)
    path, engine = built[faster]
    if path != file:
        shutil.copyfile(path, file)
    figures = ", ".join(f"{way} {median_s * 1e3:.3f} ms" for way, median_s in seconds.items())
    note = f"grouped convolutions: {figures} (median, batch {options.batch[1]}); kept {faster}"
    return msgspec.structs.replace(engine, notes=(*engine.notes, note))


def _compare(
    bundle: Bundle, backend: base.EngineBackend, built: dict[str, tuple[Path, Engine]], batch: int
) -> dict[str, float]:
    """Return the median latency in seconds of engines that are run in turn on the golden images."""
    with ExitStack() as stack:
        sessions = {}
        for way, (file, engine) in built.items():
            artifact = Artifact(
                backend=backend.name, precision="int8", target=targets.HERE, file=file.name, engine=engine
            )
            session = sessions[way] = backend.open(file, bundle.manifest.model, artifact)
            stack.callback(session.close)
        samples, failures = interleave(
            sessions,
            bundle.golden().images,
            batch,
            min_rounds=5,
            max_rounds=_TIMED_ROUNDS,
            budget_s=_TIMED_BUDGET_S,
            warm=False,
        )
    if failures:
        raise BackendError(
            f"the engines could not be compared: {'; '.join(failures.values())}", "Give --int8-grouped on."
        )
    return {way: median(values) for way, values in samples.items()}
