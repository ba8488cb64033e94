"""The running figures against numpy, and what counts as a refusal."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rewardsmith.serving import metrics
from rewardsmith.serving.metrics import Metrics, RunningCorrelation, RunningShare, is_refusal


def test_running_correlation_is_the_weighted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "HALF_LIFE", 50.0)
    rng = np.random.default_rng(0)
    x, noise = rng.normal(5, 2, 400), rng.normal(size=400)
    y = 0.3 * x + noise
    running = RunningCorrelation()
    for start in range(0, 400, 4):
        running.add(x[start : start + 4], y[start : start + 4])
    weight = 0.5 ** (4 * (99 - np.arange(400) // 4) / 50.0)
    covariance = np.cov(x, y, aweights=weight)
    assert running.value == pytest.approx(covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1]), abs=1e-9)


def test_no_correlation_of_what_does_not_vary() -> None:
    running = RunningCorrelation()
    assert math.isnan(running.value)
    running.add(np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    assert math.isnan(running.value)


def test_a_share_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "HALF_LIFE", 10.0)
    share = RunningShare()
    share.add([True] * 10)
    share.add([False] * 10)
    assert share.value == pytest.approx(1 / 3)


def test_a_reward_that_follows_length_shows() -> None:
    rng = np.random.default_rng(1)
    watch = Metrics()
    for _ in range(200):
        tokens_K = rng.integers(5, 80, size=4)
        watch.scored(0.1 * tokens_K + rng.normal(0, 30), tokens_K.tolist(), ("", "prompt", "", ""), ["x"] * 4)
    within = watch.total("rewardsmith_length_reward_correlation", scope="within_prompt")
    overall = watch.total("rewardsmith_length_reward_correlation", scope="overall")
    assert within > 0.99
    assert abs(overall) < 0.3, "constants of prompts hide it there"
    assert watch.total("rewardsmith_responses_total") == 800
    assert watch.total("rewardsmith_truncated_total", what="prompt") == 200


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I am sorry, I cannot do this.", True),
        ("Sorry, I won\u2019t write that.", True),
        ("As an AI language model, I am not able to do so.", True),
        ("Unfortunately, I'm unable to help here.", True),
        ("I can help with that: kill the process.", False),
        ("Canberra is the capital of Australia.", False),
        ("You can't do that with a list; use a tuple.", False),
        ("", False),
    ],
)
def test_refusals(text: str, refuses: bool) -> None:
    assert is_refusal(text) is refuses
