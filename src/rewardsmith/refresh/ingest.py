"""What policies said into the store: from files, from a policy that is sampled now, from the exact bench's policies.

A policy has a name and said something in a round. The same answer again is the same row: ingesting is safe to repeat,
and an interrupted one goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.options import ReadOptions, ReadReport
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group, Messages, content_hash
from rewardsmith.errors import ConfigError, DataError, Interrupted
from rewardsmith.overoptimization import policies
from rewardsmith.overoptimization.candidates import Pool, read_pools, without_unscored
from rewardsmith.overoptimization.curves import within_sd
from rewardsmith.overoptimization.sample import Sampler, write_candidates
from rewardsmith.refresh.connect import parts
from rewardsmith.refresh.records import NewComparison, NewLabel, NewPrompt, NewResponse, check_name
from rewardsmith.refresh.store import Store
from rewardsmith.scoring import Scorer, score_stream
from rewardsmith.statistics import Floats

GROUPS_AT_ONCE = 500
IMPORTED = "imported"  # the kind of comparisons that came with a file


@dataclass
class Ingested:
    """What an ingest found and added. `cut` counts sampled answers that hit the longest length; `dropped` are rows that
    could not be used."""

    policy: str
    round: int
    groups: int = 0
    prompts: int = 0
    new_prompts: int = 0
    responses: int = 0
    new_responses: int = 0
    new_comparisons: int = 0
    new_labels: int = 0
    sampled: int = 0
    cut: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "left_out": dict(self.left_out)}


@dataclass(frozen=True, kw_only=True)
class Into:
    """Where answers go: policy, round, and whether the policy is the one that everything started from."""

    policy: str
    round: int
    base_policy: str

    def __post_init__(self) -> None:
        check_name(self.policy, "policy")
        if self.round < 0:
            raise ConfigError(f"--round {self.round}: give at least 0")

    @property
    def is_base(self) -> bool:
        return self.policy == self.base_policy


def round_of(store: Store, policy: str) -> int:
    """The round of a policy that is not told one: where it was last seen, else one after the last (0 at the start)."""
    said = store.policies()
    mine = [row["round"] for row in said if row["policy"] == policy]
    return max(mine) if mine else max((row["round"] + 1 for row in said), default=0)


def ingest_files(
    store: Store,
    files: Sequence[str],
    into: Into,
    read: ReadOptions,
    *,
    now: float,
    logprob: str | None = None,
    annotator: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Ingested:
    """Answers of a policy from files in any shape that `read_groups` reads.

    logprob    a column with the policy's log-probability of each answer
    annotator  take the files' preferences as labels by this name (its votes as NAME-1, NAME-2, ...)
    """
    if logprob is not None and annotator is not None:
        raise ConfigError("--logprob and --labels-by exclude each other: ingest the file twice, once with each")
    report = ReadReport()
    options = replace(read, rating_key=logprob) if logprob is not None else read
    found = ingest_groups(
        store, read_groups(files, options, report=report), into, now=now, is_logprob=logprob is not None,
        annotator=annotator, progress=progress,
    )  # fmt: skip
    found.dropped = [row._asdict() for row in report.dropped]
    found.warnings = list(report.warnings)
    return found


def ingest_groups(
    store: Store,
    groups: Iterable[Group],
    into: Into,
    *,
    now: float,
    is_logprob: bool = False,
    annotator: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Ingested:
    """Answers of a policy from groups; with `is_logprob` their ratings are the policy's log-probabilities."""
    found = Ingested(into.policy, into.round)
    prompts: set[int] = set()
    for part in parts(groups, GROUPS_AT_ONCE):
        asked = store.add_prompts(
            NewPrompt(messages=g.prompt, source=g.source, tags=g.tags, tools=g.tools, template_kwargs=g.template_kwargs)
            for g in part
        )
        said = store.add_responses(
            new_response(prompt, response, into, logprob)
            for group, prompt in zip(part, asked.ids, strict=True)
            for response, logprob in zip(group.responses, _ratings(group, is_logprob), strict=True)
        )
        prompts |= set(asked.ids)
        found.groups += len(part)
        found.new_prompts += asked.new
        found.responses += len(said.ids)
        found.new_responses += said.new
        if annotator is not None:
            _keep_labels(store, part, asked.ids, said.ids, into, annotator, now, found)
        if progress is not None:
            progress(len(part))
    found.prompts = len(prompts)
    return found


