"""TensorRT-RTX asked what it builds and runs here: by default, for this GPU, for SM80 and SM89.

A crash is an answer: each question is a process of its own.
"""

from gpu.building import SMALL, images_for
from gpu.check import Skipped, check

BUNDLES = (SMALL,)
TARGETS = ("default", "CURRENT", "SM80", "SM86", "SM89", "SM120")
MASK_AT = 32
"""Where the header of a plan of 1.7 says for which GPUs it was built, a bit each."""


@check(120, *TARGETS)
def probe(work, target):
    """Build, ask for validity, deserialise, run and compare with the golden logits."""
    from edgeresnext import bundle as bundles
    from edgeresnext.errors import EdgeResNeXtError

    try:
        import tensorrt_rtx as trt
    except ImportError:
        raise Skipped("TensorRT-RTX is not installed") from None
    found = bundles.read(work.bundle(SMALL))
    heard, figures = [], {"release": trt.__version__}
    plan = build(trt, found, target, heard)
    figures |= {"built": plan is not None, "said": heard[-1] if heard else ""}
    if plan is None:
        return figures
    figures["mask"] = plan[MASK_AT]
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    validity, reasons = runtime.get_engine_validity(plan)
    known = trt.EngineInvalidityDiagnostics.__members__.items()
    figures["validity"] = validity.name
    figures["diagnostics"] = [name for name, flag in known if int(reasons) & int(flag)]
    engine = runtime.deserialize_cuda_engine(plan)
    figures["deserialised"] = engine is not None
    if engine is not None:
        try:
            figures |= run(found, work, plan)
        except EdgeResNeXtError as error:
            figures |= {"ran": False, "said": error.what}
    return figures


def build(trt, found, target, heard):
    """The FP16 file of a bundle as a plan; None where the builder refuses."""

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)

        def log(self, severity, msg):
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                heard.append(msg)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(found.file("onnx/fp16.onnx"))), heard
    config = builder.create_builder_config()
    image = network.get_input(0)
    shape, profile = tuple(image.shape)[1:], builder.create_optimization_profile()
    profile.set_shape(image.name, (1, *shape), (1, *shape), (8, *shape))
    config.add_optimization_profile(profile)
    if target != "default":
        config.num_compute_capabilities = 1
        assert config.set_compute_capability(getattr(trt.ComputeCapability, target), 0), heard
    plan = builder.build_serialized_network(network, config)
    found_plan = None if plan is None else bytes(plan)
    del plan, config, parser, network, builder  # in this order
    return found_plan


def run(found, work, plan):
    """Run a plan as the package does; how far its logits are from PyTorch's."""
    from edgeresnext.backends._trt.session import EngineSession

    file = work.folder / "probe.engine"
    file.write_bytes(plan)
    session = EngineSession("tensorrt_rtx", file, found.manifest.model)
    golden = found.golden()
    fidelity = golden.compare(session.run(golden.images))
    session.run(images_for(found, 8))
    session.close()
    return {"ran": True, "snr_db": fidelity.snr_db, "max_error": fidelity.max_error}
