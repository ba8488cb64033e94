"""The gate before a release: a new model against the released one, and against limits; pass or block, with reasons.

    frozen       tests of round 0, never trained on: the interval of (new - released) accuracy stays above -margin
    slices       of the same tests: none is shown to be worse, p-values adjusted for their number as in `compare`
    new pairs    held-out pairs of the new policy: accuracy is up
    calibration  of the frozen tests, at the temperature that the artifact holds; and what else [evaluation] limits
    audit        no probe shows a fault that the released model does not show; and the thresholds of a gate file

Every difference is new minus released, paired, with an interval by prompt (`evaluation.compare`). The first model has
nothing to be compared with: it has to be right more often than a coin, and the other limits hold for it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from typing import Any, Literal

import numpy as np

from rewardsmith.audit.gate import Gate, check_gate
from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError
from rewardsmith.evaluation.compare import compare_rows
from rewardsmith.evaluation.evaluate import evaluate_rows
from rewardsmith.evaluation.metrics import calibration_error_by_chance
from rewardsmith.evaluation.pairs import PairRows, character_lengths, pair_rows
from rewardsmith.evaluation.slices import pair_slices
from rewardsmith.statistics import Floats

LEVEL = 0.05  # of an adjusted p-value: below it a slice is shown to be worse
NO_AUDIT: dict[str, Any] = {"probes": [], "best_of_edits": {"overtake_rate": None, "low": None, "high": None}}
MOST_NAMED = 3  # slices or probes in a sentence; the JSON has all


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """What a new model has to keep."""

    margin: float = 0.05
    """Accuracy that may be lost on the frozen tests: the whole interval of the difference has to stay above -MARGIN."""
    new_pairs: Literal["up", "shown", "skip"] = "up"
    """Accuracy on held-out pairs of the new policy: higher than the released model's (up), higher with the whole
    interval (shown), or not asked (skip)."""
    max_ece: float = 0.15
    """Highest expected calibration error on the frozen tests. A gate file's max_ece goes before it."""
    gate: str | None = None
    """Further thresholds in a TOML file, as of audit --gate: of probes, of edits, and [evaluation] on the frozen
    tests."""
    audit_seeds: int = 0
    """Audit both models with N seeds of each kind: a fault that the released model does not show blocks. 0: no
    audit."""

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise ConfigError(f"--margin {self.margin}: give a share in [0, 1)")
        if not 0 < self.max_ece <= 1:
            raise ConfigError(f"--max-ece {self.max_ece}: give a share in (0, 1]")
        if self.audit_seeds < 0 or self.audit_seeds == 1:
            raise ConfigError(f"--audit-seeds {self.audit_seeds}: give 0, or at least 2")


