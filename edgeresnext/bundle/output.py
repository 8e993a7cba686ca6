"""Where a bundle is written: whole or not at all, and never in the place of something else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeresnext import files
from edgeresnext.bundle.bundle import read
from edgeresnext.bundle.manifest import OWN_NAMES, RUNTIME_CACHE_SUFFIX
from edgeresnext.errors import BundleError, InputError, shortened
from edgeresnext.spec import FileEntry


def check_output(output: Path) -> None:
    """Refuse an output path that a bundle must not replace.

    Raises:
        BundleError: It is a file, or a directory that holds something other than a bundle.
    """
    try:
        check_replaceable(output, "a bundle", lambda: {*OWN_NAMES, *read(output).manifest.files}, RUNTIME_CACHE_SUFFIX)
    except InputError as error:
        raise BundleError(error.what, error.hint) from None


def check_replaceable(output: Path, kind: str, known: Callable[[], set[str]], by_products: str) -> None:
    """Refuse an output path in whose place nothing may be put.

    Args:
        output: A directory, which need not exist.
        kind: What may be replaced, such as "a bundle".
        known: Returns the files of such a one in `output`; raises InputError where it is none.
        by_products: Suffix of files that whoever uses it leaves there, and that are no loss.

    Raises:
        InputError: It is a file, or a directory that holds something else.
    """
    if output.exists() and output.resolve() == Path.cwd():
        raise InputError(
            f"output is the current directory, which {kind} would replace", "Leave it first (cd ..), or give another."
        )
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
            if not path.is_dir() and not path.name.endswith(by_products)
        }
        if on_disk - files_of_ours:
            raise InputError(
                f"output '{output}' holds {kind} and other files, which would be lost: "
                f"{shortened(sorted(on_disk - files_of_ours))}",
                "Move them away, or give a new directory.",
            )
    parent = output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"cannot write in '{parent}'", "Choose an output directory that you may write to.")


@contextmanager
def replacing(output: Path, waiting: Callable[[str], None]) -> Iterator[Path]:
    """Yield an empty directory that takes the place of `output`: `files.replacing_directory`, of bundles alone.

    Raises:
        BundleError: The output may not be replaced.
        InputError: The disk is full or not writable.
    """
    check_output(output)
    with files.replacing_directory(output, waiting) as staging:
        yield staging


def list_files(directory: Path) -> dict[str, FileEntry]:
    """Return size and digest of every file below `directory` that a manifest lists, by relative name."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name not in OWN_NAMES)
    return {
        path.relative_to(directory).as_posix(): FileEntry(bytes=path.stat().st_size, sha256=files.digest(path))
        for path in paths
    }
