"""Stands in for pycuda."""

import os

if os.environ.get("STANDIN_CUDA", "pycuda") != "pycuda":
    raise ModuleNotFoundError("No module named 'pycuda'", name="pycuda")
