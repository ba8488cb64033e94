"""An evaluation as text for people."""

from __future__ import annotations

from typing import Any

from rewardsmith.statistics import interval_text


def evaluation_table(result: dict[str, Any]) -> str:
    """The figures of `evaluate_rows`, one a line, intervals beside them. A slice of all pairs says nothing new."""
    lines = [f"{result['n_pairs']} pairs of {result['n_groups']} groups"]
    for name, key in (
        ("accuracy", "accuracy"),
        ("longer answer wins", "length_baseline"),
        ("accuracy, lengths within 10%", "length_matched_accuracy"),
        ("accuracy, length controlled", "length_controlled_accuracy"),
    ):
        figure = result[key]
        n = f"   {figure['n']} pairs" if "n" in figure and figure["n"] < result["n_pairs"] else ""
        lines.append(_figure(name, figure, n))
    for name, key in (("negative log-likelihood", "nll"), ("Brier score", "brier"), ("calibration error", "ece")):
        lines.append(f"  {name:<30} {number(result[key])}")
    correlation = result["length_correlation"]
    lines.append(_figure("rank correlation with length", correlation["within_prompt"], "   within prompts"))
    if result["score_ties"]:
        lines.append(f"  {result['score_ties']} pairs have equal rewards: counted as wrong")
    if result["label_ties"]:
        lines.append(f"  {result['label_ties']} pairs are ties in the labels: not in the accuracy")
    lines += [*_calibration_lines(result["calibration"]), *_rating_lines(result), *_agreement_lines(result)]
    n_decided = result["n_pairs"] - result["label_ties"]
    slices = [s for s in result["slices"] if s["n"] != n_decided]
    if slices:
        lines.append("  slices")
        width = max(len(s["slice"]) for s in slices)
        lines += [
            f"    {s['slice']:<{width}}  {interval(s | {'value': s['accuracy']})}  {s['n']} pairs" for s in slices
        ]
    return "\n".join(lines)


def _figure(name: str, figure: dict[str, Any], more: str = "") -> str:
    return f"  {name:<30} {interval(figure)}{more}"


def _calibration_lines(calibration: dict[str, Any]) -> list[str]:
    """Errors before and after the temperature, and where confidence and correctness part most."""
    fit, before, after = (calibration[key] for key in ("temperature", "before", "after"))
    if after["ece"] is None:
        return []
    value = "infinite" if fit["value"] is None else format(fit["value"], ".3f")
    where = "fitted to these pairs" if fit["fitted_here"] else "as stored with the model"
    lines = [f"  calibration: temperature {value}, {where}"]
    for name, key in (("negative log-likelihood", "nll"), ("Brier score", "brier"), ("calibration error", "ece")):
        lines.append(f"    {name:<28} {before[key]:.3f} -> {after[key]:.3f}")
    was, over = before["overconfidence"]["value"], interval_text(after["overconfidence"], "+.3f")
    lines.append(f"    {'confidence less correctness':<28} {was:+.3f} -> {over}")
    return lines


def _rating_lines(result: dict[str, Any]) -> list[str]:
    found, rows = result["rating_correlation"], result["best_of_n"]
    if found is None:
        return []
    lines = [
        _figure("rank correlation with ratings", found["within_prompt"], "   within prompts"),
        _figure("  the same of length", found["length_within_prompt"]),
    ]
    lines.append("  best of n: mean rating, and share of the possible gain (the longest answer's)")
    for row in rows:
        shares = "" if row["recovery"]["value"] is None else f"   {interval(row['recovery'])}"
        longest = row["length_only"]["recovery"]["value"]
        shares += "" if longest is None else f" ({longest:.3f})"
        lines.append(f"    n {row['n']:<5} {row['gold']['value']:.3f}{shares}   {row['n_groups']} groups")
    return lines


def _agreement_lines(result: dict[str, Any]) -> list[str]:
    found = result["agreement"]
    if found is None:
        return []
    lines = [
        f"  {found['n_pairs']} pairs have several annotators",
        _figure("  agrees with an annotator", found["scorer_with_annotator"]),
        _figure("  annotators with each other", found["annotator_with_annotator"]),
    ]
    return [*lines, *(_figure(f"  {name}", figure) for name, figure in found["among"].items())]


def interval(figure: dict[str, Any]) -> str:
    """0.665 [0.610, 0.719]"""
    return interval_text(figure, none="no pairs")


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
