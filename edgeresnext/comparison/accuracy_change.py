"""Whether accuracy changed between two runs, image by image where both saw the same."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeresnext.measure.results import Report, Row
from edgeresnext.measure.statistics import mcnemar
from edgeresnext.spec import Value

AccuracyVerdict = Literal["worse", "better", "no difference", "not paired"]

_SIGNIFICANT = 0.01
"""A variant is looked at in every comparison: at 5 % one of twenty would be called different by chance."""

_OTHER_IMAGES = "top-1 of other images: not paired, so that some of the difference is the draw of the images"
_NOT_SAID = "not paired: a run does not say which images it got right"


class AccuracyComparison(Value, frozen=True, kw_only=True):
    """One variant's top-1 in both runs.

    Where both runs classified the same images, `lost` and `gained` count those that the old run alone and the new one
    alone got right, and `p_value` is McNemar's. Otherwise the verdict is "not paired", and `reasons` say why.
    """

    variant: str
    old_top1: float
    new_top1: float
    images: int
    verdict: AccuracyVerdict
    lost: int | None = None
    gained: int | None = None
    p_value: float | None = None
    reasons: tuple[str, ...] = ()


def compare_accuracy(old: Report, new: Report) -> tuple[AccuracyComparison, ...]:
    """Compare top-1 of every variant that has one in both runs: a variant's is the same in all scenarios."""
    before, after = ({row.name: row for row in reversed(run.rows) if row.top1 is not None} for run in (old, new))
    same = bool(old.images_sha256) and old.images_sha256 == new.images_sha256
    return tuple(_compare(before[name], after[name], same=same) for name in reversed(before) if name in after)


def _compare(old: Row, new: Row, *, same: bool) -> AccuracyComparison:
    """Compare the top-1 of two rows, image by image where they saw the same."""
    assert old.top1 is not None
    assert new.top1 is not None
    before, after = _right(old), _right(new)
    if not same or before is None or after is None or len(before) != len(after):
        reason = _NOT_SAID if same else _OTHER_IMAGES
        return AccuracyComparison(
            variant=old.name,
            old_top1=old.top1,
            new_top1=new.top1,
            images=min(old.images, new.images),
            verdict="not paired",
            reasons=(reason,),
        )
    lost, gained = int(np.sum(before & ~after)), int(np.sum(after & ~before))
    p_value = mcnemar(lost, gained)
    verdict: AccuracyVerdict = "no difference"
    if p_value < _SIGNIFICANT:
        verdict = "worse" if lost > gained else "better"
    return AccuracyComparison(
        variant=old.name,
        old_top1=old.top1,
        new_top1=new.top1,
        images=len(before),
        lost=lost,
        gained=gained,
        p_value=p_value,
        verdict=verdict,
    )


def _right(row: Row) -> NDArray[np.bool_] | None:
    """Return which images a row got right, None where it does not say so for all."""
    if row.right is None or row.images < 1 or len(row.right) != -(-row.images // 8):
        return None
    return np.unpackbits(np.frombuffer(row.right, dtype=np.uint8), count=row.images).astype(np.bool_)