def new_response(prompt_id: int, messages: Messages, into: Into, logprob: float | None) -> NewResponse:
    """An answer of the policy; what the base policy says has its log-probability as the base one too."""
    return NewResponse(
        prompt_id=prompt_id, messages=messages, policy=into.policy, round=into.round, logprob=logprob,
        base_logprob=logprob if into.is_base else None,
    )  # fmt: skip


def _ratings(group: Group, is_logprob: bool) -> Sequence[float | None]:
    return group.ratings if is_logprob and group.ratings is not None else [None] * len(group.responses)


# -- labels that come with a file -----------------------------------------------------------------------------------


def _keep_labels(
    store: Store,
    groups: Sequence[Group],
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    into: Into,
    annotator: str,
    now: float,
    found: Ingested,
) -> None:
    """The groups' preferences as comparisons with labels. A soft label without votes is nobody's, and is left out."""
    pairs, votes = [], []
    start = 0
    for group, prompt in zip(groups, prompt_ids, strict=True):
        ids = response_ids[start : start + len(group.responses)]
        start += len(group.responses)
        for preference in group.preferences:
            said = preference.votes or ((preference.probability,) if preference.probability in (0.5, 1.0) else ())
            chosen, rejected = ids[preference.chosen], ids[preference.rejected]
            if not said or any(vote not in (0.0, 0.5, 1.0) for vote in said):
                found.left_out["a preference without single votes"] += 1
            elif chosen == rejected:
                found.left_out["a preference between equal answers"] += 1
            else:
                why = "came with its labels from a file"
                pairs.append(
                    NewComparison(
                        prompt_id=prompt, a_id=chosen, b_id=rejected, round=into.round, kind=IMPORTED, why=why,
                        score=float(into.round), overlap=len(said),
                    )
                )  # fmt: skip
                votes.append(said)
    added = store.add_comparisons(pairs, now)
    found.new_comparisons += added.new
    found.new_labels += store.add_labels(
        NewLabel(
            comparison_id=number, annotator=annotator if len(said) == 1 else f"{annotator}-{v + 1}",
            verdict="tie" if vote == 0.5 else "a" if (vote == 1.0) == (pair.a_id < pair.b_id) else "b", at=now,
        )
        for number, pair, said in zip(added.ids, pairs, votes, strict=True)
        for v, vote in enumerate(said)
    )  # fmt: skip


# -- a policy that is sampled now -----------------------------------------------------------------------------------


def ingest_sampled(
    store: Store,
    prompts: Sequence[Messages],
    load: Callable[[], Sampler],
    output: Path,
    into: Into,
    *,
    n: int,
    seed: int,
    identity: dict[str, Any],
    now: float,
    progress: Callable[[int], None] | None = None,
) -> Ingested:
    """Let a policy answer each prompt `n` times into the file `output`, then take that file in.

    A file that is there and whole is not sampled again, nor the policy loaded; an interrupted one goes on. ConfigError
    where it was sampled otherwise: `identity` says how.
    """
    mark = output.with_suffix(".json")
    identity = json.loads(
        json.dumps({**identity, "name": into.policy, "prompts": [content_hash(prompt, ()) for prompt in prompts]})
    )
    if output.exists():
        before = json.loads(mark.read_text(encoding="utf-8")) if mark.exists() else {}
        changed = sorted(key for key in identity if before.get(key) != identity[key])
        if changed:
            raise ConfigError(
                f"{output} was sampled with other {' and '.join(changed)}; give another --policy or --round, or "
                "remove that file"
            )
        written = {"rows": 0, "cut": 0}
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(json.dumps(identity), encoding="utf-8")
        try:
            written = write_candidates(
                prompts, load(), output, n=n, seed=seed, resume=True, identity=identity, progress=progress
            )
        except Interrupted:
            raise Interrupted(f"the answers so far are in {output}.partial; the same command goes on") from None
    # A server need not say how likely its answers were.
    found = ingest_files(store, [str(output)], into, ReadOptions(), now=now, logprob="base_logprob")
    found.sampled, found.cut = written["rows"], written["cut"]
    found.warnings = [said for said in found.warnings if "columns that nothing reads" not in said]  # our own file's
    return found


def sampled_file(folder: Path, into: Into) -> Path:
    """Where the answers of a policy in a round are sampled to."""
    return folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', into.policy)}-{into.round}.jsonl"


