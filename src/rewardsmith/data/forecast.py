"""How many tokens the groups have for a tokenizer, and what a length limit would cut.

The policy is the renderer's: a group that is too long loses the oldest tokens of its prompt, the same number for
all its responses; only where the prompt is used up is an answer cut. Nothing here needs a model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from rewardsmith.data.ledger import chunks, quantiles
from rewardsmith.data.schema import Group, Messages
from rewardsmith.data.split import common_prefix
from rewardsmith.errors import ModelError

MOST_RESPONSES = 20_000  # that are tokenised
BATCH = 256  # responses


def load_tokenizer(tokenizer: Any) -> Any:
    """A tokenizer object as it is; a name or folder loaded. Raises ModelError where that fails."""
    if callable(tokenizer):
        return tokenizer
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(tokenizer))
    except Exception as error:  # transformers raises whatever its file parsers raise
        first = " ".join(str(error).split())[:200]
        raise ModelError(f"the tokenizer {tokenizer!s} cannot be loaded: {first}") from None


def token_forecast(groups: Sequence[Group], tokenizer: Any, max_length: int, seed: int = 0) -> dict[str, Any]:
    """Token counts over at most 20,000 responses of `groups`. Ready for JSON.

    groups, responses  how many were tokenised
    rendered           "chat template" or "plain text" (the tokenizer has no template)
    prompt             tokens that all of a group's rendered responses begin with
    response, total    tokens of what follows, and of the whole
    over_max_length    share of responses whose whole is longer than max_length
    prompts_cut        share of groups that would lose tokens of the prompt
    answers_cut        share of responses that would themselves be cut
    refused            groups that the chat template refuses (system turns, turns out of order)
    """
    tokenizer = load_tokenizer(tokenizer)
    kept = some_groups(groups, MOST_RESPONSES, seed)
    lengths, refused = [], 0
    for batch in chunks(kept, BATCH):
        rendered = [(group, render(tokenizer, group)) for group in batch]
        refused += sum(texts is None for _, texts in rendered)
        lengths += token_lengths(tokenizer, [texts for _, texts in rendered if texts is not None])
    return summary(lengths, max_length) | {
        "max_length": max_length,
        "rendered": "chat template" if getattr(tokenizer, "chat_template", None) else "plain text",
        "refused": refused,
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


def render(tokenizer: Any, group: Group) -> list[str] | None:
    """The text of each response behind its prompt, or None where the template refuses it."""
    if not getattr(tokenizer, "chat_template", None):
        return [plain(group.prompt + response) for response in group.responses]
    tools = list(group.tools) if group.tools else None
    try:
        return [
            tokenizer.apply_chat_template(
                [m.to_dict() for m in group.prompt + response],
                tokenize=False,
                tools=tools,
                **group.template_kwargs,
            )
            for response in group.responses
        ]
    except Exception:  # a template may raise anything; what it refuses is counted
        return None


def plain(turns: Messages) -> str:
    return "\n".join(f"{m.role}: {m.content}" for m in turns)


def token_lengths(tokenizer: Any, texts: Sequence[list[str]]) -> list[tuple[int, list[int]]]:
    """Per group: tokens of what all texts begin with, and of each text."""
    # What a lone response shares with others is not known: all of it counts as its own.
    shared = [common_prefix(group) if len(group) > 1 else "" for group in texts]
    flat = [text for group, start in zip(texts, shared) for text in (*group, start)]
    if not flat:
        return []
    counts = [len(ids) for ids in tokenizer(flat, add_special_tokens=False)["input_ids"]]
    lengths, start = [], 0
    for group in texts:
        end = start + len(group)
        lengths.append((counts[end], counts[start:end]))
        start = end + 1
    return lengths


def summary(lengths: Sequence[tuple[int, list[int]]], max_length: int) -> dict[str, Any]:
    """The numbers of `token_forecast` from (prompt tokens, whole tokens per response) of each group."""
    prompt = np.array([p for p, _ in lengths], dtype=np.float64)
    total = np.array([t for _, row in lengths for t in row], dtype=np.float64)
    response = np.array([t - min(p, t) for p, row in lengths for t in row], dtype=np.float64)
    cut = np.array([max(row) > max_length and p > 0 for p, row in lengths], dtype=np.float64)
    answers_cut = response > max_length
    return {
        "groups": len(prompt),
        "responses": len(total),
        "prompt": quantiles(prompt),
        "response": quantiles(response),
        "total": quantiles(total),
        "over_max_length": share(total > max_length),
        "prompts_cut": share(cut),
        "answers_cut": share(answers_cut),
    }


def share(flags: Any) -> float | None:
    return float(flags.mean()) if len(flags) else None
