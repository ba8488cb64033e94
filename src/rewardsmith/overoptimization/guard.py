"""How far to optimise against this reward, and what it costs to go on.

The best of several noisy numbers looks better than it is. So the strength is chosen on one half of the prompts and its
worth is read on the other, both ways round; how sure the choice is comes from bootstrap draws of the prompts.

    P  prompts
    S  strengths
    D  bootstrap draws
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rewardsmith.overoptimization.candidates import Pool
from rewardsmith.overoptimization.curves import Draws, Path
from rewardsmith.statistics import Floats, interval_text


def halves(pools: Sequence[Pool]) -> np.ndarray:
    """[P] True for the prompts of one half, by a hash of the prompt: the same in every run and order."""
    return np.array([hashlib.blake2b(pool.group.prompt_id.encode()).digest()[0] % 2 == 0 for pool in pools])


def optimum(path: Path, half_P: np.ndarray, draws: Draws, *, beside: Path | None = None) -> dict[str, Any]:
    """The best strength, and what choosing it so is worth on prompts that did not choose.

    strength, kl   the choice on all prompts
    chosen         the choices of the two halves
    gold           of every prompt at the strength that the other half chose; `over_base` is that less the base
                   policy's, `over_length` less what length alone reaches at its own choice
    """
    gold_P, chosen = _crossed(path, half_P)
    best = int(np.argmax(path.gold_JPS[0].mean(axis=0)))
    row: dict[str, Any] = {
        "method": path.method,
        "strength": float(path.strength_S[best]),
        "kl": float(path.kl_PS[:, best].mean()),
        "chosen": [float(path.strength_S[s]) for s in chosen],
        "gold": draws.intervals(gold_P[:, None])[0],
        "over_base": draws.intervals((gold_P - path.base_JP[0])[:, None])[0],
    }
    if beside is not None:
        length_P, _ = _crossed(beside, half_P)
        row["over_length"] = draws.intervals((gold_P - length_P)[:, None])[0]
    return row


def _crossed(path: Path, half_P: np.ndarray) -> tuple[Floats, list[int]]:
    """[P] gold of each prompt at the strength that is best on the other half, and the two choices."""
    gold_PS = path.gold_JPS[0]
    gold_P = np.empty(len(gold_PS))
    chosen = []
    for side_P in (half_P, ~half_P):
        s = int(np.argmax(gold_PS[~side_P].mean(axis=0))) if (~side_P).any() else 0
        chosen.append(s)
        gold_P[side_P] = gold_PS[side_P, s]
    return gold_P, chosen


def recommend(path: Path, chosen: dict[str, Any], draws: Draws) -> dict[str, Any]:
    """How far to go along one method, with words for people. `chosen` is the method's `optimum`.

    n, strength, kl   where the mean gold is highest; `range` holds 95% of the bootstrap draws' choices
    safe_strength     the weakest strength whose gold is not shown to be below the best: less reward bought for the same
    gold, over_base   as in `optimum`
    loss_at_end       gold at the strongest minus gold at the best: what going all the way costs (paired interval)
    rises_to_end      whether the best is the strongest that was tried: then the data do not say what is too far
    """
    gold_PS = path.gold_JPS[0]
    best = int(np.argmax(gold_PS.mean(axis=0)))
    drawn_D = np.argmax(draws.means(gold_PS), axis=1)
    low, high = np.quantile(drawn_D, [0.025, 0.975], method="nearest").astype(int) if len(drawn_D) else (best, best)
    behind = draws.intervals(gold_PS[:, : best + 1] - gold_PS[:, [best]])
    safe = next(s for s, row in enumerate(behind) if s == best or (row["high"] is not None and row["high"] >= 0))
    last = gold_PS.shape[1] - 1
    result: dict[str, Any] = {
        "method": path.method,
        "n": int(path.strength_S[best]) if path.in_n else None,
        "strength": float(path.strength_S[best]),
        "kl": float(path.kl_PS[:, best].mean()),
        "range": [float(path.strength_S[low]), float(path.strength_S[high])],
        "range_kl": [float(path.kl_PS[:, s].mean()) for s in (low, high)],
        "safe_strength": float(path.strength_S[safe]),
        "strongest": float(path.strength_S[last]),
        "gold": chosen["gold"],
        "over_base": chosen["over_base"],
        "loss_at_end": draws.intervals(gold_PS[:, [last]] - gold_PS[:, [best]])[0],
        "rises_to_end": best == last,
    }
    return result | {"text": _words(result)}


def _words(found: dict[str, Any]) -> str:
    """The recommendation as one paragraph."""
    of = "best of {:g}" if found["n"] is not None else "a pressure (SD of the rewards over beta) of {:g}"
    gain, loss = found["over_base"], found["loss_at_end"]
    if gain["low"] is None:
        return "Too few prompts to say how far to optimise; give at least two, better a hundred."
    value = f"{interval_text(gain, '+.3f')} of gold over the base policy"
    if gain["low"] <= 0:
        return (
            "Do not optimise against this reward yet: at its best strength, chosen on other prompts, it brings "
            f"{value}, which is not shown to be a gain."
        )
    where = f"{of.format(found['strength'])} (KL {found['kl']:.2f})"
    low, high = found["range"]
    sure = f"95% of resampled prompts choose between {low:g} and {high:g}"
    if found["rises_to_end"]:
        return (
            f"Gold still rises at the strongest that was tried, {where}: {value}. {sure}; how far is too far these "
            "candidates cannot say. More answers to each prompt would."
        )
    beyond = f"Going on to {found['strongest']:g} changes gold by {interval_text(loss, '+.3f')}"
    shown = "" if loss["high"] < 0 else ", which is not shown to be a loss"
    return f"Stop at {where}: {value}, read on prompts that did not choose it. {sure}. {beyond}{shown}."
