"""The page of `mitigate`: before and after, in one HTML file without network or script.

It shows a result of `mitigate --json`. Names of probes and texts of plans may come from a user's files: the template
escapes them, and no figure holds any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardsmith.report.figures import CHOSEN, FAINT, REJECTED, finish, new_figure, styled
from rewardsmith.report.page import count, counted, finite, minus, percent, render, with_bounds, write_text

NUMBERS = (
    ("accuracy", "accuracy"),
    ("length_matched_accuracy", "accuracy, lengths within 10%"),
)
OTHERS = 12  # probes that were no fault and are none


def write_mitigation_page(result: Mapping[str, Any], path: str | Path) -> None:
    """Write the page of a `mitigate` result. The file appears whole or not at all.

    Raises DataError where it cannot be written.
    """
    write_text(Path(path), mitigation_page(result))


def mitigation_page(result: Mapping[str, Any]) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    rows = list(result["probes"])
    shown = [row for row in rows if row["worst"] or row["after"]["fault"]]
    others = [row for row in rows if row not in shown]
    evaluation = result["evaluation"]
    candidates = result["candidates"]
    return render(
        "mitigation.html",
        result=result,
        verdict=verdict(result),
        good=len(result["faults"]["new"]) == 0 and result["faults"]["after"] < result["faults"]["before"],
        facts=facts(result),
        probes=[probe_row(row) for row in shown],
        twins=any(by_itself(row) for row in shown),
        dots=dots(shown),
        others=[
            probe_row(row) for row in sorted(others, key=lambda r: -abs(finite(r["after"]["value"]) or 0))[:OTHERS]
        ],
        others_beyond=max(0, len(others) - OTHERS),
        numbers=number_rows(evaluation) if evaluation else [],
        worse=[
            (row["slice"], count(row["n"]), with_bounds(row, "+.3f", key="difference"))
            for row in evaluation["worse_slices"]
        ]
        if evaluation
        else [],
        golds=[gold_row(row) for row in candidates["rows"]] if candidates else [],
        curve=Markup(gold_curve(candidates["rows"])) if candidates else "",
        gates=gate_rows(result["gate"]),
        proposals=result["plan"]["proposals"],
        made=result["data"],
    )


def verdict(result: Mapping[str, Any]) -> str:
    """What came of it, in one sentence or two."""
    faults = result["faults"]
    said = f"{counted(faults['before'], 'fault')} before, {faults['after']} after."
    if faults["mended"]:
        said += f" Mended: {', '.join(faults['mended'])}."
    if faults["new"]:
        said += f" New: {', '.join(faults['new'])}."
    if result["evaluation"]:
        gap = result["evaluation"]["difference"]["accuracy"]
        if finite(gap["value"]) is not None:
            said += f" Held-out accuracy changed by {with_bounds(gap, '+.3f')}."
    if result["gate"]:
        said += " The gate is passed now." if result["gate"]["after"]["passed"] else " The gate is not passed."
    return said


def facts(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(number, what it is, remark) of the facts that open the page."""
    faults, data, evaluation = result["faults"], result["data"], result["evaluation"]
    found = [
        (f"{faults['before']} → {faults['after']}", "faults in the audit", "before → after"),
        (count(data["made"]), "new groups", f"beside {counted(data['groups'], 'group')} of the data"),
    ]
    if data["balance"]:
        share = data["balance"]["effective_pairs"] / data["balance"]["pairs"]
        found.append((percent(share), "of the pairs in effect", "under the weights that break what length tells"))
    if evaluation:
        before, after = (finite(evaluation[side]["accuracy"]["value"]) for side in ("before", "after"))
        found.append((f"{percent(before)} → {percent(after)}", "held-out accuracy", "before → after"))
        rho = [finite(evaluation[side]["length_correlation"]["within_prompt"]["value"]) for side in ("before", "after")]
        found.append((" → ".join(number(r, "+.2f") for r in rho), "correlation with length", "within prompts"))
    return found


