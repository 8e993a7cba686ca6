"""Where a bundle is written: whole or not at all, and never in the place of something else."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeresnext import directories, files
from edgeresnext.bundle.bundle import read
from edgeresnext.bundle.manifest import OWN_NAMES
from edgeresnext.errors import BundleError, InputError, shortened
from edgeresnext.spec import FileEntry


def check_output(output: Path) -> None:
    """Refuse an output path that a bundle must not replace.

    Raises:
        BundleError: It is a file, a directory that holds something other than a bundle, or one inside a bundle.
    """
    if around := [folder for folder in output.absolute().parents if _is_bundle(folder)]:
        raise BundleError(f"output '{output}' lies in bundle '{around[0]}'", "Give a directory outside it.")
    try:
        check_replaceable(output, "a bundle", lambda: {*OWN_NAMES, *read(output).manifest.files})
    except InputError as error:
        raise BundleError(error.what, error.hint) from None


def _is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle."""
    try:
        read(folder)
    except (BundleError, OSError):
        return False
    return True


def check_replaceable(
    output: Path, kind: str, known: Callable[[], set[str]], by_products: tuple[str, ...] = ()
) -> None:
    """Refuse an output path in whose place nothing may be put.

    Args:
        output: A directory, which need not exist.
        kind: What may be replaced, such as "a bundle".
        known: Returns the files of such a one in `output`; raises InputError where it is none.
        by_products: Suffixes of files that whoever uses it leaves there, and that are no loss.

    Raises:
        InputError: It is a file, a directory that holds something else, or where nothing may be looked for.
    """
    directories.check_name(output)
    try:
        _check_place(output, kind, known, by_products)
    except OSError as error:
        raise InputError(f"cannot write '{output}': {error.strerror}", _MAY_WRITE) from None


_MAY_WRITE = "Choose an output directory that you may write to."


def _check_place(output: Path, kind: str, known: Callable[[], set[str]], by_products: tuple[str, ...]) -> None:
    """Refuse an output path as `check_replaceable` does.

    Raises:
        InputError: It may not be replaced.
        OSError: It cannot be looked at.
    """
    if output.exists() and Path.cwd().is_relative_to(output.resolve()):
        what = "the current directory" if output.resolve() == Path.cwd() else "a folder around the current directory"
        raise InputError(f"output is {what}, which {kind} would replace", "Leave it first (cd), or give another.")
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise InputError(f"output '{output}' is a file or a link", f"Give a new directory, or that of {kind}.")
    if output.is_dir() and any(output.iterdir()):
        hint = "Give a new directory, or remove that one first."
        try:
            files_of_ours = known()
        except InputError:
            raise InputError(f"output '{output}' holds something other than {kind}; it is left alone", hint) from None
        on_disk = {
            path.relative_to(output).as_posix()
            for path in output.rglob("*")
            if not path.is_dir() and not files.is_partial(path.name) and not path.name.endswith(by_products)
        }
        if on_disk - files_of_ours:
            raise InputError(
                f"output '{output}' holds {kind} and other files, which would be lost: "
                f"{shortened(sorted(on_disk - files_of_ours))}",
                "Move them away, or give a new directory.",
            )
    parent = check_parent(output)
    if output.exists() and _is_somebody_else_s(output, parent):
        raise InputError(
            f"output '{output}' is somebody else's, in a folder where only its owner may replace it", _MAY_WRITE
        )


def check_parent(output: Path) -> Path:
    """Return the folder that exists and in which an output is made, with the folders between.

    Raises:
        InputError: Nothing can be written there, or no file can have the output's name.
    """
    directories.check_name(output)
    parent = output.absolute().parent
    try:
        while not parent.exists():
            parent = parent.parent
    except OSError as error:  # a folder that may not be entered
        raise InputError(f"cannot write '{output}': {error.strerror}", _MAY_WRITE) from None
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write in '{parent}'", _MAY_WRITE)
    return parent


def _is_somebody_else_s(output: Path, parent: Path) -> bool:
    """Whether the folder is one like /tmp, where people may replace only what is theirs, and this is not ours."""
    if not hasattr(os, "geteuid") or os.geteuid() == 0 or not parent.stat().st_mode & stat.S_ISVTX:
        return False
    return os.geteuid() not in (output.stat().st_uid, parent.stat().st_uid)


@contextmanager
def replacing(output: Path, waiting: Callable[[str], None]) -> Iterator[Path]:
    """Yield an empty directory that takes the place of `output`: `directories.replacing`, of bundles alone.

    Raises:
        BundleError: The output may not be replaced.
        InputError: The disk is full or not writable.
    """
    check_output(output)
    with directories.replacing(output, waiting) as staging:
        yield staging


def list_files(directory: Path) -> dict[str, FileEntry]:
    """Return size and digest of every file below `directory` that a manifest lists, by relative name."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name not in OWN_NAMES)
    return {
        path.relative_to(directory).as_posix(): FileEntry(bytes=path.stat().st_size, sha256=files.digest(path))
        for path in paths
    }
