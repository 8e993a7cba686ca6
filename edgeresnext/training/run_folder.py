"""The folder of a run: what was decided, how far it is, its best weights; every file appears whole or not at all.

run.json            what is trained on which images, and with which releases
start.safetensors   what it began with
recipe.toml         everything that was decided
metrics.jsonl       one line an epoch
state.safetensors   what resuming needs, of the last checkpoint
best.safetensors    the weights of the best epoch; beside them, where `build` finds them, best.labels.txt,
                    best.preprocess.json and, of a quantised network, best.ranges.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from edgeresnext import files
from edgeresnext.bundle.output import check_parent
from edgeresnext.data import labels, preprocessing
from edgeresnext.errors import CheckpointError, DataError, InputError, RequestError, shortened
from edgeresnext.model.checkpoints import COUNTER, save_state
from edgeresnext.model.weight_files import TRAINED_HERE, parse_safetensors
from edgeresnext.spec import Epoch, ModelSpec, TrainingRecipe, Value
from edgeresnext.training.recipes import to_toml

RUN, RECIPE, METRICS = "run.json", "recipe.toml", "metrics.jsonl"
START, STATE, BEST = "start.safetensors", "state.safetensors", "best.safetensors"
LABELS, PREPROCESS = (files.beside(BEST, what).name for what in (labels.BESIDE, preprocessing.BESIDE))
_LARGEST_STATE = 1 << 36
_LONGEST = 300
"""Characters of what PyTorch says of weights that do not fit."""


class Run(Value, frozen=True, kw_only=True):
    """What a run trains; resuming refuses another.

    `data` is the digest of the images (`images.Split.digest`), `weights` the SHA-256 of those that it began with, empty
    for random ones; `validation` the images that were set aside, relative to their folder.
    """

    model: ModelSpec
    recipe: TrainingRecipe
    classes: tuple[str, ...]
    data: str
    weights: str
    images: int
    validation: tuple[str, ...]
    about_validation: str
    created_with: dict[str, str]


@dataclass(kw_only=True)
class State:
    """How far a training is: the next step to take, and everything that it depends on.

    Whatever is drawn follows from the seed and its place (`images`), so no state of a generator belongs here.

    Args:
        epoch: The epoch under way, from 0.
        step: Steps of it that were made.
        loss: Sum of the losses of the epoch's images so far, and of how many.
        images: Those images.
        seconds: Spent on the epoch so far.
        history: The epochs that are over.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    images: int = 0
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch | None:
        """The best epoch so far, the first of equals."""
        return max(self.history, key=lambda one: one.merit, default=None)


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A run's folder, which this process alone writes."""

    path: Path

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            InputError: The disk is full, or the folder cannot be written.
        """
        with self.writing(name):
            files.write(self.path / name, content)

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Say which file could not be written, and what there is instead."""
        try:
            yield
        except OSError as error:
            state = self.path / STATE
            kept = f"; '{state}' is as it was, to resume from" if state.exists() else ""
            raise InputError(
                f"cannot write '{self.path / name}': {error.strerror}{kept}", "Free some space, or check the folder."
            ) from None

    def begin(self, run: Run, network: nn.Module) -> None:
        """Write down what is trained; `run.json` last, which makes it a run."""
        self.save_weights(START, network)
        self.write(RECIPE, to_toml(run.recipe))
        self.write(RUN, files.to_json(run))

    def save_weights(self, name: str, network: nn.Module) -> None:
        """Write a network's weights as the file `name`.

        Raises:
            InputError: As `write`.
        """
        with self.writing(name):
            save_state(network, self.path / name, TRAINED_HERE)

    def load_weights(self, name: str, network: nn.Module) -> None:
        """Give a network the weights of the file `name`.

        Raises:
            CheckpointError: They cannot be read, or are another network's.
        """
        path = self.path / name
        try:
            found = network.load_state_dict(parse_safetensors(files.read(path, _LARGEST_STATE), path), strict=False)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"'{path}' cannot be taken up: {_first_lines(error)}",
                "Give the network that it began with, or begin anew.",
            ) from None
        if others := [one for one in (*found.missing_keys, *found.unexpected_keys) if not one.endswith(COUNTER)]:
            raise CheckpointError(
                f"'{path}' is of another network: {shortened(others, 3)}", "Give the network that it began with."
            )

    def save(
        self, state: State, network: nn.Module, optimiser: torch.optim.Optimizer, average: nn.Module | None
    ) -> None:
        """Write the checkpoint, and the metrics that belong to it."""
        from safetensors.torch import save

        tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
        if average is not None:
            tensors |= {f"average/{name}": value for name, value in average.state_dict().items()}
        for index, values in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{name}": value for name, value in values.items() if value is not None}
        about = {
            "epoch": state.epoch, "step": state.step, "loss": state.loss, "images": state.images,
            "seconds": state.seconds, "history": msgspec.to_builtins(state.history),
        }  # fmt: skip
        whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        self.write(STATE, save(whole, metadata={"state": json.dumps(about)}))
        self.write(METRICS, b"".join(msgspec.json.encode(epoch) + b"\n" for epoch in state.history))

    def restore(self, network: nn.Module, optimiser: torch.optim.Optimizer, average: nn.Module | None) -> State:
        """Take up the checkpoint, where there is one.

        Raises:
            CheckpointError: It is damaged, or another network's.
        """
        path = self.path / STATE
        if not path.exists():
            return State()
        try:
            content = files.read(path, _LARGEST_STATE)
            size = int.from_bytes(content[:8], "little")
            about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["state"])
            state = msgspec.convert(about, State)
            tensors = parse_safetensors(content, path)
            network.load_state_dict(_below(tensors, "network/"))
            if average is not None:
                average.load_state_dict(_below(tensors, "average/"))
            _restore_optimiser(optimiser, _below(tensors, "optimiser/"))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError, msgspec.MsgspecError) as error:
            raise CheckpointError(
                f"the checkpoint '{path}' cannot be taken up: {_first_lines(error)}",
                "Begin anew in another folder, with the best weights that are there.",
            ) from None
        return state


