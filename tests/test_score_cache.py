"""Scores on the disk: the same bits as the model's, no model where all is known, nothing out of date."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from rewardsmith import score_cache
from rewardsmith.aggregation import aggregate
from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.ensemble import fit_posterior, join
from rewardsmith.errors import ConfigError
from rewardsmith.model.artifact import save_reward_model
from rewardsmith.model.meta import write_note
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.score_cache import open_scorer
from rewardsmith.scorers import ModelScorer, load_scorer
from rewardsmith.scoring import Scores
from rewardsmith.text.render import RenderConfig, Renderer
from tests.tiny import tiny_tokenizer, tiny_trunk


def a_group(i: int, **more) -> Group:
    answers = [f"answer {i} {k}" for k in range(1 + i % 3)]
    return Group(
        prompt=(Message("user", f"q{i}"),), responses=tuple((Message("assistant", a),) for a in answers), **more
    )


GROUPS = [a_group(i) for i in range(7)]


def save(folder, seed: int = 0, **render) -> str:
    meta = {"calibration": {"temperature": 2.0, "status": "fitted", "n_pairs": 9, "pairs": "held-out"}}
    renderer = Renderer(tiny_tokenizer(), RenderConfig(max_length=64, **render))
    save_reward_model(RewardModel(tiny_trunk(seed=seed)), renderer, folder, meta=meta, overwrite=True)
    return str(folder)


@pytest.fixture
def folder(tmp_path) -> str:
    return save(tmp_path / "rm")


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many groups the model itself was asked for, call by call."""
    counts: list[int] = []
    score = ModelScorer.score

    def counting(self, groups):
        counts.append(len(groups))
        return score(self, groups)

    monkeypatch.setattr(ModelScorer, "score", counting)
    return counts


def test_the_second_time_no_model_is_loaded_and_every_bit_is_the_same(folder, asked):
    first = open_scorer(folder).score(GROUPS)
    scorer = open_scorer(folder)
    second = scorer.score(GROUPS[::-1])[::-1]
    assert asked == [7]
    assert scorer.model is None
    for a, b in zip(first, second, strict=True):
        assert a.rewards.tobytes() == b.rewards.tobytes()
        assert a.calibrated.tobytes() == b.calibrated.tobytes() == (a.rewards / 2.0).tobytes()
        assert (a.truncated, a.n_tokens, a.std) == (b.truncated, b.n_tokens, b.std)
    plain = open_scorer(folder, cache=False).score(GROUPS)
    assert all(np.array_equal(a.rewards, b.rewards) for a, b in zip(plain, second, strict=True))


def test_only_what_is_new_is_scored(folder, asked):
    open_scorer(folder).score(GROUPS[:4])
    found = open_scorer(folder).score(GROUPS)
    assert asked == [4, 3]
    assert [len(s.rewards) for s in found] == [len(g.responses) for g in GROUPS]


def test_what_decides_a_reward_is_part_of_the_name(folder, asked, tmp_path):
    open_scorer(folder).score(GROUPS[:1])
    open_scorer(folder, max_response_length=3).score(GROUPS[:1])
    changed = Group(prompt=GROUPS[0].prompt, responses=GROUPS[0].responses, tools=({"name": "f"},))
    open_scorer(folder).score([changed])
    old = open_scorer(folder).score(GROUPS[:1])[0].rewards
    save(tmp_path / "rm", seed=1)  # the same folder, retrained
    new = open_scorer(folder).score(GROUPS[:1])[0].rewards
    assert len(asked) == 4
    assert not np.array_equal(old, new)


