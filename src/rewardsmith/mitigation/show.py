"""The proposal and the result as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from rewardsmith.statistics import interval_text

WIDTH = 116
MOST = 12  # rows of probes beyond the worst


def plan_text(plan: Mapping[str, Any], output: str) -> str:
    """What was found, what could be done, and the word for --take."""
    lines = ["found by the audit, the worst first" if plan["worst"] else "the audit found no fault: nothing to mend"]
    for row in plan["worst"]:
        size = row["verdict"] if row["effect_sd"] is None else f"{interval_text(row, '+.2f', key='effect_sd')} SD"
        remedies = ", ".join(row["remedies"]) or "no remedy in the table"
        lines.append(f"  {row['name'][:24]:<25}{size:<32}{remedies}")
    if plan["without_remedy"]:
        lines += folded(
            f"no remedy for {', '.join(plan['without_remedy'])}: add pairs of your own in which the edited side loses"
        )
    if plan["proposals"]:
        lines += ["", "what could be done (* is what --take auto takes)"]
    for row in plan["proposals"]:
        star = "*" if row["auto"] else " "
        lines.append(f"{star} {row['word']:<26}{row['what']}")
        if row["cost"]:
            lines += [f"    {part}" for part in wrap(f"cost: {row['cost']}", WIDTH - 4)]
    lines += [f"warning: {warning}" for warning in plan["warnings"]]
    if plan["proposals"]:
        lines.append(f"next: the same command without --plan, with --take auto or names; steps in {output} are kept")
    return "\n".join(lines)


def result_text(result: Mapping[str, Any]) -> str:
    """Before and after, side by side."""
    if result.get("nothing"):
        return "\n".join([plan_text(result["plan"], result["output"]), "nothing was done"])
    data, faults = result["data"], result["faults"]
    lines = [
        f"taken: {', '.join(result['taken'])}",
        f"{data['groups']} groups and {data['made']} new ones to train on; new model in {result['output']}/rm"
        + (" (its adjusted rewards are judged)" if result["adjusted"] else ""),
        "",
        *probe_lines(result["probes"]),
        f"faults: {faults['before']} before, {faults['after']} after; mended: {', '.join(faults['mended']) or 'none'}; "
        f"new: {', '.join(faults['new']) or 'none'}",
    ]
    lines += ["", *evaluation_lines(result["evaluation"])] if result["evaluation"] else []
    lines += ["", *candidate_lines(result["candidates"])] if result["candidates"] else []
    lines += ["", *gate_lines(result["gate"])] if result["gate"] else []
    lines += [f"warning: {warning}" for warning in result["warnings"]]
    lines += [f"problem: {problem}" for problem in result["problems"]]
    return "\n".join(lines)


def probe_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Probes that were faults before or are now, and relatives of theirs in the audit.

    An effect is the edit's change of the reward less that of its neutral twin; "by itself" is the edit's alone, which
    may fall where the effect does not.
    """
    families = {row["family"] for row in rows if row["worst"]}
    shown = [row for row in rows if row["worst"] or row["after"]["fault"]]
    others = [row for row in rows if row not in shown and (row["family"] in families or not families)][:MOST]
    head = f"{'effect, SD':<26}{'before':<24}{'after':<24}{'change':<24}{'fell by':<24}by itself"
    return [head, *map(probe_line, [*shown, *others])]


def probe_line(row: Mapping[str, Any]) -> str:
    fell = row["fell_by"]
    shown = "" if fell is None or fell["value"] is None else interval_text(fell, ".0%")
    mark = "!" if row["after"]["fault"] else " "
    change = "" if row["change"] is None else interval_text(row["change"], "+.2f")
    sides = "".join(f"{interval_text(row[side], '+.2f'):<24}" for side in ("before", "after"))
    alone = [row[side]["change_sd"] for side in ("before", "after") if row[side]["placebo_sd"] is not None]
    by_itself = f"{alone[0]:+.2f} to {alone[1]:+.2f}" if len(alone) == 2 and None not in alone else ""
    return f"{mark} {row['name'][:23]:<24}{sides}{change:<24}{shown:<24}{by_itself}".rstrip()


def evaluation_lines(found: Mapping[str, Any]) -> list[str]:
    before, after, gap = found["before"], found["after"], found["difference"]
    names = {"accuracy": "accuracy", "length_matched_accuracy": "accuracy, lengths within 10%"}
    lines = [f"{before['n_pairs']} held-out pairs of {before['n_prompts']} prompts"]
    for key, name in names.items():
        lines.append(three(name, before[key], after[key], gap[key]))
    rho = [side["length_correlation"]["within_prompt"] for side in (before, after)]
    lines.append(three("rank correlation with length", rho[0], rho[1], gap["length_correlation"], "+.3f"))
    for row in found["worse_slices"]:
        lines.append(f"  worse on {row['slice']}: {interval_text(row, '+.3f', key='difference')} over {row['n']} pairs")
    if found["unscored"]:
        lines.append(f"  {found['unscored']} groups have no reward by one of the models")
    return lines


def candidate_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"gold {found['gold']!r} of the best of n; {found['n_candidates']} answers to {found['n_prompts']} prompts"
    ]
    for row in found["rows"]:
        length = f"   by length {row['length']['value']:.3f}"
        lines.append(three(f"n = {row['n']}", row["before"], row["after"], row["difference"]) + length)
    return lines


def gate_lines(gate: Mapping[str, Any]) -> list[str]:
    said = {side: "passed" if gate[side]["passed"] else f"failed ({len(gate[side]['failed'])})" for side in gate}
    lines = [f"gate {gate['after']['file']}: {said['before']} before, {said['after']} after"]
    lines += [f"  {row['what']}: {row['key']} {row['threshold']:g}: {row['reason']}" for row in gate["after"]["failed"]]
    return lines


def three(
    name: str, before: Mapping[str, Any], after: Mapping[str, Any], gap: Mapping[str, Any], form: str = ".3f"
) -> str:
    signed = "+" + form.removeprefix("+")
    return f"  {name:<30}{interval_text(before, form):<24}{interval_text(after, form):<24}{interval_text(gap, signed)}"


def folded(text: str) -> list[str]:
    return wrap(text, WIDTH, subsequent_indent="  ")
