"""Which words of one answer its reward comes from: by leaving them out, or by gradients through the embeddings.

    occlusion             reward of the answer less its reward without the word or sentence: any scorer
    integrated gradients  sum over a straight line from a blank answer to this one of gradient times step: a model

Blank means that every token of the answer, not of the prompt, has the mean embedding of the vocabulary: zero vectors
are no input that a model with normalisation has a gradient at. The values add up to r(answer) - r(blank) but for the
error of the sum, which is reported (completeness). Source: Sundararajan et al. (1703.01365).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rewardsmith.data.schema import Group, Message, Messages
from rewardsmith.edits import SENTENCE_END
from rewardsmith.errors import DataError
from rewardsmith.scorers import ModelScorer
from rewardsmith.scoring import Scorer
from rewardsmith.statistics import Floats

if TYPE_CHECKING:
    import torch

    from rewardsmith.model.reward_model import RewardModel

By = Literal["word", "sentence", "gradient"]
STEPS = 32
MOST_UNITS = 400  # left out one by one; a longer answer is taken by sentence


def explain(scorer: Scorer, group: Group, *, by: By = "word", steps: int = STEPS) -> list[dict[str, Any]]:
    """One row per response of the group, ready for JSON:

    response, reward   its place in the group and its reward
    text               its last turn, which the units are parts of
    by                 how the values came about ("sentence" where an answer has too many words)
    units              `text`, `start`, `end` (characters), and `value` in units of reward: above 0, it raises it
    completeness       for gradients: `sum` of the values, `difference` r(answer) - r(blank)

    Raises DataError where a response has no reward, or is cut so that its words cannot be told apart.
    """
    rows = []
    for k, response in enumerate(group.responses):
        if by == "gradient":
            if not isinstance(scorer, ModelScorer) or not scorer.models:
                raise DataError("gradients need the weights of a reward model: take word or sentence")
            rows.append({"response": k, **integrated_gradients(scorer, group, response, steps)})
        else:
            rows.append({"response": k, **occlusion(scorer, group, response, by)})
    return rows


def occlusion(scorer: Scorer, group: Group, response: Messages, by: Literal["word", "sentence"]) -> dict[str, Any]:
    """Reward less the reward without each unit. The answer as a whole is no unit: nothing would be left."""
    text = response[-1].content
    spans = word_spans(text) if by == "word" else sentence_spans(text)
    if len(spans) > MOST_UNITS and by == "word":
        by, spans = "sentence", sentence_spans(text)
    shorter = [without(text, start, end) for start, end in spans]
    asked = [text, *(s for s in dict.fromkeys(shorter) if s.strip() and s != text)]
    variants = tuple((*response[:-1], Message(response[-1].role, t, response[-1].extra)) for t in asked)
    scores = scorer.score([Group(prompt=group.prompt, responses=variants, tools=group.tools)])[0]
    reward = dict(zip(asked, scores.rewards.tolist(), strict=True))
    if not np.isfinite(reward[text]):
        raise DataError(f"the answer has no reward: {scores.error or 'the scorer returned none'}")
    units = [
        {"text": text[start:end], "start": start, "end": end, "value": reward[text] - reward.get(s, np.nan)}
        for (start, end), s in zip(spans, shorter, strict=True)
    ]
    units = [unit | {"value": unit["value"] if np.isfinite(unit["value"]) else None} for unit in units]
    return {"reward": reward[text], "text": text, "by": by, "units": units}


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each word is, with the marks that touch it."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where each sentence or line is."""
    ends = sorted({m.start() for m in SENTENCE_END.finditer(text)} | {m.start() for m in re.finditer(r"\n+", text)})
    spans, start = [], 0
    for end in [*ends, len(text)]:
        part = text[start:end]
        if part.strip():
            left = start + len(part) - len(part.lstrip())
            spans.append((left, left + len(part.strip())))
        start = end
    return spans


def without(text: str, start: int, end: int) -> str:
    """The text without a part and without the blanks before it (behind it, where it opens the text)."""
    before, after = text[:start].rstrip(" "), text[end:]
    return after.lstrip() if not before else before + after


# -- gradients ------------------------------------------------------------------------------------------------------


def integrated_gradients(scorer: ModelScorer, group: Group, response: Messages, steps: int = STEPS) -> dict[str, Any]:
    """Integrated gradients of each token of the answer's last turn, midpoint rule; the mean over an ensemble."""
    ids, spans, text = answer_tokens(scorer, group, response)
    places = [t for t, span in enumerate(spans) if span is not None]
    value_T, total, difference, reward = np.zeros(len(ids)), 0.0, 0.0, 0.0
    for model in scorer.models:
        found_T, whole, blank = _model_gradients(model, ids, places, steps)
        value_T += found_T / len(scorer.models)
        difference += (whole - blank) / len(scorer.models)
        reward += whole / len(scorer.models)
    total = float(value_T.sum())
    units = [
        {"text": text[spans[t][0] : spans[t][1]], "start": spans[t][0], "end": spans[t][1], "value": float(value_T[t])}
        for t in places
    ]
    return {
        "reward": reward,
        "text": text,
        "by": "gradient",
        "units": units,
        "completeness": {"sum": total, "difference": difference},
    }


