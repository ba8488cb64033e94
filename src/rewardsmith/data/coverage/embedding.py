"""Texts as points: a light embedding from the data's own words, and clusters of them.

    N  texts     D  dimensions     V  words     K  clusters

Light: sublinear tf-idf of content words. A word that the data does not have still counts in a text's length: what is
not known makes a text unlike all of the data, as a word of its own does a text of the data beside the others. A word
outside has the weight that it would have if its text were one of the data, so that distances from outside and within
compare. Neighbours are looked for among these
words; clusters, the map and Mahalanobis distance use D numbers of a truncated singular value decomposition (latent
semantic analysis; Deerwester et al. 1990). It knows words, not meaning, and only languages of which the data has at
least `FEWEST_OF_LANGUAGE` prompts: of others nothing is judged. A model's trunk is used through the same door
(`rewardsmith.trunk_embedding`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rewardsmith.data.coverage.languages import content_words, language_of
from rewardsmith.statistics import Floats, Ints

Points = NDArray[np.float32]

DIMENSIONS = 64
MOST_WORDS = 50_000  # of the vocabulary
FEWEST_OF_LANGUAGE = 20  # texts: below it the light embedding does not know a language
KNOWN = 0.5  # of a text's words: such a text is judged whatever its language
MOST_CLUSTERS = 40
FOR_CLUSTERS = (12, 64)  # dimensions
FEWEST_FOR_CLUSTERS = 20  # texts


@dataclass(frozen=True)
class Embedded:
    """[N, D] points of length 1, or 0 where no word is known; [N] whether the embedder knows the text's language.

    word_NV  scipy's sparse rows of words, what neighbours are looked for among; None where that is `point_ND`
    """

    point_ND: Points
    judged_N: NDArray[np.bool_]
    word_NV: Any = None

    @property
    def placed_N(self) -> NDArray[np.bool_]:
        """Texts that have a place in the space of D numbers."""
        return self.judged_N & self.point_ND.any(1)

    @property
    def near_NX(self) -> Any:
        return self.point_ND if self.word_NV is None else self.word_NV

    def at(self, index: Ints) -> Embedded:
        words = None if self.word_NV is None else self.word_NV[index]
        return Embedded(self.point_ND[index], self.judged_N[index], words)


class Embedder(Protocol):
    """Points of texts. `fit` sees the data's texts once; what it learns from them serves every other text.

    alike  cosine distance below which two texts deserve a look
    """

    name: str
    alike: float

    def fit(self, texts: Sequence[str]) -> Embedded: ...

    def embed(self, texts: Sequence[str]) -> Embedded: ...


class LightEmbedder:
    """Tf-idf of the data's own words, reduced. No model, no network."""

    alike = 0.2

    def __init__(self, seed: int = 0, dimensions: int = DIMENSIONS) -> None:
        self.name = "light: the data's own words (tf-idf, and a singular value decomposition of it)"
        self.seed, self.dimensions = seed, dimensions
        self.languages: set[str] = set()
        self.count: Any = None

    def fit(self, texts: Sequence[str]) -> Embedded:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import CountVectorizer

        counts = Counter(map(language_of, texts))
        self.languages = {name for name, n in counts.items() if n >= min(FEWEST_OF_LANGUAGE, len(texts) / 2)}
        words = [content_words(text) for text in texts]
        of_texts = Counter(word for row in words for word in set(row))
        if sum(n > 1 for n in of_texts.values()) < 2:  # nothing in common to tell texts apart by
            return self._nothing(texts)
        self.count = CountVectorizer(analyzer=list, max_features=MOST_WORDS, dtype=np.float32)
        self.count.fit(words)
        in_texts_V = np.array([of_texts[word] for word in self.count.get_feature_names_out()])
        self.inside_V, self.outside_V = (idf(len(texts), in_texts_V + more) for more in (0, 1))
        self.rare = float(idf(len(texts), 1))
        word_NV = self._weighted(words, self.inside_V)
        n = max(1, min(self.dimensions, *(size - 1 for size in word_NV.shape)))
        with np.errstate(invalid="ignore", divide="ignore"):  # by the variance, 0 for texts of the same words
            self.reduce = TruncatedSVD(n, n_iter=4, random_state=self.seed).fit(word_NV)
        return self._embedded(texts, words, word_NV)

    def embed(self, texts: Sequence[str]) -> Embedded:
        if self.count is None:
            return self._nothing(texts)
        words = [content_words(text) for text in texts]
        return self._embedded(texts, words, self._weighted(words, self.outside_V))

    def _weighted(self, words: Sequence[Sequence[str]], idf_V: Floats) -> Any:
        """[N, V] rows of tf-idf, of length 1 if every word is in the vocabulary and shorter if not."""
        word_NV = self.count.transform(words)
        word_NV.data = (1 + np.log(word_NV.data)) * idf_V[word_NV.indices].astype(np.float32)
        vocabulary = self.count.vocabulary_
        unknown_N = np.array([
            sum((1 + np.log(n)) ** 2 for word, n in Counter(row).items() if word not in vocabulary) for row in words
        ])  # fmt: skip
        square_N = np.asarray(word_NV.multiply(word_NV).sum(1)).ravel() + unknown_N * self.rare**2
        scale_N = 1 / np.sqrt(np.where(square_N > 0, square_N, 1.0))
        word_NV.data *= np.repeat(scale_N, np.diff(word_NV.indptr)).astype(np.float32)
        return word_NV

    def _embedded(self, texts: Sequence[str], words: Sequence[Sequence[str]], word_NV: Any) -> Embedded:
        vocabulary = self.count.vocabulary_
        known = [bool(row) and sum(word in vocabulary for word in row) >= KNOWN * len(row) for row in words]
        judged_N = np.array([k or language_of(text) in self.languages for k, text in zip(known, texts)], dtype=bool)
        return Embedded(unit(self.reduce.transform(word_NV)), judged_N, word_NV)

    def _nothing(self, texts: Sequence[str]) -> Embedded:
        return Embedded(np.zeros((len(texts), 1), np.float32), np.zeros(len(texts), dtype=bool))


