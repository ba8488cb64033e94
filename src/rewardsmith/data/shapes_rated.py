"""Shapes that order responses by a number: UltraFeedback, HelpSteer, NeMo's ranks, one response a row."""

from __future__ import annotations

from itertools import combinations

from rewardsmith.data.fields import (
    Row,
    first_key,
    list_of,
    messages,
    number,
    number_or_none,
    object_of,
    required,
)
from rewardsmith.data.options import ReadOptions
from rewardsmith.data.parts import Parts, answered, has, order, own_prompt, pair_keys
from rewardsmith.data.schema import preference_between
from rewardsmith.errors import DataError

RATING_KEYS = ("score", "gold", "rating", "reward", "overall_score", "helpfulness")
COMPLETION_RATING_KEYS = ("overall_score", "rating", "score", "gold", "reward", "fine-grained_score")
# Columns of other shapes: a row with one of them is no candidate.
OTHERS = frozenset({"chosen", "rejected", "completions", "responses", "rejected_response", "rejected_messages"})
COMPLETION_TEXT_KEYS = ("response", "completion", "text", "content", "output")


def completions(row: Row, options: ReadOptions) -> object:
    return row.get(options.responses_key or "completions")


def completion_keys(row: Row, options: ReadOptions) -> set[str]:
    """The keys of the completions that are objects; empty where there are none."""
    value = completions(row, options)
    objects = [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []
    return {key for v in objects for key in v}


def is_ultrafeedback(row: Row, options: ReadOptions) -> bool:
    keys = completion_keys(row, options)
    rated = {options.rating_key} if options.rating_key else set(COMPLETION_RATING_KEYS)
    return bool(keys & rated and keys & set(COMPLETION_TEXT_KEYS)) and "rank" not in keys


def read_ultrafeedback(row: Row, options: ReadOptions) -> Parts:
    """UltraFeedback: one prompt, `completions:[{response, overall_score}]`; ratings order them."""
    where = options.responses_key or "completions"
    items = [object_of(v, f"{where}[{i}]") for i, v in enumerate(list_of(required(row, where), where))]
    keys = (options.rating_key,) if options.rating_key else COMPLETION_RATING_KEYS
    key = next((k for k in keys if any(k in item for item in items)), "")
    if not key:
        raise DataError(f"no completion has a rating under {', '.join(repr(k) for k in keys)}")
    text_keys = [first_key(item, COMPLETION_TEXT_KEYS) for item in items]
    names = [f"{where}[{i}].{text_key}" for i, text_key in enumerate(text_keys)]
    sides = [messages(item[k], name, "assistant") for item, k, name in zip(items, text_keys, names, strict=True)]
    prompt, responses = answered(row, own_prompt(row, "prompt", "context"), sides, names)
    return Parts(
        prompt=prompt,
        responses=responses,
        ratings=[number_or_none(item.get(key), f"{where}[{i}].{key}") for i, item in enumerate(items)],
        rating_key=key,
    )


def is_nemo(row: Row, options: ReadOptions) -> bool:
    return {"rank", "completion"} <= completion_keys(row, options)


def read_nemo(row: Row, options: ReadOptions) -> Parts:
    """NeMo: `context` or `prompt`, `completions:[{rank, completion}]`; lower is better, equal ranks tie."""
    where = options.responses_key or "completions"
    items = [object_of(v, f"{where}[{i}]") for i, v in enumerate(list_of(required(row, where), where))]
    names = [f"{where}[{i}].completion" for i in range(len(items))]
    sides = [messages(required(v, "completion"), name, "assistant") for v, name in zip(items, names, strict=True)]
    prompt, responses = answered(row, own_prompt(row, "context", "prompt"), sides, names)
    ranks = [number(required(v, "rank"), f"{where}[{i}].rank") for i, v in enumerate(items)]
    beats = [preference_between(a, b, order(ranks[b] - ranks[a])) for a, b in combinations(range(len(ranks)), 2)]
    return Parts(prompt=prompt, responses=responses, preferences=beats)


def is_scored(row: Row, options: ReadOptions) -> bool:
    """A response with a score, or a candidate without one: then nothing else may say what the row is."""
    if not has(row, "response") or pair_keys(row):
        return False
    return bool(rating_columns(row, options)) or (
        "prompt" in row and not options.rating_key and not OTHERS & row.keys()
    )


def rating_columns(row: Row, options: ReadOptions) -> list[str]:
    keys = (options.rating_key,) if options.rating_key else RATING_KEYS
    return [key for key in keys if key in row]


def read_scored(row: Row, options: ReadOptions) -> Parts:
    """One response a row, with a score or (a candidate) without; the reader joins the rows of one prompt."""
    keys = rating_columns(row, options)
    if options.rating_key and not keys:
        raise DataError(f"no '{options.rating_key}'")
    if len(keys) > 1:
        raise DataError(f"several score columns ({', '.join(keys)}); name one with --rating-key")
    side = messages(required(row, "response"), "response", "assistant")
    prompt, responses = answered(row, own_prompt(row, "prompt", "context"), [side], ["response"])
    return Parts(
        prompt=prompt,
        responses=responses,
        ratings=[number_or_none(row[key], key) for key in keys] or [None],
        rating_key=keys[0] if keys else "",
    )
