"""Shapes that show two responses and say who won: arena, PandaLM, LLMBar, HelpSteer's preferences."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from rewardsmith.data.fields import (
    Row,
    first_key,
    kind_of,
    list_of,
    messages,
    number,
    present,
    required,
    short,
    text,
)
from rewardsmith.data.options import ReadOptions
from rewardsmith.data.parts import PAIR_KEYS, Parts, answered, has, order, own_prompt, pair_keys, split_dialogues
from rewardsmith.data.schema import Message, Messages, preference_between
from rewardsmith.errors import DataError

WINNER_KEYS = ("winner", "label", "overall_preference", "preference_strength")
ONE_HOT = ("winner_model_a", "winner_model_b", "winner_tie")
# HelpSteer's scale: the sign names the side (negative: the first response), the size how much.
SIGNED_KEYS = ("overall_preference", "preference_strength")
ANNOTATOR = re.compile(r"annotator_?(\d+)")
FIRST = frozenset({"1", "a", "model_a", "response_a", "response1", "response_1", "output_1", "conversation_a", "first"})
SECOND = frozenset(
    {"2", "b", "model_b", "response_b", "response2", "response_2", "output_2", "conversation_b", "second"}
)
TIED = frozenset({"0", "tie", "tie (bothbad)", "both_bad", "bothbad", "both bad", "equal", "draw"})


def annotators(row: Row) -> list[str]:
    """The columns of single annotators, in their order."""
    found = [(int(m[1]), key) for key in row if (m := ANNOTATOR.fullmatch(key))]
    return [key for _, key in sorted(found)]


def is_pairwise(row: Row, options: ReadOptions) -> bool:
    return pair_keys(row) is not None and bool(annotators(row) or has(row, *ONE_HOT[:2]) or {*WINNER_KEYS} & row.keys())


def read_pairwise(row: Row, options: ReadOptions) -> Parts:
    """Arena, PandaLM, LLMBar, HelpSteer: two responses and who won, ties and several annotators included."""
    keys = pair_keys(row)
    if keys is None:
        raise DataError(f"no pair of responses: none of {', '.join('/'.join(k) for k in PAIR_KEYS)} is there")
    sides = [required(row, key) for key in keys]
    if keys[0].startswith("conversation"):
        turns = [messages(side, key, "user") for side, key in zip(sides, keys, strict=True)]
        prompt, responses = split_dialogues(turns, keys)
    elif has(row, *ONE_HOT[:2]) and all(is_json_list(v) for v in (row.get("prompt"), *sides)):
        prompt, responses = split_dialogues([rounds(row["prompt"], v, k) for v, k in zip(sides, keys)], keys)
    else:
        turns = [messages(side, key, "assistant") for side, key in zip(sides, keys, strict=True)]
        prompt, responses = answered(row, own_prompt(row, "prompt", "context"), turns, keys)
    votes, margin = verdict(row, options)
    beats = preference_between(0, 1, mean(votes), margin=margin, votes=votes if len(votes) > 1 else ())
    return Parts(prompt=prompt, responses=responses, preferences=[beats])


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def is_json_list(value: object) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.startswith("[") and value.endswith("]"))


def rounds(prompts: object, answers: object, key: str) -> Messages:
    """Kaggle's arena: the user's turns as one list, one model's turns as another."""
    asked_, said = list_of(prompts, "prompt"), list_of(answers, key)
    if len(asked_) != len(said):
        raise DataError(f"{len(asked_)} prompts and {len(said)} answers in '{key}'")
    turns = [(Message("user", text(a, "prompt")), Message("assistant", text(b, key))) for a, b in zip(asked_, said)]
    return tuple(turn for both in turns for turn in both)


def verdict(row: Row, options: ReadOptions) -> tuple[list[float], float]:
    """Votes for the first response (1, 0 or 0.5 each), and the margin where the label has a size."""
    who = annotators(row)
    if who:
        votes = [vote(row[key], key, options) for key in who if present(row, key) and row[key] != ""]
        if not votes:
            raise DataError(f"no vote: {', '.join(who)} are all null")
        return votes, 0.0
    if has(row, *ONE_HOT[:2]):
        return [one_hot(row)], 0.0
    key = first_key(row, WINNER_KEYS)
    if key in SIGNED_KEYS:
        size = number(row[key], key)
        return [order(-size)], abs(size)
    return [vote(row[key], key, options)], 0.0


def one_hot(row: Row) -> float:
    """P(first) from the columns `winner_model_a`, `winner_model_b` and `winner_tie`."""
    first, second, tie = (one_hot_value(row.get(key), key) for key in ONE_HOT)
    if not math.isclose(first + second + tie, 1.0, abs_tol=1e-6):
        raise DataError(f"{', '.join(ONE_HOT)} add up to {first + second + tie:g}, not 1")
    return min(1.0, first + tie / 2)


def one_hot_value(value: object, key: str) -> float:
    truth = {True: 1.0, False: 0.0, "True": 1.0, "False": 0.0, "true": 1.0, "false": 0.0, None: 0.0, "": 0.0}
    if isinstance(value, bool | str | None) and value in truth:
        return truth[value]
    share = number(value, key)
    if not 0.0 <= share <= 1.0:
        raise DataError(f"'{key}' is {share:g}, not in [0, 1]")
    return share


def vote(value: object, key: str, options: ReadOptions) -> float:
    """1 for the first response, 0 for the second, 0.5 for a tie."""
    label = label_text(value, key)
    if options.winner_labels:
        for name, worth in zip(options.winner_labels, (1.0, 0.0, 0.5)):
            if label == name.strip().lower():
                return worth
        raise DataError(f"'{key}' is {short(value)}, not one of {', '.join(options.winner_labels)}")
    for labels, worth in ((FIRST, 1.0), (SECOND, 0.0), (TIED, 0.5)):
        if label in labels:
            return worth
    raise DataError(f"'{key}' is {short(value)}, which names no winner; --winner-labels says what the labels mean")


def label_text(value: object, key: str) -> str:
    """A label as lower-case text; 1, 1.0 and "1" are one label."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise DataError(f"'{key}' is {kind_of(value)}, which names no winner")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    label = value.strip().lower() if isinstance(value, str) else short(value)
    return label.removesuffix(".0")


def zero_one_labels(rows: Sequence[Row]) -> str:
    """The label column that holds 0 and never 2, so that 0 may mean a tie or the first response; or ""."""
    columns = [["winner"], ["label"], sorted({key for row in rows for key in annotators(row)})]
    for keys in columns:
        given = [row[key] for row in rows for key in keys if present(row, key)]
        values = {label_text(v, keys[0]) for v in given if isinstance(v, int | float | str) and not isinstance(v, bool)}
        if "0" in values and values <= {"0", "1"}:
            return keys[0]
    return ""