@dataclass(frozen=True)
class Evidence:
    """Labelled groups with both models' rewards; `released` is None where nothing is released yet."""

    groups: Sequence[Group]
    new: Sequence[Floats]
    released: Sequence[Floats] | None

    def rows(self) -> tuple[PairRows, PairRows | None]:
        lengths = [character_lengths(group) for group in self.groups]
        new = pair_rows(self.groups, self.new, lengths)
        return new, None if self.released is None else pair_rows(self.groups, self.released, lengths)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: ok None where it was not asked. `figures` are ready for JSON."""

    name: str
    ok: bool | None
    sentence: str
    figures: Mapping[str, Any] = field(default_factory=dict)


def judge(
    frozen: Evidence,
    new_pairs: Evidence | None,
    options: GateOptions,
    *,
    helped: int = 0,
    temperature: float | None = None,
    thresholds: Gate | None = None,
    audit: Mapping[str, Any] | None = None,
    released_audit: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """{"verdict": "pass" or "block", "reasons", "checks", "options"}, ready for JSON; `reasons` are those that block.

    `new_pairs` None: there are none; `helped` of them were chosen with a model's help. `temperature` is the new
    artifact's; `thresholds` a gate file's (`audit.gate`).
    `audit` and `released_audit` are results of `audit.run.audit`, None where it was not run.
    """
    checks = [
        *_frozen_checks(frozen, options, seed),
        _new_pairs_check(new_pairs, helped, options, first=frozen.released is None, seed=seed),
        *_limit_checks(frozen, options, temperature, thresholds, audit, seed),
    ]
    if audit is not None:
        checks.append(_fault_check(audit, released_audit))
    reasons = [check.sentence for check in checks if check.ok is False]
    return {
        "verdict": "block" if reasons else "pass",
        "reasons": reasons,
        "checks": [asdict(check) for check in checks],
        "options": asdict(options),
    }


# -- against the released model -------------------------------------------------------------------------------


def _frozen_checks(tests: Evidence, options: GateOptions, seed: int) -> list[Check]:
    new, released = tests.rows()
    if released is None:
        return [_better_than_a_coin(tests, seed)]
    masks = {name: mask for name, mask in pair_slices(tests.groups, new).items() if not mask.all()}
    found = compare_rows(new, released, masks, seed=seed)
    slices = found.pop("slices")
    d, low, high = (found["difference"][key] for key in ("value", "low", "high"))
    if d is None:
        return [Check("frozen tests", False, "frozen tests: there is no labelled pair to compare on", found)]
    words = f"frozen tests: accuracy {_both(found)}, difference {_interval(d, low, high)} on {_pairs(found)}"
    if low is not None and low >= -options.margin:
        first = Check("frozen tests", True, f"{words}: above -{options.margin:g}", found)
    elif high is not None and high < 0:
        first = Check("frozen tests", False, f"{words}: worse than the released model", found)
    else:
        needed = _pairs_needed(d, low, options.margin, found["n_pairs"] - found["label_ties"])
        first = Check("frozen tests", False, f"{words}: a loss of {options.margin:g} is not ruled out{needed}", found)
    worse = [s for s in slices if s["p_adjusted"] is not None and s["p_adjusted"] < LEVEL and s["difference"] < 0]
    named = _named([f"{s['slice']} ({s['difference']:+.3f}, {s['n']} pairs)" for s in worse])
    said = f"slices: worse on {named}" if worse else f"slices: none of {len(slices)} is shown to be worse"
    return [first, Check("slices", not worse, said, {"slices": slices})]


def _better_than_a_coin(tests: Evidence, seed: int) -> Check:
    found = evaluate_rows(tests.groups, tests.new, seed=seed)["accuracy"] if tests.groups else {"value": None}
    if found["value"] is None:
        return Check("frozen tests", False, "frozen tests: there is no labelled pair", {"accuracy": found})
    words = f"frozen tests: accuracy {_interval(found['value'], found['low'], found['high'], sign='')}"
    ok = found["low"] is not None and found["low"] > 0.5
    said = "above a coin's, and nothing is released to compare with" if ok else "not shown to be better than a coin"
    return Check("frozen tests", ok, f"{words}: {said}", {"accuracy": found})


def _new_pairs_check(tests: Evidence | None, helped: int, options: GateOptions, *, first: bool, seed: int) -> Check:
    name = "new pairs"
    if options.new_pairs == "skip" or first:
        reason = "not asked" if options.new_pairs == "skip" else "nothing is released to compare with"
        return Check(name, None, f"{name}: {reason}")
    if tests is None or not any(group.preferences for group in tests.groups):
        return Check(
            name, False, f"{name}: the new policy has no held-out labelled pair; label some, or skip the check"
        )
    new, released = tests.rows()
    assert released is not None
    found = compare_rows(new, released, seed=seed)
    del found["slices"]
    d, low, high = (found["difference"][key] for key in ("value", "low", "high"))
    if d is None:
        return Check(name, False, f"{name}: every held-out pair of the new policy is a tie", found)
    words = f"{name}: accuracy {_both(found)}, difference {_interval(d, low, high)} on {_pairs(found)}"
    shown = low is not None and low > 0
    ok = shown if options.new_pairs == "shown" else d > 0
    said = "up" if shown else "up, though by no more than chance could do" if d > 0 else "not up"
    if helped:  # the released model chose where it was least sure: it looks worse there than it is
        said += f" ({helped} of them a model helped to choose, which flatters a new one)"
    return Check(name, ok, f"{words}: {said}", found | {"helped": helped})


# -- against limits -------------------------------------------------------------------------------------------


def _limit_checks(
    tests: Evidence,
    options: GateOptions,
    temperature: float | None,
    thresholds: Gate | None,
    audit: Mapping[str, Any] | None,
    seed: int,
) -> list[Check]:
    """The audit's own gate over both: what it limits of an evaluation, and of probes where an audit was run."""
    gate = thresholds or Gate(file="", default={}, probes={}, best_of_edits={}, evaluation={})
    gate = replace(gate, evaluation={"max_ece": options.max_ece, **gate.evaluation})
    kept = [g for g, group in enumerate(tests.groups) if group.preferences]
    evaluation = evaluate_rows(
        [tests.groups[g] for g in kept], [tests.new[g] for g in kept], temperature=temperature, seed=seed
    )
    if temperature is not None and np.isfinite(temperature):  # what is served as a probability, rather than raw gaps
        evaluation |= {key: evaluation["calibration"]["after"][key] for key in ("ece", "nll", "brier")}
    figures = {key: evaluation[key] for key in ("accuracy", "length_matched_accuracy", "ece", "nll", "brier")}
    found = check_gate(gate, audit or NO_AUDIT, evaluation)
    failed = [row for row in found["failed"] if row["what"] == "evaluation"]
    chance = _ece_by_chance(tests, temperature, seed)
    by_chance = chance is not None and evaluation["ece"] is not None and evaluation["ece"] <= chance
    if by_chance:  # few pairs: bins of a handful are off by this much however right the probabilities are
        failed = [row for row in failed if row["key"] != "max_ece"]
    words = _named([f"{row['key']}: {row['reason']}" for row in failed])
    said = (
        f"calibration: {words}"
        if failed
        else f"calibration: ECE {_number(evaluation['ece'])} within {options.max_ece:g}"
    )
    if by_chance and not failed and evaluation["ece"] > gate.evaluation["max_ece"]:
        said = (
            f"calibration: ECE {_number(evaluation['ece'])} is above {gate.evaluation['max_ece']:g}, but so many pairs "
            f"as these give up to {_number(chance)} where all is right: more tests would tell"
        )
    if not failed and "max_ece" in (thresholds.evaluation if thresholds else {}):
        said = f"calibration and what else [evaluation] limits: kept, ECE {_number(evaluation['ece'])}"
    checks = [
        Check(
            "calibration",
            not failed,
            said,
            {"temperature": temperature, **figures, "ece_by_chance": chance, "failed": failed},
        )
    ]
    failed = [row for row in found["failed"] if row["what"] != "evaluation"]
    if thresholds is not None and (thresholds.default or thresholds.probes or thresholds.best_of_edits):
        words = _named([f"{row['what']} {row['key']}: {row['reason']}" for row in failed])
        unchecked = len(found["not_checked"])
        said = f"audit limits: {words}" if failed else f"audit limits: kept, {unchecked} of them without a figure"
        ok = False if failed else None if audit is None else True
        said = said if audit is not None or failed else "audit limits: no audit was run (--audit-seeds)"
        checks.append(Check("audit limits", ok, said, {"failed": failed, "not_checked": found["not_checked"]}))
    return checks