def _first_lines(error: Exception) -> str:
    """Return what an error says, with the first of what PyTorch lists behind it."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2])[:_LONGEST]


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that it had."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def check_folder(path: Path, *, resume: bool) -> None:
    """Refuse a folder that a run cannot be in.

    Raises:
        RequestError: A run is there and is not to be resumed, or none is there to resume.
        InputError: It holds something else, or cannot be written.
    """
    if resume:
        read_run(path)
        return
    try:
        there = {one.name for one in path.iterdir()} if path.exists() else set()
    except NotADirectoryError:
        raise DataError(f"'{path}' is a file", "Give a new folder.", values=("output",)) from None
    except OSError as error:
        raise DataError(
            f"cannot look into '{path}': {error.strerror}", "Give another folder.", values=("output",)
        ) from None
    if {RUN, STATE} <= there:
        raise RequestError(
            f"'{path}' holds a run already", "Resume it, or give another folder.", values=("resume", "output")
        )
    check_parent(path)
    # A run that ended before its first checkpoint leaves what it would have begun with.
    others = there - ({START, RECIPE, RUN} if START in there else set())
    if any(not name.startswith(".") for name in others):
        raise DataError(f"'{path}' exists and holds no run", "Give a new folder.", values=("output",))


@contextmanager
def opened(path: Path, *, resume: bool) -> Iterator[RunFolder]:
    """Yield the folder of a run, in which no other process can then train.

    Raises:
        RequestError: As `check_folder`.
        InputError: As `check_folder`; or another process trains in it.
    """
    from filelock import FileLock, Timeout

    check_folder(path, resume=resume)
    lock = FileLock(path / ".lock")
    try:
        path.mkdir(parents=True, exist_ok=True)
        Path(lock.lock_file).touch()
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(
            f"another process is training in '{path}'", "Wait for it, or give another folder.", values=("output",)
        ) from None
    except OSError as error:
        raise DataError(
            f"cannot write in '{path}': {error.strerror}", "Give another folder.", values=("output",)
        ) from None
    try:
        files.remove_abandoned(path)
        yield RunFolder(path=path)
    finally:
        lock.release()


def read_run(path: str | Path) -> Run:
    """Return what a run's folder says that it trains.

    Raises:
        RequestError: There is none.
        DataError: It is damaged or of another release.
    """
    file = Path(path) / RUN
    try:
        return files.from_json(files.read(file), Run)
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(f"'{path}' holds no run to resume", "Give the folder of one.", values=("resume",)) from None
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise DataError(f"'{file}' cannot be read: {error}", "Begin anew in another folder.") from None


def differences(was: Run, now: Run) -> list[str]:
    """Return in words what a run that is to be resumed would do otherwise than it began."""
    found = []
    if was.classes != now.classes:
        found.append(f"classes: {len(was.classes)} then, {len(now.classes)} now, or others")
    if was.validation != now.validation:
        found.append(f"validation images: {was.about_validation} then, {now.about_validation} now")
    elif was.data != now.data:
        found.append(f"images: {was.images} then, {now.images} now" if was.images != now.images else "other images")
    if was.model != now.model:
        found.append(f"network: {was.model.name} then, {now.model.name} now, or of other shape or images")
    if was.weights != now.weights:
        found.append("other weights to begin with")
    for name in TrainingRecipe.__struct_fields__:
        one, other = getattr(was.recipe, name), getattr(now.recipe, name)
        if one != other:
            found.append(f"{name}: {one} then, {other} now")
    return found
