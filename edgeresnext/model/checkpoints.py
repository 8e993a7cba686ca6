"""From a weights file to a network, or a network of random weights.

file -> what it holds -> one dictionary of tensors -> torchvision's names -> the network that they belong to
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeresnext import files
from edgeresnext.errors import CheckpointError, shortened
from edgeresnext.model import ensemble, weight_files
from edgeresnext.model.catalogue import CATALOGUE
from edgeresnext.model.layouts import canonical
from edgeresnext.model.licences import licence_note
from edgeresnext.model.recognise import recognise
from edgeresnext.model.resnext import Block, ResNeXt
from edgeresnext.model.states import State, find_state
from edgeresnext.spec import ModelSpec, Preprocess

COUNTER = ".num_batches_tracked"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights, and what they say of the network that they belong to.

    Args:
        path: The file.
        state: float32 tensors by torchvision's names.
        spec: The network, with the class count of its classifier.
        notes: What was found and done on the way, as sentences.
        layout: Whose names the weights had.
        dtype: As most of them were stored.
    """

    path: Path
    state: State
    spec: ModelSpec
    notes: tuple[str, ...]
    layout: str
    dtype: str


def read(path: str | Path, preprocess: Preprocess, key: str | None = None) -> Checkpoint:
    """Read a checkpoint of any known layout, and recognise its network.

    Args:
        path: The file; what it holds counts, not its suffix.
        preprocess: How images become the network's input.
        key: Where the weights lie in the file, with dots between the levels; None for the only ones.

    Raises:
        CheckpointError: The file is missing, damaged or of another kind, would need code to be executed, or holds no
            network that is known here; the reason is given.
    """
    path = Path(path)
    found = find_state(weight_files.read(path), path, key)
    named = canonical(found.state, path)
    if "fc.bias" not in named.state:
        raise CheckpointError(
            f"the classifier '{named.head}' of '{path}' has no bias: a plain layer without one, or a comparison of "
            "directions (cosine), which is another network",
            f"Where it is plain, save zeros beside it: state['{named.head}.bias'] = "
            f"torch.zeros({len(named.state['fc.weight'])})",
        )
    notes = [*named.notes]
    if len(named.state["fc.weight"]) == 1:
        notes.append("it has one logit, of a sigmoid: class 1 is its presence, class 0 its absence")
        named = dataclasses.replace(named, state=named.state | _two_logits(named.state))
    spec = recognise(named.state, preprocess, path, cadene_se=named.cadene_se)
    licence = licence_note(path, named.layout, spec)
    if licence is not None:
        notes.append(licence)
    taken = (
        [f"weights taken from '{found.key}' (also there: {', '.join(map(repr, found.others))})"] if found.others else []
    )
    checkpoint = Checkpoint(
        path=path, state=named.state, spec=spec, notes=(*taken, *notes), layout=named.layout, dtype=found.dtype
    )
    _check_numbers(checkpoint)
    return checkpoint


def _two_logits(state: State) -> State:
    """Return the classifier of two logits, 0 and z, whose softmax is the sigmoid of z."""
    return {
        name: torch.cat([torch.zeros_like(state[name]), state[name]])
        for name in ("fc.weight", "fc.bias")
        if name in state
    }


def _check_numbers(checkpoint: Checkpoint) -> None:
    """Refuse weights that are no numbers, and a classifier that is none."""
    broken = [name for name, tensor in checkpoint.state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"weights file '{checkpoint.path}' holds NaN or infinity in {shortened(broken)}",
            "The training diverged or the file is damaged; use an earlier checkpoint.",
        )
    if not any(tensor.any() for name, tensor in checkpoint.state.items() if name.endswith("weight")):
        raise CheckpointError(
            f"all weights of '{checkpoint.path}' are zero", "The file was never filled; use another checkpoint."
        )
    if not checkpoint.spec.classes:
        raise CheckpointError(
            f"the classifier of weights file '{checkpoint.path}' has no class", "The file is damaged."
        )


def load_network(spec: ModelSpec, checkpoint: Checkpoint) -> ResNeXt:
    """Return the network of `spec` with the weights of a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: Names or shapes do not fit; the network that they do fit is named.
    """
    found = checkpoint.spec
    hint = "They fit no model known here; `edgeresnext models` lists the ones that are."
    if found.name in CATALOGUE and found.name != spec.name:
        hint = f"These are weights of {found.name}: use that name."
    network = _loaded(spec, checkpoint.state, checkpoint.path, hint)
    assert isinstance(network, ResNeXt)
    return network


