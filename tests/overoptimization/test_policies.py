"""Every policy by a second route: enumeration, drawing, a numerical optimiser, a closed form."""

from __future__ import annotations

from itertools import combinations, product
from math import comb, log

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import poisson

from rewardsmith.best_of_n import rank_weights
from rewardsmith.errors import ConfigError
from rewardsmith.overoptimization import policies

REWARDS = np.array([0.3, -1.2, 0.3, 2.0, 0.9])  # two are equal
BASE = np.array([0.1, 0.3, 0.25, 0.05, 0.3])
EVEN = np.full(5, 0.2)


def picked(rewards, answers):
    """Probability of each answer to be kept of those drawn: the highest, ties at random."""
    best = [i for i in answers if rewards[i] == max(rewards[j] for j in answers)]
    kept = np.zeros(len(rewards))
    for i in best:
        kept[i] += 1 / len(best)
    return kept


def enumerated(base, n, keep):
    """[K] what is kept of n independent draws, over all K^n of them."""
    total = np.zeros(len(base))
    for answers in product(range(len(base)), repeat=n):
        total += np.prod(base[list(answers)]) * keep(answers)
    return total


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_is_the_mean_over_all_subsets(n):
    subsets = list(combinations(range(5), n))
    expected = sum(picked(REWARDS, subset) for subset in subsets) / len(subsets)
    assert policies.best_of_n(REWARDS, EVEN, [n])[0] == pytest.approx(expected, abs=1e-14)


def test_best_of_n_needs_equal_base_probabilities():
    with pytest.raises(ConfigError, match="best_of_n_iid"):
        policies.best_of_n(REWARDS, BASE, [2])


@pytest.mark.parametrize("n", [1, 2, 4])
def test_best_of_n_iid_is_the_mean_over_all_draws(n):
    expected = enumerated(BASE, n, lambda answers: picked(REWARDS, answers))
    assert policies.best_of_n_iid(REWARDS, BASE, [n])[0] == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("temperature", [0.05, 0.7, 10.0])
def test_soft_best_of_n_is_the_mean_over_all_draws(n, temperature):
    weight = np.exp((REWARDS - REWARDS.max()) / temperature)

    def keep(answers):
        kept = np.zeros(5)
        for i in answers:
            kept[i] += weight[i] / weight[list(answers)].sum()
        return kept

    expected = enumerated(BASE, n, keep)
    assert policies.soft_best_of_n(REWARDS, BASE, [n], temperature)[0] == pytest.approx(expected, abs=1e-9)


def test_soft_best_of_n_between_its_limits():
    """Cold it is best of n; with many draws it is the tilted policy."""
    cold = policies.soft_best_of_n(REWARDS, BASE, [3], 0.01)[0]
    assert cold == pytest.approx(policies.best_of_n_iid(REWARDS, BASE, [3])[0], abs=1e-8)
    many = policies.soft_best_of_n(REWARDS, BASE, [1, 100_000], 0.8)
    assert many[1] == pytest.approx(policies.tilt(REWARDS, BASE, [0.8])[0], abs=1e-4)


@pytest.mark.parametrize("mean", [0.0, 0.5, 3.0])
def test_best_of_poisson_is_a_mixture_of_best_of_n(mean):
    sizes = np.arange(1, 80)
    mixture = poisson.pmf(sizes - 1, mean) @ policies.best_of_n_iid(REWARDS, BASE, sizes)
    assert policies.best_of_poisson(REWARDS, BASE, [mean])[0] == pytest.approx(mixture, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_rejection_is_what_drawing_until_accepted_gives(n):
    beta = 0.9
    accepted = np.exp((REWARDS - REWARDS.max()) / beta)

    def keep(answers):
        kept, still = np.zeros(5), 1.0
        for i in answers:
            kept[i] += still * accepted[i]
            still *= 1 - accepted[i]
        return kept + still * BASE

    assert policies.rejection(REWARDS, BASE, [n], beta)[0] == pytest.approx(enumerated(BASE, n, keep), abs=1e-14)
    endless = policies.rejection(REWARDS, BASE, [1e6], beta)[0]
    assert endless == pytest.approx(policies.tilt(REWARDS, BASE, [beta])[0], abs=1e-12)


def test_threshold_keeps_the_best_share():
    """The best answer has 0.05, the next 0.3, and the two equal ones share what is left of the half."""
    kept = policies.threshold(REWARDS, BASE, [0.5])[0]
    tied = 0.15 / 0.5
    assert kept == pytest.approx([tied * 0.1 / 0.35, 0, tied * 0.25 / 0.35, 0.1, 0.6], abs=1e-14)
    distinct = policies.threshold(np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, 0.25), [0.5])
    assert policies.kl_from_base(distinct, np.full(4, 0.25))[0] == pytest.approx(log(2))


