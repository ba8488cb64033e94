"""The whole loop with an automatic labeller: answers, pairs, labels, training, gate, release, round after round.

    round 0   answers of the policy that everything starts from; the first model
    round r   answers of the newest policy; a model from all labels, tried against the released one

The newest policy is the one before under pressure from the released reward: of each prompt's candidates (recorded ones,
or sampled anew in every round) answers are drawn from p proportional to p0 exp(r / beta), the optimum of E[r] - beta KL
(`ingest.ingest_tilted`), where beta is the spread of a prompt's rewards over `pressure`. 0 takes them as they were
sampled.

Each step is found done or is done again to the same end: what was decided (which release a round's answers were drawn
for, what became of its model) stands in the store, what was drawn is a function of the seed, and the steps themselves
may be repeated. A run that was killed goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.overoptimization.candidates import Pool, without_unscored
from rewardsmith.overoptimization.policies import kl_from_base
from rewardsmith.refresh import releases
from rewardsmith.refresh.gate import GateOptions
from rewardsmith.refresh.ingest import Into, ingest_groups, ingest_tilted, tilted_weights
from rewardsmith.refresh.labellers import Labeller, label_open
from rewardsmith.refresh.models import Open, gate_model, train_model
from rewardsmith.refresh.project import Project
from rewardsmith.refresh.propose import ProposeOptions, look, propose
from rewardsmith.refresh.reasons import KINDS, Rewards
from rewardsmith.refresh.releasing import release_model
from rewardsmith.refresh.rewards import score_missing
from rewardsmith.refresh.sides import by_side, propose_tests
from rewardsmith.refresh.store import Store
from rewardsmith.refresh.train import VariantOptions
from rewardsmith.scoring import Scorer
from rewardsmith.statistics import Floats, clustered_mean
from rewardsmith.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How the rounds go."""

    rounds: int = 2
    """Rounds after the first model."""
    answers: int = 4
    """Answers drawn for each prompt in a round."""
    tests: int = 50
    """Pairs of held-out prompts that are labelled in each round beside the budget, drawn blindly: what a model's
    accuracy on the round's answers is measured by."""
    pressure: float = 2.0
    """How hard the policy is pushed by the released reward: the spread of a prompt's rewards over beta. 0: not at
    all."""
    seed: int = 0
    """Seed of the answers that are drawn."""

    def __post_init__(self) -> None:
        for name, value in (("rounds", self.rounds), ("tests", self.tests), ("seed", self.seed)):
            if value < 0:
                raise ConfigError(f"--{name} {value}: give a whole number >= 0")
        if self.answers < 2:
            raise ConfigError(f"--answers {self.answers}: a comparison needs at least 2")
        if not (np.isfinite(self.pressure) and self.pressure >= 0):
            raise ConfigError(f"--pressure {self.pressure}: give a number >= 0")


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What a run is made of.

    candidates  round -> the prompts with their candidates; asked again after a kill, so it answers the same
    propose     (this, round): propose pairs among the answers of that round, up to a budget; again adds none
    open_model  a model's folder to its scorer
    gold        what answers are worth, for the figures; None where nobody knows
    now         seconds since 1970
    """

    project: Project
    store: Store
    options: LoopOptions
    candidates: Callable[[int], list[Pool]]
    propose: Callable[[Loop, int], object]
    labeller: Labeller
    variant: VariantOptions
    template: TrainConfig
    gate: GateOptions
    open_model: Open
    now: Callable[[], float]
    gold: Scorer | None = None
    tell: Callable[[str], None] = lambda _: None
    quiet: bool = True


def run_loop(loop: Loop) -> dict[str, Any]:
    """Every round that is not done yet; {"rounds": one dict each, "release": the number of what is released}."""
    done = [run_round(loop, round) for round in range(loop.options.rounds + 1)]
    pointer = releases.current(loop.project.folder)
    return {"rounds": done, "release": None if pointer is None else pointer.release}


def run_round(loop: Loop, round: int) -> dict[str, Any]:
    """One round; what it came to is kept in the store under "round R" and returned as it is where it is there."""
    kept = loop.store.value(f"round {round}")
    if kept is not None:
        return dict(json.loads(kept))
    drawn = draw_answers(loop, round)
    _, tests = by_side(loop.store, look(loop.store, ProposeOptions(round=round), loop.project.base_policy))
    propose_tests(loop.store, tests, loop.options.tests, seed=loop.options.seed, at=loop.now())
    loop.propose(loop, round)
    proposed = loop.store.counts(loop.now()).rounds.get(round, {}).get("comparisons", 0)
    if not proposed:
        raise DataError(f"round {round}: no pair is worth a label among {drawn['answers']} answers")
    labelled = label_round(loop, round)
    loop.tell(f"round {round}: {drawn['answers']} answers of {drawn['policy']}, {proposed} pairs, {labelled} labelled")
    trained = train_model(loop.project.folder, loop.store, loop.variant, loop.template, at=loop.now(), quiet=loop.quiet)
    tried = try_and_release(loop, trained["name"])
    loop.tell(f"round {round}: {trained['name']} {tried['verdict']}" + "".join(f"; {r}" for r in tried["reasons"]))
    found = {
        "round": round, **drawn, "proposed": proposed, "labelled": labelled, "model": trained["name"],
        "shares": trained["weights"]["shares"], "importance": trained["weights"]["importance"], **tried,
    }  # fmt: skip
    loop.store.set_value(f"round {round}", json.dumps(found))
    return found


# -- answers ----------------------------------------------------------------------------------------------------


def draw_answers(loop: Loop, round: int) -> dict[str, Any]:
    """Draw the round's answers and put them into the store; figures of the policy that said them.

    kl      mean KL of the policy from the base policy, in nats, over the candidates
    reward, gold   expected under the policy, by the released model and by gold, with intervals by prompt
    """
    store, options, base = loop.store, loop.options, loop.project.base_policy
    release = _drawn_for(loop, round)
    pools = loop.candidates(round)
    groups = [pool.group for pool in pools]
    gold = None if loop.gold is None else [scores.rewards for scores in loop.gold.score(groups)]
    p, rewards = [pool.base_K for pool in pools], None
    if release is not None and options.pressure:
        folder = releases.verify(loop.project.folder, releases.read_release(loop.project.folder, release))
        scores = loop.open_model(str(folder)).score(groups)
        pools, rewards, _ = without_unscored(pools, [of.rewards for of in scores])
        p = tilted_weights(pools, rewards, "tilt", options.pressure)
        into = Into(policy=f"round-{round}", round=round, base_policy=base)
        ingest_tilted(
            store, pools, rewards, into, method="tilt", strength=options.pressure, n=options.answers,
            seed=options.seed, now=loop.now(),
        )  # fmt: skip
        if gold is not None and loop.gold is not None:
            gold = [scores.rewards for scores in loop.gold.score([pool.group for pool in pools])]
    else:
        into = Into(policy=base if release is None else f"round-{round}", round=round, base_policy=base)
        drawn = (_some(pool, options.answers, [options.seed, round]) for pool in pools)
        ingest_groups(store, drawn, into, now=loop.now())
    kl = [float(kl_from_base(p_K[None], pool.base_K)[0]) for p_K, pool in zip(p, pools, strict=True)]
    return {
        "policy": into.policy,
        "drawn_for": release,
        "prompts": len(pools),
        "answers": sum(1 for _ in store.responses(round=round)),
        "kl": float(np.mean(kl)),
        "reward": None if rewards is None else _expected(p, rewards),
        "gold": None if gold is None else _expected(p, gold),
    }


def _drawn_for(loop: Loop, round: int) -> int | None:
    """The release that was current when the round began: a later one must not change what its policy is."""
    name = f"round {round} draws for"
    chosen = loop.store.value(name)
    if chosen is None:
        pointer = releases.current(loop.project.folder) if round else None
        chosen = json.dumps(None if pointer is None else pointer.release)
        loop.store.set_value(name, chosen)
    release: int | None = json.loads(chosen)
    return release


def _some(pool: Pool, n: int, seed: Sequence[int]) -> Group:
    """The group with `n` of its answers, drawn by their base probabilities without repeats."""
    rng = np.random.default_rng([*seed, int(pool.group.prompt_id, 16)])
    possible = int((pool.base_K > 0).sum())
    chosen = rng.choice(len(pool.base_K), size=min(n, possible), replace=False, p=pool.base_K)
    return replace(pool.group, responses=tuple(pool.group.responses[k] for k in sorted(chosen.tolist())), ratings=None)


def _expected(p: Sequence[Floats], values: Sequence[Floats]) -> dict[str, float | None]:
    """Mean over prompts of the expected value under the policy, with its interval by prompt."""
    known = [np.isfinite(v) & (q > 0) for q, v in zip(p, values, strict=True)]
    means = [float(q[k] @ v[k] / q[k].sum()) for q, v, k in zip(p, values, known, strict=True) if k.any()]
    return clustered_mean(means, np.arange(len(means))).to_json()


# -- pairs ------------------------------------------------------------------------------------------------------


def propose_round(loop: Loop, round: int, options: ProposeOptions) -> dict[str, Any]:
    """Propose pairs of the round's training prompts with the rewards of the release that its answers were drawn for.

    A round whose pairs were proposed is left as it is: proposing again would look for others in the place of those that
    were passed over. All go into the store together, so a kill leaves all or none.
    """
    store, project = loop.store, loop.project
    options = replace(options, round=round, overlap_share=0.0)  # there is one labeller
    there = sum(n for kind, n in store.proposed(round).items() if kind in KINDS)
    if there:
        return {"added": 0, "before": there}
    seen, _ = by_side(store, look(store, options, project.base_policy))
    rewards, release = None, _drawn_for(loop, round)
    if release is not None:
        digest = releases.read_release(project.folder, release).digest
        model = next(model for model in store.models() if model.artifact_hash == digest)
        folder = project.folder / model.path
        score_missing(store, model.name, lambda: loop.open_model(str(folder)), seen.response_ids())
        temperature = float(model.details.get("temperature", 1.0))
        rewards = Rewards(model.name, store.scores(model.name, seen.response_ids()), temperature)
    return propose(store, seen, options, rewards, loop.now())


# -- labels, gate, release --------------------------------------------------------------------------------------


def label_round(loop: Loop, round: int) -> int:
    """Have the round's open pairs labelled; returns how many of its pairs have a label."""
    label_open(loop.store, loop.labeller, round=round)
    return loop.store.counts(loop.now()).rounds.get(round, {}).get("labelled", 0)


def try_and_release(loop: Loop, name: str) -> dict[str, Any]:
    """{"verdict", "reasons", "checks", "release"}: the model's trial, and its release where it passed."""
    project = loop.project.folder
    pointer = releases.current(project)
    digest = loop.store.model(name).artifact_hash
    if pointer is not None and releases.read_release(project, pointer.release).digest == digest:
        # Killed after the release and before it was noted, or the labels made the same model again.
        trials = loop.store.gates(name)
        result = dict(trials[-1].figures) if trials else {"verdict": "pass", "reasons": [], "checks": []}
    else:
        result = gate_model(project, loop.store, name, loop.gate, loop.open_model, at=loop.now())
    release = None
    if result["verdict"] == "pass":
        release = release_model(project, loop.store, name, note="by refresh run")["release"]
    return {"verdict": result["verdict"], "reasons": result["reasons"], "checks": result["checks"], "release": release}
