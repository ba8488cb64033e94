"""How many tokens the groups have for a model's renderer, and what a length limit would cut.

The policy is the renderer's: a group that is too long loses the oldest tokens of its prompt, the same number for
all its responses; only where the prompt is used up is an answer cut. The renderer is that of training, so the
lengths are too; nothing here needs a model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence, Sized
from typing import Any, Protocol

import numpy as np

from rewardsmith.data.ledger import EXAMPLES, chunks, quantiles
from rewardsmith.data.schema import Group

MOST_RESPONSES = 20_000  # that are tokenised
BATCH = 256  # groups


class EncodedGroup(Protocol):
    """The tokens of one group: K rows, how many leading ones all K share, and what was cut of each ("": nothing)."""

    @property
    def token_ids(self) -> Sequence[Sized]: ...

    @property
    def prefix_length(self) -> int: ...

    @property
    def truncated(self) -> Sequence[str]: ...


class LeftOut(Protocol):
    """The groups that a renderer could not encode: dicts with group (its id), source and reason."""

    @property
    def dropped(self) -> list[dict[str, str]]: ...


class GroupRenderer(Protocol):
    """Groups to tokens, as `rewardsmith.text.render.Renderer` does it in training."""

    @property
    def report(self) -> LeftOut: ...

    def encode(self, groups: Sequence[Group]) -> Sequence[EncodedGroup]: ...


def token_forecast(groups: Sequence[Group], renderer: GroupRenderer, max_length: int, seed: int = 0) -> dict[str, Any]:
    """Token counts over at most 20,000 responses of `groups`. Ready for JSON.

    `max_length` is what the forecast is for. **The renderer's own limit must be far above it**: lengths are
    measured behind the renderer, and what it has cut is only known to have been cut.

    groups, responses  how many were tokenised
    rendered           "chat template" or "plain text" (the tokenizer has no template)
    prompt             tokens that all of a group's rendered responses begin with
    response, total    tokens of what follows, and of the whole
    over_max_length    share of responses whose whole is longer than max_length
    prompts_cut        share of groups that would lose tokens of the prompt
    answers_cut        share of responses that would themselves be cut
    refused            groups that the renderer leaves out (the chat template refuses them)
    refused_examples   of the first five, source and reason
    """
    lengths: list[tuple[int, list[int], Sequence[str]]] = []
    before = len(renderer.report.dropped)
    for batch in chunks(some_groups(groups, MOST_RESPONSES, seed), BATCH):
        for item in renderer.encode(batch):
            lengths.append((item.prefix_length, [len(row) for row in item.token_ids], item.truncated))
    refused = renderer.report.dropped[before:]
    contract = getattr(renderer, "contract", None)
    return summary(lengths, max_length) | {
        "max_length": max_length,
        "rendered": "plain text" if getattr(contract, "template_origin", "") == "plain" else "chat template",
        "refused": len(refused),
        "refused_examples": [{"source": d["source"] or d["group"], "reason": d["reason"]} for d in refused[:EXAMPLES]],
    }


def some_groups(groups: Sequence[Group], most: int, seed: int) -> list[Group]:
    """All groups, or as many as hold `most` responses, drawn at random, at least one."""
    if sum(len(group.responses) for group in groups) <= most:
        return list(groups)
    kept: list[Group] = []
    total = 0
    for group in random.Random(seed).sample(groups, len(groups)):
        total += len(group.responses)
        if kept and total > most:
            break
        kept.append(group)
    return kept


def summary(lengths: Sequence[tuple[int, list[int], Sequence[str]]], max_length: int) -> dict[str, Any]:
    """The numbers of `token_forecast` from (prompt tokens, whole tokens and cut of each response) of each group."""
    prompt = np.array([p for p, _, _ in lengths], dtype=np.float64)
    total = np.array([t for _, row, _ in lengths for t in row], dtype=np.float64)
    response = np.array([t - p for p, row, _ in lengths for t in row], dtype=np.float64)
    was_cut = np.array([flag == "response" for _, _, flags in lengths for flag in flags], dtype=bool)
    prompts_cut = np.array([(max(row) > max_length and p > 0) or "prompt" in flags for p, row, flags in lengths])
    return {
        "groups": len(prompt),
        "responses": len(total),
        "prompt": quantiles(prompt),
        "response": quantiles(response),
        "total": quantiles(total),
        "over_max_length": share(total > max_length),
        "prompts_cut": share(prompts_cut),
        "answers_cut": share((response > max_length) | was_cut),
    }


def share(flags: Any) -> float | None:
    return float(flags.mean()) if len(flags) else None
