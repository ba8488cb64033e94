"""The page of `optimize`: how far this reward can be trusted under pressure. One HTML file, no network, no script.

It shows a result of `optimize --json`; parts that a result lacks are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardsmith.report import optimization_figures as figures
from rewardsmith.report.page import bounds, count, decimal, finite, minus, percent, render, with_bounds, write_text

NAMES = {
    "best_of_n": "best of n",
    "best_of_n_iid": "best of n, with replacement",
    "soft_best_of_n": "soft best of n",
    "best_of_poisson": "best of Poisson",
    "tilt": "KL penalty (tilt)",
    "chi_squared": "chi-squared penalty",
    "threshold": "best share",
    "rejection": "rejection sampling",
}
BESIDE = {"oracle": "oracle", "length only": "length_only", "random": "random"}
MOST_BARS = 4  # values of n that are drawn
FAR = 10  # times the largest KL that was measured: a peak beyond it is no number to go by


def write_optimization_page(result: Mapping[str, Any], path: str | Path) -> None:
    """Write the page of an `optimize` result. The file appears whole or not at all.

    Raises DataError where it cannot be written.
    """
    write_text(Path(path), optimization_page(result))


def optimization_page(result: Mapping[str, Any]) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    best = {row["method"]: row for row in result.get("optimum") or []}
    by_method = {m: [p for p in result["curves"] if p["method"] == m] for m in methods_of(result)}
    laws = [law for law in result.get("laws") or [] if law.get("of", "reward") == "reward"]
    methods = []
    for number, (method, points) in enumerate(by_method.items()):
        beside = {label: [p for p in result.get(key) or [] if p["method"] == method] for label, key in BESIDE.items()}
        own = [
            law
            for law in laws
            if law.get("method", method) == method and law.get("gold", result["gold"]) == result["gold"]
        ]
        methods.append({
            "name": NAMES.get(method, method),
            "anchor": f"m{number}",
            "curve": Markup(figures.curve_panel(points, beside, f"m{number}", result["gold"], kl_of(best.get(method)))),
            "law_figure": Markup(figures.law_panel(points, own, f"law{number}")),
            "laws": [law_row(law) for law in own],
            "rows": [point_row(p, beside, result) for p in points],
        })  # fmt: skip
    bought = result.get("bought") or []
    shared = result.get("shared_error") or {}
    aggregates = [(str(row["aggregate"]), row["curves"]) for row in result.get("aggregates") or []]
    others = [name for name in result.get("golds") or [] if name != result["gold"]]
    return render(
        "optimization.html",
        result=result,
        recommendation=recommendations(result),
        facts=facts(result),
        methods=methods,
        optimum=[optimum_row(row) for row in result.get("optimum") or []],
        golds=result.get("golds") or [],
        others=others,
        bought=[
            (f"{row['n']:g}", Markup(figures.bought_bars(row, f"bought{i}"))) for i, row in enumerate(chosen(bought))
        ],
        readings=[row["reading"] for row in bought if row.get("parts")],
        buckets=[row for row in map(bucket_row, bought) if row],
        aggregate_names=list(enumerate((name for name, _ in aggregates[: len(figures.LINES)]), 1)),
        aggregates=Markup(figures.lines_panel(aggregates, "gold", "aggregates", "gold")),
        shared=Markup(figures.shared_panel(shared.get("curve") or [])),
        shared_words=str(shared.get("sentence") or ""),
        excluded=result.get("excluded") or [],
    )


def methods_of(result: Mapping[str, Any]) -> list[str]:
    """Names of the methods, in the order of the result."""
    return list(dict.fromkeys(str(point["method"]) for point in result["curves"]))


def kl_of(row: Mapping[str, Any] | None) -> float | None:
    return None if row is None else finite(row.get("kl"))


def recommendations(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(method, sentence) of one recommendation or of several."""
    given = result.get("recommendation") or []
    rows = [given] if isinstance(given, Mapping) else given
    return [(NAMES.get(row.get("method", ""), str(row.get("method") or "")), str(row["text"])) for row in rows]


