"""Rows of tokens become one line without padding, in which every distinct beginning appears once.

    rows                          the line (T = 7 tokens)          paths
    you are kind . a b            you are kind .  a  b  c          you are kind . a b
    you are kind . c               0   1   2   3  4  5  6          you are kind . c

A causal model's state at a token depends on the tokens before it alone, so rows that begin alike share those
states: the prompt of K responses, a system prompt of a whole batch, dialogues that continue one another, equal
answers. Sorted rows show it (each shares most with the one before it); nothing needs to know what a prompt is.

A *path* is what one row's last token may attend to: the row's tokens, wherever they lie. Its own tokens are
those that no earlier path computes. Attention gathers paths into rectangles (`Bucket`), runs causally on each,
and writes each token's result back once (`Layout.source_T`). Rewards are read at the last token of every row.

Shape legend: T tokens in the line, R rows, G groups, N paths of one bucket, L its longest path, Q the most
queries of a path in it, U tokens that a reward is read at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from rewardsmith.text.render import Encoded

Row = Sequence[int] | np.ndarray

# A bucket ends where padding would make its attention this much larger than its paths need.
MAX_BUCKET_WASTE = 0.3
# A path computes attention for its own tokens alone where they are less than this share of it: a rectangle with
# a mask, while whole paths run causally, which skips half of the square.
MAX_OWN_SHARE = 0.5
# Groups go into one batch for the sake of this many tokens in common, beyond those that all groups share.
WORTH_SHARING = 16


@dataclass(frozen=True)
class Bucket:
    """Paths of similar length.

    path_NL   positions in the line, right-padded with the path's last
    query_NQ  positions whose attention is computed here, padded likewise; None: those of the whole path
    first_N   how many tokens of each path lie before its first query; None: no token
    """

    path_NL: torch.Tensor
    query_NQ: torch.Tensor | None = None
    first_N: torch.Tensor | None = None
    made: dict[Any, torch.Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Bucket:
        path_NL = self.path_NL.to(device, non_blocking=True)
        if self.query_NQ is None or self.first_N is None:
            return Bucket(path_NL)
        return Bucket(path_NL, self.query_NQ.to(device, non_blocking=True), self.first_N.to(device, non_blocking=True))

    def mask(self, window: int | None = None) -> torch.Tensor:
        """Bool, True where a query sees a key: not later than itself, and within `window` tokens.

        [L, L] for whole paths; [N, 1, Q, L] for paths with queries of their own. Made once, used in every layer.
        """
        if window not in self.made:
            key_L = torch.arange(self.path_NL.shape[1], device=self.path_NL.device)
            if self.query_NQ is None or self.first_N is None:
                query = key_L[:, None]
            else:
                within_Q = torch.arange(self.query_NQ.shape[1], device=key_L.device)
                query = (self.first_N[:, None] + within_Q)[:, None, :, None]
            distance = query - key_L
            seen = distance >= 0
            self.made[window] = seen if window is None else seen & (distance < window)
        return self.made[window]

    def bias(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """The mask as a summand of attention's logits: 0 where a query sees a key, -inf elsewhere."""
        key = (window, dtype)
        if key not in self.made:
            seen = self.mask(window)
            self.made[key] = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, float("-inf"))
        return self.made[key]


@dataclass(frozen=True)
class Layout:
    """Who attends to whom: the buckets of paths, and where each token's own result is found in them.

    source_T indexes the concatenation of the buckets' flattened outputs, [N * Q] or [N * L] each. read_U are the
    tokens that rewards are read at, each once. A token at position place_T of its row is seen by what lies between
    itself and end_T in the line: its own subtree. `made` holds what attention makes once for all layers.
    """

    buckets: tuple[Bucket, ...]
    source_T: torch.Tensor
    read_U: torch.Tensor
    end_T: torch.Tensor
    place_T: torch.Tensor
    longest: int
    made: dict[Any, Any] = field(default_factory=dict)

    def to(self, device: torch.device) -> Layout:
        buckets = tuple(bucket.to(device) for bucket in self.buckets)
        source_T, read_U, end_T, place_T = (
            tensor.to(device, non_blocking=True) for tensor in (self.source_T, self.read_U, self.end_T, self.place_T)
        )
        return Layout(buckets, source_T, read_U, end_T, place_T, self.longest)


