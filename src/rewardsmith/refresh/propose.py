"""Which pairs of a round are worth a label: a budget, shared among four reasons.

    new-new    two answers of the new policy; first where the model's call is closest, 4 P (1 - P)
    new-base   the new policy against the base policy; first where the model says the new answer gained most
    contested  an answer whose reward is high for its prompt and whose spread over an ensemble's members is high too,
               against the runner-up: where a wrong reward does most harm
    random     drawn blindly among the new policy's pairs: what is usual there, whatever a model makes of it

Without rewards the first two are drawn at random; without spreads nothing is contested. What one reason cannot use goes
to the others. All are to train on: pairs of held-out prompts, which test, are drawn apart (`refresh.sides`). Left out:
pairs proposed before, answers that nearly repeat each other, and pairs that nearly repeat one of this round or of their
prompt (by runs of three words, `data.near`). Each draw depends on the seed and the texts' ids alone: proposing again
adds what is missing to the budget and nothing else.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Any

import numpy as np

from rewardsmith.data.near import THRESHOLD, NearIndex, Runs, jaccard, word_runs
from rewardsmith.data.schema import text_of
from rewardsmith.data.split import unit_hash
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.refresh.records import NewComparison
from rewardsmith.refresh.store import Store

KINDS = ("new-new", "new-base", "contested", "random")
MOST_PAIRS = 10  # of one prompt and kind that are looked at, drawn at random
MOST_REMEMBERED = 1000  # pairs of the round, the last ones, that new ones may not nearly repeat
READ_AHEAD = 100  # pairs whose texts are fetched at once


@dataclass(frozen=True, kw_only=True)
class ProposeOptions:
    """Which pairs are proposed for labelling."""

    budget: int = 200
    """Pairs of this round to train on, those proposed before included."""
    tests: int | None = None
    """Pairs of held-out prompts beside the budget, drawn blindly: they test models and are never trained on. Default: a
    quarter of the budget."""
    round: int | None = None
    """The round of the answers. Default: the last."""
    policies: tuple[str, ...] = ()
    """The new policies. Default: those of the round, but for the base policy."""
    new_new: float = 0.4
    """Share of the budget: the new policy against itself."""
    new_base: float = 0.3
    """Share: the new policy against the base policy."""
    contested: float = 0.2
    """Share: high reward with high disagreement. Needs the rewards of an ensemble, or of a model that knows how sure it
    is."""
    random: float = 0.1
    """Share: drawn blindly, so that training sees what is usual, and not only what a model finds hard."""
    per_prompt: int = 2
    """Most pairs of one prompt in a round."""
    overlap: int = 2
    """Labels by different annotators that are wanted of the pairs of --overlap-share; of the others, one."""
    overlap_share: float = 0.1
    """Share of the pairs that several annotators label, so that their agreement is known."""
    pool: int = 2000
    """Most prompts that are looked at, drawn at random."""
    seed: int = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        for name, value, low in (
            ("budget", self.budget, 1), ("per-prompt", self.per_prompt, 1), ("overlap", self.overlap, 1),
            ("pool", self.pool, 1), ("seed", self.seed, 0), ("tests", self.n_tests, 0),
        ):  # fmt: skip
            if value < low:
                raise ConfigError(f"--{name} {value}: give at least {low}")
        shares = self.shares
        if min(shares.values()) < 0 or not math.isfinite(sum(shares.values())) or sum(shares.values()) <= 0:
            raise ConfigError(f"shares {shares}: give numbers >= 0, not all 0")
        if not 0 <= self.overlap_share <= 1:
            raise ConfigError(f"--overlap-share {self.overlap_share}: give a number from 0 to 1")

    @property
    def n_tests(self) -> int:
        return self.tests if self.tests is not None else math.ceil(self.budget / 4)

    @property
    def shares(self) -> dict[str, float]:
        return dict(zip(KINDS, (self.new_new, self.new_base, self.contested, self.random), strict=True))


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


def policies_of_round(
    store: Store, round: int | None, base_policy: str, wanted: Sequence[str] = ()
) -> tuple[int, tuple[str, ...]]:
    """(the round, its new policies): those wanted, else all but the base policy, else that. None: the last round.

    DataError where one of them has no answers in the round.
    """
    policies = store.policies()
    round = round if round is not None else max((p["round"] for p in policies), default=0)
    there = [p["policy"] for p in policies if p["round"] == round]
    new = tuple(wanted) or tuple(p for p in there if p != base_policy) or (base_policy,)
    missing = [name for name in new if name not in there]
    if missing:
        raise DataError(
            f"policy {missing[0]!r} has no answers in round {round} (there are: {', '.join(there) or 'none'}); "
            "ingest them first"
        )
    return round, new


def look(store: Store, options: ProposeOptions, base_policy: str) -> Look:
    """The prompts and answers that a proposal chooses from. DataError where the round has no answers."""
    round, new = policies_of_round(store, options.round, base_policy, options.policies)
    prompts = store.prompts_drawn(new, round)
    if len(prompts) > options.pool:
        prompts = sorted(Random(options.seed).sample(prompts, options.pool))
    base = {} if base_policy in new else store.drawn(prompts, [base_policy])
    return Look(
        round, new, base_policy, store.drawn(prompts, new, round), base, store.compared(prompts),
        store.proposed(round),
    )  # fmt: skip


# -- candidates -----------------------------------------------------------------------------------------------------


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
    names = _names(seen)
    if gap is None or rewards is None:
        return Candidate("new-new", prompt, *pair, unit_hash(str(pair), seed), f"two answers of {names} to one prompt")
    p = 1 / (1 + math.exp(-min(abs(gap) / rewards.temperature, 500.0)))
    why = f"two answers of {names}; model {rewards.model} prefers one with P = {p:.2f}: " + (
        "close to a coin toss, so a label tells it most" if p < 0.6 else "the closest calls come first"
    )
    return Candidate("new-new", prompt, *pair, 4 * p * (1 - p), why)


def _new_base(seen: Look, rewards: Rewards | None, prompt: int, pair: tuple[int, int], seed: int) -> Candidate:
    gap = _gap(rewards, *pair)
    names = f"an answer of {_names(seen)} against one of the base policy {seen.base_policy}"
    if gap is None or rewards is None:
        return Candidate(
            "new-base", prompt, *pair, unit_hash(str(pair), seed) - 1e9, f"{names}: is the new one better?"
        )
    said = f"{abs(gap):.2f} {'higher' if gap >= 0 else 'lower'}"
    return Candidate(
        "new-base", prompt, *pair, gap, f"{names}; model {rewards.model} rates it {said}: a label says whether it is so"
    )


def _random(seen: Look, prompt: int, pair: tuple[int, int], seed: int) -> Candidate:
    why = f"drawn blindly among the answers of {_names(seen)}: what is usual there, whatever a model makes of it"
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
                f"an answer of {_names(seen)} that model {rewards.model} rates high for its prompt (above "
                f"{above:.0%} of the answers) while its members disagree (more than on {unsure:.0%}), against the "
                "runner-up: a wrong reward would do most harm here"
            )
            found.append(Candidate("contested", prompt, i, rival, gain, why))
    return found


def _share_below(values_R: np.ndarray) -> np.ndarray:
    """The share of the values that each one is above."""
    return np.searchsorted(np.sort(values_R), values_R, side="left") / len(values_R)


def _names(seen: Look) -> str:
    return f"policy {seen.policies[0]}" if len(seen.policies) == 1 else f"policies {', '.join(seen.policies)}"


# -- the choice -----------------------------------------------------------------------------------------------------


def quotas(budget: int, shares: Mapping[str, float], proposed: Mapping[str, int]) -> dict[str, int]:
    """How many pairs each kind still gets of the budget: largest remainders, less what was proposed before."""
    total = sum(shares.values())
    exact = {kind: budget * share / total for kind, share in shares.items()}
    whole = {kind: int(value) for kind, value in exact.items()}
    by_rest = sorted(exact, key=lambda kind: whole[kind] - exact[kind])
    for kind in by_rest[: budget - sum(whole.values())]:
        whole[kind] += 1
    return {kind: max(0, n - proposed.get(kind, 0)) for kind, n in whole.items()}


class Texts:
    """Texts of prompts and answers as runs of words, fetched for many pairs at once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.prompt: dict[int, str] = {}
        self.answer: dict[int, str] = {}

    def fetch(self, pairs: Iterable[tuple[int, int, int]]) -> None:
        """Of (prompt, a, b)."""
        asked = list(pairs)
        prompts = {prompt for prompt, _, _ in asked} - self.prompt.keys()
        answers = {i for _, a, b in asked for i in (a, b)} - self.answer.keys()
        if prompts:
            self.prompt |= {p.id: text_of(p.messages) for p in self.store.prompts(sorted(prompts))}
        if answers:
            self.answer |= {r.id: r.text for r in self.store.responses(sorted(answers))}

    def whole(self, prompt: int, a: int, b: int) -> Runs:
        return word_runs("\n\n".join([self.prompt[prompt], *sorted((self.answer[a], self.answer[b]))]))

    def answers(self, a: int, b: int) -> Runs:
        return word_runs("\n\n".join(sorted((self.answer[a], self.answer[b]))))


