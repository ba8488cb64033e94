"""The exact bench: one reward, recorded candidates with gold, every way to optimise, one result ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rewardsmith.data.schema import text_of
from rewardsmith.overoptimization.bought import bought, markers
from rewardsmith.overoptimization.candidates import Pool
from rewardsmith.overoptimization.curves import (
    DRAWS,
    Draws,
    Path,
    curve_rows,
    gold_rewards,
    length_rewards,
    methods_for,
    path_of,
    random_rewards,
)
from rewardsmith.overoptimization.guard import halves, optimum, recommend
from rewardsmith.overoptimization.laws import fit_laws
from rewardsmith.overoptimization.members import ensemble_report
from rewardsmith.statistics import Floats

FIT_UNTIL = 16  # draws: what the laws' extrapolation test is fitted on


def bench(
    pools: Sequence[Pool],
    rewards: Sequence[Floats],
    golds: Sequence[str],
    *,
    methods: Sequence[str] = (),
    sizes: Sequence[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """What optimising this reward does to gold, ready for JSON.

    curves, length_only, oracle, random   rows as of `curves.curve_rows`: of the reward, of length, of the first gold
                                          column itself, and of numbers drawn at random
    optimum                               `guard.optimum` of every method
    recommendation                        `guard.recommend` of each method of `recommended`
    laws                                  `laws.fit_laws` along the same methods, of the reward and of length
    bought                                `bought.bought` along the first method
    single, aggregates, shared_error      `members.ensemble_report`, where the reward is an ensemble's
    `rewards[p]` has a finite number for every answer of `pools[p]`.
    """
    chosen = list(methods or methods_for(pools))
    drawn = Draws(pools, draws, seed)
    half_P = halves(pools)
    more: dict[str, Any] = {"draws": draws, "seed": seed}
    of_length = length_rewards(pools)
    beside = {
        "length_only": of_length,
        "oracle": gold_rewards(pools),
        "random": random_rewards(pools, seed),
    }
    paths = {method: path_of(method, pools, rewards, sizes) for method in chosen}
    others = {
        name: {method: path_of(method, pools, other, sizes) for method in chosen}
        for name, other in beside.items()
        if any(np.ptp(reward_K) > 0 for reward_K in other)
    }
    length = others.get("length_only", {})
    optima = {method: optimum(path, half_P, drawn, beside=length.get(method)) for method, path in paths.items()}
    return {
        "n_prompts": len(pools),
        "n_candidates": sum(len(reward_K) for reward_K in rewards),
        "gold": golds[0],
        "golds": list(golds),
        "base": {"gold": drawn.intervals(next(iter(paths.values())).base_JP[0][:, None])[0]},
        "curves": [
            row for method, path in paths.items() for row in curve_rows(path, golds, drawn, beside=length.get(method))
        ],
        **{
            name: [row for path in others.get(name, {}).values() for row in curve_rows(path, golds, drawn)]
            for name in beside
        },
        "optimum": list(optima.values()),
        "length_optimum": [optimum(path, half_P, drawn) for path in length.values()],
        "recommendation": [recommend(paths[method], optima[method], drawn) for method in recommended(chosen)],
        "laws": [
            {"of": name, "method": method, "gold": golds[0], **law}
            for name, found in (("reward", paths), ("length_only", length))
            for method in recommended(chosen)
            if method in found
            for law in _laws(found[method], more)
        ],
        "bought": _bought(pools, rewards, paths[chosen[0]], more),
        **_of_members(pools, chosen, drawn, sizes, more),
    }


def recommended(methods: Sequence[str]) -> list[str]:
    """What people are advised on: best of n, with replacement where there is both, and the KL penalty; else the
    first method."""
    by_n = [method for method in ("best_of_n_iid", "best_of_n") if method in methods][:1]
    return [*by_n, *(method for method in methods if method == "tilt")] or list(methods[:1])


def _of_members(
    pools: Sequence[Pool], methods: Sequence[str], draws: Draws, sizes: Sequence[int] | None, more: dict[str, Any]
) -> dict[str, Any]:
    """The section on an ensemble, by n; nothing where there is one model, or no method goes by n."""
    by_n = [method for method in ("best_of_n", "best_of_n_iid") if method in methods]
    if pools[0].members_MK is None or not by_n:
        return {}
    return ensemble_report(pools, by_n[0], draws, more=more, sizes=sizes)


def _laws(path: Path, more: dict[str, Any]) -> list[dict[str, Any]]:
    """Both laws; by n, fitted up to FIT_UNTIL draws and held against the rest."""
    known_S = path.strength_S <= FIT_UNTIL
    until = float(path.kl_PS.mean(axis=0)[known_S].max()) if path.in_n and known_S.any() else None
    return fit_laws(path.kl_PS, path.gold_JPS[0], path.base_JP[0], fit_until=until, **more)


def _bought(pools: Sequence[Pool], rewards: Sequence[Floats], path: Path, more: dict[str, Any]) -> list[dict[str, Any]]:
    """What each strength's gain is made of, weakest first. The base policy has gained nothing, and is left out."""
    names, features = markers([[text_of(response) for response in pool.group.responses] for pool in pools])
    gold, base = [pool.gold_JK[0] for pool in pools], [pool.base_K for pool in pools]
    rows = bought(features, names, rewards, gold, path.weights, base, path.strength_S.tolist(), **more)
    kl_S = path.kl_PS.mean(axis=0)
    return [{"method": path.method, **row} for row, kl in zip(rows, kl_S, strict=True) if kl > 1e-12]
