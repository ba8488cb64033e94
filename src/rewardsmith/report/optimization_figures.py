"""The figures of an optimisation: gold and reward against the distance from the base, the laws, what was bought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.overoptimization.laws import gain_of
from rewardsmith.report.figures import CHOSEN, FAINT, INK, REJECTED, finish, new_figure, styled
from rewardsmith.report.page import finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[Mapping[str, Any]]
# Told apart by dash and mark, not by colour alone.
LINES = ((CHOSEN, "-", "o"), (REJECTED, "--", "s"), (INK, ":", "^"), (FAINT, "-.", "D"), (CHOSEN, (0, (1, 1)), "v"),
         (REJECTED, (0, (5, 1, 1, 1)), "P"), (INK, (0, (6, 2)), "X"))  # fmt: skip
BESIDE = (("oracle", INK, ":"), ("length only", REJECTED, "--"), ("random", FAINT, "-."))
ACROSS = "√KL to the base policy"


def at(points: Points, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(sqrt KL, values) of the points that have both, nearest first. A value may be an interval."""
    found = []
    for point in points:
        value = point.get(key)
        kl, number = finite(point.get("kl")), finite(value.get("value") if isinstance(value, Mapping) else value)
        if kl is not None and number is not None:
            found.append((max(kl, 0.0) ** 0.5, number))
    found.sort()
    return np.array([x for x, _ in found]), np.array([y for _, y in found])


@styled
def curve_panel(points: Points, beside: Mapping[str, Points], name: str, gold: str, best_kl: float | None) -> str:
    """Gold with its interval above, the reward below, against sqrt(KL); "" without two points."""
    d, value = at(points, "gold")
    if len(d) < 2:
        return ""
    figure, axes = new_figure(height=4.3)
    axes.remove()
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    for label, colour, dash in BESIDE:
        upper.plot(*at(beside.get(label) or [], "gold"), color=colour, linestyle=dash, linewidth=1.4, label=label)
    band(upper, points)
    upper.plot(d, value, "o-", color=CHOSEN, markersize=4.5, markeredgewidth=0, linewidth=1.8, label="this reward")
    if best_kl is not None:
        upper.axvline(max(best_kl, 0.0) ** 0.5, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
    lower.plot(*at(points, "proxy"), "o-", color=CHOSEN, markersize=3.5, markeredgewidth=0, linewidth=1.4)
    upper.set_ylabel("gold")
    lower.set_ylabel("reward")
    lower.set_xlabel(ACROSS)
    sizes_above(upper, points)
    for part in (upper, lower):
        quiet(part)
    figure.legend(loc="outside lower center", ncols=4, columnspacing=1.1, handlelength=2, fontsize=9.5)
    text = f"Gold and reward against the distance from the base policy; gold from {value[0]:.3f} to {value[-1]:.3f}"
    return finish(figure, upper, name, text, counts=False)


def band(axes: Axes, points: Points) -> None:
    """The interval of gold, where there is one."""
    (d, low), (d_high, high) = at(points, "low"), at(points, "high")
    if len(d) and np.array_equal(d, d_high):
        axes.fill_between(d, low, high, color=CHOSEN, alpha=0.16, linewidth=0)


def sizes_above(axes: Axes, points: Points) -> None:
    """Values of n along the top, as many as have room."""
    found = sorted((max(p["kl"], 0.0) ** 0.5, p["n"]) for p in points if p.get("n") and finite(p.get("kl")) is not None)
    if not found:
        return
    reach = found[-1][0] or 1.0
    kept: list[tuple[float, int]] = []
    for d, n in found:
        if not kept or d - kept[-1][0] > 0.085 * reach:
            kept.append((d, n))
    top = axes.secondary_xaxis("top")
    top.set_xticks([d for d, _ in kept], [f"{n:g}" for _, n in kept], fontsize=9)
    top.set_xlabel("n", fontsize=9.5)
    top.spines["top"].set_visible(False)


def quiet(axes: Axes) -> None:
    axes.grid(axis="y", color=FAINT, linewidth=0.6, alpha=0.5)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.03)


