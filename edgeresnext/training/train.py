"""Train a network on an image folder, from weights or from nothing: the stages in order. Read this first.

images, split -> network -> recipe, decided -> folder of the run -> epochs, each judged -> best weights, page
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn

from edgeresnext import directories, files
from edgeresnext.data import calibration_set
from edgeresnext.errors import RequestError
from edgeresnext.extras import lacking, require
from edgeresnext.machine.allocator import keeping_freed_memory
from edgeresnext.machine.environment import package_versions
from edgeresnext.progress import Progress, silent
from edgeresnext.spec import Epoch, Preprocess, Recipe, TrainingRecipe
from edgeresnext.training import recipes
from edgeresnext.training.images import Images, Split, split
from edgeresnext.training.losses import Loss, class_weights
from edgeresnext.training.network import Start, begin, begin_again, frozen_parts, set_mode
from edgeresnext.training.processes import Processes, joined, synchronised
from edgeresnext.training.run_folder import (
    BEST,
    LABELS,
    PREPROCESS,
    START,
    Run,
    RunFolder,
    check_folder,
    differences,
    opened,
    read_run,
)
from edgeresnext.training.trainer import Trainer

_PACKAGES = ("edgeresnext", "torch", "numpy", "pillow")
_WEIGHTS_WRITTEN = 3
"""Files of a run that have all weights: the first, the best, the state."""
_log = logging.getLogger("edgeresnext")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What came of a training.

    Args:
        network: With its best weights, in evaluation mode.
        path: The folder of the run.
        run: What was trained.
        history: Its epochs.
        data: The folder of the images that it learned from.
    """

    network: nn.Module = field(repr=False)
    path: Path
    run: Run
    history: tuple[Epoch, ...]
    data: Path

    @property
    def best(self) -> Epoch:
        """The epoch of the best weights."""
        return max(self.history, key=lambda one: one.merit)

    @property
    def weights(self) -> Path:
        """The file of the best weights."""
        return self.path / BEST


