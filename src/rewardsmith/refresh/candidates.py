"""Where the answers of a round come from: recorded candidates, or a policy that is sampled anew in every round."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.convert import replacing
from rewardsmith.data.fields import messages
from rewardsmith.data.options import ReadOptions
from rewardsmith.data.schema import Group, Message, Messages, content_hash
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.overoptimization.candidates import Pool, read_pools
from rewardsmith.overoptimization.sample import Sampler, write_candidates
from rewardsmith.scoring import Scorer, Scores
from rewardsmith.statistics import Floats


class RecordedScorer:
    """What answers are worth by a table, as a scorer; NaN for an answer that is not in it."""

    def __init__(self, worth: Iterable[tuple[Group, Floats]]) -> None:
        self.worth = {
            content_hash(group.prompt, (response,)): float(value)
            for group, values in worth
            for response, value in zip(group.responses, values, strict=True)
        }

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        return [
            Scores(np.array([self.worth.get(content_hash(g.prompt, (r,)), np.nan) for r in g.responses]))
            for g in groups
        ]


class Recorded:
    """The same candidates in every round. `gold` is a scorer of the column that was named, or None."""

    def __init__(self, files: Sequence[str], column: str | None, limit: int | None = None) -> None:
        if column is not None:
            self.pools, _, _ = read_pools(files, [column], ReadOptions(), limit=limit)
            self.gold: Scorer | None = RecordedScorer((pool.group, pool.gold_JK[0]) for pool in self.pools)
        else:
            self.pools, self.gold = pools_of(files, limit), None

    def __call__(self, round: int) -> list[Pool]:
        return self.pools


class Sampled:
    """`n` answers to each prompt, sampled in every round into `folder`/round-R.jsonl; a file that is whole is kept.

    sampler   round -> who answers; asked only where something is left to sample
    identity  what the answers depend on: ConfigError where a file was sampled otherwise
    """

    gold: Scorer | None = None

    def __init__(
        self,
        folder: Path,
        prompts: Sequence[Messages],
        sampler: Callable[[int], Sampler],
        *,
        n: int,
        seed: int,
        identity: Mapping[str, Any],
    ) -> None:
        self.folder, self.prompts, self.sampler, self.n, self.seed = folder, prompts, sampler, n, seed
        self.identity = json.loads(json.dumps(dict(identity)))

    def __call__(self, round: int) -> list[Pool]:
        file = self.folder / f"round-{round}.jsonl"
        mark = file.with_suffix(".json")
        if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) != self.identity:
            raise ConfigError(f"{file} was sampled with other options; give those, or begin another project")
        if not file.exists():
            with replacing(mark) as temporary:
                temporary.write_text(json.dumps(self.identity), encoding="utf-8")
            write_candidates(
                self.prompts, self.sampler(round), file, n=self.n, seed=self.seed + 10_000 * round, resume=True,
                identity=self.identity,
            )  # fmt: skip
        return pools_of([str(file)])


def pools_of(files: Sequence[str], limit: int | None = None) -> list[Pool]:
    """Candidates of `rewardsmith sample`, or of any file with rows of prompt and response, as pools without gold.

    A sample stands for its policy: what was said c times of n has probability c / n. Blank answers, and prompts with
    fewer than two different ones, are left out. DataError where nothing stays.
    """
    from rewardsmith.data.files import data_files, read_rows

    said: dict[str, tuple[Messages, Counter[str]]] = {}
    for path in files:
        for name in data_files(path):
            for row in read_rows(name):
                value = row.value or {}
                if not isinstance(value.get("response"), str) or "prompt" not in value:
                    raise DataError(f"{name}:{row.line}: a row of candidates has prompt and response; {row.reason}")
                prompt = messages(value["prompt"], "prompt", "user")
                counts = said.setdefault(content_hash(prompt, ()), (prompt, Counter()))[1]
                counts[value["response"]] += bool(value["response"].strip())
    pools = []
    for prompt, counts in list(said.values())[:limit]:
        answers = {text: n for text, n in counts.items() if n}
        if len(answers) > 1:
            group = Group(prompt=prompt, responses=tuple((Message("assistant", text),) for text in answers))
            base_K = np.array(list(answers.values()), np.float64)
            pools.append(Pool(group, np.zeros((0, len(answers))), base_K / base_K.sum()))
    if not pools:
        raise DataError(f"{', '.join(files)}: no prompt has two different answers")
    return pools
