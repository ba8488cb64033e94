"""Recorded candidates: prompts with several answers each, what they are worth, and how likely they were.

A candidates file is a preference file of any shape that has several rated answers to a prompt (one answer a row with
a score, or lists); the columns named by `gold` are read as ratings, one after the other, and joined by prompt and
answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from rewardsmith.data.files import data_files, read_rows
from rewardsmith.data.options import ReadOptions, ReadReport
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group, Messages, content_hash, text_of
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.statistics import Floats

SUM_TOLERANCE = 1e-3  # of a prompt's base probabilities: files round
LIKE_GOLD = 0.999
LOOKED_AT = 200  # rows of a file that say which columns it has


@dataclass(frozen=True)
class Excluded:
    """What was left out, why, and how often."""

    reason: str
    count: int


@dataclass(frozen=True)
class Pool:
    """One prompt's K candidates that have everything that was asked for.

    gold_JK     what each answer is worth, by each of J gold columns
    base_K      the base policy's probability of each, summing to 1
    recorded_K  a reward from the file, where one was named
    members_MK  the rewards of an ensemble's members, where one gave them
    """

    group: Group
    gold_JK: Floats
    base_K: Floats
    recorded_K: Floats | None = None
    members_MK: Floats | None = None

    @property
    def length_K(self) -> Floats:
        """Characters of each answer."""
        return np.array([len(text_of(response)) for response in self.group.responses], float)

    def keep(self, index: Sequence[int]) -> Pool:
        """The pool without its other answers; base probabilities are those of a draw among the ones that stay."""
        base_K = self.base_K[index]
        return Pool(
            group=_with_answers(self.group, index),
            gold_JK=self.gold_JK[:, index],
            base_K=base_K / base_K.sum(),
            recorded_K=None if self.recorded_K is None else self.recorded_K[index],
            members_MK=None if self.members_MK is None else self.members_MK[:, index],
        )


def read_pools(
    files: Sequence[str],
    gold: Sequence[str],
    read: ReadOptions,
    *,
    base: str | None = None,
    base_logprob: str | None = None,
    recorded: str | None = None,
    limit: int | None = None,
) -> tuple[list[Pool], list[Excluded], ReadReport]:
    """(pools, what was left out, report) of candidates files.

    Answers without one of the named columns, prompts with one answer left, and prompts whose `base` probabilities do
    not sum to 1 are left out and counted. `base_logprob` (sums of log-probabilities) is made a distribution over the
    prompt's answers; without either, answers are alike likely, as samples of one policy are.
    Raises ConfigError for options that contradict each other, DataError where a file cannot be read, no prompt is
    left, or `recorded` is a copy of a gold column.
    """
    if not files:
        raise ConfigError("name a candidates file: prompts with several answers each, and a column of gold")
    if not gold:
        raise ConfigError("--gold: name the column that says what an answer is worth")
    if len(set(gold)) < len(gold):
        raise ConfigError(f"--gold {' '.join(gold)}: a column is named twice")
    if base and base_logprob:
        raise ConfigError("--base and --base-logprob exclude each other: probabilities, or their logarithms")
    columns = [*gold, *(c for c in (base or base_logprob, recorded) if c)]
    groups, report = _read(files, columns[0], read)
    groups = groups[:limit]
    values = [{key_of(group): _values(group) for group in groups}]
    for column in columns[1:]:
        found, more = _read(files, column, read)
        values.append({key_of(group): _values(group) for group in found})
        report.dropped += [row for row in more.dropped if row not in report.dropped]
    left_out: Counter[str] = Counter(row.reason for row in report.dropped)
    pools = []
    for group in groups:
        pool = _pool(group, values, columns, len(gold), bool(base), bool(base_logprob), bool(recorded), left_out)
        if pool is not None:
            pools.append(pool)
    if not pools:
        refuse_missing_columns(files, columns)
        worst = "; ".join(f"{reason} ({count})" for reason, count in left_out.most_common(3))
        raise DataError(f"{', '.join(files)}: no prompt has two answers with {', '.join(columns)}: {worst}")
    if recorded:
        refuse_gold_as_reward(pools, gold, recorded)
    return pools, [Excluded(*item) for item in left_out.most_common()], report


def _read(files: Sequence[str], column: str, read: ReadOptions) -> tuple[list[Group], ReadReport]:
    """The groups with one column as ratings."""
    report = ReadReport()
    try:
        return list(read_groups(files, replace(read, rating_key=column), report=report)), report
    except DataError as error:
        refuse_missing_columns(files, [column])
        raise DataError(f"{error} (read for its column {column!r})") from None


def refuse_missing_columns(files: Sequence[str], names: Sequence[str]) -> None:
    """DataError where a file has no column of such a name, with those that it has; a reader knows shapes only."""
    for file in (file for given in files for file in data_files(given)):
        found = columns_of(file)
        if missing := [name for name in names if found and name not in found]:
            raise DataError(f"{file} has no column {missing[0]!r}; it has: {', '.join(found)}")


def columns_of(file: str) -> list[str]:
    """Names in the first rows of a file, in order; those within lists of answers too."""
    rows = [row.value for row in islice(read_rows(file), LOOKED_AT) if row.value is not None]
    lists = [value for row in rows for value in row.values() if isinstance(value, list)]
    inner = [answer for answers in lists for answer in answers if isinstance(answer, dict)]
    return list(dict.fromkeys(str(name) for row in (*rows, *inner) for name in row))


def key_of(group: Group) -> str:
    """The prompt with its id: what the readings of a file are joined by."""
    return f"{group.id} {content_hash(group.prompt, ())}"


def _values(group: Group) -> dict[Messages, list[float | None]]:
    """The ratings of each answer, in the file's order: two systems may have given the same one."""
    found: dict[Messages, list[float | None]] = {}
    for response, rating in zip(group.responses, group.ratings or [None] * len(group.responses), strict=True):
        found.setdefault(response, []).append(rating)
    return found


