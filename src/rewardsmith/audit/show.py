"""An audit as text for people: what raises the reward first, then what was found sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

WIDTH = 120
HEAD = f"{'':<36}{'effect, SD':<24}{'placebo':>8}{'overtakes':>11}{'n':>5}   "
MOST = 12  # lines of what failed


def audit_table(result: Mapping[str, Any]) -> str:
    """Probes by effect, those at fault first; controls, real answers, problems, the gate, and what to do next."""
    rows = sorted(result["probes"], key=rank)
    faults = [row for row in rows if row["fault"]]
    lines = [
        f"{result['n_seeds']} seeds, {result['n_answers']} answers to {result['n_prompts']} prompts, "
        f"{result['seconds']:.0f} s; one SD of a prompt's answers is {result['reward_sd']:.3f} of reward",
        HEAD,
        *table("faults", faults),
        *table("no fault found", [row for row in rows if not row["fault"]]),
    ]
    best = result["best_of_edits"]
    if best["overtake_rate"] is not None:
        lines.append(
            f"  {'best of all edits':<34}{'':<32}{percent(best['overtake_rate']):>11}{best['n']:>5}   "
            "each wrong answer with its best edit"
        )
    lines += table("real answers", sorted(result.get("real", ()), key=rank))
    lines += [
        f"      {row['name']} and the probe {found['probe']!r}: {AGREEMENT[found['says']]}"
        for row in result.get("real", ())
        for found in row["agreement"]
    ]
    if controls := [row for row in result["controls"] if row["n"]]:
        lines.append("  controls, no edits: what the seeds' own answers are worth beside the right one")
        lines += [f"    {row['name']:<32}{effect(row, 'change_sd')}{'':>19}{row['n']:>5}" for row in controls]
        lines += [
            f"    {row['name']}: not shown to be worth less; there is little here that an edit could spoil"
            for row in controls
            if row["wanted"] == "lower" and row["high"] is not None and row["high"] >= 0
        ]
    lines += problem_lines(result.get("problems", ()))
    lines += gate_lines(result.get("gate") or {})
    return "\n".join([*lines, *next_lines(faults)])


AGREEMENT = {
    "agree": "same sign",
    "disagree": "OPPOSITE SIGNS: read the examples before you trust either",
    "unclear": "cannot be compared: at least one of the two effects was not shown",
}


def rank(row: Mapping[str, Any]) -> tuple[bool, float]:
    """By size of the effect where both directions are a fault, else from the largest to the smallest."""
    value = row["effect_sd"]
    if value is None:
        return (True, 0.0)
    return (False, -abs(value) if row["wanted"] == "not changed" else -value)


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A title and one line per row; nothing for no rows."""
    return [f"  {title}", *map(line, rows)] if rows else []


def line(row: Mapping[str, Any]) -> str:
    placebo = "" if row["placebo_sd"] is None else f"{row['placebo_sd']:+.2f}"
    rate = "" if row["overtake_rate"] is None else percent(row["overtake_rate"])
    return f"    {row['name'][:31]:<32}{effect(row)}{placebo:>8}{rate:>11}{row['n']:>5}   {words(row)}"


def words(row: Mapping[str, Any]) -> str:
    """The verdict, and what a sound reward would do where this one does otherwise."""
    smallest = row["smallest_detectable_sd"]
    seen = "" if smallest is None else f" ({smallest:.2f} would show)"
    said = {
        "rewarded": "raises the reward",
        "punished": "lowers the reward",
        "silent": f"no effect shown{seen}",
        "not shown": f"not shown to lower it{seen}",
        "untested": "untested: too few seeds",
    }[row["verdict"]]
    return f"{said}, should {SHOULD[row['wanted']]}" if row["fault"] and row["verdict"] != "not shown" else said


SHOULD = {"not higher": "not", "not changed": "not matter", "lower": "lower it"}


def effect(row: Mapping[str, Any], key: str = "effect_sd") -> str:
    """+0.52 [+0.41, +0.63], in 24 columns"""
    if row[key] is None:
        return f"{'none':<24}"
    interval = "" if row["low"] is None else f" [{row['low']:+.2f}, {row['high']:+.2f}]"
    return f"{f'{row[key]:+.2f}{interval}':<24}"


def percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def problem_lines(problems: Sequence[str]) -> list[str]:
    found = [part for problem in problems for part in wrap(problem, WIDTH - 4, subsequent_indent="  ")]
    return ["  PROBLEMS", *(f"    {part}" for part in found)] if found else []


def gate_lines(gate: Mapping[str, Any]) -> list[str]:
    """Whether the gate was passed, and every threshold that was not kept."""
    if not gate:
        return []
    skipped = f", {len(gate['not_checked'])} without a figure" if gate["not_checked"] else ""
    head = f"  gate {gate['file']}: {'passed' if gate['passed'] else 'FAILED'}, {gate['n_checked']} thresholds{skipped}"
    failed = [f"    {row['what']}: {row['key']} {row['threshold']:g}: {row['reason']}" for row in gate["failed"]]
    more = [f"    and {len(failed) - MOST} more (all of them with --json)"] if len(failed) > MOST else []
    return [head, *failed[:MOST], *more]


def next_lines(faults: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to do about the first faults."""
    if not faults:
        return ["next: keep it so with --gate, and try probes of your own (--contrasts, --probes-file)"]
    names = ", ".join(dict.fromkeys(row["family"] for row in faults[:3]))
    return [
        f"next: read the examples (--output audit.json); mend {names}:",
        "      rewardsmith mitigate RM --data TRAIN_FILE --output DIR --plan; hold what you reach with --gate",
    ]
