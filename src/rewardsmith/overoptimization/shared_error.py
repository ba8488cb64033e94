"""When an ensemble cannot help: how far its members' errors are the same on what optimisation selects.

M  members      G  prompts
K  candidates of one prompt

Both the member's reward and gold are taken within the prompt (each prompt's mean off) and divided by their standard
deviation over all candidates. A member's residual is what is left of its reward after its linear part in gold:

    residual_m = z(reward_m) - slope_m * z(gold),   slope_m = mean of z(reward_m) * z(gold)

(With a slope of 1 instead, gold itself would stay in every member's residual, since noise makes a standardised reward
rise less than gold does, and independent errors would look shared.)

For two members a and b, the correlation of their residuals at n is

    sum of v e_a e_b / sqrt(sum of v e_a^2 * sum of v e_b^2)

over all prompts' candidates, v being the probability of a candidate to be the best of n by the mean reward of all
members but b, and no mean taken off: at n = 1 the residuals have mean zero in every prompt, and the mean that they get
with n is the error that the pressure buys, which is what is looked for. b is left out of the selection so that its own
noise does not choose: where errors are independent the figure stays near 0 at every n, while with b's voice it would
rise by the winner's curse alone. The figure given is the mean over ordered pairs.

What gold gets wrong itself counts as an error that all members share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rewardsmith.aggregation import centre
from rewardsmith.best_of_n import answer_weights
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.statistics import DRAWS, Floats, Interval, clustered_bootstrap

SHARED, MOSTLY_SHARED = 0.9, 0.5  # correlations from which the sentence says so
DEFINITION = (
    "residual = standardised member reward less its linear part in standardised gold, within prompts; correlation of "
    "two members' residuals about zero, over candidates weighted by their probability to be the best of n by the "
    "other members"
)


def shared_error(
    members: Sequence[Floats], gold: Sequence[Floats], sizes: Sequence[int], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """How far members' errors against gold agree as n grows, ready for JSON.

    members  of each prompt, [M, K] rewards        gold  of each prompt, [K]
    sizes    values of n; a prompt with fewer candidates is left out at that n

    {"definition", "n_members", "n_prompts", "excluded": {reason: prompts}, "curve": [{"n", "n_prompts", "correlation":
    {"value", "low", "high"}, "error": {...}, "removable"}], "cannot_help", "sentence"}. `error` is the residual of the
    selected candidate by the member that had no voice in it, in SDs of a reward; `removable` is the share of a
    member's squared error that a mean over the members can take away at most, (1 - correlation)(1 - 1/M). Intervals
    are clustered by prompt; slopes and SDs are those of all prompts.

    Raises ConfigError for fewer than two members, or sizes below 1, DataError where no prompt is left or a member
    gives all answers of a prompt the same reward everywhere.
    """
    kept, excluded = _usable(members, gold)
    residuals, slopes = _residuals([m for m, _ in kept], [g for _, g in kept])
    sizes = sorted(set(sizes))
    if not sizes or sizes[0] < 1:
        raise ConfigError(f"sizes {sizes}: give values of n from 1")
    n_members = len(slopes)
    curve = []
    for n in sizes:
        at_n = [(m, e) for (m, _), e in zip(kept, residuals, strict=True) if m.shape[1] >= n]
        if at_n:
            rows_GS = np.stack([_sums(rewards_MK, residual_MK, n) for rewards_MK, residual_MK in at_n])
            curve.append({"n": n, "n_prompts": len(at_n), **_figures(rows_GS, n_members, draws, seed)})
    if not curve:
        raise DataError(f"no prompt has {sizes[0]} candidates")
    at_most = curve[-1]["correlation"]
    return {
        "definition": DEFINITION,
        "n_members": n_members,
        "n_prompts": len(kept),
        "excluded": excluded,
        "gold_correlation": slopes.tolist(),
        "curve": curve,
        "cannot_help": at_most["value"] is not None and at_most["value"] >= SHARED,
        "sentence": sentence(curve, n_members),
    }


def sentence(curve: Sequence[dict[str, Any]], n_members: int) -> str:
    """What the last point of the curve means, in words."""
    last = curve[-1]
    value, low, high = (last["correlation"][key] for key in ("value", "low", "high"))
    if value is None:
        return "The members' errors against gold are zero or cannot be told."
    between = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    figure = f"At n = {last['n']} the members' errors against gold correlate at {value:.2f}{between}"
    removable = f"a mean of {n_members} takes away at most {last['removable']:.0%} of a member's squared error there"
    if value >= SHARED:
        return f"{figure}: they are the same error, and no aggregation of these members can help; {removable}."
    if value >= MOSTLY_SHARED:
        return f"{figure}: most of the error is shared, and an ensemble helps little; {removable}."
    return f"{figure}: {removable}."


# -- parts --------------------------------------------------------------------------------------------------


def _usable(members: Sequence[Floats], gold: Sequence[Floats]) -> tuple[list[tuple[Floats, Floats]], dict[str, int]]:
    """(rewards, gold) of the prompts that say something, and how many others there are, by reason."""
    if len(members) != len(gold):
        raise ConfigError(f"{len(members)} prompts of members' rewards and {len(gold)} of gold")
    excluded = {"fewer than two candidates": 0, "a reward or gold is missing": 0}
    kept, counts = [], set()
    for g, (rewards_MK, gold_K) in enumerate(zip(members, gold, strict=True)):
        rewards_MK, gold_K = np.asarray(rewards_MK, np.float64), np.asarray(gold_K, np.float64)
        if rewards_MK.ndim != 2 or gold_K.shape != rewards_MK.shape[1:]:
            raise ConfigError(f"prompt {g}: rewards {rewards_MK.shape} and gold {gold_K.shape} do not fit")
        counts.add(len(rewards_MK))
        if len(gold_K) < 2:
            excluded["fewer than two candidates"] += 1
        elif not (np.isfinite(rewards_MK).all() and np.isfinite(gold_K).all()):
            excluded["a reward or gold is missing"] += 1
        else:
            kept.append((rewards_MK, gold_K))
    if len(counts) > 1 or counts & {0, 1}:
        raise ConfigError(
            f"{' and '.join(map(str, sorted(counts)))} members: give two or more, the same on each prompt"
        )
    if not kept:
        raise DataError("no prompt has two candidates with rewards and gold: nothing to compare")
    return kept, {reason: n for reason, n in excluded.items() if n}


def _residuals(members: Sequence[Floats], gold: Sequence[Floats]) -> tuple[list[Floats], Floats]:
    """([M, K] residuals of each prompt, [M] slopes: each member's correlation with gold within prompts)."""
    gold_K = _standardised([g[None] for g in gold], "gold")
    rewards = _standardised(members, "member")
    pooled_MN, gold_N = np.concatenate(rewards, axis=1), np.concatenate(gold_K, axis=1)[0]
    slope_M = pooled_MN @ gold_N / len(gold_N)
    return [z_MK - slope_M[:, None] * g_1K for z_MK, g_1K in zip(rewards, gold_K, strict=True)], slope_M


def _standardised(values: Sequence[Floats], what: str) -> list[Floats]:
    """Each prompt's mean off, over the standard deviation of what is left, of each row."""
    inner = [v_MK - v_MK.mean(axis=1, keepdims=True) for v_MK in values]
    pooled_MN = np.concatenate(inner, axis=1)
    sd_M = np.sqrt((pooled_MN**2).mean(axis=1))
    scale_M = np.abs(np.concatenate(values, axis=1)).max(axis=1)
    if (flat_M := sd_M <= 1e-12 * scale_M).any():
        which = f"member {int(np.flatnonzero(flat_M)[0])} gives" if what == "member" else "gold gives"
        raise DataError(f"{which} all candidates of a prompt the same value, on every prompt: nothing to compare")
    return [v_MK / sd_M[:, None] for v_MK in inner]


def _sums(rewards_MK: Floats, residual_MK: Floats, n: int) -> Floats:
    """[M (M - 1) * 3 + 2] of one prompt: of each ordered pair (a, b), selected without b: sums of v e_a e_b, v e_a^2
    and v e_b^2; then the sum of v e_b over b, and 1."""
    inner_MK = centre(rewards_MK)
    n_members = len(inner_MK)
    sums, error = [], 0.0
    for b in range(n_members):
        v_K = answer_weights(np.delete(inner_MK, b, axis=0).mean(axis=0), [n])[0]
        product_M = residual_MK @ (v_K * residual_MK[b])
        square_M = residual_MK**2 @ v_K
        error += float(v_K @ residual_MK[b]) / n_members
        sums += [(product_M[a], square_M[a], square_M[b]) for a in range(n_members) if a != b]
    return np.array([*np.array(sums).ravel(), error, 1.0])


def _figures(rows_GS: Floats, n_members: int, draws: int, seed: int) -> dict[str, Any]:
    clusters = np.arange(len(rows_GS))
    found = clustered_bootstrap(rows_GS[:, :-2], clusters, _mean_correlation, draws=draws, seed=seed)
    error: Interval = clustered_bootstrap(rows_GS[:, -2:], clusters, draws=draws, seed=seed)
    removable = None if found.value is None else (1 - min(max(found.value, 0.0), 1.0)) * (1 - 1 / n_members)
    return {"correlation": found.to_json(), "error": error.to_json(), "removable": removable}


def _mean_correlation(sums_DS: Floats) -> Floats:
    """[D] the mean over ordered pairs of product / sqrt(square * square); pairs without an error are left out."""
    product_DP, first_DP, second_DP = (sums_DS[:, i::3] for i in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        value_DP = product_DP / np.sqrt(first_DP * second_DP)
    told_DP = np.isfinite(value_DP)
    n_D = told_DP.sum(axis=1)
    return np.where(n_D > 0, np.where(told_DP, value_DP, 0).sum(axis=1) / np.maximum(n_D, 1), np.nan)
