"""KL estimators: against the closed form of small distributions, and against log-probabilities computed plainly."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from rewardsmith.overoptimization.policy_kl import divergence, exact_kl, float32_head, k1_k3
from tests.overoptimization.conftest import tiny_policy

PROMPT = [5, 9, 1]


def test_estimators_average_to_the_closed_form_of_a_categorical() -> None:
    rng = np.random.default_rng(0)
    p, q = (torch.tensor(rng.dirichlet(np.ones(6))) for _ in range(2))
    closed = float((p * (p / q).log()).sum())
    k1_V, k3_V = k1_k3(p.log()[:, None], q.log()[:, None])  # every outcome once
    assert float((p * k1_V).sum()) == pytest.approx(closed)
    assert float((p * k3_V).sum()) == pytest.approx(closed)
    assert float(exact_kl(p.log(), q.log())) == pytest.approx(closed)
    assert float(k1_V.min()) < 0 <= float(k3_V.min()), "only k1 may be negative"


def test_k3_spreads_less_than_k1_near_by_and_more_far_off() -> None:
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)

    def second_moments(q: torch.Tensor) -> tuple[float, float]:
        k1_V, k3_V = k1_k3(p.log()[:, None], q.log()[:, None])
        return float((p * k1_V**2).sum()), float((p * k3_V**2).sum())

    k1, k3 = second_moments(torch.tensor([0.48, 0.31, 0.21], dtype=torch.float64))
    assert k3 < 0.1 * k1
    far = torch.tensor([0.998, 0.001, 0.001], dtype=torch.float64)
    p = torch.tensor([0.001, 0.001, 0.998], dtype=torch.float64)
    k1, k3 = second_moments(far)
    assert k3 > k1


def test_k3_keeps_small_ratios() -> None:
    # exp(-x) - 1 + x is x^2 / 2 for small x; without expm1 it would be rounding.
    _, k3 = k1_k3(torch.tensor([[1e-6]], dtype=torch.float64), torch.tensor([[0.0]], dtype=torch.float64))
    assert float(k3) == pytest.approx(5e-13, rel=1e-3)


def test_exact_kl_of_an_impossible_token() -> None:
    log_pi = torch.tensor([0.0, -torch.inf])
    assert float(exact_kl(log_pi, torch.tensor([0.5, 0.5]).log())) == pytest.approx(np.log(2))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sequences_average_to_the_kl_of_the_joint_distribution(temperature: float) -> None:
    # All completions of three tokens over seven: the KL of the joint distribution needs no estimator.
    policy, reference = (tiny_policy(seed=seed, vocab_size=7, hidden_size=16) for seed in (0, 1))
    prompt = [3, 4]
    completions = [list(c) for c in product(range(7), repeat=3)]
    found = divergence(policy, reference, [prompt] * len(completions), completions, temperature=temperature)
    p = np.exp(found.logprob)
    assert p.sum() == pytest.approx(1, abs=1e-5)
    assert np.exp(found.reference_logprob).sum() == pytest.approx(1, abs=1e-5)
    closed = float(p @ (found.logprob - found.reference_logprob))
    assert closed > 0.01
    for estimate in (found.k1, found.k3, found.kl):
        assert float(p @ estimate) == pytest.approx(closed, rel=1e-4)
    assert float(p @ (found.kl - closed) ** 2) < float(p @ (found.k1 - closed) ** 2), "the exact one spreads least"


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2"])
def test_rows_do_not_depend_on_their_batch(family: str) -> None:
    policy, reference = tiny_policy(family), tiny_policy(family, seed=1)
    prompts = [PROMPT, [7], PROMPT * 3, [8, 8]]
    completions = [[4, 5, 6], [9] * 7, [1], []]
    together = divergence(policy, reference, prompts, completions)
    for i in range(len(prompts)):
        alone = divergence(policy, reference, [prompts[i]], [completions[i]])
        for name in ("logprob", "reference_logprob", "k1", "k3", "kl"):
            assert getattr(together, name)[i] == pytest.approx(getattr(alone, name)[0], abs=1e-4)
    assert together.kl[3] == together.logprob[3] == 0, "nothing was written, nothing differs"


def test_logprob_is_that_of_the_model() -> None:
    policy = tiny_policy()
    completion = [4, 5, 6]
    with torch.no_grad():
        log_TV = policy(torch.tensor([PROMPT + completion])).logits[0].log_softmax(-1)
    plain = sum(float(log_TV[len(PROMPT) - 1 + t, token]) for t, token in enumerate(completion))
    found = divergence(policy, None, [PROMPT], [completion])
    assert found.logprob[0] == pytest.approx(plain, abs=1e-5)
    assert found.kl[0] == found.k1[0] == 0


def test_a_policy_does_not_differ_from_itself_in_bfloat16() -> None:
    policy = tiny_policy()
    found = divergence(policy, tiny_policy(), [PROMPT], [[4, 5, 6]], bfloat16=True)
    assert found.k1[0] == found.k3[0] == 0
    exact = divergence(policy, None, [PROMPT], [[4, 5, 6]])
    assert found.logprob[0] == pytest.approx(exact.logprob[0], abs=0.1)


def test_float32_head_is_put_back() -> None:
    policy = tiny_policy()
    head = policy.get_output_embeddings()
    hidden = torch.randn(2, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(hidden).dtype is torch.bfloat16
        with float32_head(policy):
            assert head(hidden).dtype is torch.float32
        assert head(hidden).dtype is torch.bfloat16
