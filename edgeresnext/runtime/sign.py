"""Sign a bundle, so that those who run it can tell whose it is."""

from __future__ import annotations

from pathlib import Path

from edgeresnext import bundle as bundles
from edgeresnext.errors import BundleError, shortened


def sign(path: str | Path, *, key: str | Path) -> None:
    """Compare every file of a bundle with its manifest, and sign that.

    Whoever loads it with the public key among `trusted` gets these files or none. Engines that are built into it later
    change the manifest: the new bundle is not signed.

    Args:
        path: The bundle.
        key: A private key, Ed25519 in PEM without a password.

    Raises:
        BundleError: The path is no bundle, or a file of it is missing, altered, or there and not in the manifest.
        InputError: The key cannot be read or is of another kind, or the signature cannot be written.
        NotInstalledError: `cryptography` is missing.
    """
    bundle = bundles.read(path)
    for name in bundle.manifest.files:
        bundle.file(name)
    others = bundle.unlisted()
    if others:
        raise BundleError(
            f"bundle '{path}' holds files that its manifest does not list: {shortened(others)}",
            "Take them out: a signature would not cover them.",
        )
    bundles.sign(bundle.path, Path(key), bundle.digest)
