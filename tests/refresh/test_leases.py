"""What the labelling page asks of the queue: leases that are lengthened, pairs that others hold, undo of one press."""

from __future__ import annotations

from rewardsmith.refresh.store import Store
from tests.refresh.conftest import fill


def test_only_a_lease_that_holds_is_renewed(store: Store) -> None:
    first, second, _ = fill(store)
    store.lease("ann", now=0.0, seconds=10.0, n=2)
    store.give_back("ann", second)
    assert store.renew("ann", [first, second], now=5.0, seconds=10.0) == 1
    assert store.lease_next("bob", 12.0, 10.0).comparison.id == second, "the first is ann's until 15"
    assert store.renew("ann", [first], now=16.0, seconds=10.0) == 0
    assert first in {held.comparison.id for held in store.lease("bob", now=16.0, seconds=10.0, n=2)}


def test_what_others_hold_may_come_back(store: Store) -> None:
    ids = fill(store, 2)
    store.lease("ann", now=0.0, seconds=10.0, n=2)
    assert store.held_by_others("bob", now=1.0) == 2
    assert store.held_by_others("ann", now=1.0) == 0
    assert store.held_by_others("bob", now=11.0) == 0, "they ran out"
    store.record_label(ids[0], "bob", "skip", at=2.0)
    assert store.held_by_others("bob", now=3.0) == 1, "what one skipped does not come back to them"


def test_undo_of_a_key_takes_back_that_press_once(store: Store) -> None:
    (pair,) = fill(store, 1)
    store.record_label(pair, "ann", "a", at=1.0, key="first")
    assert store.undo("ann", now=2.0, seconds=10.0, key="first").comparison.id == pair
    store.record_label(pair, "ann", "b", at=3.0, key="second")
    assert store.undo("ann", now=4.0, seconds=10.0, key="first") is None
    assert store.undo("bob", now=4.0, seconds=10.0, key="second") is None
    assert [label.verdict for label in store.labels()] == ["b"]
