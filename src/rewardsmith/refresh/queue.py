"""Comparisons, who looks at which, and labels.

A comparison is open while it has fewer labels (a, b or tie) than its `overlap` and no flag. A skip hides it from the
one who skipped. A flag takes it out of the queue and out of what is trained on, until it is undone. A label that comes
after its lease ran out is kept all the same: nobody's work is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rewardsmith.data.schema import Group, preference_between
from rewardsmith.errors import DataError
from rewardsmith.refresh.connect import insert_one, parts
from rewardsmith.refresh.material import Material, prompt_of, response_of
from rewardsmith.refresh.records import (
    JUDGED,
    Added,
    Comparison,
    Label,
    Leased,
    NewComparison,
    NewLabel,
    Recorded,
    Source,
    Verdict,
    check_name,
    storable,
)
from rewardsmith.refresh.tables import comparisons, labels, leases, prompts, responses, sa

LEASING = 7212  # PostgreSQL's lock under which leases are given; SQLite has one writer at a time anyway
FIRST_WINS = {"a": 1.0, "tie": 0.5, "b": 0.0}  # of a verdict


class Queue(Material):
    """Comparisons, leases and labels."""

    def add_comparisons(self, new: Iterable[NewComparison], at: float) -> Added:
        """Propose pairs; their ids, in order. A pair that is there stays as it is.

        DataError where the two are one response, or a response is not one of the prompt's.
        """
        numbers, added = [], 0
        for part in parts(new):
            rows = [_row(pair, at) for pair in part]
            with self.writing() as connection:
                ids = {i for row in rows for i in (row["a_id"], row["b_id"])}
                said = sa.select(responses.c.id, responses.c.prompt_id).where(responses.c.id.in_(ids))
                prompt_of_id = {row.id: row.prompt_id for row in connection.execute(said)}
                for row in rows:
                    if {prompt_of_id.get(row["a_id"]), prompt_of_id.get(row["b_id"])} != {row["prompt_id"]}:
                        raise DataError(
                            f"responses {row['a_id']} and {row['b_id']} are not both of prompt {row['prompt_id']}"
                        )
                added += self.insert_new(connection, comparisons, rows)
                c = comparisons.c
                theirs = sa.select(c.id, c.a_id, c.b_id).where(c.prompt_id.in_({row["prompt_id"] for row in rows}))
                number = {(row.a_id, row.b_id): row.id for row in connection.execute(theirs)}
            numbers += [number[row["a_id"], row["b_id"]] for row in rows]
        return Added(numbers, added)

    def comparison(self, comparison_id: int) -> Comparison:
        """One comparison with its texts; DataError where there is none of that number."""
        with self.reading() as connection:
            return _full(connection, [comparison_id])[0]

    def comparisons(self, ids: Sequence[int]) -> list[Comparison]:
        """Comparisons with their texts, in the order of the ids; DataError where one is not there."""
        with self.reading() as connection:
            return [full for part in parts(ids) for full in _full(connection, part)]

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

    def pairs_of_round(self, round: int, kinds: Sequence[str], most: int) -> list[tuple[int, int, int]]:
        """(prompt, a, b) of the last `most` pairs of these kinds that were proposed in a round, the last one first."""
        c = comparisons.c
        theirs = sa.select(c.prompt_id, c.a_id, c.b_id).where(c.round == round, c.kind.in_(kinds))
        with self.reading() as connection:
            theirs = theirs.order_by(c.id.desc()).limit(most)
            return [(prompt, a, b) for prompt, a, b in connection.execute(theirs)]

    def open_comparisons(self, limit: int | None = None, *, round: int | None = None) -> list[Comparison]:
        """The queue without leases, the next one first: for a labeller that works alone (a judge, gold)."""
        chosen = sa.select(comparisons.c.id).where(sa.text("is_open = 1"))
        if round is not None:
            chosen = chosen.where(comparisons.c.round == round)
        with self.reading() as connection:
            ids = connection.execute(_in_turn(chosen).limit(limit)).scalars().all()
            return [full for part in parts(ids) for full in _full(connection, part)]

    # -- leases -----------------------------------------------------------------------------------------------------

    def lease(self, annotator: str, *, now: float, seconds: float, n: int = 1) -> list[Leased]:
        """Up to `n` pairs that this annotator looks at until now + `seconds`: those held already, then the next ones.

        A pair is given to no more annotators at once than labels are still wanted, and never twice to one who labelled
        or skipped it. An empty list: nothing is left for this annotator now.
        """
        annotator = check_name(annotator)
        with self.writing() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LEASING)))
            connection.execute(sa.delete(leases).where(leases.c.until <= now))
            held = sa.select(comparisons.c.id).join(leases).where(leases.c.annotator == annotator)
            ids = list(connection.execute(_in_turn(held.where(sa.text("is_open = 1"))).limit(n)).scalars())
            if len(ids) < n:
                ids += connection.execute(_in_turn(_free(annotator)).limit(n - len(ids))).scalars()
            self._hold(connection, annotator, ids, now + seconds)
            return [Leased(full, annotator, now + seconds) for full in _full(connection, ids)]

    def lease_next(self, annotator: str, now: float, seconds: float) -> Leased | None:
        """`lease` of one pair; None where nothing is left for this annotator now."""
        return next(iter(self.lease(annotator, now=now, seconds=seconds)), None)

    def give_back(self, annotator: str, comparison_id: int | None = None) -> int:
        """Give up a lease, or all of an annotator's; returns how many there were."""
        mine = leases.c.annotator == check_name(annotator)
        if comparison_id is not None:
            mine &= leases.c.comparison_id == comparison_id
        with self.writing() as connection:
            return int(connection.execute(sa.delete(leases).where(mine)).rowcount)

    def renew(self, annotator: str, ids: Sequence[int], *, now: float, seconds: float) -> int:
        """Lengthen the leases of these pairs that still hold; returns how many."""
        mine = (leases.c.annotator == check_name(annotator)) & leases.c.comparison_id.in_(ids) & (leases.c.until > now)
        with self.writing() as connection:
            return int(connection.execute(sa.update(leases).where(mine).values(until=now + seconds)).rowcount)

    def held_by_others(self, annotator: str, *, now: float) -> int:
        """Open pairs that this annotator could still get, should those who look at them now give them back."""
        said = sa.exists().where(
            labels.c.comparison_id == comparisons.c.id,
            labels.c.annotator == check_name(annotator),
            labels.c.undone_at.is_(None),
        )
        there = sa.exists().where(
            leases.c.comparison_id == comparisons.c.id, leases.c.annotator != annotator, leases.c.until > now
        )
        chosen = sa.select(sa.func.count()).select_from(comparisons).where(sa.text("is_open = 1"), there, ~said)
        with self.reading() as connection:
            return int(connection.execute(chosen).scalar_one())

    def _hold(self, connection: sa.Connection, annotator: str, ids: Sequence[int], until: float) -> None:
        """Lease pairs to an annotator, or lengthen the leases that are there."""
        self.insert_new(connection, leases, [{"comparison_id": i, "annotator": annotator, "until": until} for i in ids])
        mine = (leases.c.annotator == annotator) & leases.c.comparison_id.in_(ids)
        connection.execute(sa.update(leases).where(mine).values(until=until))

    # -- labels -----------------------------------------------------------------------------------------------------

    def record_label(
        self,
        comparison_id: int,
        annotator: str,
        verdict: Verdict,
        *,
        at: float,
        seconds: float | None = None,
        shown: str = "ab",
        note: str = "",
        source: Source = "person",
        key: str | None = None,
    ) -> Recorded:
        """Keep a verdict ("a": the first is better, whichever side it stood on); it is on the disk on return.

        The same one again (same `key`, or same verdict by the same annotator) changes nothing. Another verdict by the
        same annotator takes the place of the one before, which stays as undone.
        DataError for what is no label or no comparison.
        """
        row = NewLabel(
            comparison_id=comparison_id, annotator=annotator, verdict=verdict, at=at, seconds=seconds, shown=shown,
            note=note, source=source, key=key,
        ).row()  # fmt: skip
        annotator = row["annotator"]
        mine = (labels.c.comparison_id == comparison_id) & (labels.c.annotator == annotator)
        live = mine & labels.c.undone_at.is_(None)
        with self.writing() as connection:
            _lock(connection, comparison_id)
            same = labels.c.key == key if key is not None else live & (labels.c.verdict == verdict)
            before = connection.execute(sa.select(labels).where(same)).one_or_none()
            if before is not None and (before.comparison_id, before.annotator) != (comparison_id, annotator):
                raise DataError(f"key {key!r}: names a label of {before.annotator} on another comparison")
            if before is None:
                connection.execute(sa.update(labels).where(live).values(undone_at=at))
                new = sa.select(labels).where(labels.c.id == insert_one(connection, labels, row))
                kept = _label(connection.execute(new).one())
                connection.execute(
                    sa.delete(leases).where(leases.c.comparison_id == comparison_id, leases.c.annotator == annotator)
                )
            else:
                kept = _label(before)
            given, is_open = _recount(connection, comparison_id)
        return Recorded(kept, before is None, given, is_open)

    def add_labels(self, new: Iterable[NewLabel]) -> int:
        """Labels from elsewhere (a file, a judge), many at once; returns how many were not there before.

        A label that its annotator has given already stays as it is. DataError where one is no label, or its comparison
        is not there; those of the same thousand are not kept then.
        """
        added = 0
        for part in parts(new):
            rows = [label.row() for label in part]
            ids = sorted({row["comparison_id"] for row in rows})
            with self.writing() as connection:
                some = sa.select(comparisons.c.id).where(comparisons.c.id.in_(ids))
                there = set(connection.execute(some.order_by(comparisons.c.id).with_for_update()).scalars())
                if missing := set(ids) - there:
                    raise DataError(f"comparison {min(missing)}: there is none of that number")
                added += self.insert_new(connection, labels, rows)
                live = (labels.c.comparison_id == comparisons.c.id) & labels.c.undone_at.is_(None)
                count = sa.select(sa.func.count()).where(live)
                given = count.where(labels.c.verdict.in_(JUDGED)).scalar_subquery()
                flags = count.where(labels.c.verdict == "flag").scalar_subquery()
                theirs = sa.update(comparisons).where(comparisons.c.id.in_(ids))
                connection.execute(theirs.values(given=given, flags=flags))
                wanted = sa.case(
                    ((comparisons.c.given < comparisons.c.overlap) & (comparisons.c.flags == 0), 1), else_=0
                )
                connection.execute(theirs.values(is_open=wanted))
        return added

    def undo(
        self,
        annotator: str,
        *,
        now: float,
        seconds: float,
        comparison_id: int | None = None,
        key: str | None = None,
    ) -> Leased | None:
        """Take back an annotator's last label (or the one on a comparison, or of a key) and lease the pair to them
        again.

        The label stays in the history, marked. None where there is nothing to take back: with a key, asking twice takes
        back once, whatever was labelled in between.
        """
        annotator = check_name(annotator)
        mine = sa.select(labels).where(labels.c.annotator == annotator, labels.c.undone_at.is_(None))
        if comparison_id is not None:
            mine = mine.where(labels.c.comparison_id == comparison_id)
        if key is not None:
            mine = mine.where(labels.c.key == key)
        with self.writing() as connection:
            last = connection.execute(mine.order_by(labels.c.at.desc(), labels.c.id.desc()).limit(1)).one_or_none()
            if last is None:
                return None
            _lock(connection, last.comparison_id)
            connection.execute(sa.update(labels).where(labels.c.id == last.id).values(undone_at=now))
            self._hold(connection, annotator, [last.comparison_id], now + seconds)
            _recount(connection, last.comparison_id)
            return Leased(_full(connection, [last.comparison_id])[0], annotator, now + seconds)

    def labels(self, comparison_id: int | None = None, *, undone: bool = False) -> Iterator[Label]:
        """Labels that hold (and, with `undone`, those taken back), in the order they were given."""
        conditions: list[Any] = [] if undone else [labels.c.undone_at.is_(None)]
        if comparison_id is not None:
            conditions.append(labels.c.comparison_id == comparison_id)
        for row in self._rows(labels, None, *conditions):
            yield _label(row)

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
                full = _full(connection, [i for i in ids if votes[i]])
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


