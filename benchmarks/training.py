"""What training reaches, survives and takes: python benchmarks/training.py [--only SECTION].

A quarter of an hour on two quiet cores. What quantisation in training wins back is in `int8_training.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from common import run_sections, some_images

import edgeresnext
from edgeresnext.cli.demo import weights as digits_weights
from edgeresnext.data import digits
from edgeresnext.model.catalogue import PREPROCESS, specify
from edgeresnext.model.resnext import ResNeXt
from edgeresnext.spec import Preprocess, TrainingRecipe

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "calibration"))
from shapes import drawing as shapes

if TYPE_CHECKING:
    from collections.abc import Callable

NETWORK = "resnext20_8x4d"
KILLS = 10
PRETRAINED_SHAPES = ("arrow", "circle", "crescent", "cross", "ellipse")
FINE_TUNED_SHAPES = ("hexagon", "pentagon", "square", "star", "triangle")
FINE_TUNED_A_CLASS = 300
SEEDS = range(3)
SHAPES = Preprocess(resize_px=32, crop_px=32)
STEPS = 6


def reached(root: Path) -> dict[str, Any]:
    """Train on the digits from random weights with the standard recipe; return top-1 and how long it took."""
    images = digits.prepare(root / "digits")
    start = time.perf_counter()
    run = edgeresnext.train(
        images["train"], model=NETWORK, validation=images["validation"], output=root / "run",
        preprocess=PREPROCESS["digits"],
    )  # fmt: skip
    return {
        "recipe": "standard", "epochs": len(run.history), "best_epoch": run.best.epoch, "top1": 100 * (run.best.top1 or 0),
        "seconds": time.perf_counter() - start,
    }  # fmt: skip


def killed(root: Path) -> dict[str, Any]:
    """Kill a training ten times with SIGKILL at random moments, resume it each time, and compare its weights."""
    images = digits.prepare(root / "digits")
    (root / "often.toml").write_text(
        "epochs = 18\ncheckpoint_minutes = 0.02\nema = 0.95\nmixup = 0.1\n", encoding="utf-8"
    )
    command = [
        sys.executable,
        "-m",
        "edgeresnext",
        "train",
        str(images["train"]),
        "--validation",
        str(images["validation"]),
    ]
    begin = ["--model", NETWORK, "--preprocess", "digits", "--recipe", str(root / "often.toml")]
    start = time.perf_counter()
    subprocess.run([*command, *begin, "--output", str(root / "whole")], check=True, capture_output=True)
    whole_s = time.perf_counter() - start
    generator = np.random.default_rng(0)
    moments: list[tuple[int, int]] = []
    path = root / "killed"
    while True:
        resumed = (path / "run.json").exists()
        rest = ["--resume", str(path)] if resumed else [*begin, "--output", str(path)]
        process = subprocess.Popen([*command, *rest], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            # Up to a tenth of the whole after what a start takes.
            limit = None if len(moments) == KILLS else 5 + generator.uniform(0, 0.1) * whole_s
            _, error = process.communicate(timeout=limit)
            if process.returncode:
                raise SystemExit(error.decode())
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            if (path / "state.safetensors").exists():
                moments.append(_place(path / "state.safetensors"))
    names = ("best.safetensors",)
    same = all((root / "whole" / name).read_bytes() == (path / name).read_bytes() for name in names)
    losses = [
        [json.loads(line)["loss"] for line in (one / "metrics.jsonl").read_text().splitlines()]
        for one in (root / "whole", path)
    ]
    return {
        "kills": len(moments), "checkpoints": moments, "same_weights": same, "same_losses": losses[0] == losses[1],
        "threads": torch.get_num_threads(), "seconds_of_one_run": whole_s,
    }  # fmt: skip


def _place(state: Path) -> tuple[int, int]:
    """Return epoch and step of a checkpoint."""
    from safetensors import safe_open

    with safe_open(state, "pt") as file:
        about = json.loads(file.metadata()["state"])
    return about["epoch"], about["step"]


def fine_tuned(root: Path) -> list[dict[str, Any]]:
    """Learn ten classes from 300 images each, in ten epochs: from nothing, from the digits, and from ten other classes.

    What is learned are five drawn shapes, plain and striped; what was learned before are five others. Everything as the
    recipe decides it: the rate from weights is a fifth of that from nothing.
    """
    drawn = shapes.prepare(root / "shapes")
    before, now = (
        [f"{fill}-{name}" for fill in ("plain", "striped") for name in names]
        for names in (PRETRAINED_SHAPES, FINE_TUNED_SHAPES)
    )
    recipe = TrainingRecipe(epochs=10, precision="bf16")
    pretrained = edgeresnext.train(
        some_images(drawn["train"], root / "before", classes=before),
        validation=some_images(drawn["validation"], root / "before-test", classes=before),
        model=NETWORK, output=root / "pretrained", preprocess=SHAPES, recipe=TrainingRecipe(epochs=24, precision="bf16"),
    )  # fmt: skip
    print(f"pretrained: {pretrained.best.top1:.4f}", flush=True)
    few = some_images(drawn["train"], root / "now", FINE_TUNED_A_CLASS, classes=now)
    test = some_images(drawn["validation"], root / "now-test", classes=now)
    found = []
    with digits_weights() as path:
        starts: dict[str, Any] = {
            "random weights": {"model": NETWORK},
            "trained on the digits": {"weights": path, "new_head": True},
            "trained on ten other classes": {"weights": pretrained.weights, "new_head": True},
        }
        for name, start in starts.items():
            runs = [
                edgeresnext.train(
                    few, validation=test, output=root / f"{name}-{seed}", preprocess=SHAPES,
                    recipe=msgspec.structs.replace(recipe, seed=seed), **start,
                )
                for seed in SEEDS
            ]  # fmt: skip
            found.append({
                "start": name, "top1": [100 * (run.history[-1].top1 or 0) for run in runs],
                "seconds": [sum(one.seconds for one in run.history) for run in runs], "epochs": recipe.epochs,
                "images": FINE_TUNED_A_CLASS * len(now), "learning_rate": runs[0].run.recipe.learning_rate,
            })  # fmt: skip
            print(found[-1], flush=True)
    return found


_TOGETHER = """
import sys, edgeresnext
from edgeresnext.model.catalogue import PREPROCESS
from edgeresnext.cli.demo import weights
with weights() as path:
    edgeresnext.train(sys.argv[1], validation=sys.argv[2], output=sys.argv[3], weights=path,
                      preprocess=PREPROCESS["digits"], recipe=edgeresnext.TrainingRecipe(epochs=4))
