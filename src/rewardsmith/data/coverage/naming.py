"""The terms that name a cluster of texts: up to three words that its texts have and the others do not.

K  clusters     c(w, k)  texts of cluster k that have word w     f(w)  texts of all clusters that have it

A word scores p * t * log(1 + A / f): t = c / sum over w of c, its part of the cluster's words, A the mean over clusters
of that sum (the class-based tf-idf of Grootendorst 2203.05794, of texts that have the word instead of its count), and
p = c / n the share of the cluster's n texts that have it, so that no rare word names a cluster. A word has to be
commoner in the cluster than elsewhere. Forms of one word ("rob", "robbing") count as one and are written as the
commonest. Words that are in every kind of request and name none ("start", "provide", "example") are left out: of names
only, the embedding knows them.

A cluster whose terms are in under three tenths of its texts is called mixed: k-means puts there what fits nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rewardsmith.data.coverage.languages import content_words
from rewardsmith.statistics import Ints

NAMED_BY = 3  # terms
LIFT = 1.5  # by which a word has to be commoner in a cluster to name it
LEAST_SHARE = 0.03  # of a cluster's texts that have a term
MIXED = 0.3  # of a cluster's texts that have one of its terms
ENDINGS = ("ings", "ing", "ers", "er", "ies", "ied", "ed", "es", "s", "y", "e")
SHORTEST = 3  # letters of a stem
DULL_WORDS = """
    provide suggest exist exists ones supposed exactly start started starting mean means word words term terms name
    names example examples part parts list lists type types different various number numbers possible potential
    important certain specific high low short long right wrong cause caused use using used call called ask asking asked
    tell told talk talking hear heard live living work works working happen happens happened include including create
    creating write writing explain describe detailed question questions answer answers please text sentence sentences
    paragraph given based stuff whole half turn hard easy real true full bunch instead ago away today night day year
    years time times week month hour second minute idea ideas believe guess hope wonder wondering curious kinda totally
    especially stop life world place reason leave bring tip tips step steps guy guys let's ok dont cant ive myself
    yourself related found looking less
"""
DULL = frozenset(DULL_WORDS.split())


@dataclass(frozen=True)
class Name:
    """A cluster's terms, the most telling first, and the share of its texts that have at least one of them."""

    terms: tuple[str, ...]
    share: float

    def __str__(self) -> str:
        if not self.terms:
            return "(no words in common)"
        return ("" if self.share >= MIXED else "mixed: ") + ", ".join(self.terms)


def cluster_names(texts: Sequence[str], label_N: Ints, most: int = NAMED_BY) -> list[Name]:
    """One name per cluster; a word counts once in a text."""
    rows = [stems_of(text) for text in texts]
    forms: dict[str, Counter[str]] = {}
    k = int(label_N.max(initial=-1)) + 1
    counts: list[Counter[str]] = [Counter() for _ in range(k)]
    for row, label in zip(rows, label_N.tolist(), strict=True):
        counts[label].update(row.keys())
        for stem, word in row.items():
            forms.setdefault(stem, Counter())[word] += 1
    total = Counter[str]()
    for of_cluster in counts:
        total.update(of_cluster)
    size_K = np.bincount(label_N, minlength=k).tolist()
    chosen = [telling(counts[c], total, size_K[c], len(texts), sum(total.values()) / k, most) for c in range(k)]
    named_K = [0] * k
    for row, label in zip(rows, label_N.tolist()):
        named_K[label] += any(stem in row for stem in chosen[label])
    words = [tuple(commonest(forms[stem]) for stem in stems) for stems in chosen]
    return [Name(terms, named / max(size, 1)) for terms, named, size in zip(words, named_K, size_K)]


def telling(
    inside: Mapping[str, int], total: Mapping[str, int], n_inside: int, n: int, mean_words: float, most: int
) -> list[str]:
    """The stems of the highest scores (see the module); one of a single text only where no other is there."""
    least = max(2 if max(inside.values(), default=0) > 1 else 1, LEAST_SHARE * n_inside)
    n_words = sum(inside.values())
    score = {}
    for stem, count in inside.items():
        p, q = (count + 0.5) / (n_inside + 1), (total[stem] - count + 0.5) / (n - n_inside + 1)
        q = q if n > n_inside else 0.0  # the only cluster has no elsewhere
        if count >= least and p > LIFT * q:
            score[stem] = count / n_inside * count / n_words * np.log1p(mean_words / total[stem])
    return sorted(score, key=lambda stem: (-score[stem], stem))[:most]


def stems_of(text: str) -> dict[str, str]:
    """The text's content words by their stems, dull ones left out."""
    return {stem_of(word): word for word in content_words(text) if word not in DULL}


def stem_of(word: str) -> str:
    """A word without its English ending, so that forms of one word are counted together. Rough, and only for names."""
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST:
            word = word.removesuffix(ending)
            break
    doubled = len(word) > SHORTEST and word[-1] == word[-2] and word[-1].isascii()
    return word[:-1] if doubled else word


def commonest(forms: Mapping[str, int]) -> str:
    return min(forms, key=lambda word: (-forms[word], word))
