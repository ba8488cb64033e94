"""Doubtful labels: planted ones are found, and the list is what cleanlab's own ranking gives."""

from __future__ import annotations

import random

import numpy as np
import pytest

from rewardsmith.data.noise import by_rewards, by_the_data, decided_pairs, issues, review
from rewardsmith.data.schema import Group, Message, Preference, text_of
from rewardsmith.errors import DataError

GOOD, BAD = ("thorough", "accurate", "useful"), ("rude", "wrong", "vague")


def groups_of(n, flipped=0.0, seed=0):
    """(pairs whose words tell the better one, numbers of those whose label was turned round)."""
    draw = random.Random(seed)
    groups, turned = [], set()
    for i in range(n):
        better, worse = (
            f"This answer is {draw.choice(kind)} and it is about thing {draw.randint(0, 9)}." for kind in (GOOD, BAD)
        )
        if draw.random() < flipped:
            turned.add(i)
            better, worse = worse, better
        groups.append(
            Group(
                prompt=(Message("user", f"Tell me about {i}."),),
                responses=((Message("assistant", better),), (Message("assistant", worse),)),
                preferences=(Preference(chosen=0, rejected=1),),
                id=str(i),
            )
        )
    return groups, turned


def test_flipped_labels_are_found_where_the_words_tell_them():
    groups, turned = groups_of(400, 0.25)
    rows = review(by_the_data(groups))
    listed = {int(row["id"]) for row in rows}
    assert len(listed & turned) / len(listed) > 0.95
    assert len(listed & turned) / len(turned) > 0.9
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert any(word in rows[0]["reason"] for word in (*GOOD, *BAD))
    first = groups[int(rows[0]["id"])]
    assert (rows[0]["chosen"], rows[0]["prompt"]) == (text_of(first.responses[0]), text_of(first.prompt))


def test_clean_labels_leave_the_list_all_but_empty():
    groups, _ = groups_of(400)
    assert len(review(by_the_data(groups))) <= 8


def test_labels_that_nothing_tells_are_not_doubted():
    draw = random.Random(1)
    groups, _ = groups_of(300)
    turned = [
        Group(prompt=g.prompt, responses=g.responses[:: draw.choice((1, -1))], preferences=g.preferences)
        for g in groups
    ]
    assert by_the_data(turned).p_label_P.min() > 0.2, "a model of nothing is sure of nothing"


def test_the_order_of_a_pairs_sides_plays_no_part():
    p_label_P = np.random.default_rng(0).beta(4, 2, 200)
    found = issues(p_label_P)
    assert found == sorted(found, key=lambda i: p_label_P[i])
    assert set(found) == set(np.argsort(p_label_P)[: len(found)].tolist()), "no likelier label is listed before"
    assert p_label_P[found].max() < 0.5


def test_a_reward_models_doubts_follow_its_rewards():
    groups, turned = groups_of(200, 0.2)
    rng = np.random.default_rng(0)
    rewards = [
        np.array([1.0 if any(w in text_of(r) for w in GOOD) else -1.0 for r in g.responses]) + rng.normal(0, 0.5, 2)
        for g in groups
    ]
    doubt = by_rewards(groups, rewards)
    rows = review(doubt)
    assert {int(row["id"]) for row in rows} >= {i for i in turned if rewards[i][0] + 1 < rewards[i][1]}
    assert "lower" in rows[0]["reason"]
    margin_P = np.array([r[0] - r[1] for r in rewards])
    order = np.argsort(margin_P)
    assert np.all(np.diff(doubt.p_label_P[order]) >= 0)
    with pytest.raises(DataError, match="by chance"):
        by_rewards(groups, [-r for r in rewards])


def test_ties_are_no_labels_to_doubt_and_too_few_are_refused():
    groups, _ = groups_of(5)
    tie = Group(
        prompt=(), responses=groups[0].responses, preferences=(Preference(chosen=0, rejected=1, probability=0.5),)
    )
    assert len(decided_pairs([*groups, tie])) == 5
    with pytest.raises(DataError, match="5 decided pairs over 5 prompts are too few"):
        by_the_data(groups)
