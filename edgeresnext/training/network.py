"""The network that is trained: where it begins, which parts of it learn, and how fast each does."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from edgeresnext.data.folder import comparable
from edgeresnext.errors import CheckpointError, RequestError, shortened
from edgeresnext.model.catalogue import specify
from edgeresnext.model.resnext import ResNeXt
from edgeresnext.pipeline.source import by_weights
from edgeresnext.progress import silent
from edgeresnext.spec import CheckpointOptions, ModelSpec, Preprocess, TrainingRecipe

_OWN = "the user"
"""Where a network of the user's own is from."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_log = logging.getLogger("edgeresnext")


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a training begins with.

    Args:
        network: Its weights.
        spec: What it is; of a network of the user's own, the images that it takes and its classes.
        weights: Where they are from, in words; nothing where they are random.
        labels: Those that lie beside the weights.
    """

    network: nn.Module
    spec: ModelSpec
    weights: str = ""
    labels: tuple[str, ...] = ()

    def knows(self, folders: Sequence[str]) -> bool:
        """Return whether class folders are the classes that the network tells apart."""
        return len(folders) == self.spec.classes and not (self.labels and others(folders, self.labels))


def begin(
    model: str | nn.Module | None,
    weights: str | Path | None,
    *,
    classes: Sequence[str],
    preprocess: Preprocess | None,
    new_head: bool,
    recipe: TrainingRecipe,
) -> Start:
    """Return the network, with as many logits as there are classes.

    Args:
        model: A name of the catalogue, a network of the user's own, or None for the one that the weights are of.
        weights: Where it begins; None for random weights, or those that the user's own network has.
        classes: In the order of the logits; none where it learns from a teacher, and keeps those that it has.
        preprocess: How images become its input.
        new_head: Whether the last layer begins anew though it would fit.
        recipe: Its seed is that of random weights; in INT8 there may be none.

    Raises:
        RequestError: There is no such network, or nothing says which.
        CheckpointError: Weights cannot be read, or are another network's, or for other classes of the same number.
    """
    if isinstance(model, nn.Module):
        if new_head:
            raise RequestError("a network of your own has its head", "Leave it out.", values=("new_head", "model"))
        return _own(model, weights, () if recipe.distil else classes, preprocess)
    if weights is None:
        if new_head:
            raise RequestError("a network without weights has a new head anyway", "Leave it out.", values=("new_head",))
        return _random(model, classes, preprocess, recipe)
    return _loaded(model, weights, classes, preprocess, recipe, new_head=new_head)


def _random(model: str | None, classes: Sequence[str], preprocess: Preprocess | None, recipe: TrainingRecipe) -> Start:
    """Return a network of the catalogue with random weights."""
    if recipe.int8 is not None:
        raise RequestError(
            "quantisation in training begins with weights",
            "Train in floating point first, and give the weights of that run.",
            values=("weights", "int8"),
        )
    if model is None:
        raise RequestError(
            "nothing says which network to train",
            "Name one of those that `edgeresnext models` lists, or give the weights to begin with.",
            values=("model", "weights"),
        )
    spec = specify(model, classes=len(classes) or None, preprocess=preprocess)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return Start(network=ResNeXt(spec), spec=spec)


def _loaded(
    model: str | None,
    weights: str | Path,
    classes: Sequence[str],
    preprocess: Preprocess | None,
    recipe: TrainingRecipe,
    *,
    new_head: bool,
) -> Start:
    """Return a network with weights, and a new head where its classes are not those of the images."""
    found = by_weights(
        model, [weights], preprocess=preprocess, labels=None, options=CheckpointOptions(), progress=silent
    )
    network, spec, names = found.network.requires_grad_(requires_grad=True), found.spec, found.names
    if not isinstance(network, ResNeXt):
        raise CheckpointError(f"'{weights}' is no single network", "Train its members one by one.", values=("weights",))
    if recipe.distil:  # class folders that are not its classes say nothing then
        if new_head:
            raise RequestError(
                "a new head has nothing of its teacher", "Train it with labels first.", values=("new_head", "distil")
            )
    elif classes and (new_head or len(classes) != spec.classes):
        what = f"'{weights}' has {spec.classes} classes and the images {len(classes)}"
        if recipe.int8 is not None:
            raise RequestError(
                f"{what}: its last layer would be new",
                "Train in floating point first, and give the weights of that run.",
                values=("weights", "int8"),
            )
        if not new_head:
            _log.warning("%s: its last layer begins anew", what)
        spec = msgspec.structs.replace(spec, classes=len(classes))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            network.fc = nn.Linear(network.fc.in_features, len(classes))
    elif classes and names and (strangers := others(classes, names)):
        raise CheckpointError(
            f"the classes of the images are not those of '{weights}', in its order: {shortened(strangers, 3)}",
            "Begin with a new head, or name the class folders as the weights' labels are.",
            values=("new_head",),
        )
    return Start(network=network, spec=spec, weights=str(weights), labels=names)


def others(classes: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return in words which classes are not those of the labels at their place."""
    pairs = zip(classes, labels, strict=True)
    return [f"'{mine}' for '{its}'" for mine, its in pairs if comparable(mine) != comparable(its)]


