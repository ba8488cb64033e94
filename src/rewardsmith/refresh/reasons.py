"""The reasons for which a pair may be worth a label, and the pairs that have them, the best first.

    new-new    two answers of the new policy; first where the model's call is closest, 4 P (1 - P)
    new-base   the new policy against the base policy; first where the model says the new answer gained most
    contested  an answer whose reward is high for its prompt and whose spread over an ensemble's members is high too,
               against the runner-up: where a wrong reward does most harm
    random     drawn blindly among the new policy's pairs: what is usual there, whatever a model makes of it

Without rewards the first two are drawn at random; without spreads nothing is contested. Each draw depends on the seed
and the answers' ids alone.

R  answers that have a reward
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

import numpy as np

from rewardsmith.data.split import unit_hash

KINDS = ("new-new", "new-base", "contested", "random")
MOST_PAIRS = 10  # of one prompt and kind that are looked at, drawn at random


@dataclass(frozen=True)
class Look:
    """What a proposal chooses from: for each prompt the new policy's answers, the base policy's, and old pairs."""

    round: int
    policies: tuple[str, ...]
    base_policy: str
    new: Mapping[int, Sequence[int]]
    base: Mapping[int, Sequence[int]]
    old: Mapping[int, Sequence[tuple[int, int]]]
    proposed: Mapping[str, int]

    def response_ids(self) -> list[int]:
        """Ids of all answers that are looked at: the ones whose rewards help."""
        return sorted({i for side in (self.new, self.base) for ids in side.values() for i in ids})


@dataclass(frozen=True)
class Rewards:
    """Rewards of answers by one model: {response: (reward, spread or None)}; `temperature` makes gaps log-odds."""

    model: str
    of: Mapping[int, tuple[float, float | None]]
    temperature: float = 1.0


@dataclass(frozen=True)
class Candidate:
    """A pair with the reason for it. `gain` orders those of one kind."""

    kind: str
    prompt_id: int
    a_id: int
    b_id: int
    gain: float
    why: str

    @property
    def pair(self) -> tuple[int, int]:
        return (self.a_id, self.b_id) if self.a_id < self.b_id else (self.b_id, self.a_id)


def candidates(seen: Look, rewards: Rewards | None, seed: int) -> dict[str, list[Candidate]]:
    """{kind: pairs that were not proposed before, the best first}."""
    found: dict[str, list[Candidate]] = {kind: [] for kind in KINDS}
    for prompt, new in seen.new.items():
        old = set(seen.old.get(prompt, ()))
        base = [i for i in seen.base.get(prompt, ()) if i not in new]
        within = [pair for pair in combinations(new, 2) if pair not in old]
        across = [(n, b) for n in new for b in base if (min(n, b), max(n, b)) not in old]
        within, across = _some(within, prompt, seed), _some(across, prompt, seed)
        found["new-new"] += [_new_new(seen, rewards, prompt, pair, seed) for pair in within]
        found["new-base"] += [_new_base(seen, rewards, prompt, pair, seed) for pair in across]
        found["random"] += [_random(seen, prompt, pair, seed) for pair in (within or across)[:1]]
    if rewards is not None:
        found["contested"] = _contested(seen, rewards)

    # Ties of gain in an order of their own: not that of the ids.
    def place(one: Candidate) -> tuple[float, float]:
        return -one.gain, unit_hash(str(one.pair), seed)

    return {kind: sorted(pairs, key=place) for kind, pairs in found.items()}


def pairs_to_draw(seen: Look, prompt: int) -> list[tuple[int, int]]:
    """The pairs that are drawn from blindly: of the new policy's answers, else of these against the base policy's."""
    new = seen.new[prompt]
    base = [i for i in seen.base.get(prompt, ()) if i not in new]
    return list(combinations(new, 2)) or [(min(n, b), max(n, b)) for n in new for b in base]


def _some(pairs: list[tuple[int, int]], prompt: int, seed: int) -> list[tuple[int, int]]:
    """At most MOST_PAIRS of them, in a random order."""
    return Random(f"{prompt}:{seed}").sample(pairs, min(len(pairs), MOST_PAIRS))


def _gap(rewards: Rewards | None, a: int, b: int) -> float | None:
    """How much higher the model rates a than b; None where it has not rated both."""
    if rewards is None or a not in rewards.of or b not in rewards.of:
        return None
    return rewards.of[a][0] - rewards.of[b][0]


def _new_new(seen: Look, rewards: Rewards | None, prompt: int, pair: tuple[int, int], seed: int) -> Candidate:
    gap = _gap(rewards, *pair)
    names = names_of(seen)
    if gap is None or rewards is None:
        return Candidate("new-new", prompt, *pair, unit_hash(str(pair), seed), f"two answers of {names} to one prompt")
    p = 1 / (1 + math.exp(-min(abs(gap) / rewards.temperature, 500.0)))
    why = f"two answers of {names}; model {rewards.model} prefers one with P = {p:.2f}: " + (
        "close to a coin toss, so a label tells it most" if p < 0.6 else "the closest calls come first"
    )
    return Candidate("new-new", prompt, *pair, 4 * p * (1 - p), why)


def _new_base(seen: Look, rewards: Rewards | None, prompt: int, pair: tuple[int, int], seed: int) -> Candidate:
    gap = _gap(rewards, *pair)
    names = f"an answer of {names_of(seen)} against one of the base policy {seen.base_policy}"
    if gap is None or rewards is None:
        return Candidate(
            "new-base", prompt, *pair, unit_hash(str(pair), seed) - 1e9, f"{names}: is the new one better?"
        )
    said = f"{abs(gap):.2f} {'higher' if gap >= 0 else 'lower'}"
    return Candidate(
        "new-base", prompt, *pair, gap, f"{names}; model {rewards.model} rates it {said}: a label says whether it is so"
    )


def _random(seen: Look, prompt: int, pair: tuple[int, int], seed: int) -> Candidate:
    why = f"drawn blindly among the answers of {names_of(seen)}: what is usual there, whatever a model makes of it"
    return Candidate("random", prompt, *pair, unit_hash(f"random {pair}", seed), why)


def _contested(seen: Look, rewards: Rewards) -> list[Candidate]:
    """For each prompt its most contested new answer against the runner-up; above the median in reward and in spread."""
    rows = []
    for prompt, new in seen.new.items():
        rated = [i for i in new if i in rewards.of and rewards.of[i][1] is not None]
        everyone = {i: rewards.of[i][0] for i in (*new, *seen.base.get(prompt, ())) if i in rewards.of}
        if not rated or len(everyone) < 2:
            continue
        # Rewards of different prompts share no zero: a reward is high beside those of its own prompt.
        middle = float(np.mean(list(everyone.values())))
        rows += [(prompt, i, everyone[i] - middle, float(rewards.of[i][1] or 0.0)) for i in rated]
    if len(rows) < 2:
        return []
    reward_R, std_R = (np.array([row[k] for row in rows], dtype=np.float64) for k in (2, 3))
    above_R, unsure_R = _share_below(reward_R), _share_below(std_R)
    best: dict[int, tuple[float, int, float, float]] = {}
    for (prompt, i, _, _), above, unsure in zip(rows, above_R.tolist(), unsure_R.tolist(), strict=True):
        if above > 0.5 and unsure > 0.5 and above + unsure > best.get(prompt, (0.0,))[0]:
            best[prompt] = (above + unsure, i, above, unsure)
    found = []
    for prompt, (gain, i, above, unsure) in best.items():
        old = set(seen.old.get(prompt, ()))
        others = [j for j in {*seen.new[prompt], *seen.base.get(prompt, ())} if j != i and j in rewards.of]
        others = [j for j in others if (min(i, j), max(i, j)) not in old]
        if others:
            rival = max(others, key=lambda j: (rewards.of[j][0], -j))
            why = (
                f"an answer of {names_of(seen)} that model {rewards.model} rates high for its prompt (above "
                f"{above:.0%} of the answers) while its members disagree (more than on {unsure:.0%}), against the "
                "runner-up: a wrong reward would do most harm here"
            )
            found.append(Candidate("contested", prompt, i, rival, gain, why))
    return found


def _share_below(values_R: np.ndarray) -> np.ndarray:
    """The share of the values that each one is above."""
    return np.searchsorted(np.sort(values_R), values_R, side="left") / len(values_R)


def names_of(seen: Look) -> str:
    return f"policy {seen.policies[0]}" if len(seen.policies) == 1 else f"policies {', '.join(seen.policies)}"
