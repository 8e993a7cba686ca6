"""Weights by the name they have elsewhere: Hugging Face, torchvision, any address. Fetched once, checked, and kept."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgeresnext import files
from edgeresnext.errors import CheckpointError, RequestError, unknown_name
from edgeresnext.extras import require
from edgeresnext.model import downloads
from edgeresnext.model.catalogue import PREPROCESS
from edgeresnext.progress import Progress, silent
from edgeresnext.spec import Preprocess

PREFIXES = ("hf:", "torchvision:", "https://", "http://")
_SMALLEST_SHARE = 0.1
_PILLOW_BILINEAR = 2

TORCHVISION = {
    "ResNet18_Weights.IMAGENET1K_V1": "resnet18-f37072fd",
    "ResNet34_Weights.IMAGENET1K_V1": "resnet34-b627a593",
    "ResNet50_Weights.IMAGENET1K_V1": "resnet50-0676ba61",
    "ResNet50_Weights.IMAGENET1K_V2": "resnet50-11ad3fa6",
    "ResNet101_Weights.IMAGENET1K_V1": "resnet101-63fe2227",
    "ResNet101_Weights.IMAGENET1K_V2": "resnet101-cd907fc2",
    "ResNet152_Weights.IMAGENET1K_V1": "resnet152-394f9c45",
    "ResNet152_Weights.IMAGENET1K_V2": "resnet152-f82ba261",
    "ResNeXt50_32X4D_Weights.IMAGENET1K_V1": "resnext50_32x4d-7cdf4587",
    "ResNeXt50_32X4D_Weights.IMAGENET1K_V2": "resnext50_32x4d-1a0047aa",
    "ResNeXt101_32X8D_Weights.IMAGENET1K_V1": "resnext101_32x8d-8ba56ff5",
    "ResNeXt101_32X8D_Weights.IMAGENET1K_V2": "resnext101_32x8d-110c445d",
    "ResNeXt101_64X4D_Weights.IMAGENET1K_V1": "resnext101_64x4d-173b62eb",
    "Wide_ResNet50_2_Weights.IMAGENET1K_V1": "wide_resnet50_2-95faca4d",
    "Wide_ResNet50_2_Weights.IMAGENET1K_V2": "wide_resnet50_2-9ba9bcbe",
    "Wide_ResNet101_2_Weights.IMAGENET1K_V1": "wide_resnet101_2-32ee1156",
    "Wide_ResNet101_2_Weights.IMAGENET1K_V2": "wide_resnet101_2-d733dc28",
}
"""Files of torchvision 0.29; a name ends in the first digits of the file's SHA-256."""
_TORCHVISION_AT = "https://download.pytorch.org/models/"
_RESIZED_LIKE_V2 = ("ResNeXt101_64X4D_Weights.IMAGENET1K_V1",)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A weights file on this machine, and what its publisher says of it.

    Args:
        path: The file.
        preprocess: How images become the network's input; None where nothing is said.
        labels: The classes, in the order of the logits; None where nothing is said.
        notes: What a user should know, such as a licence.
    """

    path: Path
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def is_name(text: str) -> bool:
    """Whether a text names weights elsewhere rather than a file here."""
    return text.lower().startswith(PREFIXES)


def fetch(name: str, cache: Path, progress: Progress = silent) -> Fetched:
    """Return the weights called `name`, from the cache where they have been fetched before.

    Args:
        name: `hf:OWNER/NAME[@REVISION]`, `torchvision:ResNeXt50_32X4D_Weights.IMAGENET1K_V2`, or an address; after a
            `#sha256=` the address may say what the file must be.
        cache: Where downloads are kept; Hugging Face has a cache of its own.
        progress: Told how many bytes have come.

    Raises:
        RequestError: There is no such name, or it cannot be read.
        CheckpointError: The machine cannot be reached, refuses, or sends another file.
        NotInstalledError: `huggingface_hub` is missing.
    """
    kind, _, rest = name.partition(":")
    kind = kind.lower()
    if kind == "hf":
        return _hugging_face(rest)
    if kind == "torchvision":
        if rest not in TORCHVISION:
            raise unknown_name("weights of torchvision", rest, TORCHVISION)
        file = TORCHVISION[rest]
        path = downloads.fetched(f"{_TORCHVISION_AT}{file}.pth", file.rpartition("-")[2], cache, progress)
        return Fetched(path=path, preprocess=_of_torchvision(rest))
    address, _, fragment = name.partition("#")
    digest = fragment.removeprefix("sha256=").lower() if fragment.startswith("sha256=") else ""
    if fragment and not re.fullmatch(r"[0-9a-f]{8,64}", digest):
        raise RequestError(f"cannot read '#{fragment}' of '{address}'", "Write #sha256= and the digest in hexadecimal.")
    if kind == "http" and not digest:
        raise RequestError(
            f"'{address}' is not encrypted, and anybody on the way could send another file",
            "Use https://, or say what the file must be: #sha256=DIGEST",
        )
    return Fetched(path=downloads.fetched(address, digest, cache, progress))


def torchvision_file(path: Path) -> tuple[str, Preprocess] | None:
    """Return which of torchvision's weights a file is, by its digest, and their preprocessing; None for another file.

    Raises:
        OSError: The file cannot be read.
    """
    by_digest = {file.rpartition("-")[2]: name for name, file in TORCHVISION.items()}
    name = by_digest.get(files.digest(path)[:8])
    return None if name is None else (name, _of_torchvision(name))


def _of_torchvision(name: str) -> Preprocess:
    """Return the preprocessing of weights of torchvision."""
    second = name.endswith("_V2") or name in _RESIZED_LIKE_V2
    return PREPROCESS["torchvision-v2" if second else "torchvision-v1"]


def _hugging_face(name: str) -> Fetched:
    """Return the weights of a repository, with what its configuration says."""
    require("hub", "huggingface_hub", needed_by=f"'hf:{name}'")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")

    unreachable = False

    def file(*names: str) -> Path | None:
        nonlocal unreachable
        for one in names:
            try:
                return Path(str(hf_hub_download(repository, one, revision=revision or None)))
            except LocalEntryNotFoundError:  # offline, and not in the cache: perhaps because there is none
                unreachable = True
            except EntryNotFoundError:
                continue
        return None

    try:
        weights = file("model.safetensors", "pytorch_model.bin")
        config, processor = file("config.json"), file("preprocessor_config.json")
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(
            f"cannot fetch 'hf:{name}': {reason}", "Check the name; private ones need a login."
        ) from None
    if weights is None and unreachable:
        raise CheckpointError(f"'hf:{name}' is not in the cache, and its hub cannot be reached", downloads.ELSEWHERE)
    if weights is None:
        raise CheckpointError(
            f"'hf:{name}' has neither model.safetensors nor pytorch_model.bin", "Give the address of the file itself."
        )
    said = _json(config) | _json(processor)
    timm = said.get("pretrained_cfg")
    licence = str(timm.get("license", "")) if isinstance(timm, dict) else ""
    notes = (f"its licence is {licence}: not for commercial use",) if "nc" in licence.lower().split("-") else ()
    return Fetched(path=weights, preprocess=_preprocess(said), labels=_labels(said), notes=notes)


def _json(path: Path | None) -> dict[str, Any]:
    """Return a configuration; empty where there is none."""
    if path is None:
        return {}
    try:
        found = json.loads(files.read(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read '{path}': {error}", "Fetch it again.") from None
    return found if isinstance(found, dict) else {}


def _preprocess(said: Mapping[str, Any]) -> Preprocess | None:
    """Return the preprocessing that timm's or transformers' configuration describes."""
    timm = said.get("pretrained_cfg")
    try:
        if isinstance(timm, dict) and timm.get("input_size"):
            height, width = map(int, timm["input_size"][-2:])
            wanted = {
                "resize_px": int(min(height, width) / _share(timm)), "crop_px": height,
                "width_px": 0 if height == width else width,
                "interpolation": timm.get("interpolation") or "bicubic", "mean": timm["mean"], "std": timm["std"],
            }  # fmt: skip
            return msgspec.convert(wanted, Preprocess)
        if said.get("image_mean"):
            sides = said.get("size", 224)
            resized = int(min(sides.values()) if isinstance(sides, dict) else sides)
            crops = said.get("crop_size")
            crop = int(min(crops.values()) if isinstance(crops, dict) else crops or resized)
            wanted = {
                "resize_px": int(resized / _share(said)) if crops is None else resized, "crop_px": crop,
                "interpolation": "bilinear" if said.get("resample") == _PILLOW_BILINEAR else "bicubic",
                "mean": said["image_mean"], "std": said["image_std"],
            }  # fmt: skip
            return msgspec.convert(wanted, Preprocess)
    except (KeyError, TypeError, ValueError, OverflowError, msgspec.ValidationError) as error:
        raise CheckpointError(
            f"the configuration of these weights describes no preprocessing that is known here: {error}",
            "Say it yourself.",
            values=("preprocess",),
        ) from None
    return None


def _share(said: Mapping[str, Any]) -> float:
    """Return the crop's share of the resized image.

    Raises:
        ValueError: It is none.
    """
    share = float(said.get("crop_pct") or 0.875)
    if not _SMALLEST_SHARE <= share <= 1:
        message = f"crop_pct is {share:g}"
        raise ValueError(message)
    return share


def _labels(said: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the classes that a configuration lists in the order of the logits."""
    by_number = said.get("id2label")
    if isinstance(by_number, dict) and by_number and set(by_number) == set(map(str, range(len(by_number)))):
        return tuple(_in_one_line(by_number[str(index)]) for index in range(len(by_number)))
    listed = said.get("label_names")
    return tuple(map(_in_one_line, listed)) if isinstance(listed, list) and listed else None


def _in_one_line(label: object) -> str:
    """Return a label as a bundle's file can hold it."""
    return " ".join(str(label).split())
