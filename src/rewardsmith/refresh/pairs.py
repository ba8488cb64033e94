"""Pairs that are worth a label, and the sets of answers that are ranked together; labelled ones as groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

from rewardsmith.data.schema import Group, preference_between
from rewardsmith.errors import DataError
from rewardsmith.refresh.connect import parts
from rewardsmith.refresh.material import Material, prompt_of, response_of
from rewardsmith.refresh.records import (
    JUDGED,
    MOST_ANSWERS,
    Added,
    Comparison,
    NewComparison,
    Source,
    storable,
)
from rewardsmith.refresh.tables import comparisons, labels, prompts, responses, sa

PROPOSING = 7213  # PostgreSQL's lock under which pairs are added; SQLite has one writer at a time anyway
SETS_AT_ONCE = 100
number = sa.func.coalesce(comparisons.c.set_id, comparisons.c.id)  # of the set, or of the pair by itself
FIRST_WINS = {"a": 1.0, "tie": 0.5, "b": 0.0}  # of a verdict


class Pairs(Material):
    """Comparisons, by themselves and in sets."""

    def add_comparisons(self, new: Iterable[NewComparison], at: float) -> Added:
        """Propose pairs; their ids, in order. A pair that is there stays as it is.

        DataError where the two are one response, or a response is not one of the prompt's.
        """
        numbers, added = [], 0
        for part in parts(new):
            rows = [_row(pair, at) for pair in part]
            with self.writing() as connection:
                alone(connection, PROPOSING)
                _check_prompts(connection, rows)
                added += self.insert_new(connection, comparisons, rows)
                ids = _ids(connection, rows)
            numbers += [ids[row["a_id"], row["b_id"]] for row in rows]
        return Added(numbers, added)

    def add_sets(self, sets: Iterable[Sequence[NewComparison]], at: float) -> int:
        """Propose answers to be ranked together, each set as all pairs among them; a single pair is one by itself.

        Returns how many pairs were added: all, or none where it fails. A set of which a pair was proposed before is
        left out whole.
        DataError where one is no set: a pair is missing, or they differ in prompt, round, score or overlap.
        """
        wanted = [_set_rows(pairs, at) for pairs in sets]
        added = 0
        with self.writing() as connection:
            alone(connection, PROPOSING)
            for part in parts(wanted, SETS_AT_ONCE):
                rows = [row for of_set in part for row in of_set]
                _check_prompts(connection, rows)
                there = set(_ids(connection, rows))
                new = []
                for of_set in part:
                    pairs = {(row["a_id"], row["b_id"]) for row in of_set}
                    if not pairs & there:
                        new.append(of_set)
                        there |= pairs
                added += self.insert_new(connection, comparisons, [row for of_set in new for row in of_set])
                ids = _ids(connection, rows)
                for of_set in new:
                    if len(of_set) > 1:
                        mine = [ids[row["a_id"], row["b_id"]] for row in of_set]
                        theirs = sa.update(comparisons).where(comparisons.c.id.in_(mine))
                        connection.execute(theirs.values(set_id=min(mine)))
        return added

    def comparison(self, comparison_id: int) -> Comparison:
        """One comparison with its texts; DataError where there is none of that number."""
        with self.reading() as connection:
            return with_texts(connection, [comparison_id])[0]

    def comparisons(self, ids: Sequence[int]) -> list[Comparison]:
        """Comparisons with their texts, in the order of the ids; DataError where one is not there."""
        with self.reading() as connection:
            return [pair for part in parts(ids) for pair in with_texts(connection, part)]

    def compared(self, prompt_ids: Iterable[int]) -> dict[int, list[tuple[int, int]]]:
        """{prompt: its pairs of responses, lower id first}, in the order in which they were proposed."""
        found: dict[int, list[tuple[int, int]]] = {}
        c = comparisons.c
        with self.reading() as connection:
            for part in parts(prompt_ids):
                theirs = sa.select(c.prompt_id, c.a_id, c.b_id).where(c.prompt_id.in_(part)).order_by(c.id)
                for prompt, a, b in connection.execute(theirs):
                    found.setdefault(prompt, []).append((a, b))
        return found

    def proposed(self, round: int) -> dict[str, int]:
        """{kind: how many pairs were proposed in a round}."""
        c = comparisons.c
        counted = sa.select(c.kind, sa.func.count()).where(c.round == round).group_by(c.kind)
        with self.reading() as connection:
            return {kind: n for kind, n in connection.execute(counted)}  # noqa: C416 - rows are no pairs to mypy

    def pairs_of_round(self, round: int, kinds: Sequence[str], most: int) -> list[tuple[int, int, int, int]]:
        """(prompt, a, b, number) of the last `most` pairs of these kinds that were proposed in a round, the last first.

        Pairs that are ranked together have one number.
        """
        c = comparisons.c
        theirs = sa.select(c.prompt_id, c.a_id, c.b_id, number).where(c.round == round, c.kind.in_(kinds))
        with self.reading() as connection:
            theirs = theirs.order_by(c.id.desc()).limit(most)
            return [(prompt, a, b, n) for prompt, a, b, n in connection.execute(theirs)]

    def open_comparisons(self, limit: int | None = None, *, round: int | None = None) -> list[Comparison]:
        """The queue without leases, the next one first: for a labeller that works alone (a judge, gold)."""
        chosen = sa.select(comparisons.c.id).where(sa.text("is_open = 1"))
        if round is not None:
            chosen = chosen.where(comparisons.c.round == round)
        with self.reading() as connection:
            ids = connection.execute(in_turn(chosen).limit(limit)).scalars().all()
            return [pair for part in parts(ids) for pair in with_texts(connection, part)]

    def labelled_groups(
        self, *, rounds: Sequence[int] | None = None, sources: Sequence[Source] | None = None
    ) -> Iterator[Group]:
        """Each labelled comparison as a group of two, in the order they were proposed; flagged ones are left out.

        The preference's probability is the share of the labels, ties counted half; `votes` are the labels. Tags are the
        prompt's and round, kind, policy_a and policy_b.
        """
        said = (labels.c.verdict.in_(JUDGED)) & labels.c.undone_at.is_(None)
        if sources is not None:
            said &= labels.c.source.in_(sources)
        conditions = [comparisons.c.given > 0, comparisons.c.flags == 0]
        if rounds is not None:
            conditions.append(comparisons.c.round.in_(rounds))
        for page in parts(self._rows(comparisons, None, *conditions)):
            ids = [row.id for row in page]
            votes: dict[int, list[float]] = {i: [] for i in ids}
            with self.reading() as connection:
                chosen = sa.select(labels).where(said, labels.c.comparison_id.in_(ids)).order_by(labels.c.id)
                for label in connection.execute(chosen):
                    votes[label.comparison_id].append(FIRST_WINS[label.verdict])
                full = with_texts(connection, [i for i in ids if votes[i]])
            for pair in full:
                yield group_of(pair, votes[pair.id])


def group_of(pair: Comparison, votes: Sequence[float]) -> Group:
    """A comparison with its labels (1: a is better, 0: b, 0.5: a tie) as a group of two."""
    return Group(
        prompt=pair.prompt.messages,
        responses=(pair.a.messages, pair.b.messages),
        preferences=(preference_between(0, 1, sum(votes) / len(votes), votes=votes),) if votes else (),
        tags={
            **pair.prompt.tags,
            "round": str(pair.round),
            "kind": pair.kind,
            "policy_a": pair.a.policy,
            "policy_b": pair.b.policy,
        },
        tools=pair.prompt.tools,
        template_kwargs=pair.prompt.template_kwargs,
        note=pair.why,
        source=f"comparison:{pair.id}",
    )


def _row(pair: NewComparison, at: float) -> dict[str, Any]:
    """A comparison as it is kept: the lower id is a."""
    if pair.a_id == pair.b_id:
        raise DataError(f"response {pair.a_id} cannot be compared with itself")
    if pair.overlap < 1:
        raise DataError(f"overlap {pair.overlap}: at least one label is wanted")
    low, high = sorted((pair.a_id, pair.b_id))
    return {
        "prompt_id": pair.prompt_id, "a_id": low, "b_id": high, "round": pair.round, "kind": pair.kind,
        "why": storable(pair.why), "score": pair.score, "proposed_at": at, "overlap": pair.overlap,
        "given": 0, "flags": 0, "is_open": 1,
    }  # fmt: skip


def _set_rows(pairs: Sequence[NewComparison], at: float) -> list[dict[str, Any]]:
    """A set's pairs as they are kept, in the order of their answers. DataError where they are not those of one set."""
    rows = sorted((_row(pair, at) for pair in pairs), key=lambda row: (row["a_id"], row["b_id"]))
    answers = sorted({i for row in rows for i in (row["a_id"], row["b_id"])})
    if not rows or [(row["a_id"], row["b_id"]) for row in rows] != list(combinations(answers, 2)):
        raise DataError(
            f"responses {answers}: a set is all pairs among its answers, each once, not {len(rows)} of them"
        )
    if len(answers) > MOST_ANSWERS:
        raise DataError(f"{len(answers)} answers in a set: at most {MOST_ANSWERS} can be ranked together")
    for name in ("prompt_id", "round", "score", "overlap"):
        if len(stated := {row[name] for row in rows}) > 1:
            raise DataError(f"responses {answers}: the pairs of a set have one {name}, not {sorted(stated)}")
    return rows


