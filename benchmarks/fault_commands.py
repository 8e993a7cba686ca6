"""Every command that writes, small: what is there before it, and what must be whole after whatever happens to it."""

from __future__ import annotations

import gc
import itertools
import os
import runpy
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgeresnext.errors import EdgeResNeXtError

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "unit"), str(ROOT / "tests" / "backends")]

Step = Callable[[], None]
WEIGHTS = bytes(range(256)) * 9000
_SKIPPED = ("pytorch", "compile", "accuracy", "scopes", "energy", "layers", "memory")
_QUICK = ["--rounds", "1", *itertools.chain(*(["--skip", one] for one in _SKIPPED))]


@dataclass(frozen=True)
class Case:
    """A command that is killed, or whose calls fail.

    Args:
        name: What it is called in the results.
        run: The command, in its folder.
        watched: What it writes, below its folder: "bundle", "tree" or "file" by name.
        before: What is run first.
        exchange: Whether the file system can exchange two folders.
        every: Which of its calls are tried; many of them write one image each.
    """

    name: str
    run: Step
    watched: dict[str, str]
    before: tuple[Step, ...] = ()
    exchange: bool = True
    every: int = 1


def command(*arguments: str) -> Step:
    """Return a run of the command line."""

    def run() -> None:
        from edgeresnext.cli import main

        main(arguments)

    return run


def script(name: str, *arguments: str) -> Step:
    """Return a run of a script of calibration/, on few digits."""

    def run() -> None:
        few_digits()
        sys.argv = [name, *arguments]
        runpy.run_path(str(ROOT / "calibration" / name), run_name="__main__")

    return run


def few_digits() -> None:
    """Let there be thirty digits in this process, and let latencies be taken in no time."""
    import sklearn.datasets

    from edgeresnext.cli import demo
    from edgeresnext.data import digits
    from edgeresnext.measure.options import BenchOptions

    found = sklearn.datasets.load_digits()
    found.images, found.target = found.images[:30], found.target[:30]
    sklearn.datasets.load_digits = lambda: found
    digits.SPLITS = {"train": 2, "calibration": 14, "validation": 14}
    demo._BENCH = BenchOptions(rounds=1, skip=_SKIPPED)  # noqa: SLF001


def demo() -> None:
    """Run the demo on few digits."""
    few_digits()
    command("demo", "-o", "d")()


def engines() -> None:
    """Add an engine to the bundle, with a stand-in for TensorRT."""
    import pytest
    from standins.engines import install

    install(pytest.MonkeyPatch(), "tensorrt_rtx", "1.7")
    command("build", "a", "--target", "rtx40", "--precision", "fp32")()


def proof() -> None:
    """Load a bundle, whose proof is remembered."""
    command("predict", "a", "data/cat/0.png")()


def download() -> None:
    """Fetch weights by address, in two parts where a first one was left."""
    import hashlib

    from edgeresnext.machine.cache import cache_directory
    from edgeresnext.model import hub

    digest = hashlib.sha256(WEIGHTS).hexdigest()
    try:
        hub.fetch(f"http://127.0.0.1:{os.environ['PORT']}/w#sha256={digest}", cache_directory())
    except EdgeResNeXtError as error:
        sys.exit(f"error: {error}")


