"""The page of `refresh drift`: is a refresh due, and why? One HTML file, no network, no script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewardsmith.report import refresh_figures as figures
from rewardsmith.report.page import count, decimal, percent, render, with_bounds, write_text

HEADS = {"due": "A refresh is due", "not due": "No refresh is due", "cannot tell": "Too little to tell"}


def write_drift_page(result: Mapping[str, Any], path: str | Path) -> None:
    """Write the page of a `refresh drift` result. The file appears whole or not at all.

    Raises DataError where it cannot be written.
    """
    write_text(Path(path), drift_page(result))


def drift_page(result: Mapping[str, Any]) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    return render(
        "drift.html",
        result=result,
        head=HEADS[result["verdict"]],
        facts=facts(result),
        figure=Markup(figures.drift_panel(result["signals"], result["least"])),
        rows=[signal_row(row) for row in result["signals"]],
        dropped=result.get("dropped") or [],
    )


def facts(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(number, what it is, remark) of the facts that open the page."""
    alarms = sum(row["alarm"] for row in result["signals"])
    found = [
        (count(result["n_new"]), "new prompts", "one answer each, drawn at random"),
        (count(result["n_reference"]), "reference prompts", f"{count(result['shared_prompts'])} of them in both"),
        (
            f"{alarms} of {len(result['signals'])}",
            "signals alarmed",
            f"any at all by chance: at most {percent(result['level'])}",
        ),
    ]
    splits = result.get("on_splits")
    if splits:
        remark = f"of a random part of the reference against the rest, asked {splits['splits']} times"
        found.append((count(splits["alarms"]), "false alarms", remark))
    return found


def signal_row(row: Mapping[str, Any]) -> dict[str, Any]:
    of, form = (row["auc"], ".2f") if "auc" in row else (row["shift"], "+.2f")
    far = row.get("far") or row.get("high")
    expected = row.get("far_expected", row.get("high_expected"))
    return {
        "alarm": row["alarm"],
        "cells": [
            row["meaning"],
            ("AUC " if "auc" in row else "") + with_bounds(of, form),
            "–" if far is None else f"{percent(far['value'])} (usual: {percent(expected)})",
            f"{row['effect_sd']:.2f}",
            decimal(row["p_adjusted"]),
            f"{row['detectable_sd']:.2f}",
        ],
    }
