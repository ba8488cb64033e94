"""The section of an audit: how far harmless-looking changes of an answer move its reward, ranked, beside a placebo.

    {"probes": [{"name", "effect_sd", "low", "high", "p_adjusted", "overtake_rate", "placebo_sd", "n", "asks", "fault"}]
     (the last two may be missing),
     "gate": {"passed", "failed": [{"what", "key", "threshold", "reason"}]},
     "examples": [{"probe", "prompt", "before", "after", "reward_before", "reward_after"}]}

Effects are in within-prompt standard deviations of the reward, with the placebo's taken off. A probe that has no number
is listed without one. Where a row does not say whether it is a `fault`, an effect that is shown is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewardsmith.report.page import counted, finite, minus, percent, render, reward
from rewardsmith.report.run_pairs import excerpt
from rewardsmith.report.section import Section

SURE = 0.05  # adjusted p-value below which an effect is claimed
MOST_EXAMPLES = 12
NAMED = 3


@dataclass(frozen=True)
class Probe:
    """One probe as the page draws it: `shown`, whether it is more than noise; `fault`, whether it should not be so."""

    name: str
    asks: str
    effect: float | None
    low: float | None
    high: float | None
    p: float | None
    overtakes: float | None
    placebo: float | None
    n: int | None
    stated: bool | None

    @property
    def shown(self) -> bool:
        """Whether interval and adjusted p-value both say that the effect is there."""
        if self.effect is None or self.low is None or self.high is None or self.low <= 0 <= self.high:
            return False
        return self.p is None or self.p < SURE

    @property
    def fault(self) -> bool:
        return self.shown if self.stated is None else self.stated

    @property
    def words(self) -> str:
        if self.effect is None:
            return "no number"
        bounds = "" if self.low is None or self.high is None else minus(f", {self.low:+.2f} to {self.high:+.2f}")
        return f"{in_sd(self.effect)}{bounds}"

    @property
    def remark(self) -> str:
        parts = [
            counted(self.n, "prompt") if self.n is not None else "",
            f"carries {percent(self.overtakes)} of wrong answers past the right one" if self.overtakes else "",
            f"placebo alone {in_sd(self.placebo)}" if self.placebo is not None else "",
        ]
        return "; ".join(part for part in parts if part)


def audit_section(result: Mapping[str, Any]) -> Section:
    """The section, and what it adds to the top of the page. Raises as a mapping of another shape does."""
    probes = sorted(map(probe_of, result["probes"]), key=lambda p: (not p.fault, -abs(p.effect or 0.0), p.name))
    gate = result.get("gate") or {}
    faults = [probe for probe in probes if probe.fault]
    body = render(
        "audit.html",
        probes=probes,
        faults=len(faults),
        reach=reach_of(probes),
        passed=gate.get("passed"),
        gate=[(f"{row['what']}: {row['key']} {row['threshold']}", row["reason"]) for row in gate.get("failed") or []],
        examples=[example_of(row) for row in (result.get("examples") or [])[:MOST_EXAMPLES]],
    )
    return Section("audit", "What moves the reward that should not", body, weak_words(faults), steps(faults))


def probe_of(row: Mapping[str, Any]) -> Probe:
    return Probe(
        name=str(row["name"]),
        asks=str(row.get("asks") or ""),
        effect=finite(row.get("effect_sd")),
        low=finite(row.get("low")),
        high=finite(row.get("high")),
        p=finite(row.get("p_adjusted")),
        overtakes=finite(row.get("overtake_rate")),
        placebo=finite(row.get("placebo_sd")),
        n=row.get("n"),
        stated=row.get("fault"),
    )


def reach_of(probes: Sequence[Probe]) -> float:
    """Half the width of the axis: what the widest interval needs."""
    ends = [abs(x) for p in probes for x in (p.effect, p.low, p.high) if x is not None]
    return max(ends, default=0.0) * 1.05 or 1.0


def weak_words(faults: Sequence[Probe]) -> tuple[str, ...]:
    if not faults:
        return ()
    names = ", ".join(p.name if p.effect is None else f"{p.name} ({in_sd(p.effect)})" for p in faults[:NAMED])
    more = f" and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    return (f"Its reward moves with what should not matter: {names}{more}.",)


def steps(faults: Sequence[Probe]) -> tuple[str, ...]:
    if not faults:
        return ()
    return (f"Before optimising against it, mend “{faults[0].name}”: add pairs in which that alone decides nothing.",)


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
