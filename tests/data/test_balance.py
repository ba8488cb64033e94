"""Weights that break what the surface predicts: checked against the sums they must satisfy, and on planted biases."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from rewardsmith.cli import main
from rewardsmith.data.balance import balance, differences, drawn, effective, scaled, spread
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group, Message, Preference, text_of
from rewardsmith.data.surface import pair_weights, surface_baseline
from rewardsmith.errors import ConfigError, DataError

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "one",
    "more",
    "dog",
    "run",
    "to",
    "that",
    "old",
    "house",
    "by",
    "the",
    "river",
]


def group_of(number, *answers, preferences=((0, 1, 1.0),), **more):
    return Group(
        prompt=(Message("user", f"Question number {number} about the cat?"),),
        responses=tuple((Message("assistant", answer),) for answer in answers),
        preferences=tuple(Preference(chosen=a, rejected=b, probability=p) for a, b, p in preferences),
        **more,
    )


def biased(n, share_longer=0.85, seed=0):
    """Pairs in which the longer answer was preferred in a share of the cases."""
    draw = random.Random(seed)
    groups = []
    for number in range(n):
        long, short = (" ".join(draw.choices(WORDS, k=k)) + "." for k in (draw.randint(25, 40), draw.randint(8, 20)))
        groups.append(group_of(number, *((long, short) if draw.random() < share_longer else (short, long))))
    return groups


BIASED = biased(600)


def test_under_the_weights_every_feature_has_the_same_mean_on_both_sides():
    found = balance(BIASED, cap=50)
    difference_PF = differences(BIASED)
    weight_P = np.array([g.weight * g.preferences[0].weight / g.preferences[0].weight for g in found.groups])
    assert weight_P.mean() == pytest.approx(1)
    spread_F = np.sqrt((difference_PF**2).mean(0))
    before_F, after_F = difference_PF.mean(0), (weight_P @ difference_PF) / weight_P.sum()
    assert np.abs(before_F[spread_F > 0] / spread_F[spread_F > 0]).max() > 0.6
    assert np.abs(after_F[spread_F > 0] / spread_F[spread_F > 0]).max() < 1e-3
    report = found.report
    assert report["surface_baseline"]["before"]["length_accuracy"]["value"] > 0.8
    assert report["surface_baseline"]["after"]["length_accuracy"]["value"] == pytest.approx(0.5, abs=0.1)
    assert report["effective_pairs"] == pytest.approx(effective(weight_P))
    assert 200 < report["effective_pairs"] < 600


def test_the_longer_answer_wins_half_the_time_under_the_weights():
    found = balance(BIASED, cap=50).groups
    longer = [len(text_of(g.responses[0])) > len(text_of(g.responses[1])) for g in found]
    weights = [g.weight for g in found]
    assert np.average(longer, weights=weights) == pytest.approx(0.5, abs=0.005)
    # The weights are what the loss sees: the surface baseline counts them as training does.
    assert surface_baseline(found)["length_accuracy"]["value"] == pytest.approx(0.5, abs=0.005)


def test_labels_that_the_surface_says_nothing_of_keep_nearly_equal_weights():
    report = balance(biased(600, share_longer=0.5)).report
    assert report["effective_pairs"] > 0.9 * 600


def test_a_cap_holds_and_costs_balance():
    free, capped = balance(biased(400, 0.97), cap=100).report, balance(biased(400, 0.97), cap=2).report
    assert free["weights"]["capped"] == 0
    assert capped["weights"]["highest"] == pytest.approx(2)
    assert capped["weights"]["capped"] > 0
    assert capped["effective_pairs"] > free["effective_pairs"]
    assert capped["imbalance"]["after"] > free["imbalance"]["after"]


@pytest.mark.parametrize("raw", [[1.0, 1.0, 1.0, 9.0], [0.0, 0.0, 0.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
def test_scaled_weights_have_mean_one_and_none_is_above_the_cap(raw):
    weight_P, capped = scaled(np.array(raw), 1.5)
    assert weight_P.max() <= 1.5 * (1 + 1e-6)
    assert capped == sum(weight_P > 1.499)
    assert list(np.argsort(weight_P, kind="stable")) == list(np.argsort(raw, kind="stable"))
    if raw[0] > 0:
        assert weight_P.mean() == pytest.approx(1)


def test_a_group_takes_the_mean_of_its_pairs_factors():
    """What a pair counts in training (`losses.pair_weights`) is what it did, times its factor."""
    group = replace(group_of(0, "a", "b", "c", preferences=((0, 1, 1.0), (0, 2, 1.0), (1, 2, 0.5))), weight=2.0)
    group = replace(group, preferences=(*group.preferences[:2], replace(group.preferences[2], weight=3.0)))
    before = pair_weights(group, group.preferences)
    [after] = spread([group], np.array([0.2, 1.5]))
    assert pair_weights(after, after.preferences) == pytest.approx([before[0] * 0.2, before[1] * 1.5, before[2]])


def test_a_draw_keeps_pairs_in_proportion_to_their_weights_and_ties_always():
    groups = [group_of(i, f"good {i}", f"bad {i}") for i in range(2000)]
    tie = group_of(9999, "a", "b", preferences=((0, 1, 0.5),))
    weight_P = np.where(np.arange(2000) % 2, 2.0, 0.5)
    kept = {g.id for g in drawn([*groups, tie], weight_P, 0)}
    heavy = sum(g.id in kept for g in groups[1::2])
    light = sum(g.id in kept for g in groups[::2])
    assert heavy == 1000
    assert light == pytest.approx(250, abs=45)
    assert tie.id in kept
    assert all(p.weight == 1 for g in drawn(groups, weight_P, 0) for p in g.preferences)


def test_too_few_pairs_and_a_cap_below_one_are_refused():
    with pytest.raises(DataError, match="3 decided pairs are too few"):
        balance(BIASED[:3])
    with pytest.raises(DataError, match="0 decided pairs"):
        balance([group_of(i, "a", "b", preferences=((0, 1, 0.5),)) for i in range(50)])
    with pytest.raises(ConfigError, match=r"--cap 0.5"):
        balance(BIASED, cap=0.5)


def test_what_weights_cannot_mend_is_said():
    always = balance(biased(300, 1.0), cap=1000).report
    assert "too few pairs go against it" in always["warnings"][0]
    rarely = balance(biased(600, 0.98), cap=1000).report
    assert rarely["effective_pairs"] < 0.2 * 600
    assert f"leave {rarely['effective_pairs']:.0f} of 600 pairs in effect" in rarely["warnings"][0]
    assert balance(BIASED).report["warnings"] == []


def test_weights_that_do_not_carry_over_are_said():
    noise = balance(biased(60, 0.5, seed=3)).report
    sides = [noise["surface_baseline"][side]["logistic_accuracy"]["value"] for side in ("before", "after")]
    assert sides[1] > sides[0]
    assert "on prompts that the weights were not fitted to, the surface tells no less" in noise["warnings"][-1]


def test_the_verb_writes_weights_and_a_review_list(tmp_path, capsys):
    rows = [
        {"prompt": text_of(g.prompt), "chosen": text_of(g.responses[0]), "rejected": text_of(g.responses[1])}
        for g in BIASED[:200]
    ]
    source, output, review = tmp_path / "prefs.jsonl", tmp_path / "out.jsonl", tmp_path / "review.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data", "balance", str(source), "--output", str(output), "--review", str(review), "--quiet"]
    assert main([*words, "--json", "--review-most", "5"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {g.id for g in read_groups([output])} == {g.id for g in BIASED[:200]}
    assert sum(g.weight for g in read_groups([output])) == pytest.approx(200)
    listed = [json.loads(line) for line in review.read_text().splitlines()]
    assert result["review"]["written"] == len(listed) == 5
    assert [row["p_label"] for row in listed] == sorted(row["p_label"] for row in listed)
    assert all(len(row["chosen"]) < len(row["rejected"]) for row in listed)
    assert main(words) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--resample"]) == 0
    kept = sum(1 for _ in read_groups([output]))
    assert 0 < kept < 200
    assert f"{kept} of 200 pairs drawn" in capsys.readouterr().out
    assert main([*words[:-3], "--model", "rm", "--overwrite"]) == 2
    assert "--review FILE" in capsys.readouterr().err
