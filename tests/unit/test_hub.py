"""Weights by name: fetched once, resumed where it stopped, refused where they are not what was said."""

import contextlib
import errno
import hashlib
import http.server
import io
import json
import os
import threading
from pathlib import Path

import pytest

from edgeresnext.errors import CheckpointError, RequestError
from edgeresnext.model import downloads, hub
from edgeresnext.progress import silent
from edgeresnext.spec import Preprocess

CONTENT = bytes(range(256)) * 9000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves what `server.contents` holds, with ranges, and notes what was asked for."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        content = self.server.contents.get(self.path)
        asked = self.headers.get("Range", "")
        if content is not None and self.headers.get("If-Range", "").strip('"') not in (
            "", hashlib.sha256(content).hexdigest()
        ):  # fmt: skip
            asked = ""  # another file by now
        self.server.asked.append((self.command, self.path, asked))
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if asked and start >= len(content):
            self.send_response(416)
            self.end_headers()
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.wfile.write(content[start : start + self.server.most])


@contextlib.contextmanager
def serving(contents, most=1 << 30):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.contents, server.asked, server.most = contents, [], most
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_file_is_fetched_once_and_progress_is_told(tmp_path):
    told = []
    with serving({"/w.pth": CONTENT}) as (server, address):
        name = f"{address}/w.pth#sha256={DIGEST}"
        found = hub.fetch(name, tmp_path, lambda stage, done, total: told.append((stage, done, total)))
        assert found.path.read_bytes() == CONTENT
        assert told[-1] == ("download", len(CONTENT), len(CONTENT))
        assert hub.fetch(name, tmp_path).path == found.path
        assert len(server.asked) == 1


def test_a_download_that_stopped_goes_on_from_there(tmp_path):
    with serving({"/w.pth": CONTENT}, most=1_000_000) as (_, address):
        name = f"{address}/w.pth#sha256={DIGEST}"
        with pytest.raises(CheckpointError, match=r"after 1,000,000 of 2,304,000 bytes|IncompleteRead"):
            hub.fetch(name, tmp_path)
        with pytest.raises(CheckpointError, match="2,000,000 of 2,304,000"):
            hub.fetch(name, tmp_path)
        assert hub.fetch(name, tmp_path).path.read_bytes() == CONTENT


def test_the_beginning_of_one_file_and_the_end_of_another_are_never_joined(tmp_path, monkeypatch):
    """Another file has come since, and the process is killed once it knows of that, and before it has any of it."""
    other = CONTENT[::-1]
    with serving({"/w.pth": CONTENT}, most=1_000_000) as (server, address):
        with pytest.raises(CheckpointError, match="cannot fetch"):
            downloads.fetched(f"{address}/w.pth", "", tmp_path, silent)
        server.contents["/w.pth"], server.most = other, 1 << 30
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", killed)
            with pytest.raises(KeyboardInterrupt):
                downloads.fetched(f"{address}/w.pth", "", tmp_path, silent)
        assert downloads.fetched(f"{address}/w.pth", "", tmp_path, silent).read_bytes() == other


def test_what_nothing_tells_apart_is_fetched_anew(tmp_path):
    with serving({"/w.pth": CONTENT}, most=1_000_000) as (server, address):
        with pytest.raises(CheckpointError, match="cannot fetch"):
            downloads.fetched(f"{address}/w.pth", "", tmp_path, silent)
        next(tmp_path.rglob("*.etag")).write_text("")  # a server that names none
        server.contents["/w.pth"], server.most = CONTENT[::-1], 1 << 30
        assert downloads.fetched(f"{address}/w.pth", "", tmp_path, silent).read_bytes() == CONTENT[::-1]


def killed(self, mode="r", *arguments, **options):
    """Open a file, unless it is that of the weights."""
    if self.name == "weights.partial" and mode in ("ab", "wb"):
        raise KeyboardInterrupt
    return io.open(self, mode, *arguments, **options)  # noqa: UP020 - what Path.open calls


