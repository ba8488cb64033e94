"""Numbers with intervals: a mean or any function of sums, bootstrapped over whole clusters. numpy only.

    P  rows (pairs)
    C  clusters (prompts)
    S  sums
    D  bootstrap draws

The lowest layer, beside the errors: the data check and the evaluation put the same interval on their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAWS = 2000
CHUNK = 4_000_000  # counts held at once: 32 MB
MANY_KINDS = 200  # of clusters: below it a multinomial draw is faster than one number for each cluster


@dataclass(frozen=True)
class Interval:
    """A number with its 95% interval; None where the data cannot say (no row; fewer than two clusters)."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, float | None]:
        return asdict(self)


def interval_text(row: Mapping[str, Any], form: str = ".3f", *, key: str = "value", none: str = "–") -> str:
    """ "0.812 [0.790, 0.834]" of a row's `key`, low and high; the number alone where it has no interval, `none` where
    there is no number."""
    if row.get(key) is None:
        return none
    if row.get("low") is None:
        return f"{row[key]:{form}}"
    return f"{row[key]:{form}} [{row['low']:{form}}, {row['high']:{form}}]"


def ratio(sums_DS: Floats) -> Floats:
    """First column over second, NaN where that is zero: a weighted mean from its two sums."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums_DS[:, 1] != 0, sums_DS[:, 0] / sums_DS[:, 1], np.nan)


def clustered_bootstrap(
    rows_PS: ArrayLike,
    cluster_P: ArrayLike,
    statistic: Callable[[Floats], Floats] = ratio,
    *,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic of column sums, resampling whole clusters with replacement.

    `statistic` maps (D, S) sums to (D,) values: any function of sums can be bootstrapped without a loop.
    Draws in which it is NaN are left out. The order of rows and the names of clusters play no part.
    With few clusters (under about 20) the interval is too narrow, as any percentile bootstrap's. `draws` of 0 leaves
    it out.
    Source: Davison and Hinkley (1997), section 3.8; Miller (2411.00640) for clustering evaluations.
    """
    rows_PS = np.asarray(rows_PS, dtype=np.float64)
    if len(rows_PS) == 0:
        return Interval(None)
    sums_CS = cluster_sums(rows_PS, cluster_P)
    value = number_or_none(statistic(sums_CS.sum(0, keepdims=True))[0])
    if len(sums_CS) < 2 or value is None or draws == 0:
        return Interval(value)
    values_D = statistic(resampled_sums(sums_CS, draws, np.random.default_rng(seed)))
    values_D = values_D[~np.isnan(values_D)]
    if len(values_D) == 0:
        return Interval(value)
    low, high = np.quantile(values_D, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def clustered_mean(
    values_P: ArrayLike,
    cluster_P: ArrayLike,
    weight_P: ArrayLike | None = None,
    *,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """(Weighted) mean over rows with an interval clustered by `cluster_P`."""
    values_P = np.asarray(values_P, dtype=np.float64)
    weight_P = np.ones_like(values_P) if weight_P is None else np.asarray(weight_P, dtype=np.float64)
    rows_P2 = np.stack([values_P * weight_P, weight_P], axis=1)
    return clustered_bootstrap(rows_P2, cluster_P, draws=draws, level=level, seed=seed)


def cluster_sums(rows_PS: Floats, cluster_P: ArrayLike) -> Floats:
    """Column sums of each cluster, by order of name."""
    names, index_P = np.unique(np.asarray(cluster_P), return_inverse=True)
    sums_CS = np.zeros((len(names), rows_PS.shape[1]))
    np.add.at(sums_CS, index_P, rows_PS)
    return sums_CS


def resampled_sums(sums_CS: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """(D, S) column sums of `draws` samples of C clusters with replacement.

    Clusters with the same sums are interchangeable, so each draw counts kinds of cluster: exact, and for
    an accuracy, which has a handful of kinds, a thousandth of the work. Where most clusters are a kind of their own,
    drawing their numbers is the faster way to the same distribution.
    """
    kinds_US, n_U = np.unique(sums_CS, axis=0, return_counts=True)
    n_clusters = len(sums_CS)
    if len(kinds_US) > max(MANY_KINDS, n_clusters / 10):
        counts = (np.bincount(rng.integers(0, n_clusters, n_clusters), minlength=n_clusters) for _ in range(draws))
        return np.stack([count_C @ sums_CS for count_C in counts])
    per_chunk = max(1, CHUNK // len(kinds_US))
    sizes = [min(per_chunk, draws - start) for start in range(0, draws, per_chunk)]
    drawn = [rng.multinomial(n_clusters, n_U / n_clusters, size=size) @ kinds_US for size in sizes]
    return np.concatenate(drawn)


def number_or_none(value: float) -> float | None:
    """A float for JSON, which has no NaN."""
    return None if np.isnan(value) else float(value)
