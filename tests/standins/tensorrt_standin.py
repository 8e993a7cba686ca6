"""Modules that stand in for `tensorrt` and `tensorrt_rtx`, with the API of one release."""

import importlib.machinery
import json
import types
from pathlib import Path

from . import simulated_context  # noqa: F401 - it and what it imports register what the members do
from .surface import populate

API = Path(__file__).parent / "api"
VERSIONS = {
    ("tensorrt", "8.6"): "8.6.2.3",
    ("tensorrt", "10.3"): "10.3.0.30",
    ("tensorrt", "10.13"): "10.13.3.9",
    ("tensorrt", "10.16"): "10.16.0.1",
    ("tensorrt", "11.0"): "11.0.0.1",
    ("tensorrt", "11.4"): "11.4.1.1",
    ("tensorrt_rtx", "1.7"): "1.7.1.116",
}
SHORT_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
    "FP8": "fp8",
    "INT4": "int4",
    "FP4": "fp4",
    "E8M0": "e8m0",
}


def make(module_name, release):
    """A module with the API of a release.

    Besides the API it has `calls`, (class name, member, arguments) of each call and property assignment, and `logs`,
    (severity name, message) of each message. ImportError where there is no such release.
    """
    if (module_name, release) not in VERSIONS:
        raise ImportError(f"there is no stand-in for {module_name} {release}")
    module = types.ModuleType(module_name)
    module.__spec__ = importlib.machinery.ModuleSpec(module_name, None)
    module.__version__ = VERSIONS[module_name, release]
    module.calls, module.logs = [], []
    populate(module, json.loads((API / f"{module_name}-{release}.json").read_text()))
    for name, member in module.DataType.__members__.items():
        setattr(module, SHORT_NAMES[name], member)
    return module
