"""TensorRT itself, where it is installed, 8.6 included: what its releases differ in."""

from gpu.building import SMALL, open_engine
from gpu.check import Skipped, check

BUNDLES = (SMALL,)
OPTIONS = {
    "plain": {},
    "version-compatible": {"version_compatible": True},
    "hardware-compatible": {"hardware_compatible": True},
    "capability-compatible": {"capability_compatible": True},
    "workspace": {"workspace_bytes": 256 << 20, "optimization_level": 5},
    "timing-cache": {"timing_cache": "timings"},
}


def built(work, name, precision, **options):
    """Build one engine by TensorRT and compare it with the golden logits."""
    import edgeresnext
    from edgeresnext.backends import registry
    from edgeresnext.runtime.proof import shortfall

    if (missing := registry.get_engine_backend("tensorrt").missing()) is not None:
        raise Skipped(missing)
    if options.get("timing_cache"):
        options["timing_cache"] = str(work.folder / options["timing_cache"])
    try:
        edgeresnext.build_engines(
            work.bundle(SMALL),
            output=work.folder / f"classic-{name}",
            precisions=[precision],
            engine_options=edgeresnext.EngineOptions(backend="tensorrt", int8_grouped="on", **options),
        )
    except edgeresnext.EdgeResNeXtError as error:
        if "builds no" in error.what or "does not exist" in error.what:  # a release, or a board, without it says so
            raise Skipped(error.what) from None
        raise
    session, found, artifact = open_engine(work.folder / f"classic-{name}", precision)
    golden = found.golden()
    fidelity = golden.compare(session.run(golden.images))
    session.close()
    short = shortfall(found, artifact, fidelity)
    assert not short, short
    engine = artifact.engine
    return {
        "release": engine.release,
        "onnx": engine.onnx,
        "built_s": engine.built_s,
        "snr_db": fidelity.snr_db,
        "layers": len(engine.layers),
        "int8_layers": sum("int8" in layer.types.partition(" -> ")[0] for layer in engine.layers if layer.macs),
    }


@check(300, "fp32", "fp16", "int8")
def precision(work, kind):
    """Each precision is built and right; INT8 convolutions read INT8, also where 8.6 gets float32 weights."""
    found = built(work, kind, kind)
    assert kind != "int8" or found["int8_layers"] > 0, "no convolution reads INT8"
    return found


@check(300, *OPTIONS)
def option(work, name):
    """Each option of a build is taken, or refused in words, and the engine is right."""
    return built(work, name, "fp16", **OPTIONS[name])


@check(120)
def dla(work):
    """A DLA, on boards that have one."""
    return built(work, "dla", "int8", dla_core=0, batch=(1, 1, 1))