def _ece_by_chance(tests: Evidence, temperature: float | None, seed: int) -> float | None:
    """What the calibration error of these pairs stays below, 95 times in 100, where the probabilities are right."""
    rows, _ = tests.rows()
    scale = temperature if temperature is not None and np.isfinite(temperature) else 1.0
    return calibration_error_by_chance(rows.margin_P / scale, seed=seed)


def _fault_check(audit: Mapping[str, Any], released: Mapping[str, Any] | None) -> Check:
    """Faults that the released model does not show; of a first model, faults are told and block nothing."""
    faults = {row["name"]: row["effect_sd"] for row in audit["probes"] if row["fault"]}
    before = {row["name"] for row in (released or {"probes": []})["probes"] if row["fault"]}
    fresh = [name for name in faults if name not in before]
    figures = {"faults": faults, "new_faults": fresh if released is not None else [], "problems": audit["problems"]}
    if audit["problems"]:
        return Check("audit", False, f"audit: {audit['problems'][0]}", figures)
    if released is None or not fresh:
        known = f"{len(faults)} of {len(audit['probes'])} probes show a fault"
        return Check("audit", True, f"audit: {known}" + ("" if released is None else ", none of them new"), figures)
    named = _named([f"{name} ({faults[name]:+.2f} SD)" for name in fresh])
    return Check("audit", False, f"audit: pays for {named}, which the released model does not", figures)


# -- words ----------------------------------------------------------------------------------------------------


def _both(found: Mapping[str, Any]) -> str:
    a, b = (found[side]["accuracy"]["value"] for side in ("a", "b"))
    return f"{a:.3f}, released {b:.3f}"


def _pairs(found: Mapping[str, Any]) -> str:
    return f"{found['n_pairs'] - found['label_ties']} pairs of {found['n_prompts']} prompts"


def _interval(value: float, low: float | None, high: float | None, sign: str = "+") -> str:
    bounds = "" if low is None or high is None else f" [{low:{sign}.3f}, {high:{sign}.3f}]"
    return f"{value:{sign}.3f}{bounds}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _named(found: Sequence[str]) -> str:
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return ", ".join(found[:MOST_NAMED]) + more


def _pairs_needed(value: float, low: float | None, margin: float, n: int) -> str:
    """About how many pairs would rule the loss out, if the difference stays what it is: widths fall as 1 / sqrt(n)."""
    if low is None or value <= -margin or low >= value:
        return ""
    return f"; about {ceil(n * ((value - low) / (value + margin)) ** 2)} pairs would tell, if it stays so"