@styled
def law_panel(points: Points, laws: Points, name: str) -> str:
    """Measured gold with the fitted laws and their peaks. "" without a law that has numbers."""
    fitted = [law for law in laws if finite(law.get("alpha")) is not None and finite(law.get("beta")) is not None]
    d, value = at(points, "gold")
    if not fitted or len(d) < 2:
        return ""
    figure, axes = new_figure(height=3.4)
    band(axes, points)
    axes.plot(d, value, "o", color=CHOSEN, markersize=5, markeredgewidth=0, label="measured")
    grid = np.linspace(0, d[-1] * 1.05, 200)
    for law, colour, dash in zip(fitted, (INK, REJECTED), ("-", "--"), strict=False):
        base = finite(law.get("base"))
        base = value[0] if base is None else base
        r2 = finite(law.get("r2"))
        label = law["form"] + ("" if r2 is None else f", R² {r2:.3f}")
        axes.plot(
            grid,
            base + gain_of(law["form"], grid, law["alpha"], law["beta"]),
            color=colour,
            linestyle=dash,
            linewidth=1.4,
            label=label,
        )
        peak = finite(law.get("peak_kl"))
        if peak is not None and 0 < peak**0.5 <= grid[-1]:
            top = base + float(gain_of(law["form"], peak**0.5, law["alpha"], law["beta"]))
            axes.plot([peak**0.5], [top], "D", color=colour, markersize=6, markerfacecolor="none")
    limit = finite((fitted[0].get("extrapolation") or {}).get("fit_until"))
    if limit is not None and limit**0.5 < d[-1]:
        axes.axvline(limit**0.5, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
        axes.annotate(
            "test beyond →", (limit**0.5, 0.0), (4, 4), ("data", "axes fraction"), "offset points", fontsize=9
        )
    axes.set_xlabel(ACROSS)
    axes.set_ylabel("gold")
    quiet(axes)
    figure.legend(loc="outside upper left", ncols=3, columnspacing=1.1, handlelength=1.8, fontsize=9.5)
    return finish(figure, axes, name, f"Laws of overoptimisation fitted to {len(d)} points", counts=False)


@styled
def lines_panel(lines: Sequence[tuple[str, Points]], key: str, name: str, label: str) -> str:
    """One line of `key` for each name, against sqrt(KL). "" without a line."""
    drawn = [(title, *at(points, key)) for title, points in lines]
    drawn = [row for row in drawn if len(row[1])][: len(LINES)]
    if not drawn:
        return ""
    figure, axes = new_figure(height=3.5)
    for (_, d, value), (colour, dash, mark), number in zip(drawn, LINES, range(1, len(LINES) + 1), strict=False):
        axes.plot(
            d, value, color=colour, linestyle=dash, marker=mark, markersize=4, markeredgewidth=0, label=str(number)
        )
    axes.set_xlabel(ACROSS)
    axes.set_ylabel(label)
    quiet(axes)
    figure.legend(loc="outside upper left", ncols=7, columnspacing=1, handlelength=2, fontsize=9.5)
    return finish(figure, axes, name, f"{label} of {len(drawn)} lines against the distance", counts=False)


@styled
def bought_bars(row: Mapping[str, Any], name: str, most: int = 8) -> str:
    """Parts of the gain of reward and gold at one n, in within-prompt SDs, the rest last. "" without a part."""
    parts = [*row["parts"][:most], {"feature": "the rest", **(row["rest"] or {})}][::-1]
    scale = {side: finite(row.get(f"{side}_sd")) for side in ("proxy", "gold")}
    if not row["parts"] or not all(scale.values()):
        return ""
    figure, axes = new_figure(height=1.2 + 0.36 * len(parts))
    for side, shift, colour, alpha, label in (
        ("proxy", 0.2, REJECTED, 0.55, "reward"),
        ("gold", -0.2, CHOSEN, 0.9, "gold"),
    ):
        values = [(finite(part.get(side)) or 0.0) / (scale[side] or 1.0) for part in parts]
        axes.barh(np.arange(len(parts)) + shift, values, height=0.36, color=colour, alpha=alpha, label=label)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(parts)), [part["feature"] for part in parts])
    axes.set_xlabel("part of the gain, within-prompt SD")
    axes.grid(axis="x", color=FAINT, linewidth=0.6, alpha=0.5)
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, fontsize=9.5)
    return finish(figure, axes, name, f"What the gain at n = {row['n']:g} is made of", counts=False)


@styled
def shared_panel(curve: Points) -> str:
    """Correlation of the members' errors by n, with its interval. "" without a number."""
    found = [(p["n"], p["correlation"]) for p in curve if finite((p.get("correlation") or {}).get("value")) is not None]
    if not found:
        return ""
    figure, axes = new_figure()
    bounded = [(n, c) for n, c in found if c.get("low") is not None and c.get("high") is not None]
    if bounded:
        axes.fill_between([n for n, _ in bounded], [c["low"] for _, c in bounded], [c["high"] for _, c in bounded],
                          color=CHOSEN, alpha=0.16, linewidth=0)  # fmt: skip
    axes.plot([n for n, _ in found], [c["value"] for _, c in found], "o-", color=CHOSEN, markersize=5)
    axes.set_xscale("log", base=2)
    axes.set_xticks([n for n, _ in found], [f"{n:g}" for n, _ in found])
    axes.set_xlabel("n")
    axes.set_ylabel("correlation of errors")
    axes.set_ylim(top=1.02)
    quiet(axes)
    return finish(figure, axes, "shared-error", "Correlation of the members' errors against gold by n", counts=False)