def open_network(path: Path, preprocess: Preprocess) -> ResNeXt:
    """Return the network that a checkpoint holds, in evaluation mode.

    Raises:
        CheckpointError: As `read` and `load_network`.
    """
    found = read(path, preprocess)
    return load_network(found.spec, found)


def load_saved(spec: ModelSpec, path: Path, content: bytes | None = None) -> nn.Module:
    """Return the network, or the ensemble, whose weights `save_state` wrote, in evaluation mode.

    Args:
        spec: What it is.
        path: The file.
        content: What lies there, where that has been read and checked.

    Raises:
        CheckpointError: The file is damaged, or belongs to another network.
    """
    tensors = weight_files.read(path) if content is None else weight_files.parse_safetensors(content, path)
    return _loaded(spec, find_state(tensors, path).state, path, "Build the bundle again.")


def _loaded(spec: ModelSpec, state: State, path: Path, hint: str) -> nn.Module:
    """Return a network with weights, after comparing names and shapes."""
    network = _empty(spec)
    wanted = _shapes(network)
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    misshapen = [name for name in wanted if name in state and state[name].shape != wanted[name]]
    if missing or unexpected or misshapen:
        differences = ", ".join(_differences(missing, unexpected, misshapen, state, wanted))
        raise CheckpointError(f"weights file '{path}' does not fit {spec.name}: {differences}", hint)
    network.load_state_dict(state, strict=False, assign=True)
    return network.requires_grad_(requires_grad=False).eval()


def _differences(
    missing: list[str], unexpected: list[str], misshapen: list[str], state: State, wanted: Mapping[str, torch.Size]
) -> list[str]:
    """Say in what weights differ from those of a network."""
    found = [f"{len(missing)} missing keys ({shortened(missing, 3)})"] if missing else []
    found += [f"{len(unexpected)} unexpected keys ({shortened(unexpected, 3)})"] if unexpected else []
    if misshapen:
        name = misshapen[0]
        shapes = f"'{name}' is {tuple(state[name].shape)} instead of {tuple(wanted[name])}"
        found.append(f"{len(misshapen)} tensors of another shape ({shapes})")
    return found


def _empty(spec: ModelSpec) -> nn.Module:
    """Return the network without storage for its parameters, but with its step counters."""
    with torch.device("meta"):
        network = ensemble.empty(spec)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = torch.tensor(0)
    return network


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    """Return the shape of every tensor that a checkpoint must hold."""
    return {name: tensor.shape for name, tensor in network.state_dict().items() if not name.endswith(COUNTER)}


def random_network(spec: ModelSpec, seed: int) -> ResNeXt:
    """Return a network with seeded random weights that behaves like a trained one numerically, for latency work.

    BatchNorm statistics are those of one batch of noise, so every activation has unit scale, and each residual branch
    is scaled by 1 / sqrt(blocks), as in a normalised network close to its identity (De and Smith 2020,
    arXiv:2002.10444). PyTorch's plain initialisation would return nearly the same logits for every image.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ResNeXt(spec)
    share = sum(spec.depths) ** -0.5
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of the one batch, not a moving average
        elif isinstance(module, Block):
            last = module.get_submodule(f"{'conv' if spec.order == 'pre' else 'bn'}{module.count}")
            assert isinstance(last.weight, Tensor)
            nn.init.constant_(last.weight, share) if spec.order == "post" else last.weight.data.mul_(share)
    size = spec.preprocess.size
    coarse = torch.randn(8, spec.in_channels, *(max(edge // 8, 4) for edge in size), generator=generator)
    images = nn.functional.interpolate(coarse, size=size, mode="bilinear")
    with torch.no_grad():
        network.train()(images)
    return network.requires_grad_(requires_grad=False).eval()


def to_safetensors(network: nn.Module, about: dict[str, str] | None = None) -> bytes:
    """Return a network's weights as the content of a `.safetensors` file.

    Args:
        network: Whose weights.
        about: What the header says of them.
    """
    from safetensors.torch import save

    state = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(COUNTER)}
    places = Counter(tensor.untyped_storage().data_ptr() for tensor in state.values())
    alone = {  # what is shared is written for each of its names
        name: (tensor.clone() if places[tensor.untyped_storage().data_ptr()] > 1 else tensor).contiguous()
        for name, tensor in state.items()
    }
    # `save_file` would report a full disk as an error of its own kind, and make a file that its owner alone can read.
    return save(alone, about)


def save_state(network: nn.Module, path: Path, about: dict[str, str] | None = None) -> None:
    """Write what `to_safetensors` returns, whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    files.write(path, to_safetensors(network, about))
