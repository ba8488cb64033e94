"""The drift watch: silent where nothing has changed, loud where something was planted, honest about three rows."""

from __future__ import annotations

import numpy as np
import pytest

from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.refresh.drift import (
    Sample,
    drift,
    false_alarms,
    mahalanobis,
    nearest,
    sample_groups,
    sample_rows,
    share_above,
    shift_of,
)
from rewardsmith.scoring import Scores

WORDS = [
    "the",
    "water",
    "runs",
    "down",
    "a",
    "hill",
    "and",
    "people",
    "walk",
    "up",
    "while",
    "birds",
    "sing",
    "in",
    "trees",
]


def group(number, rng, *, words=WORDS, size=30, answers=2):
    texts = [" ".join(rng.choice(words, max(3, int(rng.normal(size, 6))))) + "." for _ in range(answers)]
    return Group(
        prompt=(Message("user", f"question {number}"),),
        responses=tuple((Message("assistant", text),) for text in texts),
    )


def groups(n, seed, start=0, **more):
    rng = np.random.default_rng(seed)
    return [group(start + number, rng, **more) for number in range(n)]


def values(n, seed, **more):
    rng = np.random.default_rng(seed)
    return Sample(tuple(f"{seed}-{i}" for i in range(n)), (), {name: of(rng, n) for name, of in more.items()})


def normal(mean=0.0, sd=1.0):
    return lambda rng, n: rng.normal(mean, sd, n)


def alarms(result):
    return [row["signal"] for row in result["signals"] if row["alarm"]]


def test_other_words_and_longer_answers_are_found_and_named():
    reference = sample_groups(groups(80, 0))
    new = sample_groups(groups(60, 1, start=500, words=[*WORDS[:8], "certainly", "delve", "tapestry"], size=45))
    result = drift(new, reference, permutations=99)
    assert result["verdict"] == "due"
    assert {"apart", "length"} <= set(alarms(result))
    assert "A refresh is due" in result["text"]
    assert "they are longer by" in result["text"]
    apart = result["signals"][0]
    assert apart["auc"]["low"] <= apart["auc"]["value"] <= apart["auc"]["high"]
    assert apart["auc"]["value"] > 0.9


def test_nothing_new_is_said_to_be_nothing():
    result = drift(sample_groups(groups(100, 1, start=500)), sample_groups(groups(200, 0)), permutations=99)
    assert result["verdict"] == "not due"
    assert "would be seen" in result["text"]
    assert [row["signal"] for row in result["signals"]] == ["apart", "distance", "neighbour", "length"]


@pytest.mark.parametrize("seed", range(2))
def test_three_new_rows_clear_nobody(seed):
    new = sample_groups(groups(3, seed, start=500))
    result = drift(new, sample_groups(groups(60, 9)), permutations=99)
    assert result["verdict"] == "cannot tell"
    assert "in 3 new prompts" in result["text"]
    assert "give more outputs" in result["text"]


def test_three_rows_that_are_wholly_different_are_reason_enough():
    new = values(3, 1, reward=normal(30))
    assert drift(new, values(200, 0, reward=normal()))["verdict"] == "due"


def test_the_chance_of_a_false_alarm_is_kept_by_scores():
    """Three signals, 200 times: at most 5% raise any alarm, though every effect would be large enough."""
    more = {"reward": normal(), "length": normal(3, 2), "disagreement": lambda rng, n: rng.standard_exponential(n)}
    found = [
        drift(values(20, 2 * s, **more), values(30, 2 * s + 1, **more), least=0, permutations=99, seed=s)["verdict"]
        for s in range(200)
    ]
    assert found.count("due") / 200 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


@pytest.mark.slow
def test_the_chance_of_a_false_alarm_is_kept_by_texts():
    """All four signals of texts, the distances among them: 60 pairs of samples from one source."""
    found = [
        drift(
            sample_groups(groups(30, 2 * s, start=500)),
            sample_groups(groups(60, 2 * s + 1)),
            least=0,
            permutations=99,
            seed=s,
        )["verdict"]
        for s in range(60)
    ]
    assert found.count("due") / 60 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


def test_a_planted_shift_is_found_as_often_as_is_said():
    """A shift of the size that `detectable_sd` names for 80%: two tests as one see a little less."""
    found = []
    for s in range(60):
        reference = values(200, 2 * s, reward=normal(), length=normal())
        result = drift(
            values(60, 2 * s + 1, reward=normal(0.454), length=normal()), reference, permutations=199, seed=s
        )
        found.append("reward" in alarms(result))
        assert result["signals"][0]["detectable_sd"] == pytest.approx(0.454, abs=0.01)
    assert np.mean(found) > 0.62