def _in_turn(chosen: sa.Select[Any]) -> sa.Select[Any]:
    """In the order of the queue."""
    return chosen.order_by(comparisons.c.score.desc(), comparisons.c.id)


def _free(annotator: str) -> sa.Select[Any]:
    """Ids of open comparisons that this annotator may be given; leases that ran out are gone by now."""
    c = comparisons.c
    labelled = sa.exists().where(
        labels.c.comparison_id == c.id, labels.c.annotator == annotator, labels.c.undone_at.is_(None)
    )
    held = sa.exists().where(leases.c.comparison_id == c.id, leases.c.annotator == annotator)
    others = sa.select(sa.func.count()).select_from(leases).where(leases.c.comparison_id == c.id).scalar_subquery()
    return sa.select(c.id).where(sa.text("is_open = 1"), ~labelled, ~held, c.given + others < c.overlap)


def _lock(connection: sa.Connection, comparison_id: int) -> None:
    """Hold a comparison until the transaction ends; DataError where there is none of that number."""
    row = sa.select(comparisons.c.id).where(comparisons.c.id == comparison_id).with_for_update()
    if connection.execute(row).scalar() is None:
        raise DataError(f"comparison {comparison_id}: there is none of that number")


def _recount(connection: sa.Connection, comparison_id: int) -> tuple[int, bool]:
    """Work out from the labels how many are given and whether more are wanted; (given, is open)."""
    live = sa.select(labels.c.verdict).where(labels.c.comparison_id == comparison_id, labels.c.undone_at.is_(None))
    verdicts = connection.execute(live).scalars().all()
    one = comparisons.c.id == comparison_id
    overlap = connection.execute(sa.select(comparisons.c.overlap).where(one)).scalar_one()
    given, flags = sum(v in JUDGED for v in verdicts), verdicts.count("flag")
    is_open = given < overlap and not flags
    connection.execute(sa.update(comparisons).where(one).values(given=given, flags=flags, is_open=int(is_open)))
    return given, is_open


def _full(connection: sa.Connection, ids: Sequence[int]) -> list[Comparison]:
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
        row.flags, bool(row.is_open),
    )  # fmt: skip


def _label(row: Any) -> Label:
    return Label(
        row.id, row.comparison_id, row.annotator, row.verdict, row.at, row.seconds, row.shown, row.note, row.source,
        row.undone_at,
    )  # fmt: skip