def _check_prompts(connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """DataError where a response is not one of the prompt's."""
    ids = {i for row in rows for i in (row["a_id"], row["b_id"])}
    said = sa.select(responses.c.id, responses.c.prompt_id).where(responses.c.id.in_(ids))
    prompt_of_id = {row.id: row.prompt_id for row in connection.execute(said)}
    for row in rows:
        if {prompt_of_id.get(row["a_id"]), prompt_of_id.get(row["b_id"])} != {row["prompt_id"]}:
            raise DataError(f"responses {row['a_id']} and {row['b_id']} are not both of prompt {row['prompt_id']}")


def _ids(connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> dict[tuple[int, int], int]:
    """{(a, b): id} of all pairs of the rows' prompts that are there."""
    c = comparisons.c
    theirs = sa.select(c.id, c.a_id, c.b_id).where(c.prompt_id.in_({row["prompt_id"] for row in rows}))
    return {(row.a_id, row.b_id): row.id for row in connection.execute(theirs)}


def alone(connection: sa.Connection, lock: int) -> None:
    """Wait until no other transaction is at this kind of work."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))


def in_turn(chosen: sa.Select[Any]) -> sa.Select[Any]:
    """In the order of the queue."""
    return chosen.order_by(comparisons.c.score.desc(), comparisons.c.id)


def with_texts(connection: sa.Connection, ids: Sequence[int]) -> list[Comparison]:
    """Comparisons with their texts, in the order of the ids."""
    rows = {row.id: row for row in connection.execute(sa.select(comparisons).where(comparisons.c.id.in_(ids)))}
    missing = [i for i in ids if i not in rows]
    if missing:
        raise DataError(f"comparison {missing[0]}: there is none of that number")
    some = {row.prompt_id for row in rows.values()}
    asked = {r.id: prompt_of(r) for r in connection.execute(sa.select(prompts).where(prompts.c.id.in_(some)))}
    some = {i for row in rows.values() for i in (row.a_id, row.b_id)}
    said = {r.id: response_of(r) for r in connection.execute(sa.select(responses).where(responses.c.id.in_(some)))}
    return [_comparison(rows[i], asked[rows[i].prompt_id], said[rows[i].a_id], said[rows[i].b_id]) for i in ids]


def _comparison(row: Any, prompt: Any, a: Any, b: Any) -> Comparison:
    return Comparison(
        row.id, prompt, a, b, row.round, row.kind, row.why, row.score, row.proposed_at, row.overlap, row.given,
        row.flags, bool(row.is_open), row.set_id,
    )  # fmt: skip
