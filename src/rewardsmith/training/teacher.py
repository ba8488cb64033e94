"""Labels from a teacher: the probability that an ensemble of reward models gives each comparison (`--teacher`).

    p = (1 - w) p_label + w mean_m sigmoid((r_m(chosen) - r_m(rejected)) / T)

The mean is over members' probabilities, not of their rewards: where they disagree, p is near one half, and the student
is told less. (Distilling from a family of reward models, 2405.19316, is there to keep a student from the extremes that
single labels allow.) T is the temperature that the teacher's folder states, else 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from rewardsmith.data.schema import TIE, Group, Preference, preference_between
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.model.meta import read_meta
from rewardsmith.score_cache import open_scorer
from rewardsmith.scoring import Scores, score_stream
from rewardsmith.statistics import Floats
from rewardsmith.temperature import of_artifact
from rewardsmith.training.config import TrainConfig

DIGITS = 6  # of a probability: a label does not hang on how a scorer rounds


def taught(groups: Sequence[Group], config: TrainConfig) -> tuple[list[Group], str]:
    """(the groups with the teacher's share in their labels, a line about it). Groups that the teacher cannot score keep
    theirs. Raises ConfigError for a teacher whose rewards say nothing, DataError where it scores no group."""
    path = config.teacher
    assert path is not None
    temperature = of_artifact(read_meta(path)) if Path(path).is_dir() else None
    if temperature is not None and not np.isfinite(temperature):
        raise ConfigError(f"--teacher {path}: its folder says that its rewards tell labels no better than chance")
    scorer = open_scorer(path, device=config.device, trust_remote_code=config.trust_remote_code)
    found: list[Group] = []
    moved: list[float] = []
    turned = unscored = 0
    for group, scores in score_stream(scorer, groups):
        if scores.error or not np.isfinite(scores.rewards).all():
            unscored += 1
            found.append(group)
            continue
        chance_KK = chances(scores, temperature or 1.0)
        if not group.preferences:
            pairs = combinations(range(len(group.responses)), 2)
            labels = [preference_between(i, j, round(chance_KK[i, j], DIGITS)) for i, j in pairs]
        else:
            labels = [relabelled(p, chance_KK, config.teacher_weight) for p in group.preferences]
            for old, new in zip(group.preferences, labels, strict=True):
                turned += old.chosen != new.chosen
                now = new.probability if old.chosen == new.chosen else 1.0 - new.probability
                moved.append(abs(now - old.probability))
        found.append(replace(group, preferences=tuple(labels)))
    if groups and unscored == len(groups):
        raise DataError(f"--teacher {path} could score none of the {unscored} groups")
    size = float(np.mean(moved)) if moved else 0.0
    change = f"{len(moved)} labels moved by {size:.3f} on average, {turned} of them turned round"
    return found, f"teacher {path}: {change}; {unscored} groups could not be scored and keep theirs"


def chances(scores: Scores, temperature: float) -> Floats:
    """[K, K] P(row better than column): the mean of the members' probabilities."""
    rewards_MK = scores.rewards[None] if scores.members is None else scores.members
    gap_MKK = (rewards_MK[:, :, None] - rewards_MK[:, None, :]) / temperature
    return np.asarray((0.5 * (1.0 + np.tanh(gap_MKK / 2))).mean(axis=0))


def relabelled(p: Preference, chance_KK: Floats, weight: float) -> Preference:
    """The label with a share of the teacher's probability. A tie stays one: it was stated, and a bias of the teacher is
    what it may be there to undo. A label that is turned round loses its margin."""
    if p.is_tie:
        return p
    mixed = round((1.0 - weight) * p.probability + weight * float(chance_KK[p.chosen, p.rejected]), DIGITS)
    margin = p.margin if mixed >= TIE else 0.0  # it was stated of the other order
    return preference_between(p.chosen, p.rejected, mixed, margin=margin, weight=p.weight)
