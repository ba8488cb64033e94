"""Groups become one row of tokens without padding, and every distinct token appears once.

    group 1                          group 2
    [prefix | own 1 | own 2 | own 3] [prefix | own 1 | own 2] ...
    positions restart with each group, and after its prefix with each response

A *path* is what one response may attend to: its group's prefix, then its own tokens. A batch knows for each
path where its tokens lie (`paths`), so attention gathers paths, runs causally on each, and writes each token's
result back once. Rewards are read at the last token of every path.

Shape legend: T distinct tokens in the batch, R responses, G groups, N paths of one bucket, L its longest path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rewardsmith.text.render import Encoded

# A bucket holds paths of similar length: beyond this share of padding a new bucket starts.
MAX_BUCKET_PADDING = 0.15


@dataclass(frozen=True)
class Bucket:
    """Paths of similar length: `index_NL` are positions in the packed row, right-padded with the path's last."""

    index_NL: torch.Tensor

    def to(self, device: torch.device) -> Bucket:
        return Bucket(self.index_NL.to(device, non_blocking=True))


@dataclass(frozen=True)
class Layout:
    """Who attends to whom: the buckets of paths, and where each token's own result is found in them.

    source_T indexes the concatenation of the buckets' flattened [N * L] outputs.
    """

    buckets: tuple[Bucket, ...]
    source_T: torch.Tensor

    def to(self, device: torch.device) -> Layout:
        return Layout(tuple(bucket.to(device) for bucket in self.buckets), self.source_T.to(device, non_blocking=True))


@dataclass(frozen=True)
class PackedBatch:
    """Groups laid end to end. `last_R` is the position of each response's last token."""

    token_ids_T: torch.Tensor
    position_ids_T: torch.Tensor
    last_R: torch.Tensor
    layout: Layout
    first_row_G: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        return int(self.token_ids_T.shape[0])

    @property
    def n_responses(self) -> int:
        return int(self.last_R.shape[0])

    def to(self, device: torch.device) -> PackedBatch:
        return PackedBatch(
            self.token_ids_T.to(device, non_blocking=True),
            self.position_ids_T.to(device, non_blocking=True),
            self.last_R.to(device, non_blocking=True),
            self.layout.to(device),
            self.first_row_G,
        )


def pack(encoded: Sequence[Encoded], *, share_prefix: bool = True) -> PackedBatch:
    """Lay the groups end to end; with `share_prefix`, a prefix is computed once for all its responses."""
    return pack_rows(
        [item.token_ids for item in encoded], [item.prefix_length if share_prefix else 0 for item in encoded]
    )


def pack_rows(rows_GK: Sequence[Sequence[Sequence[int] | np.ndarray]], prefix_G: Sequence[int]) -> PackedBatch:
    """`pack` on bare token lists: rows_GK[g] are the K rows of group g, which share prefix_G[g] leading tokens."""
    tokens: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    paths: list[np.ndarray] = []
    shared: list[int] = []  # leading tokens of each path whose result another path already writes
    last: list[int] = []
    first_row: list[int] = []
    end = 0
    for rows, prefix in zip(rows_GK, prefix_G, strict=True):
        first_row.append(len(paths))
        base = end
        tokens.append(np.asarray(rows[0][:prefix], dtype=np.int64))
        positions.append(np.arange(prefix))
        end += prefix
        for k, row in enumerate(rows):
            assert len(row) > prefix, "each row keeps a token of its own"
            start, end = end, end + len(row) - prefix
            tokens.append(np.asarray(row[prefix:], dtype=np.int64))
            positions.append(np.arange(prefix, len(row)))
            paths.append(np.concatenate([np.arange(base, base + prefix), np.arange(start, end)]))
            shared.append(prefix if k else 0)
            last.append(end - 1)
    return PackedBatch(
        torch.from_numpy(np.concatenate(tokens)),
        torch.from_numpy(np.concatenate(positions)),
        torch.tensor(last, dtype=torch.long),
        _layout(paths, shared, end),
        tuple(first_row),
    )


def _layout(paths: Sequence[np.ndarray], shared: Sequence[int], n_tokens: int) -> Layout:
    source = np.zeros(n_tokens, dtype=np.int64)
    buckets = []
    offset = 0
    for members in _buckets([len(path) for path in paths]):
        longest = max(len(paths[i]) for i in members)
        index = np.empty((len(members), longest), dtype=np.int64)
        for row, i in enumerate(members):
            path = paths[i]
            index[row, : len(path)] = path
            index[row, len(path) :] = path[-1]  # behind every real token, so causal attention never sees it
            own = path[shared[i] :]
            source[own] = offset + row * longest + np.arange(shared[i], len(path))
        buckets.append(Bucket(torch.from_numpy(index)))
        offset += index.size
    return Layout(tuple(buckets), torch.from_numpy(source))


def _buckets(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices by falling length, cut where padding to the longest would waste too much."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    members: list[int] = []
    total = 0
    for i in order:
        if members:
            area = lengths[members[0]] * (len(members) + 1)
            if area - (total + lengths[i]) > MAX_BUCKET_PADDING * area:
                yield members
                members, total = [], 0
        members.append(i)
        total += lengths[i]
    if members:
        yield members


def plan_batches(n_tokens: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of groups in batches of at most `budget` tokens, in order of falling size (first fit).

    A group larger than the budget gets a batch of its own: its K responses belong in one loss.
    Deterministic: equal input gives equal batches.
    """
    batches: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(n_tokens)), key=lambda i: (-n_tokens[i], i)):
        for b, free in enumerate(room):
            if n_tokens[i] <= free:
                batches[b].append(i)
                room[b] -= n_tokens[i]
                break
        else:
            batches.append([i])
            room.append(budget - n_tokens[i])
    return batches
