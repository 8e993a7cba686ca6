"""Checkpoints made by the libraries themselves: which network is recognised, and whether it computes the same.

    pip install --no-deps torchvision timm pretrainedmodels transformers lightning    # for this script alone
    python benchmarks/checkpoints.py

Each network gets random weights and BatchNorm statistics, is saved as its library saves it, and read here. A library
that is not installed is left out, and said to be.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import save, scratch

from edgeresnext.errors import EdgeResNeXtError
from edgeresnext.model import checkpoints
from edgeresnext.model.catalogue import PREPROCESS

IMAGES_PX = 224
LIMIT = 1e-5
"""Of the largest logit; float32's rounding, where layers are added in another order."""

TORCHVISION = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
TIMM = (
    "resnet18", "resnet18d", "resnet26", "resnet50", "resnet50c", "resnet50d", "resnext50_32x4d", "resnext50d_32x4d",
    "resnext101_32x4d", "seresnet50", "seresnext50_32x4d", "legacy_seresnet50", "legacy_seresnext50_32x4d", "resnetv2_50",
    "wide_resnet50_2",
)  # fmt: skip
CADENE = (
    "resnet50",
    "resnext101_32x4d",
    "resnext101_64x4d",
    "se_resnet50",
    "se_resnext50_32x4d",
    "se_resnext101_32x4d",
)
OTHERS = ("resnetblur50", "resnetaa50", "ecaresnet50d", "skresnext50_32x4d", "resnet50_gn", "resnet50t")
"""timm's networks that compute something else: refused, or told by their statistics (`model.plausibility`)."""


def allow_torchvision() -> None:
    """Let torchvision be imported beside a PyTorch that its compiled operators do not fit; no network here uses them."""
    register = torch.library.register_fake

    def register_fake(operator: Any, *rest: Any, **options: Any) -> Any:
        if isinstance(operator, str) and operator.startswith("torchvision::"):
            return lambda function: function
        return register(operator, *rest, **options)

    torch.library.register_fake = register_fake


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Give BatchNorms statistics that matter."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


def networks() -> Iterator[tuple[str, str, Callable[[], torch.nn.Module], Callable[[torch.nn.Module, Path], None]]]:
    """Yield the library, the network, how it is made and how it is saved."""
    for name in TORCHVISION:
        yield "torchvision", name, lambda name=name: getattr(module("torchvision").models, name)(), save_state
    for name in (*TIMM, *OTHERS):
        yield "timm", name, lambda name=name: module("timm").create_model(name), save_state
    for name in CADENE:
        yield "pretrainedmodels", name, lambda name=name: cadene(name), save_state
    for kind, sizes in {"bottleneck": [256, 512, 1024, 2048], "basic": [64, 128, 256, 512]}.items():
        yield (
            "transformers",
            f"ResNet, {kind}",
            lambda kind=kind, sizes=sizes: transformers(kind, sizes),
            save_pretrained,
        )
    yield (
        "pytorch-lightning",
        "resnext50_32x4d",
        lambda: module("torchvision").models.resnext50_32x4d(weights=None),
        save_lightning,
    )


def module(name: str) -> Any:
    """Import a library."""
    return importlib.import_module(name)


def cadene(name: str) -> torch.nn.Module:
    """Return one of Cadene's networks; it pools over 7x7 pixels, the same as all of them at 224 px."""
    return module("pretrainedmodels").__dict__[name](num_classes=1000, pretrained=None)


def transformers(kind: str, sizes: list[int]) -> torch.nn.Module:
    """Return a network of Hugging Face transformers."""
    config = module("transformers.models.resnet.configuration_resnet").ResNetConfig
    network = module("transformers.models.resnet.modeling_resnet").ResNetForImageClassification
    return network(config(layer_type=kind, hidden_sizes=sizes, depths=[3, 4, 6, 3]))


def save_state(network: torch.nn.Module, path: Path) -> None:
    """Save as the ImageNet example does."""
    torch.save({"epoch": 90, "state_dict": network.state_dict(), "optimizer": {"state": {}, "param_groups": []}}, path)


def save_pretrained(network: torch.nn.Module, path: Path) -> None:
    """Save as transformers does."""
    network.save_pretrained(path.parent)
    (path.parent / "model.safetensors").rename(path)


def save_lightning(network: torch.nn.Module, path: Path) -> None:
    """Save as Lightning does: a module around the network, trained for no step."""
    lightning = module("pytorch_lightning")

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network
            self.save_hyperparameters({"rate": 0.1})

    trainer = lightning.Trainer(max_epochs=0, logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(Classifier())
    trainer.save_checkpoint(path)


def measure(network: torch.nn.Module, path: Path) -> dict[str, Any]:
    """Read a checkpoint and compare logits."""
    try:
        found = checkpoints.read(path, PREPROCESS["torchvision-v1"])
        ours = checkpoints.load_network(found.spec, found)
    except EdgeResNeXtError as error:
        return {"recognised": None, "difference": None, "said": error.what.replace(f"'{path}'", "the file")}
    images = torch.randn(2, 3, IMAGES_PX, IMAGES_PX, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = network(images)
        theirs = getattr(theirs, "logits", theirs)
        difference = float((theirs - ours(images)).abs().max() / theirs.abs().max())
    return {"recognised": found.spec.name, "difference": difference, "said": ", ".join(found.notes)}


def main() -> None:
    """Try every network of every library that is installed."""
    warnings.simplefilter("ignore")
    allow_torchvision()
    rows, versions = [], {}
    for library, name, make, write in networks():
        with scratch() as folder:
            path = folder / "checkpoint"
            try:
                network = randomised(make())
                write(network, path)
                versions[library] = importlib.metadata.version(library)
            except ImportError as error:
                found = {"recognised": None, "difference": None, "said": f"{error.name} is not installed"}
            else:
                found = measure(network, path)
        rows.append({"library": library, "network": name, "other": name in OTHERS, **found})
        print(rows[-1], flush=True)
    save("checkpoints", {"limit": LIMIT, "rows": rows}, **versions)


if __name__ == "__main__":
    main()
