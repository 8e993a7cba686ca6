"""Stands in for `tensorrt` in a child process: the release is named by STANDIN_TENSORRT."""

import os
import sys

from standins.tensorrt_standin import make

if "STANDIN_TENSORRT" not in os.environ:
    raise ImportError("STANDIN_TENSORRT names no release")
sys.modules[__name__] = make("tensorrt", os.environ["STANDIN_TENSORRT"])
