"""Where a target set lies outside the data: nearest neighbour, Mahalanobis distance, and holes that have a name.

Maths. d(t) = 1 - max_x cos(t, x) over the data's prompts x, each near duplicate once. What is far is told by the data
itself: the 95th percentile of the distance from a prompt of the data to the nearest with another opening turn, or no
word in common where that is so of more than 5% of them. (Two answers to one prompt, and two lengths of one
conversation, share their words. Were they neighbours, a target on prompts of its own would be far by that alone.) A
target of the same kind as the data has the same share beyond, so that is what
the target's share is to be read beside. Without a threshold, r(t) is the share of the data's own distances that are
below d(t), equal ones by half: its mean is the chance that a target prompt is farther than one of the data, 1/2 where
they are alike.

m(t)^2 = (t - mu)' S^-1 (t - mu), mu and S the data's mean and covariance, S shrunk (Ledoit and Wolf 2004); its
threshold is made in the same way. The neighbour sees gaps inside the cloud, Mahalanobis what lies off it as a whole
(Lee et al. 2018, 1807.03888). A hole is a cluster of target prompts without a near neighbour.

Intervals resample the target's opening turns, with all of their answers; the data is taken as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewardsmith.data.coverage.embedding import (
    FEWEST_FOR_CLUSTERS,
    Embedded,
    LightEmbedder,
    Points,
    cluster,
    n_clusters,
)
from rewardsmith.data.coverage.languages import language_of
from rewardsmith.data.coverage.naming import cluster_names
from rewardsmith.data.coverage.neighbours import nearest
from rewardsmith.data.survey import snippet
from rewardsmith.statistics import Floats, Ints, clustered_mean

BEYOND = 0.05  # share of the data's own prompts that are called far
MOST_OWN = 5000  # prompts that the threshold rests on
MOST_FITTED = 20_000  # that the covariance rests on
MOST_HOLES = 12
NOTHING_SHARED = 1 - 1e-6  # a distance above it: no word in common
ROUNDING = 1e-5  # of distances of 32-bit points: what is equal is not beyond
EXAMPLES = 3
FEWEST_FOR_INTERVAL = 10  # opening turns of a hole
DRAWS = 500
FEWEST = 20  # opening turns of the data: below it no threshold is worth having


@dataclass(frozen=True)
class Distances:
    """Of each target text: to the nearest text of the data and its number, and Mahalanobis; NaN where not judged.

    rank_T    share of the data's own distances that are below, equal ones by half
    expected  share of the data's own texts that are beyond `near_limit`
    """

    nearest_T: Floats
    neighbour_T: Ints
    mahalanobis_T: Floats
    rank_T: Floats
    near_limit: float
    mahalanobis_limit: float
    expected: float
    judged_T: NDArray[np.bool_]

    @property
    def far_T(self) -> NDArray[np.bool_]:
        """True where no near neighbour is there."""
        return self.judged_T & (self.nearest_T > self.near_limit)

    @property
    def off_T(self) -> NDArray[np.bool_]:
        return self.judged_T & (self.mahalanobis_T > self.mahalanobis_limit * (1 + ROUNDING))


def distances(data: Embedded, target: Embedded, opening_N: Ints, seed: int = 0) -> Distances | None:
    """None where the data has too few texts to say what is far. `data` holds each near duplicate once.

    opening_N  numbers of the opening turns that the data's texts belong to
    """
    base = np.flatnonzero(data.judged_N)
    opening_M = opening_N[base]
    if len(np.unique(opening_M)) < FEWEST or data.placed_N.sum() < FEWEST:
        return None
    near_MX, point_MD = data.near_NX[base], data.point_ND[base]
    rng = np.random.default_rng(seed)
    own = sample(len(base), MOST_OWN, rng)
    own_nearest, _ = nearest(near_MX[own], near_MX, (opening_M[own], opening_M))
    fitted = sample(len(base), MOST_FITTED, rng)
    mean_D, inverse_DD = gaussian(point_MD[fitted])
    near_T, index_T = nearest(target.near_NX, near_MX)
    limit = min(float(np.quantile(own_nearest, 1 - BEYOND)), NOTHING_SHARED)
    return Distances(
        np.where(target.judged_N, near_T, np.nan),
        np.where(target.judged_N, base[index_T], -1),
        np.where(target.judged_N, mahalanobis(target.point_ND, mean_D, inverse_DD), np.nan),
        np.where(target.judged_N, ranks(near_T, own_nearest), np.nan),
        limit,
        float(np.quantile(mahalanobis(point_MD[fitted], mean_D, inverse_DD), 1 - BEYOND)),
        float((own_nearest > limit).mean()),
        target.judged_N,
    )


def ranks(value_T: Floats, own_N: Floats) -> Floats:
    """The share of `own` below each value, equal ones by half. Rounded, so that what shares nothing is equal."""
    ordered, rounded_T = np.sort(np.round(own_N, 6)), np.round(value_T, 6)
    sides = [np.searchsorted(ordered, rounded_T, side=side) for side in ("left", "right")]
    return np.asarray((sides[0] + sides[1]) / (2 * len(ordered)))


def sample(n: int, most: int, rng: np.random.Generator) -> Ints:
    """Up to `most` of the numbers below n, in order."""
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def gaussian(point_ND: Points) -> tuple[Floats, Floats]:
    """Mean and inverse covariance of points, the covariance shrunk towards a sphere."""
    from sklearn.covariance import LedoitWolf

    model = LedoitWolf().fit(np.asarray(point_ND, dtype=np.float64))
    return model.location_, model.precision_


def mahalanobis(point_ND: Points, mean_D: Floats, inverse_DD: Floats) -> Floats:
    away_ND = np.asarray(point_ND, dtype=np.float64) - mean_D
    return np.asarray(np.sqrt(np.maximum(np.einsum("nd,nd->n", away_ND @ inverse_DD, away_ND), 0.0)))


def target_clusters(texts: Sequence[str], seed: int = 0) -> Ints:
    """[T] the cluster of each target text among the target's own, by its own words: the data may lack the words."""
    k = n_clusters(len(texts)) if len(texts) >= FEWEST_FOR_CLUSTERS else 1
    return cluster(LightEmbedder(seed).fit(texts).point_ND, k, seed)


