"""Parse an ONNX file and build an engine, with any release from TensorRT 8.6 to 11 and TensorRT-RTX.

Runs in the child process (`worker`). What a release can do is found by asking for the attribute, never by comparing
versions.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeresnext import files
from edgeresnext.backends._trt.anatomy import LIST_START
from edgeresnext.backends._trt.calibrator import make_calibrator
from edgeresnext.backends._trt.job import Built, Failed, Logged, Progressed
from edgeresnext.backends._trt.log import make_logger
from edgeresnext.backends._trt.module import allow, load_module
from edgeresnext.backends._trt.progress import make_monitor
from edgeresnext.errors import BackendError, EdgeResNeXtError, NotInstalledError, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeresnext.backends._trt.job import Event, Job

_MAX_ERRORS = 3
_NO_DRIVER = ("cudaError 35", "CUDA driver version is insufficient", "CUDA initialization failure with error: 35")
"""What TensorRT-RTX complains of on a machine without a driver while it builds for another: not worth a word there."""


def run(job: Job, send: Callable[[Event], None]) -> None:
    """Do a job, and send what happens: each warning once, and last `Built` or `Failed`."""
    build = None
    try:
        build = _Build(job, send)
        last: Event = build.run()
    except EdgeResNeXtError as error:
        last = Failed(type(error).__name__, error.what, error.hint)
    for text, count in (build.warnings if build else {}).items():
        send(Logged(text if count == 1 else f"{text} ({count} times)"))
    send(last)


class _Build:
    """One build: TensorRT's objects, and what its logger heard."""

    def __init__(self, job: Job, send: Callable[[Event], None]) -> None:
        self.job = job
        self.send = send
        self.trt: Any = load_module(job.module)
        self.layers = ""
        self.errors: list[str] = []
        self.warnings: Counter[str] = Counter()
        self.notes: list[str] = []
        # TensorRT keeps pointers to these, and Python must keep the objects.
        self.logger = make_logger(self.trt, self._listen)
        self.monitor: Any = None
        self.timing_cache: Any = None
        self.calibrator: Any = None

    def run(self) -> Built:
        """Build, write the engine, and return what it is."""
        job, trt = self.job, self.trt
        onnx, typed, implicit = self._choose()
        builder = self._builder()
        network = builder.create_network(self._network_flags(typed=typed))
        self._parse(network, onnx)
        config = builder.create_builder_config()
        self._configure(config, builder, network)
        if not typed:
            self._set_precision_flags(config)
        if implicit:
            self.calibrator = self._set_calibrator(config)
        if job.options.dla_core is not None:  # after the precisions: a DLA has no FP32
            self._set_dla(config, network)
        plan = builder.build_serialized_network(network, config)
        if self.calibrator is not None:
            self.calibrator.close()
            if self.calibrator.error is not None:
                raise self.calibrator.error
        if plan is None:
            raise BackendError(f"{job.module} could not build the engine: {self._last_words()}", self._hint())
        engine = Path(job.engine)
        with engine.open("wb") as file:
            file.write(plan)
        self._save_timing_cache(config)
        # The engine is loaded once more to be described, and a Jetson has memory for one of these alone.
        del plan, config, network, builder
        text, source = self._anatomy(engine)
        return Built(
            release=str(trt.__version__), onnx=onnx, anatomy=text, anatomy_from=source, notes=tuple(self.notes)
        )

    def _choose(self) -> tuple[str, bool, bool]:
        """Return the file to compile, whether its types bind, and whether thresholds stand beside it.

        Where a release has no typed networks (8.6), flags allow the types. A DLA takes INT8 from a plain graph with
        thresholds beside it, weakly typed, until calibrators are gone (11), from when on it reads Q/DQ.
        """
        job, trt = self.job, self.trt
        if job.plain_onnx:
            if hasattr(trt, "IInt8EntropyCalibrator2"):
                return job.plain_onnx, False, True
            if job.implicit_images:
                raise RequestError(
                    f"TensorRT {trt.__version__} does not calibrate by itself any more",
                    "Leave out --implicit-calibration: the bundle has thresholds.",
                )
        weak = job.options.dla_core is not None and hasattr(trt.BuilderFlag, "FP16")
        if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") and not weak:
            return job.onnx, True, False
        return job.weak_onnx, False, False

    def _listen(self, severity: str, text: str) -> None:
        """Sort what the builder says: the layer list, what failed, what is worth telling."""
        if text.startswith(LIST_START) and self.job.module == "tensorrt_rtx":
            self.layers = text  # TensorRT prints another format, and has an inspector
        if self.job.compute_capabilities and any(noise in text for noise in _NO_DRIVER):
            return
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(text.strip())
        elif severity == "WARNING":
            self.warnings[text.strip()] += 1

    def _last_words(self) -> str:
        """Return the errors that the builder logged, the last ones, each once."""
        return "; ".join(list(dict.fromkeys(self.errors))[-_MAX_ERRORS:]) or "it gave no reason"

    def _hint(self) -> str:
        """Return what to try, by what the builder said."""
        words = self._last_words().lower()
        if "workspace" in words and self.job.options.workspace_bytes is not None:
            return "Give more --workspace, or leave it out."
        if "memory" in words:
            return "Give less --workspace, a smaller --batch, or close other programs on the GPU."
        return "Try another --precision; if the file builds with `trtexec --onnx=...`, report this as a bug."

    def _builder(self) -> Any:  # noqa: ANN401 - TensorRT's modules carry no types
        try:
            builder = self.trt.Builder(self.logger)
        except TypeError as error:  # pybind11: the factory returned null
            raise NotInstalledError(
                f"{self.job.module} cannot start its builder: {self._last_words()} ({error})",
                "It needs an NVIDIA GPU with a driver: edgeresnext doctor shows what is missing.",
            ) from None
        if self.job.options.dla_core is not None and self.job.options.dla_core >= builder.num_DLA_cores:
            raise RequestError(
                f"DLA core {self.job.options.dla_core} does not exist: this device has {builder.num_DLA_cores}",
                "AGX Orin and Orin NX have 2, Orin Nano and Thor none; leave --dla out to use the GPU.",
            )
        return builder

    def _network_flags(self, *, typed: bool) -> int:
        """Return the flags that make the network take its types from the graph, where there is a choice."""
        flags = self.trt.NetworkDefinitionCreationFlag
        if typed:
            return 1 << int(flags.STRONGLY_TYPED)
        return 1 << int(flags.EXPLICIT_BATCH)

    def _parse(self, network: Any, onnx: str) -> None:  # noqa: ANN401 - as above
        parser = self.trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(onnx):
            errors = [parser.get_error(i).desc() for i in range(parser.num_errors)][:_MAX_ERRORS]
            raise BackendError(
                f"{self.job.module} {self.trt.__version__} cannot read '{onnx}': "
                f"{'; '.join(errors) or self._last_words()}",
                "It may be too old for this file's opset; fp32, fp16 and int8 files are opset 13.",
            )

    def _configure(self, config: Any, builder: Any, network: Any) -> None:  # noqa: ANN401 - as above
        """Set everything but precision."""
        trt, options = self.trt, self.job.options
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if hasattr(config, "progress_monitor"):
            self.monitor = make_monitor(trt, lambda percent: self.send(Progressed(percent)))
            config.progress_monitor = self.monitor
        if self.job.precision == "fp32":
            # TensorFloat-32 keeps ten bits of mantissa: another precision than the one asked for.
            config.clear_flag(trt.BuilderFlag.TF32)
        self._set_profile(config, builder, network)
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if options.timing_cache:
            path = Path(options.timing_cache)
            cache = self.timing_cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
            if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
                raise RequestError(
                    f"{self.job.module} {trt.__version__} refuses the timing cache '{path}': {self._last_words()}",
                    "It is of another release or GPU: give another file, or delete it.",
                )
        self._set_compute_capabilities(config)
        sharing = getattr(trt.PreviewFeature, "PROFILE_SHARING_0806", None)
        if sharing is not None:  # TensorRT 8: else two contexts of a dynamic engine exclude each other
            config.set_preview_feature(sharing, enable=True)

    def _set_profile(self, config: Any, builder: Any, network: Any) -> None:  # noqa: ANN401 - as above
        profile = builder.create_optimization_profile()
        image = network.get_input(0)
        shape = tuple(image.shape)[1:]
        smallest, usual, largest = self.job.options.batch
        profile.set_shape(image.name, (smallest, *shape), (usual, *shape), (largest, *shape))
        if config.add_optimization_profile(profile) < 0:
            raise RequestError(
                f"{self.job.module} refuses the batch profile {smallest}:{usual}:{largest}: {self._last_words()}",
                "Give --batch MIN:OPT:MAX.",
            )

    def _set_compute_capabilities(self, config: Any) -> None:  # noqa: ANN401 - as above
        capabilities = self.job.compute_capabilities
        if not capabilities:
            return
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            name = f"SM{capability.replace('.', '')}"
            known = getattr(self.trt.ComputeCapability, name, None)
            if known is None or not config.set_compute_capability(known, index):
                raise RequestError(
                    f"{self.job.module} {self.trt.__version__} cannot build for compute capability {capability}",
                    "Use another release, or another target.",
                )

    def _set_dla(self, config: Any, network: Any) -> None:  # noqa: ANN401 - as above
        """Send every layer to the accelerator that it can run on, the rest to the GPU, and note which these are."""
        config.default_device_type = self.trt.DeviceType.DLA
        config.DLA_core = self.job.options.dla_core
        config.set_flag(self.trt.BuilderFlag.GPU_FALLBACK)
        layers = (network.get_layer(i) for i in range(network.num_layers))
        fallen = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
        self.notes.append(f"DLA {self.job.options.dla_core}: on the GPU instead: {', '.join(fallen) or 'nothing'}")

    def _set_precision_flags(self, config: Any) -> None:  # noqa: ANN401 - as above
        """Allow the types of the file: a weakly typed network uses none but FP32 unasked."""
        flags = self.trt.BuilderFlag
        if self.job.precision == "fp16" or (self.job.precision == "int8" and self._rest_is_half()):
            config.set_flag(flags.FP16)
        if self.job.precision == "int8":
            config.set_flag(flags.INT8)

    def _rest_is_half(self) -> bool:
        """Whether what is not INT8 may be FP16: where the bundle has such a file, and on a DLA, which has no FP32."""
        return self.job.options.dla_core is not None or Path(self.job.onnx).name.startswith("int8-fp16")

    def _set_calibrator(self, config: Any) -> Any:  # noqa: ANN401 - as above
        images = np.load(self.job.implicit_images) if self.job.implicit_images else None
        cache = Path(self.job.calibration_cache or self.job.implicit_cache)
        calibrator = make_calibrator(self.trt, cache, images, self.job.options.batch[1])
        config.int8_calibrator = calibrator
        return calibrator

    def _save_timing_cache(self, config: Any) -> None:  # noqa: ANN401 - as above
        """Write the timing cache, whole: other builds may read it meanwhile."""
        if not self.job.options.timing_cache:
            return
        cache = config.get_timing_cache()
        if cache is None:
            self.notes.append("timing cache: not used by this build")
            return
        try:
            files.write(Path(self.job.options.timing_cache), bytes(cache.serialize()))
        except (OSError, TypeError) as error:  # the engine is good all the same
            self.notes.append(f"timing cache: not kept ({error})")

    def _anatomy(self, engine: Path) -> tuple[str, Literal["log", "inspector"]]:
        """Return the layer list: printed by TensorRT-RTX, or asked of the engine itself."""
        if self.layers:
            return self.layers, "log"
        if self.job.compute_capabilities:
            self.notes.append("layers: this release does not print them")
            return "", "log"
        runtime = self.trt.Runtime(self.logger)
        allow(runtime, self.job.options)
        loaded = runtime.deserialize_cuda_engine(engine.read_bytes())
        if loaded is None:
            raise BackendError(f"{self.job.module} cannot load the engine it has just built: {self._last_words()}")
        inspector = loaded.create_engine_inspector()
        context = loaded.create_execution_context()
        if context is not None:  # without shapes the inspector says "N/A due to dynamic shapes"
            name = loaded.get_tensor_name(0)
            shapes = loaded.get_tensor_profile_shape(name, 0)
            if not context.set_input_shape(name, tuple(shapes[0])):
                raise BackendError(f"{self.job.module} refuses its own smallest batch: {self._last_words()}")
            inspector.execution_context = context
        return inspector.get_engine_information(self.trt.LayerInformationFormat.JSON), "inspector"
