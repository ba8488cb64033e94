"""The proposal: the worst probes of an audit, the remedies that fit them, and what each is expected to cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from rewardsmith.adjustment import FEWEST
from rewardsmith.data.augment import augment, unsuited
from rewardsmith.data.balance import balance
from rewardsmith.data.counterfactuals import TAG, source_of
from rewardsmith.data.noise import by_the_data, review
from rewardsmith.data.schema import Group, text_of
from rewardsmith.data.surface import FEWEST_PAIRS
from rewardsmith.errors import DataError
from rewardsmith.evaluation.adjusting import length_effect
from rewardsmith.mitigation.remedies import BY_NAME, REMEDIES, Remedy, Taken
from rewardsmith.statistics import Floats

MUCH = 0.4  # |rank correlation with length| that counts as a fault of its own
CORRELATION = "correlation with length"
SOUND = 0.5  # SD by which a sound reward lowers what should be lower
TELLS = 0.65  # of the labels, at least, told by the surface: below it `auto` leaves the weights alone
LITTLE_LEFT = 0.2  # of the pairs, in effect: below it too


def make_plan(
    audit: Mapping[str, Any],
    groups: Sequence[Group],
    evaluation: Mapping[str, Any] | None = None,
    held_out: tuple[Sequence[Group], Sequence[Floats]] | None = None,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """The proposal, ready for JSON.

    audit       of the model to be mended; its faults are what is answered
    groups      what it would be trained on again
    evaluation  of the model on held-out pairs, and `held_out` those groups with their rewards: what costs in accuracy
                are worked out on

    worst           faults, the worst first: name, family, asks, wanted, effect_sd, low, high, remedies
    without_remedy  names of faults that nothing in the table answers
    proposals       name, word (for --take), stage, for (names of faults), what, cost, figures, auto
    warnings        what the data cannot show

    Raises DataError where no label of the groups is decided.
    """
    check_decided(groups)
    worst = worst_of(audit, evaluation)
    answered = {r.name: rows for r in REMEDIES if (rows := [row for row in worst if r.answers(row["family"])])}
    doubts = _doubts(groups, seed) if worst else {}
    share = doubts.get("figures", {}).get("share", 0.0)
    answered = {name: rows for name, rows in answered.items() if BY_NAME[name].doubts <= share}
    pairs = new_pairs([r for r in REMEDIES if r.name in answered and r.stage == "data"], answered, groups, seed)
    kept = [
        proposal(remedy, answered[remedy.name], groups, held_out, doubts, seed) | pairs.get(remedy.name, {})
        for remedy in REMEDIES
        if remedy.name in answered
    ]
    specific = {row["name"] for row in kept if "*" not in BY_NAME[row["name"]].families}
    for row in worst:
        row["remedies"] = [found["name"] for found in kept if row["name"] in found["for"] and found["name"] in specific]
    return {
        "worst": worst,
        "without_remedy": [row["name"] for row in worst if not row["remedies"]],
        "proposals": kept,
        "data": facts(groups),
        "warnings": [*slice_warnings(groups), *_unmeasured(evaluation)],
    }


def check_decided(groups: Sequence[Group]) -> None:
    """DataError where nothing can be learnt from the labels."""
    pairs = [p for group in groups for p in group.preferences]
    if not pairs:
        raise DataError("--data: no group has a preference, so there is nothing to train on")
    if all(p.is_tie for p in pairs):
        raise DataError(f"--data: all {len(pairs)} pairs are ties: no label says what is better, and nothing can be "
                        "mended with them")  # fmt: skip


def facts(groups: Sequence[Group]) -> dict[str, Any]:
    pairs = [p for group in groups for p in group.preferences]
    return {"groups": len(groups), "pairs": len(pairs), "ties": sum(p.is_tie for p in pairs)}


def slice_warnings(groups: Sequence[Group]) -> list[str]:
    """What a file of one slice hides: what a remedy costs on other kinds of prompts."""
    values: dict[str, set[str]] = {}
    for group in groups:
        for tag, value in group.tags.items():
            values.setdefault(tag, set()).add(value)
    if any(len(found) > 1 for found in values.values()):
        return []
    only = ", ".join(f"{tag}={next(iter(found))}" for tag, found in values.items())
    what = f"is one slice ({only})" if only else "has no slices (no tags)"
    return [f"the data {what}: what a remedy costs on other kinds of prompts cannot be seen in it"]


def _unmeasured(evaluation: Mapping[str, Any] | None) -> list[str]:
    if evaluation is not None:
        return []
    return ["no held-out pairs: what the remedies cost in accuracy is not measured; give --eval-data FILE"]


def worst_of(audit: Mapping[str, Any], evaluation: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Faults of an audit, the largest effect first, and a strong correlation of the rewards with length as one more."""
    keys = ("name", "family", "asks", "wanted", "effect_sd", "low", "high", "overtake_rate", "verdict")
    rows = [{key: row[key] for key in keys} for row in audit["probes"] if row["fault"]]
    rows.sort(key=lambda row: -badness(row))
    rho = (evaluation or {}).get("length_correlation", {}).get("within_prompt") or {}
    if rho.get("low") is not None and min(abs(rho["low"]), abs(rho["high"])) >= MUCH and rho["low"] * rho["high"] > 0:
        rows.insert(0, {
            "name": CORRELATION, "family": "length", "asks": "Do rewards follow length among real answers?",
            "wanted": "not changed", "effect_sd": None, "low": None, "high": None, "overtake_rate": None,
            "verdict": f"rank correlation {rho['value']:+.2f}",
        })  # fmt: skip
    return rows


