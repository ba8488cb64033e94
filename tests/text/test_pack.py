"""Packing: every distinct beginning once, every path intact, batches within their budget."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardsmith.text.pack import WORTH_SHARING, distinct_tokens, pack_rows, plan_batches


def a_row(size: int) -> st.SearchStrategy[list[int]]:
    # Few different tokens: rows often begin alike, continue one another, or are equal.
    return st.lists(st.integers(0, 2), min_size=1, max_size=size)


@st.composite
def groups(draw):
    """Groups with a prompt each, some of which continue another's."""
    rows_GK = []
    heads = [[]]
    for _ in range(draw(st.integers(1, 5))):
        head = draw(st.sampled_from(heads)) + draw(st.lists(st.integers(0, 50), max_size=12))
        heads.append(head)
        rows_GK.append([head + tail for tail in draw(st.lists(a_row(20), min_size=1, max_size=4))])
    return rows_GK


def paths_of(batch) -> dict[int, list[int]]:
    """Position of a row's last token -> the positions of all its tokens."""
    paths = {}
    for bucket in batch.layout.buckets:
        for path in bucket.path_NL.tolist():
            paths[path[-1]] = path[: path.index(path[-1]) + 1]
    return paths


@given(groups(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_row_is_read_back_and_no_beginning_is_computed_twice(rows_GK, share):
    batch = pack_rows(rows_GK, share=share)
    rows = [row for rows in rows_GK for row in rows]
    beginnings = {tuple(row[: i + 1]) for row in rows for i in range(len(row))}
    assert batch.n_row_tokens == sum(map(len, rows))
    assert batch.n_tokens == (len(beginnings) if share else batch.n_row_tokens) == len(batch.layout.source_T)
    assert list(batch.first_row_G) == [sum(len(g) for g in rows_GK[:i]) for i in range(len(rows_GK))]
    paths = paths_of(batch)
    for last, row in zip(batch.last_R.tolist(), rows, strict=True):
        assert batch.token_ids_T[paths[last]].tolist() == row
        assert batch.position_ids_T[paths[last]].tolist() == list(range(len(row)))
    # a token's owner has it at the stated place
    where = zip(batch.owner_T.tolist(), batch.position_ids_T.tolist(), strict=True)
    assert [rows[r][p] for r, p in where] == batch.token_ids_T.tolist()


@given(groups(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_source_finds_each_tokens_own_place(rows_GK, share):
    batch = pack_rows(rows_GK, share=share)
    queries = [b.path_NL if b.query_NQ is None else b.query_NQ for b in batch.layout.buckets]
    gathered = torch.cat([index.flatten() for index in queries])
    assert gathered[batch.layout.source_T].tolist() == list(range(batch.n_tokens))


@given(groups(), st.sampled_from([None, 1, 4]))
@settings(max_examples=100, deadline=None)
def test_a_query_sees_its_own_beginning_within_the_window(rows_GK, window):
    """Mask and rectangles against the definition: the last `window` of the tokens up to and with this one."""
    batch = pack_rows(rows_GK)
    rows = [row for rows in rows_GK for row in rows]
    seen_by = {}
    for bucket in batch.layout.buckets:
        queries = bucket.path_NL if bucket.query_NQ is None else bucket.query_NQ
        mask = bucket.mask(window)
        mask = mask.expand(len(queries), 1, *mask.shape[-2:])[:, 0]
        for path, query_Q, mask_QL in zip(bucket.path_NL.tolist(), queries.tolist(), mask.tolist()):
            for position, sees in zip(query_Q, mask_QL):
                seen_by.setdefault(position, [p for p, visible in zip(path, sees) if visible])
    place = batch.position_ids_T.tolist()
    for position, owner in enumerate(batch.owner_T.tolist()):
        beginning = rows[owner][: place[position] + 1]
        visible = beginning if window is None else beginning[-window:]
        assert [batch.token_ids_T[p].item() for p in seen_by[position]] == visible


def test_equal_rows_share_their_last_token_and_continued_ones_their_beginning():
    batch = pack_rows([[[1, 2, 3], [1, 2, 3]], [[1, 2, 3, 4]]])
    assert batch.n_tokens == 4
    assert batch.last_R.tolist() == [2, 2, 3]


def test_a_long_prompt_is_not_attended_from_again():
    """K answers to a long prompt: its tokens are queries once."""
    prompt = list(range(100))
    batch = pack_rows([[[*prompt, 200 + k, 7, 8] for k in range(8)]])
    queries = sum((b.path_NL if b.query_NQ is None else b.query_NQ).numel() for b in batch.layout.buckets)
    assert queries == batch.n_tokens == 124


@given(groups())
def test_distinct_tokens_are_counted_as_they_are_packed(rows_GK):
    for rows in rows_GK:
        assert distinct_tokens(rows) == pack_rows([rows]).n_tokens


@given(st.lists(groups(), max_size=4), st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_batches_hold_every_group_once_within_the_budget(many, budget):
    rows_GK = [rows for some in many for rows in some]
    batches = plan_batches(rows_GK, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(rows_GK)))
    for batch in batches:
        assert pack_rows([rows_GK[i] for i in batch]).n_tokens <= budget or len(batch) == 1
    assert batches == plan_batches(rows_GK, budget)


def test_groups_that_begin_alike_share_a_batch():
    rng = np.random.default_rng(0)
    system = rng.integers(0, 90, 30).tolist()
    prompts = [system + rng.integers(0, 90, WORTH_SHARING + 5).tolist() for _ in range(4)]
    groups = [[prompts[i % 4] + rng.integers(0, 90, 10).tolist()] for i in range(16)]
    batches = plan_batches(groups, 120)
    assert {frozenset(i % 4 for i in batch) for batch in batches} == {frozenset([i]) for i in range(4)}
