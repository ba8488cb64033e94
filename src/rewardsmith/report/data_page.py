"""The page of `data check`: one HTML file that opens from disk, without network or script.

Texts in it come from files that nobody vouches for: the template escapes all of them, and only our own figures
are put in as markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewardsmith.report import figures
from rewardsmith.report.page import count, interval, percent, render, write_text

MOST_DROPPED = 200  # rows in the table; the rest is counted
MOST_VALUES = 12  # of one tag that are drawn


def write_data_page(result: Mapping[str, Any], path: str | Path) -> None:
    """Write the page of a `check_files` result. The file appears whole or not at all.

    Raises DataError where it cannot be written.
    """
    write_text(Path(path), data_page(result))


def data_page(result: Mapping[str, Any]) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    return render(
        "data.html",
        result=result,
        headline=headline(result),
        steps=next_steps(result),
        figures={name: Markup(svg) for name, svg in drawn(result).items()},
        tags=tag_tables(result["tags"]),
        dropped=result["dropped"][:MOST_DROPPED],
        dropped_beyond=max(0, len(result["dropped"]) - MOST_DROPPED),
    )


def drawn(result: Mapping[str, Any]) -> dict[str, str]:
    """The figures by name; "" where there is nothing to draw."""
    lengths = result["lengths"]
    several_k = len(result["k"]) > 1
    return {
        "lengths": figures.length_histogram(lengths["histogram"]),
        "differences": figures.difference_histogram(lengths["difference"]),
        "features": figures.feature_bars(result["surface_baseline"]["features"]),
        "k": figures.count_bars(result["k"], "responses in the group (K)", "k") if several_k else "",
        "turns": figures.count_bars(result["turns"], "turns in the prompt", "turns")
        if len(result["turns"]) > 1
        else "",
    }


def headline(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(number, what it is, remark) of the facts that open the page."""
    baseline = result["surface_baseline"]
    dropped = len(result["dropped"])
    serious = sum(warning["level"] == "serious" for warning in result["warnings"])
    facts = [
        (count(result["groups"]), "groups", f"from {count(result['rows'])} rows, shape {result['shape']}"),
        (count(result["pairs"]), "pairs", pairs_remark(result["labels"])),
        (
            count(dropped),
            "rows dropped",
            "each with its reason below" if dropped else "every row is in a group",
        ),
        (count(serious), "serious findings", f"of {len(result['warnings'])} in all"),
    ]
    if baseline["logistic_accuracy"]["value"] is not None:
        facts.append(
            (
                percent(baseline["length_accuracy"]["value"]),
                "longer answer chosen",
                "50% would be no length bias; equal lengths count half",
            )
        )
        facts.append(
            (
                percent(baseline["logistic_accuracy"]["value"]),
                "told by the surface alone",
                f"{interval(baseline['logistic_accuracy'])}, held-out prompts",
            )
        )
    return facts


def pairs_remark(labels: Mapping[str, Any]) -> str:
    """Ties and soft labels among the pairs, where there are any."""
    parts = [f"{count(labels[key])} {name}" for key, name in (("ties", "ties"), ("soft", "soft")) if labels[key]]
    return ", ".join(parts) or "all of them decided"


def next_steps(result: Mapping[str, Any]) -> list[str]:
    """What to do now, in plain words: first what is wrong, then what to expect, then the command."""
    serious = [warning for warning in result["warnings"] if warning["level"] == "serious"]
    steps = [f"{warning['message']} {warning['action']}".strip() for warning in serious[:5]]
    if not serious:
        steps.append("Nothing serious was found: these files can be trained on as they are.")
    model = result["surface_baseline"]["logistic_accuracy"]["value"]
    length = result["surface_baseline"]["length_accuracy"]["value"]
    if model is not None:
        bar = max(model, length, 1 - length)
        steps.append(
            f"Hold a reward model against {percent(bar)}: that much of the labels can be told without reading an "
            "answer. Look at its length-matched accuracy too."
        )
    if result["eval"] is None:
        steps.append("Give held-out files with --eval-data to see what they share with these.")
    if result["tokens"] is None:
        steps.append("Name a tokenizer with --tokenizer to see what a length limit would cut.")
    return steps


def tag_tables(tags: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Per tag its most frequent values with their share, and how many further values there are."""
    tables = []
    for name, values in tags.items():
        shown = list(values.items())[:MOST_VALUES]
        top = max((number for _, number in shown), default=1)
        rows = [{"value": value, "count": number, "width": 100 * number / top} for value, number in shown]
        tables.append({"name": name, "rows": rows, "beyond": len(values) - len(shown)})
    return tables
