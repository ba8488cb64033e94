"""What refreshing a reward model would buy: the whole loop on recorded answers with gold, at a stated label budget.

A round draws pairs from the policy of the round before (in the first, from the base policy), has gold label them, fits
a linear Bradley-Terry model on features of the answers, and makes the policy p0 exp(r / beta) over the recorded
answers whose KL to the base policy is what was stated for that round. All of it is exact but the draw of the pairs.

    fixed        every label is spent on the base policy's pairs before the first round; the model never changes
    last_only    each round fits the labels of that round alone
    all_data     each round fits all labels so far
    importance   the same, each pair weighted by its chance under the policy that was labelled last over its mean chance
                 under the policies that it may have been drawn from (the balance heuristic, Veach and Guibas 1995)
    replay       the newest labels, with a stated share of the weight on all older ones together

Prompts are split in three that share no opening turn. Pairs are drawn from the first; the ridge penalty of each
strategy is the one that reaches the most gold on the second; every figure is read on the third.

    S  seeds      P  prompts      R  rounds
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewardsmith.data.split import side_of
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.overoptimization.candidates import Pool
from rewardsmith.refresh.bradley_terry import fit_bradley_terry
from rewardsmith.refresh.prompts import Prompts, agreement, draw_pairs, lay_out, pair_chances, policy_at
from rewardsmith.statistics import Floats, Interval, Ints

STRATEGIES = ("fixed", "last_only", "all_data", "importance", "replay")
SHARES = {"label": 0.4, "dev": 0.2, "test": 0.4}
FEWEST = 5  # prompts of a side
DRAWS = 1000
NOISE_SEED = 7919  # keeps the draw of wrong labels apart from those of the rounds


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The loop's settings. `kl` is the policy's mean KL to the base policy after the last round; sqrt(KL) grows by
    equal steps, so that a round moves the policy as far as any other."""

    budget: int
    rounds: int = 4
    seeds: int = 5
    kl: float = 1.0
    against_base: float = 0.5
    replay_share: float = 0.25
    weight_cap: float = 10.0
    label_noise: float = 0.0
    from_previous: bool = False
    penalties: tuple[float, ...] = (10.0, 100.0, 1000.0, 10000.0)

    @property
    def kl_R(self) -> Floats:
        return self.kl * (np.arange(1, self.rounds + 1) / self.rounds) ** 2

    @property
    def labels_R(self) -> list[int]:
        """Labels of each round; what does not divide evenly goes to the first ones."""
        each, more = divmod(self.budget, self.rounds)
        return [each + (r < more) for r in range(self.rounds)]


@dataclass(frozen=True)
class Sides:
    label: Prompts
    dev: Prompts
    test: Prompts


@dataclass(frozen=True)
class Run:
    """One strategy with one seed. Gold of the policy of each round on the dev and the test prompts, and of each round's
    model on the test prompts its agreement with gold on pairs of the base and of its own policy, as sums [P, 2]."""

    theta_RF: Floats
    dev_RP: Floats
    gold_RP: Floats
    kl_RP: Floats
    on_base_RP2: Floats
    on_own_RP2: Floats
    labels_R: list[int]
    effective_R: list[float]


def split_pools(pools: Sequence[Pool], features: Sequence[Floats], seed: int = 0) -> Sides:
    """The three sides, features scaled by their spread within prompts. DataError where one has too few prompts."""
    scaled = within_scale(features)
    place = [side_of(pool.group, SHARES, seed) for pool in pools]
    index = {name: [p for p, of in enumerate(place) if of == name] for name in SHARES}
    if small := [f"{len(of)} {name}" for name, of in index.items() if len(of) < FEWEST]:
        raise DataError(
            f"{len(pools)} prompts leave {', '.join(small)} prompts; at least {FEWEST} each are needed: give more"
        )
    return Sides(*(lay_out([pools[p] for p in index[name]], [scaled[p] for p in index[name]]) for name in SHARES))


def within_scale(features: Sequence[Floats]) -> list[Floats]:
    """Features about their prompt's mean, over their root mean square: all that differences of answers can see."""
    inner = [features_KF - features_KF.mean(axis=0) for features_KF in features]
    spread_F = np.sqrt((np.concatenate(inner) ** 2).mean(axis=0))
    return [features_KF / np.where(spread_F > 1e-12, spread_F, np.inf) for features_KF in inner]


