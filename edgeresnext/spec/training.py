"""How a network is trained, and what came of each epoch."""

from __future__ import annotations

import math
from typing import Literal

from edgeresnext.spec.quantisation import Activations
from edgeresnext.spec.value import Value


class TrainingRecipe(Value, frozen=True, kw_only=True):
    """How a network is trained; the form of `recipe.toml`. What is None is decided by the task, and recorded.

    Steps: `epochs` of batches of `batch` images, of which `accumulate` make one step; the learning rate rises over
    the first `warmup` of all steps to `learning_rate`, and falls as half a cosine to nothing (arXiv:1608.03983).
    `optimiser` is sgd, with Nesterov's `momentum`, or adamw; `weight_decay` is not for norms and biases
    (arXiv:1812.01187), and gradients are clipped to a norm of `clip`, where it is not 0.

    What is trained: nothing up to and including `freeze`: stem, layer1 to layer4, or all-but-head; every
    `unfreeze_epochs` the next part joins in, where that is not 0. Each part's rate is `layer_decay` times that of the
    part after it. With `frozen_statistics` BatchNorm keeps its means and variances.

    Images: `geometry` none, shift (by a sixteenth) or crop (a random part, resized; arXiv:1409.4842); `flip` left to
    right; `trivial` one random operation of TrivialAugment (arXiv:2103.10158); `erase` the share with a random box
    erased (arXiv:1708.04896); `mixup` and `cutmix` are the alphas of Beta distributions (arXiv:1710.09412,
    arXiv:1905.04899), 0 for none. `balance` gives rare classes weights in the loss, or draws them more often.

    The rest: `label_smoothing`; `ema` the share of an average over steps that is kept each time, whose weights are then
    what is judged and written, 0 for none; `precision` of the products; `patience` epochs without a better result end
    it, 0 for never; `validation_share` of each class is set aside where no validation images are given;
    `checkpoint_minutes` between checkpoints inside an epoch; `seed` of everything that is drawn.

    `tensorboard` writes events for TensorBoard too.

    `int8` quantises in training as the files for GPUs (signed) or CPUs (unsigned) do; with `learned_ranges` it trains
    the thresholds too, their logarithms at `threshold_factor` times the learning rate. `distil` learns from what the
    network in floating point says, at a `temperature`, without labels (arXiv:1503.02531).
    """

    epochs: int = 30
    batch: int = 64
    accumulate: int = 1
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    clip: float = 0.0
    freeze: str = ""
    unfreeze_epochs: int = 0
    layer_decay: float = 1.0
    frozen_statistics: bool | None = None
    geometry: Literal["none", "shift", "crop"] | None = None
    flip: bool | None = None
    trivial: bool = False
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    balance: Literal["none", "weights", "sampler"] = "none"
    label_smoothing: float = 0.1
    ema: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    patience: int = 0
    validation_share: float = 0.1
    checkpoint_minutes: float = 10.0
    seed: int = 0
    tensorboard: bool = False
    int8: Activations | None = None
    learned_ranges: bool = True
    threshold_factor: float | None = None
    distil: bool = False
    temperature: float = 2.0


class Epoch(Value, frozen=True, kw_only=True):
    """What one epoch came to; one line of `metrics.jsonl`.

    `epoch` counts from 1; epoch 0 is what a quantised network is before it is trained, without a `loss`. That is
    the mean over the images of training, as they were augmented; `validation_loss` that of the validation images, None
    without labels and a teacher; `top1` is of those images too, None without labels; `agreement` is the share of them
    of which the network and its teacher name the same class. `learning_rate` is that of the last step.
    """

    epoch: int
    loss: float | None
    learning_rate: float
    images: int
    seconds: float
    validation_loss: float | None = None
    top1: float | None = None
    agreement: float | None = None

    @property
    def merit(self) -> tuple[float, float]:
        """What the best epoch has most of: the share named right, or as the teacher does; of equals, the less loss."""
        share = self.agreement if self.top1 is None else self.top1
        loss = self.loss if share is None else self.validation_loss
        return -math.inf if share is None else share, -math.inf if loss is None else -loss
