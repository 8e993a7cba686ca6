"""TensorRT-RTX: engines for GeForce and other RTX GPUs, built on any machine."""

from __future__ import annotations

from edgeresnext import extras
from edgeresnext.backends.engine import EngineBackend
from edgeresnext.errors import RequestError
from edgeresnext.spec import EngineOptions, Precision


class TensorRTRTX(EngineBackend):
    """Builds ahead of time for named compute capabilities, or for the GPU of this machine.

    The GPU's driver does the rest at first load.
    """

    name = "tensorrt_rtx"
    title = "TensorRT-RTX"
    distributions = ("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings")
    how_to_install = f"{extras.how_to_install('rtx')} (x86-64)"
    without_gpu = "Name the GPUs that it is for instead, such as rtx40."
    for_outdated_driver = f"update the driver, or {extras.how_to_install('rtx-cu12')} in a fresh environment"
    tunes = False  # the driver compiles for the GPU that it finds

    def check(self, options: EngineOptions, precision: Precision) -> None:
        """Refuse the options that are TensorRT's alone."""
        del precision
        given = {
            "dla_core": options.dla_core is not None,
            "version_compatible": options.version_compatible,
            "hardware_compatible": options.hardware_compatible,
            "capability_compatible": options.capability_compatible,
            "timing_cache": bool(options.timing_cache),
            "int8_grouped": options.int8_grouped == "off",
        }
        names = tuple(name for name, is_given in given.items() if is_given)
        if names:
            words = ", ".join(names).replace(
                "int8_grouped", "way to leave grouped convolutions out of INT8 (int8_grouped)"
            )
            raise RequestError(
                f"TensorRT-RTX has no {words}",
                "Leave it out, or build with TensorRT on the device.",
                values=names,
            )


BACKEND = TensorRTRTX()
