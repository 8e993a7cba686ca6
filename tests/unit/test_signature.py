"""Bundles whose origin is known, and those that are refused."""

import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext.errors import BundleError, InputError


def pair(folder, name, private=None):
    """Write a private and a public key as OpenSSL does."""
    private = private or ed25519.Ed25519PrivateKey.generate()
    paths = folder / f"{name}.pem", folder / f"{name}.public.pem"
    paths[0].write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    paths[1].write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return paths


@pytest.fixture
def keys(tmp_path):
    return pair(tmp_path, "ours")


@pytest.fixture
def signed(bundle_copy, keys):
    edgeresnext.sign(bundle_copy, key=keys[0])
    return bundle_copy


def test_a_signed_bundle_runs_where_its_key_is_trusted(signed, keys, tmp_path):
    other = pair(tmp_path, "other")
    assert {check.status for check in edgeresnext.verify(signed, trusted=[keys[1]])} <= {"ok", "skipped"}
    edgeresnext.load(signed, backend="onnxruntime", precision="fp32", trusted=[other[1], keys[1]]).close()
    with pytest.raises(BundleError, match="signed by nobody who is trusted here") as caught:
        edgeresnext.load(signed, trusted=[other[1]])
    assert caught.value.values == ("trusted",)
    edgeresnext.load(signed, backend="onnxruntime", precision="fp32").close()  # nobody asked


def test_an_unsigned_bundle_is_refused_where_keys_are_given(bundle_copy, keys):
    with pytest.raises(BundleError, match="is not signed"):
        edgeresnext.load(bundle_copy, trusted=[keys[1]])


@pytest.mark.parametrize("what", ["labels.txt", "onnx/fp32.onnx", "manifest.json"])
def test_whatever_is_changed_afterwards_is_refused(signed, keys, what):
    content = bytearray((signed / what).read_bytes())
    content[len(content) // 2] ^= 1
    (signed / what).write_bytes(content)
    with pytest.raises(BundleError):
        edgeresnext.verify(signed, trusted=[keys[1]])


def test_somebody_who_knows_of_the_digests_is_refused_all_the_same(signed, keys):
    import msgspec

    (signed / "labels.txt").write_text("".join(f"{digit + 1}\n" for digit in range(10)))
    manifest = bundles.read(signed).manifest
    bundles.write_manifest(signed, msgspec.structs.replace(manifest, files=bundles.list_files(signed)))
    assert bundles.read(signed).labels()[0] == "1"
    with pytest.raises(BundleError, match="or was changed since"):
        bundles.read(signed, trusted=[keys[1]])


def test_a_signature_over_something_else_by_the_same_key_is_none(signed, keys):
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = load_pem_private_key(keys[0].read_bytes(), None)
    import base64

    (signed / "manifest.sig").write_bytes(base64.b64encode(private.sign((signed / "manifest.json").read_bytes())))
    with pytest.raises(BundleError, match="signed by nobody"):
        bundles.read(signed, trusted=[keys[1]])


@pytest.mark.parametrize("content", [b"", b"not base64!", b"AAAA", b"A" * 5_000_000])
def test_a_damaged_signature_is_none(signed, keys, content):
    (signed / "manifest.sig").write_bytes(content)
    with pytest.raises(BundleError):
        bundles.read(signed, trusted=[keys[1]])


def test_what_is_altered_or_has_more_than_its_manifest_says_is_not_signed(bundle_copy, keys):
    (bundle_copy / "extra.py").write_text("import os")
    with pytest.raises(BundleError, match=r"does not list: extra\.py"):
        edgeresnext.sign(bundle_copy, key=keys[0])
    (bundle_copy / "extra.py").unlink()
    (bundle_copy / "labels.txt").write_text("x")
    with pytest.raises(BundleError, match=r"labels\.txt"):
        edgeresnext.sign(bundle_copy, key=keys[0])
    assert not (bundle_copy / "manifest.sig").exists()


def test_what_a_signing_that_was_killed_has_left_does_not_hinder_the_next(bundle_copy, keys):
    (bundle_copy / ".0123456789ab-01234567.partial").write_text("x")
    edgeresnext.sign(bundle_copy, key=keys[0])
    assert edgeresnext.verify(bundle_copy, trusted=[keys[1]])


def test_keys_of_other_kinds_and_none_are_named(bundle_copy, keys, tmp_path):
    other = pair(tmp_path, "curve", ec.generate_private_key(ec.SECP256R1()))
    for key, message in (
        (tmp_path / "none.pem", "cannot read key"), (keys[1], "is no private key in PEM"), (other[0], "of another kind"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message) as caught:
            edgeresnext.sign(bundle_copy, key=key)
        assert "openssl genpkey" in caught.value.hint
    edgeresnext.sign(bundle_copy, key=keys[0])
    for key, message in ((keys[0], "is no public key in PEM"), (other[1], "of another kind")):
        with pytest.raises(InputError, match=message):
            bundles.read(bundle_copy, trusted=[key])


def test_a_signed_bundle_may_be_replaced_and_copied(signed, tmp_path, keys):
    bundles.check_output(signed)
    shutil.copytree(signed, tmp_path / "copied")
    assert bundles.read(tmp_path / "copied", trusted=[keys[1]]).manifest


def test_a_signature_is_not_written_through_a_link(bundle_copy, keys, tmp_path):
    (tmp_path / "mine").write_text("precious")
    (bundle_copy / "manifest.sig").symlink_to(tmp_path / "mine")
    with pytest.raises(BundleError, match=r"manifest\.sig': it is a link"):
        edgeresnext.sign(bundle_copy, key=keys[0])
    assert (tmp_path / "mine").read_text() == "precious"
