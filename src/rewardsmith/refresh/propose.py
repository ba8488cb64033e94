"""Which pairs of a round are worth a label: a budget, shared among four reasons (`refresh.reasons`).

What one reason cannot use goes to the others. All are to train on: pairs of held-out prompts, which test, are drawn
apart (`refresh.sides`). Left out: pairs proposed before, answers that nearly repeat each other, and pairs that nearly
repeat one of this round or of their prompt (by runs of three words, `data.near`). Each draw depends on the seed and the
texts' ids alone: proposing again adds what is missing to the budget and nothing else.

Where more than two answers are to be ranked together, a pair that was chosen for its reason is widened by others of the
new policy's answers to its prompt, drawn blindly, to a set of K: K (K - 1) / 2 pairs of the budget
(`refresh.rankings`). Shares go to whole sets as far as they reach; what is left of all shares together fills more whole
sets, and last smaller ones, so that the budget is met to the pair.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Any

from rewardsmith.data.near import THRESHOLD, NearIndex, Runs, jaccard, word_runs
from rewardsmith.data.schema import text_of
from rewardsmith.data.split import unit_hash
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.refresh.rankings import n_pairs
from rewardsmith.refresh.reasons import KINDS, Candidate, Look, Rewards, candidates, names_of
from rewardsmith.refresh.records import MOST_ANSWERS, NewComparison
from rewardsmith.refresh.store import Store

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
    answers: int = 2
    """Answers that are ranked together on the labelling page, 2 to 9. More than 2: each chosen pair is widened by other
    answers to its prompt; K answers are K (K - 1) / 2 pairs of the budget."""
    per_prompt: int = 2
    """Most pairs of one prompt in a round; with --answers, most sets."""
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
        if not 2 <= self.answers <= MOST_ANSWERS:
            raise ConfigError(f"--answers {self.answers}: give 2 to {MOST_ANSWERS} answers to rank together")
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


@dataclass(frozen=True)
class Chosen:
    """A pair with the answers it is ranked with, itself among them; two: the pair by itself."""

    seed: Candidate
    answers: tuple[int, ...]

    @property
    def n_pairs(self) -> int:
        return n_pairs(len(self.answers))


class Chooser:
    """Takes candidates one by one, widens them, and refuses those that repeat what is there."""

    def __init__(self, seen: Look, texts: Texts, options: ProposeOptions) -> None:
        self.seen, self.texts, self.options = seen, texts, options
        self.taken: dict[int, list[tuple[int, int]]] = {}
        self.shown: dict[int, set[object]] = {}  # of each prompt, what is shown at once: pairs and sets
        self.index = NearIndex()
        self.places: list[tuple[int, int, int]] = []
        self.refused: dict[tuple[int, int], str] = {}

    def take(self, one: Candidate, room: int, *, whole: bool) -> Chosen | None:
        """The pair as it is taken, with others in at most `room` pairs; None where it is refused: why is kept.

        With `whole`, what is left of a prompt after its first set is not taken in smaller ones.
        """
        if one.pair in self.taken.get(one.prompt_id, ()):  # for another reason
            return None
        if len(self.shown.get(one.prompt_id, ())) >= self.options.per_prompt:
            reason = "prompt used up"
        else:
            reason = self._refusal(one.prompt_id, *one.pair)
        if reason:
            self.refused.setdefault(one.pair, reason)
            return None
        answers = self._widened(one, room)
        wanted = self.options.answers
        if whole and one.prompt_id in self.shown and len(answers) < wanted and room >= n_pairs(wanted):
            self.refused.setdefault(one.pair, "too few answers of its prompt are left to rank with it")
            return None
        self.refused.pop(one.pair, None)
        for a, b in combinations(answers, 2):
            self.add(one.prompt_id, a, b, answers)
        return Chosen(one, answers)

    def add(self, prompt: int, a: int, b: int, shown_as: object) -> None:
        runs = self.texts.whole(prompt, a, b)
        self.index.add(len(self.places), runs, self.index.signature(runs))
        self.places.append((prompt, a, b))
        self.taken.setdefault(prompt, []).append((a, b))
        self.shown.setdefault(prompt, set()).add(shown_as)

    def _widened(self, one: Candidate, room: int) -> tuple[int, ...]:
        """The pair's answers and others of the new policy, drawn blindly, of which no pair is there or repeats one."""
        answers = list(one.pair)
        if self.options.answers == 2:
            return one.pair
        seed = self.options.seed
        others = sorted(self.seen.new[one.prompt_id], key=lambda i: unit_hash(f"{one.pair} {i}", seed))
        self.texts.fetch((one.prompt_id, i, i) for i in others)
        there = {*self.seen.old.get(one.prompt_id, ()), *self.taken.get(one.prompt_id, ())}
        for i in others:
            if len(answers) == self.options.answers or n_pairs(len(answers) + 1) > room:
                break
            new = [(min(i, j), max(i, j)) for j in answers]
            if i not in answers and not there & set(new) and not any(self._refusal(one.prompt_id, *p) for p in new):
                answers.append(i)
        return tuple(sorted(answers))

    def _refusal(self, prompt: int, a: int, b: int) -> str:
        mine = self.taken.get(prompt, [])
        if jaccard(word_runs(self.texts.answer[a]), word_runs(self.texts.answer[b])) >= THRESHOLD:
            return "two answers that are nearly the same"
        answers = self.texts.answers(a, b)
        before = [*self.seen.old.get(prompt, ()), *mine]
        self.texts.fetch((prompt, *pair) for pair in before)
        if any(jaccard(answers, self.texts.answers(*pair)) >= THRESHOLD for pair in before):
            return "nearly repeats a pair of its prompt"
        runs = self.texts.whole(prompt, a, b)
        like = self.index.find(runs, self.index.signature(runs))
        # A long prompt makes all its pairs alike; those were compared without it.
        if like is not None and self.places[like][0] != prompt:
            return "nearly repeats a pair of the round"
        return ""


