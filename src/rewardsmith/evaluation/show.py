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


def comparison_table(result: dict[str, Any], a: str, b: str) -> str:
    """The figures of `compare_rows`, one a line."""
    lines = [f"{result['n_pairs']} pairs of {result['n_prompts']} prompts   A = {a}   B = {b}"]
    for name, figure in (
        ("accuracy of A", result["a"]["accuracy"]),
        ("accuracy of B", result["b"]["accuracy"]),
        ("A minus B", result["difference"]),
    ):
        lines.append(f"  {name:<30} {interval(figure)}")
    lines.append(f"  {'p-value, by prompt':<30} {number(result['p_value'])}")
    lines.append(f"  {'p-value, by pair (McNemar)':<30} {number(result['mcnemar_p'])}")
    only = result["discordant"]
    lines.append(f"  {'right in one only':<30} A {only['only_a']}, B {only['only_b']}")
    smallest = result["smallest_detectable"]
    lines.append(
        f"  {'smallest difference to be seen':<30} "
        + ("none: too few prompts" if smallest is None else f"{smallest:.3f} (with 80% power)")
    )
    for side in ("a", "b"):
        if result[side]["score_ties"]:
            lines.append(f"  {result[side]['score_ties']} pairs have equal rewards in {side.upper()}: counted as wrong")
    if result["label_ties"]:
        lines.append(f"  {result['label_ties']} pairs are ties in the labels: not compared")
    if result["slices"]:
        lines.append("  slices (p adjusted for their number)")
        width = max(len(s["slice"]) for s in result["slices"])
        for s in result["slices"]:
            p = "" if s["p_adjusted"] is None else f"   p {s['p_adjusted']:.3f}"
            lines.append(f"    {s['slice']:<{width}}  {interval(s | {'value': s['difference']})}  {s['n']} pairs{p}")
    return "\n".join(lines)


def selftest_table(result: dict[str, Any]) -> str:
    """The ways of `selftest`, those that must not matter first."""
    lines = [f"{result['n_responses']} responses, rewards spread {result['reward_spread']:.3f}"]
    for matters, title in ((False, "must not matter"), (True, "may matter")):
        lines.append(f"  {title}")
        for way in result["ways"]:
            if way["matters"] != matters:
                continue
            if way["note"]:
                lines.append(f"    {way['name']:<34} not run: {way['note']}")
                continue
            verdict = "" if way["same"] is None else ("   same" if way["same"] else "   DIFFERENT")
            lines.append(
                f"    {way['name']:<34} moves {way['largest']:.1e} at most, "
                f"flips {way['flipped']} of {way['n_pairs']} decisions{verdict}"
            )
    lines.append("  sound" if result["ok"] else "  NOT SOUND: a reward depends on what it must not depend on")
    return "\n".join(lines)