def train(
    data: str | Path,
    *,
    output: str | Path | None = None,
    model: str | nn.Module | None = None,
    weights: str | Path | None = None,
    resume: str | Path | None = None,
    validation: str | Path | None = None,
    preprocess: Preprocess | None = None,
    recipe: str | Path | TrainingRecipe | None = None,
    new_head: bool = False,
    callbacks: Iterable[Callable[[Epoch], None]] = (),
    progress: Progress = silent,
) -> Training:
    """Train a network; its best weights, its metrics and a page about it are written into the folder of a run.

    Killed at any moment and resumed, a run ends with the weights that it would have had: to the bit on a CPU with the
    same number of threads and the same releases.

    Args:
        data: Folder with one folder of images a class; or with `train` and `val` (or `valid`, `validation`), which hold
            those. A `test` beside them is left alone.
        output: Folder of the run; a new one.
        model: A name of the catalogue, or a network of your own that returns logits; None for that of the weights.
        weights: Where it begins: a file, or a name as `build` takes it. None for random weights.
        resume: Folder of a run to go on with. All else is as it was then, and refused where it is given otherwise.
        validation: Labelled folder that judges each epoch; None for a tenth of each class, drawn by the seed.
        preprocess: Resize, crop and normalisation, where they differ from the catalogue's.
        recipe: quick, standard, long or int8, a TOML file, or a value; None for standard.
        new_head: Begin with a new last layer though the weights' own has as many classes.
        callbacks: Each is told of every epoch.
        progress: Told how many steps are over.

    Raises:
        RequestError: A name does not exist, or options contradict each other.
        InputError: Weights, images or the folder cannot be used.
        NotInstalledError: A package of the `build` extra is missing.
        AccuracyError: Training diverged; the last good checkpoint is there.
    """
    require("build", "torch", "safetensors", "tomli_w", needed_by="training")
    if (output is None) is (resume is None):
        raise RequestError(
            "a training needs either a new folder or one to resume", "Give one of the two.", values=("output", "resume")
        )
    path = Path(str(output if resume is None else resume))
    check_folder(path, resume=resume is not None)
    was = None if resume is None else read_run(path)
    asked = recipes.read(recipe) if recipe is not None else was.recipe if was else recipes.RECIPES["standard"]
    if asked.tensorboard:
        require("tensorboard", "tensorboard", needed_by="events for TensorBoard")
    _check_outside(path, data, validation)
    pictures = split(data, validation, asked)
    if was is not None:
        if new_head:
            raise RequestError("a run that goes on has its head", "Leave it out.", values=("new_head", "resume"))
        start = begin_again(was.model, model, preprocess)
    else:
        start = begin(model, weights, classes=pictures.classes, preprocess=preprocess, new_head=new_head, recipe=asked)
    if asked.distil and not _known(pictures.classes, start, was):
        pictures = pictures.without_labels()
    now = _described(start, pictures, asked, weights, was)
    if was is not None and (others := differences(was, now)):
        raise RequestError(
            f"'{resume}' cannot be resumed with what is not its own: {'; '.join(others)}",
            "Leave it out, or begin anew in another folder.",
            values=("resume",),
        )
    set_mode(start.network, now.recipe, frozen_parts(start.network, now.recipe, 0))  # refuses what it does not have
    with joined() as processes, _folder(path, processes, resume=was is not None) as run:
        if was is None and processes.first:
            weights_bytes = 4 * sum(one.numel() for one in start.network.parameters())
            directories.check_room(run.path, _WEIGHTS_WRITTEN * weights_bytes)
            run.begin(now, start.network)
        processes.wait()
        run.load_weights(START, start.network)
        told = (*callbacks, *([_tensorboard(run)] if now.recipe.tensorboard else []))
        trainer = _trainer(start, pictures, now, run, processes, told, progress)
        with keeping_freed_memory(), synchronised(trainer.network, processes):
            trainer.go()
        run.load_weights(BEST, start.network)
        if processes.first:
            _draw(trainer, now, run)
        return Training(
            network=start.network.eval(), path=path, run=now, history=tuple(trainer.state.history),
            data=pictures.train.root,
        )  # fmt: skip


def _check_outside(path: Path, *sources: str | Path | None) -> None:
    """Refuse a folder of a run that lies among the images: its pictures would be some of them."""
    for source in (Path(one).resolve() for one in sources if one is not None):
        if source == path.resolve() or source in path.resolve().parents:
            raise RequestError(
                f"the run '{path}' would lie among the images in '{source}', and its pictures be some of them",
                "Give a folder beside them.",
                values=("output",),
            )


def _known(folders: tuple[str, ...], start: Start, was: Run | None) -> bool:
    """Return whether class folders are the classes that a network names, by what it or its run says of them."""
    if was is not None:
        return bool(was.classes)
    if start.knows(folders):
        return True
    if folders:
        _log.warning("the folders are not the classes of the network: they are taken for images without labels")
    return False


@contextmanager
def _folder(path: Path, processes: Processes, *, resume: bool) -> Iterator[RunFolder]:
    """Yield the folder of the run, which the first process opens for all."""
    if not processes.first:
        yield RunFolder(path=path)
        return
    with opened(path, resume=resume) as run:
        yield run


def _described(
    start: Start, pictures: Split, asked: TrainingRecipe, weights: str | Path | None, was: Run | None
) -> Run:
    """Return what is trained, with everything decided."""
    digest = "" if weights is None else files.digest(Path(weights)) if Path(weights).is_file() else str(weights)
    held = pictures.validation
    return Run(
        model=start.spec,
        recipe=recipes.decide(asked, start.spec, fine_tuning=bool(start.weights if was is None else was.weights)),
        classes=pictures.classes,
        data=pictures.digest,
        weights=was.weights if was is not None and weights is None else digest,
        images=len(pictures.train.images),
        validation=() if held is None else tuple(_sayable(path.relative_to(held.root)) for path in held.images),
        about_validation=pictures.about,
        created_with=was.created_with if was else package_versions(*_PACKAGES),
    )


