"""Does the reward depend on what it should not depend on? The same groups, scored in other ways.

Two kinds of change. Ways that must not matter: batch, order, company, padding, packing; a reward that moves there
by more than rounding is a fault. And habits of other tools that may matter: padding on the left (positions of some
models shift), rounded weights, a doubled bos, a missing last token, text cut from either side; there the table says how
much, and how often a decision flips.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from rewardsmith.data.schema import Group
from rewardsmith.errors import DataError
from rewardsmith.model.reward_model import RewardModel, pad_id
from rewardsmith.scorers import ModelScorer
from rewardsmith.text.pack import Row, pack_rows, plan_batches
from rewardsmith.text.render import Encoded

Rows = list[list[Row]]  # [group][response] -> token ids
Rewards = list[np.ndarray]
SAME = 1e-3  # of the rewards' spread: float32 rounding is far below, a wrong mask far above


@dataclass(frozen=True)
class Way:
    """One other way of scoring the same rows.

    matters        whether it may; False: rewards must stay as they are, and `same` says whether they did
    largest        largest absolute change of a reward
    in_spreads     the same in standard deviations of the rewards
    flipped        pairs of responses to one prompt whose order changed, of n_pairs; score ties in one of both count
    note           why a way was not run
    """

    name: str
    matters: bool
    largest: float | None = None
    in_spreads: float | None = None
    flipped: int | None = None
    n_pairs: int | None = None
    same: bool | None = None
    note: str = ""


def selftest(scorer: ModelScorer, groups: Sequence[Group]) -> dict[str, Any]:
    """{"n_responses", "n_pairs", "reward_spread", "ways": [Way, ...]}, ready for JSON; `ok` where nothing that must
    not matter did. Raises DataError where nothing can be rendered."""
    encoded = scorer.renderer.encode(groups)
    if not encoded:
        raise DataError("none of the groups can be rendered: nothing to test on")
    model = scorer.models[0]
    rows: Rows = [list(item.token_ids) for item in encoded]
    expected = _packed(model, rows, scorer.tokens_per_batch)
    spread = float(np.concatenate(expected).std())
    ways = [
        _compare(name, matters, expected, run, spread)
        for name, matters, run in (*_must_not_matter(model, rows), *_do_matter(scorer, model, encoded, rows))
    ]
    return {
        "n_responses": sum(map(len, expected)),
        "n_pairs": sum(len(row) * (len(row) - 1) // 2 for row in expected),
        "reward_spread": spread,
        "ok": all(way.same is not False for way in ways),
        "ways": [asdict(way) for way in ways],
    }


def _must_not_matter(model: RewardModel, rows: Rows) -> list[tuple[str, bool, Callable[[], Rewards]]]:
    everything = sum(len(row) for group in rows for row in group)
    return [
        ("one response at a time", False, lambda: _one_by_one(model, rows)),
        ("small batches", False, lambda: _packed(model, rows, 1)),
        ("one batch", False, lambda: _packed(model, rows, everything)),
        ("in reverse order", False, lambda: _packed(model, rows[::-1], everything)[::-1]),
        ("packed, nothing shared", False, lambda: _packed(model, rows, everything, share=False)),
        ("padded on the right", False, lambda: _padded(model, rows, left=False)),
    ]


def _do_matter(
    scorer: ModelScorer, model: RewardModel, encoded: Sequence[Encoded], rows: Rows
) -> list[tuple[str, bool, Callable[[], Rewards]]]:
    bos = scorer.renderer.tokenizer.bos_token_id
    longest = max(len(row) for group in rows for row in group)
    budget = scorer.tokens_per_batch

    def changed(change: Callable[[Row], Row]) -> Callable[[], Rewards]:
        return lambda: _packed(model, [[change(row) for row in group] for group in rows], budget)

    def doubled(row: Row) -> Row:
        if bos is None:
            raise LookupError("the tokenizer has no bos token")
        return np.concatenate([[bos], np.asarray(row)])

    half = max(longest // 2, 1)
    return [
        ("padded on the left", True, lambda: _padded(model, rows, left=True)),
        ("weights rounded to bfloat16", True, lambda: _packed(_rounded(model), rows, budget)),
        ("bos doubled", True, changed(doubled)),
        ("last token missing", True, changed(lambda row: row[:-1] if len(row) > 1 else row)),
        (f"cut to {half} tokens on the right", True, changed(lambda row: row[:half])),
        (f"cut to {half} tokens on the left", True, changed(lambda row: row[-half:])),
    ]


def _compare(name: str, matters: bool, expected: Rewards, run: Callable[[], Rewards], spread: float) -> Way:
    try:
        found = run()
    except LookupError as reason:
        return Way(name, matters, note=str(reason))
    changes = np.concatenate([np.abs(a - b) for a, b in zip(expected, found, strict=True)])
    largest = float(changes.max())
    flips = [_flips(a, b) for a, b in zip(expected, found, strict=True)]
    return Way(
        name,
        matters,
        largest,
        largest / spread if spread else None,
        sum(flips),
        sum(len(row) * (len(row) - 1) // 2 for row in expected),
        None if matters else largest <= SAME * max(spread, 1e-6),
    )


def _flips(a_K: np.ndarray, b_K: np.ndarray) -> int:
    """Pairs whose order is another in b than in a."""
    first, second = np.triu_indices(len(a_K), 1)
    return int((np.sign(a_K[first] - a_K[second]) != np.sign(b_K[first] - b_K[second])).sum())


@torch.inference_mode()
def _packed(model: RewardModel, rows: Rows, budget: int, *, share: bool = True) -> Rewards:
    device = model.value_head.weight.device
    rewards: Rewards = [np.empty(0)] * len(rows)
    for members in plan_batches(rows, budget):
        batch = pack_rows([rows[i] for i in members], share=share).to(device)
        values_R = model(batch=batch).double().cpu().numpy()
        for i, first in zip(members, batch.first_row_G, strict=True):
            rewards[i] = values_R[first : first + len(rows[i])]
    return rewards


@torch.inference_mode()
def _one_by_one(model: RewardModel, rows: Rows) -> Rewards:
    device = model.value_head.weight.device
    return [np.array([float(model(torch.tensor(np.array([row])).to(device))[0]) for row in group]) for group in rows]


@torch.inference_mode()
def _padded(model: RewardModel, rows: Rows, *, left: bool, at_once: int = 8) -> Rewards:
    """Rectangles of rows through the trunk as transformers runs it, nothing told but the mask."""
    if model.pooling != "last":
        raise LookupError("an encoder reads its first token, or all")
    flat = [np.asarray(row, dtype=np.int64) for group in rows for row in group]
    device = model.value_head.weight.device
    path = model.path
    model._use("padded")
    values: list[float] = []
    for start in range(0, len(flat), at_once):
        part = flat[start : start + at_once]
        longest = max(map(len, part))
        ids_BL = torch.full((len(part), longest), pad_id(model.trunk.config))
        mask_BL = torch.zeros_like(ids_BL)
        for b, row in enumerate(part):
            place = slice(longest - len(row), longest) if left else slice(0, len(row))
            ids_BL[b, place] = torch.from_numpy(row)
            mask_BL[b, place] = 1
        hidden_BLH = model.trunk(input_ids=ids_BL.to(device), attention_mask=mask_BL.to(device)).last_hidden_state
        last_B = torch.tensor([longest - 1 if left else len(row) - 1 for row in part])
        rewards_B = model.value_head(hidden_BLH[torch.arange(len(part)), last_B.to(device)].float())[:, 0]
        values += rewards_B.double().cpu().tolist()
    model._use(path)
    ends = np.cumsum([len(group) for group in rows])[:-1]
    return [np.array(part) for part in np.split(np.array(values), ends)]


def _rounded(model: RewardModel) -> RewardModel:
    """The model with weights as a bfloat16 file holds them, computing in its own type."""
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    return rounded
