"""The texts on the page of a run: its example, and the pairs that it gets most wrong and most right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewardsmith.data.schema import Group, Messages, Preference, text_of
from rewardsmith.report.page import finite, minus, percent, reward, short_place
from rewardsmith.statistics import Floats

MOST_WRONG, MOST_RIGHT = 100, 5
PRINTED = 25  # of the most wrong, where no search chose others: paper is not searched
OPENING = 180  # characters of a prompt in its line of the table
SHOWN_AT_ONCE = 700  # characters of a text before it folds
SHOWN_AT_ALL = 20_000


@dataclass(frozen=True)
class Excerpt:
    """A text for the page: what is seen at once, and the whole of it behind a fold where it is long."""

    role: str
    start: str
    whole: str = ""
    length: int = 0
    beyond: int = 0


def example_view(example: Mapping[str, Any] | None, temperature: float = 1.0) -> dict[str, Any] | None:
    """The example with its answers from best to worst, and what the difference means at a temperature."""
    if not example or not example.get("answers"):
        return None
    found = [(finite(answer.get("reward")), str(answer.get("text", ""))) for answer in example["answers"]]
    found.sort(key=lambda pair: -math.inf if pair[0] is None else pair[0], reverse=True)
    known = [value for value, _ in found if value is not None]
    gap = known[0] - known[1] if len(known) >= 2 else None
    return {
        "prompt": excerpt("", str(example.get("prompt", ""))),
        "answers": [{"text": excerpt("", text), "reward": reward(value)} for value, text in found],
        "note": gap_words(gap, temperature),
        "decided": bool(gap),
    }


def gap_words(gap: float | None, temperature: float = 1.0) -> str:
    """What a difference of rewards between answers 1 and 2 states. "" where one of them has none."""
    if gap is None:
        return ""
    if gap == 0:
        return "Both answers get the same reward."
    size = reward(gap).lstrip("+")
    chance = stated(gap / temperature)
    return f"A difference of {size}: the model states a chance of {chance} that answer 1 is the better one."


def extreme_pairs(
    groups: Sequence[Group], rewards: Sequence[Floats], temperature: float = 1.0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """(most wrong, most right) pairs, at most one of each prompt, and how many prompts have a wrong pair."""
    found = [
        (float(row[p.chosen] - row[p.rejected]), group, p, row)
        for group, row in zip(groups, rewards, strict=True)
        for p in group.preferences
        if not p.is_tie
    ]
    found.sort(key=lambda item: item[0])
    wrong = one_per_prompt(item for item in found if item[0] <= 0)
    right = one_per_prompt(item for item in reversed(found) if item[0] > 0)
    return (
        [pair_view(*item, temperature) for item in wrong[:MOST_WRONG]],
        [pair_view(*item, temperature) for item in right[:MOST_RIGHT]],
        len(wrong),
    )


Scored = tuple[float, Group, Preference, Floats]


def one_per_prompt(found: Iterable[Scored]) -> list[Scored]:
    """The first of each prompt: ten pairs of one prompt would teach as much as one."""
    first: dict[str, Scored] = {}
    for item in found:
        first.setdefault(item[1].prompt_id, item)
    return list(first.values())


def pair_view(
    margin: float, group: Group, preference: Preference, rewards_K: Floats, temperature: float = 1.0
) -> dict[str, Any]:
    """A pair as the template shows it."""
    label = [f"{percent(preference.probability)} preferred it"] if preference.probability < 1 else []
    lengths = [len(text_of(group.responses[side])) for side in (preference.chosen, preference.rejected)]
    return {
        "margin": reward(margin),
        "size": abs(margin),
        "equal": margin == 0,
        "stated": stated(margin / temperature),
        "opening": opening(group),
        "longer": lengths[0] - lengths[1],
        "longer_words": minus(f"{lengths[0] - lengths[1]:+,}"),
        "prompt": turns(group.prompt[-1:]),
        "earlier": turns(group.prompt[:-1]),
        "sides": [
            side_view("chosen", group, preference.chosen, rewards_K, label),
            side_view("rejected", group, preference.rejected, rewards_K, []),
        ],
        "note": excerpt("", group.note) if group.note else None,
        "tags": [f"{tag}: {value}" for tag, value in group.tags.items()],
        "place": short_place(group.source) if group.source else group.id,
    }


def opening(group: Group) -> str:
    """The last turn of the prompt in one line."""
    text = " ".join(text_of(group.prompt[-1:]).split())
    return text if len(text) <= OPENING else text[: OPENING - 1].rstrip() + "…"


def side_view(side: str, group: Group, index: int, rewards_K: Floats, remarks: list[str]) -> dict[str, Any]:
    rating = group.ratings[index] if group.ratings else None
    return {
        "side": side,
        "reward": reward(float(rewards_K[index])),
        "remark": "; ".join([*remarks, *([f"rated {rating:g}"] if rating is not None else [])]),
        "turns": turns(group.responses[index]),
    }


def turns(messages: Messages) -> list[Excerpt]:
    """Turns with their roles; a single assistant or user turn needs no label."""
    alone = len(messages) == 1 and messages[0].role in ("assistant", "user")
    return [excerpt("" if alone else message.role, message.content) for message in messages]


def excerpt(role: str, text: str) -> Excerpt:
    if len(text) <= SHOWN_AT_ONCE:
        return Excerpt(role, text)
    start = text[:SHOWN_AT_ONCE].rpartition(" ")[0] or text[:SHOWN_AT_ONCE]
    return Excerpt(role, start, text[:SHOWN_AT_ALL], len(text), max(0, len(text) - SHOWN_AT_ALL))


def stated(margin: float) -> str:
    """The probability that the model states for the side it prefers; never a certainty that it does not state."""
    probability = 1 / (1 + math.exp(-abs(margin)))
    return percent(probability) if probability < 0.9995 else "more than 99.9%"
