"""Weights whose licence forbids commercial use, by what a file alone tells: its name, its layout, its network.

Facebook's weakly and semi-supervised ResNeXts (WSL, SSL, SWSL) and the ResNeXts that it published for Torch7 are
CC BY-NC 4.0, as their repositories say: facebookresearch/WSL-Images, facebookresearch/semi-supervised-ImageNet1K-models
and facebookresearch/ResNeXt. Files carry no licence: these are signs, and the note says so.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgeresnext.spec import ModelSpec

_NAMES = re.compile(r"(?:^|[^a-z])(?:ig_resnext|semi_(?:weakly_)?supervised|fb_(?:wsl|ssl|swsl)|wsl|swsl)(?:[^a-z]|$)")
"""Of the files that their publishers offer, and of timm's names for them."""
_WSL_ONLY = (16, 32, 48)
"""Channels a group of ResNeXt-101s with 32 groups that nobody else has published."""
_CLASSES = 1000


def licence_note(path: Path, layout: str, spec: ModelSpec) -> str | None:
    """Return what a user should know of the licence of weights, as a sentence; None where nothing speaks of one.

    Args:
        path: The file.
        layout: Whose names the weights have, as `layouts.Layout.name`.
        spec: The network.
    """
    by_network = spec.cardinality == 32 and spec.width_per_group in _WSL_ONLY and spec.classes == _CLASSES  # noqa: PLR2004
    if _NAMES.search(path.name.lower()):
        sign = "its name is that of Facebook's WSL, SSL or SWSL weights"
    elif layout.startswith("Torch7") and spec.cardinality > 1:
        sign = "its names are those of the ResNeXts that Facebook published for Torch7"
    elif by_network:
        sign = f"{spec.name} for ImageNet was published as Facebook's WSL or SWSL weights alone"
    else:
        return None
    return f"{sign}, whose licence is CC BY-NC 4.0: not for commercial use"