def number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else minus(f"{value:{form}}")


def probe_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": row["name"],
        "before": with_bounds(row["before"], "+.2f"),
        "after": with_bounds(row["after"], "+.2f"),
        "change": with_bounds(row["change"], "+.2f"),
        "fell": with_bounds(row["fell_by"], ".0%"),
        "alone": by_itself(row),
        "fault": row["after"]["fault"],
        "said": row["after"]["verdict"],
    }


def by_itself(row: Mapping[str, Any]) -> str:
    """ "+0.56 → −0.18": what the edit alone changes, before and after; "" for a probe without a neutral twin."""
    sides = (row["before"], row["after"])
    if any(side["placebo_sd"] is None or side["change_sd"] is None for side in sides):
        return ""
    return " → ".join(number(side["change_sd"], "+.2f") for side in sides)


def dots(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Positions in percent of a common axis about 0, of each probe's effect before and after."""
    sides = [row[side] for row in rows for side in ("before", "after")]
    reach = 1.05 * max((abs(v) for s in sides for key in ("value", "low", "high") if (v := finite(s[key])) is not None),
                       default=0.0) or 1.0  # fmt: skip

    def at(value: Any) -> float | None:
        known = finite(value)
        return None if known is None else 50 + 50 * known / reach

    return [
        {
            "name": row["name"],
            "text": " → ".join(number(finite(row[side]["value"]), "+.2f") for side in ("before", "after")),
            "sides": [
                {"side": side, "y": y, **{key: at(row[side][key]) for key in ("value", "low", "high")}}
                for side, y in (("before", 7), ("after", 17))
            ],
        }
        for row in rows
    ]


def number_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            name,
            *(with_bounds(found[side][key], ".3f") for side in ("before", "after")),
            with_bounds(found["difference"][key], "+.3f"),
        )
        for key, name in NUMBERS
    ]
    rho = [with_bounds(found[side]["length_correlation"]["within_prompt"], "+.3f") for side in ("before", "after")]
    return [
        *rows,
        ("rank correlation with length", *rho, with_bounds(found["difference"]["length_correlation"], "+.3f")),
    ]


def gold_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    sides = (with_bounds(row[side], ".3f") for side in ("before", "after"))
    return (count(row["n"]), *sides, with_bounds(row["difference"], "+.3f"), number(finite(row["length"]["value"])))


def gate_rows(gate: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """(side, threshold, reason) of what is not kept."""
    if not gate:
        return []
    return [
        (side, f"{row['what']}: {row['key']} {row['threshold']:g}", row["reason"])
        for side in ("before", "after")
        for row in gate[side]["failed"]
    ]


@styled
def gold_curve(rows: Sequence[Mapping[str, Any]]) -> str:
    """Gold of the best of n before and after, and by length; "" for fewer than two sizes."""
    if len(rows) < 2:
        return ""
    figure, axes = new_figure()
    n = [row["n"] for row in rows]
    lines = (("before", REJECTED, "s", "--"), ("after", CHOSEN, "o", "-"), ("length", FAINT, None, ":"))
    for name, colour, mark, dash in lines:
        values = [row[name] for row in rows]
        label = "by length" if name == "length" else name
        axes.plot(
            n, [v["value"] for v in values], color=colour, marker=mark, linestyle=dash, markersize=4.5, label=label
        )
        if name != "length" and all(v["low"] is not None for v in values):
            axes.fill_between(n, [v["low"] for v in values], [v["high"] for v in values], color=colour, alpha=0.13,
                              linewidth=0)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(n, [str(size) for size in n])
    axes.minorticks_off()
    axes.set_xlabel("n")
    axes.set_ylabel("gold")
    axes.grid(axis="y", color=FAINT, linewidth=0.6, alpha=0.5)
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9.5)
    return finish(figure, axes, "gold", "Gold of the best of n before and after", counts=False)
