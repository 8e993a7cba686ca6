"""How engines are built from a bundle's ONNX files, and which of two is kept.

Below the pipeline: it works on a bundle that is being written, and publishes nothing.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import msgspec

from edgeresnext import bundle as bundles
from edgeresnext.backends import registry, targets
from edgeresnext.backends.engine import EngineBackend
from edgeresnext.backends.request import EngineRequest
from edgeresnext.bundle import Bundle
from edgeresnext.bundle.onnx_file import check_onnx
from edgeresnext.compiler.plan import grouped_float
from edgeresnext.errors import BackendError, RequestError, shortened
from edgeresnext.machine.allocator import return_freed_memory
from edgeresnext.measure.latency import interleave
from edgeresnext.pipeline.wanted import Wanted
from edgeresnext.progress import Progress
from edgeresnext.spec import Artifact, Engine, EngineOptions, Manifest, Precision

_TIMED_ROUNDS = 50
_TIMED_BUDGET_S = 10.0
_log = logging.getLogger("edgeresnext")


def compile_engines(
    bundle: Bundle, wanted: Iterable[Wanted], options: EngineOptions, progress: Progress
) -> tuple[Artifact, ...]:
    """Compile engines into a bundle that is being written, one after the other, and return them.

    Args:
        bundle: Directory and manifest of what is there so far.
        wanted: What to build.
        options: How.
        progress: Told how far each is, in percent.

    Raises:
        RequestError: The bundle lacks the ONNX file, or the options do not fit.
        BackendError: A build failed.
    """
    found = []
    return_freed_memory()
    for one in wanted:
        if one.backend == "tensorrt_rtx" and one.precision == "int8":
            _log.warning(
                "%s: TensorRT-RTX 1.7 moves twice the bytes in INT8 that it moves in FP16 (docs/engines.md)", one.name
            )
        request = _request(bundle, one, options)
        request.file.parent.mkdir(exist_ok=True)
        engine = _compile(bundle, request, progress)
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
        f"Build the bundle again from the checkpoint, in {precision} and with this target.",
        values=("precisions",),
    )


def check_files(manifest: Manifest, wanted: Iterable[Wanted], options: EngineOptions) -> None:
    """Refuse engines whose ONNX file a bundle does not have, before any is built.

    Raises:
        RequestError: A file is missing.
    """
    for one in wanted:
        onnx_for(manifest, one.precision)
        if one.precision != "int8" or one.backend != "tensorrt":
            continue
        if options.dla_core is not None:
            onnx_for(manifest, "fp32")
            if bundles.CALIBRATION_CACHE not in manifest.files:
                raise RequestError(
                    "the bundle has no calibration cache, which a DLA needs for INT8",
                    "Build the bundle again from the checkpoint, with this release.",
                )
        elif options.int8_grouped == "off":
            onnx_for(manifest, "int8", grouped=False)
            onnx_for(manifest, "int8", typed=False, grouped=False)


def _plain_graph(bundle: Bundle, name: str) -> Path:
    """Return an ONNX file that a parser may see: unaltered, and a plain graph of our operators."""
    check_onnx(bundle.content(name), bundle.manifest.model, bundle.path / name)
    return bundle.path / name


def _request(bundle: Bundle, one: Wanted, options: EngineOptions) -> EngineRequest:
    """Return what to build one engine from, with grouped convolutions like the others."""
    manifest = bundle.manifest
    weak = None
    if one.precision == "int8" and any(file.file == "onnx/int8.onnx" for file in manifest.onnx):
        weak = _plain_graph(bundle, onnx_for(manifest, "int8", typed=False))
    return EngineRequest(
        name=one.name,
        backend=one.backend,
        file=bundle.path / one.file,
        precision=one.precision,
        compute_capabilities=one.compute_capabilities,
        onnx=_plain_graph(bundle, onnx_for(manifest, one.precision)),
        weak_onnx=weak,
        options=options,
        layer_macs=manifest.layer_macs,
    )


def _beside(bundle: Bundle, request: EngineRequest) -> EngineRequest:
    """Return a request with the thresholds beside a plain graph, as a DLA wants them."""
    kept = {name for file in bundle.manifest.onnx if file.file == "onnx/int8.onnx" for name in file.plan.reasons}
    if kept:
        _log.warning(
            "%s: TensorRT decides layer by layer, also on %s, which the bundle's INT8 files keep in floating point",
            request.name,
            shortened(sorted(kept), 3),
        )
    return msgspec.structs.replace(
        request,
        plain_onnx=_plain_graph(bundle, onnx_for(bundle.manifest, "fp32")),
        calibration_cache=bundle.file(bundles.CALIBRATION_CACHE),
    )


def _grouped_floating(bundle: Bundle, request: EngineRequest) -> EngineRequest:
    """Return a request for the same with grouped convolutions in floating point."""
    return msgspec.structs.replace(
        request,
        onnx=_plain_graph(bundle, onnx_for(bundle.manifest, "int8", grouped=False)),
        weak_onnx=_plain_graph(bundle, onnx_for(bundle.manifest, "int8", typed=False, grouped=False)),
    )


def _compile(bundle: Bundle, request: EngineRequest, progress: Progress) -> Engine:
    """Compile one engine; of INT8 for TensorRT both ways to treat grouped convolutions, where that is asked for."""
    backend = registry.get_engine_backend(request.backend)
    grouped = request.options.int8_grouped
    if request.precision != "int8" or request.backend != "tensorrt":
        return backend.build(request, progress)
    if request.options.dla_core is not None:
        return backend.build(_beside(bundle, request), progress)
    if grouped == "on":
        return backend.build(request, progress)
    try:
        floating = _grouped_floating(bundle, request)
    except RequestError:
        if grouped == "off":
            raise
        note = "grouped convolutions: INT8; the bundle has no file with them in floating point to compare with"
        return _noted(backend.build(request, progress), note)
    if grouped == "off":
        return backend.build(floating, progress)
    return _faster(bundle, backend, request, floating, progress)


def _noted(engine: Engine, note: str) -> Engine:
    return msgspec.structs.replace(engine, notes=(*engine.notes, note))


def _faster(
    bundle: Bundle, backend: EngineBackend, request: EngineRequest, floating: EngineRequest, progress: Progress
) -> Engine:
    """Compile both requests for an engine, time them in turn on the golden images, and keep the faster."""
    batch = request.options.batch[1]
    with tempfile.TemporaryDirectory(prefix="edgeresnext-") as scratch:
        floating = msgspec.structs.replace(floating, file=Path(scratch) / "grouped-float.engine")
        requests = {"INT8": request, "floating point": floating}
        built = {way: (one.file, backend.build(one, progress)) for way, one in requests.items()}
        seconds = _medians_s(bundle, backend, built, batch)
        faster = min(seconds, key=seconds.__getitem__)
        file, engine = built[faster]
        if file != request.file:
            shutil.copyfile(file, request.file)
    figures = ", ".join(f"{way} {median_s * 1e3:.3f} ms" for way, median_s in seconds.items())
    return _noted(engine, f"grouped convolutions: {figures} (median, batch {batch}); kept {faster}")


def _medians_s(
    bundle: Bundle, backend: EngineBackend, built: dict[str, tuple[Path, Engine]], batch: int
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
            f"the engines could not be compared: {', '.join(failures.values())}",
            "Choose yourself how grouped convolutions are computed: on is INT8, off is floating point.",
            values=("int8_grouped",),
        )
    return {way: median(values) for way, values in samples.items()}
