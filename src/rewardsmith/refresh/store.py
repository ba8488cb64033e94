"""The store of a refresh project: what policies said, which pairs are worth a label, who labelled what, which model.

    with open_store("project/store.sqlite", create=True) as store:
        prompt = store.add_prompts([NewPrompt(messages=...)]).ids[0]
        a, b = store.add_responses([NewResponse(prompt_id=prompt, ...), ...]).ids
        store.add_comparisons([NewComparison(prompt_id=prompt, a_id=a, b_id=b, round=1, why="...")], at=now)
        leased = store.lease_next("ann", now=now, seconds=600)
        store.record_label(leased.comparison.id, "ann", "a", at=now)

Answers that are ranked together are a set: `add_sets`, `record_ranking`.

Everything may be repeated: what is there already is not added again. Each method is one short transaction (adding many
rows is several), so any number of processes and threads may use one store. Two annotators never hold the same pair or
set beyond its `overlap`: leases are given one at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from rewardsmith.refresh.connect import BUSY_S, connect, location
from rewardsmith.refresh.queue import Queue
from rewardsmith.refresh.records import VERDICTS, Counts
from rewardsmith.refresh.registry import Registry
from rewardsmith.refresh.tables import comparisons, labels, leases, models, prompts, releases, responses, sa

TALLY = ("comparisons", "open", "labelled", "flagged")
Name = TypeVar("Name", int, str)


class Store(Queue, Registry):
    """A connected store; `open_store` makes one. Usable from several threads at once."""

    def waiting(self) -> int:
        """Open pairs that nobody has labelled yet; others want a second label."""
        chosen = sa.select(sa.func.count()).where(sa.text("is_open = 1"), comparisons.c.given == 0)
        with self.reading() as connection:
            return int(connection.execute(chosen).scalar_one())

    def counts(self, now: float) -> Counts:
        """How much is there, in one state of the store; `now` decides which leases still hold."""
        with self.reading() as connection:

            def count(table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
                chosen = sa.select(sa.func.count()).select_from(table).where(*where)
                return int(connection.execute(chosen).scalar_one())

            c = comparisons.c
            by = (c.round, c.kind, c.is_open, c.given, c.flags)
            pairs = connection.execute(sa.select(*by, sa.func.count()).group_by(*by)).all()
            said = connection.execute(
                sa.select(labels.c.annotator, labels.c.verdict, labels.c.source, sa.func.count())
                .where(labels.c.undone_at.is_(None))
                .group_by(labels.c.annotator, labels.c.verdict, labels.c.source)
            ).all()
            rounds = _tally([(row[0], row[2:]) for row in pairs])
            annotators: dict[str, dict[str, int]] = {
                name: dict.fromkeys(map(str, VERDICTS), 0) for name in sorted({row[0] for row in said})
            }
            sources: dict[str, int] = defaultdict(int)
            for name, verdict, source, n in said:
                annotators[name][verdict] += n
                sources[source] += n
            everything = _tally([("", row[2:]) for row in pairs]).get("", dict.fromkeys(TALLY, 0))
            return Counts(
                prompts=count(prompts),
                responses=count(responses),
                **everything,
                labels=sum(row[3] for row in said),
                undone=count(labels, labels.c.undone_at.is_not(None)),
                leases=count(leases, leases.c.until > now),
                models=count(models),
                releases=count(releases),
                rounds=rounds,
                kinds=_tally([(row[1], row[2:]) for row in pairs]),
                annotators=annotators,
                sources=dict(sources),
            )


def _tally(rows: Iterable[tuple[Name, Sequence[int]]]) -> dict[Name, dict[str, int]]:
    """{name: {"comparisons", "open", "labelled", "flagged"}} from (name, (is open, labelled, flagged, how many))."""
    found: dict[Name, dict[str, int]] = {}
    for name, (is_open, labelled, flagged, n) in rows:
        one = found.setdefault(name, dict.fromkeys(TALLY, 0))
        for key, holds in zip(TALLY, (True, is_open, labelled, flagged), strict=True):
            one[key] += n if holds else 0
    return dict(sorted(found.items()))


def open_store(where: str | Path, *, create: bool = False, busy_s: float = BUSY_S) -> Store:
    """The store in a file (SQLite) or at a URL (postgresql://user@host/name); with `create`, made where none is.

    Raises StoreError where there is none, where it is of a newer version or no store at all, and where it cannot be
    opened; ConfigError for another kind of database. `busy_s` is how long a writer waits for another one (SQLite).
    """
    return Store(connect(location(where), create=create, busy_s=busy_s))
