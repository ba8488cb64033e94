"""Who looks at which pairs, and labels.

A comparison is open while it has fewer labels (a, b or tie) than its `overlap` and no flag. A skip hides it from the
one who skipped. A flag takes it out of the queue and out of what is trained on, until it is undone. A label that comes
after its lease ran out is kept all the same: nobody's work is lost.

Answers that are ranked together are leased, ranked, skipped, flagged and taken back together, under the number of the
first pair among them. A judge labels their pairs one by one, so some may be closed when a person gets the set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from rewardsmith.errors import DataError
from rewardsmith.refresh import rankings
from rewardsmith.refresh.connect import parts
from rewardsmith.refresh.pairs import Pairs, alone, in_turn, number, with_texts
from rewardsmith.refresh.records import (
    JUDGED,
    MOST_ANSWERS,
    Label,
    Leased,
    NewLabel,
    Recorded,
    Source,
    Verdict,
    check_name,
)
from rewardsmith.refresh.tables import comparisons, labels, leases, sa

LEASING = 7212  # PostgreSQL's lock under which leases are given; SQLite has one writer at a time anyway
MOST_PAIRS = rankings.n_pairs(MOST_ANSWERS)  # of one set


class Queue(Pairs):
    """Leases and labels."""

    # -- leases -----------------------------------------------------------------------------------------------------

    def lease(self, annotator: str, *, now: float, seconds: float, n: int = 1) -> list[Leased]:
        """Up to `n` pairs or sets that this annotator looks at until now + `seconds`: those held, then the next ones.

        A pair is given to no more annotators at once than labels are still wanted, and never twice to one who labelled
        or skipped it; a set as long as one of its pairs may be given. An empty list: nothing is left for this annotator
        now.
        """
        annotator = check_name(annotator)
        with self.writing() as connection:
            alone(connection, LEASING)
            connection.execute(sa.delete(leases).where(leases.c.until <= now))
            mine = sa.select(leases.c.comparison_id).where(leases.c.annotator == annotator)
            held = connection.execute(mine).scalars().all()
            found = dict.fromkeys(connection.execute(in_turn(_of(held).where(sa.text("is_open = 1")))).scalars())
            numbers = list(found)[:n]
            if wanted := n - len(numbers):
                free = in_turn(_free(annotator)).limit(wanted * MOST_PAIRS)
                numbers += list(dict.fromkeys(connection.execute(free).scalars()))[:wanted]
            return self._hold(connection, annotator, numbers, now + seconds)

    def lease_next(self, annotator: str, now: float, seconds: float) -> Leased | None:
        """`lease` of one pair or set; None where nothing is left for this annotator now."""
        return next(iter(self.lease(annotator, now=now, seconds=seconds)), None)

    def give_back(self, annotator: str, number: int | None = None) -> int:
        """Give up a lease, or all of an annotator's; returns how many there were."""
        mine = leases.c.annotator == check_name(annotator)
        if number is not None:
            mine &= leases.c.comparison_id == number
        with self.writing() as connection:
            return int(connection.execute(sa.delete(leases).where(mine)).rowcount)

    def renew(self, annotator: str, numbers: Sequence[int], *, now: float, seconds: float) -> int:
        """Lengthen the leases of these pairs and sets that still hold; returns how many."""
        mine = leases.c.annotator == check_name(annotator)
        mine &= leases.c.comparison_id.in_(numbers) & (leases.c.until > now)
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
            leases.c.comparison_id == number, leases.c.annotator != annotator, leases.c.until > now
        )
        chosen = sa.select(sa.func.count()).select_from(comparisons).where(sa.text("is_open = 1"), there, ~said)
        with self.reading() as connection:
            return int(connection.execute(chosen).scalar_one())

    def _hold(self, connection: sa.Connection, annotator: str, numbers: Sequence[int], until: float) -> list[Leased]:
        """Lease pairs and sets to an annotator, or lengthen the leases that are there."""
        rows = [{"comparison_id": i, "annotator": annotator, "until": until} for i in numbers]
        self.insert_new(connection, leases, rows)
        mine = (leases.c.annotator == annotator) & leases.c.comparison_id.in_(numbers)
        connection.execute(sa.update(leases).where(mine).values(until=until))
        pairs = with_texts(connection, sorted(connection.execute(_of(numbers, comparisons.c.id)).scalars()))
        together = {i: tuple(pair for pair in pairs if i in (pair.id, pair.set_id)) for i in numbers}
        return [Leased(together[i], annotator, until) for i in numbers]

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
        with self.writing() as connection:
            _lock(connection, [comparison_id])
            by_itself = sa.select(comparisons.c.set_id).where(comparisons.c.id == comparison_id)
            ranked_in = connection.execute(by_itself).scalar_one()
            return self._keep(connection, [row], comparison_id if ranked_in is None else None)

    def record_ranking(
        self,
        number: int,
        annotator: str,
        said: Sequence[int] | Literal["skip", "flag"],
        *,
        at: float,
        order: Sequence[int] | None = None,
        seconds: float | None = None,
        note: str = "",
        source: Source = "person",
        key: str | None = None,
    ) -> Recorded:
        """Keep what somebody says of all answers of a set, or of a pair by itself, as one label for each pair of them.

        said     the place of each answer, in the order of their ids: 1 is the best, ties share one. Or that the set is
                 skipped, or flagged
        order    which answer stood where, from the left: 0 is the one with the lowest id. None: in the order of the ids
        seconds  how long it took; each of the labels gets its part

        All labels are on the disk on return, or none. The same again (same `key`, or the same said by the same
        annotator) changes nothing; something else by them takes the place of what there was, which stays as undone.
        DataError for what is no ranking of these answers, and where there is no set of that number.
        """
        c = comparisons.c
        with self.writing() as connection:
            chosen = sa.select(c.id, c.a_id, c.b_id, c.set_id).where((c.id == number) | (c.set_id == number))
            pairs = connection.execute(chosen.order_by(c.id).with_for_update()).all()
            if not pairs:
                raise DataError(f"comparison {number}: there is none of that number")
            if (pairs[0].set_id or number) != number:
                raise DataError(f"comparison {number}: is ranked with others, as set {pairs[0].set_id}")
            pairs = sorted(pairs, key=lambda pair: (pair.a_id, pair.b_id))
            k = len({i for pair in pairs for i in (pair.a_id, pair.b_id)})
            order = range(k) if order is None else order
            rankings.check_order(order, k)
            verdicts: Sequence[Verdict]
            if isinstance(said, str):
                if said not in ("skip", "flag"):
                    raise DataError(f"ranking {said!r}: give a place for each answer, or skip or flag")
                verdicts = [said] * len(pairs)
            else:
                rankings.check_places(said, k)
                verdicts = rankings.verdicts(said)
            rows = [
                NewLabel(
                    comparison_id=pair.id, annotator=annotator, verdict=verdict, at=at, shown=shown, note=note,
                    seconds=None if seconds is None else seconds / len(pairs), source=source, key=key,
                ).row()
                for pair, verdict, shown in zip(pairs, verdicts, rankings.shown(order), strict=True)
            ]  # fmt: skip
            return self._keep(connection, rows, number)

    def _keep(self, connection: sa.Connection, rows: Sequence[dict[str, Any]], leased: int | None) -> Recorded:
        """Keep the labels of one annotator that belong together and end the lease of this number; the comparisons are
        locked.
        """
        ids = [row["comparison_id"] for row in rows]
        annotator, key = rows[0]["annotator"], rows[0]["key"]
        live = labels.c.comparison_id.in_(ids) & (labels.c.annotator == annotator) & labels.c.undone_at.is_(None)
        same = live if key is None else labels.c.key == key
        kept = connection.execute(sa.select(labels).where(same).order_by(labels.c.id)).all()
        if key is None and {of.comparison_id: of.verdict for of in kept} != {
            row["comparison_id"]: row["verdict"] for row in rows
        }:
            kept = []  # something else was said, and is taken back below
        if key is not None and not all(of.comparison_id in ids and of.annotator == annotator for of in kept):
            raise DataError(f"key {key!r}: names a label of {kept[0].annotator} on another comparison")
        if fresh := not kept:
            connection.execute(sa.update(labels).where(live).values(undone_at=rows[0]["at"]))
            connection.execute(sa.insert(labels), rows)
            kept = connection.execute(sa.select(labels).where(live).order_by(labels.c.id)).all()
            done = (leases.c.annotator == annotator) & (leases.c.comparison_id == leased)
            connection.execute(sa.delete(leases).where(done))
        _recount(connection, ids)
        c = comparisons.c
        states = connection.execute(sa.select(c.given, c.is_open).where(c.id.in_(ids))).all()
        return Recorded(
            tuple(map(_label, kept)), fresh, min(pair.given for pair in states), any(pair.is_open for pair in states)
        )

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
                _lock(connection, ids)
                added += self.insert_new(connection, labels, rows)
                _recount(connection, ids)
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
        """Take back an annotator's last label or ranking (or the one on a comparison, or of a key), and lease the pair
        or the set to them again.

        The labels stay in the history, marked. None where there is nothing to take back: with a key, asking twice takes
        back once, whatever was labelled in between.
        """
        annotator = check_name(annotator)
        live = (labels.c.annotator == annotator) & labels.c.undone_at.is_(None)
        mine = sa.select(labels).where(live)
        if comparison_id is not None:
            mine = mine.where(labels.c.comparison_id == comparison_id)
        if key is not None:
            mine = mine.where(labels.c.key == key)
        c = comparisons.c
        with self.writing() as connection:
            last = connection.execute(mine.order_by(labels.c.at.desc(), labels.c.id.desc()).limit(1)).one_or_none()
            if last is None:
                return None
            of = connection.execute(sa.select(number).where(c.id == last.comparison_id)).scalar_one()
            ids = sorted(connection.execute(_of([of], c.id)).scalars())
            _lock(connection, ids)
            together = live & labels.c.comparison_id.in_(ids) & (labels.c.key == last.key)
            connection.execute(sa.update(labels).where(together).values(undone_at=now))
            _recount(connection, ids)
            return self._hold(connection, annotator, [of], now + seconds)[0]

    def labels(self, comparison_id: int | None = None, *, undone: bool = False) -> Iterator[Label]:
        """Labels that hold (and, with `undone`, those taken back), in the order they were given."""
        conditions: list[Any] = [] if undone else [labels.c.undone_at.is_(None)]
        if comparison_id is not None:
            conditions.append(labels.c.comparison_id == comparison_id)
        for row in self._rows(labels, None, *conditions):
            yield _label(row)