def _sayable(name: Path) -> str:
    """Return a file's name; what is no UTF-8 in it is escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _trainer(  # noqa: PLR0917 - the values of a run, each of a kind of its own
    start: Start,
    pictures: Split,
    now: Run,
    run: RunFolder,
    processes: Processes,
    callbacks: tuple[Callable[[Epoch], None], ...],
    progress: Progress,
) -> Trainer:
    """Return what trains the network, quantised where the recipe says so."""
    recipe, preprocess, plain = now.recipe, start.spec.preprocess, start.network
    teacher = deepcopy(plain).eval().to(processes.device) if recipe.distil else None
    network = plain if recipe.int8 is None else _quantised(start, pictures, recipe, progress)
    weights = None
    if recipe.balance == "weights":
        weights = class_weights(np.array(pictures.train.targets), len(pictures.classes)).to(processes.device)

    def keep(best: nn.Module) -> None:
        run.write(PREPROCESS, files.to_json(preprocess))
        if names := pictures.classes or start.labels:
            run.write(LABELS, "".join(f"{name}\n" for name in names).encode())
        if recipe.int8 is None:
            run.save_weights(BEST, best)
            return
        from edgeresnext.training.int8 import save
        from edgeresnext.training.quantised import QuantisedNetwork

        assert isinstance(best, QuantisedNetwork)
        with run.writing(BEST):
            save(best, run.path / BEST)

    held = pictures.validation
    return Trainer(
        network=network,
        plain=plain,
        spec=start.spec,
        recipe=recipe,
        loss=Loss(recipe=recipe, classes=start.spec.classes, weights=weights, teacher=teacher),
        train=Images(folder=pictures.train, preprocess=preprocess, recipe=recipe),
        validation=None if held is None else Images(folder=held, preprocess=preprocess, recipe=None),
        run=run,
        processes=processes,
        best=keep,
        callbacks=callbacks,
        progress=progress,
    )


def _quantised(start: Start, pictures: Split, recipe: TrainingRecipe, progress: Progress) -> nn.Module:
    """Return the network as its INT8 file will run it, with the ranges that calibration finds."""
    from edgeresnext.training.int8 import quantised

    assert recipe.int8 is not None
    usual = Recipe(seed=recipe.seed)
    images = calibration_set.from_folder(
        pictures.train, start.spec.preprocess, usual.samples, usual.seed,
        lambda done, total: progress("read images", done, total), stratified=usual.stratified,
    )  # fmt: skip
    return quantised(
        start.network, start.spec, images, usual,
        activations=recipe.int8, learned=recipe.learned_ranges, progress=progress,
    )  # fmt: skip


def _tensorboard(run: RunFolder) -> Callable[[Epoch], None]:
    """Return what writes each epoch for TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(run.path / "tensorboard")

    def note(epoch: Epoch) -> None:
        for name in ("loss", "validation_loss", "top1", "agreement", "learning_rate"):
            if (value := getattr(epoch, name)) is not None:
                writer.add_scalar(name, value, epoch.epoch)
        writer.flush()

    return note


def _draw(trainer: Trainer, now: Run, run: RunFolder) -> None:
    """Write the pictures of the run, where what draws them is installed."""
    missing = lacking("plot", "jinja2", "matplotlib")
    if missing is not None:
        _log.warning("no learning curve and no page are drawn: %s", missing)
        return
    from edgeresnext.training.page import Outcome, pictures

    held, judgement = trainer.validation, trainer.judgement
    if judgement is None and trainer.judge is not None:  # of a run that was resumed behind its best epoch
        if now.recipe.int8 is not None:
            from edgeresnext.training.int8 import restore_thresholds

            restore_thresholds(trainer.network, run.path / BEST)
        judgement = trainer.judge.ask(trainer.network)
    outcome = Outcome(
        run=now, history=trainer.state.history, validation=None if held is None else held.folder,
        judgement=judgement,
    )  # fmt: skip
    for name, content in pictures(outcome).items():
        run.write(name, content)
