"""Every command that writes, killed or failing at each call that changes the file system; nothing may be lost or left.

python benchmarks/kill_points.py [--only kills|errors] [--case NAME] [--check]. About half an hour on two quiet cores. Where something is
harmed nothing is saved, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import errno
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from common import RESULTS, load, save_section, scratch
from fault_commands import BASE, CASES, Case, preload, serve
from fault_points import Points, forked, snapshot

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext import files
from edgeresnext.directories import previous
from edgeresnext.machine.environment import package_versions
from edgeresnext.model.weight_files import parse_safetensors

ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES")
_EVERY = 12
"""Of the calls that fail with anything but a full disk every twelfth is tried."""
_SCRATCH = ("tmp", "home")
_HARM = ("lost", "left", "not repaired", "not said")
_PROOF = re.compile(r"[0-9a-f]{32}\.json")
_ENDS = 4


@dataclass
class World:
    """A case with the folders that it is tried in.

    Args:
        case: What is run.
        root: Where copies are made.
        variables: Environment of its children.
        found: What was seen.
    """

    case: Case
    root: Path
    variables: dict[str, str]
    found: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)

    def run(self, folder: Path, step: Any = None, points: Points | None = None) -> int:
        """Run the command, or another step, in a folder."""
        points = points or Points()
        points.exchange = self.case.exchange
        variables = self.variables | {"EDGERESNEXT_CACHE": str(folder / "cache")}
        return forked(step or self.case.run, folder, points, self.root / "said.txt", **variables)

    def told(self) -> str:
        """Return what the last run said."""
        return (self.root / "said.txt").read_text(encoding="utf-8", errors="replace")

    def prepare(self, base: Path) -> int:
        """Make what is there before, and what is there after a run that nothing happens to; return its calls."""
        self.before, self.after, self.work = (self.root / name for name in ("before", "after", "work"))
        shutil.copytree(base, self.before)
        for step in self.case.before:
            self._must(self.run(self.before, step))
        shutil.copytree(self.before, self.after)
        self._must(self.run(self.after))
        calls = (self.root / "said.calls").read_text(encoding="utf-8").splitlines()
        self.old = {name: snapshot(self.before / name) for name in self.case.watched}
        self.new = {name: snapshot(self.after / name) for name in self.case.watched}
        self.names = self.listed(self.after) | self.listed(self.before)
        return len(calls)

    def _must(self, code: int) -> None:
        if code:
            message = f"{self.case.name}: {code}\n{self.told()}"
            raise RuntimeError(message)

    def listed(self, folder: Path) -> set[str]:
        """Return every name below a folder; a proof is called after what it proves, which differs from build to build."""
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
        return {
            _PROOF.sub("PROOF", name)
            for name in names
            if name.partition("/")[0] not in _SCRATCH and not name.endswith("weights.partial")
        }

    def state(self, name: str) -> str:
        """Return whether what is watched is the old one, the new one, absent or torn."""
        path = self.work / name
        if not path.exists():
            aside = not self.case.exchange and snapshot(previous(path)) == self.old[name]
            return "aside" if aside and self.old[name] else "absent"
        found = snapshot(path)
        if found == self.old[name]:
            return "old"
        if self.case.watched[name] == "bundle":
            return "new" if _whole(path) else "torn"
        if path.suffix == ".safetensors":  # a state after one step has other tensors than the last
            return "new" if _read(path) else "torn"
        same = found.keys() == self.new[name].keys()
        return "new" if same and all(_like(found[one], self.new[name][one]) for one in found) else "torn"

    def look(self, what: str) -> None:
        """Count what is watched and not whole."""
        for name in self.case.watched:
            state = self.state(name)
            self.found[state] += 1
            if state == "torn" or (state == "absent" and (self.before / name).exists()):
                self.found["lost"] += 1
                self.said.append(f"{self.case.name}, {what}: {name} is {state}")

    def left(self, what: str) -> None:
        """Count what lies there and should not."""
        if rest := self.listed(self.work) - self.names:
            self.found["left"] += 1
            self.said.append(f"{self.case.name}, {what}: left {sorted(rest)[:3]}")

    def again(self, what: str) -> None:
        """Run the command once more, with nothing in its way: it must succeed, and clean up."""
        code = self.run(self.work)
        wrong = [name for name in self.case.watched if self.state(name) not in ("new", "old")]
        done = all(self.state(name) == "new" for name in self.case.watched)  # what is not replaced is refused, whole
        if wrong or (code and not done):
            self.found["not repaired"] += 1
            self.said.append(f"{self.case.name}, {what}: then {code}, {wrong}: {self.told()[-400:]}")
        self.left(f"{what}, then run again")

    def fresh(self) -> None:
        """Put everything back as it was before."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.before, self.work, symlinks=True)


