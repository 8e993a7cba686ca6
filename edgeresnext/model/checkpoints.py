"""Read weights from `.safetensors`, `.pth` and `.pt` files into a network, or draw random ones.

Names are torchvision's. Wrappers of training programs (`state_dict`, `module.`, ...) are taken off.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeresnext import files
from edgeresnext.errors import CheckpointError, NotInstalledError, shortened
from edgeresnext.model.catalogue import CATALOGUE, specify
from edgeresnext.model.resnext import Bottleneck, ResNeXt
from edgeresnext.spec import ModelSpec

_SAFE_TORCH = (2, 6)
"""`torch.load(weights_only=True)` could be made to run code before this release (CVE-2025-32434)."""
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_IGNORED = ".num_batches_tracked"

State = dict[str, Tensor]


def read_state(path: str | Path) -> State:
    """Return the tensors of a checkpoint by name, without wrappers, prefixes and step counters.

    Raises:
        CheckpointError: The file is missing, damaged, of another kind, or would need code to be executed.
        NotInstalledError: PyTorch is too old to read pickled checkpoints safely.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"weights file '{path}' {what}", "Give a .safetensors, .pth or .pt file.")
    if path.suffix == ".safetensors":
        return _plain(path, _read_safetensors(path))
    if path.suffix in (".pth", ".pt"):
        return _plain(path, _read_pickle(path))
    raise CheckpointError(
        f"weights file '{path}' is neither .safetensors nor .pth nor .pt",
        "Save it with `safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')`.",
    )


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"weights file '{path}' is damaged: {error}", "Copy or download it again.") from None


def _read_pickle(path: Path) -> Mapping[str, Any]:
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if release < _SAFE_TORCH:
        raise NotInstalledError(
            f"PyTorch {torch.__version__} cannot read '{path}' safely (CVE-2025-32434)",
            "Install torch 2.6 or later, or convert the checkpoint to .safetensors.",
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"weights file '{path}' holds Python objects, not only tensors; it is not executed",
            "Save the tensors alone, where you trust the file: torch.save(model.state_dict(), 'weights.pth').",
        ) from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle raises whatever its first wrong byte leads to
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"weights file '{path}' is damaged: {reason}", "Copy or download it again.") from None
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"weights file '{path}' holds a {type(loaded).__name__}, not a dictionary of tensors",
            "Save it with `torch.save(model.state_dict(), 'weights.pth')`.",
        )
    return loaded


def _plain(path: Path, loaded: Mapping[str, Any]) -> State:
    """Take wrappers and prefixes off, leave step counters out, and keep float32 tensors."""
    for wrapper in _WRAPPERS:
        if isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
            break
    state: State = {}
    for name, tensor in loaded.items():
        plain = str(name)
        while plain.startswith(_PREFIXES):
            plain = plain.partition(".")[2]
        if not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"entry '{name}' of weights file '{path}' is a {type(tensor).__name__}, not a tensor",
                "Save the state dictionary alone: torch.save(model.state_dict(), 'weights.pth').",
            )
        if not plain.endswith(_IGNORED):
            state[plain] = tensor.float()
    return state


def count_classes(state: State, path: str | Path) -> int:
    """Return the number of classes that a checkpoint was trained for.

    Raises:
        CheckpointError: It has no `fc.weight`.
    """
    if "fc.weight" not in state:
        raise CheckpointError(
            f"weights file '{path}' has no 'fc.weight'; its keys begin with {shortened(state, 3)}",
            "Give a ResNet or ResNeXt checkpoint with torchvision's names (conv1, bn1, layer1.0.conv1, ..., fc).",
        )
    shape = tuple(state["fc.weight"].shape)
    if len(shape) != 2 or 0 in shape:  # noqa: PLR2004 - classes, features
        raise CheckpointError(
            f"'fc.weight' of weights file '{path}' has shape {shape}, not (classes, features)", "The file is damaged."
        )
    return shape[0]


def load_network(spec: ModelSpec, path: str | Path, state: State | None = None) -> ResNeXt:
    """Return the network of `spec` with the weights of a file, in evaluation mode.

    Args:
        spec: The architecture.
        path: The checkpoint, also for messages.
        state: What `read_state(path)` returned, if it was read already.

    Raises:
        CheckpointError: Keys or shapes do not fit, or a weight is NaN or infinite.
    """
    state = read_state(path) if state is None else state
    network = _empty(spec)
    wanted = _shapes(network)
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    misshapen = [name for name in wanted if name in state and state[name].shape != wanted[name]]
    if missing or unexpected or misshapen:
        parts = []
        if missing:
            parts.append(f"{len(missing)} missing keys ({shortened(missing, 3)})")
        if unexpected:
            parts.append(f"{len(unexpected)} unexpected keys ({shortened(unexpected, 3)})")
        if misshapen:
            name = misshapen[0]
            shapes = f"'{name}' is {tuple(state[name].shape)} instead of {tuple(wanted[name])}"
            parts.append(f"{len(misshapen)} tensors of another shape ({shapes})")
        raise CheckpointError(
            f"weights file '{path}' does not fit {spec.name}: {'; '.join(parts)}", _fitting(spec, state)
        )
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"weights file '{path}' holds NaN or infinity in {shortened(broken)}",
            "The training diverged or the file is damaged; use an earlier checkpoint.",
        )
    network.load_state_dict(state, strict=False, assign=True)
    return network.requires_grad_(requires_grad=False).eval()


def _empty(spec: ModelSpec) -> ResNeXt:
    """Return the network without storage for its parameters, but with its step counters."""
    with torch.device("meta"):
        network = ResNeXt(spec)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = torch.tensor(0)
    return network


def _shapes(network: ResNeXt) -> dict[str, torch.Size]:
    """Return the shape of every tensor that a checkpoint must hold."""
    return {name: tensor.shape for name, tensor in network.state_dict().items() if not name.endswith(_IGNORED)}


def _fitting(spec: ModelSpec, state: State) -> str:
    """Name the catalogue entry that a checkpoint does fit, if there is one."""
    classes = len(state["fc.weight"]) if "fc.weight" in state else spec.classes
    shapes = {name: tensor.shape for name, tensor in state.items()}
    for name in CATALOGUE:
        if _shapes(_empty(specify(name, classes=classes))) == shapes:
            return f"These are weights of {name}: use that name."
    return "They fit no model known here; `edgeresnext models` lists the ones that are."


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
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of the one batch, not a moving average
        elif isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, sum(spec.depths) ** -0.5)
    edge = spec.preprocess.crop_px
    coarse = torch.randn(8, 3, max(edge // 8, 4), max(edge // 8, 4), generator=generator)
    images = nn.functional.interpolate(coarse, size=(edge, edge), mode="bilinear")
    with torch.no_grad():
        network.train()(images)
    return network.requires_grad_(requires_grad=False).eval()


def save_state(network: ResNeXt, path: Path) -> None:
    """Write a network's weights as `.safetensors`, whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    from safetensors.torch import save

    state = network.state_dict()
    # `save_file` would report a full disk as an error of its own kind, and make a file that its owner alone can read.
    files.write(path, save({name: state[name].contiguous() for name in state if not name.endswith(_IGNORED)}))
