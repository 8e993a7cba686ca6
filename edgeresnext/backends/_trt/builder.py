"""Parse an ONNX file and build an engine, with any release from TensorRT 8.6 to 11 and TensorRT-RTX.

Runs in the child process (`worker`). What a release can do is found by asking for the attribute, never by comparing
versions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeresnext import files
from edgeresnext.backends._trt.anatomy import LIST_START, from_build_log
from edgeresnext.backends._trt.calibrator import make_calibrator
from edgeresnext.backends._trt.events import Built, Event, Failed, Logged, Progressed
from edgeresnext.backends._trt.inspector import inspected_layers
from edgeresnext.backends._trt.module import load_module, make_logger
from edgeresnext.backends._trt.progress import make_monitor
from edgeresnext.backends.request import EngineRequest
from edgeresnext.bundle.float_weights import with_float_weights
from edgeresnext.errors import BackendError, EdgeResNeXtError, NotInstalledError, RequestError
from edgeresnext.spec import EngineLayer

_MAX_ERRORS = 3
_NO_DRIVER = ("cudaError 35", "CUDA driver version is insufficient", "CUDA initialization failure with error: 35")
"""What TensorRT-RTX complains of on a machine without a driver while it builds for another: not worth a word there."""


def run(request: EngineRequest, send: Callable[[Event], None]) -> None:
    """Build, and send what happens: each warning once, and last `Built` or `Failed`."""
    build = None
    try:
        build = _Build(request, send)
        last: Event = build.run()
    except EdgeResNeXtError as error:
        last = Failed(type(error).__name__, error.what, error.hint, error.values)
    for text, count in (build.warnings if build else {}).items():
        send(Logged(text if count == 1 else f"{text} ({count} times)"))
    send(last)


class _Build:
    """One build: TensorRT's objects, and what its logger heard."""

    def __init__(self, request: EngineRequest, send: Callable[[Event], None]) -> None:
        self.request = request
        self.send = send
        self.trt: Any = load_module(request.backend)
        self.printed_layers = ""
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
        request, trt = self.request, self.trt
        onnx, typed = self._choose()
        builder = self._builder()
        flags = trt.NetworkDefinitionCreationFlag
        network = builder.create_network(1 << int(flags.STRONGLY_TYPED if typed else flags.EXPLICIT_BATCH))
        self._parse(network, onnx)
        config = builder.create_builder_config()
        profile = self._set_profile(config, builder, network)
        self._configure(config)
        if not typed:
            self._set_precision_flags(config)
        if onnx == request.plain_onnx:
            assert request.calibration_cache is not None
            self.calibrator = make_calibrator(trt, request.calibration_cache, request.options.batch[1])
            config.int8_calibrator = self.calibrator
            # NvInfer.h: it "must be set if int8 calibration is used" where the batch is open, cache or not.
            config.set_calibration_profile(profile)
        if request.options.dla_core is not None:  # after the precisions: a DLA has no FP32
            self._set_dla(config, network)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise self._unbuilt()
        with request.file.open("wb") as file:
            file.write(plan)
        self._save_timing_cache(config)
        # The engine is loaded once more to be described, and a Jetson has memory for one of these alone.
        del plan, config, profile, network, builder
        layers = self._layers()
        return Built(onnx=str(onnx), release=str(trt.__version__), layers=layers, notes=tuple(self.notes))

    def _choose(self) -> tuple[Path, bool]:
        """Return the file to compile, and whether its types bind.

        Where a release has no typed networks (8.6), or takes no INT8 weights (9), flags allow the types. A DLA takes
        INT8 from a plain graph with thresholds beside it, weakly typed, until calibrators are gone (11), from when on
        it reads Q/DQ.
        """
        request, trt = self.request, self.trt
        if request.plain_onnx is not None and hasattr(trt, "IInt8EntropyCalibrator2"):
            return request.plain_onnx, False
        weak = request.options.dla_core is not None and hasattr(trt.BuilderFlag, "FP16")
        if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") and self._takes_int8_weights and not weak:
            return request.onnx, True
        return request.weak_onnx or request.onnx, False

    @property
    def _takes_int8_weights(self) -> bool:
        """Whether a DequantizeLinear may read a constant: from TensorRT 10 on, which brought INT4 weights that way."""
        return hasattr(self.trt.DataType, "INT4")

    def _listen(self, severity: str, text: str) -> None:
        """Sort what the builder says: the layer list, what failed, what is worth telling."""
        if text.startswith(LIST_START) and self.request.backend == "tensorrt_rtx":
            self.printed_layers = text  # TensorRT prints another format, and has an inspector
        if self.request.compute_capabilities and any(noise in text for noise in _NO_DRIVER):
            return
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(text.strip())
        elif severity == "WARNING":
            self.warnings[text.strip()] += 1

    def _last_words(self) -> str:
        """Return the errors that the builder logged, the last ones, each once."""
        return "; ".join(list(dict.fromkeys(self.errors))[-_MAX_ERRORS:]) or "it gave no reason"

    def _unbuilt(self) -> BackendError:
        """Return the error for a build that gave no plan, with what to try, by what the builder said."""
        words = self._last_words()
        values: tuple[str, ...]
        if "workspace" in words.lower() and self.request.options.workspace_bytes is not None:
            hint, values = "Give it more workspace, or leave that to TensorRT.", ("workspace_bytes",)
        elif "memory" in words.lower():
            hint = "Give it less workspace, a smaller batch, or close other programs on the GPU."
            values = ("workspace_bytes", "batch")
        elif self.request.backend == "tensorrt_rtx" and not self.request.compute_capabilities:
            hint = "This release may not know the GPU of this machine: build with TensorRT, or in another precision."
            values = ("backend", "precisions")
        else:
            hint = "Try another precision; if the file builds with `trtexec --onnx=...`, report this as a bug."
            values = ("precisions",)
        return BackendError(f"{self.request.backend} could not build the engine: {words}", hint, values=values)

    def _builder(self) -> Any:
        try:
            builder = self.trt.Builder(self.logger)
        except TypeError as error:  # pybind11: the factory returned null
            raise NotInstalledError(
                f"{self.request.backend} cannot start its builder: {self._last_words()} ({error})",
                "It needs an NVIDIA GPU with a driver: edgeresnext doctor shows what is missing.",
            ) from None
        if self.request.options.dla_core is not None and self.request.options.dla_core >= builder.num_DLA_cores:
            raise RequestError(
                f"DLA core {self.request.options.dla_core} does not exist: TensorRT {self.trt.__version__} finds "
                f"{builder.num_DLA_cores} on this device",
                "AGX Orin and Orin NX have 2, Orin Nano and Thor none; TensorRT 10.8 to 11.4.0 (JetPack 7.0 to 7.2) "
                "drives none at all. Without a core the GPU is used.",
                values=("dla_core",),
            )
        return builder

    def _parse(self, network: Any, onnx: Path) -> None:
        parser = self.trt.OnnxParser(network, self.logger)
        adjust = getattr(getattr(self.trt, "OnnxParserFlag", None), "ADJUST_FOR_DLA", None)
        if self.request.options.dla_core is not None and adjust is not None:
            parser.set_flag(adjust)
        floating = None if self._takes_int8_weights else with_float_weights(onnx.read_bytes())
        if not (parser.parse_from_file(str(onnx)) if floating is None else parser.parse(floating)):
            errors = [parser.get_error(i).desc() for i in range(parser.num_errors)][:_MAX_ERRORS]
            raise BackendError(
                f"{self.request.backend} {self.trt.__version__} cannot read '{onnx}': "
                f"{'; '.join(errors) or self._last_words()}",
                "It may be too old for this file's opset; fp32, fp16 and int8 files are opset 13.",
            )

    def _configure(self, config: Any) -> None:
        """Set everything but the batch profile and precision."""
        trt, options = self.trt, self.request.options
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if hasattr(config, "progress_monitor"):
            self.monitor = make_monitor(trt, lambda percent: self.send(Progressed(percent)))
            config.progress_monitor = self.monitor
        if self.request.precision == "fp32":
            # TensorFloat-32 keeps ten bits of mantissa: another precision than the one asked for.
            config.clear_flag(trt.BuilderFlag.TF32)
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        self._set_compatibility(config)
        if options.timing_cache:
            path = Path(options.timing_cache)
            cache = self.timing_cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
            if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
                raise RequestError(
                    f"{self.request.backend} {trt.__version__} refuses the timing cache '{path}': {self._last_words()}",
                    "It is of another release or GPU: give another file, or delete it.",
                    values=("timing_cache",),
                )
        self._set_compute_capabilities(config)
        if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
            # TensorRT 8: else two contexts of a dynamic engine exclude each other. Later it is always on (NvInfer.h).
            config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, enable=True)

    def _set_compatibility(self, config: Any) -> None:
        """Let the engine run on other GPUs than this one, where that was asked for."""
        levels, options = self.trt.HardwareCompatibilityLevel, self.request.options
        if options.hardware_compatible:
            config.hardware_compatibility_level = levels.AMPERE_PLUS
        elif options.capability_compatible:
            if not hasattr(levels, "SAME_COMPUTE_CAPABILITY"):
                raise RequestError(
                    f"TensorRT {self.trt.__version__} builds no engines for all GPUs of a compute capability",
                    "TensorRT 10.9 and later do; with this one, build on each kind of GPU.",
                    values=("capability_compatible",),
                )
            config.hardware_compatibility_level = levels.SAME_COMPUTE_CAPABILITY

    def _set_profile(self, config: Any, builder: Any, network: Any) -> Any:
        profile = builder.create_optimization_profile()
        image = network.get_input(0)
        shape = tuple(image.shape)[1:]
        smallest, usual, largest = self.request.options.batch
        profile.set_shape(image.name, (smallest, *shape), (usual, *shape), (largest, *shape))
        if config.add_optimization_profile(profile) < 0:
            raise RequestError(
                f"{self.request.backend} refuses the batch profile {smallest}:{usual}:{largest}: {self._last_words()}",
                "Give a smallest, usual and largest batch that it takes.",
                values=("batch",),
            )
        return profile

    def _set_compute_capabilities(self, config: Any) -> None:
        """Name the GPUs that an engine of TensorRT-RTX is for, be it this one: unnamed, Turing and others are left out.

        (NVIDIA's support matrix; its page on CPU-only builds has another list.)
        """
        if not hasattr(config, "num_compute_capabilities"):
            return
        capabilities = self.request.compute_capabilities
        names = [f"SM{capability.replace('.', '')}" for capability in capabilities] or ["CURRENT"]
        config.num_compute_capabilities = len(names)
        for index, (name, capability) in enumerate(zip(names, capabilities or ("of this GPU",), strict=True)):
            known = getattr(self.trt.ComputeCapability, name, None)
            if known is None or not config.set_compute_capability(known, index):
                raise RequestError(
                    f"{self.request.backend} {self.trt.__version__} cannot build for compute capability {capability}",
                    "Use another release, or another target.",
                    values=("targets",),
                )

    def _set_dla(self, config: Any, network: Any) -> None:
        """Send every layer to the accelerator that it can run on, the rest to the GPU, and note which these are."""
        config.default_device_type = self.trt.DeviceType.DLA
        config.DLA_core = self.request.options.dla_core
        config.set_flag(self.trt.BuilderFlag.GPU_FALLBACK)
        if hasattr(self.trt.BuilderFlag, "PREFER_PRECISION_CONSTRAINTS"):  # weakly typed, as trtexec sets it there
            config.set_flag(self.trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
        layers = (network.get_layer(i) for i in range(network.num_layers))
        fallen = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
        self.notes.append(f"DLA {self.request.options.dla_core}: on the GPU instead: {', '.join(fallen) or 'nothing'}")

    def _set_precision_flags(self, config: Any) -> None:
        """Allow the types of the file: a weakly typed network uses none but FP32 unasked."""
        flags = self.trt.BuilderFlag
        if self.request.precision == "fp16" or (self.request.precision == "int8" and self._rest_is_half()):
            config.set_flag(flags.FP16)
        if self.request.precision == "int8":
            config.set_flag(flags.INT8)

    def _rest_is_half(self) -> bool:
        """Whether what is not INT8 may be FP16: where the bundle has such a file, and on a DLA, which has no FP32."""
        return self.request.options.dla_core is not None or self.request.onnx.name.startswith("int8-fp16")

    def _save_timing_cache(self, config: Any) -> None:
        """Write the timing cache, whole: other builds may read it meanwhile."""
        if not self.request.options.timing_cache:
            return
        cache = config.get_timing_cache()
        if cache is None:
            self.notes.append("timing cache: not used by this build")
            return
        try:
            files.write(Path(self.request.options.timing_cache), bytes(cache.serialize()))
        except (OSError, TypeError) as error:  # the engine is good all the same
            self.notes.append(f"timing cache: not kept ({error})")

    def _layers(self) -> tuple[EngineLayer, ...]:
        """Return the layer list: printed by TensorRT-RTX, or asked of the engine itself."""
        smallest, _, largest = self.request.options.batch
        if self.printed_layers:  # with -1 for a batch that is free
            images = smallest if smallest == largest else 1
            return from_build_log(self.printed_layers, self.request.layer_macs, images)
        if self.request.backend == "tensorrt_rtx":  # its runtime would compile the engine to tell
            self.notes.append("layers: this release does not print them")
            return ()
        return inspected_layers(self.trt, self.logger, self.request, self._last_words)