class Chooser:
    """Takes candidates one by one, and refuses those that repeat what is there."""

    def __init__(self, seen: Look, texts: Texts, per_prompt: int) -> None:
        self.seen, self.texts, self.per_prompt = seen, texts, per_prompt
        self.taken: dict[int, list[tuple[int, int]]] = {}
        self.index = NearIndex()
        self.places: list[tuple[int, int, int]] = []
        self.refused: dict[tuple[int, int], str] = {}

    def take(self, one: Candidate) -> bool:
        """Whether the pair is taken; what it is refused for is kept."""
        if one.pair in self.taken.get(one.prompt_id, ()):  # for another reason
            return False
        if reason := self._refusal(one):
            self.refused.setdefault(one.pair, reason)
            return False
        self.add(one.prompt_id, *one.pair)
        return True

    def add(self, prompt: int, a: int, b: int) -> None:
        runs = self.texts.whole(prompt, a, b)
        self.index.add(len(self.places), runs, self.index.signature(runs))
        self.places.append((prompt, a, b))
        self.taken.setdefault(prompt, []).append((a, b))

    def _refusal(self, one: Candidate) -> str:
        mine = self.taken.get(one.prompt_id, [])
        if len(mine) >= self.per_prompt:
            return "prompt used up"
        if jaccard(word_runs(self.texts.answer[one.a_id]), word_runs(self.texts.answer[one.b_id])) >= THRESHOLD:
            return "two answers that are nearly the same"
        answers = self.texts.answers(*one.pair)
        before = [*self.seen.old.get(one.prompt_id, ()), *mine]
        self.texts.fetch((one.prompt_id, a, b) for a, b in before)
        if any(jaccard(answers, self.texts.answers(a, b)) >= THRESHOLD for a, b in before):
            return "nearly repeats a pair of its prompt"
        runs = self.texts.whole(one.prompt_id, *one.pair)
        like = self.index.find(runs, self.index.signature(runs))
        # A long prompt makes all its pairs alike; those were compared without it.
        if like is not None and self.places[like][0] != one.prompt_id:
            return "nearly repeats a pair of the round"
        return ""