def check_plan(plan: Plan, sides: Sides) -> None:
    """ConfigError for a plan that these prompts cannot hold."""
    available = len(sides.label.pairs.label_U)
    if plan.budget > available:
        raise ConfigError(
            f"--budget {plan.budget}: the {len(sides.label.name_P)} prompts to label have {available} pairs; give less"
        )
    if plan.budget < plan.rounds:
        raise ConfigError(f"--budget {plan.budget}: less than a label for each of {plan.rounds} rounds")
    for name, side in (("label", sides.label), ("dev", sides.dev), ("test", sides.test)):
        with np.errstate(divide="ignore"):
            most = float(np.maximum.reduceat(-np.log(side.base_R), side.first_P).mean())
        if plan.kl >= most:
            raise ConfigError(f"--kl {plan.kl:g}: no policy over the {name} prompts' answers has a KL above {most:.2f}")
    decided = (sides.label.pairs.label_U != 0.5).mean() if available else 0.0
    if not decided:
        raise DataError("gold is the same for all answers of every prompt to label: there is nothing to learn")


# -- the loop -------------------------------------------------------------------------------------------------------


def run_strategy(strategy: str, sides: Sides, plan: Plan, penalty: float, seed: int) -> Run:
    """The whole loop once. Seeds draw pairs and wrong labels; strategies of one seed share their noise."""
    label, pairs = sides.label, sides.label.pairs
    label_U = noisy_labels(pairs.label_U, plan.label_noise, seed)
    taken_U = np.zeros(len(label_U))
    base_U = pair_chances(label, label.base_R, plan.against_base)
    chances, drawn = [], []
    policies = {name: getattr(sides, name).base_R for name in SHARES}

    def draw(chance_U: Floats, r: int) -> None:
        rng = np.random.default_rng([seed, r])
        found = draw_pairs(label, chance_U, taken_U, plan.labels_R[r], rng)
        taken_U[found] = 1
        drawn.append(found)
        chances.append(chance_U)

    if strategy == "fixed":
        for r in range(plan.rounds):
            draw(base_U, r)
    out: dict[str, list[Any]] = {name: [] for name in ("theta", "dev", "gold", "kl", "base", "own", "labels", "ess")}
    theta_F = np.zeros(label.features_RF.shape[1])
    for r, kl in enumerate(plan.kl_R):
        if strategy != "fixed":
            draw(pair_chances(label, policies["label"], plan.against_base), r)
        if strategy != "fixed" or r == 0:
            chosen, weight_N = training_set(strategy, drawn, chances, plan)
            difference_NF = label.features_RF[pairs.first_U[chosen]] - label.features_RF[pairs.second_U[chosen]]
            theta_F = fit_bradley_terry(difference_NF, label_U[chosen], penalty, weight_N)
        rewards = {name: getattr(sides, name).features_RF @ theta_F for name in SHARES}
        for name in SHARES:
            start_R = policies[name] if plan.from_previous else None
            policies[name] = policy_at(getattr(sides, name), rewards[name], float(kl), start_R)
        own_U = pair_chances(sides.test, policies["test"], 0.0)
        even_U = pair_chances(sides.test, sides.test.base_R, 0.0)
        for key, value in (
            ("theta", theta_F),
            ("dev", sides.dev.gold_of(policies["dev"])),
            ("gold", sides.test.gold_of(policies["test"])),
            ("kl", sides.test.kl_of(policies["test"])),
            ("base", agreement(sides.test, rewards["test"], even_U)),
            ("own", agreement(sides.test, rewards["test"], own_U)),
            ("labels", sum(map(len, drawn))),
            ("ess", float(weight_N.sum() ** 2 / (weight_N**2).sum())),
        ):
            out[key].append(value)
    theta, dev, gold, kl_RP, on_base, on_own = (
        np.array(out[key]) for key in ("theta", "dev", "gold", "kl", "base", "own")
    )
    return Run(theta, dev, gold, kl_RP, on_base, on_own, out["labels"], out["ess"])


def noisy_labels(label_U: Floats, share: float, seed: int) -> Floats:
    """Labels with a share of them turned round, the same ones for every strategy of a seed."""
    turned_U = np.random.default_rng([seed, NOISE_SEED]).random(len(label_U)) < share
    return np.where(turned_U, 1 - label_U, label_U)


def training_set(strategy: str, drawn: Sequence[Ints], chances: Sequence[Floats], plan: Plan) -> tuple[Ints, Floats]:
    """(pairs, their weights) that a round fits; the weights' mean is 1."""
    if strategy == "last_only":
        return drawn[-1], np.ones(len(drawn[-1]))
    chosen = np.concatenate(drawn)
    weight_N = np.ones(len(chosen))
    if strategy == "importance" and len(drawn) > 1:
        share = np.array([len(of) for of in drawn]) / len(chosen)
        mixed_N = sum(part * chance_U[chosen] for part, chance_U in zip(share, chances, strict=True))
        weight_N = chances[-1][chosen] / mixed_N
        weight_N = np.minimum(weight_N, plan.weight_cap * weight_N.mean())
    if strategy == "replay" and len(drawn) > 1:
        new = len(drawn[-1])
        old = len(chosen) - new
        if new and old:
            weight_N[:old] = plan.replay_share / old
            weight_N[old:] = (1 - plan.replay_share) / new
    return chosen, weight_N / weight_N.mean()