def facts(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(number, what it is, remark) of the facts that open the page."""
    found = [
        (count(result["n_prompts"]), "prompts", "intervals draw whole prompts"),
        (count(result["n_candidates"]), "recorded answers", f"gold: {result['gold']}"),
    ]
    best = max(result.get("optimum") or [], key=lambda row: finite(row["gold"]["value"]) or -1e9, default=None)
    if best is not None:
        name = NAMES.get(best["method"], best["method"])
        remark = (
            f"{bounds(best['gold'])}; {name}, strength {best['strength']:g}, read on prompts that did not choose it"
        )
        found.append((decimal(finite(best["gold"]["value"])), "gold at the optimum", remark))
    left_out = sum(row["count"] for row in result.get("excluded") or [])
    found.append((count(left_out), "left out", "each with its reason below" if left_out else "nothing was left out"))
    return found


def number(value: float | None) -> str:
    """Three figures, whatever the unit of the reward."""
    known = finite(value)
    return "–" if known is None else minus(f"{known:.3f}" if abs(known) < 100 else f"{known:,.1f}")


def point_row(
    point: Mapping[str, Any], beside: Mapping[str, Sequence[Mapping[str, Any]]], result: Mapping[str, Any]
) -> list[str]:
    """One line of the table of a method."""
    same = {
        label: next((p["gold"] for p in points if p["strength"] == point["strength"]), None)
        for label, points in beside.items()
    }
    win = point.get("win_rate") or {}
    others = [name for name in result.get("golds") or [] if name != result["gold"]]
    return [
        f"{point['strength']:g}",
        number(point["kl"]),
        number(point["proxy"]),
        number(point["gold"]),
        bounds(point),
        percent(finite(win.get("value"))),
        *(number(same[label]) for label in BESIDE),
        *(number((point.get("golds") or {}).get(name, {}).get("value")) for name in others),
    ]


def law_row(law: Mapping[str, Any]) -> dict[str, str]:
    test = law.get("extrapolation") or {}
    rmse, still = finite(test.get("rmse")), finite((test.get("constant") or {}).get("rmse"))
    tested = "–" if rmse is None or still is None else f"{rmse:.4f} (staying: {still:.4f})"
    r2 = finite(law.get("r2"))
    return {
        "form": f"{law['form']}: {law.get('formula', '')}".rstrip(": "),
        "alpha": f"{number(law.get('alpha'))} ({bounds(law.get('alpha_interval'))})",
        "beta": f"{number(law.get('beta'))} ({bounds(law.get('beta_interval'))})",
        "r2": number(r2),
        "peak": peak_words(law),
        "test": tested,
        "reason": str(law.get("reason") or ""),
    }


def peak_words(law: Mapping[str, Any]) -> str:
    """KL at the peak with its interval, in which a draw without a peak counts as one beyond any KL."""
    peak = finite(law.get("peak_kl"))
    if peak is None:
        return "none"
    reach = FAR * (finite(law.get("kl_to")) or peak)
    ends = [finite((law.get("peak_kl_interval") or {}).get(end)) for end in ("low", "high")]
    words = [number(x) if x is not None and x <= reach else "far beyond" for x in (peak, *ends)]
    return words[0] if words[0] == "far beyond" or ends == [None, None] else f"{words[0]} ({words[1]} to {words[2]})"


def optimum_row(row: Mapping[str, Any]) -> list[str]:
    return [
        NAMES.get(row["method"], str(row["method"])),
        f"{row['strength']:g}",
        number(row.get("kl")),
        number(row["gold"]["value"]),
        bounds(row["gold"]),
        with_bounds(row.get("over_length"), "+.3f"),
    ]


def chosen(bought: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most `MOST_BARS` rows, the last among them, spread over those with a gain."""
    rows = [row for row in bought if row.get("parts") and row.get("proxy_gain")]
    if len(rows) <= MOST_BARS:
        return rows
    step = (len(rows) - 1) / (MOST_BARS - 1)
    return [rows[round(i * step)] for i in range(MOST_BARS)]


def bucket_row(row: Mapping[str, Any]) -> list[str] | None:
    """n, the gain of reward and gold, and how each splits into lengths and answers of like length."""
    split = row.get("within_bucket")
    if not split or finite(row.get("proxy_gain")) is None:
        return None
    longest = finite(split["buckets"][-1]["policy"])
    return [
        f"{row['n']:g}",
        percent(longest),
        number(row["proxy_gain"]),
        with_bounds(split["proxy"]["within"], "+.3f"),
        number(row["gold_gain"]),
        with_bounds(split["gold"]["between"], "+.3f"),
        with_bounds(split["gold"]["within"], "+.3f"),
    ]
