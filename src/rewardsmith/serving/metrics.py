"""What the server knows of itself, for Prometheus, and a live watch for a policy that learns to hack the reward.

Two numbers say early that a policy gets its reward by other means than quality: how strongly reward goes with the
length of answers, and how many answers are refusals. Both are running figures that forget with a half-life of 5,000
responses, so that they say how things are now.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rewardsmith.serving.batcher import Batch

HALF_LIFE = 5000.0  # responses
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SPREADS = (-4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
REFUSAL = re.compile(
    r"^\W*(?:(?:i['’]?m|i am)(?: very| really| so)? (?:sorry|afraid)|sorry|i apologi[sz]e|unfortunately)?"
    r"[^.!?\n]{0,60}?\b(?:i (?:can(?:['’]t|not| not)|won['’]t|will not|must decline|refuse)"
    r"|i(?: am|['’]m) (?:unable|not able|not comfortable))\b"
    r"|^\W*as an ai\b[^.!?\n]{0,80}\b(?:can(?:['’]t|not)|unable|not able)\b",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether an answer opens as refusals do. A rule of thumb for a share over many answers, not for one."""
    return REFUSAL.search(text[:300]) is not None


@dataclass
class RunningCorrelation:
    """Correlation of two columns over a stream, older values counting less."""

    sums: np.ndarray = field(default_factory=lambda: np.zeros(6))

    def add(self, x_N: np.ndarray, y_N: np.ndarray) -> None:
        keep = 0.5 ** (len(x_N) / HALF_LIFE)
        new = (len(x_N), x_N.sum(), y_N.sum(), (x_N * x_N).sum(), (y_N * y_N).sum(), (x_N * y_N).sum())
        self.sums = keep * self.sums + np.array(new, dtype=np.float64)

    @property
    def value(self) -> float:
        """NaN where one of them has not varied yet."""
        n, x, y, xx, yy, xy = self.sums
        if n < 2:
            return float("nan")
        x_spread, y_spread = xx - x * x / n, yy - y * y / n
        if x_spread <= 1e-9 * max(xx, 1e-300) or y_spread <= 1e-9 * max(yy, 1e-300):
            return float("nan")
        return float((xy - x * y / n) / np.sqrt(x_spread * y_spread))


@dataclass
class RunningShare:
    yes: float = 0.0
    n: float = 0.0

    def add(self, flags: Sequence[bool]) -> None:
        keep = 0.5 ** (len(flags) / HALF_LIFE)
        self.yes, self.n = keep * self.yes + sum(flags), keep * self.n + len(flags)

    @property
    def value(self) -> float:
        return self.yes / self.n if self.n else float("nan")


class Metrics:
    """One registry per server. `center` and `spread` place the buckets of the reward histogram."""

    def __init__(self, *, center: float = 0.0, spread: float = 2.0) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "rewardsmith_requests", "Requests by path and status", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "rewardsmith_request_seconds",
            "From the first byte to the answer",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.left = Counter(
            "rewardsmith_clients_left", "Requests whose client left before the answer", registry=registry
        )
        self.waiting = Gauge("rewardsmith_waiting_responses", "Responses accepted and not answered", registry=registry)
        self.waiting_tokens = Gauge("rewardsmith_waiting_tokens", "Tokens in the queue", registry=registry)
        self.ready = Gauge("rewardsmith_ready", "1 when the model is warm", registry=registry)
        self.queue_seconds = Histogram(
            "rewardsmith_queue_seconds", "From the queue to the model", buckets=SECONDS, registry=registry
        )
        self.batch_seconds = Histogram(
            "rewardsmith_batch_seconds", "Computing one batch", buckets=SECONDS, registry=registry
        )
        self.fill = Histogram(
            "rewardsmith_batch_fill",
            "Distinct tokens of a batch over its budget",
            buckets=(0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0),
            registry=registry,
        )
        self.tokens = Counter(
            "rewardsmith_tokens", "Tokens computed, and tokens that sharing saved", ["kind"], registry=registry
        )
        self.responses = Counter("rewardsmith_responses", "Responses scored", registry=registry)
        self.truncated = Counter(
            "rewardsmith_truncated", "Responses that lost tokens to fit, by what was cut", ["what"], registry=registry
        )
        self.reward = Histogram(
            "rewardsmith_reward", "Rewards given", buckets=[center + spread * s for s in SPREADS], registry=registry
        )
        self.refusals = Counter("rewardsmith_refusals", "Answers that open as refusals do", registry=registry)
        self.refusal_share = Gauge(
            "rewardsmith_refusal_share", "Share of recent answers that are refusals", registry=registry
        )
        self.length = Gauge(
            "rewardsmith_length_reward_correlation",
            "Correlation of reward with tokens over recent responses: within a prompt, and over all",
            ["scope"],
            registry=registry,
        )
        self.reloads = Counter("rewardsmith_reloads", "Times the model was read again", ["outcome"], registry=registry)
        self._within, self._overall, self._refusing = RunningCorrelation(), RunningCorrelation(), RunningShare()

    def batch(self, batch: Batch) -> None:
        """A batch was computed."""
        self.fill.observe(batch.fill)
        self.batch_seconds.observe(batch.seconds)
        for waited in batch.waited:
            self.queue_seconds.observe(waited)
        self.tokens.labels("computed").inc(batch.computed)
        self.tokens.labels("shared").inc(batch.shared)

    def scored(
        self, rewards_K: np.ndarray, n_tokens: Sequence[int], truncated: Sequence[str], answers: Sequence[str]
    ) -> None:
        """A group was scored. `answers` are its responses' texts where the request named them."""
        finite_K = np.isfinite(rewards_K)
        rewards_K, tokens_K = rewards_K[finite_K], np.asarray(n_tokens, dtype=np.float64)[finite_K]
        self.responses.inc(len(rewards_K))
        for what in filter(None, truncated):
            self.truncated.labels(what).inc()
        for reward in rewards_K.tolist():
            self.reward.observe(reward)
        if len(rewards_K):
            self._overall.add(tokens_K, rewards_K)
            self.length.labels("overall").set(self._overall.value)
        if len(rewards_K) > 1:
            self._within.add(tokens_K - tokens_K.mean(), rewards_K - rewards_K.mean())
            self.length.labels("within_prompt").set(self._within.value)
        if answers:
            flags = [is_refusal(answer) for answer in answers]
            self._refusing.add(flags)
            self.refusals.inc(sum(flags))
            self.refusal_share.set(self._refusing.value)

    def total(self, name: str, **labels: str) -> float:
        """A sample's value, 0 where it was never counted."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def exposition(self) -> bytes:
        return generate_latest(self.registry)
