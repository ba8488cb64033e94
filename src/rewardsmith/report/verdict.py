"""From the numbers of an evaluation to what may be said of a model, in plain words.

A claim is made where its 95% interval allows it, and nowhere else. Chance is 50%. The length baseline is a rule
that reads no answer: it prefers the longer one, or the shorter one where that is right more often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rewardsmith.data.schema import TIE, Group
from rewardsmith.evaluation.evaluate import PairRows, character_lengths, pair_rows
from rewardsmith.evaluation.metrics import is_correct, longer_wins
from rewardsmith.report.page import count, counted, minus, percent, points, signed, span
from rewardsmith.statistics import Floats, Interval, clustered_mean

CHANCE = 0.5
FEW_PAIRS = 30  # under this many an interval is hardly worth its name
FEW_PROMPTS = 20  # under this many clusters a percentile bootstrap is too narrow
STRONG_CORRELATION = 0.3

Tone = Literal["good", "doubt", "bad"]


@dataclass(frozen=True)
class Verdict:
    """`headline` in a few words, `tone` for its colour, `sentences` for the reasons."""

    headline: str
    tone: Tone
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class LengthRule:
    """The better of "longer wins" and "shorter wins", and by how much the model is right more often than it.

    `lead` is paired (the same pairs, resampled by prompt) where the rows are at hand, else without an interval.
    """

    prefers: Literal["longer", "shorter"]
    accuracy: float
    lead: Interval


def rows_of(groups: Sequence[Group], rewards: Sequence[Floats]) -> PairRows:
    """One row per preference, lengths in characters."""
    return pair_rows(groups, rewards, [character_lengths(group) for group in groups])


def length_rule(evaluation: Mapping[str, Any], rows: PairRows) -> LengthRule | None:
    """None where the evaluation has no length baseline or no accuracy."""
    accuracy, longer = value_of(evaluation, "accuracy"), value_of(evaluation, "length_baseline")
    if accuracy is None or longer is None:
        return None
    prefers: Literal["longer", "shorter"] = "longer" if longer >= CHANCE else "shorter"
    bar = max(longer, 1 - longer)
    lead = Interval(accuracy - bar)
    # The evaluation may have been made in tokens or on other pairs: then its own two numbers are all there is.
    if evaluation.get("length_unit", "characters") == "characters" and evaluation.get("n_pairs") == len(rows):
        lead = lead_over_length(rows, prefers)
    return LengthRule(prefers, bar, lead)


def lead_over_length(rows: PairRows, prefers: Literal["longer", "shorter"]) -> Interval:
    """Accuracy of the rewards minus that of the rule, on the same decided pairs."""
    decided = rows.where(rows.probability_P != TIE)
    rule_P = longer_wins(decided.chosen_length_P, decided.rejected_length_P, decided.probability_P)
    if prefers == "shorter":
        rule_P = 1 - rule_P
    right_P = is_correct(decided.margin_P, decided.probability_P)
    return clustered_mean(right_P - rule_P, decided.prompt_P)


def judge(
    evaluation: Mapping[str, Any],
    rule: LengthRule | None,
    *,
    trained_on: Sequence[str] = (),
    in_training: Mapping[str, Any] | None = None,
) -> Verdict:
    """What the held-out numbers say.

    trained_on   names of evaluated files that are training files
    in_training  the held-out metrics of the training run, for where nothing else was measured
    """
    found = judge_numbers(evaluation, rule, in_training or {})
    if not trained_on:
        return found
    warning = (
        f"{', '.join(trained_on)}: the model was trained on this very file. What follows says how well it remembers, "
        "not how good it is on other pairs."
    )
    return Verdict("Measured on its own training pairs", "bad", (warning, *found.sentences))


def judge_numbers(evaluation: Mapping[str, Any], rule: LengthRule | None, in_training: Mapping[str, Any]) -> Verdict:
    """The verdict where the pairs are other than those of training."""
    figure = evaluation.get("accuracy") or {}
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    if value is None and in_training.get("accuracy") is not None:
        return Verdict(
            f"Right in {percent(in_training['accuracy'])} of held-out pairs, without an interval",
            "doubt",
            (
                f"Training measured that on {counted(in_training.get('n_pairs') or 0, 'pair')} and kept no pairs, so "
                "there is no interval, no length baseline and no slice. The weights may have been chosen by the same "
                "number, which makes it a little too high.",
            ),
        )
    if value is None:
        return Verdict(
            "Not measured on held-out data",
            "doubt",
            ("There are no held-out pairs, so nothing on this page says how good this model is.",),
        )
    # Pairs that are all alike have an interval without width, however few they are.
    if low is None or high is None or (low == high and (evaluation.get("n_prompts") or 0) < FEW_PROMPTS):
        return Verdict(
            "Too little evidence to say",
            "doubt",
            (
                f"It is right in {percent(value)} of the held-out pairs, but they come from too few prompts for an "
                "interval that means anything. That says something of these pairs, not of the model.",
            ),
        )
    chance = against_chance(value, low, high)
    headline, tone = headline_of(low, high, rule)
    further = [
        length_sentence(rule),
        matched_sentence(evaluation),
        correlation_sentence(evaluation),
        few_sentence(evaluation),
        tie_sentence(evaluation),
    ]
    return Verdict(headline, tone, (chance, *(sentence for sentence in further if sentence)))


def headline_of(low: float, high: float, rule: LengthRule | None) -> tuple[str, Tone]:
    """The model's standing against chance first, then against length."""
    if high < CHANCE:
        return "Worse than chance", "bad"
    if low <= CHANCE:
        return "No better than chance on this evidence", "bad"
    standing = standing_of(rule)
    if standing == "below":
        return "Better than chance, but below the length baseline", "bad"
    if standing == "unclear":
        return "Better than chance, but not shown to be above the length baseline", "doubt"
    return ("Better than chance and above the length baseline", "good") if rule else ("Better than chance", "good")