def optimised(objective):
    """The distribution over five answers that maximises `objective`, by a general optimiser."""
    best = minimize(
        lambda p: -objective(p),
        BASE,
        method="SLSQP",
        bounds=[(1e-12, 1)] * 5,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert best.success
    return best.x


@pytest.mark.parametrize("beta", [0.4, 2.0])
def test_tilt_is_the_optimum_under_a_kl_penalty(beta):
    expected = optimised(lambda p: p @ REWARDS - beta * (p * np.log(p / BASE)).sum())
    assert policies.tilt(REWARDS, BASE, [beta])[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_chi_squared_is_the_optimum_under_its_penalty(beta):
    expected = optimised(lambda p: p @ REWARDS - beta / 2 * (BASE * (p / BASE - 1) ** 2).sum())
    assert policies.chi_squared(REWARDS, BASE, [beta])[0] == pytest.approx(expected, abs=1e-5)


def test_kl_of_best_of_n_is_the_closed_form_where_no_answer_has_a_mass_of_its_own():
    """A pool of many distinct answers is nearly continuous; the bound is reached from below."""
    k = 20_000
    rewards, base = np.arange(k, dtype=float), np.full(k, 1 / k)
    for n in (2, 8, 64):
        exact = policies.kl_from_base(policies.best_of_n_iid(rewards, base, [n]), base)[0]
        assert exact < policies.best_of_n_kl_bound(n)
        assert exact == pytest.approx(policies.best_of_n_kl_bound(n), rel=2e-2)
    assert policies.best_of_n_kl_bound(1) == 0


def test_kl_without_replacement_is_its_own():
    """Best of K keeps the highest for certain: log K, which K independent draws do not reach."""
    rewards = np.arange(16.0)
    base = np.full(16, 1 / 16)
    assert policies.kl_from_base(policies.best_of_n(rewards, base, [16]), base)[0] == pytest.approx(log(16))
    assert policies.kl_from_base(policies.best_of_n_iid(rewards, base, [16]), base)[0] < 2


def test_weights_sum_to_one_for_a_pool_of_12600():
    k = 12_600
    for n in (1, 2, 100, 6_300, k):
        assert rank_weights(k, n).sum() == pytest.approx(1, abs=1e-10)
    assert rank_weights(k, 2)[-1] == pytest.approx(comb(k - 1, 1) / comb(k, 2))
    rng = np.random.default_rng(0)
    rewards, base = rng.standard_normal(k).round(3), rng.dirichlet(np.ones(k))
    found = [
        policies.best_of_n_iid(rewards, base, [1, 50, k]),
        policies.best_of_poisson(rewards, base, [0, 50, k]),
        policies.threshold(rewards, base, [1, 0.1, 1e-3]),
        policies.soft_best_of_n(rewards, base, [1, 50, k], 0.5),
        policies.rejection(rewards, base, [1, 50, k], 0.5),
        policies.tilt(rewards, base, [10, 0.1, 1e-3]),
        policies.chi_squared(rewards, base, [10, 0.1, 1e-3]),
    ]
    for weights in found:
        assert weights.sum(axis=1) == pytest.approx(np.ones(3), abs=1e-10)
        assert (weights >= 0).all()


@pytest.mark.parametrize("shift", [-1e6, 3.7])
def test_a_constant_on_the_rewards_changes_nothing(shift):
    """Bradley-Terry leaves it free, prompt by prompt."""
    for policy, strengths in (
        (policies.tilt, [0.5]),
        (policies.chi_squared, [0.5]),
        (policies.best_of_n_iid, [4]),
        (lambda r, p, s: policies.soft_best_of_n(r, p, s, 0.5), [4]),
        (lambda r, p, s: policies.rejection(r, p, s, 0.5), [4]),
    ):
        moved = policy(REWARDS + shift, BASE, strengths)
        assert moved == pytest.approx(policy(REWARDS, BASE, strengths), abs=1e-8)


def test_win_weights_count_pairs():
    gold = np.array([1.0, 0.0, 1.0, 0.5, 0.0])
    expected = [sum(b * (g > h) + 0.5 * b * (g == h) for h, b in zip(gold, BASE, strict=True)) for g in gold]
    assert policies.win_weights(gold, BASE) == pytest.approx(expected)


def test_answers_that_the_base_policy_never_gives_stay_at_zero():
    base = np.array([0.5, 0.5, 0.0, 0.0, 0.0])
    for weights in (
        policies.tilt(REWARDS, base, [0.3]),
        policies.chi_squared(REWARDS, base, [0.3]),
        policies.best_of_n_iid(REWARDS, base, [8]),
        policies.soft_best_of_n(REWARDS, base, [8], 0.3),
        policies.rejection(REWARDS, base, [8], 0.3),
    ):
        assert weights[0, 2:] == pytest.approx(np.zeros(3), abs=1e-15)
        assert np.isfinite(weights).all()
        assert weights.sum() == pytest.approx(1)
