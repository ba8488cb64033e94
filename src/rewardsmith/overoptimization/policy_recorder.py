"""The reward function that TRL calls: it scores completions, and writes down all that is measured on them.

What is recorded is computed here, from the token ids that TRL hands over, by the policy and its start in the same
precision.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.data.schema import Message, Messages, content_hash
from rewardsmith.errors import DataError, TrainingError
from rewardsmith.overoptimization import policy_records as records
from rewardsmith.overoptimization.policy_config import PolicyConfig
from rewardsmith.overoptimization.policy_kl import Divergence, divergence
from rewardsmith.overoptimization.sample import prompt_ids
from rewardsmith.scoring import Scorer
from rewardsmith.statistics import number_or_none

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Recorder:
    """TRL's reward function: scores completions, and writes down all that is measured on them."""

    def __init__(
        self,
        config: PolicyConfig,
        scorer: Scorer,
        gold: Scorer | None,
        tokenizer: PreTrainedTokenizerBase,
        *,
        ends: Sequence[int],
        bfloat16: bool,
    ) -> None:
        self.config, self.scorer, self.gold, self.tokenizer = config, scorer, gold, tokenizer
        self.ends, self.bfloat16 = set(ends), bfloat16
        self.policy: PreTrainedModel | None = None  # set when TRL has taken it over
        self.reference: PreTrainedModel | None = None
        self.told = time.monotonic()

    def reward(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **given: Any
    ) -> list[float | None]:
        """Called by TRL once a step, with that step's completions."""
        turns = [_turns(prompt) for prompt in prompts]
        rows = self.measure(given["trainer_state"].global_step, records.TRAIN, turns, completion_ids)
        return [row["reward"] for row in rows]

    def measure(
        self, step: int, split: str, prompts: Sequence[Messages], completion_ids: Sequence[Sequence[int]]
    ) -> list[dict[str, Any]]:
        """Rows of completions given as token ids; they and their record are on the disk on return."""
        texts = [str(self.tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in completion_ids]
        proxy, std = records.score_completions(self.scorer, prompts, texts)
        reward = records.pessimistic(proxy, std, self.config.pessimism)
        gold = None if self.gold is None else records.score_completions(self.gold, prompts, texts)[0]
        far = self._divergence(prompts, completion_ids)
        rows = [
            {
                "step": step,
                "split": split,
                "prompt_id": content_hash(prompt, ()),
                "response": texts[i],
                "proxy": number_or_none(proxy[i]),
                "reward": number_or_none(reward[i]),
                "std": None if std is None else number_or_none(std[i]),
                "gold": None if gold is None else number_or_none(gold[i]),
                "kl": float(far.kl[i]),
                "kl_k1": float(far.k1[i]),
                "kl_k3": float(far.k3[i]),
                "tokens": len(completion_ids[i]),
                "cut": not (len(completion_ids[i]) and completion_ids[i][-1] in self.ends),
            }
            for i, prompt in enumerate(prompts)
        ]
        if all(row["proxy"] is None for row in rows):
            raise DataError(f"step {step}: the reward model could score none of {len(rows)} completions")
        if not np.isfinite(far.kl).all():
            raise TrainingError(f"step {step}: the policy's log-probabilities are not finite; lower --learning-rate")
        record = records.summary(step, split, rows)
        record["seconds"] = round(time.monotonic() - self.told, 2)
        self.told = time.monotonic()
        records.append(self.config.run_folder / records.ROWS, rows)
        records.append(self.config.run_folder / records.RECORDS, [record])
        return rows

    def _divergence(self, prompts: Sequence[Messages], completion_ids: Sequence[Sequence[int]]) -> Divergence:
        assert self.policy is not None
        assert self.reference is not None
        return divergence(
            self.policy,
            self.reference,
            [prompt_ids(self.tokenizer, prompt) for prompt in prompts],
            completion_ids,
            temperature=self.config.temperature,
            bfloat16=self.bfloat16,
        )


def _turns(prompt: Any) -> Messages:
    """A prompt as TRL hands it over: a list of messages, or text."""
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    return tuple(Message(turn["role"], turn["content"]) for turn in prompt)
