"""An evaluation as text for people."""

from __future__ import annotations

from typing import Any


def evaluation_table(result: dict[str, Any]) -> str:
    """The figures of `evaluate_rows`, one a line, intervals beside them."""
    lines = [f"{result['n_pairs']} pairs of {result['n_groups']} groups"]
    for name, key in (
        ("accuracy", "accuracy"),
        ("longer answer wins", "length_baseline"),
        ("accuracy, lengths within 10%", "length_matched_accuracy"),
    ):
        figure = result[key]
        n = f"   {figure['n']} pairs" if "n" in figure else ""
        lines.append(f"  {name:<30} {interval(figure)}{n}")
    for name, key in (("negative log-likelihood", "nll"), ("Brier score", "brier"), ("calibration error", "ece")):
        lines.append(f"  {name:<30} {number(result[key])}")
    correlation = result.get("length_correlation") or {}
    if correlation.get("within_prompt"):
        lines.append(
            f"  {'rank correlation with length':<30} {interval(correlation['within_prompt'])}   within prompts"
        )
    if result.get("score_ties"):
        lines.append(f"  {result['score_ties']} pairs have equal rewards: counted as wrong")
    if result.get("label_ties"):
        lines.append(f"  {result['label_ties']} pairs are ties in the labels: not in the accuracy")
    if result["slices"]:
        lines.append("  slices")
        width = max(len(s["slice"]) for s in result["slices"])
        lines += [
            f"    {s['slice']:<{width}}  {interval(s | {'value': s['accuracy']})}  {s['n']} pairs"
            for s in result["slices"]
        ]
    return "\n".join(lines)


def interval(figure: dict[str, Any]) -> str:
    """0.665 [0.610, 0.719]"""
    if figure.get("value") is None:
        return "no pairs"
    if figure.get("low") is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
