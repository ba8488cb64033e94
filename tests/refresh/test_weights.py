"""The floor by its definition; importance weights against the ratio that was planted; what is reported."""

from __future__ import annotations

import numpy as np
import pytest

from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.refresh.weights import classifier_log_ratios, floor_factor, pair_ratios, weigh


def group(prompt: str, *answers: str, weight: float = 1.0) -> Group:
    return Group(
        prompt=(Message("user", prompt),),
        responses=tuple((Message("assistant", answer),) for answer in answers),
        preferences=(Preference(chosen=0, rejected=1),),
        weight=weight,
    )


def groups_of(n: int, start: int = 0) -> list[Group]:
    return [group(f"p{start + i}", "yes", "no") for i in range(n)]


@pytest.mark.parametrize(("old", "new", "floor"), [(10, 90, 0.3), (1, 99, 0.5), (40, 60, 0.3), (5, 5, 0.0)])
def test_floor_is_the_least_share(old: float, new: float, floor: float) -> None:
    raised = old * floor_factor(old, new, floor)
    assert raised / (raised + new) == pytest.approx(max(floor, old / (old + new)))


def test_floor_without_one_side_is_nothing() -> None:
    assert floor_factor(0, 5, 0.3) == floor_factor(5, 0, 0.3) == 1.0


def test_shares_by_round_with_a_floor() -> None:
    found = weigh([*groups_of(2), *groups_of(3, 2), *groups_of(20, 5)], [0] * 2 + [1] * 3 + [2] * 20, replay_floor=0.5)
    assert found.report["shares"] == pytest.approx({0: 0.2, 1: 0.3, 2: 0.5})
    assert sum(g.weight for g in found.groups[:5]) == pytest.approx(20.0)
    assert all(g.weight == 1.0 for g in found.groups[5:])
    assert found.report["importance"] is None


def test_a_groups_own_weight_stays_in_it() -> None:
    found = weigh([group("a", "x", "y", weight=2.0), group("b", "x", "y")], [0, 0], replay_floor=0.3)
    assert [g.weight for g in found.groups] == [2.0, 1.0]
    assert found.report["shares"] == {0: 1.0}


def test_importance_from_recorded_ratios_by_hand() -> None:
    ratios = [np.log([2.0, 1.0]), np.log([1.0, 1.0]), np.zeros(2)]
    found = weigh([*groups_of(3)], [0, 0, 1], replay_floor=0.0, log_ratio_GK=ratios, cap=9.0)
    old = np.array([g.weight for g in found.groups[:2]])
    assert old == pytest.approx([4 / 3, 2 / 3])  # 2 : 1, of mean 1
    assert found.groups[2].weight == 1.0
    assert found.report["importance"]["effective"] == pytest.approx(4 / (16 / 9 + 4 / 9))


def test_importance_is_capped_and_says_so() -> None:
    ratios = [np.array([5.0, 5.0]), *[np.zeros(2)] * 9, np.zeros(2)]
    found = weigh(groups_of(11), [0] * 10 + [1], replay_floor=0.0, log_ratio_GK=ratios, cap=3.0)
    report = found.report["importance"]
    assert max(g.weight for g in found.groups) <= 3.0 + 1e-9
    assert (report["n_capped"], report["n_old"], report["cap"]) == (1, 10, 3.0)
    assert 1 < report["effective"] < 10


def test_ratios_stay_finite() -> None:
    assert np.isfinite(pair_ratios([np.array([900.0, 800.0]), np.array([-900.0, -800.0])])).all()


def test_classifier_finds_a_planted_ratio() -> None:
    """Old answers end in "alpha" or "beta" half each, new ones in beta three times out of four: ratios 1/2 and 3/2."""
    rng = np.random.default_rng(0)
    groups, new_G, kinds = [], [], []
    for new, share in ((False, 0.5), (True, 0.75)):
        for i in range(300):
            chosen = ["beta" if rng.random() < share else "alpha" for _ in range(2)]
            groups.append(group(f"prompt {new} {i}", *(f"an answer that ends in {word}" for word in chosen)))
            new_G.append(new)
            kinds.append(chosen)
    ratios = np.concatenate(classifier_log_ratios(groups, new_G))
    is_beta = np.array([word == "beta" for pair in kinds for word in pair])
    assert np.exp(ratios[is_beta].mean()) == pytest.approx(1.5, rel=0.15)
    assert np.exp(ratios[~is_beta].mean()) == pytest.approx(0.5, rel=0.15)


def test_classifier_of_equal_policies_says_one() -> None:
    groups = [group(f"p{i}", f"answer {i % 7} x", f"word {i % 5} y") for i in range(200)]
    ratios = np.concatenate(classifier_log_ratios(groups, [i % 2 == 0 for i in range(200)]))
    assert abs(ratios.mean()) < 0.1
    assert np.abs(ratios).max() < 1.0


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="replay-floor"):
        weigh(groups_of(1), [0], replay_floor=1.0)
    with pytest.raises(ConfigError, match="importance-cap"):
        weigh(groups_of(2), [0, 1], replay_floor=0.0, log_ratio_GK=[np.zeros(2)] * 2, cap=0.5)
    with pytest.raises(DataError, match="weight 0"):
        weigh([group("a", "x", "y", weight=0.0)], [0], replay_floor=0.0)
    with pytest.raises(DataError, match="an old round and of the newest"):
        classifier_log_ratios(groups_of(3), [True] * 3)