def best_penalty(
    strategy: str, sides: Sides, plan: Plan, progress: Callable[[], None] | None = None
) -> tuple[float, list[Run], dict[float, float]]:
    """(penalty, the runs of all seeds under it, mean gold on the dev prompts after the last round by penalty)."""
    found: dict[float, list[Run]] = {}
    for penalty in plan.penalties:
        found[penalty] = []
        for seed in range(plan.seeds):
            found[penalty].append(run_strategy(strategy, sides, plan, penalty, seed))
            if progress is not None:
                progress()
    on_dev = {penalty: float(np.mean([run.dev_RP[-1].mean() for run in runs])) for penalty, runs in found.items()}
    best = max(on_dev, key=lambda penalty: (on_dev[penalty], penalty))
    return best, found[best], on_dev


# -- intervals ------------------------------------------------------------------------------------------------------


class CrossedDraws:
    """Bootstrap draws of prompts and, crossed with them, of seeds: both are samples, and each prompt meets each seed.

    The variance of such a draw is at least that of the mean of a two-way table (Owen 2007, the pigeonhole bootstrap).
    With a handful of seeds their share is drawn too narrow by (S - 1) / S, which is made up for here by widening each
    draw of seeds about the mean by sqrt(S / (S - 1)).
    """

    def __init__(self, names: Sequence[str], n_seeds: int, draws: int = DRAWS, seed: int = 0) -> None:
        kinds, prompt_P = np.unique(list(names), return_inverse=True)
        rng = np.random.default_rng(seed)
        times_DP = rng.multinomial(len(kinds), np.full(len(kinds), 1 / len(kinds)), size=draws)[:, prompt_P]
        self.share_DP = times_DP / times_DP.sum(axis=1, keepdims=True)
        even_S = np.full(n_seeds, 1 / n_seeds)
        drawn_DS = rng.multinomial(n_seeds, even_S, size=draws) / n_seeds
        self.share_DS = even_S + (drawn_DS - even_S) * np.sqrt(n_seeds / max(n_seeds - 1, 1))
        self.told = len(kinds) > 1 and draws > 0

    def mean(self, value_SP: Floats) -> Interval:
        """The mean over seeds and prompts."""
        value = float(value_SP.mean())
        return self._interval(value, np.einsum("ds,sp,dp->d", self.share_DS, value_SP, self.share_DP, optimize=True))

    def ratio(self, sums_SP2: Floats) -> Interval:
        """The sum of the first column over that of the second; None where that is zero."""
        total = sums_SP2.sum(axis=(0, 1))
        if not total[1]:
            return Interval(None)
        drawn_D2 = np.einsum("ds,spx,dp->dx", self.share_DS, sums_SP2, self.share_DP, optimize=True)
        return self._interval(float(total[0] / total[1]), drawn_D2[:, 0] / drawn_D2[:, 1])

    def _interval(self, value: float, drawn_D: Floats) -> Interval:
        if not self.told:
            return Interval(value)
        low, high = np.quantile(drawn_D, [0.025, 0.975])
        return Interval(value, float(low), float(high))


