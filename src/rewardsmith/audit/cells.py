"""Rewards of cells: each scored once, a prompt's answers in one group; what goes wrong is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rewardsmith.audit.probes import Cell
from rewardsmith.data.schema import Group, Message, Messages
from rewardsmith.scoring import Scorer

CHUNK = 32  # groups in one call
AGAIN, AGAIN_ANSWERS = 24, 8  # groups asked a second time, and how many of their answers, in reverse order
# Of the rewards' spread: a reward that moves further is another one. Rounding in bfloat16 moves a rare one by 0.07.
SAME, RARE = 0.05, 0.02  # and the share of such answers above which the scorer has changed its mind
FAR = 0.25  # of the spread: one answer that moves so far is enough
GIVE_UP = 8  # calls for one group that failed in a row: a scorer that is gone is not asked a thousand times


@dataclass
class Rewards:
    """What a scorer said `of` each cell, why it said nothing of the `missing` ones, and what was wrong on the whole.

    `failures` counts calls for one group that failed, since the last one that did not; `n_prompts`, what was asked.
    """

    of: dict[Cell, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    missing: dict[Cell, str] = field(default_factory=dict)
    failures: int = 0
    n_prompts: int = 0


def reward_cells(scorer: Scorer, cells: Iterable[Cell], progress: Callable[[int, int], None] | None = None) -> Rewards:
    """Score the distinct cells. A call that fails is tried once more, group by group; NaN is no reward.

    Some groups are asked twice, their answers in another order: a scorer that says otherwise then is reported.
    `progress(done, all)` is called as groups are scored, of which there is one for each prompt.
    """
    groups = grouped(cells)
    found = Rewards(n_prompts=len(groups))
    for start in range(0, len(groups), CHUNK):
        part = groups[start : start + CHUNK]
        for group, rewards_K, reason in _asked(scorer, part, found):
            _keep(found, group, rewards_K, reason)
        if progress is not None:
            progress(start + len(part), len(groups))
    if found.missing:
        reason = next(iter(found.missing.values()))
        found.problems.append(
            f"{len(found.missing)} of {sum(len(g.responses) for g in groups)} answers have no reward: {reason}"
        )
    found.problems += _second_thoughts(scorer, groups, found)
    return found


def grouped(cells: Iterable[Cell]) -> list[Group]:
    """One group per prompt, with its distinct answers in order of appearance: a prompt is computed once for all."""
    answers: dict[Messages, dict[str, None]] = {}
    for cell in cells:
        answers.setdefault(cell.prompt, {})[cell.response] = None
    return [
        Group(prompt=prompt, responses=tuple((Message("assistant", text),) for text in texts))
        for prompt, texts in answers.items()
    ]


def _asked(scorer: Scorer, part: Sequence[Group], found: Rewards) -> list[tuple[Group, np.ndarray, str]]:
    """(group, its rewards, why there are none)."""
    if found.failures >= GIVE_UP:
        return [(group, _nothing(group), f"given up after {GIVE_UP} failures in a row") for group in part]
    try:
        answers = [(g, _one_each(g, s.rewards), s.error) for g, s in zip(part, scorer.score(part), strict=True)]
    except Exception as error:  # whatever somebody's scorer raises must not cost the audit
        if len(part) == 1:
            found.failures += 1
            return [(part[0], _nothing(part[0]), f"the scorer failed: {type(error).__name__}: {_first_line(error)}")]
        return [answer for group in part for answer in _asked(scorer, [group], found)]
    found.failures = 0
    return answers


def _one_each(group: Group, rewards: Any) -> np.ndarray:
    rewards_K = np.asarray(rewards, dtype=np.float64)
    if rewards_K.shape != (len(group.responses),):
        raise ValueError(f"rewards of shape {rewards_K.shape} for {len(group.responses)} answers")
    return rewards_K


def _nothing(group: Group) -> np.ndarray:
    return np.full(len(group.responses), np.nan)


def _keep(found: Rewards, group: Group, rewards_K: np.ndarray, reason: str) -> None:
    for response, reward in zip(group.responses, rewards_K.tolist(), strict=True):
        cell = Cell(group.prompt, response[0].content)
        if np.isfinite(reward):
            found.of[cell] = reward
        else:
            found.missing[cell] = reason or f"the scorer returned {reward}"


def _second_thoughts(scorer: Scorer, groups: Sequence[Group], found: Rewards) -> list[str]:
    """What a second call says otherwise, beyond rounding. Answers come in reverse: a cache knows them by their order,
    so what it gives was computed a second time, now or when it was filled.
    """
    some = groups[:: max(1, len(groups) // AGAIN)][::-1]
    again = [replace(group, responses=group.responses[:AGAIN_ANSWERS][::-1], id="") for group in some]
    spread = float(np.std(list(found.of.values()))) if found.of else 0.0
    largest, differing, n = 0.0, 0, 0
    for group, rewards_K, _ in _asked(scorer, again, found):
        for response, reward in zip(group.responses, rewards_K.tolist(), strict=True):
            first = found.of.get(Cell(group.prompt, response[0].content))
            if first is not None:
                change = abs(reward - first) if np.isfinite(reward) else np.inf
                largest, differing, n = max(largest, change), differing + (change > SAME * spread), n + 1
    if differing <= RARE * n and largest <= FAR * spread:
        return []
    size = "no reward" if np.isinf(largest) else f"a reward that differs by up to {largest:.3g}"
    who = f"{differing} of {n} answers"
    return [f"the scorer changes its mind: asked again, {who} got {size} (rewards spread by {spread:.3g})"]


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
