"""What a run looks like: the learning curve as SVG and PNG, and one HTML page with who was taken for whom."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeresnext.data.images import as_picture, load_image
from edgeresnext.errors import DataError
from edgeresnext.report.svg import GRID, INK, MUTED, Plot, clean, inline, styles, theme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from edgeresnext.data.folder import ImageFolder
    from edgeresnext.spec import Epoch
    from edgeresnext.training.judging import Judgement
    from edgeresnext.training.run_folder import Run

_WORST = 24
_THUMBNAIL_PX = 96
_MOST_CLASSES = 40
"""Up to so many classes are shown as a matrix; of more, the pairs that are most often taken for each other."""
_LINES = (("loss", "training loss"), ("validation_loss", "validation loss"))
_INK, _MUTED, _GRID, _COLOURS = "#1b1d21", "#5a6069", "#e4e5e8", ("#2a6fc9", "#bd4f08", "#0b7a58")
"""For files that stand alone: those of the page in its light form."""


class _Wrong(NamedTuple):
    """An image that was taken for another class, and how sure the network was."""

    source: str
    label: str
    answer: str
    probability: float
    file: str


class _Pair(NamedTuple):
    """A class that was taken for another, and how often."""

    label: str
    answer: str
    times: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is shown of a run.

    Args:
        run: What was trained.
        history: Its epochs, at least one.
        validation: The images that judged it, or None.
        judgement: What its best weights say of them, or None.
    """

    run: Run
    history: Sequence[Epoch]
    validation: ImageFolder | None
    judgement: Judgement | None

    @property
    def targets(self) -> NDArray[np.int64] | None:
        """The class of each judged image; None without labels."""
        if self.judgement is None or self.validation is None or not self.validation.targets:
            return None
        return np.array(self.validation.targets)[self.judgement.positions]


def pictures(outcome: Outcome) -> dict[str, bytes]:
    """Return the pictures of a run by their file names: `curve.svg`, `curve.png` and `report.html`."""
    found = {"report.html": _page(outcome).encode("utf-8", "replace")}
    for kind in ("svg", "png"):
        buffer = io.BytesIO()
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}
        _curve(outcome.history, _COLOURS, (_INK, _MUTED, _GRID)).savefig(
            buffer, format=kind, dpi=144, facecolor="white", metadata=metadata
        )
        found[f"curve.{kind}"] = buffer.getvalue()
    return found


def _curve(history: Sequence[Epoch], colours: Sequence[str], inks: tuple[str, str, str]) -> Figure:
    """Return losses and top-1 over the epochs, one above the other."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullFormatter

    ink, muted, grid = inks
    shares = [one.top1 if one.top1 is not None else one.agreement for one in history]
    judged = any(share is not None for share in shares)
    figure = Figure(figsize=(5.6, 4.6 if judged else 2.6), layout="constrained")
    panels = figure.subplots(1 + judged, 1, sharex=True, squeeze=False)[:, 0]
    epochs = [one.epoch for one in history]
    for (name, label), colour in zip(_LINES, colours, strict=False):
        values = [getattr(one, name) for one in history]
        if any(value is not None for value in values):
            mark = "o" if len(history) < 3 else None  # noqa: PLR2004 - a line of two points hides under its axis
            panels[0].plot(epochs, [np.nan if v is None else v for v in values], color=colour, label=label, marker=mark)
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_formatter("{x:g}")
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("loss", color=muted)
    panels[0].legend(frameon=False, fontsize=8.5, labelcolor=ink)
    if judged:
        best = max(history, key=lambda one: one.merit)
        percent = [np.nan if share is None else 100 * share for share in shares]
        what = "top-1 %" if history[0].top1 is not None else "agreement with the teacher %"
        panels[1].plot(epochs, percent, color=colours[2])
        panels[1].plot([best.epoch], [percent[history.index(best)]], "o", color=colours[2], label=f"best: {best.epoch}")
        panels[1].set_ylabel(what, color=muted)
        panels[1].legend(frameon=False, fontsize=8.5, labelcolor=ink, loc="lower right")
    for axes in panels:
        axes.grid(color=grid)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=muted)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1].set_xlabel("epoch", color=muted)
    return figure


def _page(outcome: Outcome) -> str:
    """Return the page; all text of it is escaped."""
    import jinja2
    from markupsafe import Markup

    look = [style.colour for style in styles(("loss", "validation", "share")).values()]
    with theme():
        plot = Plot(_curve(outcome.history, look, (INK, MUTED, GRID)), "loss and accuracy over the epochs", {})
        drawn = Markup(inline(plot, "curve"))  # noqa: S704 - serialised as XML, thus escaped
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    own = resources.files("edgeresnext.training") / "page" / "run.html.j2"
    style = resources.files("edgeresnext.report") / "page" / "report.css"
    matrix = confusion(outcome)
    return environment.from_string(own.read_text(encoding="utf-8")).render(
        run=outcome.run,
        history=outcome.history,
        best=max(outcome.history, key=lambda one: one.merit),
        css=Markup(style.read_text(encoding="utf-8")),  # noqa: S704 - part of this package
        curve=drawn,
        matrix=None if matrix is None else matrix.tolist(),
        pairs=_pairs(outcome),
        wrong=_most_wrong(outcome),
        clean=clean,
    )


def confusion(outcome: Outcome) -> NDArray[np.int64] | None:
    """Return how often each class (row) was taken for each (column); None without labels, or where they are many."""
    targets, count = outcome.targets, len(outcome.run.classes)
    if targets is None or outcome.judgement is None or count > _MOST_CLASSES:
        return None
    found = np.zeros((count, count), np.int64)
    np.add.at(found, (targets, outcome.judgement.answers), 1)
    return found


def _pairs(outcome: Outcome) -> list[_Pair]:
    """Return the classes that are most often taken for others."""
    targets, classes = outcome.targets, outcome.run.classes
    if targets is None or outcome.judgement is None:
        return []
    images = Counter(targets.tolist())
    taken = Counter(zip(targets.tolist(), outcome.judgement.answers.tolist(), strict=True))
    wrong = sorted((-times, mine, its) for (mine, its), times in taken.items() if mine != its)
    return [_Pair(classes[mine], classes[its], -times, -times / images[mine]) for times, mine, its in wrong[:_WORST]]


def _most_wrong(outcome: Outcome) -> list[_Wrong]:
    """Return the images of whose wrong class the network is most sure, against their own."""
    targets = outcome.targets
    if targets is None or outcome.judgement is None or outcome.validation is None:
        return []
    logits = outcome.judgement.logits.astype(np.float64)
    probability = np.exp(logits - logits.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    rows = np.arange(len(targets))
    answers = outcome.judgement.answers
    margin = probability[rows, answers] - probability[rows, targets]
    worst = [int(i) for i in np.argsort(-margin, kind="stable")[:_WORST] if answers[i] != targets[i]]
    found = []
    for index in worst:
        path = outcome.validation.images[outcome.judgement.positions[index]]
        try:
            picture = as_picture(load_image(path, outcome.run.model.preprocess)).convert("RGB")
        except DataError:
            continue
        buffer = io.BytesIO()
        picture.resize((_THUMBNAIL_PX, _THUMBNAIL_PX)).save(buffer, "JPEG", quality=80)
        source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        names = outcome.run.classes[targets[index]], outcome.run.classes[answers[index]]
        where = str(path.relative_to(outcome.validation.root))
        found.append(_Wrong(source, *names, float(probability[index, answers[index]]), where))
    return found