def answer_tokens(scorer: ModelScorer, group: Group, response: Messages) -> tuple[np.ndarray, list[Any], str]:
    """(token ids, of each the characters of the answer's last turn it stands for or None, that turn's text)."""
    renderer = scorer.renderer
    one = Group(prompt=group.prompt, responses=(response,), tools=group.tools, template_kwargs=group.template_kwargs)
    encoded = renderer.encode([one])
    if not encoded or encoded[0].truncated[0] == "response":
        raise DataError(f"{group.source or group.id}: the answer does not fit the model whole; take word or sentence")
    ids, text = encoded[0].token_ids[0], response[-1].content
    rendered = renderer.text(group.prompt, response, one)
    start = rendered.rfind(text.strip())
    if start < 0 or not text.strip():
        raise DataError(f"{group.source or group.id}: the answer is not in the rendered text as it stands")
    lead = len(text) - len(text.lstrip())
    offsets = renderer.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    first = len(offsets) - len(ids)  # a prompt that was cut lost tokens before the answer
    end = start + len(text.strip())
    spans = [
        (max(a, start) - start + lead, min(b, end) - start + lead) if b > start and a < end and b > a else None
        for a, b in offsets[first:]
    ]
    return ids, spans, text


def _model_gradients(
    model: RewardModel, ids: np.ndarray, places: Sequence[int], steps: int
) -> tuple[Floats, float, float]:
    """(value of each token, reward, reward of the blank answer)."""
    import torch

    table_VH = embedding_table(model)
    blank_H = table_VH.float().mean(0).to(table_VH.dtype)
    own_TH = table_VH[torch.as_tensor(np.asarray(ids, dtype=np.int64), device=table_VH.device)]
    step_TH = torch.zeros_like(own_TH)
    step_TH[list(places)] = own_TH[list(places)] - blank_H
    value_T = torch.zeros(len(ids), dtype=torch.float64, device=table_VH.device)
    for i in range(steps):
        # Midpoints, with the steps laid closer to both ends, where the reward turns most.
        low, high = (0.5 - 0.5 * np.cos(np.pi * j / steps) for j in (i, i + 1))
        point_TH = own_TH - (1 - (low + high) / 2) * step_TH
        _, gradient_TH = reward_and_gradient(model, ids, point_TH)
        value_T += (high - low) * (gradient_TH * step_TH).double().sum(-1)
    whole, _ = reward_and_gradient(model, ids, own_TH)
    blank, _ = reward_and_gradient(model, ids, own_TH - step_TH)
    return value_T.cpu().numpy(), whole, blank


def embedding_table(model: RewardModel) -> torch.Tensor:
    """The input embeddings [V, H], cut off from the graph."""
    weight: torch.Tensor = model.trunk.get_input_embeddings().weight  # type: ignore[assignment]
    return weight.detach()


def reward_and_gradient(model: RewardModel, ids: np.ndarray, embedding_TH: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Reward of one row whose token embeddings are replaced by `embedding_TH`, and its gradient with respect to them.

    The embedding layer's output is exchanged, so the model runs along its own path.
    """
    import torch

    from rewardsmith.text.pack import pack_rows

    leaf_TH = embedding_TH.detach().clone().requires_grad_(True)
    with torch.enable_grad(), replaced_embeddings(model, leaf_TH):
        batch = pack_rows([[np.asarray(ids)]]).to(embedding_TH.device)
        reward = model(batch=batch)[0]
        (gradient_TH,) = torch.autograd.grad(reward, leaf_TH)
    return float(reward.detach()), gradient_TH


@contextmanager
def replaced_embeddings(model: RewardModel, leaf_TH: torch.Tensor) -> Iterator[None]:
    """While it lasts, the input embeddings of a single row are these."""

    def replace(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return leaf_TH.to(output.dtype).view(output.shape)

    handle = model.trunk.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def explanation_text(rows: Sequence[dict[str, Any]], most: int = 5) -> str:
    """For the terminal: of each response, the units that raise and lower its reward most."""
    lines = []
    for row in rows:
        name = row.get("label") or f"response {row['response']}"
        lines.append(f"{name}: reward {row['reward']:+.3f}, by {row['by']}")
        known = sorted((u for u in row["units"] if u["value"] is not None), key=lambda u: -u["value"])
        for label, units in (("raises", known[:most]), ("lowers", known[::-1][:most])):
            kept = [u for u in units if (u["value"] > 0) == (label == "raises") and u["value"] != 0]
            lines += [f"  {label} {u['value']:+.3f}  {' '.join(u['text'].split())[:80]}" for u in kept]
    return "\n".join(lines)
