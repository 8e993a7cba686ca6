"""Stands in for cuda-python."""

import os

if os.environ.get("STANDIN_CUDA", "cuda-python") != "cuda-python":
    raise ModuleNotFoundError("No module named 'cuda'", name="cuda")
