"""Prompts, responses with the policies that said them, and rewards: the part of a store that ingest fills."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rewardsmith.refresh.connect import Database, parts
from rewardsmith.refresh.records import Added, NewPrompt, NewResponse, Prompt, Response, pack, unpack
from rewardsmith.refresh.tables import draws, models, prompts, responses, sa, scores


class Material(Database):
    """Prompts, responses, draws and scores."""

    def add_prompts(self, new: Iterable[NewPrompt]) -> Added:
        """Ids of the prompts, in order. One that is there already keeps its source and tags."""
        ids, added = [], 0
        for part in parts(new):
            rows = [
                {
                    "key": prompt.key,
                    "messages": pack(prompt.messages),
                    "context": prompt.context,
                    "source": prompt.source,
                    "tags": json.dumps(dict(prompt.tags)),
                }
                for prompt in part
            ]
            with self.writing() as connection:
                added += self.insert_new(connection, prompts, rows)
                ids += ids_of(connection, prompts, [prompt.key for prompt in part])
        return Added(ids, added)

    def add_responses(self, new: Iterable[NewResponse]) -> Added:
        """Ids of the responses, in order. One that is there already gets this policy and round as a further draw."""
        ids, added = [], 0
        for part in parts(new):
            rows = [
                {
                    "prompt_id": response.prompt_id,
                    "key": response.key,
                    "messages": pack(response.messages),
                    "policy": response.policy,
                    "round": response.round,
                    "base_logprob": response.base_logprob,
                }
                for response in part
            ]
            with self.writing() as connection:
                added += self.insert_new(connection, responses, rows)
                found = ids_of(connection, responses, [response.key for response in part])
                said = [
                    {
                        "response_id": i,
                        "prompt_id": response.prompt_id,
                        "policy": response.policy,
                        "round": response.round,
                        "logprob": response.logprob,
                    }
                    for i, response in zip(found, part, strict=True)
                ]
                self.insert_new(connection, draws, said)
            ids += found
        return Added(ids, added)

    def prompts(self, ids: Sequence[int] | None = None) -> Iterator[Prompt]:
        """All prompts, or those of the ids, by id."""
        for row in self._rows(prompts, ids):
            yield prompt_of(row)

    def responses(
        self, ids: Sequence[int] | None = None, *, policy: str | None = None, round: int | None = None
    ) -> Iterator[Response]:
        """Responses by id: all, those of the ids, or those that a policy said (in a round)."""
        if policy is None and round is None:
            for row in self._rows(responses, ids):
                yield response_of(row)
            return
        said = sa.select(draws.c.response_id)
        if policy is not None:
            said = said.where(draws.c.policy == policy)
        if round is not None:
            said = said.where(draws.c.round == round)
        for row in self._rows(responses, ids, responses.c.id.in_(said)):
            yield response_of(row)

    def policies(self) -> list[dict[str, Any]]:
        """[{"policy", "round", "responses"}], the earliest round first."""
        counted = sa.select(draws.c.policy, draws.c.round, sa.func.count()).group_by(draws.c.policy, draws.c.round)
        with self.reading() as connection:
            found = [{"policy": p, "round": r, "responses": n} for p, r, n in connection.execute(counted)]
        return sorted(found, key=lambda row: (row["round"], row["policy"]))

    def prompts_drawn(self, policies: Sequence[str], round: int) -> list[int]:
        """Ids of the prompts that any of these policies answered in a round, in order."""
        said = sa.select(draws.c.prompt_id).where(draws.c.policy.in_(policies), draws.c.round == round).distinct()
        with self.reading() as connection:
            return sorted(connection.execute(said).scalars())

    def drawn(
        self, prompt_ids: Iterable[int], policies: Sequence[str], round: int | None = None
    ) -> dict[int, list[int]]:
        """{prompt: ids of what these policies said to it}, in a round or in any."""
        found: dict[int, set[int]] = {}
        d = draws.c
        with self.reading() as connection:
            rounds = [round]
            if round is None:  # named one by one, so that the index is used
                rounds = list(connection.execute(sa.select(d.round).where(d.policy.in_(policies)).distinct()).scalars())
            for part in parts(prompt_ids):
                said = sa.select(d.prompt_id, d.response_id).where(
                    d.policy.in_(policies), d.round.in_(rounds), d.prompt_id.in_(part)
                )
                for prompt, response in connection.execute(said):
                    found.setdefault(prompt, set()).add(response)
        return {prompt: sorted(ids) for prompt, ids in found.items()}

    def last_round(self) -> int:
        """The highest round that a response was drawn in; 0 in an empty store."""
        with self.reading() as connection:
            return int(connection.execute(sa.select(sa.func.max(draws.c.round))).scalar() or 0)

    def unscored(self, model: str, *, policy: str | None = None) -> Iterator[Response]:
        """Responses that have no reward by this model yet, by id."""
        missing = ~sa.exists().where(
            scores.c.response_id == responses.c.id,
            scores.c.model_id == sa.select(models.c.id).where(models.c.name == model).scalar_subquery(),
        )
        conditions = [missing]
        if policy is not None:
            conditions.append(responses.c.id.in_(sa.select(draws.c.response_id).where(draws.c.policy == policy)))
        for row in self._rows(responses, None, *conditions):
            yield response_of(row)

    def set_scores(self, model: str, rewards: Mapping[int, tuple[float, float | None]]) -> int:
        """Keep {response id: (reward, std or None)} by a registered model; returns how many were not there before."""
        from rewardsmith.refresh.registry import model_id

        added = 0
        for part in parts(rewards.items()):
            with self.writing() as connection:
                model_row = model_id(connection, model)
                rows = [
                    {"model_id": model_row, "response_id": i, "reward": reward, "std": std} for i, (reward, std) in part
                ]
                added += self.insert_new(connection, scores, rows)
        return added

    def scores(self, model: str, ids: Sequence[int] | None = None) -> dict[int, tuple[float, float | None]]:
        """{response id: (reward, std or None)} by a model; of the ids, or of all."""
        chosen = (
            sa.select(scores.c.response_id, scores.c.reward, scores.c.std)
            .join(models, models.c.id == scores.c.model_id)
            .where(models.c.name == model)
        )
        found: dict[int, tuple[float, float | None]] = {}
        with self.reading() as connection:
            for part in parts(ids) if ids is not None else [None]:
                some = chosen if part is None else chosen.where(scores.c.response_id.in_(part))
                found |= {i: (reward, std) for i, reward, std in connection.execute(some)}
        return found

    def _rows(self, table: sa.Table, ids: Sequence[int] | None, *where: Any) -> Iterator[Any]:
        """Rows by id, a thousand at a time, each page a transaction of its own: nothing is held while they are used."""
        if ids is not None:
            for part in parts(sorted(set(ids))):
                with self.reading() as connection:
                    page = connection.execute(
                        sa.select(table).where(table.c.id.in_(part), *where).order_by(table.c.id)
                    ).all()
                yield from page
            return
        last = 0
        while True:
            with self.reading() as connection:
                page = connection.execute(
                    sa.select(table).where(table.c.id > last, *where).order_by(table.c.id).limit(1000)
                ).all()
            if not page:
                return
            yield from page
            last = page[-1].id


def ids_of(connection: sa.Connection, table: sa.Table, keys: Sequence[str]) -> list[int]:
    """Ids of the rows with these keys, in order."""
    chosen = sa.select(table.c.key, table.c.id).where(table.c.key.in_(keys))
    found = {row.key: row.id for row in connection.execute(chosen)}
    return [found[key] for key in keys]


def prompt_of(row: Any) -> Prompt:
    context = json.loads(row.context) if row.context else {}
    return Prompt(
        row.id, unpack(row.messages), row.source, json.loads(row.tags), context.get("tools"),
        context.get("template_kwargs") or {},
    )  # fmt: skip


def response_of(row: Any) -> Response:
    return Response(row.id, row.prompt_id, unpack(row.messages), row.policy, row.round, row.base_logprob)
