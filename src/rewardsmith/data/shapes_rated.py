"""Shapes that order responses by a number: UltraFeedback, HelpSteer, NeMo's ranks, one response a row."""

from __future__ import annotations

from itertools import combinations

from rewardsmith.data.fields import (
    Row,
    answer,
    first_key,
    list_of,
    number,
    number_or_none,
    object_of,
    required,
)
from rewardsmith.data.options import ReadOptions
from rewardsmith.data.parts import Parts, has, order, pair_keys, prompt_of
from rewardsmith.data.schema import preference_between
from rewardsmith.errors import DataError

RATING_KEYS = ("score", "gold", "rating", "reward", "overall_score", "helpfulness")
COMPLETION_RATING_KEYS = ("overall_score", "rating", "score", "gold", "reward", "fine-grained_score")
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
    prompt = prompt_of(row, "prompt", "context")
    items = [object_of(v, f"{where}[{i}]") for i, v in enumerate(list_of(required(row, where), where))]
    keys = (options.rating_key,) if options.rating_key else COMPLETION_RATING_KEYS
    key = next((k for k in keys if any(k in item for item in items)), "")
    if not key:
        raise DataError(f"no completion has a rating under {', '.join(repr(k) for k in keys)}")
    named = [f"{where}[{i}]" for i in range(len(items))]
    texts = [(first_key(item, COMPLETION_TEXT_KEYS), item, name) for item, name in zip(items, named, strict=True)]
    return Parts(
        prompt=prompt,
        responses=[answer(item[k], f"{name}.{k}") for k, item, name in texts],
        ratings=[number_or_none(item.get(key), f"{name}.{key}") for _, item, name in texts],
        rating_key=key,
    )


def is_nemo(row: Row, options: ReadOptions) -> bool:
    return {"rank", "completion"} <= completion_keys(row, options)


def read_nemo(row: Row, options: ReadOptions) -> Parts:
    """NeMo: `context` or `prompt`, `completions:[{rank, completion}]`; lower is better, equal ranks tie."""
    where = options.responses_key or "completions"
    prompt = prompt_of(row, "context", "prompt")
    items = [object_of(v, f"{where}[{i}]") for i, v in enumerate(list_of(required(row, where), where))]
    responses = [answer(required(v, "completion"), f"{where}[{i}].completion") for i, v in enumerate(items)]
    ranks = [number(required(v, "rank"), f"{where}[{i}].rank") for i, v in enumerate(items)]
    beats = [preference_between(a, b, order(ranks[b] - ranks[a])) for a, b in combinations(range(len(ranks)), 2)]
    return Parts(prompt=prompt, responses=responses, preferences=beats)


def is_scored(row: Row, options: ReadOptions) -> bool:
    return has(row, "response") and bool(rating_columns(row, options)) and not pair_keys(row)


def rating_columns(row: Row, options: ReadOptions) -> list[str]:
    keys = (options.rating_key,) if options.rating_key else RATING_KEYS
    return [key for key in keys if key in row]


def read_scored(row: Row, options: ReadOptions) -> Parts:
    """One response a row with a score; the reader joins the rows of one prompt (`merge_scored`)."""
    keys = rating_columns(row, options)
    if not keys:
        raise DataError(f"no score column: none of {', '.join(RATING_KEYS)} is there")
    if len(keys) > 1:
        raise DataError(f"several score columns ({', '.join(keys)}); name one with --rating-key")
    return Parts(
        prompt=prompt_of(row, "prompt", "context"),
        responses=[answer(required(row, "response"), "response")],
        ratings=[number_or_none(row[keys[0]], keys[0])],
        rating_key=keys[0],
    )