def propose(store: Store, seen: Look, options: ProposeOptions, rewards: Rewards | None, now: float) -> dict[str, Any]:
    """Choose pairs and add them to the queue; ready for JSON.

    Keys: round, policies, base_policy, budget, before (pairs of the round that were there), added, kinds {kind: pairs
    added}, candidates, passed_over {reason: pairs}, overlapping (pairs that several annotators label), prompts, model,
    warnings.
    """
    before = sum(seen.proposed.get(kind, 0) for kind in KINDS)  # what was imported is no proposal
    ranked = candidates(seen, rewards, options.seed)
    want = quotas(options.budget, options.shares, seen.proposed)
    left = max(0, options.budget - before)
    chooser = Chooser(seen, Texts(store), options.per_prompt)
    if left:
        _remember(store, chooser, seen)
    streams = {kind: _fetched(chooser.texts, ranked[kind]) for kind in KINDS}
    chosen: list[Candidate] = []
    for kind in reversed(KINDS):  # random first: what the others take must not thin out what is drawn blindly
        chosen += _first(streams[kind], chooser, min(want[kind], left - len(chosen)))
    short = {kind: want[kind] - sum(one.kind == kind for one in chosen) for kind in KINDS}
    for kind in sorted(KINDS, key=lambda kind: -options.shares[kind]):  # what others could not use
        if options.shares[kind] > 0:
            chosen += _first(streams[kind], chooser, left - len(chosen))
    rows = _queue(chosen, seen.round, options)
    added = store.add_comparisons(rows, now).new
    return {
        "round": seen.round,
        "policies": list(seen.policies),
        "base_policy": seen.base_policy,
        "budget": options.budget,
        "before": before,
        "added": added,
        "kinds": {kind: sum(one.kind == kind for one in chosen) for kind in KINDS},
        "candidates": sum(map(len, ranked.values())),
        "passed_over": dict(Counter(chooser.refused.values())),
        "overlapping": sum(row.overlap > 1 for row in rows),
        "prompts": len(seen.new),
        "model": None if rewards is None else rewards.model,
        "warnings": _warnings(seen, options, rewards, ranked, short, left - len(chosen)),
    }


