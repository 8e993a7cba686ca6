"""Names of other libraries as torchvision's: whatever prefix stands in front, whatever the head is called.

A layout is known by one name that every network of it has. Layers are renamed; none is added, left out or changed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from edgeresnext.errors import CheckpointError, shortened
from edgeresnext.model.states import State

_COMPUTED = re.compile(r"\.weight_(orig|mask|g|v)$|\.parametrizations\.")
_MATRIX = 2
_KERNEL = 4
_MOST_IMAGE_CHANNELS = 4


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a library names the layers of a ResNet.

    Args:
        name: Whose names they are.
        anchor: The first block's first kernel, a regular expression; what stands before it is a prefix.
        renames: Regular expressions from its names to torchvision's, each tried on every name.
        first_stage: The number of the first stage, which torchvision calls 1.
    """

    name: str
    anchor: str
    renames: tuple[tuple[str, str], ...] = ()
    first_stage: int = 1


def _torch7(places: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return renames of Torch7's nested containers: a layer of a block is known by the numbers on the way to it."""
    block = r"^(?:features\.)?([4-7])\.(\d+)\."
    return tuple((block + re.escape(place), rf"layer\1.\2.{name}.") for place, name in places.items())


def _numbered(block: str, conv: str, norm: str) -> tuple[tuple[str, str], ...]:
    """Return renames of a block whose three convolutions are counted from 0."""
    return tuple(
        (rf"{block}layer\.{index}\.{kind}\.", rf"layer\1.\2.{name}{index + 1}.")
        for index in range(3)
        for kind, name in ((conv, "conv"), (norm, "bn"))
    )


_TORCH7_PLACES = {
    "0.0.0.0.": "conv1", "0.0.0.1.": "bn1", "0.0.0.3.": "conv2", "0.0.0.4.": "bn2", "0.0.1.": "conv3", "0.0.2.": "bn3",
    "0.1.": "downsample",
}  # fmt: skip
"""Layers of a block: its branch is 0.0 and its shortcut 0.1 of a container that adds them."""
_HUGGING_FACE = r"^encoder\.stages\.(\d)\.layers\.(\d+)\."
_PORT = r"^stage_(\d)\.stage_\d_bottleneck_(\d+)\."

LAYOUTS = (
    Layout(
        name="torchvision",
        anchor=r"layer1\.0\.conv1\.weight",
        renames=((r"\.shortcut\.", ".downsample."), (r"\.se_module\.", ".se."), (r"^layer0\.", "")),
    ),
    Layout(
        name="Torch7, converted",
        anchor=r"(?:features\.)?4\.0\.0\.0\.0\.0\.weight",
        first_stage=4,
        renames=(
            (r"^(?:features\.)?0\.", "conv1."),
            (r"^(?:features\.)?1\.", "bn1."),
            (r"^(?:features\.)?10\.1\.", "fc."),
            *_torch7(_TORCH7_PLACES),
        ),
    ),
    Layout(
        name="torchvision's children in an nn.Sequential",
        anchor=r"4\.0\.conv1\.weight",
        first_stage=4,
        renames=((r"^0\.", "conv1."), (r"^1\.", "bn1."), (r"^([4-7])\.(\d+)\.", r"layer\1.\2.")),
    ),
    Layout(
        name="Hugging Face transformers",
        anchor=r"encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight",
        first_stage=0,
        renames=(
            (r"^embedder\.embedder\.convolution\.", "conv1."),
            (r"^embedder\.embedder\.normalization\.", "bn1."),
            *_numbered(_HUGGING_FACE, "convolution", "normalization"),
            (_HUGGING_FACE + r"shortcut\.convolution\.", r"layer\1.\2.downsample.0."),
            (_HUGGING_FACE + r"shortcut\.normalization\.", r"layer\1.\2.downsample.1."),
        ),
    ),
    Layout(
        name="timm's resnetv2",
        anchor=r"stages\.0\.blocks\.0\.conv1\.weight",
        first_stage=0,
        renames=(
            (r"^stem\.conv\.", "conv1."),
            (r"^stages\.(\d)\.blocks\.(\d+)\.norm(\d)\.", r"layer\1.\2.bn\3."),
            (r"^stages\.(\d)\.blocks\.(\d+)\.downsample\.conv\.", r"layer\1.\2.downsample.0."),
            (r"^stages\.(\d)\.blocks\.(\d+)\.", r"layer\1.\2."),
        ),
    ),
    Layout(
        name="CIFAR ports of ResNeXt",
        anchor=r"stage_1\.stage_1_bottleneck_0\.conv_reduce\.weight",
        renames=(
            (r"^conv_1_3x3\.", "conv1."),
            (r"^bn_1\.", "bn1."),
            (_PORT + r"conv_reduce\.", r"layer\1.\2.conv1."),
            (_PORT + r"bn_reduce\.", r"layer\1.\2.bn1."),
            (_PORT + r"conv_conv\.", r"layer\1.\2.conv2."),
            (_PORT + r"bn\.", r"layer\1.\2.bn2."),
            (_PORT + r"conv_expand\.", r"layer\1.\2.conv3."),
            (_PORT + r"bn_expand\.", r"layer\1.\2.bn3."),
            (_PORT + r"shortcut\.shortcut_conv\.", r"layer\1.\2.downsample.0."),
            (_PORT + r"shortcut\.shortcut_bn\.", r"layer\1.\2.downsample.1."),
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Canonical:
    """Weights by torchvision's names, and what was done to get there.

    Args:
        state: The weights.
        layout: Whose names they had.
        prefix: What stood before the names of the network.
        head: What the classifier was called, "fc" in torchvision.
        passed_over: Tensors beside the network that it does not use, such as those of a loss.
        cadene_se: Whether it is one of Cadene's networks with squeeze and excitation, which differ where names and
            shapes do not tell: the stem's pooling rounds up, and a ResNet's blocks have their stride in front.
    """

    state: State
    layout: str
    prefix: str
    head: str
    passed_over: tuple[str, ...]
    cadene_se: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of it, as sentences."""
        found = [f"its names are those of {self.layout}"] if self.layout != LAYOUTS[0].name else []
        found += [f"prefix '{self.prefix}' taken off"] if self.prefix else []
        found += [f"its classifier is '{self.head}'"] if self.head.removeprefix(self.prefix) != "fc" else []
        found += [f"passed over: {shortened(self.passed_over)}"] if self.passed_over else []
        return tuple(found)


def canonical(state: State, path: Path) -> Canonical:
    """Return weights by torchvision's names.

    Args:
        state: Weights by any library's names.
        path: The file, for messages.

    Raises:
        CheckpointError: Weights are computed from others, no layout of a ResNet is known, several networks lie in it,
            or it has no head or several.
    """
    computed = next((name for name in state if _COMPUTED.search(name)), None)
    if computed is not None:
        raise CheckpointError(
            f"'{path}' holds '{computed}': its weights are computed from others, by pruning or a parametrisation",
            "Make them plain before saving: torch.nn.utils.prune.remove(layer, 'weight'), or "
            "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight').",
        )
    layout, prefix = _recognise(state, path)
    inside = {name.removeprefix(prefix): name for name in state if name.startswith(prefix)}
    outside = [name for name in state if not name.startswith(prefix)]
    body: State = {}
    rest: list[str] = []
    for name, full in inside.items():
        found = _renamed(name, layout)
        if _belongs(found):
            body[found] = state[full]
        else:
            rest.append(full)
    head = _head(state, [*rest, *outside], body, path)
    for part in ("weight", "bias"):
        if f"{head}.{part}" in state:
            tensor = state[f"{head}.{part}"]
            body[f"fc.{part}"] = tensor.flatten(1) if part == "weight" else tensor
    others = [name for name in (*rest, *outside) if name.rpartition(".")[0] != head]
    unknown = [name for name in others if name in rest or _computes(name, state[name], head, body["fc.weight"])]
    if unknown:
        raise CheckpointError(
            f"'{path}' has layers that no network known here has: {shortened(unknown, 3)}",
            "`edgeresnext models` lists the networks; another network's weights would compute something else.",
        )
    return Canonical(
        state=body,
        layout=layout.name,
        prefix=prefix,
        head=head,
        passed_over=tuple(others),
        cadene_se=any(".se_module." in name for name in state),
    )


def _computes(name: str, tensor: Tensor, head: str, classifier: Tensor) -> bool:
    """Whether a layer outside the network's prefix seems to stand before the network, or beside or behind its head."""
    classes, channels = classifier.shape[:2]
    layer = name.rpartition(".")[0]
    beside_head = "." in head and layer.rpartition(".")[0] == head.rpartition(".")[0]
    reads_logits = tensor.ndim >= _MATRIX and tensor.shape[1] == classes
    reads_pixels = tensor.ndim == _KERNEL and tensor.shape[1] <= _MOST_IMAGE_CHANNELS
    normalises = name.endswith("running_var") or (name.endswith("weight") and tensor.shape == (channels,))
    return beside_head or reads_logits or reads_pixels or normalises


def _recognise(state: State, path: Path) -> tuple[Layout, str]:
    """Return the layout, and the prefix before its names."""
    found: list[tuple[Layout, str]] = []
    for layout in LAYOUTS:
        # As little as possible: "features." belongs to Torch7's names.
        anchor = re.compile(rf"(.*\.)??{layout.anchor}", re.DOTALL)
        found += [(layout, match[1] or "") for name in state if (match := anchor.fullmatch(name))]
    prefixes = list(dict.fromkeys(prefix for _, prefix in found))
    if not found:
        raise CheckpointError(
            f"'{path}' is no ResNet or ResNeXt that is known here; its names begin with {shortened(state, 3)}",
            "`edgeresnext models` lists the networks.",
        )
    if len(prefixes) > 1:
        raise CheckpointError(
            f"'{path}' holds several networks, below {', '.join(map(repr, prefixes))}",
            f"Save the one that you want: {{name: tensor for name, tensor in state.items() if "
            f"name.startswith('{prefixes[0] or prefixes[1]}')}}",
        )
    return found[0]


def _renamed(name: str, layout: Layout) -> str:
    """Return torchvision's name of a layer of a layout."""
    for pattern, name_there in layout.renames:
        name = re.sub(pattern, name_there, name)
    return re.sub(r"^layer(\d)\.", lambda found: f"layer{int(found[1]) - layout.first_stage + 1}.", name)


def _belongs(name: str) -> bool:
    """Whether a name is one of the network before its head."""
    return re.match(r"(conv1|bn1|norm|layer\d)\.", name) is not None


def _head(state: State, names: list[str], body: State, path: Path) -> str:
    """Return the name of the layer that gives the logits: the one matrix whose inputs are the last block's channels."""
    stage = max(name.partition(".")[0] for name in body if name.startswith("layer"))
    last = next((f"{stage}.0.conv{n}.weight" for n in (3, 2) if f"{stage}.0.conv{n}.weight" in body), "")
    channels = len(body[last]) if last else 0
    found = [
        name.removesuffix(".weight")
        for name in names
        if name.endswith(".weight")
        and (state[name].ndim == _MATRIX or (state[name].ndim == _KERNEL and state[name].shape[2:].numel() == 1))
        and state[name].shape[1] == channels
    ]
    if len(found) != 1:
        what = "no classifier" if not found else f"several that may be the classifier: {', '.join(found)}"
        raise CheckpointError(
            f"'{path}' has {what}: a layer that reads the {channels} channels of the last block",
            "Give the checkpoint of a classifier." if not found else "Save the one that gives the logits as 'fc'.",
        )
    return found[0]
