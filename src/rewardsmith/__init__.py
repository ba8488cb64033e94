"""Rewardsmith: from a file of human preferences to a reward model you can defend."""

from __future__ import annotations

import importlib
from typing import Any

# name -> module. Imported on first use: `import rewardsmith` stays instant, torch is loaded when it is needed.
_EXPORTS = {
    "FunctionScorer": "rewardsmith.scoring",
    "Group": "rewardsmith.data.schema",
    "LossConfig": "rewardsmith.training.loss_config",
    "Message": "rewardsmith.data.schema",
    "ModelScorer": "rewardsmith.scorers",
    "Preference": "rewardsmith.data.schema",
    "ReadOptions": "rewardsmith.data.options",
    "RemoteScorer": "rewardsmith.remote",
    "RenderConfig": "rewardsmith.text.render",
    "Renderer": "rewardsmith.text.render",
    "RewardModel": "rewardsmith.model.reward_model",
    "RewardsmithError": "rewardsmith.errors",
    "Scorer": "rewardsmith.scoring",
    "TrainConfig": "rewardsmith.training.config",
    "evaluate_rows": "rewardsmith.evaluation.evaluate",
    "load_reward_model": "rewardsmith.model.artifact",
    "load_scorer": "rewardsmith.scorers",
    "read_groups": "rewardsmith.data.readers",
    "reward_model_loss": "rewardsmith.model.reward_model",
    "score_stream": "rewardsmith.scoring",
    "train": "rewardsmith.training.loop",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'rewardsmith' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
