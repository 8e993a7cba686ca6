"""Turn matplotlib figures into SVG that lives inside a page and takes the page's colours.

Figures are drawn in colours that stand for names; in the SVG each becomes a CSS variable (`var(--ink)`), so that one
drawing serves light and dark.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.figure import Figure

INK, MUTED, GRID, SURFACE = "#010201", "#010202", "#010203", "#010204"
SERIES = 8
"""Colours that the page defines as `--series-0` and so on; they repeat after the last."""

_SERIES = [f"#0102a{index}" for index in range(SERIES)]
_MARKERS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "P": "✚", "X": "✖"}
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    SURFACE: "--surface",
    "#000000": "--ink",
    **{colour: f"--series-{index}" for index, colour in enumerate(_SERIES)},
}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_REFERENCE = re.compile(r"url\(#")
_FONT = re.compile(r"font(-family)?:[^;]*?((?P<size>[\d.]+px)[^;]*)?(;|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+")
_THEME: dict[Any, object] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "figure.dpi": 72,  # a pixel is a point, as in SVG
    "figure.facecolor": "none",
    "font.size": 9.8,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "edgeresnext",  # the same report gives the same bytes
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a dollar sign
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


class Style(NamedTuple):
    """How one variant is drawn in every plot."""

    colour: str
    marker: str

    @property
    def css(self) -> str:
        """The colour, for a page."""
        return f"var({_VARIABLES[self.colour]})"

    @property
    def glyph(self) -> str:
        """The marker, as a letter."""
        return _MARKERS[self.marker]


class Plot(NamedTuple):
    """A figure; what it shows, for those who cannot see it; and the tooltip of each artist, by its gid."""

    figure: Figure
    description: str
    titles: dict[str, str]


def theme() -> AbstractContextManager[None]:
    """Return the context in which figures are made and written."""
    return mpl.rc_context(_THEME)


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Return a colour and a marker for each name, in the order of first appearance."""
    markers = list(_MARKERS)
    return {
        name: Style(_SERIES[index % SERIES], markers[index % len(markers)])
        for index, name in enumerate(dict.fromkeys(names))
    }


def clean(text: str, limit: int = 28) -> str:
    """Return a text that XML can hold, on one line and with its middle left out beyond `limit` characters."""
    text = " ".join(_CONTROL.sub(" ", text).split())
    half = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[: limit - 1 - half]}…{text[-half:]}"


def inline(plot: Plot, name: str) -> str:
    """Return a plot as an SVG element for an HTML page.

    Args:
        plot: What to draw, made inside `theme()`.
        name: Unique on the page: every id of the SVG begins with it.
    """
    buffer = io.BytesIO()
    with theme(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that matplotlib's font lacks: the browser's own has them
        plot.figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 - written by matplotlib a moment ago, without entities
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        _adapt(element, name, plot.titles)
    width = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib.pop("height")
    root.set("role", "img")
    root.set("aria-label", _CONTROL.sub(" ", plot.description))
    root.set("style", f"--natural: {width:.0f}px")
    return ET.tostring(root, encoding="unicode")


def _adapt(element: ET.Element, name: str, titles: Mapping[str, str]) -> None:
    """Give an element ids of its own, the page's colours and font, and its tooltip."""
    element.tag = element.tag.rpartition("}")[2]
    attributes = dict(element.attrib)
    element.attrib.clear()
    for key, value in attributes.items():
        local = key.rpartition("}")[2]
        element.set(local, _attribute(local, value, name))
    gid = attributes.get("id", "")
    if gid in titles:
        title = ET.Element("title")
        title.text = _CONTROL.sub(" ", titles[gid])
        element.insert(0, title)
        element.set("class", gid.partition("-")[0])


def _attribute(key: str, value: str, name: str) -> str:
    """Return an attribute's value as the page wants it."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    if key == "style":
        value = _FONT.sub(lambda found: f"font-size: {found['size']};" if found["size"] else "", value)
        value = _COLOUR.sub(lambda found: f"var({_VARIABLES[found[0]]})" if found[0] in _VARIABLES else found[0], value)
    return _REFERENCE.sub(f"url(#{name}-", value)
