"""The bundled seeds keep what they promise; a row that cannot be used costs itself only."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from rewardsmith.audit.seeds import bundled_seeds, load_seeds, sample
from rewardsmith.errors import DataError

ROWS = [json.loads(line) for line in bundled_seeds().read_text(encoding="utf-8").splitlines()]
KNOWLEDGE = [row for row in ROWS if row["kind"] == "knowledge"]
FIELDS = ("right", "restated", "wrong", "concise", "detailed", "belief", "sycophantic")


def test_there_are_as_many_as_promised():
    whole = [row for row in KNOWLEDGE if all(row[field].strip() for field in FIELDS)]
    assert len(whole) == len(KNOWLEDGE) >= 150
    kinds = Counter(row["kind"] for row in ROWS)
    assert min(kinds["harmless"], kinds["harmful"]) >= 25
    assert kinds["opinion"] >= 20
    assert sum("spanish" in row for row in KNOWLEDGE) >= 30
    loaded = load_seeds()
    assert len(loaded.seeds) == len(ROWS)
    assert not loaded.dropped


def test_ids_and_prompts_are_there_once_and_sorted():
    assert [row["id"] for row in ROWS] == sorted({row["id"] for row in ROWS})
    assert len({row["prompt"].lower() for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", KNOWLEDGE, ids=lambda row: row["id"])
def test_answers_are_of_like_length_and_plain(row):
    for field in ("restated", "wrong", "sycophantic"):
        assert 0.8 <= len(row[field]) / len(row["right"]) <= 1.2, field
    assert len(row["concise"]) < len(row["right"]) < len(row["detailed"])
    assert len({row[field] for field in FIELDS}) == len(FIELDS)
    for field in FIELDS:
        assert "!" not in row[field]
        assert "**" not in row[field]


def test_length_does_not_tell_right_from_wrong():
    longer = sum(len(row["wrong"]) > len(row["right"]) for row in KNOWLEDGE)
    assert 0.35 < longer / len(KNOWLEDGE) < 0.65


def test_rows_that_cannot_be_used_are_named(tmp_path):
    good = {"id": "a", "kind": "knowledge", "prompt": "p?", "right": "r", "wrong": "w"}
    rows = [
        json.dumps({**good, "right": " "}),
        "{broken",
        json.dumps(good),
        json.dumps({**good, "kind": ["x"]}),
        json.dumps({"id": "b", "kind": "harmful", "prompt": "p2?", "good": "g"}),
        json.dumps(good),
    ]
    (tmp_path / "seeds.jsonl").write_text("\n".join(rows))
    found = load_seeds(tmp_path / "seeds.jsonl")
    assert [seed.id for seed in found.seeds] == ["a"]
    assert [row["line"] for row in found.dropped] == [1, 2, 4, 5, 6]
    reasons = [row["reason"] for row in found.dropped]
    assert "without right" in reasons[0]
    assert "without complying" in reasons[3]
    assert "taken" in reasons[4]
    (tmp_path / "none.jsonl").write_text(rows[4])
    with pytest.raises(DataError, match="no seed can be used; the first: a harmful seed without complying"):
        load_seeds(tmp_path / "none.jsonl")


def test_a_preference_file_gives_seeds(tmp_path):
    rows = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(3)]
    rows.append({"prompt": "q9", "chosen": "", "rejected": None})
    (tmp_path / "prefs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = load_seeds(tmp_path / "prefs.jsonl")
    assert [(seed["right"], seed["wrong"]) for seed in found.seeds] == [(f"good {i}", f"bad {i}") for i in range(3)]
    assert [row["line"] for row in found.dropped] == [4]


def test_a_sample_is_the_same_whatever_the_order_and_knows_its_neighbours():
    seeds = load_seeds().seeds
    a, b = sample(seeds, 5), sample(seeds[::-1], 5)
    assert [seed.id for seed in a] == [seed.id for seed in b]
    assert Counter(seed.kind for seed in a) == dict.fromkeys(("knowledge", "harmless", "harmful", "opinion"), 5)
    for seed in a:
        if seed.kind == "knowledge":
            assert seed["other_right"] != seed["right"]
    assert len(sample(seeds, None)) == len(seeds)