def holes_report(
    texts: Sequence[str],
    data_texts: Sequence[str],
    data_sources: Sequence[str],
    found: Distances | None,
    label_T: Ints,
    opening_T: Ints,
    seed: int = 0,
) -> dict[str, Any]:
    """What is to be said of a target's distances, ready for JSON.

    texts                      the target's
    data_texts, data_sources   of the data, by the numbers in `found.neighbour_T`
    label_T, opening_T         the target's clusters, and the opening turns that its texts belong to
    """
    n = len(texts)
    unknown = (
        Counter(language_of(text) for text, judged in zip(texts, found.judged_T) if not judged)
        if found
        else Counter[str]()
    )
    result: dict[str, Any] = {
        "texts": n,
        "openings": len(np.unique(opening_T)),
        "judged": int(found.judged_T.sum()) if found else 0,
        "not_judged": dict(unknown.most_common()) if found else {},
        "expected": found.expected if found else None,
        "farther": None,
        "far": None,
        "off": None,
        "near_limit": None,
        "mahalanobis_limit": None,
        "holes": [],
    }
    if found is None or not found.judged_T.any():
        return result
    judged_T, opening_J = found.judged_T, opening_T[found.judged_T]
    result |= {
        "farther": clustered_mean(found.rank_T[judged_T], opening_J, seed=seed).to_json(),
        "far": clustered_mean(found.far_T[judged_T], opening_J, seed=seed).to_json(),
        "off": clustered_mean(found.off_T[judged_T], opening_J, seed=seed).to_json(),
        "near_limit": found.near_limit,
        "mahalanobis_limit": found.mahalanobis_limit,
    }
    rows = [
        {"name": str(name)} | hole(texts, data_texts, data_sources, found, label_T == k, opening_T, seed)
        for k, name in enumerate(cluster_names(texts, label_T))
    ]
    result["holes"] = sorted((row for row in rows if row["far"]), key=lambda row: -row["far"])[:MOST_HOLES]
    return result


def hole(
    texts: Sequence[str],
    data_texts: Sequence[str],
    data_sources: Sequence[str],
    found: Distances,
    in_T: NDArray[np.bool_],
    opening_T: Ints,
    seed: int,
) -> dict[str, Any]:
    """One cluster of the target: how many of its texts are far, and the farthest of them."""
    inside, judged = np.flatnonzero(in_T & found.far_T), np.flatnonzero(in_T & found.judged_T)
    few = len(np.unique(opening_T[judged])) < FEWEST_FOR_INTERVAL
    share = clustered_mean(found.far_T[judged], opening_T[judged], draws=0 if few else DRAWS, seed=seed)
    order = inside[np.argsort(-found.nearest_T[inside], kind="stable")]
    return {
        "texts": int(in_T.sum()),
        "far": len(inside),
        "share": share.to_json(),
        "off": float(found.off_T[judged].mean()) if len(judged) else None,
        "languages": dict(Counter(language_of(texts[t]) for t in inside.tolist()).most_common(3)),
        "examples": [far_example(texts, data_texts, data_sources, found, int(t)) for t in order[:EXAMPLES]],
    }


def far_example(
    texts: Sequence[str], data_texts: Sequence[str], data_sources: Sequence[str], found: Distances, t: int
) -> dict[str, Any]:
    """A far text and the nearest of the data; none where they share nothing."""
    shares = found.nearest_T[t] < NOTHING_SHARED
    near = int(found.neighbour_T[t])
    return {
        "text": snippet(texts[t]),
        "distance": float(found.nearest_T[t]),
        "nearest": snippet(data_texts[near]) if shares else "",
        "nearest_source": data_sources[near] if shares else "",
    }
