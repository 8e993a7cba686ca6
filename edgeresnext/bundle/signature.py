"""Who made a bundle: a signature over its manifest, which holds the digests of everything else.

Ed25519 (RFC 8032), by the `cryptography` package. Keys are PEM files as OpenSSL writes them:

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out public.pem
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeresnext import files
from edgeresnext.bundle.manifest import MANIFEST, SIGNATURE
from edgeresnext.errors import BundleError, InputError
from edgeresnext.extras import require

_EXTRA = "sign"
_ABOUT = b"edgeresnext bundle manifest\n"
"""Before what is signed, so that a signature over something else, made by the same key, means nothing here."""
_KEYS = (
    "Make keys with: openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out public.pem"
)
_MOST_BYTES = 1 << 20


def sign(bundle: Path, key: Path, digest: str) -> None:
    """Sign a bundle: write `manifest.sig` into it, in place of one that is there.

    Args:
        bundle: Its directory; its files should have been verified.
        key: A private key, Ed25519 in PEM without a password.
        digest: SHA-256 of the manifest that was verified.

    Raises:
        InputError: The key cannot be read or is of another kind, or the signature cannot be written.
        NotInstalledError: `cryptography` is missing.
    """
    require(_EXTRA, "cryptography", needed_by="signing")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = _key(key, Ed25519PrivateKey, lambda content: load_pem_private_key(content, None), "private")
    with files.open_inside(bundle, MANIFEST) as file:
        content = files.content_of(file)
    if hashlib.sha256(content).hexdigest() != digest:
        raise BundleError(f"bundle '{bundle}' was replaced while it was verified", "Sign it again.")
    try:
        files.write(bundle / SIGNATURE, base64.b64encode(private.sign(_ABOUT + content)) + b"\n")
    except OSError as error:
        raise InputError(
            f"cannot write '{bundle / SIGNATURE}': {error.strerror}", "Sign a copy of the bundle."
        ) from None


def check_signature(bundle: Path, manifest: bytes, signature: bytes | None, trusted: Sequence[str | Path]) -> None:
    """Refuse a bundle that none of the trusted keys has signed.

    Args:
        bundle: Its directory, for messages.
        manifest: The content of its manifest, the very bytes that are then used.
        signature: The content of `manifest.sig`; None without one.
        trusted: Public keys, Ed25519 in PEM; with none nothing is asked.

    Raises:
        BundleError: It is not signed, or by nobody who is trusted.
        InputError: A key cannot be read or is of another kind.
        NotInstalledError: `cryptography` is missing.
    """
    if not trusted:
        return
    require(_EXTRA, "cryptography", needed_by="checking signatures")
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    keys = [_key(Path(path), Ed25519PublicKey, load_pem_public_key, "public") for path in trusted]
    if signature is None:
        raise BundleError(
            f"bundle '{bundle}' is not signed", "Ask who made it to: edgeresnext sign BUNDLE --key key.pem"
        )
    try:
        decoded = base64.b64decode(signature.strip(), validate=True)
    except binascii.Error as error:
        raise BundleError(f"the signature of bundle '{bundle}' cannot be read: {error}", "Sign it again.") from None
    for key in keys:
        try:
            key.verify(decoded, _ABOUT + manifest)
        except InvalidSignature:
            continue
        return
    raise BundleError(
        f"bundle '{bundle}' is signed by nobody who is trusted here, or was changed since",
        "Give the public key of who made it, or do not use it.",
        values=("trusted",),
    )


def _key(path: Path, kind: type, load: Any, which: str) -> Any:  # noqa: ANN401 - types of a package that may be missing
    """Return a key of a PEM file.

    Raises:
        InputError: It cannot be read, or is of another kind.
    """
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        found = load(files.read(path, _MOST_BYTES))
    except OSError as error:
        raise InputError(f"cannot read key '{path}': {error.strerror}", _KEYS) from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"'{path}' is no {which} key in PEM, or has a password: {error}", _KEYS) from None
    if not isinstance(found, kind):
        raise InputError(f"'{path}' is a key of another kind than Ed25519", _KEYS)
    return found
