"""The figure of overoptimization_study.py's result: curves, what ensembles add, and the laws by each sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(result: dict[str, Any], file: Path) -> None:
    """Above: gold by n of single models, and what ensembles add. Below: alpha and beta of one law by sweep."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(17, 8), constrained_layout=True)
    draw_curves(axes[0, 0], result["curves"])
    for panel, side in zip(axes[0, 1:3], ("clean", "noisy")):
        draw_ensemble(panel, side, result["ensembles"].get(side, []))
    draw_gains(axes[0, 3], result["ensembles"])
    for panel, (axis, rows) in zip(axes[1], result["sweeps"].items()):
        draw_laws(panel, axis, [row[axis] for row in rows], rows)
    for side in ("clean", "noisy"):
        rows = [row for row in result["members"] if row["side"] == side]
        draw_laws(axes[1, 3], "members", [row["members"] for row in rows], rows, f" ({side})")
    for panel in axes.flat:
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=7)
    figure.savefig(file, dpi=110)


def draw_curves(panel: Any, curves: dict[str, list[dict[str, Any]]]) -> None:
    for name in ("length", "clean-0", "noisy-0", "size-40", "depth-6"):
        if name in curves:
            n, gold, low, high = ([row[key] for row in curves[name]] for key in ("n", "gold", "low", "high"))
            panel.plot(n, gold, marker="o", markersize=3, label=name)
            panel.fill_between(n, low, high, alpha=0.1)
    panel.set(title="single models", ylabel="gold (davinci003 judge)")
    powers_of_two(panel, curves["length"])


def draw_ensemble(panel: Any, side: str, found: list[dict[str, Any]]) -> None:
    ways: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        ways.setdefault(row["way"], []).append(row)
    for way, rows in ways.items():
        style = {"color": "black", "linestyle": "--"} if way == "single" else {}
        panel.plot([row["n"] for row in rows], [row["gain"]["value"] for row in rows], label=way, **style)
    panel.set(title=f"five members, {side} labels", ylabel="gain over the base policy")
    powers_of_two(panel, next(iter(ways.values()), []))


def powers_of_two(panel: Any, rows: list[dict[str, Any]]) -> None:
    sizes = [row["n"] for row in rows if row["n"] & (row["n"] - 1) == 0]
    panel.set(xlabel="best of n", xscale="log")
    panel.set_xticks(sizes, [str(n) for n in sizes])
    panel.minorticks_off()


def draw_gains(panel: Any, ensembles: dict[str, list[dict[str, Any]]]) -> None:
    """At the largest n: what each way adds to a single member, with its interval."""
    labels, at = [], 0
    for side, rows in ensembles.items():
        for row in rows:
            if row["n"] == rows[-1]["n"] and row["way"] != "single":
                over = row["over_single"]
                panel.plot([over["low"], over["high"]], [at, at], color=f"C{list(ensembles).index(side)}")
                panel.plot(over["value"], at, "o", markersize=4, color=f"C{list(ensembles).index(side)}")
                labels.append(f"{side}: {row['way']}")
                at += 1
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_yticks(range(at), labels, fontsize=7)
    panel.invert_yaxis()
    panel.set(title="over a single member, largest n", xlabel="gold, paired, 95%")


def draw_laws(panel: Any, axis: str, at: list[float], rows: list[dict[str, Any]], which: str = "") -> None:
    for key, marker in (("alpha", "o"), ("beta", "s")):
        found = [row["laws"][0][f"{key}_interval"] for row in rows]
        value = [one["value"] for one in found]
        ends = [[abs(one["value"] - one[end]) for one in found] for end in ("low", "high")]
        panel.errorbar(at, value, ends, marker=marker, markersize=4, capsize=2, label=key + which)
    panel.set(title=f"by {axis}", xlabel=axis, ylabel="of the law d(alpha - beta d)")
    if axis == "prompts":
        panel.set(xscale="log")
        panel.set_xticks(at, [f"{x:g}" for x in at])
        panel.minorticks_off()
