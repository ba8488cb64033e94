"""The figures of the refresh pages: gold by round, what refreshing adds, the law beside it, and drift by signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.report.figures import CHOSEN, FAINT, INK, REJECTED, finish, new_figure, styled
from rewardsmith.report.page import finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart by dash and mark, not by colour alone.
LINES: dict[str, tuple[str, Any, str]] = {
    "fixed": (INK, "-", "o"),
    "all_data": (CHOSEN, "-", "s"),
    "importance": (CHOSEN, "--", "D"),
    "replay": (REJECTED, "-.", "^"),
    "last_only": (REJECTED, ":", "v"),
}
MOST = 5.0  # standard deviations of a change that are drawn
ACROSS = "√KL to the base policy"


def name_of(strategy: str) -> str:
    return strategy.replace("_", " ")


@styled
def rounds_panel(result: Mapping[str, Any]) -> str:
    """Gold by round of every strategy, from the base policy on; bands of the fixed model and of the best refreshed."""
    figure, axes = new_figure(height=3.9)
    base = result["base"]["value"]
    for row in result["strategies"]:
        colour, dash, mark = LINES[row["strategy"]]
        d = np.sqrt([0.0, *(at["kl"] for at in row["rounds"])])
        gold = [base, *(at["gold"]["value"] for at in row["rounds"])]
        style: Any = {"color": colour, "linestyle": dash, "marker": mark, "markersize": 4.5, "markeredgewidth": 0}
        axes.plot(d, gold, linewidth=1.6, label=name_of(row["strategy"]), **style)
        if row["strategy"] in ("fixed", result["best"]) and row["rounds"][0]["gold"]["low"] is not None:
            low, high = ([result["base"][end], *(at["gold"][end] for at in row["rounds"])] for end in ("low", "high"))
            axes.fill_between(d, low, high, color=colour, alpha=0.12, linewidth=0)
    length = [at for at in result["references"] if at["reference"] == "length" and at["gold"]["value"] is not None]
    if length:
        d = np.sqrt([at["kl"] for at in length])
        axes.plot(d, [at["gold"]["value"] for at in length], color=FAINT, linewidth=1.4, label="length alone")
    axes.set_xlabel(f"{ACROSS}; one mark a round")
    axes.set_ylabel("gold")
    quiet(axes)
    figure.legend(loc="outside lower center", ncols=3, columnspacing=1.1, handlelength=2.4, fontsize=9.5)
    return finish(figure, axes, "rounds", "Gold of each round's policy, by strategy", counts=False)


@styled
def over_fixed_panel(result: Mapping[str, Any]) -> str:
    """Gold after the last round less that of the fixed model, with intervals. "" without a refreshed strategy."""
    rows = [row for row in result["strategies"] if row["strategy"] != "fixed"][::-1]
    if not rows:
        return ""
    figure, axes = new_figure(height=1.1 + 0.42 * len(rows))
    for place, row in enumerate(rows):
        over = row["rounds"][-1]["over_fixed"]
        if over["low"] is not None:
            axes.plot([over["low"], over["high"]], [place, place], color=CHOSEN, linewidth=2.2, solid_capstyle="butt")
        axes.plot([over["value"]], [place], "o", color=CHOSEN, markersize=6.5, markeredgewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name_of(row["strategy"]) for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.margins(x=0.15)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("gold less that of the fixed model")
    axes.grid(axis="x", color=FAINT, linewidth=0.6, alpha=0.5)
    axes.spines["left"].set_visible(False)
    return finish(figure, axes, "over-fixed", "Gold after the last round less that of the fixed model", counts=False)


@styled
def law_of_rounds_panel(result: Mapping[str, Any], form: str) -> str:
    """The law's gain by round, dashed, and the measured one, for the fixed model and the best refreshed strategy."""
    names = [name for name in ("fixed", result["best"]) if name]
    figure, axes = new_figure(height=3.5)
    drawn = 0
    for name in names:
        rows = [at for at in result["predictions"] if at["form"] == form and at["strategy"] == name]
        rows = [at for at in rows if at["predicted"]["value"] is not None]
        if not rows:
            continue
        drawn += 1
        colour = LINES[name][0]
        d = np.sqrt([at["kl"] for at in rows])
        axes.plot(
            d,
            [at["predicted"]["value"] for at in rows],
            "--",
            color=colour,
            linewidth=1.6,
            label=f"{name_of(name)}, law",
        )
        if rows[0]["predicted"]["low"] is not None:
            low, high = ([at["predicted"][end] for at in rows] for end in ("low", "high"))
            axes.fill_between(d, low, high, color=colour, alpha=0.12, linewidth=0)
        measured: Any = {
            "color": colour,
            "marker": LINES[name][2],
            "markersize": 5,
            "markeredgewidth": 0,
            "linewidth": 0,
        }
        axes.plot(d, [at["measured"]["value"] for at in rows], label=f"{name_of(name)}, measured", **measured)
    if not drawn:
        return ""
    axes.set_xlabel(ACROSS)
    axes.set_ylabel("gain of gold")
    quiet(axes)
    figure.legend(loc="outside lower center", ncols=2, columnspacing=1.1, handlelength=2.4, fontsize=9.5)
    return finish(figure, axes, f"law-{form}", f"Gain by round, predicted by the law {form} and measured", counts=False)


@styled
def drift_panel(signals: Sequence[Mapping[str, Any]], least: float) -> str:
    """Effect of each signal in SD, with the smallest that calls for a refresh and what could have been seen."""
    rows = list(signals)[::-1]
    figure, axes = new_figure(height=1.5 + 0.44 * len(rows))
    effects = [finite(row["effect_sd"]) or 0.0 for row in rows]
    values = [min(effect, MOST) for effect in effects]
    colours = [REJECTED if row["alarm"] else CHOSEN for row in rows]
    axes.barh(range(len(rows)), values, color=colours, height=0.5, alpha=0.85)
    seen = [row["detectable_sd"] for row in rows]
    axes.plot(seen, range(len(rows)), "|", color=INK, markersize=15, markeredgewidth=1.6)
    axes.axvline(least, color=INK, linewidth=0.9, linestyle=(0, (2, 3)))
    for place, effect in enumerate(effects):
        if effect > MOST:  # the bar is cut, its number is not
            axes.annotate(
                f"{effect:.1f} →", (MOST, place), (-4, 0), textcoords="offset points", ha="right", va="center"
            )
    axes.set_yticks(range(len(rows)), [row["signal"] + (" !" if row["alarm"] else "") for row in rows])
    axes.set_xlim(0, max([*values, *(min(s, MOST) for s in seen), least]) * 1.1)
    axes.set_xlabel("size of the change, in SD")
    axes.grid(axis="x", color=FAINT, linewidth=0.6, alpha=0.5)
    axes.spines["left"].set_visible(False)
    return finish(figure, axes, "drift", "Size of the change by signal, in standard deviations", counts=False)


def quiet(axes: Axes) -> None:
    axes.grid(axis="y", color=FAINT, linewidth=0.6, alpha=0.5)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.03)
