"""Draw what the quantisation of each layer costs."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from edgeresnext import files
from edgeresnext.errors import RequestError
from edgeresnext.extras import require
from edgeresnext.spec import LayerCost, Sensitivity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOT_SUFFIXES = (".svg", ".png", ".pdf")


def check_plot(path: Path) -> None:
    """Refuse a file that `plot` cannot write, before anything is computed.

    Raises:
        RequestError: The suffix is unknown, or the file cannot be written.
        NotInstalledError: matplotlib is missing.
    """
    if path.suffix not in PLOT_SUFFIXES:
        raise RequestError(f"cannot write a plot as '{path}'", f"Known suffixes: {', '.join(PLOT_SUFFIXES)}.")
    if reason := files.why_unwritable(path):
        raise RequestError(reason, "Create the folder first, or give another file.")
    require("plot", "matplotlib", needed_by="a plot")


def plot(found: Sensitivity, path: Path) -> None:
    """Draw each layer's share of the noise as a bar, in execution order, and write it to a file.

    Raises:
        RequestError: The file cannot be written.
        NotInstalledError: matplotlib is missing.
    """
    check_plot(path)
    try:
        drawn = BytesIO()
        sensitivity_figure(found).savefig(drawn, format=path.suffix[1:], dpi=150)
        files.write(path, drawn.getvalue())
    except OSError as error:
        raise RequestError(f"cannot write plot '{path}': {error.strerror}", "Give another file.") from None


def sensitivity_figure(found: Sensitivity) -> Figure:
    """Draw each layer's share of the noise as a bar, in execution order, the worst ones red."""
    from matplotlib.figure import Figure

    rows = found.layers
    figure = Figure(figsize=(8, 1.4 + 0.2 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    shares = [100 * row.share for row in rows]
    worst = max(shares, default=0.0)
    bars = axes.barh(
        [row.layer for row in rows], shares, color=["tab:red" if share > worst / 2 else "tab:blue" for share in shares]
    )
    axes.bar_label(bars, [decibel(row) for row in rows], padding=3, fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.01)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("noise of the layer alone, % of that of all together (labels: signal-to-noise of the logits)")
    axes.set_title(
        f"{PurePath(found.bundle).name}, {found.file}: {decibel(found.together)} with all of them\n"
        f"{found.images} images: {found.data}",
        fontsize=9,
    )
    return figure


def decibel(row: LayerCost) -> str:
    """Return a layer's signal-to-noise ratio for people."""
    return "exact" if row.snr_db is None else f"{row.snr_db:.1f} dB"