def begin_again(spec: ModelSpec, model: str | nn.Module | None, preprocess: Preprocess | None) -> Start:
    """Return the network of a run that is resumed, whose weights the run's folder has.

    Args:
        spec: What it is.
        model: A name, which must be its own; or, of a run that trains a network of the user's own, that network.
        preprocess: What must be its own; None for whatever it is.

    Raises:
        RequestError: A module is missing, or there is none to give.
    """
    own = spec.source == _OWN
    if own is not isinstance(model, nn.Module):
        what = "a network of your own, and is given no module" if own else f"{spec.name}, and is given a module"
        hint = "Give the module that it began with." if own else "Leave it out."
        raise RequestError(f"the run trains {what}", hint, values=("model",))
    network = model if isinstance(model, nn.Module) else ResNeXt(spec)
    if isinstance(model, str):
        spec = msgspec.structs.replace(spec, name=model)
    if preprocess is not None:
        spec = msgspec.structs.replace(spec, preprocess=preprocess)
    return Start(network=network, spec=spec)


def _own(
    network: nn.Module, weights: str | Path | None, classes: Sequence[str], preprocess: Preprocess | None
) -> Start:
    """Return a network of the user's own."""
    if weights is not None or preprocess is None:
        what = "weights beside a network" if weights is not None else "a network without its preprocessing"
        raise RequestError(
            f"{what} cannot be trained", "Give the network with its weights loaded, and a Preprocess.",
            values=("weights", "preprocess"),
        )  # fmt: skip
    said = _logits_of_one(network, preprocess)
    shape = tuple(said.shape) if isinstance(said, Tensor) else f"a {type(said).__name__}"
    if not isinstance(said, Tensor) or said.ndim != 2 or (classes and said.shape[1] != len(classes)):  # noqa: PLR2004
        raise RequestError(
            f"the network returns {shape} for one image, and there are {len(classes)} classes",
            "Its last layer must return a logit a class.",
            values=("model",),
        )
    spec = ModelSpec(
        name=type(network).__name__, depths=(1,), cardinality=1, width_per_group=1, preprocess=preprocess,
        classes=said.shape[1], source=_OWN,
    )  # fmt: skip
    return Start(network=network, spec=spec)


def _logits_of_one(network: nn.Module, preprocess: Preprocess) -> Any:  # noqa: ANN401 - whatever it returns
    """Return what a network says of one black image.

    Raises:
        RequestError: It takes no such image.
    """
    was_training = network.training
    tensors = itertools.chain(network.parameters(), network.buffers())
    device = next((one.device for one in tensors), torch.device("cpu"))
    try:
        with torch.no_grad():
            return network.eval()(torch.zeros(1, preprocess.channels, *preprocess.size, device=device))
    except Exception as error:  # noqa: BLE001 - whatever a network of the user does
        what = (str(error).splitlines() or [""])[0]
        raise RequestError(
            f"the network does not take an image of {preprocess.channels} x {preprocess.size}: "
            f"{type(error).__name__}: {what}",
            "Give the preprocessing that it was made for.",
            values=("model", "preprocess"),
        ) from None
    finally:
        network.train(was_training)