def _whole(path: Path) -> bool:
    """Whether a bundle is what its manifest says, and nothing else."""
    try:
        bundle = bundles.read(path)
        for name in bundle.manifest.files:
            bundle.content(name)
    except edgeresnext.EdgeResNeXtError:
        return False
    beside = bundles.list_files(path).keys() - bundle.manifest.files.keys()
    return all(files.is_partial(Path(name).name) for name in beside)


def _read(path: Path) -> bool:
    """Whether tensors can be read."""
    try:
        parse_safetensors(path.read_bytes(), path)
    except edgeresnext.EdgeResNeXtError:
        return False
    return True


def _like(one: bytes, other: bytes) -> bool:
    """Whether two files differ by no more than what differs from run to run: dates, digests, latencies."""
    return abs(len(one) - len(other)) <= 0.05 * len(other) and one[-_ENDS:] == other[-_ENDS:]


def killed(world: World, count: int) -> None:
    """Kill the command before each of its calls."""
    for at in range(1, count + 1, world.case.every):
        world.fresh()
        code = world.run(world.work, points=Points(at=at))
        world.found["kills"] += code == -signal.SIGKILL
        world.look(f"killed at {at}")
        world.again(f"killed at {at}")


def failing(world: World, count: int) -> None:
    """Let each of the command's calls fail."""
    for name in ERRORS:
        for at in range(1, count + 1, world.case.every * (1 if name == "ENOSPC" else _EVERY)):
            what = f"{name} at {at}"
            world.fresh()
            code = world.run(world.work, points=Points(at=at, number=getattr(errno, name)))
            told = world.told()
            world.found["failures"] += 1
            if (
                "Traceback" in told
                or "This is a bug" in told
                or code not in range(6)
                or (code and "error:" not in told)
            ):
                world.found["not said"] += 1
                world.said.append(f"{world.case.name}, {what}: {code} {told[-600:]}")
            world.found[f"exit code {code}"] += 1
            world.look(what)
            calls = (world.root / "said.calls").read_text(encoding="utf-8").splitlines()
            # Where nothing can be removed something stays, until the next run; half a download is kept for that.
            if name != "EROFS" and not calls[at - 1].startswith(("os.remove", "os.rmdir")):
                world.left(what)
            world.again(what)


SECTIONS = {"kills": killed, "errors": failing}
_NAMES = {"kills": "kill_points", "errors": "failing_calls"}
"""What their figures are called in the results."""


def tried(index: int, *, section: str, base: Path, root: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Return what a case survived."""
    case = CASES[index]
    world = World(case=case, root=root / str(index), variables=variables)
    world.root.mkdir()
    count = world.prepare(base)
    SECTIONS[section](world, count)
    shutil.rmtree(world.root)
    print(case.name, count, dict(world.found), *world.said, sep="\n  ", flush=True)
    keys = ("kills", "failures", "old", "new", "absent", "aside", *_HARM)
    return {"case": case.name, "calls": count, **{key: world.found[key] for key in keys}}


def save_cases(name: str, found: list[dict[str, Any]]) -> None:
    """Save what cases survived, beside those that were not tried this time."""
    before = load("faults").get(name, []) if (RESULTS / "faults.json").exists() else []
    rows = {row["case"]: row for row in [*before, *found]}
    ordered = [rows[case.name] for case in CASES if case.name in rows]
    save_section("faults", name, ordered, **package_versions("torch", "onnxruntime", "openvino"))


def main() -> None:
    """Try every case, and save what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SECTIONS)
    parser.add_argument("--case", action="append", help="a case whose name begins so; others keep their figures")
    parser.add_argument("--check", action="store_true", help="save nothing")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    os.environ.update({"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"})
    preload()
    port, server = serve()
    chosen = [at for at, case in enumerate(CASES) if not given.case or case.name.startswith(tuple(given.case))]
    try:
        for section in [given.only] if given.only else SECTIONS:
            with scratch() as root:
                base = root / "base"
                base.mkdir()
                world = World(case=CASES[0], root=root, variables={"PORT": str(port)})
                for step in BASE:
                    if world.run(base, step):
                        raise SystemExit(world.told())
                work = partial(tried, section=section, base=base, root=root, variables=world.variables)
                with multiprocessing.get_context("fork").Pool(given.jobs) as pool:
                    found = pool.map(work, chosen, chunksize=1)
            if harmed := [row["case"] for row in found if any(row[key] for key in _HARM)]:
                print(f"{section}: harmed {', '.join(harmed)}")
                sys.exit(1)
            if not given.check:
                save_cases(_NAMES[section], found)
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


if __name__ == "__main__":
    main()
