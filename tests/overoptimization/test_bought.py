"""What was bought: parts that add up, a regression by lstsq, a split by hand, and a planted length bias."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rewardsmith.best_of_n import answer_weights
from rewardsmith.errors import ConfigError
from rewardsmith.overoptimization.bought import MARKERS, bought, kitagawa, markers, thirds
from rewardsmith.statistics import Floats

SIZES = [1, 2, 4, 8]
NAMES = ["length", "lists", "length"]


def pool(prompts: int = 40, k: int = 12, seed: int = 0, *, of_length: float = 1.0) -> dict[str, Any]:
    """Proxy = length and quality, gold = quality and a little length; three columns, the last the length squared."""
    rng = np.random.default_rng(seed)
    length = rng.normal(5, 1, (prompts, k))
    lists = rng.poisson(1.0, (prompts, k)).astype(float)
    quality = rng.normal(0, 1, (prompts, k))
    proxy = of_length * length + 0.3 * lists + 0.5 * quality + rng.normal(0, 5, (prompts, 1))
    gold = quality - 0.2 * length
    return {
        "features": [np.stack([a, b, (a - 5) ** 2], axis=1) for a, b in zip(length, lists, strict=True)],
        "names": NAMES,
        "proxy": list(proxy),
        "gold": list(gold),
        "policies": [answer_weights(row, SIZES) for row in proxy],
        "base": [np.full(k, 1 / k)] * prompts,
        "sizes": SIZES,
    }


def test_parts_and_rest_add_up_and_agree_with_lstsq() -> None:
    given = pool()
    rows = bought(**given, draws=50)
    x = np.concatenate([f - f.mean(0) for f in given["features"]])
    for side in ("proxy", "gold"):
        y = np.concatenate([v - v.mean() for v in given[side]])
        coefficient = np.linalg.lstsq(x, y, rcond=None)[0]
        for s, row in enumerate(rows):
            shift = np.mean(
                [w[s] @ f - f.mean(0) for w, f in zip(given["policies"], given["features"], strict=True)], 0
            )
            gain = np.mean([w[s] @ v - v.mean() for w, v in zip(given["policies"], given[side], strict=True)])
            part = {part["feature"]: part[side] for part in row["parts"]}
            assert part["length"] == pytest.approx(coefficient[[0, 2]] @ shift[[0, 2]], abs=1e-9)
            assert part["lists"] == pytest.approx(coefficient[1] * shift[1], abs=1e-9)
            assert row[f"{side}_gain"] == pytest.approx(gain, abs=1e-12)
            assert sum(part.values()) + row["rest"][side] == pytest.approx(gain, abs=1e-12)
        assert rows[0]["r2"][side] == pytest.approx(1 - ((y - x @ coefficient) ** 2).sum() / (y**2).sum())
    length = next(part for part in rows[2]["parts"] if part["feature"] == "length")
    sd = np.sqrt(np.mean([f[:, 0].var() for f in given["features"]]))
    assert length["shift_sd"] == pytest.approx(length["shift"] / sd)
    assert length["low"] < length["shift_sd"] < length["high"]
    assert rows[0]["proxy_sd"] == pytest.approx(np.sqrt(np.mean([v.var() for v in given["proxy"]])))


def test_between_and_within_add_up() -> None:
    for row in bought(**pool(k=8), draws=0):
        for side in ("proxy", "gold"):
            split = row["within_bucket"][side]
            total = split["between"]["value"] + split["within"]["value"]
            assert total == pytest.approx(row[f"{side}_gain"], abs=1e-12)
        for under in ("base", "policy"):
            assert sum(bucket[under] for bucket in row["within_bucket"]["buckets"]) == pytest.approx(1)


def test_split_by_hand_and_with_an_empty_bucket() -> None:
    # Masses .5, .5 -> .2, .8; means 1, 3 -> 2, 3.
    between, within = kitagawa(np.array([0.2, 0.8]), np.array([0.4, 2.4]), np.array([0.5, 0.5]), np.array([0.5, 1.5]))
    assert between == pytest.approx(-0.3 * 1 + 0.3 * 3)
    assert within == pytest.approx(0.2 * 1)
    between, within = kitagawa(np.array([0.0, 1.0]), np.array([0.0, 3.0]), np.array([0.5, 0.5]), np.array([0.5, 1.5]))
    assert (between, within) == pytest.approx((1.0, 0.0))


@pytest.mark.parametrize(
    ("length", "bucket"),
    [
        ([3, 1, 2], [2, 0, 1]),
        ([1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 2, 2]),
        ([5, 5, 5, 5], [1, 1, 1, 1]),
        ([1, 9], [0, 2]),
        ([4], [1]),
        ([], []),
    ],
)
def test_thirds(length: list[float], bucket: list[int]) -> None:
    assert thirds(np.array(length, float)).tolist() == bucket


def test_a_reward_of_length_alone_has_bought_length() -> None:
    given = pool(300)
    given["proxy"] = [f[:, 0] * 3.0 for f in given["features"]]
    given["policies"] = [answer_weights(row, SIZES) for row in given["proxy"]]
    row = bought(**given, draws=200)[-1]
    assert row["parts"][0]["feature"] == "length"
    assert row["parts"][0]["proxy"] == pytest.approx(row["proxy_gain"])
    assert row["rest"]["proxy"] == pytest.approx(0, abs=1e-9)
    assert row["r2"]["proxy"] == pytest.approx(1)
    assert row["parts"][0]["gold"] < 0
    assert row["parts"][0]["gold_interval"]["low"] < row["parts"][0]["gold"] < row["parts"][0]["gold_interval"]["high"]
    assert "At n = 8 length carries 100% of the reward's gain" in row["reading"]
    shares = [bucket["policy"] for bucket in row["within_bucket"]["buckets"]]
    assert shares[2] > 0.9


def test_a_reward_of_quality_alone_has_bought_no_marker() -> None:
    given = pool(300)
    given["proxy"] = given["gold"] = [g + 0.2 * f[:, 0] for g, f in zip(given["gold"], given["features"], strict=True)]
    given["policies"] = [answer_weights(row, SIZES) for row in given["proxy"]]
    row = bought(**given, draws=200)[-1]
    assert row["rest"]["gold"] > 0.9 * row["gold_gain"]
    for part in row["parts"]:
        assert abs(part["gold"]) < 0.02 * row["gold_gain"]
    assert row["within_bucket"]["gold"]["within"]["low"] > 0.9 * row["gold_gain"]
    first = bought(**given, draws=20)[0]
    assert first["gold_gain"] == first["within_bucket"]["gold"]["between"]["value"] == 0.0, "best of 1 gains nothing"
    assert "Among answers of like length gold gains" in row["reading"]


def test_intervals_agree_with_a_loop() -> None:
    given = pool(prompts=30)
    row = bought(**given, draws=2000)[2]
    rng = np.random.default_rng(9)
    drawn = []
    for _ in range(300):
        at = rng.integers(0, 30, 30)
        again = {
            key: [value[i] for i in at] if key not in ("names", "sizes") else value for key, value in given.items()
        }
        found = bought(**again, draws=0)[2]
        parts = {part["feature"]: part for part in found["parts"]}
        drawn.append([parts["length"]["gold"], parts["length"]["shift_sd"], found["rest"]["proxy"]])
    length = next(part for part in row["parts"] if part["feature"] == "length")
    shift = {"low": length["low"], "high": length["high"]}
    for interval, values in zip(
        (length["gold_interval"], shift, row["rest"]["proxy_interval"]), np.array(drawn).T, strict=True
    ):
        low, high = np.quantile(values, [0.025, 0.975])
        assert interval["low"] == pytest.approx(low, abs=0.2 * (high - low))
        assert interval["high"] == pytest.approx(high, abs=0.2 * (high - low))


def test_sizes_that_a_prompt_lacks_are_left_out() -> None:
    given = pool(prompts=20)
    short = [np.where(np.arange(4)[:, None] == 3, np.nan, w) if p < 5 else w for p, w in enumerate(given["policies"])]
    row = bought(**(given | {"policies": short}), draws=20)[3]
    kept = zip(given["policies"][5:], given["proxy"][5:], strict=True)
    assert row["n_prompts"] == 15
    assert row["proxy_gain"] == pytest.approx(np.mean([w[3] @ v - v.mean() for w, v in kept]))
    none = bought(**(given | {"policies": [np.full_like(w, np.nan) for w in short]}), draws=5)[0]
    assert none["proxy_gain"] is None
    json.dumps(none, allow_nan=False)


def test_too_few_candidates_and_columns_that_never_differ() -> None:
    [*_, row] = bought(**pool(prompts=1, k=8), draws=20)
    assert row["parts"] == []
    assert row["rest"] is None
    assert "too few" in row["reason"]
    assert row["within_bucket"]["proxy"]["between"]["value"] is not None
    json.dumps(row, allow_nan=False)
    given = pool()
    given["features"] = [np.column_stack([f[:, 0], np.full(12, 0.1), f[:, 0]]) for f in given["features"]]
    parts = {part["feature"]: part for part in bought(**given, draws=20)[2]["parts"]}
    assert parts["lists"]["proxy"] == parts["lists"]["gold"] == 0.0
    assert parts["lists"]["shift_sd"] is None
    assert np.isfinite(parts["length"]["proxy"]), "the same column twice is one coefficient, shared"
    flat = given | {"proxy": [np.ones(12)] * 40, "policies": [answer_weights(np.ones(12), SIZES)] * 40}
    assert "not gained more than noise" in bought(**flat, draws=20)[2]["reading"]
    assert bought([], NAMES, [], [], [], [], SIZES) == []


def test_odd_shapes_are_named() -> None:
    given = pool(prompts=2)
    with pytest.raises(ConfigError, match="for 12 candidates, 3 names and 4 sizes"):
        bought(**(given | {"policies": [w[:2] for w in given["policies"]]}))
    with pytest.raises(ConfigError, match=r"\[1, 2\] prompts"):
        bought(**(given | {"gold": given["gold"][:1]}))


def test_markers_of_texts() -> None:
    texts = [["Sure! Thanks 😀", "- a\n1. b\nI cannot, sorry."], ["plain words", "plain words"]]
    names, rows = markers(texts)
    assert names == [*MARKERS, "length"]
    assert [row.shape for row in rows] == [(2, len(names)), (2, len(names))]
    column: dict[str, Floats] = {name: rows[0][:, index] for index, name in enumerate(MARKERS)}
    assert column["length"] == pytest.approx(np.log1p([len(text) for text in texts[0]]))
    assert column["lists"] == pytest.approx([0, np.log(3)]), "a bullet and a number are two lines of lists"
    assert column["sycophancy"] == pytest.approx([np.log(3), 0]), "an opener and thanks"
    assert column["emoji"] == pytest.approx([np.log(2), 0])
    assert (column["refusal"] > 0).tolist() == [False, True]
    assert (rows[1][0] == rows[1][1]).all()