"""


def together(root: Path) -> dict[str, Any]:
    """Fine-tune in one process, and in two that talk by gloo; return how far their loss curves are from each other.

    From random weights they part: in float32 the gradients of the first step differ by 5 %, in float64 by 1e-12.
    """
    images = digits.prepare(root / "digits")
    script = root / "script.py"
    script.write_text(_TOGETHER, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    curves, seconds = [], []
    for name, start in (("one", [sys.executable]), ("two", two)):
        command = [*start, str(script), str(images["train"]), str(images["validation"]), str(root / name)]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        lines = [json.loads(line) for line in (root / name / "metrics.jsonl").read_text().splitlines()]
        curves.append([line["loss"] for line in lines])
        seconds.append(sum(line["seconds"] for line in lines))
    return {
        "epochs": len(curves[0]), "largest_difference": float(np.abs(np.subtract(*curves)).max()), "losses": curves,
        "seconds": seconds,
    }  # fmt: skip


def speed(_root: Path) -> list[dict[str, Any]]:
    """Take steps in float32 and bfloat16, with channels last and first, in turn; return images a second of each."""
    found = []
    for name, batch in ((NETWORK, 64), ("resnext50_32x4d", 8)):
        spec = specify(name)
        images = torch.randn(batch, 3, *spec.preprocess.size)
        targets = torch.zeros(batch, dtype=torch.long)
        ways = [(kind, last) for kind in ("fp32", "bf16") for last in (False, True)]
        networks = {}
        for way in ways:
            network = ResNeXt(spec).train()
            networks[way] = network.to(memory_format=torch.channels_last) if way[1] else network
        times: dict[tuple[str, bool], list[float]] = {way: [] for way in ways}
        for step in range(STEPS + 1):
            for way in ways:
                given = images.contiguous(memory_format=torch.channels_last) if way[1] else images
                start = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=way[0] == "bf16"):
                    loss = torch.nn.functional.cross_entropy(networks[way](given).float(), targets)
                loss.backward()
                if step:
                    times[way].append(time.perf_counter() - start)
        base = float(np.median(times["fp32", False]))
        found += [
            {"network": name, "batch": batch, "precision": kind, "channels_last": last,
             "images_per_s": batch / float(np.median(times[kind, last])), "ratio": base / float(np.median(times[kind, last]))}
            for kind, last in ways
        ]  # fmt: skip
    return found


SECTIONS: dict[str, Callable[[Path], Any]] = {
    "reached": reached, "killed": killed, "fine_tuned": fine_tuned, "together": together, "speed": speed,
}  # fmt: skip


if __name__ == "__main__":
    run_sections("training", __doc__, SECTIONS, "torch")