def test_another_file_than_was_said_is_refused_and_not_kept(tmp_path):
    with serving({"/w.pth": CONTENT[::-1]}) as (server, address):
        with pytest.raises(CheckpointError, match="sent another file: its SHA-256 begins with"):
            hub.fetch(f"{address}/w.pth#sha256={DIGEST}", tmp_path)
        server.contents["/w.pth"] = CONTENT
        assert hub.fetch(f"{address}/w.pth#sha256={DIGEST[:8]}", tmp_path).path.read_bytes() == CONTENT


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "replace")])
def test_a_disk_that_is_full_is_said_to_be_that(tmp_path, monkeypatch, owner, call):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(owner, call, full)
    with serving({"/w.pth": CONTENT}) as (_, address), pytest.raises(CheckpointError, match="No space left") as caught:
        hub.fetch(f"{address}/w.pth#sha256={DIGEST}", tmp_path)
    assert "cannot be kept in" in caught.value.what
    assert "EDGERESNEXT_CACHE" in caught.value.hint


def test_what_cannot_be_reached_is_said_with_what_to_do(tmp_path):
    with serving({}) as (_, address), pytest.raises(CheckpointError, match="answers 404"):
        hub.fetch(f"{address}/w.pth#sha256={DIGEST}", tmp_path)
    with pytest.raises(CheckpointError, match="cannot fetch") as caught:
        hub.fetch(f"{address}/w.pth#sha256={DIGEST}", tmp_path)
    assert "give the file instead" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:ResNeXt50_32X4D_Weights.V2", "unknown weights of torchvision"),
        ("http://example.org/w.pth", "not encrypted"),
        ("https://example.org/w.pth#md5=00", "cannot read '#md5=00'"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(tmp_path, name, message):
    with pytest.raises(RequestError, match=message):
        hub.fetch(name, tmp_path)


def test_torchvision_s_names_are_addresses_with_a_digest_and_their_own_preprocessing(tmp_path, monkeypatch):
    with serving({f"/resnext50_32x4d-{DIGEST[:8]}.pth": CONTENT}) as (_, address):
        monkeypatch.setattr(hub, "_TORCHVISION_AT", f"{address}/")
        monkeypatch.setitem(hub.TORCHVISION, "ResNeXt50_32X4D_Weights.IMAGENET1K_V2", f"resnext50_32x4d-{DIGEST[:8]}")
        found = hub.fetch("torchvision:ResNeXt50_32X4D_Weights.IMAGENET1K_V2", tmp_path)
    assert found.path.read_bytes() == CONTENT
    assert found.preprocess == Preprocess(resize_px=232, crop_px=224)


TIMM = {
    "architecture": "resnext50_32x4d",
    "pretrained_cfg": {
        "input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic", "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225], "license": "cc-by-nc-4.0",
    },
}  # fmt: skip
TRANSFORMERS = {
    "id2label": {str(index): f"class {index}" for index in (0, 1, 10, *range(2, 10))},
    "architectures": ["ResNet"],
}
PROCESSOR = {
    "size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 2, "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip


@pytest.fixture
def hugging_face(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed (extra hub)")
    with serving({}) as (server, address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield server


def publish(server, name, files, revision="main"):
    for file, content in files.items():
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        server.contents[f"/{name}/resolve/{revision}/{file}"] = raw


def test_hugging_face_gives_weights_preprocessing_labels_and_the_licence(tmp_path, hugging_face):
    publish(hugging_face, "timm/resnext50", {"model.safetensors": CONTENT, "config.json": TIMM})
    found = hub.fetch("hf:timm/resnext50", tmp_path)
    assert found.path.read_bytes() == CONTENT
    assert found.preprocess == Preprocess(resize_px=235, crop_px=224, interpolation="bicubic")
    assert found.notes == ("its licence is cc-by-nc-4.0: not for commercial use",)
    whole = {"pytorch_model.bin": CONTENT[:99], "config.json": TRANSFORMERS, "preprocessor_config.json": PROCESSOR}
    publish(hugging_face, "microsoft/resnet-50", whole, "v1")
    found = hub.fetch("hf:microsoft/resnet-50@v1", tmp_path)
    assert found.labels == tuple(f"class {index}" for index in range(11))
    assert found.preprocess == Preprocess(resize_px=256, crop_px=224, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_a_repository_without_weights_and_a_wrong_name_are_said(tmp_path, hugging_face):
    publish(hugging_face, "timm/empty", {"config.json": TIMM})
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor"):
        hub.fetch("hf:timm/empty", tmp_path)
    with pytest.raises(CheckpointError, match="cannot fetch 'hf:a/b/c'"):
        hub.fetch("hf:a/b/c", tmp_path)


def test_offline_the_cache_serves_and_what_is_not_there_is_said(tmp_path, hugging_face, monkeypatch):
    from huggingface_hub import constants

    publish(hugging_face, "timm/resnext50", {"model.safetensors": CONTENT, "config.json": TIMM})
    hub.fetch("hf:timm/resnext50", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch("hf:timm/resnext50", tmp_path).path.read_bytes() == CONTENT
    with pytest.raises(CheckpointError, match="is not in the cache"):
        hub.fetch("hf:timm/resnext101", tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"mean": [0.5]}, {"mean": ["a", "b", "c"]}, {"crop_pct": 1e-9}, {"interpolation": "nearest"}, {"std": None}],
)
def test_preprocessing_of_another_kind_is_refused(tmp_path, hugging_face, changes):
    config = TIMM | {"pretrained_cfg": TIMM["pretrained_cfg"] | changes}
    publish(hugging_face, "timm/odd", {"model.safetensors": CONTENT, "config.json": config})
    with pytest.raises(CheckpointError, match="describes no preprocessing that is known here"):
        hub.fetch("hf:timm/odd", tmp_path)


@pytest.mark.parametrize(
    "config",
    [{"pretrained_cfg": None}, {"pretrained_cfg": "x"}, {"id2label": {"²": "a"}}, {"id2label": {"0": "a", "5": "b"}}],
)
def test_a_configuration_that_says_nothing_says_nothing(tmp_path, hugging_face, config):
    publish(hugging_face, "timm/silent", {"model.safetensors": CONTENT, "config.json": config})
    found = hub.fetch("hf:timm/silent", tmp_path)
    assert (found.preprocess, found.labels, found.notes) == (None, None, ())


def test_the_crop_of_a_processor_is_its_own(tmp_path, hugging_face):
    processor = PROCESSOR | {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    files = {"model.safetensors": CONTENT, "config.json": {}, "preprocessor_config.json": processor}
    publish(hugging_face, "microsoft/cropped", files)
    found = hub.fetch("hf:microsoft/cropped", tmp_path).preprocess
    assert (found.resize_px, found.crop_px) == (256, 224)


@pytest.mark.parametrize(
    "address",
    [
        "https://ex ample.org/x.pth",
        "https://127.0.0.1:abc/x.pth",
        "https://[::1",
        "https://127.0.0.1:1/..",
        "HTTPS://127.0.0.1:1/x",
    ],
)
def test_addresses_that_lead_nowhere_are_said(tmp_path, address):
    assert hub.is_name(address)
    with pytest.raises(CheckpointError, match="cannot fetch"):
        hub.fetch(address, tmp_path)


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(tmp_path):
    with serving({"/w.pth": CONTENT}, most=1_000_000) as (server, address):
        with pytest.raises(CheckpointError, match="1,000,000 of 2,304,000"):
            hub.fetch(f"{address}/w.pth#sha256={DIGEST}", tmp_path)
        server.contents["/w.pth"] = CONTENT[::-1]
        server.most = len(CONTENT)
        with pytest.raises(CheckpointError, match="sent another file"):
            hub.fetch(f"{address}/w.pth#sha256={DIGEST}", tmp_path)
        server.contents["/w.pth"] = CONTENT
        assert hub.fetch(f"{address}/w.pth#sha256={DIGEST}", tmp_path).path.read_bytes() == CONTENT