def _first(stream: Iterator[Candidate], chooser: Chooser, n: int) -> list[Candidate]:
    """The next `n` candidates of a stream that are taken."""
    found: list[Candidate] = []
    while len(found) < n and (one := next(stream, None)) is not None:
        if chooser.take(one):
            found.append(one)
    return found


def _fetched(texts: Texts, ranked: Sequence[Candidate]) -> Iterator[Candidate]:
    """The candidates, their texts fetched a hundred pairs ahead."""
    for start in range(0, len(ranked), READ_AHEAD):
        part = ranked[start : start + READ_AHEAD]
        texts.fetch((one.prompt_id, one.a_id, one.b_id) for one in part)
        yield from part


def _remember(store: Store, chooser: Chooser, seen: Look) -> None:
    """Put the round's pairs that are there already before the chooser: they are not to be repeated either."""
    there = store.pairs_of_round(seen.round, KINDS, MOST_REMEMBERED)
    chooser.texts.fetch(there)
    for prompt, a, b in there:
        chooser.add(prompt, a, b)


def _queue(chosen: Sequence[Candidate], round: int, options: ProposeOptions) -> list[NewComparison]:
    """The chosen pairs as they go into the queue: kinds mixed, later rounds first, some with several labels wanted."""
    rank: Counter[str] = Counter()
    total = Counter(one.kind for one in chosen)
    rows = []
    for one in chosen:
        place = rank[one.kind] / total[one.kind]
        rank[one.kind] += 1
        several = unit_hash(f"overlap {one.pair}", options.seed) < options.overlap_share
        rows.append(
            NewComparison(
                prompt_id=one.prompt_id, a_id=one.a_id, b_id=one.b_id, round=round, kind=one.kind, why=one.why,
                score=round + 1 - place, overlap=options.overlap if several else 1,
            )
        )  # fmt: skip
    return rows


def _warnings(
    seen: Look,
    options: ProposeOptions,
    rewards: Rewards | None,
    ranked: Mapping[str, Sequence[Candidate]],
    short: Mapping[str, int],
    missing: int,
) -> list[str]:
    said = []
    if rewards is None:
        said.append("no rewards: pairs are drawn at random within each share; name a model with --model")
    for kind in KINDS:
        if short[kind] > 0 and options.shares[kind] > 0:
            if kind == "contested" and not ranked[kind]:
                why = "no model says how sure it is of these answers" if rewards is not None else "there are no rewards"
            elif kind == "new-base" and seen.base_policy in seen.policies:
                why = f"it is the base policy {seen.base_policy} itself that is looked at"
            elif kind == "new-base" and not seen.base:
                why = f"the base policy {seen.base_policy} has no answers to these prompts"
            else:
                why = f"{len(ranked[kind])} candidates"
            said.append(f"{kind}: {short[kind]} pairs fewer than its share ({why}); others were taken instead")
    if missing > 0:
        said.append(
            f"{missing} pairs fewer than the budget: ingest more answers, or raise --per-prompt (prompts in the pool: "
            f"{len(seen.new)})"
        )
    return said
