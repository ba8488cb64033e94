"""What training watches on held-out groups, from their rewards alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rewardsmith.data.schema import Group
from rewardsmith.statistics import Floats
from rewardsmith.temperature import stored


def held_out_metrics(
    groups: Sequence[Group], rewards: Sequence[Floats]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Accuracy over decided pairs (a tie in reward is wrong; None without any), mean pair loss, mean reward; and the
    temperature of these pairs, as the artifact keeps it (None where a reward is not finite).

    `rewards[g]` holds one reward per response of `groups[g]`.
    """
    margins, labels = [], []
    for group, reward_K in zip(groups, rewards, strict=True):
        for p in group.preferences:
            margins.append(reward_K[p.chosen] - reward_K[p.rejected])
            labels.append(p.probability)
    margin_P, probability_P = np.array(margins, dtype=np.float64), np.array(labels, dtype=np.float64)
    loss_P = np.logaddexp(0.0, -margin_P) * probability_P + np.logaddexp(0.0, margin_P) * (1 - probability_P)
    right_P = (margin_P * (probability_P - 0.5) > 0)[probability_P != 0.5]
    everything = np.concatenate(rewards)
    calibration = stored(margin_P, probability_P, "held-out") if np.isfinite(margin_P).all() else None
    metrics = {
        "accuracy": float(right_P.mean()) if len(right_P) else None,
        "loss": float(loss_P.mean()) if len(loss_P) else 0.0,
        "n_pairs": len(right_P),
        "reward_mean": float(everything.mean()),
        "reward_std": float(everything.std()),
    }
    return metrics, calibration
