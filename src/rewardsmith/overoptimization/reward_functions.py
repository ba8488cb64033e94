"""A reward model as the reward function of verl and OpenRLHF. TRL is served by `rewardsmith rl`, or by the folder.

A file of two lines is what these tools are given:

    from rewardsmith.overoptimization.reward_functions import openrlhf_reward
    reward_func = openrlhf_reward("rm")                       # --remote_rm_url FILE.py

    from rewardsmith.overoptimization.reward_functions import verl_reward
    compute_score = verl_reward("rm")                         # custom_reward_function.path=FILE.py

The model is loaded by the first call. None of the two hands over messages: verl gives the response alone, OpenRLHF the
rendered text. How the prompt is found again is said with each function; where it cannot be found, that is an error and
never a reward of something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from rewardsmith.data.fields import messages
from rewardsmith.data.schema import Message, Messages
from rewardsmith.errors import DataError
from rewardsmith.overoptimization.policy_records import pessimistic, score_completions
from rewardsmith.score_cache import open_scorer
from rewardsmith.scoring import Scorer

PROMPT_KEYS = ("prompt", "raw_prompt", "question", "problem")
CHATML = re.compile(r"<\|im_start\|>(system|user|assistant|tool)\n(.*?)<\|im_end\|>", re.DOTALL)
LLAMA3 = re.compile(
    r"<\|start_header_id\|>(system|user|assistant|tool|ipython)<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>", re.DOTALL
)
CLOSERS = ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>", "<|pad|>", "<pad>")


def _lazily(scorer: Scorer | str) -> Callable[[], Scorer]:
    """A scorer, or that of a folder, as a function that loads it once. No text comes twice: nothing is kept on disk."""
    return cache(lambda: open_scorer(scorer, cache=False) if isinstance(scorer, str) else scorer)


def _rewards(scorer: Scorer, prompts: Sequence[Messages], texts: Sequence[str], pessimism: float) -> list[float]:
    rewards, std = score_completions(scorer, prompts, texts)
    values = pessimistic(rewards, std, pessimism).tolist()
    if any(value != value for value in values):
        raise DataError(f"{sum(v != v for v in values)} of {len(values)} responses could not be scored")
    return values


# -- verl ---------------------------------------------------------------------------------------------------


def verl_reward(scorer: Scorer | str, *, pessimism: float = 0.0) -> Callable[..., float]:
    """`compute_score(data_source, solution_str, ground_truth, extra_info) -> float`: one response a call.

    The prompt is extra_info["prompt"] (text or messages; also "raw_prompt", "question", "problem"), which the data's
    `extra_info` column has to carry. `verl_batch_reward` is several times faster.
    """
    batch = verl_batch_reward(scorer, pessimism=pessimism)

    def compute_score(
        data_source: str, solution_str: str, ground_truth: Any = None, extra_info: Any = None, **_: Any
    ) -> float:
        return batch([data_source], [solution_str], [ground_truth], [extra_info])[0]

    return compute_score


def verl_batch_reward(scorer: Scorer | str, *, pessimism: float = 0.0) -> Callable[..., list[float]]:
    """`compute_score(data_sources, solution_strs, ground_truths, extra_infos) -> [float]`, for verl's batch manager
    (reward_model.reward_manager=batch). The prompt as for `verl_reward`."""
    load = _lazily(scorer)

    def compute_score(
        data_sources: Sequence[str],
        solution_strs: Sequence[str],
        ground_truths: Sequence[Any],
        extra_infos: Sequence[Any],
        **_: Any,
    ) -> list[float]:
        prompts = [_prompt_in(info) for info in extra_infos]
        return _rewards(load(), prompts, list(solution_strs), pessimism)

    return compute_score


def _prompt_in(extra_info: Any) -> Messages:
    if not isinstance(extra_info, Mapping) or not any(extra_info.get(key) is not None for key in PROMPT_KEYS):
        raise DataError(
            f"extra_info has no {' or '.join(PROMPT_KEYS)}: put the prompt into the data's extra_info column"
        )
    key = next(key for key in PROMPT_KEYS if extra_info.get(key) is not None)
    value = extra_info[key]
    return messages(value.tolist() if hasattr(value, "tolist") else value, f"extra_info.{key}", "user")


# -- OpenRLHF -----------------------------------------------------------------------------------------------


def openrlhf_reward(scorer: Scorer | str, *, pessimism: float = 0.0) -> Callable[..., dict[str, Any]]:
    """`reward_func(queries, prompts, labels) -> {"rewards", "scores", "extra_logs"}`, tensors of float32 [B].

    queries are rendered texts of prompt + response, prompts the rendered prompts. The turns are read from the text
    where its template is ChatML's or Llama 3's; a text without such marks is one user turn; labels that are JSON
    objects with `prompt` (text or messages) say it themselves, whatever the template.
    """
    load = _lazily(scorer)

    def reward_func(
        queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any] | None = None, **_: Any
    ) -> dict[str, Any]:
        import torch

        turns, texts = split_queries(queries, prompts, labels)
        rewards = torch.tensor(_rewards(load(), turns, texts, pessimism), dtype=torch.float32)
        length = torch.tensor([float(len(text)) for text in texts])
        return {"rewards": rewards, "scores": rewards, "extra_logs": {"reward": rewards, "response_characters": length}}

    return reward_func


def split_queries(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any] | None
) -> tuple[list[Messages], list[str]]:
    """(the prompt's turns, the response's text) of each query. DataError where a query does not hold its prompt."""
    if len(queries) != len(prompts):
        raise DataError(f"{len(queries)} queries and {len(prompts)} prompts: one prompt a query is needed")
    turns, texts = [], []
    for i, (query, prompt) in enumerate(zip(queries, prompts, strict=True)):
        before, found, response = query.partition(prompt)
        if not found or _unclosed(before):
            raise DataError(f"query {i} does not begin with its prompt: {prompt[:60]!r}")
        stated = _stated_prompt(labels[i] if labels is not None and i < len(labels) else None)
        turns.append(stated or turns_in(prompt))
        texts.append(_unclosed(response))
    return turns, texts


def _stated_prompt(label: Any) -> Messages | None:
    """The prompt in a label that is a JSON object with that key."""
    if isinstance(label, str) and label.lstrip()[:1] == "{":
        try:
            label = json.loads(label)
        except ValueError:
            return None
    if isinstance(label, Mapping) and label.get("prompt") is not None:
        return messages(label["prompt"], "label.prompt", "user")
    return None


def turns_in(text: str) -> Messages:
    """The turns of a rendered prompt. DataError for a template that is not known."""
    for pattern in (CHATML, LLAMA3):
        if found := pattern.findall(text):
            return tuple(Message("tool" if role == "ipython" else role, content) for role, content in found)
    if "<|" in text or "[INST]" in text or "<start_of_turn>" in text:
        raise DataError(
            "the prompt is rendered by a template that is not known here (ChatML and Llama 3 are); give the messages "
            'as labels: {"prompt": [...]}'
        )
    return (Message("user", text),)


def _unclosed(text: str) -> str:
    """The text without the closing and padding tokens at its end, and without blanks around."""
    text = text.strip()
    while closer := next((mark for mark in CLOSERS if text.endswith(mark)), ""):
        text = text.removesuffix(closer).rstrip()
    return text
