"""What a bundle survives, tried often: kills, exchanges under readers, threads, long runs. Counts losses, of which none may be.

python benchmarks/faults.py [--only SECTION]. About a quarter of an hour on two quiet cores.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from common import run_sections

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext.cli.demo import weights
from edgeresnext.data import digits

if TYPE_CHECKING:
    from collections.abc import Callable

LINES_EVERY = 4
TESTS = Path(__file__).parent.parent / "tests"
KILLS, EXCHANGES, THREADS, RUNS_A_THREAD, PREDICTIONS, CYCLES = 100, 200, 64, 16, 10_000, 100
PROCESSES, TURNS = 8, 8
BACKENDS = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "int8"),
    ("torch", "fp32"),
)
WARM_UP = 1_000


def prepared(root: Path) -> tuple[Path, dict[str, Path]]:
    """Return a bundle of the digits, and the folders that it was made from."""
    images = digits.prepare(root / "digits")
    with weights() as path:
        edgeresnext.build(path, calibration=images["calibration"], output=root / "bundle")
    return root / "bundle", images


def kills(root: Path) -> dict[str, Any]:
    """Kill rebuilds of a bundle, SIGKILL at random moments; the bundle must verify, and the next build clean up."""
    bundle, images = prepared(root)
    with weights() as path:
        shutil.copy(path, root / "w.safetensors")
    command = [
        sys.executable, "-m", "edgeresnext", "build", str(root / "w.safetensors"), "--precision", "fp32", "--calibration",
        str(images["calibration"]), "--output", str(bundle),
    ]  # fmt: skip
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    whole_s = time.perf_counter() - start
    generator = np.random.default_rng(0)
    lost, finished = 0, 0
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(generator.uniform(0, 1.1) * whole_s)
            finished += 1
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        try:
            read = bundles.read(bundle)
            for name in read.manifest.files:
                read.content(name)
        except edgeresnext.EdgeResNeXtError as error:
            lost += 1
            print(error)
    subprocess.run(command, check=True, capture_output=True)
    left = [path.name for path in root.iterdir() if "partial" in path.name or "previous" in path.name]
    return {"trials": KILLS, "finished_before": finished, "lost": lost, "left_behind": left}


def exchanges(root: Path) -> dict[str, Any]:
    """Replace a bundle under readers, each of which must see one bundle whole."""
    bundle, _ = prepared(root)
    manifest = bundles.read(bundle).manifest
    done, reads, refused = threading.Event(), [], []

    def whole(found: bundles.Bundle) -> int:
        return sum(len(found.content(name)) for name in found.manifest.files)

    def read_on() -> None:
        while not done.is_set():
            try:
                reads.append(bundles.reading(bundle, whole))
            except edgeresnext.EdgeResNeXtError as error:
                refused.append(str(error))

    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(read_on)
        for number in range(EXCHANGES):
            with bundles.replacing(bundle, print) as staging:
                shutil.copytree(bundle, staging, dirs_exist_ok=True)
                (staging / "labels.txt").write_text(
                    "".join(f"{number} {index}\n" for index in range(10)), encoding="utf-8"
                )
                import msgspec

                changed = msgspec.structs.replace(manifest, files=bundles.list_files(staging))
                bundles.write_manifest(staging, changed)
        done.set()
    return {"trials": EXCHANGES, "reads": len(reads), "lost": len(refused), "reasons": sorted(set(refused))[:3]}


def threads(root: Path) -> dict[str, Any]:
    """Run every artefact from 64 threads at once; each answer must be that of one thread, to the bit."""
    bundle, _ = prepared(root)
    images = bundles.read(bundle).golden().images
    differing = runs = 0
    for backend, precision in BACKENDS:
        with edgeresnext.load(bundle, backend=backend, precision=precision) as classifier:
            expected = [classifier.logits(image[None]) for image in images]

            def work(start: int, answer: Callable[..., Any] = classifier.logits, expected: list[Any] = expected) -> int:
                picked = [(start + step) % len(images) for step in range(RUNS_A_THREAD)]
                return sum(not np.array_equal(answer(images[i][None]), expected[i]) for i in picked)

            with ThreadPoolExecutor(THREADS) as pool:
                differing += sum(pool.map(work, range(THREADS)))
            runs += THREADS * RUNS_A_THREAD
    return {"threads": THREADS, "trials": runs, "lost": differing}


def answered(arguments: tuple[str, str, str, Any]) -> list[Any]:
    """Return the logits of images one by one, in a process of its own.

    Unprepared: PyTorch would choose its memory layout by time, and each rounds in another way.
    """
    path, backend, precision, images = arguments
    with edgeresnext.load(path, backend=backend, precision=precision, batches=()) as classifier:
        return [classifier.logits(image[None]) for image in images]


def processes(root: Path) -> dict[str, Any]:
    """Run every artefact in eight processes and in tasks of asyncio; each answer must be that of one, to the bit."""
    bundle, _ = prepared(root)
    images = bundles.read(bundle).golden().images
    differing = runs = tasks = 0
    for backend, precision in BACKENDS:
        job = (str(bundle), backend, precision, images)
        expected = answered(job)
        with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
            found = [one for answers in pool.map(answered, [job] * PROCESSES, chunksize=1) for one in answers]
        runs += len(found)
        with edgeresnext.load(bundle, backend=backend, precision=precision, batches=()) as classifier:

            async def ask(answer: Callable[..., Any] = classifier.logits) -> list[Any]:
                return await asyncio.gather(*(asyncio.to_thread(answer, image[None]) for image in [*images] * TURNS))

            found += asyncio.run(ask())
        tasks += TURNS * len(images)
        wanted = expected * (len(found) // len(expected))
        differing += sum(not np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))
    return {"processes": PROCESSES, "trials": runs, "tasks": tasks, "lost": differing}


def long_runs(root: Path) -> list[dict[str, Any]]:
    """Predict ten thousand times, and load and close a hundred; return how the process grew, in bytes and handles."""
    bundle, _ = prepared(root)
    images = bundles.read(bundle).golden().images
    here, found = psutil.Process(), []
    for backend, precision in BACKENDS:
        with edgeresnext.load(bundle, backend=backend, precision=precision) as classifier:
            for index in range(WARM_UP):
                classifier.logits(images[index % len(images)][None])
            gc.collect()
            before = here.memory_info().rss
            for index in range(PREDICTIONS):
                classifier.logits(images[index % len(images)][None])
            gc.collect()
            growth = here.memory_info().rss - before

        def cycle(backend: str = backend, precision: str = precision) -> None:
            edgeresnext.load(bundle, backend=backend, precision=precision).close()

        for _ in range(10):
            cycle()
        gc.collect()
        before, handles, running = here.memory_info().rss, here.num_fds(), here.num_threads()
        for _ in range(CYCLES):
            cycle()
        gc.collect()
        found.append({
            "artifact": f"{backend}-{precision}", "predictions": PREDICTIONS, "growth_bytes": growth, "cycles": CYCLES,
            "cycles_growth_bytes": here.memory_info().rss - before, "handles": here.num_fds() - handles,
            "threads": here.num_threads() - running,
        })  # fmt: skip
        print(found[-1], flush=True)
    return found


def command_lines(root: Path) -> dict[str, Any]:
    """Run every option of every command with values that it does not take, a quarter of those that the tests make."""
    sys.path[:0] = [str(TESTS), str(TESTS / "cli")]
    from test_command_lines import furnish, lines, refused

    built, _ = prepared(root)
    (root / "place").mkdir()
    furnish(root / "place", built)
    every = lines()[::LINES_EVERY]
    wrong = [one for start in range(0, len(every), 200) for one in refused(root / "place", every[start : start + 200])]
    return {"trials": len(every), "lost": len(wrong), "reasons": [" ".join(map(str, one))[:200] for one in wrong[:5]]}


SECTIONS: dict[str, Callable[[Path], Any]] = {
    "kills": kills, "exchanges": exchanges, "threads": threads, "processes": processes,
    "long_runs": long_runs, "command_lines": command_lines,
}  # fmt: skip


if __name__ == "__main__":
    run_sections("faults", __doc__, SECTIONS, "torch", "onnxruntime", "openvino")