def simulate(
    pools: Sequence[Pool],
    features: Sequence[Floats],
    plan: Plan,
    *,
    strategies: Sequence[str] = STRATEGIES,
    draws: int = DRAWS,
    progress: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """The whole study, ready for JSON. `features` holds [K, F] of each pool.

    prompts      how many of each side;   pairs, decided: of the prompts to label, and the share that gold decides
    base         gold without optimisation;   references: gold by the gold itself and by length, at each round's KL
    strategies   [{"strategy", "penalty", "dev_gold", "rounds": [{"round", "labels", "effective_labels", "kl", "gold",
                 "gain", "over_fixed", "accuracy_base", "accuracy_own"}]}]; all but the counts are intervals over
                 prompts and seeds, `over_fixed` paired, the accuracies of pairs that gold decides, as the base and as
                 the round's own policy gives them
    laws, predictions   see `rounds_law.predict`
    best, text   the strategy with the most gold on the dev prompts, and what it shows on the test prompts
    """
    from rewardsmith.refresh.rounds_law import predict

    sides = split_pools(pools, features)
    check_plan(plan, sides)
    names = ["fixed", *(name for name in strategies if name != "fixed")]
    done = {name: best_penalty(name, sides, plan, progress) for name in names}
    crossed = CrossedDraws(sides.test.name_P, plan.seeds, draws)
    fixed_SRP = np.stack([run.gold_RP for run in done["fixed"][1]])
    base_P = sides.test.gold_of(sides.test.base_R)
    rows = [strategy_row(name, *done[name], plan, crossed, base_P, fixed_SRP) for name in names]
    result = {
        "prompts": {name: len(getattr(sides, name).name_P) for name in SHARES},
        "candidates": sum(len(getattr(sides, name).gold_R) for name in SHARES),
        "n_features": sides.label.features_RF.shape[1],
        "pairs": len(sides.label.pairs.label_U),
        "decided": float((sides.label.pairs.label_U != 0.5).mean()),
        **{key: getattr(plan, key) for key in (
            "budget", "rounds", "seeds", "kl", "against_base", "replay_share", "weight_cap", "label_noise",
            "from_previous",
        )},
        "base": crossed.mean(base_P[None].repeat(plan.seeds, 0)).to_json(),
        "references": references(sides.test, plan, crossed, base_P),
        "strategies": rows,
        **predict(sides, plan, {name: of[1] for name, of in done.items()}, crossed, base_P, draws=draws),
    }  # fmt: skip
    others = [row for row in rows if row["strategy"] != "fixed"]
    best = max(others, key=lambda row: row["dev_gold"][str(row["penalty"])]) if others else None
    return result | {"best": best["strategy"] if best else None, "text": words(result, best)}


def strategy_row(
    name: str,
    penalty: float,
    runs: Sequence[Run],
    on_dev: dict[float, float],
    plan: Plan,
    crossed: CrossedDraws,
    base_P: Floats,
    fixed_SRP: Floats,
) -> dict[str, Any]:
    """One strategy's rounds."""
    rounds = []
    for r in range(plan.rounds):
        gold_SP = np.stack([run.gold_RP[r] for run in runs])
        rounds.append({
            "round": r + 1,
            "labels": round(float(np.mean([run.labels_R[r] for run in runs]))),
            "effective_labels": float(np.mean([run.effective_R[r] for run in runs])),
            "kl": float(np.mean([run.kl_RP[r] for run in runs])),
            "gold": crossed.mean(gold_SP).to_json(),
            "gain": crossed.mean(gold_SP - base_P).to_json(),
            "over_fixed": crossed.mean(gold_SP - fixed_SRP[:, r]).to_json(),
            "accuracy_base": crossed.ratio(np.stack([run.on_base_RP2[r] for run in runs])).to_json(),
            "accuracy_own": crossed.ratio(np.stack([run.on_own_RP2[r] for run in runs])).to_json(),
        })  # fmt: skip
    dev = {str(penalty): gold for penalty, gold in on_dev.items()}
    return {"strategy": name, "penalty": penalty, "dev_gold": dev, "rounds": rounds}


def references(test: Prompts, plan: Plan, crossed: CrossedDraws, base_P: Floats) -> list[dict[str, Any]]:
    """Gold that the gold itself and length reach at each round's KL; None where one cannot go that far."""
    rows = []
    for name, reward_R in (("oracle", test.gold_R), ("length", np.log1p(test.length_R))):
        for r, kl in enumerate(plan.kl_R):
            try:
                gold_P = test.gold_of(policy_at(test, reward_R, float(kl)))
            except (ConfigError, DataError):
                gold_P = None  # the gold of few levels leaves many best answers
            gold = Interval(None) if gold_P is None else crossed.mean(gold_P[None].repeat(plan.seeds, 0))
            rows.append({"reference": name, "round": r + 1, "kl": float(kl), "gold": gold.to_json()})
    return rows


def words(result: dict[str, Any], best: dict[str, Any] | None) -> str:
    """What the last round shows, in a sentence or two."""
    fixed = result["strategies"][0]["rounds"][-1]
    if best is None:
        return f"The fixed model reaches gold {fixed['gold']['value']:.3f} at KL {fixed['kl']:.2f}."
    last = best["rounds"][-1]
    over = last["over_fixed"]
    between = "" if over["low"] is None else f" [{over['low']:+.3f}, {over['high']:+.3f}]"
    if over["low"] is None:
        verdict = "without an interval nothing is shown"
    elif over["low"] > 0:
        verdict = "refreshing helps here"
    elif over["high"] < 0:
        verdict = "refreshing does harm here: spend the labels at once"
    else:
        verdict = "no difference is shown"
    return (
        f"With {result['budget']:,} labels and a policy at KL {last['kl']:.2f}, {best['strategy'].replace('_', ' ')} "
        f"(the best refreshed strategy on the dev prompts) reaches gold {last['gold']['value']:.3f} and the fixed "
        f"model {fixed['gold']['value']:.3f}: {over['value']:+.3f}{between}; {verdict}."
    )
