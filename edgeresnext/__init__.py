"""Export, quantise, run and benchmark ResNeXt image classifiers on edge devices.

`build` makes a bundle of a checkpoint, `build_engines` adds engines to it on the device, `load` runs it, `verify`
proves it, `bench` compares it with PyTorch, `export` hands it over to Triton or DeepStream.
Importing this package loads no framework; each function imports what it needs.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
"""Not from `typing`: until that is imported, Ctrl-C would end the command line with a traceback."""

if TYPE_CHECKING:
    from edgeresnext.bundle import Bundle as Bundle
    from edgeresnext.comparison.compare import compare as compare
    from edgeresnext.errors import EdgeResNeXtError as EdgeResNeXtError
    from edgeresnext.interop.export import export as export
    from edgeresnext.measure.bench import bench as bench
    from edgeresnext.measure.options import BenchOptions as BenchOptions
    from edgeresnext.measure.results import Report as Report
    from edgeresnext.measure.sensitivity import sensitivity as sensitivity
    from edgeresnext.pipeline.build import build as build
    from edgeresnext.pipeline.on_device import build_engines as build_engines
    from edgeresnext.pipeline.recipe import read_recipe as read_recipe
    from edgeresnext.report.files import read_report as read_report
    from edgeresnext.report.files import save_report as save_report
    from edgeresnext.runtime.classifier import Classifier as Classifier
    from edgeresnext.runtime.classifier import Prediction as Prediction
    from edgeresnext.runtime.load import load as load
    from edgeresnext.runtime.sign import sign as sign
    from edgeresnext.runtime.verify import verify as verify
    from edgeresnext.spec import CheckpointOptions as CheckpointOptions
    from edgeresnext.spec import EngineOptions as EngineOptions
    from edgeresnext.spec import Gate as Gate
    from edgeresnext.spec import Preprocess as Preprocess
    from edgeresnext.spec import Recipe as Recipe
    from edgeresnext.spec import TrainingRecipe as TrainingRecipe
    from edgeresnext.training.train import Training as Training
    from edgeresnext.training.train import train as train

__version__ = "0.1.0"

_HOME = {
    "BenchOptions": "edgeresnext.measure.options",
    "Bundle": "edgeresnext.bundle",
    "CheckpointOptions": "edgeresnext.spec",
    "Classifier": "edgeresnext.runtime.classifier",
    "EdgeResNeXtError": "edgeresnext.errors",
    "EngineOptions": "edgeresnext.spec",
    "Gate": "edgeresnext.spec",
    "Prediction": "edgeresnext.runtime.classifier",
    "Preprocess": "edgeresnext.spec",
    "Recipe": "edgeresnext.spec",
    "Report": "edgeresnext.measure.results",
    "Training": "edgeresnext.training.train",
    "TrainingRecipe": "edgeresnext.spec",
    "bench": "edgeresnext.measure.bench",
    "build": "edgeresnext.pipeline.build",
    "build_engines": "edgeresnext.pipeline.on_device",
    "compare": "edgeresnext.comparison.compare",
    "export": "edgeresnext.interop.export",
    "load": "edgeresnext.runtime.load",
    "read_recipe": "edgeresnext.pipeline.recipe",
    "read_report": "edgeresnext.report.files",
    "save_report": "edgeresnext.report.files",
    "sensitivity": "edgeresnext.measure.sensitivity",
    "sign": "edgeresnext.runtime.sign",
    "train": "edgeresnext.training.train",
    "verify": "edgeresnext.runtime.verify",
}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604 - the keys are strings


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name in _HOME:
        try:
            value = getattr(importlib.import_module(_HOME[name]), name)
        except ModuleNotFoundError as error:
            from edgeresnext.errors import NotInstalledError
            from edgeresnext.extras import how_to_install

            raise NotInstalledError(
                f"edgeresnext.{name} needs {error.name}, which is not installed", how_to_install("build")
            ) from None
        globals()[name] = value
        return value
    message = f"module 'edgeresnext' has no attribute '{name}'"
    raise AttributeError(message)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
