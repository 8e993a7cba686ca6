"""Commands on disks that are full, small, read-only or strange: what was there stays, and what is said names the file.

python benchmarks/full_disks.py, as root or in `unshare --map-root-user --mount`: small file systems are mounted.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import save_section, scratch
from fault_commands import BASE, command, preload, script
from fault_points import Points, forked, snapshot

from edgeresnext.machine.environment import package_versions

NAME = "-out 日本'\n[x]*"
"""What is written, in a folder where names may be anything."""
WRITERS: dict[str, tuple[Callable[[str], Callable[[], None]], str]] = {
    "build": (lambda to: command("build", "resnext20_8x4d", "--random-weights", "--precision", "fp32", "-o", to), ""),
    "train": (
        lambda to: command("train", "data", "--model", "resnext20_8x4d", "--epochs", "1", "--batch", "8", "--output", to),
        "",
    ),
    "bench": (
        lambda to: command(
            "bench", "a", "--rounds", "1", "--backend", "onnxruntime",
            *(word for one in ("pytorch", "compile", "accuracy", "scopes", "energy", "memory") for word in ("--skip", one)),
            "--save", to,
        ),
        ".json",
    ),
    "report": (lambda to: command("report", "r.json", "--save", to), ".html"),
    "export": (lambda to: command("export", "a", "--precision", "fp32", "--deepstream", to), ""),
    "prepare": (lambda to: script("folder/prepare.py", "data", to, "--samples", "4"), ""),
}  # fmt: skip
"""Commands by what they are called here: made from where they write, and the suffix of that."""
REPLACE = {"build", "bench", "report", "export"}
"""Those that put something new in the place of what is there."""


@dataclass(frozen=True)
class Setting:
    """A writer on a disk that is not as it should be.

    Args:
        writer: One of `WRITERS`.
        what: What is wrong.
        around: Makes it so, in the folder that holds `out`, for the length of a run.
        within: Makes it so in the process itself.
        replaces: Whether something is there before.
        succeeds: Whether it is no obstacle.
        variables: Environment of the process.
        name: What is written.
    """

    writer: str
    what: str
    around: Callable[[Path], Any] = contextlib.nullcontext
    within: Callable[[], None] = lambda: None
    replaces: bool = True
    succeeds: bool = False
    variables: tuple[tuple[str, str], ...] = ()
    name: str = "x"


def limited(most: int) -> Callable[[], None]:
    """Return what lets no file be larger than so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def without_rights() -> None:
    """Be a user who may not do everything: the rights of root are given up."""
    header, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, rights):
        raise OSError(ctypes.get_errno(), "capset")


@contextmanager
def mounted(root: Path, options: str, *, then: str = "") -> Iterator[None]:
    """Let `out` be a file system of its own, with what was in it."""
    out, mount, umount = root / "out", *(shutil.which(one) or one for one in ("mount", "umount"))
    kept = shutil.move(out, root / "kept")
    out.mkdir()
    subprocess.run([mount, "-t", "tmpfs", "-o", options, "none", out], check=True)
    try:
        shutil.copytree(kept, out, dirs_exist_ok=True)
        if then:
            subprocess.run([mount, "-o", f"remount,{then}", out], check=True)
        yield
    finally:
        subprocess.run([umount, out], check=True)


def disk(options: str, *, then: str = "") -> Callable[[Path], Any]:
    """Return what mounts such a disk."""
    return lambda root: mounted(root, options, then=then)


@contextmanager
def mode(root: Path, bits: int) -> Iterator[None]:
    """Let `out` have other permissions."""
    (root / "out").chmod(bits)
    try:
        yield
    finally:
        (root / "out").chmod(stat.S_IRWXU)


@contextmanager
def linked(root: Path, target: str) -> Iterator[None]:
    """Let what is written be a link."""
    (root / "out" / "x").symlink_to(target)
    yield


@contextmanager
def elsewhere(root: Path) -> Iterator[None]:
    """Let `out` lie on another file system, behind a link."""
    other = Path("/dev/shm") / f"edgeresnext-{os.getpid()}"  # noqa: S108 - another file system than that of /tmp
    shutil.move(root / "out", other)
    (root / "out").symlink_to(other)
    try:
        yield
    finally:
        (root / "out").unlink()
        shutil.move(other, root / "out")


