"""What the laws of overoptimisation say of k rounds, and how far that came true.

A law states the gain of a policy at distance d = sqrt(KL) from the one that the reward model was trained on:

    bon   g(d) = d (alpha - beta d)         rl   g(d) = d (alpha - beta log d)

A fixed model carries the policy all the way: g(d). A model that is refreshed k times is trained anew on the policy
that it goes on from, so that each of k equal steps of d / k begins at the start of its own law. If distances add up
and alpha and beta stay the same, the gain is

    k g(d / k):    bon   d (alpha - beta d / k)       rl   d (alpha - beta log d + beta log k)

The `rl` line is Gao et al.'s for iterated RLHF (2210.10760); `bon` follows in the same way. alpha belongs
to the error that no refresh removes, beta to the one that comes with distance: refreshing divides beta by k.

At an equal budget of labels the two sides have different models: alpha and beta of `fixed` are those of the model with
all labels, alpha and beta of a refreshed strategy those of its first round's model, with its share of them. That later
rounds have older labels to add is not in the law, nor that a policy is tilted from the base and not from the one
before.

Both laws are fitted to the dev prompts and held against the gain on the test prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.overoptimization.laws import FORMS, fit_draws, fit_laws, gain_of
from rewardsmith.refresh.prompts import policy_at
from rewardsmith.statistics import DRAWS, Floats

if TYPE_CHECKING:
    from rewardsmith.refresh.simulate import CrossedDraws, Plan, Run, Sides

POINTS = 8  # strengths that a law is fitted to, from an eighth of the whole distance


def gain_of_rounds(form: str, d: float, rounds: int, alpha: Floats, beta: Floats) -> Floats:
    """k g(d / k): the gain of `rounds` equal steps that together go the distance d."""
    return rounds * gain_of(form, d / rounds, alpha, beta)


def predict(
    sides: Sides,
    plan: Plan,
    runs: Mapping[str, Sequence[Run]],
    crossed: CrossedDraws,
    base_P: Floats,
    *,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """{"laws": `fit_laws` of every strategy's first model on the dev prompts, "predictions": one row for each form,
    strategy and round}.

    A prediction has the law's gain with its interval over dev prompts, the measured gain on the test prompts, and the
    difference of the predicted gain to that of `fixed`.
    """
    laws, predictions = [], []
    paths = {name: dev_path(sides, plan, [run.theta_RF[0] for run in of]) for name, of in runs.items()}
    base_dev_P = sides.dev.gold_of(sides.dev.base_R)
    for name, (kl_PS, gold_PS) in paths.items():
        laws += [{"of": name, **law} for law in fit_laws(kl_PS, gold_PS, base_dev_P, draws=draws)]
    for form in FORMS:
        fits = {name: fit_draws(form, *path, base_dev_P, draws=draws) for name, path in paths.items()}
        for r, kl in enumerate(plan.kl_R):
            d = float(np.sqrt(kl))
            fixed_D = gain_of(form, d, *fits["fixed"])
            for name, of in runs.items():
                gain_D = fixed_D if name == "fixed" else gain_of_rounds(form, d, r + 1, *fits[name])
                measured = crossed.mean(np.stack([run.gold_RP[r] for run in of]) - base_P)
                predictions.append({
                    "form": form,
                    "strategy": name,
                    "round": r + 1,
                    "kl": float(kl),
                    "predicted": spread(gain_D),
                    "measured": measured.to_json(),
                    "predicted_over_fixed": spread(gain_D - fixed_D),
                })  # fmt: skip
    return {"laws": laws, "predictions": predictions}


def dev_path(sides: Sides, plan: Plan, thetas: Sequence[Floats]) -> tuple[Floats, Floats]:
    """[P, S] KL and gold on the dev prompts of policies at rising KL, means over the seeds' models."""
    dev = sides.dev
    targets = plan.kl * (np.arange(1, POINTS + 1) / POINTS) ** 2
    kl_PS, gold_PS = np.zeros((len(dev.name_P), POINTS)), np.zeros((len(dev.name_P), POINTS))
    for theta_F in thetas:
        reward_R = dev.features_RF @ theta_F
        for s, kl in enumerate(targets):
            policy_R = policy_at(dev, reward_R, float(kl))
            kl_PS[:, s] += dev.kl_of(policy_R) / len(thetas)
            gold_PS[:, s] += dev.gold_of(policy_R) / len(thetas)
    return kl_PS, gold_PS


def spread(value_D: Floats) -> dict[str, float | None]:
    """The sample's value, the first of the draws, with the 95% interval of the others."""
    known_D = value_D[1:][np.isfinite(value_D[1:])]
    value = float(value_D[0]) if np.isfinite(value_D[0]) else None
    if value is None or not len(known_D):
        return {"value": value, "low": None, "high": None}
    low, high = np.quantile(known_D, [0.025, 0.975])
    return {"value": value, "low": float(low), "high": float(high)}