def half_download() -> None:
    """Leave the first half of the download, as an earlier one that was broken off."""
    download()
    place = next(Path("cache/downloads").iterdir())
    (place / "weights.partial").write_bytes(WEIGHTS[: len(WEIGHTS) // 2])
    (place / "weights").unlink()


def train() -> None:
    """Train, or go on with what was begun."""
    begun = Path("run", "run.json").exists()
    begin = ["--model", "resnext20_8x4d", "--epochs", "1", "--batch", "8", "--output", "run"]
    command("train", "data", "--validation", "data", *(["--resume", "run"] if begun else begin))()


def signed() -> None:
    """Sign the bundle."""
    command("sign", "a", "--key", "key.pem")()


def other_key() -> None:
    """Make keys."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate().private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    Path("key.pem").write_bytes(key)


def images() -> None:
    """Write ten images in two class folders."""
    generator = np.random.default_rng(0)
    for index in range(10):
        folder = Path("data", "cat" if index % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    shutil.copy("data/cat/1.png", "data/cat/0.png")


BUILD = command("build", "resnext20_8x4d", "--random-weights", "--precision", "fp32", "-o", "a")
INT8 = command(
    "build", "resnext20_8x4d", "--random-weights", "--samples", "16", "--method", "max", "--repair", "none", "-o", "b"
)
BENCH = command("bench", "a", "--precision", "fp32", "--backend", "onnxruntime", *_QUICK, "--save", "r.json")
REPORT = command("report", "r.json", *itertools.chain(*(["--save", f"s{one}"] for one in (".json", ".html", ".md", ".csv"))))  # fmt: skip
TRITON = command("export", "a", "--triton", "models")
DEEPSTREAM = command("export", "a", "--deepstream", "ds", "--precision", "fp32")
PLOT = command("sensitivity", "b", "--file", "int8", "--data", "data", "--samples", "1", "--plot", "p.svg")
SUBSET = script("folder/prepare.py", "data", "drawn", "--samples", "4")
DIGITS = script("digits/prepare.py", "digits")

_RUN = ("run/start.safetensors", "run/state.safetensors", "run/best.safetensors", "run/run.json", "run/recipe.toml")

BASE: tuple[Step, ...] = (images, other_key, BUILD)
CASES = (
    Case("build, a new bundle", BUILD, {"a": "bundle"}, before=(lambda: shutil.rmtree("a"),)),
    Case("build, a bundle replaced", BUILD, {"a": "bundle"}),
    Case("build, replaced without exchange", BUILD, {"a": "bundle"}, exchange=False),
    Case("build, INT8", INT8, {"b": "bundle"}, every=2),
    Case("build BUNDLE, an engine added", engines, {"a": "bundle"}),
    Case("build BUNDLE, without exchange", engines, {"a": "bundle"}, exchange=False),
    Case("train, resumed where it was begun", train, dict.fromkeys(_RUN, "file"), every=3),
    Case("bench --save, replaced", BENCH, {"r.json": "file"}, (BENCH,)),
    Case(
        "report --save, four formats",
        REPORT,
        {f"s{one}": "file" for one in (".json", ".html", ".md", ".csv")},
        (BENCH, REPORT, BENCH),
    ),
    Case("sensitivity --plot, replaced", PLOT, {"p.svg": "file"}, (INT8, PLOT)),
    Case("export --triton, replaced", TRITON, {"models/a": "tree", "a": "bundle"}, (TRITON,)),
    Case("export --deepstream, without exchange", DEEPSTREAM, {"ds": "tree"}, (DEEPSTREAM,), exchange=False),
    Case("sign, then sign by another", signed, {"a": "bundle", "a/manifest.sig": "file"}, (signed, other_key)),
    Case("calibration/folder/prepare.py", SUBSET, {"drawn": "tree"}),
    Case("calibration/digits/prepare.py", DIGITS, {"digits": "tree"}, every=5),
    Case("demo", demo, {"d/digits": "tree", "d/bundle": "bundle"}, every=9),
    Case("demo, once more", demo, {"d/digits": "tree", "d/bundle": "bundle"}, (demo,), every=6),
    Case("predict, its cache of proofs", proof, {"a": "bundle"}),
    Case("weights by address, their cache", download, {}),
    Case("weights by address, gone on with", download, {}, (half_download,)),
)


def preload() -> None:
    """Import once what every child would, and start no thread that a fork would lose."""
    import cryptography.hazmat.primitives.serialization
    import matplotlib.figure
    import onnx
    import safetensors.torch
    import sklearn.datasets
    import torch
    import torch._dynamo

    from edgeresnext.backends import unreported
    from edgeresnext.cli import demo, root
    from edgeresnext.interop import export
    from edgeresnext.pipeline import accept, build, gate, source
    from edgeresnext.report import html, sensitivity

    del onnx, safetensors, sklearn, matplotlib, cryptography, demo, root, build, gate, source, html, sensitivity, export
    torch.set_num_threads(1)
    unreported.onnxruntime()
    unreported.openvino()
    accept._TIMED_BUDGET_S = 0  # noqa: SLF001 - latencies mean nothing here
    gc.freeze()  # what is imported is not looked through again in every child


def serve() -> tuple[int, int]:
    """Serve the weights in a process of its own; return its port and its number."""
    from test_hub import Handler

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    child = os.fork()
    if child:
        server.server_close()
        return server.server_port, child
    server.handle_error = lambda *_: None  # who asked was killed
    server.contents, server.asked, server.most = {"/w": WEIGHTS}, [], 1 << 30
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    thread.join()
    os._exit(0)
