"""The figures of a run: training curve, reward margins, reliability. Drawn like those of the data page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.report.figures import CHOSEN, FAINT, INK, REJECTED, finish, new_figure, styled
from rewardsmith.statistics import Floats, Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 600  # of a curve: more make the file large and the line no clearer
MOST_DOTS = 400  # of a scatter: each is a part of the file
SMOOTHED_OVER = 16  # the smoothed line looks one part in this many of the run to either side
HALF = 0.5


@styled
def curve(lines: Sequence[Mapping[str, Any]], name: str, *, kept: int | None = None, guess: float | None = None) -> str:
    """`name` ("loss" or "accuracy") per step, raw and smoothed, with held-out points. "" without a number.

    kept   the step whose weights were kept, as a vertical line
    guess  what a coin would get, as a horizontal line
    """
    steps, values = series(lines, name)
    held_steps, held = series(lines, f"eval_{name}")
    if not len(steps) and not len(held_steps):
        return ""
    figure, axes = new_figure()
    if guess is not None:
        axes.axhline(guess, color=INK, alpha=0.6, linewidth=1, linestyle=":", label="a coin")
    if len(steps):
        draw_training(axes, steps, values)
    if len(held_steps):
        axes.plot(held_steps, held, "D--", color=REJECTED, markersize=5.5, linewidth=1, label="held out")
    if kept is not None and len(held_steps) > 1:
        axes.axvline(kept, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
        last = float(max([*steps[-1:], *held_steps[-1:]]))
        axes.annotate(
            "kept",
            (kept, 1.0),
            (-4 if kept > last / 2 else 4, 0),
            ("data", "axes fraction"),
            "offset points",
            ha="right" if kept > last / 2 else "left",
            va="top",
            fontsize=9,
        )
    whole_steps(axes)
    if name == "accuracy":
        percent_axis(axes.yaxis)
        axes.set_ylim(0, 1.02)
    axes.grid(axis="y", color=FAINT, linewidth=0.6, alpha=0.5)
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside upper left", ncols=4, columnspacing=1.1, handlelength=1.5, fontsize=9.5)
    text = f"Training {name} per step, raw and smoothed, with held-out points; {described(values, held)}"
    return finish(figure, axes, f"curve-{name}", text, counts=False)


def draw_training(axes: Axes, steps: Floats, values: Floats) -> None:
    """The raw line pale, the smoothed one over it."""
    shown_steps, shown = thinned(steps, MOST_POINTS), thinned(values, MOST_POINTS)
    single = len(values) == 1
    axes.plot(
        shown_steps,
        shown,
        "o" if single else "-",
        color=CHOSEN,
        alpha=0.5,
        linewidth=1,
        markersize=4,
        label="each step",
    )
    if not single:
        line = thinned(smoothed(values), MOST_POINTS)
        axes.plot(shown_steps, line, color=CHOSEN, linewidth=2.2, label="smoothed")


@styled
def margin_histogram(margins: Sequence[float] | Floats) -> str:
    """Reward of chosen minus reward of rejected, wrong and right side in two colours. "" without a pair."""
    margin_P = np.asarray(margins, dtype=np.float64)
    if not len(margin_P):
        return ""
    edges = margin_edges(margin_P)
    # An edge belongs to the bin on its right, but equal rewards are wrong: they go to the left of zero.
    drawn_P = np.where(margin_P == 0, -edges[-1] / 1e6, margin_P)
    counts, _ = np.histogram(np.clip(drawn_P, edges[0], edges[-1]), edges)
    middle = len(counts) // 2
    figure, axes = new_figure()
    sides = (
        (slice(0, middle), REJECTED, f"wrong: {(margin_P <= 0).mean():.1%}"),
        (slice(middle, None), CHOSEN, f"right: {(margin_P > 0).mean():.1%}"),
    )
    for part, colour, label in sides:
        own = edges[part.start : (part.stop or len(counts)) + 1]
        axes.stairs(counts[part], own, color=colour, fill=True, alpha=0.75, label=label)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("reward of chosen minus reward of rejected")
    axes.set_ylabel("pairs")
    axes.set_ylim(0, max(counts) * 1.3)  # room for the legend
    axes.legend(loc="upper center", ncols=2, columnspacing=1.4, handlelength=1.2)
    text = f"Histogram of {len(margin_P)} reward margins, median {np.median(margin_P):.2f}"
    return finish(figure, axes, "margins", text)


@styled
def reliability(bins: Sequence[tuple[float, Interval, int]], after: Sequence[tuple[float, Interval, int]] = ()) -> str:
    """(mean stated probability, share right, pairs) per bin against the diagonal. "" without a bin.

    after  the same with the stored temperature, where there is one
    """
    if not bins:
        return ""
    figure, axes = new_figure(height=3.1)
    axes.plot([HALF, 1], [HALF, 1], color=INK, alpha=0.6, linewidth=1.2, linestyle="--", label="as sure as it is right")
    if after:
        draw_bins(axes, bins, REJECTED, "D:", "as it is")
        draw_bins(axes, after, CHOSEN, "o-", "with temperature")
    else:
        draw_bins(axes, bins, CHOSEN, "o-", "this model")
    axes.legend(loc="lower right")
    axes.set_xlim(0.49, 1.01)
    axes.set_ylim(0, 1.04)
    percent_axis(axes.xaxis)
    percent_axis(axes.yaxis)
    axes.set_xlabel("probability the model states for its own choice")
    axes.set_ylabel("how often it is right")
    axes.grid(color=FAINT, linewidth=0.6, alpha=0.5)
    axes.spines["left"].set_visible(False)
    text = f"Reliability plot of {len(bins)} groups of pairs: stated probability against share right"
    return finish(figure, axes, "reliability", text, counts=False)


def draw_bins(axes: Axes, bins: Sequence[tuple[float, Interval, int]], colour: str, line: str, label: str) -> None:
    for stated, share, _ in bins:
        if share.low is not None and share.high is not None:
            axes.plot([stated, stated], [share.low, share.high], color=colour, linewidth=1.6, alpha=0.5)
    points = [(stated, share.value) for stated, share, _ in bins if share.value is not None]
    axes.plot(*zip(*points), line, color=colour, markersize=5.5, linewidth=1, markeredgewidth=0, label=label)


@styled
def rewards_by_length(ratio_R: Floats, gap_R: Floats) -> str:
    """Reward against length, each answer among those to its prompt, with the medians of its bins. "" without one."""
    if not len(ratio_R) or np.ptp(ratio_R) == 0:
        return ""
    figure, axes = new_figure(height=3.1)
    shown = np.linspace(0, len(ratio_R) - 1, min(len(ratio_R), MOST_DOTS)).astype(int)
    axes.axhline(0, color=INK, linewidth=0.8, alpha=0.6)
    axes.plot(ratio_R[shown], gap_R[shown], "o", color=FAINT, markersize=3.4, markeredgewidth=0, alpha=0.75)
    parts = np.array_split(np.argsort(ratio_R, kind="stable"), max(1, min(8, len(ratio_R) // 12)))
    medians = [(float(np.median(ratio_R[part])), float(np.median(gap_R[part]))) for part in parts]
    axes.plot(*zip(*medians), "o-", color=CHOSEN, markersize=5.5, linewidth=2, markeredgewidth=0, label="median")
    axes.set_xscale("log", base=2)
    low, high = np.quantile(ratio_R, [0.005, 0.995])
    axes.set_xlim(low / 1.1, high * 1.1)
    times_axis(axes)
    axes.set_xlabel("length over its prompt's mean length")
    axes.set_ylabel("reward minus its prompt's mean")
    axes.grid(color=FAINT, linewidth=0.6, alpha=0.5)
    axes.spines["left"].set_visible(False)
    axes.legend(loc="upper right")
    text = f"Rewards of {len(ratio_R)} answers against their lengths, both within their prompt"
    return finish(figure, axes, "by-length", text, counts=False)


def times_axis(axes: Axes) -> None:
    """1/4, 1/2, 1, 2, ... in place of powers."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"×{x:g}" if x >= 1 else f"×1/{1 / x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def series(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[Floats, Floats]:
    """(steps, values) of the lines that hold a finite number under `name`."""
    found = [
        (line["step"], line[name])
        for line in lines
        if line.get("step") is not None and line.get(name) is not None and math.isfinite(line[name])
    ]
    return np.array([step for step, _ in found], float), np.array([value for _, value in found], float)


def smoothed(values: Floats) -> Floats:
    """A centred running mean; at either end over the half of the window that is there."""
    half = max(2, len(values) // SMOOTHED_OVER)
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def thinned(values: Floats, most: int) -> Floats:
    """At most `most` values, each the mean of as many neighbours."""
    each = -(-len(values) // most)
    return np.array([values[i : i + each].mean() for i in range(0, len(values), each)]) if each > 1 else values


def margin_edges(margin_P: Floats) -> Floats:
    """Bins of equal width about zero, which is an edge. The outer 1% is pulled into the last bins."""
    reach = float(np.quantile(np.abs(margin_P), 0.99)) or float(np.abs(margin_P).max()) or 1.0
    each_side = int(np.clip(np.sqrt(len(margin_P)), 5, 20))
    return np.linspace(-reach, reach, 2 * each_side + 1)


def whole_steps(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("step")


def percent_axis(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def described(values: Floats, held: Floats) -> str:
    """First and last numbers, for those who cannot see the figure."""
    parts = []
    if len(values):
        line = smoothed(values)
        parts.append(f"smoothed from {line[0]:.2f} to {line[-1]:.2f}")
    if len(held):
        parts.append(f"held out {held[-1]:.2f} at the end")
    return ", ".join(parts)