def stored_prompts(store: Store, limit: int | None = None) -> list[Messages]:
    """The project's prompts, the first `limit`. DataError where it has none."""
    prompts = [prompt.messages for prompt in islice(store.prompts(), limit)]
    if not prompts:
        raise DataError("the project has no prompts yet; name a file of prompts")
    return prompts


# -- the exact bench's policies -------------------------------------------------------------------------------------


def ingest_tilted(
    store: Store,
    pools: Sequence[Pool],
    rewards: Sequence[Floats],
    into: Into,
    *,
    method: str,
    strength: float,
    n: int,
    seed: int,
    base_n: int = 0,
    now: float,
) -> Ingested:
    """`n` answers a prompt drawn from the policy that optimises `rewards` exactly, over recorded candidates.

    method    tilt (strength = the SD of a prompt's rewards over beta) or best_of_n_iid (strength = n of best of n)
    rewards   a finite one for every answer of `pools`
    base_n    draws of the base policy too, which go in under its own name (0: none)
    Log-probabilities under both policies are exact. Equal draws are one answer.
    """
    found = Ingested(into.policy, into.round)
    weights = tilted_weights(pools, rewards, method, strength)
    asked = store.add_prompts(
        NewPrompt(messages=p.group.prompt, source=p.group.source, tags=p.group.tags) for p in pools
    )
    base = Into(policy=into.base_policy, round=into.round, base_policy=into.base_policy)
    rows: list[NewResponse] = []
    for pool, prompt, p_K in zip(pools, asked.ids, weights, strict=True):
        for to, q_K, times in ((into, p_K, n), (base, pool.base_K, base_n)):
            generator = np.random.default_rng([seed, _number(f"{to.policy} {to.round} {pool.group.prompt_id}")])
            for k in np.unique(generator.choice(len(q_K), size=times, p=q_K)).tolist() if times else ():
                row = new_response(prompt, pool.group.responses[k], to, float(np.log(q_K[k])))
                rows.append(replace(row, base_logprob=float(np.log(pool.base_K[k]))))
    said = store.add_responses(rows)
    found.groups = found.prompts = len(pools)
    found.new_prompts, found.responses, found.new_responses = asked.new, len(said.ids), said.new
    return found


def recorded_pools(
    files: Sequence[str], read: ReadOptions, column: str, base_logprob: str | None = None
) -> tuple[list[Pool], list[Floats], list[dict[str, Any]]]:
    """(pools, rewards by a column, what was left out) of candidates files."""
    pools, left_out, _ = read_pools(files, [column], read, base_logprob=base_logprob)
    return pools, [pool.gold_JK[0] for pool in pools], [excluded.__dict__ for excluded in left_out]


def scored_pools(
    files: Sequence[str], read: ReadOptions, scorer: Scorer, progress: Callable[[int], None] | None = None
) -> tuple[list[Pool], list[Floats], list[dict[str, Any]]]:
    """(pools, rewards by a scorer, what was left out) of candidates files; their answers count as equally likely."""
    pools = []
    for group in read_groups(files, read):
        k = len(group.responses)
        pools.append(Pool(replace(group, preferences=(), ratings=None), np.zeros((0, k)), np.full(k, 1 / k)))
    rewards = []
    for _, scores in score_stream(scorer, [pool.group for pool in pools]):
        rewards.append(scores.rewards)
        if progress is not None:
            progress(1)
    pools, rewards, left_out = without_unscored(pools, rewards)
    return pools, rewards, [excluded.__dict__ for excluded in left_out]


def tilted_weights(pools: Sequence[Pool], rewards: Sequence[Floats], method: str, strength: float) -> list[Floats]:
    """[K] probabilities of each prompt's answers under the optimised policy."""
    if not strength > 0:
        raise ConfigError(f"--strength {strength}: give a number above 0")
    sd = within_sd(rewards)
    if sd == 0:
        raise DataError("all answers of every prompt have the same reward: there is nothing to optimise")
    if method == "tilt":
        return [policies.tilt(r, p.base_K, [sd / strength])[0] for p, r in zip(pools, rewards, strict=True)]
    if method == "best_of_n_iid":
        if strength < 1:
            raise ConfigError(f"--strength {strength}: best of n draws at least 1")
        return [policies.best_of_n_iid(r, p.base_K, [strength])[0] for p, r in zip(pools, rewards, strict=True)]
    raise ConfigError(f"method {method!r}: give tilt or best_of_n_iid")


def _number(text: str) -> int:
    """A number from a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