@dataclass(frozen=True)
class PackedBatch:
    """Rows laid end to end.

    last_R        where each row's last token lies; equal rows share it
    owner_T       the row that brought each token into the line; its place in the row is position_ids_T
    n_row_tokens  tokens of all rows, each counted by itself: what would be computed without sharing
    """

    token_ids_T: torch.Tensor
    position_ids_T: torch.Tensor
    last_R: torch.Tensor
    layout: Layout
    first_row_G: tuple[int, ...]
    owner_T: np.ndarray
    n_row_tokens: int

    @property
    def n_tokens(self) -> int:
        return int(self.token_ids_T.shape[0])

    def to(self, device: torch.device) -> PackedBatch:
        return PackedBatch(
            self.token_ids_T.to(device, non_blocking=True),
            self.position_ids_T.to(device, non_blocking=True),
            self.last_R.to(device, non_blocking=True),
            self.layout.to(device),
            self.first_row_G,
            self.owner_T,
            self.n_row_tokens,
        )


def pack(encoded: Sequence[Encoded]) -> PackedBatch:
    """Lay groups end to end; what rows have in common is computed once."""
    return pack_rows([item.token_ids for item in encoded])


def pack_rows(rows_GK: Sequence[Sequence[Row]], *, share: bool = True) -> PackedBatch:
    """`pack` on bare token lists: rows_GK[g] are the K rows of group g. Without `share`, each row is by itself."""
    rows = [np.asarray(row, dtype=np.int64) for rows_K in rows_GK for row in rows_K]
    assert all(len(row) for row in rows), "a row has at least one token"
    paths: list[np.ndarray] = []
    shared: list[int] = []  # leading tokens of each path that an earlier path computes
    tokens: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    last_R = np.empty(len(rows), dtype=np.int64)
    end = 0
    before: np.ndarray | None = None
    for r in _sorted(rows) if share else range(len(rows)):
        row = rows[r]
        common = 0 if before is None or not share else common_length(before, row)
        if common < len(row):
            own = len(row) - common
            known = paths[-1][:common] if common else np.empty(0, dtype=np.int64)
            paths.append(np.concatenate([known, np.arange(end, end + own)]))
            shared.append(common)
            tokens.append(row[common:])
            owners.append(np.full(own, r))
            end += own
        last_R[r] = paths[-1][-1]
        before = row
    return PackedBatch(
        torch.from_numpy(np.concatenate(tokens)),
        torch.from_numpy(np.concatenate([np.arange(s, len(p)) for s, p in zip(shared, paths, strict=True)])),
        torch.from_numpy(last_R),
        _layout(paths, shared, end),
        tuple(np.cumsum([0, *(len(rows_K) for rows_K in rows_GK)])[:-1].tolist()),
        np.concatenate(owners),
        sum(map(len, rows)),
    )


def row_paths(batch: PackedBatch) -> list[np.ndarray]:
    """For each row, where its tokens lie in the line."""
    place = batch.position_ids_T.tolist()
    paths = {
        int(path[-1]): path[: place[path[-1]] + 1]
        for bucket in batch.layout.buckets
        for path in bucket.path_NL.cpu().numpy()
    }
    return [paths[last] for last in batch.last_R.tolist()]


def common_length(a: np.ndarray, b: np.ndarray) -> int:
    """How many leading tokens two rows share."""
    n = min(len(a), len(b))
    differs = a[:n] != b[:n]
    return int(differs.argmax()) if differs.any() else n


def distinct_tokens(rows: Sequence[Row]) -> int:
    """Tokens that are computed for these rows when they are packed together."""
    arrays = [np.asarray(row) for row in rows]
    ordered = [arrays[r] for r in _sorted(arrays)]
    return sum(map(len, ordered)) - sum(common_length(a, b) for a, b in pairwise(ordered))


def _sorted(rows: Sequence[np.ndarray]) -> list[int]:
    """Indices of rows in the order of their tokens, a beginning before what continues it."""
    return sorted(range(len(rows)), key=lambda r: rows[r].astype(">u4").tobytes())


# -- attention's rectangles ---------------------------------------------------------------------------------


