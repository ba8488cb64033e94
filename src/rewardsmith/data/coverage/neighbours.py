"""Nearest neighbours by cosine, exact, in blocks that bound the memory; of dense or of sparse rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from rewardsmith.statistics import Floats, Ints

BLOCK = 8_000_000  # similarities held at once: 32 MB


def nearest(row_NX: Any, among_MX: Any, kin: tuple[Ints, Ints] | None = None) -> tuple[Floats, Ints]:
    """([N] cosine distance to the nearest of `among`, [N] its number). Rows have length 1, or less for what is unlike
    everything in part.

    kin  ([N], [M]) numbers of what each row, and each of `among`, is a part of: those of the same number are passed
         over, and the distance is to the nearest other; infinite, and the number -1, where no other is there
    """
    n, m = row_NX.shape[0], among_MX.shape[0]
    distance_N, index_N = np.full(n, np.inf), np.full(n, -1, dtype=np.int64)
    if not m:
        return distance_N, index_N
    sparse = not isinstance(among_MX, np.ndarray)
    across_XM = among_MX.T.tocsr() if sparse else among_MX.T
    step = max(1, BLOCK // m)
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        similar_BM = row_NX[part] @ across_XM
        if sparse:
            similar_BM = similar_BM.toarray()
        if kin is not None:
            similar_BM[kin[0][part, None] == kin[1]] = -np.inf
        index_B = similar_BM.argmax(1)
        distance_N[part] = 1.0 - similar_BM[np.arange(len(index_B)), index_B]
        index_N[part] = np.where(np.isfinite(distance_N[part]), index_B, -1)
    return np.maximum(distance_N, 0.0), index_N
