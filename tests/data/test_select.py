"""What to label next: the greedy gains against brute force, no near duplicates, and what a small pool is told."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest

from rewardsmith.cli import main
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group, Message, Preference, text_of
from rewardsmith.data.select import (
    DOptimal,
    Farthest,
    candidate_pairs,
    choose,
    make_pool,
    select,
    text_features,
)
from rewardsmith.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
NAMES = ("ash", "birch", "cedar", "dogwood", "elm", "fir", "gum", "hazel")
NAMES += ("ivy", "juniper", "kauri", "larch", "maple", "nettle", "oak", "pine")


def group_of(name, *answers, **more):
    texts = answers or (
        f"The {name} grows in {name} land and likes the {name} sun.",
        f"Nobody planted any {name} here.",
    )
    return Group(
        prompt=(Message("user", f"Where does the {name} grow, and who has seen one?"),),
        responses=tuple((Message("assistant", text),) for text in texts),
        **more,
    )


GROUPS = [group_of(name) for name in NAMES]


def pool_of(groups=GROUPS, width=4, **more):
    rng = np.random.default_rng(1)
    return make_pool(groups, [rng.normal(size=(len(g.responses), width)) for g in groups], **more)


def log_det(matrix):
    sign, value = np.linalg.slogdet(matrix)
    assert sign > 0
    return value


def test_the_d_optimal_gain_is_the_growth_of_the_log_determinant():
    difference_PF, information_P = RNG.normal(size=(12, 5)), RNG.uniform(0.05, 0.25, 12)
    gain, information_FF = DOptimal(difference_PF, information_P), np.eye(5)
    for _ in range(6):
        brute_P = [
            log_det(information_FF + c * np.outer(d, d)) - log_det(information_FF)
            for c, d in zip(information_P, difference_PF)
        ]
        np.testing.assert_allclose(gain.gain_P, brute_P, rtol=1e-10, atol=1e-12)
        best = int(np.argmax(brute_P))
        assert int(gain.gain_P.argmax()) == best
        gain.choose(best)
        information_FF += information_P[best] * np.outer(difference_PF[best], difference_PF[best])
        np.testing.assert_allclose(gain.inverse_FF, np.linalg.inv(information_FF), atol=1e-12)


def test_greedy_design_is_near_the_best_of_all_designs():
    """Nemhauser, Wolsey and Fisher (1978): at least 1 - 1/e of the best, as the gain has diminishing returns."""
    difference_PF = RNG.normal(size=(9, 3))
    information_P = np.full(9, 0.25)

    def value(chosen):
        return log_det(np.eye(3) + sum(0.25 * np.outer(difference_PF[p], difference_PF[p]) for p in chosen))

    gain, greedy = DOptimal(difference_PF, information_P), []
    for _ in range(4):
        greedy.append(int(np.argmax([g if p not in greedy else -1 for p, g in enumerate(gain.gain_P)])))
        gain.choose(greedy[-1])
    best = max(map(value, combinations(range(9), 4)))
    assert value(greedy) >= (1 - 1 / np.e) * best


def test_the_farthest_is_the_one_whose_nearest_chosen_pair_is_farthest():
    place_PF = RNG.normal(size=(15, 3))
    gain, chosen = Farthest(place_PF), []
    for _ in range(6):
        free = [p for p in range(15) if p not in chosen]
        best = max(free, key=lambda p: gain.gain_P[p])
        if chosen:
            nearest = {p: min(((place_PF[p] - place_PF[q]) ** 2).sum() for q in chosen) for p in free}
            assert best == max(free, key=lambda p: nearest[p])
        else:
            assert best == int(((place_PF - place_PF.mean(0)) ** 2).sum(1).argmin())
        chosen.append(best)
        gain.choose(best)


def test_margin_and_disagreement_take_what_they_say():
    rewards = [np.array([0.0, gap]) for gap in np.linspace(-1, 2, len(GROUPS))]
    spread = np.linspace(0, 3, len(GROUPS))
    pool = pool_of(rewards=rewards, stds=[np.array([0.1, s]) for s in spread])
    gaps = [abs(r[1]) for r in rewards]
    assert choose(pool, "margin", 5).chosen == sorted(range(len(GROUPS)), key=lambda p: gaps[p])[:5]
    assert choose(pool, "disagreement", 3).chosen == [15, 14, 13]
    # Members that differ by ten on both answers of the first group agree on its comparison.
    members = [np.array([[0.0, s], [level, level - s]]) for level, s in zip([10.0, *np.zeros(15)], spread)]
    assert choose(pool_of(rewards=rewards, members=members), "disagreement", 3).chosen == [15, 14, 13]
    for strategy in ("margin", "disagreement"):
        with pytest.raises(ConfigError, match=f"--strategy {strategy} needs"):
            choose(pool_of(), strategy, 3)


def test_a_gap_that_is_certain_tells_little():
    rewards = [np.array([0.0, 0.0 if i % 2 else 20.0]) for i in range(len(GROUPS))]
    assert all(p % 2 for p in choose(pool_of(rewards=rewards), "d-optimal", 8).chosen)


def test_random_is_the_same_for_the_same_seed_and_any_order():
    def prompts(groups, seed):
        return [text_of(g.prompt) for g in select(pool_of(groups), "random", 6, seed=seed)["groups"]]

    assert prompts(GROUPS, 0) == prompts(GROUPS[::-1], 0)
    assert prompts(GROUPS, 0) != prompts(GROUPS, 1)


def test_near_duplicates_and_further_pairs_of_a_prompt_are_passed_over():
    long = "words of the " + " ".join(NAMES)
    twins = [
        Group(
            prompt=(Message("user", f"Question {i}: {long}"),),
            responses=tuple((Message("assistant", f"{long} {side} {long}"),) for side in ("one", "two")),
        )
        for i in range(6)
    ]
    batch = choose(pool_of(twins), "random", 6)
    assert len(batch.chosen) == 1
    assert batch.passed_over["near duplicate"] == 5
    three = group_of("yew", "a first answer", "quite a second one", "and then a third")
    assert len(choose(pool_of([three]), "random", 3).chosen) == 1
    assert len(choose(pool_of([three]), "random", 3, per_prompt=2).chosen) == 2


@pytest.mark.parametrize("strategy", ["d-optimal", "coverage", "random"])
def test_two_batches_are_one_of_twice_the_size(strategy):
    pool = pool_of()
    whole = choose(pool, strategy, 8)
    first = choose(pool, strategy, 4).chosen
    second = choose(pool, strategy, 4, before=first)
    assert [*first, *second.chosen] == whole.chosen
    np.testing.assert_allclose(second.gains, whole.gains[4:])


def test_what_cannot_be_scored_is_not_chosen_and_said():
    rewards = [np.array([0.0, np.nan if i < 4 else 1.0]) for i in range(len(GROUPS))]
    batch = choose(pool_of(rewards=rewards), "margin", 16)
    assert min(batch.chosen) == 4
    assert batch.passed_over["not scored"] == 4


@pytest.mark.parametrize("strategy", ["d-optimal", "coverage"])
def test_one_answer_without_features_leaves_the_choice_of_the_others(strategy):
    features = [RNG.normal(size=(2, 4)) for _ in GROUPS]
    whole = choose(make_pool(GROUPS[1:], features[1:]), strategy, 6)
    features[0] = np.full((2, 4), np.nan)
    pool = make_pool(GROUPS, features)
    assert choose(pool, strategy, 6).chosen == [p + 1 for p in whole.chosen]
    assert choose(pool, strategy, 6, before=[0]).chosen == [p + 1 for p in whole.chosen]
    assert choose(pool, strategy, 6).passed_over["not scored"] == 1
    nothing = make_pool(GROUPS[:1], features[:1])
    assert choose(nothing, strategy, 1).chosen == []


def test_a_pool_smaller_than_the_budget_is_said():
    found = select(pool_of(), "d-optimal", 40)
    assert found["selected"] == len(found["groups"]) == len(GROUPS)
    assert "16 pairs instead of 40" in found["warnings"][0]
    assert select(pool_of(), "d-optimal", 16)["warnings"] == []
    with pytest.raises(DataError, match="none of the 1 groups has two different answers"):
        pool_of([group_of("yew", "same", "same")])


def test_candidates_are_drawn_where_a_group_has_many_pairs():
    many = group_of("yew", *(f"answer {i}" for i in range(12)))
    pairs = candidate_pairs([many, GROUPS[0]], 10)
    assert len(pairs) == 11
    assert len(set(pairs)) == 11
    assert candidate_pairs([many], 100) == [(0, i, j) for i, j in combinations(range(12), 2)]


def test_a_chosen_pair_keeps_what_the_pool_knows_of_it():
    group = group_of(
        "yew",
        "first",
        "second",
        "third",
        preferences=(Preference(chosen=2, rejected=1, probability=0.8), Preference(chosen=0, rejected=1)),
        ratings=(1.0, 2.0, 3.0),
        tags={"subset": "trees"},
    )
    found = select(pool_of([group]), "random", 3, per_prompt=3)["groups"]
    by_texts = {tuple(map(text_of, g.responses)): g for g in found}
    pair = by_texts["second", "third"]
    assert pair.preferences == (Preference(chosen=1, rejected=0, probability=0.8),)
    assert pair.ratings == (2.0, 3.0)
    assert pair.tags == {"subset": "trees", "selected": "random"}
    assert by_texts["first", "third"].preferences == ()


def test_text_features_tell_answers_apart():
    features = text_features(GROUPS)
    assert [f.shape[0] for f in features] == [2] * len(GROUPS)
    assert len({tuple(np.round(row, 6)) for f in features for row in f}) == 2 * len(GROUPS)
    assert np.isfinite(np.concatenate(features)).all()
    assert text_features(GROUPS[:1])[0].shape[0] == 2


def test_the_verb_writes_the_batch_and_says_what_it_needs(tmp_path, capsys):
    rows = [{"prompt": text_of(g.prompt), "responses": [text_of(r) for r in g.responses]} for g in GROUPS]
    source, output = tmp_path / "pool.jsonl", tmp_path / "next.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data", "select", str(source), "--output", str(output), "--budget", "5", "--quiet"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["selected"] == 5
    assert len(list(read_groups([output]))) == 5
    known = tmp_path / "known.jsonl"
    pairs = [{"prompt": row["prompt"], "chosen": row["responses"][1], "rejected": row["responses"][0]} for row in rows]
    known.write_text("".join(json.dumps(row) + "\n" for row in pairs[:10]))
    assert main([*words[:-3], "--budget", "16", "--json", "--overwrite", "--labelled", str(known)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["labelled"], result["selected"], result["candidates"]) == (10, 6, 16)
    assert {text_of(g.prompt) for g in read_groups([output])} == {row["prompt"] for row in rows[10:]}
    assert main([*words, "--strategy", "margin", "--overwrite"]) == 2
    assert "add --model RM" in capsys.readouterr().err
    assert main([*words[:-3], "--budget", "50", "--strategy", "coverage", "--overwrite"]) == 0
    said = capsys.readouterr()
    assert "16 pairs instead of 50" in said.out
    assert "no row states a preference" not in said.out + said.err  # a pool needs none
    assert main([*words, "--overwrite", "--labelled", str(source)]) == 2
    assert "no pair has a label" in capsys.readouterr().err
    source.write_text(json.dumps({"prompt": "Why?", "responses": ["same", "same"]}) + "\n")
    assert main([*words, "--overwrite", "--model", str(tmp_path / "not-read")]) == 2
    assert "none of the 1 groups has two different answers" in capsys.readouterr().err
