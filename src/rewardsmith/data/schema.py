"""The one data type: a group is one prompt, K responses, and what is known of their order.

Maths. Let x be a prompt and y_1 .. y_K its responses. A preference is a statement about an ordered
pair (w, l) of them: `probability` p = P(an annotator prefers y_w to y_l), an optional `margin` m >= 0
(how much better y_w is, in units of reward) and a `weight` (how much the statement counts).

    p = 1      y_w is better, as far as the data says
    p = 0.5    a tie
    0 < p < 1  a soft label: the share of annotators, or a judge's probability
    p < 0.5    never stored: the pair is turned round instead, so that `chosen` is the better side

A pair is K = 2 with one preference. K ranked or rated responses are the same object with up to
K(K-1)/2 preferences, and each response is still encoded only once.

Python. `Message` is a turn, `Preference` a statement about two responses by index, `Group` the rest.
All three are frozen: what was read is what is trained on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rewardsmith.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
TIE = 0.5


@dataclass(frozen=True)
class Message:
    """One turn of a dialogue.

    `extra` holds whatever else a chat template may read (`tool_calls`, `name`, `tool_call_id`,
    `reasoning_content`), untouched.
    """

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # a dict has none; equality looks at it

    def to_dict(self) -> dict[str, Any]:
        """The dict that chat templates and JSON files use."""
        return {"role": self.role, "content": self.content, **self.extra}


Messages = tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class Preference:
    """`responses[chosen]` is preferred to `responses[rejected]` with `probability` in [0.5, 1].

    `votes` keeps the single annotators' labels behind `probability` where the source has them:
    1.0 for chosen, 0.0 for rejected, 0.5 for a tie, in the source's order of annotators.
    """

    chosen: int
    rejected: int
    probability: float = 1.0
    margin: float = 0.0
    weight: float = 1.0
    votes: tuple[float, ...] = ()

    @property
    def is_tie(self) -> bool:
        return self.probability == TIE


@dataclass(frozen=True, kw_only=True)
class Group:
    """One prompt with K >= 1 responses and what is known of their order.

    prompt       turns before the responses (may be empty: plain text without a prompt)
    responses    K >= 1 continuations, each one or more turns
    preferences  statements about pairs of responses, by index
    ratings      one number or None per response (higher is better), or None
    tags         slice name -> value, for group-bys ("subset": "code")
    tools        tool descriptions for the chat template, or None
    template_kwargs  further variables for the chat template
    weight       how much the group counts in training (mixing weights multiply it)
    note         why the answers are ordered so, for people
    id           stable: the source's own id, else a hash of prompt and responses
    source       "file:line" of the (first) row it was read from, for messages
    """

    prompt: Messages
    responses: tuple[Messages, ...]
    preferences: tuple[Preference, ...] = ()
    ratings: tuple[float | None, ...] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    note: str = ""
    id: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        check_group(self)
        if not self.id:
            object.__setattr__(self, "id", content_hash(self.prompt, self.responses))

    @cached_property
    def prompt_id(self) -> str:
        """A hash of the prompt alone: what intervals cluster by. Groups without a prompt are each their own."""
        return content_hash(self.prompt, self.responses if is_blank(self.prompt) else ())


def check_group(group: Group) -> None:
    """Raise DataError where a group contradicts itself. The message does not name the file: the reader does."""
    k = len(group.responses)
    if k == 0:
        raise DataError("no response")
    if any(len(response) == 0 for response in group.responses):
        raise DataError("a response has no turn")
    if group.ratings is not None and len(group.ratings) != k:
        raise DataError(f"{len(group.ratings)} ratings for {k} responses")
    for rating in group.ratings or ():
        if rating is not None and not math.isfinite(rating):
            raise DataError(f"rating {rating} is not a finite number")
    if not (math.isfinite(group.weight) and group.weight >= 0):
        raise DataError(f"weight {group.weight} is not a finite number >= 0")
    for preference in group.preferences:
        check_preference(preference, k)


def check_preference(preference: Preference, k: int) -> None:
    """Raise DataError where a preference does not fit K = `k` responses."""
    for index in (preference.chosen, preference.rejected):
        if not 0 <= index < k:
            raise DataError(f"preference names response {index} of {k}")
    if preference.chosen == preference.rejected:
        raise DataError("preference compares a response with itself")
    if not TIE <= preference.probability <= 1.0:
        raise DataError(f"probability {preference.probability} of the chosen side is not in [0.5, 1]")
    if not (math.isfinite(preference.margin) and preference.margin >= 0):
        raise DataError(f"margin {preference.margin} is not a finite number >= 0")
    if not (math.isfinite(preference.weight) and preference.weight >= 0):
        raise DataError(f"weight {preference.weight} is not a finite number >= 0")


def preference_between(
    first: int,
    second: int,
    probability: float,
    *,
    margin: float = 0.0,
    weight: float = 1.0,
    votes: Sequence[float] = (),
) -> Preference:
    """A preference from P(first over second), turned round where that is below one half."""
    if not 0.0 <= probability <= 1.0:  # NaN fails this too
        raise DataError(f"preference probability {probability} is not in [0, 1]")
    if probability < TIE:
        first, second, probability = second, first, 1.0 - probability
        votes = [1.0 - vote for vote in votes]
    return Preference(
        chosen=first, rejected=second, probability=probability, margin=margin, weight=weight, votes=tuple(votes)
    )


def preferences_from_ratings(ratings: Sequence[float | None], gap: float = 0.0) -> tuple[Preference, ...]:
    """All pairs whose ratings differ by more than `gap`, the higher one chosen."""
    rated = [(index, rating) for index, rating in enumerate(ratings) if rating is not None]
    return tuple(
        Preference(chosen=i, rejected=j) if a > b else Preference(chosen=j, rejected=i)
        for n, (i, a) in enumerate(rated)
        for j, b in rated[n + 1 :]
        if abs(a - b) > gap
    )


def content_hash(prompt: Messages, responses: Sequence[Messages]) -> str:
    """16 hex digits over the texts: the same content has the same id in every file and run."""
    digest = hashlib.blake2b(digest_size=8)
    for side in (prompt, *responses):
        digest.update(b"[%d" % len(side))
        for message in side:
            extra = json.dumps(dict(message.extra), sort_keys=True, ensure_ascii=False) if message.extra else ""
            for text in (message.role, message.content, extra):
                # surrogatepass: a lone surrogate in a source file is still content, and must not stop the hash.
                data = text.encode("utf-8", "surrogatepass")
                digest.update(b"%d:" % len(data))  # lengths, so that no two contents run into the same bytes
                digest.update(data)
    return digest.hexdigest()


def is_blank(messages: Messages) -> bool:
    """Whether the turns say nothing: none is there, or all are empty."""
    return not any(message.extra or message.content.strip() for message in messages)


def text_of(messages: Messages) -> str:
    """The turns' contents joined by blank lines: for lengths, features and people, never for a model."""
    return "\n\n".join(message.content for message in messages)