def _layout(paths: Sequence[np.ndarray], shared: Sequence[int], n_tokens: int) -> Layout:
    source_T = np.zeros(n_tokens, dtype=np.int64)
    buckets = []
    offset = 0
    short_queries = [(len(path) - first) < MAX_OWN_SHARE * len(path) for path, first in zip(paths, shared, strict=True)]
    for partial in (False, True):
        chosen = [i for i, short in enumerate(short_queries) if short is partial]
        firsts = [shared[i] if partial else 0 for i in chosen]
        sizes = [(len(paths[i]) - first, len(paths[i])) for i, first in zip(chosen, firsts, strict=True)]
        for members in _buckets(sizes):
            path_NL = _rectangle([paths[chosen[m]] for m in members])
            query_NQ = _rectangle([paths[chosen[m]][firsts[m] :] for m in members])
            for n, m in enumerate(members):
                path, own_from = paths[chosen[m]], shared[chosen[m]]
                place = offset + n * query_NQ.shape[1] - firsts[m]
                source_T[path[own_from:]] = place + np.arange(own_from, len(path))
            offset += query_NQ.size
            if partial:
                first_N = torch.tensor([firsts[m] for m in members])
                buckets.append(Bucket(torch.from_numpy(path_NL), torch.from_numpy(query_NQ), first_N))
            else:
                buckets.append(Bucket(torch.from_numpy(path_NL)))
    end_T, place_T = np.empty((2, n_tokens), dtype=np.int64)
    for path in paths:  # in the order of the line, so that the last path through a token says where its subtree ends
        end_T[path] = path[-1] + 1
        place_T[path] = np.arange(len(path))
    read_U = torch.tensor(sorted(int(path[-1]) for path in paths))
    tensors = (torch.from_numpy(source_T), read_U, torch.from_numpy(end_T), torch.from_numpy(place_T))
    return Layout(tuple(buckets), *tensors, max(map(len, paths)))


def _rectangle(paths: Sequence[np.ndarray]) -> np.ndarray:
    """[N, longest], each path padded with its last: behind every real token, where causality hides it."""
    index_NL = np.empty((len(paths), max(map(len, paths))), dtype=np.int64)
    for n, path in enumerate(paths):
        index_NL[n, : len(path)] = path
        index_NL[n, len(path) :] = path[-1]
    return index_NL


def _buckets(sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Indices of (queries, length), similar ones together, cut where the rectangle would waste too much."""
    members: list[int] = []
    used = 0
    queries = length = 0
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i][0], -sizes[i][1])):
        q, n = sizes[i]
        area = (len(members) + 1) * max(queries, q) * max(length, n)
        if members and area - (used + q * n) > MAX_BUCKET_WASTE * area:
            yield members
            members, used, queries, length = [], 0, 0, 0
        members.append(i)
        used += q * n
        queries, length = max(queries, q), max(length, n)
    if members:
        yield members


# -- which groups share a batch -----------------------------------------------------------------------------


def plan_batches(rows_GK: Sequence[Sequence[Row]], budget: int) -> list[list[int]]:
    """Indices of groups in batches of at most `budget` distinct tokens, in order of falling size (first fit).

    Groups that begin alike stay together while they fit. A group larger than the budget gets a batch of its
    own: its K responses belong in one loss. Deterministic: equal input gives equal batches.
    """
    units = sorted(_neighbours(rows_GK, budget), key=lambda unit: (-unit[1], unit[0]))
    batches: list[list[int]] = []
    room: list[int] = []
    for members, size in units:
        for b, free in enumerate(room):
            if size <= free:
                batches[b] += members
                room[b] -= size
                break
        else:
            batches.append(members)
            room.append(budget - size)
    return batches


def _neighbours(rows_GK: Sequence[Sequence[Row]], budget: int) -> Iterator[tuple[list[int], int]]:
    """(groups, an upper bound of their distinct tokens): runs of groups that share a beginning of their own."""
    if not rows_GK:
        return
    heads = [np.asarray(rows_K[0]) for rows_K in rows_GK]
    order = _sorted(heads)
    everyone = common_length(heads[order[0]], heads[order[-1]])
    members: list[int] = []
    size = 0
    for before, i in zip([None, *order], order):
        tokens = distinct_tokens(rows_GK[i])
        common = 0 if before is None else common_length(heads[before], heads[i])
        together = size + tokens - common
        if members and (common - everyone < WORTH_SHARING or together > budget):
            yield sorted(members), size
            members, together = [], tokens
        members.append(i)
        size = together if len(members) > 1 else tokens
    yield sorted(members), size
