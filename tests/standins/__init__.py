"""Stand-ins for TensorRT and CUDA on a machine without a GPU; README.md says what they check."""

import ctypes
import functools
import importlib.util
import json
import os
import sys
import threading
from pathlib import Path

from edgeresnext.backends import cuda as cuda_libraries
from edgeresnext.machine import libcuda

from . import libcuda_standin
from .simulated_gpu import Fault, Gpu, gpu
from .tensorrt_standin import VERSIONS, make

__all__ = ["VERSIONS", "Fault", "Gpu", "gpu", "installed", "make"]

HERE = Path(__file__).parent
SITE = HERE / "site"
TENSORRT_MODULES = ("tensorrt", "tensorrt_rtx")
CUDA_MODULES = {
    "cuda-python": ("cuda", "cuda.bindings", "cuda.bindings.driver"),
    "pycuda": ("pycuda", "pycuda.driver"),
}


def installed(monkeypatch, module, release, cuda="libcuda", gpu_settings=None):
    """Install stand-ins for the length of a test, in this process and in its children.

    The simulated GPU is reset. What is not asked for cannot be imported: the other TensorRT, the other CUDA library.
    The driver's library is there in this process alone: children build, which needs none of our own CUDA calls.

    Args:
        monkeypatch: pytest's, which undoes all this.
        module: "tensorrt" or "tensorrt_rtx".
        release: one of VERSIONS, such as "10.3".
        cuda: "libcuda", "cuda-python", "pycuda", or None where CUDA does not start though there is a GPU.
        gpu_settings: what the simulated GPU should be, as in simulated_gpu.SETTINGS (and `failures`), here and in
            child processes.

    Returns:
        The stand-in for TensorRT.
    """
    paths = [str(SITE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("STANDIN_TENSORRT", release)
    monkeypatch.setenv("STANDIN_CUDA", cuda or "none")
    install_driver(monkeypatch)
    if cuda == "libcuda":
        monkeypatch.delenv(cuda_libraries.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(cuda_libraries.VARIABLE, cuda or "cuda-python")
    monkeypatch.setenv("STANDIN_GPU", json.dumps(gpu_settings or {}))
    gpu.reset()
    standin = make(module, release)
    for name in TENSORRT_MODULES:
        monkeypatch.setitem(sys.modules, name, standin if name == module else None)
    for library, names in CUDA_MODULES.items():
        for name in names:
            monkeypatch.setitem(sys.modules, name, load(name) if library == cuda else None)
    return standin


def install_driver(monkeypatch):
    """Let ctypes load the stand-in for libcuda, and nobody remember what was found before."""
    monkeypatch.setattr(ctypes, "CDLL", libcuda_standin.loader(ctypes.CDLL))
    monkeypatch.setattr(libcuda, "load", functools.cache(libcuda.load.__wrapped__))
    monkeypatch.setattr(libcuda, "_started", threading.Event())
    monkeypatch.setattr(cuda_libraries, "_connected", functools.cache(cuda_libraries._connected.__wrapped__))


def load(name):
    """A fresh module of the site folder; its parent package, loaded before, gets it as an attribute."""
    path = SITE.joinpath(*name.split("."))
    package = path / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, package if path.is_dir() else path.with_suffix(".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module