def _pool(
    group: Group,
    values: Sequence[dict[str, dict[Messages, list[float | None]]]],
    columns: Sequence[str],
    n_gold: int,
    is_base: bool,
    is_logprob: bool,
    is_recorded: bool,
    left_out: Counter[str],
) -> Pool | None:
    """The group's pool, or None; what is missing is counted."""
    key = key_of(group)
    seen: Counter[Messages] = Counter()
    rows: list[list[float]] = []
    kept = []
    for k, response in enumerate(group.responses):
        given = [of.get(key, {}).get(response, [])[seen[response] :][:1] for of in values]
        seen[response] += 1
        missing = [column for column, value in zip(columns, given, strict=True) if not value or value[0] is None]
        if missing:
            left_out[f"an answer without {missing[0]!r}"] += 1
            continue
        kept.append(k)
        rows.append([float(value[0]) for value in given])  # type: ignore[arg-type]
    if len(kept) < 2:
        left_out["a prompt with fewer than two answers"] += 1
        return None
    table_CK = np.array(rows).T
    base_K = np.full(len(kept), 1 / len(kept))
    if is_base or is_logprob:
        stated_K = table_CK[n_gold]
        if is_base and ((stated_K < 0).any() or abs(stated_K.sum() - 1) > SUM_TOLERANCE):
            left_out["a prompt whose base probabilities do not sum to 1"] += 1
            return None
        weight_K = np.exp(stated_K - stated_K.max()) if is_logprob else stated_K
        base_K = weight_K / weight_K.sum()
    recorded_K = table_CK[-1] if is_recorded else None
    return Pool(_with_answers(group, kept), table_CK[:n_gold], base_K, recorded_K)


def _with_answers(group: Group, index: Sequence[int]) -> Group:
    """The group with some of its answers; what is known of their order is in the pool."""
    return replace(group, responses=tuple(group.responses[k] for k in index), ratings=None, preferences=())


def refuse_gold_as_reward(pools: Sequence[Pool], gold: Sequence[str], recorded: str) -> None:
    """DataError where the reward is the gold itself under another name: every curve would be the oracle's."""
    reward = np.concatenate([pool.recorded_K for pool in pools if pool.recorded_K is not None])
    for j, name in enumerate(gold):
        value = np.concatenate([pool.gold_JK[j] for pool in pools])
        varies = len(value) > 2 and np.ptp(value) > 0 and np.ptp(reward) > 0
        if varies and np.corrcoef(reward, value)[0, 1] > LIKE_GOLD:
            raise DataError(f"column {recorded!r} is {name!r} itself; name a reward that is not the gold")


def without_unscored(
    pools: Sequence[Pool], rewards: Sequence[Floats]
) -> tuple[list[Pool], list[Floats], list[Excluded]]:
    """Pools and rewards without the answers whose reward is NaN; counts them, and prompts of equal rewards.

    Raises DataError where nothing is left to choose from.
    """
    kept, kept_rewards = [], []
    left_out: Counter[str] = Counter()
    for pool, reward_K in zip(pools, rewards, strict=True):
        good = np.flatnonzero(np.isfinite(reward_K))
        if lost := len(reward_K) - len(good):
            left_out["an answer without a finite reward"] += lost
        if len(good) < 2:
            left_out["a prompt with fewer than two scored answers"] += 1
            continue
        kept.append(pool if not lost else pool.keep(good.tolist()))
        kept_rewards.append(reward_K[good])
    if not kept:
        raise DataError("no prompt has two answers with a finite reward")
    if all(np.ptp(reward_K) == 0 for reward_K in kept_rewards):
        raise DataError("all answers of every prompt have the same reward: there is nothing to optimise")
    equal = sum(bool(np.ptp(reward_K) == 0) for reward_K in kept_rewards)
    found = [Excluded(*item) for item in left_out.most_common()]
    if equal:
        found.append(Excluded("kept: a prompt whose answers all have the same reward", equal))
    return kept, kept_rewards, found
