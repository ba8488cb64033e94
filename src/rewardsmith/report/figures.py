"""Plots as inline SVG for pages that open from disk, in light and dark, on paper and on a phone.

matplotlib draws with stand-in colours, which become CSS: `currentColor` for text and axes, and the page's
variables `--chosen`, `--rejected`, `--faint`. Text stays text, in the page's own font. No figure shows text that
comes from a user's file.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
INK, CHOSEN, REJECTED, FAINT = "#010203", "#020304", "#030405", "#040506"
CSS = {INK: "currentColor", CHOSEN: "var(--chosen)", REJECTED: "var(--rejected)", FAINT: "var(--faint)"}
WIDTH, HEIGHT = 4.7, 2.9  # inches: legible at the width of a phone without a second drawing
STYLE: Any = {  # rcParams
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "text.parse_math": False,
    "svg.hashsalt": "rewardsmith",  # ids that are the same in every run
}


def styled(draw: Callable[P, str]) -> Callable[P, str]:
    """`draw` under our style: matplotlib reads it whenever a part is made, and again when it is written."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


@styled
def length_histogram(histogram: Mapping[str, Sequence[float]], unit: str = "characters") -> str:
    """Lengths of chosen against rejected responses, as outlines over one another. "" without a pair."""
    if not histogram["edges"]:
        return ""
    figure, axes = new_figure()
    edges = histogram["edges"]
    for side, colour, dash in (("rejected", REJECTED, "--"), ("chosen", CHOSEN, "-")):
        axes.stairs(histogram[side], edges, color=colour, fill=True, alpha=0.18)
        axes.stairs(histogram[side], edges, color=colour, linewidth=1.8, linestyle=dash, label=side)
    axes.set_xlabel(f"{unit}; the last bar holds all that is longer")
    axes.legend(loc="upper right", reverse=True)
    return finish(figure, axes, "lengths", "Histogram of the lengths of chosen and rejected responses")


@styled
def difference_histogram(difference: Mapping[str, Sequence[float]], unit: str = "characters") -> str:
    """How much longer the chosen side is, in two colours about zero. "" without a pair."""
    if not difference["edges"]:
        return ""
    figure, axes = new_figure()
    edges, counts = difference["edges"], difference["counts"]
    middle = len(counts) // 2
    for start, end, colour, label in (
        (0, middle, REJECTED, "rejected is longer"),
        (middle + 1, len(counts), CHOSEN, "chosen is longer"),
    ):
        axes.stairs(counts[start:end], edges[start : end + 1], color=colour, fill=True, alpha=0.75, label=label)
    axes.stairs(counts[middle : middle + 1], edges[middle : middle + 2], color=FAINT, fill=True)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel(f"chosen minus rejected ({unit})")
    axes.set_ylim(0, max(counts) * 1.32 or 1)  # room for the legend
    axes.legend(loc="upper center", ncols=2, columnspacing=1.2, handlelength=1.2)
    return finish(figure, axes, "differences", "Histogram of chosen length minus rejected length")


@styled
def feature_bars(features: Sequence[Mapping[str, Any]], most: int = 12) -> str:
    """Coefficients of the strongest surface features, per SD. "" without a feature."""
    shown = features[:most][::-1]
    if not shown:
        return ""
    figure, axes = new_figure(height=0.85 + 0.26 * len(shown))
    values = [feature["coefficient"] for feature in shown]
    colours = [CHOSEN if value > 0 else REJECTED for value in values]
    axes.barh(range(len(shown)), values, color=colours, height=0.68, alpha=0.85)
    axes.set_yticks(range(len(shown)), [feature["name"] for feature in shown])
    axes.axvline(0, color=INK, linewidth=0.8)
    largest = max(map(abs, values)) or 1.0
    axes.set_xlim(-1.4 * largest, 1.4 * largest)
    for index, value in enumerate(values):
        axes.annotate(
            f"{value:+.2f}",
            (value, index),
            xytext=(3 if value >= 0 else -3, 0),
            textcoords="offset points",
            ha="left" if value >= 0 else "right",
            va="center",
            fontsize=9.5,
        )
    for at, side, text in ((0, "left", "← less is preferred"), (1, "right", "more is preferred →")):
        axes.annotate(text, (at, 0), (0, -8), "axes fraction", "offset points", ha=side, va="top")
    axes.set_xticks([])
    axes.spines["left"].set_visible(False)
    return finish(figure, axes, "features", "Coefficients of the strongest surface features", counts=False)


@styled
def count_bars(counts: Mapping[str, int], label: str, name: str, most: int = 30) -> str:
    """Bars of a histogram over numbers ("2" -> 1632); beyond `most` numbers the rest is one bar."""
    if not counts:
        return ""
    items = sorted(counts.items(), key=lambda item: int(item[0]))
    if len(items) > most:
        rest = items[most - 1 :]
        items = [*items[: most - 1], (f"{rest[0][0]}+", sum(count for _, count in rest))]
    figure, axes = new_figure()
    axes.bar(range(len(items)), [count for _, count in items], color=CHOSEN, width=0.7, alpha=0.85)
    step = max(1, len(items) // 12)
    axes.set_xticks(range(0, len(items), step), [number for number, _ in items[::step]])
    axes.set_xlim(-0.7, max(len(items) - 0.3, 2.7))
    axes.set_xlabel(label)
    return finish(figure, axes, name, f"Histogram: {label}")


def new_figure(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure of its own, without pyplot's global state."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def finish(figure: Figure, axes: Axes, name: str, description: str, *, counts: bool = True) -> str:
    """The figure as SVG to put into a page; `name` keeps its ids apart from those of other figures."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if counts:
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=FAINT, linewidth=0.6, alpha=0.5)
        axes.spines["left"].set_visible(False)
    out = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    return inline(out.getvalue(), name, description)


def inline(svg: str, name: str, description: str) -> str:
    """A standalone SVG document turned into an element: no prologue, no name spaces, CSS colours, own ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", svg.split(">", 1)[0]) + svg[svg.index(">") :]
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)
    svg = svg.replace(">", f"><title>{description}</title>", 1)
    svg = svg.replace('xlink:href="#', 'href="#')
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.S)  # it would reach the whole page
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for stand_in, colour in CSS.items():
        svg = svg.replace(stand_in, colour)
    return svg.strip()