def parts(network: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the parts of a network in the order of the images' way: stem, layer1 and so on, and the head last.

    What stands before `layer1` is the stem, and what follows the last layer the head; of a network without such names
    each child is a part, the first the stem and the last the head. A network in a wrapper has the parts of the network.
    """
    children = [(name, child) for name, child in network.named_children() if next(child.parameters(), None) is not None]
    if len(children) == 1 and any(True for _ in children[0][1].children()):
        return parts(children[0][1])
    layers = [name for name, _ in children if name.startswith("layer")]
    found: dict[str, list[nn.Module]] = {}
    for index, (name, child) in enumerate(children):
        if layers:
            seen = any(other in layers for other, _ in children[:index])
            part = name if name in layers else "head" if seen else "stem"
        else:
            part = "stem" if index == 0 else "head" if index == len(children) - 1 else name
        found.setdefault(part, []).append(child)
    return found


def frozen_parts(network: nn.Module, recipe: TrainingRecipe, epoch: int) -> list[str]:
    """Return the parts that do not learn in an epoch, counted from 0.

    Raises:
        RequestError: The network has no part of that name.
    """
    names = list(parts(network))
    if not recipe.freeze:
        return []
    if recipe.freeze == "all-but-head":
        frozen = names[:-1]
    elif recipe.freeze in names:
        frozen = names[: names.index(recipe.freeze) + 1]
    else:
        raise RequestError(
            f"the network has no part '{recipe.freeze}' to freeze",
            f"Its parts are {', '.join(names)}.",
            values=("freeze",),
        )
    if not frozen or len(frozen) == len(names):
        what = "all of it" if frozen else "nothing"
        raise RequestError(
            f"freezing '{recipe.freeze}' would freeze {what}", f"Its parts are {', '.join(names)}.", values=("freeze",)
        )
    joined = epoch // recipe.unfreeze_epochs if recipe.unfreeze_epochs else 0
    return frozen[: max(0, len(frozen) - joined)]


def set_mode(network: nn.Module, recipe: TrainingRecipe, frozen: Sequence[str]) -> None:
    """Let the parts that learn learn, and BatchNorm keep its statistics in those that do not."""
    network.train()
    for name, modules in parts(network).items():
        for module in modules:
            if recipe.freeze:  # else what the user froze stays so
                module.requires_grad_(name not in frozen)
            for child in module.modules():
                if isinstance(child, BATCH_NORMS) and (recipe.frozen_statistics or name in frozen):
                    child.eval()


def parameter_groups(network: nn.Module, plain: nn.Module, recipe: TrainingRecipe) -> list[dict[str, Any]]:
    """Return the parameters by part and by whether they decay, each group with the `factor` of its learning rate.

    Args:
        network: All that learns.
        plain: What of it has the parts.
        recipe: Their rates.
    """
    groups: list[dict[str, Any]] = []
    thresholds = [one for name, one in network.named_parameters() if name == "log_thresholds"]
    seen = set(map(id, thresholds))
    by_depth = [*reversed(parts(plain).values()), [network]]  # the rest learns as the head does
    for depth, modules in enumerate(by_depth):
        fresh = [one for module in modules for one in module.parameters() if id(one) not in seen]
        fresh = list(dict.fromkeys(fresh))
        seen |= {id(one) for one in fresh}
        factor = 1.0 if depth == len(by_depth) - 1 else recipe.layer_decay**depth
        for decays in (True, False):
            if chosen := [one for one in fresh if (one.ndim > 1) is decays]:
                decay = recipe.weight_decay if decays else 0.0
                groups.append({"params": chosen, "factor": factor, "weight_decay": decay})
    if thresholds:
        groups.append({"params": thresholds, "factor": recipe.threshold_factor, "weight_decay": 0.0})
    return groups


def optimiser(groups: list[dict[str, Any]], recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe; its learning rate is set before each step."""
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=0.0)
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
