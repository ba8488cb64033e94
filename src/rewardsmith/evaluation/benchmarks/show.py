"""A benchmark's result as text for people: each figure with its interval, the baselines in columns beside it."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

from rewardsmith.evaluation.show import interval

WIDTH = 120
SHORT = {
    "constant": "const",
    "longest": "long",
    "shortest": "short",
    "always_refuse": "refuse",
    "prompt_blind": "blind",
}


def benchmark_table(result: dict[str, Any]) -> str:
    """The score, every part, and what the baselines get."""
    others = result["baselines"]
    lines = [f"{result['benchmark']}: {result['n']} rows, {result['n_prompts']} prompts; {result['score_is']}"]
    rows = [("score", result["score_over_present"], [b["score_over_present"] for b in others.values()])]
    if result["score_over_present"]["value"] is None:
        rows = []
    for kind, figures in result["parts"].items():
        rows.append((kind, None, []))
        rows += [(f"  {n}", f, [b["parts"].get(kind, {}).get(n) for b in others.values()]) for n, f in figures.items()]
    for kind, figures in result["reference"].items():
        rows.append((kind, None, []))
        rows += [(f"  {n}", f, []) for n, f in figures.items()]
    width = max(len(name) for name, *_ in rows)
    lines.append(f"  {'':<{width}}  {'':<22}{'n':>6}" + "".join(f"{SHORT.get(b, b):>8}" for b in others))
    for name, figure, values in rows:
        if figure is None:
            lines.append(f"  {name}")
            continue
        shown = "".join(f"{'-' if value is None else format(value, '.3f'):>8}" for value in values)
        lines.append(f"  {name:<{width}}  {interval(figure):<22}{figure.get('n', result['n']):>6}{shown}")
    notes = []
    if result["missing"]:
        notes.append(f"not the published score: {', '.join(result['missing'])} missing")
    if result["row_counts"]:
        counts = (f"{name} {c['here']} of {c['published']}" for name, c in result["row_counts"].items())
        notes.append(f"rows here and as published: {', '.join(counts)}")
    if result["score_ties"]:
        notes.append(f"equal rewards in {result['score_ties']} comparisons")
    lines += [line for note in notes for line in wrap(note, WIDTH, initial_indent="  ", subsequent_indent="    ")]
    return "\n".join(lines)
