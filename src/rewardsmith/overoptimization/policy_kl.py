"""How far a policy is from its reference, from log-probabilities of the completions it wrote.

Maths. y_1 .. y_T is a completion sampled from pi given the prompt, both distributions taken at the sampling
temperature. With l_t = log pi(y_t | y_<t) - log pi0(y_t | y_<t),

    k1 = sum_t l_t                      unbiased, may be negative
    k3 = sum_t exp(-l_t) - 1 + l_t      never negative; unbiased because each term is, given y_<t
    kl = sum_t KL(pi(. | y_<t) || pi0(. | y_<t))    the mean of either over y_t, taken exactly (2504.10637)

All three estimate the KL divergence of whole completions, cut at the longest length. kl spreads least. k3 spreads much
less than k1 where the policy is near its reference, and more where it writes what the reference would hardly write:
exp(-l) is then large for the rare token that goes the other way. k1 and k3 are Schulman's (2020), per token; k3 of the
sum would have the variance of the exp of a sum.

Shapes: B completions, T tokens of the longest, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

LOGITS_AT_ONCE = 2**26  # numbers in one model's logits: 256 MB in float32


@dataclass(frozen=True)
class Divergence:
    """Per completion: log pi, log pi0 and the three estimates, in nats. float64 [B]."""

    logprob: np.ndarray
    reference_logprob: np.ndarray
    k1: np.ndarray
    k3: np.ndarray
    kl: np.ndarray


def k1_k3(logprob_BT: torch.Tensor, reference_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The two estimates per completion [B], from log-probabilities of its tokens (0 in both where there is none)."""
    ratio_BT = logprob_BT - reference_BT
    return ratio_BT.sum(-1), (torch.expm1(-ratio_BT) + ratio_BT).sum(-1)


def exact_kl(log_pi: torch.Tensor, log_pi0: torch.Tensor) -> torch.Tensor:
    """KL(pi || pi0) over the last axis, from normalised log-probabilities; a token of probability 0 adds nothing."""
    return (log_pi.exp() * (log_pi - log_pi0).masked_fill(log_pi == -torch.inf, 0.0)).sum(-1)


@torch.no_grad()
def divergence(
    policy: PreTrainedModel,
    reference: PreTrainedModel | None,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    bfloat16: bool = False,
) -> Divergence:
    """Run both models over prompt + completion (token ids) and compare them on the completions.

    `reference` None stands for the policy itself: only its log-probabilities are computed. Rows are padded on the
    right, so that no position depends on another row. `bfloat16` is that of the matrix products.
    """
    n = len(prompts)
    result = Divergence(*(np.zeros(n) for _ in fields(Divergence)))
    kept = [i for i in range(n) if completions[i]]
    kept.sort(key=lambda i: len(prompts[i]) + len(completions[i]))
    vocabulary = policy.get_output_embeddings().weight.shape[0]
    start = 0
    while start < len(kept):
        stop = start + 1
        while stop < len(kept) and (stop + 1 - start) * _columns(prompts, completions, kept[start : stop + 1]) < (
            LOGITS_AT_ONCE // vocabulary
        ):
            stop += 1
        rows = kept[start:stop]
        _fill(result, rows, policy, reference, prompts, completions, temperature, bfloat16)
        start = stop
    return result


@contextmanager
def float32_head(model: PreTrainedModel) -> Iterator[None]:
    """The LM head's product in float32 under any autocast.

    bfloat16 rounds a logit of 20 by up to 0.06; over the tokens of a completion that would look like divergence.
    """
    head: Any = model.get_output_embeddings()

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            bias = getattr(head, "bias", None)
            return F.linear(hidden.float(), head.weight.float(), None if bias is None else bias.float())

    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def _columns(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], rows: Sequence[int]) -> int:
    """Positions whose logits are needed when these rows are one batch: from the shortest prompt's end on."""
    return max(len(prompts[i]) + len(completions[i]) for i in rows) - min(len(prompts[i]) for i in rows) + 1


def _fill(
    result: Divergence,
    rows: Sequence[int],
    policy: PreTrainedModel,
    reference: PreTrainedModel | None,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    temperature: float,
    bfloat16: bool,
) -> None:
    """One batch of `divergence`."""
    device = policy.device
    lengths = [len(prompts[i]) + len(completions[i]) for i in rows]
    ids_BT = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for row, i in enumerate(rows):
        ids_BT[row, : lengths[row]] = torch.tensor([*prompts[i], *completions[i]])
        mask_BT[row, : lengths[row]] = 1
    first = min(len(prompts[i]) for i in rows)
    columns = max(lengths) - first + 1  # the logits that predict position `first` and all behind it
    pairs = []
    for model in (policy,) if reference is None else (policy, reference):
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16), float32_head(model):
            logits_BTV = model(
                input_ids=ids_BT.to(device), attention_mask=mask_BT.to(device), logits_to_keep=columns, use_cache=False
            ).logits
        pairs.append(logits_BTV[:, -columns:-1])  # a model that knows no logits_to_keep gives them all
    for row, i in enumerate(rows):
        begin = len(prompts[i]) - first
        target_T = torch.tensor(completions[i], device=device)
        log_TV = [torch.log_softmax(x[row, begin : begin + len(target_T)].float() / temperature, -1) for x in pairs]
        token_T = [x.gather(-1, target_T[:, None])[:, 0].double() for x in log_TV]
        result.logprob[i] = float(token_T[0].sum())
        result.reference_logprob[i] = float(token_T[-1].sum())
        if reference is not None:
            k1, k3 = k1_k3(token_T[0], token_T[1])
            result.k1[i], result.k3[i] = float(k1), float(k3)
            result.kl[i] = float(exact_kl(log_TV[0], log_TV[1]).double().sum())
