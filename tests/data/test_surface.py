"""The surface baseline as an instrument: it finds a bias that was planted and nothing where there is none."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.data.surface import (
    FEATURES,
    LEXICON,
    WORDS,
    fair_share,
    folds,
    sample_pairs,
    surface_baseline,
    surface_features,
)

NAMES = [feature.name for feature in FEATURES]
WORDS_OF_A_STORY = "the cat sat on a mat and saw one more dog run to that old house by the river"
VOCABULARY = tuple(WORDS_OF_A_STORY.split())


def sentence(draw: random.Random, n: int) -> str:
    return " ".join(draw.choices(VOCABULARY, k=n)) + "."


def pair(prompt: str, chosen: str, rejected: str) -> Group:
    return Group(
        prompt=(Message("user", prompt),),
        responses=((Message("assistant", chosen),), (Message("assistant", rejected),)),
        preferences=(Preference(chosen=0, rejected=1),),
    )


def random_groups(n: int, seed: int = 0) -> list[Group]:
    """Pairs whose label has nothing to do with their texts."""
    draw = random.Random(seed)
    return [
        pair(f"question {i}", sentence(draw, draw.randint(5, 60)), sentence(draw, draw.randint(5, 60)))
        for i in range(n)
    ]


def test_planted_length_bias_is_found() -> None:
    draw = random.Random(0)
    groups = []
    for i in range(300):
        short, long = draw.randint(5, 25), draw.randint(30, 60)
        if draw.random() < 0.15:
            short, long = long, short
        groups.append(pair(f"question {i}", sentence(draw, long), sentence(draw, short)))
    found = surface_baseline(groups)
    assert found["n_pairs"] == 300
    assert found["n_prompts"] == 300
    assert found["length_accuracy"]["value"] == pytest.approx(0.85, abs=0.06)
    assert found["length_accuracy"]["low"] > 0.75
    assert found["logistic_accuracy"]["low"] > 0.75
    assert found["shorter_accuracy"]["value"] == pytest.approx(1 - found["length_accuracy"]["value"])
    assert found["features"][0]["name"] == "length"
    assert found["features"][0]["coefficient"] > 0
    assert "Most of these labels" in found["reading"]
    assert "longer" in found["reading"]


def test_planted_marker_is_named_with_its_sign() -> None:
    """A refusal that is always rejected, at equal length on average."""
    draw = random.Random(1)
    groups = []
    for i in range(300):
        refusal = "I can't help with that. " + sentence(draw, draw.randint(5, 40))
        groups.append(pair(f"question {i}", sentence(draw, draw.randint(9, 44)), refusal))
    found = surface_baseline(groups)
    named = {row["name"]: row for row in found["features"]}
    assert found["logistic_accuracy"]["value"] > 0.95
    assert found["auc"] > 0.95
    assert named["refusal"]["coefficient"] < 0
    assert named["refusal"]["accuracy_where_differs"] == 0
    assert found["length_accuracy"]["value"] == pytest.approx(0.5, abs=0.1)


def test_nothing_is_found_where_nothing_is() -> None:
    found = surface_baseline(random_groups(1500))
    for key in ("length_accuracy", "logistic_accuracy"):
        assert found[key]["value"] == pytest.approx(0.5, abs=0.05)
    assert found["auc"] == pytest.approx(0.5, abs=0.05)
    assert "next to nothing" in found["reading"]


def test_held_out_prompts_are_held_out() -> None:
    """Two thousand copies of one thread teach nothing about the others."""
    draw = random.Random(2)
    thread = [pair("one thread", sentence(draw, 40), sentence(draw, 10)) for _ in range(400)]
    found = surface_baseline([*thread, *random_groups(200)])
    assert found["n_prompts"] == 201
    # The interval sees one cluster of 400 pairs: it is wide, whatever the number of pairs.
    assert found["length_accuracy"]["high"] - found["length_accuracy"]["low"] > 0.1


def test_same_seed_same_result_and_order_plays_no_part_in_length() -> None:
    groups = random_groups(200)
    assert surface_baseline(groups, seed=3) == surface_baseline(groups, seed=3)
    assert surface_baseline(groups)["length_accuracy"]["value"] == pytest.approx(
        surface_baseline(groups[::-1])["length_accuracy"]["value"]
    )


def test_ties_are_left_out_and_few_pairs_give_no_number() -> None:
    groups = random_groups(12)
    tied = Group(
        prompt=groups[0].prompt,
        responses=groups[0].responses,
        preferences=(Preference(chosen=0, rejected=1, probability=0.5),),
    )
    found = surface_baseline([*groups, tied])
    assert found["n_pairs"] == 12
    assert found["logistic_accuracy"] == {"value": None, "low": None, "high": None}
    assert "too few" in found["reading"]
    assert surface_baseline([])["n_pairs"] == 0


def test_result_is_json() -> None:
    json.dumps(surface_baseline(random_groups(60)), allow_nan=False)


def test_sampling_is_fair_to_groups() -> None:
    ring = [Preference(chosen=a, rejected=b) for a in range(8) for b in range(8) if a != b]
    decided = [ring, ring[:1], ring, []]
    kept = sample_pairs(decided, 21, seed=0)
    assert [len(pairs) for pairs in kept] == [10, 1, 10, 0]
    assert sample_pairs(decided, 1000, seed=0) == [ring, ring[:1], ring, []]
    assert sum(map(len, sample_pairs([ring[:1]] * 50, 20, seed=0))) == 20
    assert fair_share([5, 5, 5], 9) == 3


def test_folds_are_even_and_stable() -> None:
    openings = [f"question {n}" for n in range(53)]
    sizes = np.bincount(folds(openings, 0))
    assert sizes.tolist() == [11, 11, 11, 10, 10]
    by_name = dict(zip(openings, folds(openings, 0)))
    shuffled = openings[::-1]
    assert dict(zip(shuffled, folds(shuffled, 0))) == by_name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bullets", "Here:\n- one\n- two"),
        ("numbered items", "1. one\n2) two"),
        ("bold", "this is **bold**"),
        ("headers", "## Title"),
        ("code blocks", "```python\nx\n```"),
        ("inline code", "call `f(x)` now"),
        ("table rows", "| a | b |"),
        ("links", "see https://example.org"),
        ("emoji", "well done 🎉"),
        ("exclamation marks", "yes!"),
        ("question marks", "why?"),
        ("digits", "in 1984"),
        ("capitals", "NASA said"),
        ("quotes", 'he said "no"'),
        ("brackets", "one (two)"),
        ("ready opener", "Sure, here it is."),
        ("refusal", "I’m sorry, but I can’t do that."),
        ("apology", "I apologize."),
        ("hedges", "It might rain."),
        ("certainty", "That is definitely so."),
        ("caveats", "However, ask first."),
        ("connectives", "For example this."),
        ("first person", "I'd say so."),
        ("second person", "You're right."),
        ("thanks and offers", "Let me know!"),
        ("no final mark", "it stops in the mid"),
    ],
)
def test_feature_sees_what_it_names(name: str, text: str) -> None:
    at = NAMES.index(name)
    assert surface_features(text)[at] > surface_features("plain words stand here.")[at]


def test_words_inside_others_do_not_count() -> None:
    plain = dict(zip(NAMES, surface_features("surely hi cannot maybe. imaginary dismay.")))
    assert plain["ready opener"] == 0
    assert plain["refusal"] == 0
    assert plain["first person"] == 0


def test_names_are_unique_and_lexicon_words_belong_to_one_feature() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert len(WORDS) == sum(" " not in phrase for phrases in LEXICON.values() for phrase in phrases)
    assert all(np.isfinite(surface_features(text)).all() for text in ("", " ", "\n", "a", "é🎉" * 50))