def propose(store: Store, seen: Look, options: ProposeOptions, rewards: Rewards | None, now: float) -> dict[str, Any]:
    """Choose pairs and add them to the queue; ready for JSON.

    Keys: round, policies, base_policy, budget, before (pairs of the round that were there), added, kinds {kind: pairs
    added}, sets {answers ranked together: how many such sets}, candidates, passed_over {reason: pairs}, overlapping
    (pairs that several annotators label), prompts, model, warnings.
    """
    before = sum(seen.proposed.get(kind, 0) for kind in KINDS)  # what was imported is no proposal
    ranked = candidates(seen, rewards, options.seed)
    want = quotas(options.budget, options.shares, seen.proposed)
    left = max(0, options.budget - before)
    chooser = Chooser(seen, Texts(store), options)
    if left:
        _remember(store, chooser, seen)
    streams = {kind: _fetched(chooser.texts, ranked[kind]) for kind in KINDS}
    chosen: list[Chosen] = []
    whole = n_pairs(options.answers)
    for kind in reversed(KINDS):  # random first: what the others take must not thin out what is drawn blindly
        room = min(want[kind], left - _pairs(chosen))
        chosen += _first(streams[kind], chooser, room, whole) or _first(streams[kind], chooser, room, 1, most=1)
    short = {kind: want[kind] - _pairs(chosen, kind) for kind in KINDS}
    for least in sorted({whole, 1}, reverse=True):  # what others could not use: whole sets, then what is left
        for kind in sorted(KINDS, key=lambda kind: -options.shares[kind]):
            if options.shares[kind] > 0:
                chosen += _first(streams[kind], chooser, left - _pairs(chosen), least)
        streams = {kind: _fetched(chooser.texts, ranked[kind]) for kind in KINDS}  # smaller sets of what was refused
    rows = _queue(chosen, seen, options)
    added = store.add_sets(rows, now)
    return {
        "round": seen.round,
        "policies": list(seen.policies),
        "base_policy": seen.base_policy,
        "budget": options.budget,
        "before": before,
        "added": added,
        "kinds": {kind: _pairs(chosen, kind) for kind in KINDS},
        "sets": {str(k): n for k, n in sorted(Counter(len(one.answers) for one in chosen).items())},
        "candidates": sum(map(len, ranked.values())),
        "passed_over": dict(Counter(chooser.refused.values())),
        "overlapping": sum(row.overlap > 1 for of_set in rows for row in of_set),
        "prompts": len(seen.new),
        "model": None if rewards is None else rewards.model,
        "warnings": _warnings(seen, options, rewards, ranked, short, left - _pairs(chosen)),
    }


def _pairs(chosen: Iterable[Chosen], kind: str | None = None) -> int:
    """How many pairs they are; those that were chosen for one reason."""
    return sum(one.n_pairs for one in chosen if kind in (None, one.seed.kind))


def _first(
    stream: Iterator[Candidate], chooser: Chooser, room: int, least: int, most: int | None = None
) -> list[Chosen]:
    """The next candidates of a stream that are taken, in at most `room` pairs, as long as `least` have room; at most
    `most`.
    """
    found: list[Chosen] = []
    whole = least > 1
    while room >= least and len(found) != most and (one := next(stream, None)) is not None:
        if (taken := chooser.take(one, room, whole=whole)) is not None:
            found.append(taken)
            room -= taken.n_pairs
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
    chooser.texts.fetch((prompt, a, b) for prompt, a, b, _ in there)
    for prompt, a, b, number in there:
        chooser.add(prompt, a, b, number)


def _queue(chosen: Sequence[Chosen], seen: Look, options: ProposeOptions) -> list[list[NewComparison]]:
    """The chosen pairs as they go into the queue: kinds mixed, later rounds first, some with several labels wanted."""
    rank: Counter[str] = Counter()
    total = Counter(one.seed.kind for one in chosen)
    rows = []
    for one in chosen:
        of, kind = one.seed, one.seed.kind
        place = rank[kind] / total[kind]
        rank[kind] += 1
        several = unit_hash(f"overlap {of.pair}", options.seed) < options.overlap_share
        beside = (
            f"ranked in one set with a pair that was chosen as {kind}: other answers of {names_of(seen)}, drawn blindly"
        )
        rows.append(
            [
                NewComparison(
                    prompt_id=of.prompt_id, a_id=a, b_id=b, round=seen.round, kind=kind, score=seen.round + 1 - place,
                    why=of.why if (a, b) == of.pair else beside, overlap=options.overlap if several else 1,
                )
                for a, b in combinations(one.answers, 2)
            ]
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
        # Less than a set is left of most shares: it goes to whole sets of others, which is worth no words.
        if short[kind] >= n_pairs(options.answers) and options.shares[kind] > 0:
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