def test_a_trifle_in_a_large_sample_is_no_reason():
    result = drift(values(2000, 1, reward=normal(0.15)), values(2000, 0, reward=normal()), permutations=199)
    row = result["signals"][0]
    assert row["p_adjusted"] < 0.05
    assert result["verdict"] == "not due"
    assert "is below 0.3 SD" in result["text"]


def test_a_spread_that_changes_is_found_without_a_shift():
    result = drift(values(400, 1, reward=normal(0, 3)), values(400, 0, reward=normal()), permutations=199)
    assert alarms(result) == ["reward"]
    assert "KS distance" in result["text"] or "higher" in result["text"] or "lower" in result["text"]


def test_less_disagreement_is_no_reason_and_more_of_it_is():
    reference = values(200, 0, disagreement=normal(5))
    assert drift(values(200, 1, disagreement=normal(3)), reference, permutations=99)["verdict"] == "not due"
    result = drift(values(200, 1, disagreement=normal(7)), reference, permutations=99)
    assert "the model disagrees with itself more, by" in result["text"]


def test_splits_of_the_reference_say_how_often_it_is_alarmed():
    reference = values(120, 0, reward=normal())
    found = false_alarms(reference, 400, 20, permutations=99)
    assert found["part"] == 60
    assert found["splits"] == 20
    assert found["rate"]["low"] <= found["rate"]["value"] == found["alarms"] / 20 <= found["rate"]["high"]
    assert found["alarms"] <= 4


def test_one_answer_of_each_prompt_and_its_own_score():
    rows = groups(30, 0, answers=3)
    scores = [Scores(np.array([10.0 * g, 10.0 * g + 1, np.nan]), std=np.full(3, float(g))) for g in range(30)]
    sample = sample_groups(rows, scores)
    assert len(sample) == 30
    by_prompt = {row.prompt_id: g for g, row in enumerate(rows)}
    for name, answer, reward, std in zip(
        sample.prompts, sample.group, sample.values["reward"], sample.values["disagreement"], strict=True
    ):
        g = by_prompt[name]
        assert answer.responses[0] == rows[g].responses[int(reward - 10 * g)]
        assert std == g
    assert sample_groups(rows, scores).prompts == sample.prompts


def test_rows_of_score_files():
    rows = [
        {"id": f"g{i // 2}", "response_index": i % 2, "reward": None if i == 0 else float(i), "n_tokens": 5, "std": 0.1}
        for i in range(8)
    ]
    sample = sample_rows(rows)
    assert len(sample) == 4
    assert sample.values["length"] == pytest.approx(np.log1p(np.full(4, 5.0)))
    assert set(sample.values) == {"reward", "length", "disagreement"}
    assert set(sample_rows([{**row, "n_tokens": 0, "std": None} for row in rows]).values) == {"reward"}
    with pytest.raises(DataError, match="no row has a reward"):
        sample_rows(rows[:1])


def test_distances_by_another_route():
    rng = np.random.default_rng(0)
    base_NF, held_NF = rng.normal(0, [1.0, 5.0], (400, 2)), np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 15.0]])
    near = mahalanobis(base_NF, held_NF)
    assert near[1] == pytest.approx(near[2], rel=0.1)  # the same number of SDs
    assert nearest(base_NF, held_NF) == pytest.approx([np.sqrt(((base_NF - row) ** 2).sum(1).min()) for row in held_NF])
    assert np.isfinite(mahalanobis(np.zeros((9, 2)), held_NF)).all()


def test_shift_and_share():
    old_N = np.array([0.0, 2.0] * 20)
    assert shift_of(old_N + 3, old_N, 0).value == pytest.approx(3)
    assert shift_of(np.ones(5), np.ones(9), 0).to_json() == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert share_above(np.arange(10.0), 7.5, 0)["value"] == pytest.approx(0.2)


def test_what_cannot_be_compared_is_said():
    reference = values(40, 0, reward=normal())
    with pytest.raises(DataError, match="nothing in common"):
        drift(values(40, 1, length=normal()), reference)
    with pytest.raises(DataError, match="19 prompts; at least 20"):
        drift(reference, values(19, 1, reward=normal()))
    with pytest.raises(ConfigError, match="cannot show a level"):
        drift(reference, values(40, 1, reward=normal()), permutations=19, level=0.01)
    with pytest.raises(DataError, match="no answer to look at"):
        sample_groups([], None)