def settings() -> Iterator[Setting]:
    """Yield everything that is tried."""
    for writer, sizes in {
        "build": (0, 100, 4096, 60_000, 1_010_000), "train": (0, 100, 500_000), "bench": (0, 1000), "report": (0, 5000),
        "export": (0, 60, 100_000), "prepare": (0, 500),
    }.items():  # fmt: skip
        yield from (
            Setting(writer, f"no file over {size} bytes", within=limited(size)) for size in sizes if writer != "prepare"
        )
        yield from (
            Setting(writer, f"no file over {size} bytes, nothing there", within=limited(size), replaces=False)
            for size in sizes[:2]
        )
    for size in ("4k", "1m", "1900k", "1940k", "1960k"):
        yield Setting("build", f"a disk of {size}", around=disk(f"size={size}"), replaces=False)
    for files in (2, 3, 5, 8):
        yield Setting("build", f"a disk for {files} files", around=disk(f"nr_inodes={files}"), replaces=False)
    yield Setting("build", "a disk with room for the old one alone", around=disk("size=2400k"))
    for writer in WRITERS:
        yield Setting(writer, "a disk of 4k", around=disk("size=4k"), replaces=False)
        yield Setting(writer, "a disk for one file", around=disk("nr_inodes=2"), replaces=False)
        yield Setting(writer, "a read-only disk", around=disk("size=8m", then="ro"), replaces=writer in REPLACE)
        for bits in (0o555, 0o444, 0o000):
            yield Setting(
                writer, f"a folder of mode {bits:o}", around=lambda root, bits=bits: mode(root, bits), within=without_rights,
                replaces=writer in REPLACE,
            )  # fmt: skip
        yield Setting(
            writer, "another file system, behind a link", around=elsewhere, replaces=writer in REPLACE, succeeds=True
        )
        yield Setting(writer, "a strange name", replaces=False, succeeds=True, name=NAME)
        yield Setting(writer, "a name of 256 bytes", replaces=False, name="x" * (256 - len(WRITERS[writer][1])))
        yield Setting(
            writer,
            "a name that is no UTF-8",
            replaces=False,
            name="\udcff",
            succeeds=writer in {"bench", "report"},
        )
        yield Setting(
            writer, "a home and scratch that do not exist, and a cache that cannot be made", replaces=writer in REPLACE, succeeds=True,
            variables=tuple((one, "/nowhere") for one in ("HOME", "TMPDIR", "TMP", "TEMP", "EDGERESNEXT_CACHE", "MPLCONFIGDIR")),
        )  # fmt: skip
    for writer in ("build", "export", "prepare"):
        for target in ("folder", "nowhere", "x"):
            yield Setting(
                writer, f"a link to {target}", around=lambda root, target=target: linked(root, target), replaces=False
            )


def tried(setting: Setting, base: Path, root: Path) -> list[str]:
    """Run a writer in a setting; return what was wrong."""
    make, suffix = WRITERS[setting.writer]
    target = f"out/{setting.name}{suffix}"
    shutil.copytree(base, root)
    (root / "out" / "folder").mkdir(parents=True)
    if setting.replaces and forked(make(target), root, Points(), root.with_suffix(".txt")):
        return [f"it does not run at all: {root.with_suffix('.txt').read_text()}"]
    said = root.with_suffix(".txt")
    with ExitStack() as stack:
        stack.enter_context(setting.around(root))
        before = _seen(root)

        def work() -> None:
            signal.alarm(120)
            setting.within()
            make(target)()

        variables = {"EDGERESNEXT_CACHE": str(root / "cache"), **dict(setting.variables)}
        code = forked(work, root, Points(), said, **variables)
        found = _seen(root)
    told = said.read_text(encoding="utf-8", errors="replace")
    wrong = []
    if "Traceback" in told or "This is a bug" in told or code not in range(6) or bool(code) is setting.succeeds:
        wrong.append(f"exit code {code}")
    named = any(one in told for one in ("out", Path(target).name, "\\udcff"))
    if code and ("error:" not in told or not named):
        wrong.append("the file is not named")
    locks = {name for name in found if name.endswith(".lock")}
    locks |= {Path(target).name} if setting.writer == "train" else set()  # the folder of a run, which is begun first
    if code and {name: found[name] for name in found.keys() - locks} != {
        name: before[name] for name in before.keys() - locks
    }:
        wrong.append(f"changed: {sorted((found.keys() ^ before.keys()) - locks)[:4]}")
    if any("partial" in name or "previous" in name for name in found):
        wrong.append(f"left: {[name for name in found if 'partial' in name or 'previous' in name][:3]}")
    return [f"{'; '.join(wrong)}\n    {told.strip()[-500:]}"] if wrong else []


def _seen(root: Path) -> dict[str, bytes]:
    """Return what lies in `out`."""
    return snapshot(root / "out")


def main() -> None:
    """Try every setting, and save what came of it."""
    os.environ.update({"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"})
    preload()
    found, lost = list(settings()), []
    with scratch() as root:
        base = root / "base"
        base.mkdir()
        for step in (*BASE, WRITERS["bench"][0]("r.json")):
            if forked(step, base, Points(), root / "said.txt"):
                raise SystemExit((root / "said.txt").read_text())
        for index, setting in enumerate(found):
            wrong = tried(setting, base, root / str(index))
            shutil.rmtree(root / str(index))
            lost += [f"{setting.writer}, {setting.what}: {one}" for one in wrong]
            print(f"{setting.writer}, {setting.what}:", *wrong or ["as it should be"], flush=True)
    section = {"trials": len(found), "lost": len(lost), "reasons": lost[:10], "writers": list(WRITERS)}
    save_section("faults", "full_disks", section, **package_versions("torch", "onnxruntime", "openvino"))


if __name__ == "__main__":
    main()