def test_members_are_kept_and_another_aggregate_costs_no_scoring(tmp_path, asked):
    join([save(tmp_path / "one"), save(tmp_path / "two", seed=1)], tmp_path / "e")
    asked.clear()
    folder = str(tmp_path / "e")
    plain = load_scorer(folder).score(GROUPS)
    first, second = (open_scorer(folder).score(GROUPS) for _ in range(2))
    lowest = open_scorer(folder, aggregate="min").score(GROUPS)
    assert asked == [7, 7]
    for a, b, c, low in zip(plain, first, second, lowest, strict=True):
        assert a.members.shape == (2, len(a.rewards))
        for other in (b, c):
            assert all(np.array_equal(getattr(a, n), getattr(other, n)) for n in ("rewards", "std", "members"))
        assert np.array_equal(low.members, a.members)
        assert low.rewards == pytest.approx(aggregate(a.members, "min"))
        assert low.calibrated is None
    with pytest.raises(ConfigError, match="a single reward model"):
        open_scorer(save(tmp_path / "one"), aggregate="min")


def test_a_posterior_is_part_of_the_name_and_its_std_is_kept(folder, asked):
    open_scorer(folder).score(GROUPS)
    pairs = [replace(g, preferences=(Preference(chosen=0, rejected=1),)) for g in GROUPS if len(g.responses) > 1]
    fit_posterior(folder, load_scorer(folder), pairs)
    first, second = (open_scorer(folder).score(GROUPS) for _ in range(2))
    assert asked == [7, 7]
    assert all(np.array_equal(a.std, b.std) and (a.std > 0).all() for a, b in zip(first, second, strict=True))
    assert all(a.members is None for a in first)


def test_what_an_older_layout_kept_is_not_read(folder, asked, monkeypatch):
    monkeypatch.setattr(score_cache, "LAYOUT", 1)
    old = open_scorer(folder)
    old._write({old._key(group): Scores(np.full(len(group.responses), 99.0)) for group in GROUPS})
    monkeypatch.undo()
    assert all(abs(s.rewards).max() < 50 for s in open_scorer(folder).score(GROUPS))


def test_a_new_temperature_costs_no_scoring(folder, asked):
    before = open_scorer(folder).score(GROUPS)
    write_note(folder, calibration={"temperature": 4.0, "status": "fitted", "n_pairs": 9, "pairs": "dev.jsonl"})
    after = open_scorer(folder).score(GROUPS)
    assert asked == [7]
    assert np.allclose(before[2].calibrated, 2 * after[2].calibrated)


@pytest.mark.parametrize("damage", ["garbage", "cut", "no table", "bad value"])
def test_a_damaged_file_is_made_anew(folder, asked, damage):
    scorer = open_scorer(folder)
    wanted = scorer.score(GROUPS)
    file = scorer.file
    if damage == "garbage":
        file.write_bytes(b"not a database" * 900)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        with sqlite3.connect(file) as store:
            store.execute("DROP TABLE scores" if damage == "no table" else "UPDATE scores SET value = '{'")
        store.close()
    for _ in range(2):
        found = open_scorer(folder).score(GROUPS)
        assert all(np.array_equal(a.rewards, b.rewards) for a, b in zip(wanted, found, strict=True))
    assert open_scorer(folder).score(GROUPS)[0].error == ""
    assert len(asked) <= 3
    assert open_scorer(folder)._read([open_scorer(folder)._key(GROUPS[0])]), "nothing was kept again"


def test_without_a_place_to_write_scoring_goes_on(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(open_scorer(folder).score(GROUPS)) == 7


def test_what_cannot_be_scored_is_asked_for_again(tmp_path, asked):
    folder = save(tmp_path / "strict", overlong="drop")
    too_long = Group(prompt=(Message("user", "q"),), responses=((Message("assistant", "a" * 100),),))
    for _ in range(2):
        bad, good = open_scorer(folder).score([too_long, GROUPS[1]])
        assert "64" in bad.error
        assert not good.error
    assert asked == [2, 1]


def test_a_folder_without_metadata_is_loaded_as_it_is(folder, tmp_path):
    (tmp_path / "rm" / "reward_model.json").unlink()
    assert isinstance(open_scorer(folder), ModelScorer)


def test_metadata_that_decides_nothing_changes_no_name(folder, asked, tmp_path):
    open_scorer(folder).score(GROUPS)
    file = tmp_path / "rm" / "reward_model.json"
    meta = json.loads(file.read_text())
    file.write_text(json.dumps(meta | {"note": "measured again"}))
    open_scorer(folder).score(GROUPS)
    assert asked == [7]
