"""What is thought of a network: its answers to the validation images, against their labels or a teacher's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeresnext.spec import Epoch
from edgeresnext.training.images import Images
from edgeresnext.training.losses import distance

_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a network says of the validation images.

    Args:
        positions: Of the images in their folder, without those that cannot be read.
        logits: float32 `(N, classes)`.
    """

    positions: NDArray[np.int64]
    logits: NDArray[np.float32]

    @property
    def answers(self) -> NDArray[np.int64]:
        """The class that is named of each image."""
        found: NDArray[np.int64] = self.logits.argmax(1)
        return found

    @property
    def is_finite(self) -> bool:
        """Whether all logits are finite numbers."""
        return bool(np.isfinite(self.logits).all())


@dataclass(kw_only=True)
class Judge:
    """Asks networks about the validation images.

    Args:
        images: Those.
        prepare: Makes uint8 images what a network takes.
        teacher: Who knows the answers where labels do not; None where nobody is needed.
        temperature: Of the distance to what it says.
    """

    images: Images
    prepare: Callable[[NDArray[np.uint8]], Tensor]
    teacher: nn.Module | None
    temperature: float

    def ask(self, network: nn.Module) -> Judgement:
        """Return what a network says of the images."""
        was_training = network.training
        network.eval()
        count = len(self.images.folder.images)
        parts = [np.arange(start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE)]
        logits, positions = [], []
        with torch.inference_mode():
            for batch in self.images.stream(parts, 0):
                if len(batch.positions):
                    logits.append(network(self.prepare(batch.pixels)).float().cpu())
                    positions.append(batch.positions)
        network.train(was_training)
        return Judgement(positions=np.concatenate(positions), logits=torch.cat(logits).numpy())

    @cached_property
    def _taught(self) -> Judgement:
        """What the teacher says: always the same."""
        assert self.teacher is not None
        return self.ask(self.teacher)

    def judged(self, epoch: Epoch, found: Judgement) -> Epoch:
        """Return an epoch with what its network said, judged."""
        values: dict[str, float] = {}
        if self.images.folder.targets:
            targets = np.array(self.images.folder.targets)[found.positions]
            logits = torch.from_numpy(found.logits)
            values["top1"] = float((found.answers == targets).mean())
            values["validation_loss"] = float(nn.functional.cross_entropy(logits, torch.from_numpy(targets)))
        if self.teacher is not None:  # whose distance is then the loss of training too
            both = np.intersect1d(found.positions, self._taught.positions)  # an image may have become unreadable since
            mine, its = (one.logits[np.isin(one.positions, both)] for one in (found, self._taught))
            values["agreement"] = float((mine.argmax(1) == its.argmax(1)).mean())
            away = distance(torch.from_numpy(mine), torch.from_numpy(its), self.temperature)
            values["validation_loss"] = float(away) / len(both)
        return msgspec.structs.replace(epoch, **values)
