"""Names of clusters: the score by a second route, forms of one word, dull words, clusters of nothing in common."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rewardsmith.data.coverage.naming import cluster_names, stem_of, stems_of, telling


def names_of(clusters: list[list[str]]) -> list[str]:
    texts = [text for texts in clusters for text in texts]
    return list(map(str, cluster_names(texts, np.repeat(np.arange(len(clusters)), list(map(len, clusters))))))


def test_the_score_by_hand():
    """Of two clusters of four texts a word that both have names neither; in all texts counts more than rare."""
    inside, total = {"boat": 4, "mast": 2, "water": 3}, {"boat": 4, "mast": 2, "water": 6, "bread": 4}
    assert telling(inside, total, 4, 8, mean_words=8.0, most=3) == ["boat", "mast"]
    for elsewhere in range(0, 60, 5):
        boat = 4 / 4 * 4 / 7 * math.log(1 + 8 / (4 + elsewhere))
        mast = 3 / 4 * 3 / 7 * math.log(1 + 8 / 3)
        first = telling({"boat": 4, "mast": 3}, {"boat": 4 + elsewhere, "mast": 3}, 4, 100, 8.0, 1)
        assert first == (["boat"] if boat > mast else ["mast"])
    assert first == ["mast"]


def test_at_most_three_terms_of_different_words_the_commonest_form_written():
    cakes = [
        "rob the bakery flour oven yeast",
        "robbing a bakery flour oven yeast",
        "robbing bakeries flour oven yeast",
    ]
    assert names_of([cakes, ["sail the boat", "a boat sails", "boat"]]) == ["bakery, flour, oven", "boat, sail"]
    names = names_of([["robbing banks"] * 2 + ["rob banks"], ["sail boats"] * 3])
    assert names == ["banks, robbing", "boats, sail"]


def test_words_of_every_request_name_nothing():
    asked = ["How do I start a fake charity?", "Please provide an example of a fake charity", "Start a fake charity"]
    assert names_of([asked, ["boat"] * 3])[0] == "charity, fake"
    assert names_of([["please provide it"], ["boat"]]) == ["(no words in common)", "boat"]


def test_the_only_cluster_is_named_too():
    assert names_of([["sail boats", "boats in the harbour", "a wind of the north"]]) == ["boats"]


def test_a_cluster_without_a_common_word_is_mixed():
    different = [f"{a}{b}{c}{c}um about" for a in "bdfg" for b in "aeo" for c in "kt"]
    name = names_of([[*different, "otter river", "otter lake"], ["boat"] * 9])[0]
    assert name == "mixed: otter"
    assert names_of([["otter river"] * 20 + different, ["boat"] * 9])[0] == "otter, river"


@pytest.mark.parametrize(
    ("forms", "stems"),
    [(["rob", "robbing", "robbed", "robs"], {"rob"}), (["cake", "cakes"], {"cak"}), (["gas", "gag"], {"gas", "gag"})],
)
def test_forms_of_one_word_have_one_stem(forms, stems):
    assert {stem_of(word) for word in forms} == stems


def test_a_word_counts_once_in_a_text():
    assert stems_of("Boats, boats and a boat!") == {"boat": "boat"}
