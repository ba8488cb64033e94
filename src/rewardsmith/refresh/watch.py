"""What `drift` compares in a project: the answers of a round against the training data, or against earlier rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Literal

import numpy as np

from rewardsmith.data.schema import Group
from rewardsmith.data.split import unit_hash
from rewardsmith.errors import DataError
from rewardsmith.refresh.drift import FEWEST, MOST
from rewardsmith.refresh.propose import policies_of_round
from rewardsmith.refresh.rewards import score_missing
from rewardsmith.refresh.sides import is_test
from rewardsmith.refresh.store import Store
from rewardsmith.refresh.tables import comparisons, sa
from rewardsmith.scoring import Scorer, Scores

Against = Literal["training", "rounds"]
Answers = dict[int, int]  # prompt -> one answer to it


def new_answers(store: Store, round: int | None, base_policy: str, seed: int) -> tuple[int, Answers]:
    """(the round, one answer of its new policies to each prompt); None: the last round. DataError where it is the
    first, or has none."""
    round, policies = policies_of_round(store, round, base_policy)
    if not any(row["round"] < round for row in store.policies()):
        raise DataError(
            f"round {round} is the first: there is nothing before it to hold it against; ingest the next one"
        )
    prompts = some(store.prompts_drawn(policies, round), seed)
    return round, one_each(store.drawn(prompts, policies, round), seed)


def reference_answers(store: Store, round: int, against: Against, seed: int) -> Answers:
    """One answer to each prompt: of what was labelled before the round and is trained on, or of all earlier rounds."""
    return trained_on(store, round, seed) if against == "training" else earlier(store, round, seed)


def trained_on(store: Store, before: int, seed: int) -> Answers:
    c = comparisons.c
    chosen = sa.select(c.prompt_id, c.a_id, c.b_id).where(c.round < before, c.given > 0, c.flags == 0)
    said: dict[int, list[int]] = {}
    with store.reading() as connection:
        for prompt, a, b in connection.execute(chosen):
            said.setdefault(prompt, []).extend((a, b))
    few = some(said, seed, 2 * MOST)  # a fifth of them are tests
    train = [prompt.id for prompt in store.prompts(few) if not is_test(prompt.messages)]
    if len(train) < FEWEST:
        raise DataError(
            f"{len(train)} prompts of rounds before {before} have labels that are trained on; at least {FEWEST} are "
            "needed: hold it --against rounds"
        )
    return one_each({prompt: said[prompt] for prompt in some(train, seed)}, seed)


def earlier(store: Store, before: int, seed: int) -> Answers:
    policies: dict[int, list[str]] = {}
    for row in store.policies():
        if row["round"] < before:
            policies.setdefault(row["round"], []).append(row["policy"])
    prompts = some({p for round, names in policies.items() for p in store.prompts_drawn(names, round)}, seed)
    said: dict[int, list[int]] = {}
    for round, names in policies.items():
        for prompt, ids in store.drawn(prompts, names, round).items():
            said.setdefault(prompt, []).extend(ids)
    return one_each(said, seed)


def some(prompts: Iterable[int], seed: int, most: int = MOST) -> list[int]:
    """At most `most` of the prompts, drawn at random; more would tell nothing that matters."""
    known = sorted(prompts)
    return known if len(known) <= most else sorted(Random(seed).sample(known, most))


def one_each(said: Mapping[int, Sequence[int]], seed: int) -> Answers:
    """One answer to each prompt, drawn at random."""
    return {prompt: min(ids, key=lambda i: unit_hash(f"{prompt} {i}", seed)) for prompt, ids in said.items()}


def groups_of(store: Store, answers: Answers) -> list[Group]:
    """The answers as groups of one, by prompt."""
    texts = {response.id: response.messages for response in store.responses(list(answers.values()))}
    return [
        Group(
            prompt=prompt.messages,
            responses=(texts[answers[prompt.id]],),
            tools=prompt.tools,
            template_kwargs=prompt.template_kwargs,
        )
        for prompt in store.prompts(list(answers))
    ]


def scores_of(
    store: Store, model: str, load: Callable[[], Scorer], answers: Answers, progress: Callable[[int], None]
) -> list[Scores]:
    """A registered model's rewards of the answers, in the order of `groups_of`; what is new of them is kept."""
    score_missing(store, model, load, list(answers.values()), progress)
    known = store.scores(model, list(answers.values()))
    found = []
    for prompt in sorted(answers):
        reward, std = known.get(answers[prompt], (np.nan, None))
        found.append(Scores(np.array([reward]), None if std is None else np.array([std])))
    return found
