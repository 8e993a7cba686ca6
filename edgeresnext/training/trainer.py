"""The loop: epochs of steps from one checkpoint to the next, judged after each epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeresnext.errors import AccuracyError, DataError, RequestError, shortened
from edgeresnext.model.resnext import normalise
from edgeresnext.progress import Progress
from edgeresnext.spec import Epoch, ModelSpec, TrainingRecipe
from edgeresnext.training.held_signals import held
from edgeresnext.training.images import Images, order
from edgeresnext.training.judging import Judge, Judgement
from edgeresnext.training.losses import Loss
from edgeresnext.training.network import frozen_parts, optimiser, parameter_groups, set_mode
from edgeresnext.training.processes import Processes
from edgeresnext.training.run_folder import BEST, STATE, RunFolder, State

_NETWORK = 4
"""What is drawn (see `images`): whatever the network itself draws."""


@dataclass(kw_only=True)
class Trainer:
    """Trains a network on images, as a recipe says.

    Args:
        network: The network that learns.
        plain: The same, or the network inside a quantised one: what has the parts that a recipe names.
        spec: Its images and classes.
        recipe: With everything decided.
        loss: What is made small.
        train: The images that are learned from.
        validation: The images that judge, or None.
        run: Where checkpoints go.
        processes: Those that train together.
        best: Called with the network that is judged, whenever it is the best so far.
        callbacks: Told of each epoch.
        progress: Told of each step.

    Attributes:
        judge: Asks about the validation images; None without.
        judgement: Of the best weights; None where they are those of an earlier process.
    """

    network: nn.Module
    plain: nn.Module
    spec: ModelSpec
    recipe: TrainingRecipe
    loss: Loss
    train: Images
    validation: Images | None
    run: RunFolder
    processes: Processes
    best: Callable[[nn.Module], None]
    callbacks: Sequence[Callable[[Epoch], None]]
    progress: Progress
    state: State = field(default_factory=State)
    judgement: Judgement | None = None

    def __post_init__(self) -> None:
        """Take up what the run's folder holds, or write down the beginning."""
        recipe = self.recipe
        self.network.to(self.device)
        if recipe.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = averaged(self.network, recipe.ema) if recipe.ema else None
        self.optimiser = optimiser(parameter_groups(self.network, self.plain, recipe), recipe)
        self.state = self.run.restore(self.network, self.optimiser, self.average)
        targets = self.train.folder.targets or (0,) * len(self.train.folder.images)  # without labels, unused
        self._targets_of_training = torch.tensor(targets)
        if self.processes.first and not self.state.history and not self.state.step:
            self.run.save(self.state, self.network, self.optimiser, self.average)
        self.processes.wait()
        self._saved = time.monotonic()
        teacher, temperature = self.loss.teacher, recipe.temperature
        self.judge = None
        if self.validation is not None:
            self.judge = Judge(images=self.validation, prepare=self.images, teacher=teacher, temperature=temperature)

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        return self.processes.device

    @cached_property
    def steps(self) -> int:
        """Steps of every epoch."""
        return len(self.batches(0))

    @property
    def judged(self) -> nn.Module:
        """The network that is judged and written: the average, where there is one."""
        return self.network if self.average is None else self.average.module

    def go(self) -> None:
        """Train to the end of the recipe, or until nothing has become better for too long.

        Raises:
            AccuracyError: The loss is NaN or infinite; checkpoint and best weights are those of before.
            DataError: Too many images cannot be read.
            InputError: A checkpoint cannot be written; the one before is as it was.
        """
        if self.recipe.int8 is not None and not self.state.history and self.validation is not None:
            self._note(Epoch(epoch=0, loss=None, learning_rate=0.0, images=0, seconds=0.0))  # never to end below it
        while self.state.epoch < self.recipe.epochs and not self._is_stale():
            started = time.monotonic()
            frozen = frozen_parts(self.plain, self.recipe, self.state.epoch)
            set_mode(self.plain, self.recipe, frozen)
            if not any(one.requires_grad for one in self.plain.parameters()):
                raise RequestError("everything is frozen: nothing would learn", "Freeze less.", values=("freeze",))
            self._steps(self.processes.together(self.network), started)
            if self.state.step == self.steps:  # else a signal came, and nobody ended for it
                self._end_epoch()

    def _is_stale(self) -> bool:
        best = self.state.best
        return bool(self.recipe.patience and best and self.state.epoch - best.epoch >= self.recipe.patience)

    def batches(self, epoch: int) -> list[list[NDArray[np.int64]]]:
        """Return the batches of each step of an epoch, as positions; what is too little at the end is left out."""
        size, whole = self.recipe.batch, order(self.train.folder, self.recipe, epoch)
        cut = [whole[start : start + size] for start in range(0, len(whole), size)]
        cut = [part for part in cut if len(part) >= max(2, self.processes.count)]
        if not cut:
            raise DataError(f"'{self.train.folder.root}' has {len(whole)} images to learn from", "Give two or more.")
        group = self.recipe.accumulate
        return [cut[start : start + group] for start in range(0, len(cut), group)]

    def _steps(self, network: nn.Module, started: float) -> None:
        """Make those steps of the epoch that are left."""
        state = self.state
        left = self.batches(state.epoch)[state.step :]
        mine = [self.processes.part(part) for step in left for part in step]
        batches = self.train.stream(mine, state.epoch)
        stop, came = 0.0, False
        with held() as interrupted:
            for parts in left:
                self._step(network, [next(batches) for _ in parts], sum(len(part) for part in parts))
                state.step += 1
                minutes = (time.monotonic() - self._saved) / 60
                came = interrupted()
                # All processes or none: a checkpoint is waited for, and clocks and signals are each one's own.
                stop, due = self.processes.total(came, minutes > self.recipe.checkpoint_minutes)
                if stop or due:
                    self._save(time.monotonic() - started)
                    started = time.monotonic()
                if stop:
                    break  # and what came is handled where the block ends
                self.progress("train", state.epoch * self.steps + state.step, self.recipe.epochs * self.steps)
        if stop and not came:
            raise KeyboardInterrupt  # another process was asked to end
        self._save(time.monotonic() - started)  # judging may take long, and be interrupted too

    def _step(self, network: nn.Module, batches: Sequence[Any], planned: int) -> None:
        """Take one step: the gradient of a few batches together, and a move."""
        state, recipe = self.state, self.recipe
        rate = self.rate(state.epoch * self.steps + state.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimiser.zero_grad()
        summed, seen = 0.0, 0
        for number, batch in enumerate(batches):
            if any(self.processes.total(not len(batch.positions))):  # of any process: they take each batch together
                continue
            draw = state.epoch, state.step * recipe.accumulate + number
            targets = self._targets_of_training[torch.from_numpy(batch.positions)].to(self.device)
            with (
                self._drawing(draw),
                torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"),
            ):
                loss = self.loss(network, self.images(batch.pixels), targets, draw)
            (loss * (self.processes.count / planned)).backward()  # type: ignore[no-untyped-call]
            summed, seen = summed + float(loss.detach()), seen + len(batch.positions)
        summed, images = self.processes.total(summed, seen)
        if not math.isfinite(summed):
            names = [str(self.train.folder.images[index]) for batch in batches for index in batch.positions]
            raise self._diverged(f"the loss is {summed}, of {shortened(names, 3)}")
        if recipe.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        state.loss += summed
        state.images += int(images)

    @contextmanager
    def _drawing(self, draw: tuple[int, int]) -> Iterator[None]:
        """Let what a network itself draws, such as dropout, follow from the seed and its place too."""
        gpus = [self.device] if self.device.type == "cuda" else []
        source = [self.recipe.seed, _NETWORK, *draw, self.processes.rank]
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(int(np.random.SeedSequence(source).generate_state(1)[0]))
            yield

    def _diverged(self, what: str) -> AccuracyError:
        """Return the error of a training whose numbers are none any more."""
        rate = self.rate(min(self.state.epoch * self.steps + self.state.step, self.recipe.epochs * self.steps - 1))
        best = self.run.path / BEST
        begin = f"its best weights, '{best}'" if best.exists() else "where it began"
        return AccuracyError(
            f"training diverged in epoch {self.state.epoch + 1}, step {self.state.step + 1}: {what}; the last good "
            f"checkpoint is '{self.run.path / STATE}'",
            f"Begin again in another folder, from {begin}, with a learning rate of {rate / 10:.2g}, or clip gradients.",
            values=("learning_rate",),
        )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step of the whole run: a line up, half a cosine down (arXiv:1608.03983)."""
        assert self.recipe.learning_rate is not None
        total = self.recipe.epochs * self.steps
        rising = self.recipe.warmup * total
        if step < rising:
            return self.recipe.learning_rate * (step + 1) / (rising + 1)
        return self.recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1.0, total - rising)))

    def images(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return uint8 images as the network takes them."""
        found = normalise(torch.from_numpy(pixels).to(self.device), self.spec)
        return found.contiguous(memory_format=torch.channels_last) if self.recipe.channels_last else found

    def _end_epoch(self) -> None:
        """Judge the network after an epoch, and begin the next."""
        state = self.state
        finished = Epoch(
            epoch=state.epoch + 1, loss=state.loss / max(state.images, 1), images=state.images,
            learning_rate=self.rate((state.epoch + 1) * self.steps - 1), seconds=state.seconds,
        )  # fmt: skip
        state.epoch, state.step, state.loss, state.images, state.seconds = state.epoch + 1, 0, 0.0, 0, 0.0
        self._note(finished)

    def _note(self, finished: Epoch) -> None:
        """Judge the network, write it down where it is the best so far, and then that it was."""
        state = self.state
        found = None
        if self.processes.first and self.judge is not None:
            found = self.judge.ask(self.judged)
            finished = self.judge.judged(finished, found)
        (wrong,) = self.processes.total(found is not None and not found.is_finite)
        if wrong:
            raise self._diverged("what it says of the validation images are no finite numbers")
        finished = self.processes.from_first(finished)
        better = state.best is None or finished.merit > state.best.merit
        state.history.append(finished)
        if better and self.processes.first:
            self.best(self.judged)
            self.judgement = found
        with held():
            self._save(0.0)
        for callback in self.callbacks if self.processes.first else ():
            callback(finished)

    def _save(self, seconds: float) -> None:
        """Write a checkpoint, of a network that is one.

        Raises:
            AccuracyError: A weight is NaN or infinite.
        """
        if not all(bool(one.isfinite().all()) for one in self.network.parameters()):
            raise self._diverged("weights are no finite numbers")
        self.state.seconds += seconds
        if self.processes.first:
            self.run.save(self.state, self.network, self.optimiser, self.average)
        self._saved = time.monotonic()
        self.processes.wait()


def averaged(network: nn.Module, share: float) -> torch.optim.swa_utils.AveragedModel:
    """Return an average over steps that keeps `share` each time; less in the first ones, which have little to keep."""

    def mean(average: Tensor, now: Tensor, steps: Tensor | int) -> Tensor:
        if not average.is_floating_point():
            return now
        kept = min(share, (1 + int(steps)) / (10 + int(steps)))
        return average.lerp(now, 1 - kept)

    found = torch.optim.swa_utils.AveragedModel(deepcopy(network), avg_fn=mean, use_buffers=True)
    return found.requires_grad_(requires_grad=False)