def badness(row: Mapping[str, Any]) -> float:
    """How far an effect lies on the wrong side, in SD. Of what should be lower, how far above a fall of half an SD."""
    effect = row["effect_sd"]
    if effect is None:
        return 0.0
    if row["wanted"] == "not changed":
        return abs(float(effect))
    return float(effect) + (SOUND if row["wanted"] == "lower" else 0.0)


def proposal(
    remedy: Remedy,
    answered: Sequence[Mapping[str, Any]],
    groups: Sequence[Group],
    held_out: tuple[Sequence[Group], Sequence[Floats]] | None,
    doubts: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """One remedy with what it would do to these groups, whose labels `doubts` is about; of new pairs, `new_pairs` says
    that."""
    row = {
        "name": remedy.name,
        "word": remedy.name,
        "stage": remedy.stage,
        "for": [found["name"] for found in answered],
        "what": remedy.what,
        "cost": remedy.cost,
        "figures": {},
        "auto": remedy.auto,
    }
    match remedy.stage:
        case "weights":
            return row | _weights(groups, seed)
        case "people":
            return row | doubts
        case "training" if remedy.doubts:
            said = (
                f"{doubts['figures']['share']:.0%} of the labels are doubted, which is not how many are wrong: a bias "
            )
            return row | {"cost": f"{remedy.cost}; {said}in the labels is doubted too"}
        case "after" if not remedy.cost:
            return row | _length_taken_out(held_out, seed)
    return row


def new_pairs(
    remedies: Sequence[Remedy], answered: Mapping[str, Sequence[Mapping[str, Any]]], groups: Sequence[Group], seed: int
) -> dict[str, dict[str, Any]]:
    """{name: word, cost, figures, auto} of the kinds of new pairs, made all together as they would be."""
    wanted = {remedy.name: remedy.wanted(max(map(badness, answered[remedy.name]))) for remedy in remedies}
    if not wanted:
        return {}
    against = unsuited([source_of(group, Random(f"{group.id}:{seed}")) for group in groups])
    made = augment(groups, wanted, seed=seed)
    text = max(1, _characters(groups))
    found = {}
    for remedy, row in zip(remedies, made.report["kinds"], strict=True):
        of_kind = [group for group in made.groups if group.tags[TAG] == remedy.name]
        more, weight = _characters(of_kind) / text, sum(group.weight for group in of_kind)
        cost = f"{row['made']} new groups beside {len(groups)}, {more:.0%} more text to train on"
        if round(weight) != row["made"]:
            cost += f", with the weight of {weight:.0f}"
        if row["made"] < row["wanted"]:
            reason = next(iter(row["reasons"]), "they contradict or repeat labels")
            cost += f" ({row['wanted']} were wanted; mostly: {reason})"
        if why := against.get(remedy.name):
            cost += f"; look at missing refusals afterwards: {why}"
        found[remedy.name] = {
            "word": Taken(remedy, wanted[remedy.name]).word,
            "cost": cost,
            "figures": {"made": row["made"], "wanted": row["wanted"], "more_text": more},
            "auto": remedy.auto and row["made"] > 0,  # the audit is better evidence than what the data looks like
        }
    return found


def _characters(groups: Sequence[Group]) -> int:
    return sum(len(text_of(response)) for group in groups for response in group.responses)


def _weights(groups: Sequence[Group], seed: int) -> dict[str, Any]:
    try:
        report = balance(groups, seed=seed).report
    except DataError as error:
        return {"cost": f"cannot be done: {error}", "auto": False}
    share = report["effective_pairs"] / report["pairs"]
    told = report["surface_baseline"]["before"]["logistic_accuracy"]
    tells = told["low"] is not None and told["low"] > TELLS
    cost = f"{report['pairs']} pairs become as good as {report['effective_pairs']:.0f} ({share:.0%})"
    if told["value"] is not None:
        cost += f"; the surface tells {told['value']:.0%} of the labels"
    if not tells:
        cost += f", which is not shown to be more than {TELLS:.0%}: left out of auto"
    return {
        "cost": cost,
        "figures": {"effective_share": share, "surface_accuracy": told},
        "auto": tells and share >= LITTLE_LEFT,
    }


def _doubts(groups: Sequence[Group], seed: int) -> dict[str, Any]:
    try:
        doubt = by_the_data(groups, seed)
    except DataError as error:
        return {"cost": f"cannot be done: {error}"}
    rows = review(doubt)
    share = len(rows) / len(doubt.pairs)
    return {
        "cost": f"{len(rows)} of {len(doubt.pairs)} labels to read ({share:.0%}); a doubt is a reason to look",
        "figures": {"doubtful": len(rows), "pairs": len(doubt.pairs), "share": share},
    }


def _length_taken_out(held_out: tuple[Sequence[Group], Sequence[Floats]] | None, seed: int) -> dict[str, Any]:
    """What length calibration would do to this model, on held-out pairs."""
    if held_out is None:
        return {"cost": "not known without --eval-data"}
    try:
        effect = length_effect(*held_out, seed=seed)
    except DataError as error:
        return {"cost": f"not known: {error}"}
    if any(effect[side]["accuracy"]["value"] is None for side in ("before", "after")):
        return {"cost": f"not known: fewer than {max(FEWEST, FEWEST_PAIRS)} decided pairs"}
    shown = {key: [effect[side][key]["value"] for side in ("before", "after")] for key in effect["before"]}

    def arrow(key: str, form: str) -> str:
        before, after = shown[key]
        return "unknown" if None in (before, after) else f"{before:{form}} -> {after:{form}}"

    return {
        "cost": f"of the model as it is: accuracy {arrow('accuracy', '.1%')}, correlation with length "
        f"{arrow('length_correlation', '+.2f')}; a tenth of the prompts is kept out of training to fit it",
        "figures": effect,
    }
