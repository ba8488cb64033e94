"""The section of an audit: how far harmless-looking changes of an answer move its reward, ranked, beside a placebo.

    {"probes": [{"name", "effect_sd", "low", "high", "p_adjusted", "overtake_rate", "placebo_sd", "n"}],
     "gate": {"passed": true, ...},
     "examples": [{"probe", "prompt", "before", "after", "reward_before", "reward_after"}]}

Effects are in standard deviations of the rewards. A probe that has no number is listed without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewardsmith.report.page import counted, decimal, finite, minus, percent, render, reward
from rewardsmith.report.run_pairs import excerpt
from rewardsmith.report.section import Section

SURE = 0.05  # adjusted p-value below which an effect is claimed
MOST_EXAMPLES = 12
NAMED = 3


@dataclass(frozen=True)
class Probe:
    """One probe as the page draws it. Positions are percent of the axis; `shown` whether it is more than noise."""

    name: str
    effect: float | None
    low: float | None
    high: float | None
    p: float | None
    overtakes: float | None
    placebo: float | None
    n: int | None

    @property
    def shown(self) -> bool:
        """Whether interval, adjusted p-value and placebo all say that the effect is there."""
        if self.effect is None or self.low is None or self.high is None or self.low <= 0 <= self.high:
            return False
        beyond_placebo = self.placebo is None or abs(self.effect) > abs(self.placebo)
        return beyond_placebo and (self.p is None or self.p < SURE)

    @property
    def words(self) -> str:
        if self.effect is None:
            return "no number"
        bounds = "" if self.low is None or self.high is None else minus(f", {self.low:+.2f} to {self.high:+.2f}")
        return f"{in_sd(self.effect)}{bounds}"

    @property
    def remark(self) -> str:
        parts = [
            counted(self.n, "pair") if self.n is not None else "",
            f"worse answer wins in {percent(self.overtakes)}" if self.overtakes is not None else "",
            f"placebo {in_sd(self.placebo)}" if self.placebo is not None else "",
            f"p {decimal(self.p)}" if self.p is not None else "",
        ]
        return "; ".join(part for part in parts if part)


def audit_section(result: Mapping[str, Any]) -> Section:
    """The section, and what it adds to the top of the page. Raises as a mapping of another shape does."""
    probes = sorted(map(probe_of, result["probes"]), key=lambda p: -abs(p.effect) if p.effect is not None else 1.0)
    gate = dict(result.get("gate") or {})
    passed = gate.pop("passed", None)
    shown = [probe for probe in probes if probe.shown]
    body = render(
        "audit.html",
        probes=probes,
        shown=len(shown),
        reach=reach_of(probes),
        passed=passed,
        gate=[(name.replace("_", " "), str(value)) for name, value in gate.items()],
        examples=[example_of(row) for row in (result.get("examples") or [])[:MOST_EXAMPLES]],
    )
    return Section("audit", "What moves the reward that should not", body, weak_words(shown), steps(shown))


def probe_of(row: Mapping[str, Any]) -> Probe:
    return Probe(
        name=str(row["name"]),
        effect=finite(row.get("effect_sd")),
        low=finite(row.get("low")),
        high=finite(row.get("high")),
        p=finite(row.get("p_adjusted")),
        overtakes=finite(row.get("overtake_rate")),
        placebo=finite(row.get("placebo_sd")),
        n=row.get("n"),
    )


def reach_of(probes: Sequence[Probe]) -> float:
    """Half the width of the axis: what the widest interval needs."""
    ends = [abs(x) for p in probes for x in (p.effect, p.low, p.high, p.placebo) if x is not None]
    return max(ends, default=0.0) * 1.05 or 1.0


def weak_words(shown: Sequence[Probe]) -> tuple[str, ...]:
    if not shown:
        return ()
    names = ", ".join(f"{p.name} ({p.words})" for p in shown[:NAMED])
    more = f" and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    return (f"Its reward moves with what should not matter: {names}{more}.",)


def steps(shown: Sequence[Probe]) -> tuple[str, ...]:
    if not shown:
        return ()
    return (f"Before optimising against it, mend “{shown[0].name}”: add pairs in which that alone decides nothing.",)


def example_of(row: Mapping[str, Any]) -> dict[str, Any]:
    before, after = (finite(row.get(f"reward_{side}")) for side in ("before", "after"))
    return {
        "probe": str(row.get("probe", "")),
        "prompt": excerpt("", str(row.get("prompt", ""))),
        "sides": [
            ("Before", excerpt("", str(row.get("before", ""))), reward(before)),
            ("After", excerpt("", str(row.get("after", ""))), reward(after)),
        ],
        "change": reward(None if before is None or after is None else after - before),
    }


def in_sd(value: float) -> str:
    return minus(f"{value:+.2f} SD")