def _of(numbers: Sequence[int], what: Any = number) -> sa.Select[Any]:
    """The pairs and all pairs of the sets of these numbers, by their number."""
    return sa.select(what).where(comparisons.c.id.in_(numbers) | comparisons.c.set_id.in_(numbers))


def _free(annotator: str) -> sa.Select[Any]:
    """Numbers of open comparisons that this annotator may be given; leases that ran out are gone by now."""
    c = comparisons.c
    labelled = sa.exists().where(
        labels.c.comparison_id == c.id, labels.c.annotator == annotator, labels.c.undone_at.is_(None)
    )
    held = sa.exists().where(leases.c.comparison_id == number, leases.c.annotator == annotator)
    others = sa.select(sa.func.count()).select_from(leases).where(leases.c.comparison_id == number).scalar_subquery()
    return sa.select(number).where(sa.text("is_open = 1"), ~labelled, ~held, c.given + others < c.overlap)


def _lock(connection: sa.Connection, ids: Sequence[int]) -> None:
    """Hold comparisons until the transaction ends; DataError where there is none of a number."""
    c = comparisons.c
    some = sa.select(c.id).where(c.id.in_(ids)).order_by(c.id).with_for_update()
    if missing := set(ids) - set(connection.execute(some).scalars()):
        raise DataError(f"comparison {min(missing)}: there is none of that number")


def _recount(connection: sa.Connection, ids: Sequence[int]) -> None:
    """Work out from the labels how many are given and whether more are wanted."""
    c = comparisons.c
    live = (labels.c.comparison_id == c.id) & labels.c.undone_at.is_(None)
    count = sa.select(sa.func.count()).where(live)
    given = count.where(labels.c.verdict.in_(JUDGED)).scalar_subquery()
    flags = count.where(labels.c.verdict == "flag").scalar_subquery()
    theirs = sa.update(comparisons).where(c.id.in_(ids))
    connection.execute(theirs.values(given=given, flags=flags))
    connection.execute(theirs.values(is_open=sa.case(((c.given < c.overlap) & (c.flags == 0), 1), else_=0)))


def _label(row: Any) -> Label:
    return Label(
        row.id, row.comparison_id, row.annotator, row.verdict, row.at, row.seconds, row.shown, row.note, row.source,
        row.undone_at,
    )  # fmt: skip