def standing_of(rule: LengthRule | None) -> Literal["above", "below", "unclear"]:
    """Where the interval of the lead lies; a lead without an interval shows nothing unless it is negative."""
    if rule is None:
        return "above"
    lead = rule.lead
    if lead.low is None or lead.high is None:
        return "below" if lead.value is not None and lead.value < 0 else "unclear"
    if lead.low > 0:
        return "above"
    return "below" if lead.high < 0 else "unclear"


def against_chance(value: float, low: float, high: float) -> str:
    """The accuracy and its interval, held against a coin."""
    opening = (
        f"On pairs held out from training, the answer preferred in the data gets the higher reward in {percent(value)}"
    )
    if high < CHANCE:
        return (
            f"{opening}. The whole interval ({span(low, high)}) lies below 50%: the model tends to prefer the worse "
            "answer. Look whether chosen and rejected were swapped in the data."
        )
    if low <= CHANCE:
        return (
            f"{opening}. The interval ({span(low, high)}) includes 50%, which a coin would reach: no better than "
            "chance on this evidence."
        )
    return f"{opening}. The whole interval ({span(low, high)}) lies above 50%: better than a coin."


def length_sentence(rule: LengthRule | None) -> str:
    """The model against a rule that reads nothing."""
    if rule is None or rule.lead.value is None:
        return ""
    bar = f"Always preferring the {rule.prefers} answer, without reading it, is right in {percent(rule.accuracy)}"
    lead, ahead = rule.lead, rule.lead.value
    size = points(ahead)
    bounds = "" if lead.low is None or lead.high is None else f" (interval {signed(lead.low)} to {signed(lead.high)})"
    standing = standing_of(rule)
    if standing == "above":
        return f"{bar}. The model is above that by {size}{bounds}."
    if standing == "below":
        return f"{bar}. The model is below that by {size}{bounds}: it is not above the length baseline."
    where = f"The model is {size} {'above' if ahead > 0 else 'below'} that" if ahead else "The model equals that"
    return f"{bar}. {where}{bounds}, too close to call: it is not shown to be above the length baseline."


def matched_sentence(evaluation: Mapping[str, Any]) -> str:
    """What is left where length cannot help."""
    figure = evaluation.get("length_matched_accuracy") or {}
    n, value, low, high = (figure.get(key) for key in ("n", "value", "low", "high"))
    if not n or value is None:
        return "No two answers are of similar length, so what the model knows beyond length cannot be told."
    start = f"Among the {count(n)} pairs of similar length (within 10%), where length says little, "
    if n == 1:
        start = "In the one pair of similar length (within 10%), where length says little, "
    start += f"it is right in {percent(value)}"
    if low is None or high is None or (low == high and n < FEW_PAIRS):
        return f"{start}; too few for an interval that means anything."
    if low > CHANCE:
        return f"{start} ({span(low, high)}): it knows more than length."
    if high < CHANCE:
        return f"{start} ({span(low, high)}): worse than chance."
    return f"{start} ({span(low, high)}), an interval that includes 50%: not shown to know more than length."


def correlation_sentence(evaluation: Mapping[str, Any]) -> str:
    """Said only where rewards clearly follow length."""
    figure = (evaluation.get("length_correlation") or {}).get("within_prompt") or {}
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    if value is None or low is None or high is None or low * high <= 0 or abs(value) < STRONG_CORRELATION:
        return ""
    side = "longer" if value > 0 else "shorter"
    found = f"Among answers to one prompt, {side} ones get higher rewards (rank correlation {minus(f'{value:+.2f}')})"
    return f"{found}: whoever optimises against this model will be paid for length." if value > 0 else f"{found}."


def few_sentence(evaluation: Mapping[str, Any]) -> str:
    """A warning where the interval itself is not to be trusted."""
    prompts = evaluation.get("n_prompts")
    pairs = decided_pairs(evaluation)
    if prompts is not None and prompts < FEW_PROMPTS:
        return f"All of this rests on {count(prompts)} prompts; with so few, the intervals are too narrow."
    if pairs is not None and pairs < FEW_PAIRS:
        return f"All of this rests on {count(pairs)} pairs: hold out more before relying on it."
    return ""


def tie_sentence(evaluation: Mapping[str, Any]) -> str:
    """Equal rewards count as wrong, which can be what an accuracy is made of."""
    ties = evaluation.get("score_ties") or 0
    if not ties:
        return ""
    return f"{counted(ties, 'pair gets', 'pairs get')} two equal rewards, which counts as wrong."


def decided_pairs(evaluation: Mapping[str, Any]) -> int | None:
    """Pairs behind the accuracy: all but the ties in the labels."""
    pairs = evaluation.get("n_pairs")
    return None if pairs is None else pairs - (evaluation.get("label_ties") or 0)


def value_of(evaluation: Mapping[str, Any], key: str) -> float | None:
    """The middle of an interval, None where it or its entry is missing."""
    return (evaluation.get(key) or {}).get("value")