def idf(n: int, in_texts: Ints | int) -> Floats:
    """log((1 + n) / (1 + texts with the word)) + 1."""
    return np.asarray(np.log((1 + n) / (1 + np.asarray(in_texts))) + 1)


def unit(x_ND: Floats | Points) -> Points:
    """Rows of length 1; rows of 0 stay."""
    length_N = np.linalg.norm(x_ND, axis=1, keepdims=True)
    return np.asarray(x_ND / np.where(length_N > 1e-9, length_N, 1.0), dtype=np.float32)


# -- clusters -------------------------------------------------------------------------------------------------------


def n_clusters(n: int) -> int:
    """How many clusters so many texts are cut into."""
    return int(np.clip(round(np.sqrt(n) / 2), 2, MOST_CLUSTERS))


def cluster(point_ND: Points, k: int, seed: int = 0) -> Ints:
    """[N] the cluster of each point by k-means, the largest cluster 0.

    Of few points only the first, strongest dimensions are used: in all of them most texts are equally far from each
    other, and end as one large cluster.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    point_ND = unit(point_ND[:, : int(np.clip(round(0.6 * np.sqrt(len(point_ND))), *FOR_CLUSTERS))])
    k = min(k, len(np.unique(point_ND, axis=0)))
    if k < 2:
        return np.zeros(len(point_ND), dtype=np.int64)
    if len(point_ND) > 10_000:
        model = MiniBatchKMeans(k, batch_size=4096, n_init=3, random_state=seed)
    else:
        model = KMeans(k, n_init=4, random_state=seed)
    return by_size(model.fit_predict(point_ND))


def by_size(label_N: Ints) -> Ints:
    """The same clusters, numbered by size; clusters that lost all their points go."""
    names, index_N, count_K = np.unique(label_N, return_inverse=True, return_counts=True)
    rank_K = np.empty(len(names), dtype=np.int64)
    rank_K[np.argsort(-count_K, kind="stable")] = np.arange(len(names))
    return rank_K[index_N]
