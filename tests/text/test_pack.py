"""Packing: every distinct token once, every path intact, batches within their budget."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardsmith.text.pack import MAX_BUCKET_PADDING, pack_rows, plan_batches


@st.composite
def groups(draw):
    rows_GK, prefix_G = [], []
    for _ in range(draw(st.integers(1, 5))):
        prefix = draw(st.integers(0, 9))
        head = draw(st.lists(st.integers(0, 50), min_size=prefix, max_size=prefix))
        tails = draw(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=20), min_size=1, max_size=4))
        rows_GK.append([head + tail for tail in tails])
        prefix_G.append(prefix)
    return rows_GK, prefix_G


@given(groups())
@settings(max_examples=150, deadline=None)
def test_packing_keeps_every_row_and_repeats_no_prefix(case):
    rows_GK, prefix_G = case
    batch = pack_rows(rows_GK, prefix_G)
    rows = [row for rows in rows_GK for row in rows]
    distinct = sum(p + sum(len(r) - p for r in rows) for rows, p in zip(rows_GK, prefix_G))
    assert batch.n_tokens == distinct == len(batch.layout.source_T)
    assert batch.token_ids_T[batch.last_R].tolist() == [row[-1] for row in rows]
    assert list(batch.first_row_G) == [sum(len(g) for g in rows_GK[:i]) for i in range(len(rows_GK))]

    paths = {}
    for bucket in batch.layout.buckets:
        for path in bucket.index_NL.tolist():
            length = path.index(path[-1]) + 1
            paths[path[-1]] = path[:length]
    # each path reads its row back, at positions 0, 1, 2, ...
    for last, row in zip(batch.last_R.tolist(), rows, strict=True):
        assert batch.token_ids_T[paths[last]].tolist() == row
        assert batch.position_ids_T[paths[last]].tolist() == list(range(len(row)))


@given(groups())
@settings(max_examples=100, deadline=None)
def test_source_finds_each_tokens_own_place(case):
    batch = pack_rows(*case)
    gathered = torch.cat([bucket.index_NL.flatten() for bucket in batch.layout.buckets])
    assert gathered[batch.layout.source_T].tolist() == list(range(batch.n_tokens))


@given(groups())
@settings(max_examples=100, deadline=None)
def test_buckets_waste_little(case):
    batch = pack_rows(*case)
    for bucket in batch.layout.buckets:
        n, longest = bucket.index_NL.shape
        real = sum(path.index(path[-1]) + 1 for path in bucket.index_NL.tolist())
        assert n * longest - real <= MAX_BUCKET_PADDING * n * longest


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 300))
def test_batches_hold_every_group_once_within_the_budget(sizes, budget):
    batches = plan_batches(sizes, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
    for batch in batches:
        assert sum(sizes[i] for i in batch) <= budget or len(batch) == 1
    assert batches == plan_batches(sizes, budget)
