"""One scale for all rounds: rewards of fixed reference answers have variance 1, and mean 0 once `adjusted`.

Bradley-Terry leaves a reward's scale to the training and its zero to chance, so a new model's rewards would mean
something else than the last one's: thresholds, dashboards and a policy's value head would all be off. The head's
weights are divided by the standard deviation of the rewards of the reference answers, which every tool that loads the
folder sees. A decoder's classifier has no bias that could hold the mean, so that is kept in the artifact as the
`offset` of its adjusted rewards (`adjustment`). No comparison changes; the temperature is divided likewise.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.adjustment import Adjustment
from rewardsmith.data.schema import Group
from rewardsmith.ensemble import link_or_copy
from rewardsmith.errors import TrainingError
from rewardsmith.model.artifact import replacing, writing_tensors
from rewardsmith.model.meta import META, read_meta
from rewardsmith.scorers import load_scorer
from rewardsmith.statistics import Floats

HEADS = tuple(f"{name}.{part}" for name in ("score", "classifier") for part in ("weight", "bias"))  # of `load.head_of`


def anchor(raw: str | Path, output: str | Path, reference: Sequence[Group], *, device: str = "auto") -> dict[str, Any]:
    """Write the artifact or ensemble in `raw` again to `output` on the scale of `reference`; returns its metadata.

    Raises TrainingError where the rewards of the reference answers are all the same, or one is missing.
    """
    scores = load_scorer(str(raw), device=device).score(reference)
    rewards_R = np.concatenate([of.rewards for of in scores]) if scores else np.zeros(0)
    mean, std = _mean_and_spread(rewards_R, str(raw))
    with replacing(output) as folder:
        shutil.rmtree(folder)
        shutil.copytree(raw, folder, copy_function=_link_weights)
        for weights in sorted(folder.rglob("*.safetensors")):
            _scale_heads(weights, 1 / std)
        for meta_file in sorted(folder.rglob(META)):
            scaled = _scaled_meta(read_meta(meta_file.parent), mean, std, len(rewards_R))
            meta_file.write_text(json.dumps(scaled, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return read_meta(output)


def _mean_and_spread(rewards_R: Floats, what: str) -> tuple[float, float]:
    if not np.isfinite(rewards_R).all():
        raise TrainingError(f"{what}: a reference answer has no finite reward; the template may refuse it")
    spread = float(rewards_R.std()) if len(rewards_R) else 0.0
    if not spread > 1e-9:
        raise TrainingError(
            f"{what}: the {len(rewards_R)} reference answers all have the same reward: no scale to take"
        )
    return float(rewards_R.mean()), spread


def _link_weights(source: str, target: str) -> None:
    """Weights are the largest part and are not written twice; what is rewritten in place has to be a copy."""
    if source.endswith(".safetensors"):
        link_or_copy(Path(source), Path(target))
    else:
        shutil.copy2(source, target)


def _scale_heads(weights: Path, factor: float) -> None:
    """Multiply the head's tensors in a file; one without a head stays the file it is, linked or not."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    heads = [name for name in HEADS if name in tensors]
    if not heads:
        return
    for name in heads:
        tensors[name] = tensors[name] * factor
    writing = weights.with_name(f".{weights.name}.writing")
    with writing_tensors(weights):
        save_file(tensors, writing, {"format": "pt"})
    writing.replace(weights)  # another name of the same file keeps its own


def _scaled_meta(meta: dict[str, Any], mean: float, std: float, n: int) -> dict[str, Any]:
    """What the metadata says in units of reward, in the new unit."""
    reference = {"mean": mean / std, "std": 1.0, "n": n, "responses": "the project's reference answers"}
    scaled = meta | {
        "normalisation": {"applied": "anchored", "factor": 1 / std, "reference": reference},
        "adjustment": Adjustment(offset=mean / std).to_json(),
    }
    if (kept := meta.get("calibration")) and kept.get("temperature") is not None:
        scaled["calibration"] = kept | {"temperature": kept["temperature"] / std}
    if "member_means" in meta:
        scaled["member_means"] = [value / std for value in meta["member_means"]]
    if parity := meta.get("parity"):
        differences = {way: value / std for way, value in parity["max_difference"].items()}
        spread = {key: parity[key] / std for key in ("reward_spread", "tolerance")}
        scaled["parity"] = parity | spread | {"max_difference": differences}
    return scaled
