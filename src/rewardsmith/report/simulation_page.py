"""The page of `refresh simulate`: would refreshing pay? One HTML file, no network, no script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewardsmith.report import refresh_figures as figures
from rewardsmith.report.page import bounds, count, decimal, finite, percent, render, with_bounds, write_text

MEANING = {
    "fixed": "every label on the base policy's pairs before the first round; the model never changes",
    "last_only": "each round learns from that round's labels alone",
    "all_data": "each round learns from all labels so far",
    "importance": "the same, weighted by how likely the newest policy is to give each pair",
    "replay": "the newest labels, with a share of the weight left to all older ones",
}


def write_simulation_page(result: Mapping[str, Any], path: str | Path) -> None:
    """Write the page of a `refresh simulate` result. The file appears whole or not at all.

    Raises DataError where it cannot be written.
    """
    write_text(Path(path), simulation_page(result))


def simulation_page(result: Mapping[str, Any]) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    forms = list(dict.fromkeys(row["form"] for row in result["predictions"]))
    return render(
        "simulation.html",
        result=result,
        facts=facts(result),
        meaning=[(figures.name_of(row["strategy"]), MEANING[row["strategy"]]) for row in result["strategies"]],
        rounds=Markup(figures.rounds_panel(result)),
        over=Markup(figures.over_fixed_panel(result)),
        law_figures=[(form, Markup(figures.law_of_rounds_panel(result, form))) for form in forms],
        rows=[line for row in result["strategies"] for line in strategy_lines(row)],
        laws=[law_line(law) for law in result["laws"]],
        predictions=[prediction_line(row) for row in result["predictions"] if row["round"] == result["rounds"]],
        excluded=result.get("excluded") or [],
    )


def facts(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(number, what it is, remark) of the facts that open the page."""
    sides = result["prompts"]
    return [
        (count(result["budget"]), "labels", f"over {result['rounds']} rounds, {result['seeds']} times over"),
        (
            count(sides["label"]),
            "prompts to label",
            f"{count(result['pairs'])} pairs, gold decides {percent(result['decided'])}",
        ),
        (count(sides["test"]), "prompts to judge", f"and {count(sides['dev'])} to choose the penalty on"),
        (
            decimal(finite(result["base"]["value"])),
            "gold of the base policy",
            f"{bounds(result['base'])}; gold: {result['gold']}",
        ),
    ]


def strategy_lines(row: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            figures.name_of(row["strategy"]),
            str(at["round"]),
            count(at["labels"]),
            count(at["effective_labels"]),
            f"{at['kl']:.2f}",
            with_bounds(at["gold"]),
            "–" if row["strategy"] == "fixed" else with_bounds(at["over_fixed"], "+.3f"),
            percent(finite(at["accuracy_base"]["value"])),
            percent(finite(at["accuracy_own"]["value"])),
        ]
        for at in row["rounds"]
    ]


def law_line(law: Mapping[str, Any]) -> list[str]:
    numbers = [with_bounds({**law[f"{key}_interval"], "value": law[key]}) for key in ("alpha", "beta")]
    return [figures.name_of(law["of"]), f"{law['form']}: {law['formula']}", *numbers, decimal(finite(law["r2"]))]


def prediction_line(row: Mapping[str, Any]) -> list[str]:
    gains = (with_bounds(row[key], "+.3f") for key in ("predicted", "measured"))
    return [row["form"], figures.name_of(row["strategy"]), *gains]
