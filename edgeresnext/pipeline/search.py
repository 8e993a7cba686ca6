"""Look for the fewest layers that must be in floating point: a search over plans, told only which of them pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def fewest(ranking: Sequence[str], most: int, passes: Callable[[tuple[str, ...]], bool]) -> tuple[str, ...] | None:
    """Return as few layers as possible of which `passes` holds, or None where it does not hold of the first `most`.

    The shortest prefix of the ranking that passes is found by doubling until one does and halving between the last two;
    then each of its layers but the last, which it needs, is left out once and stays out where the rest passes.

    Args:
        ranking: Layers, those that are most likely needed first.
        most: How many of them may be taken at most.
        passes: Whether a file with these layers in floating point passes; never asked twice. What is returned was
            asked, but not always last.
    """
    failed, count = 0, min(1, most)
    while count > failed and not passes(tuple(ranking[:count])):
        failed, count = count, min(2 * count, most)
    if count == failed:
        return None
    while count - failed > 1:
        middle = (failed + count) // 2
        failed, count = (failed, middle) if passes(tuple(ranking[:middle])) else (middle, count)
    needed = tuple(ranking[:count])
    for layer in needed[-2::-1]:
        rest = tuple(name for name in needed if name != layer)
        if passes(rest):
            needed = rest
    return needed
