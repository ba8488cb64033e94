"""What policies said into the store: files, a sampled policy, the exact bench's policies."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from rewardsmith.data.options import ReadOptions
from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError, DataError, Interrupted
from rewardsmith.overoptimization import policies
from rewardsmith.overoptimization.candidates import Pool
from rewardsmith.overoptimization.sample import Completion
from rewardsmith.refresh.ingest import (
    Into,
    ingest_files,
    ingest_sampled,
    ingest_tilted,
    round_of,
    sampled_file,
    stored_prompts,
    tilted_weights,
)
from rewardsmith.refresh.store import open_store
from tests.refresh.conftest import fill, turns


@pytest.fixture
def lite(tmp_path):
    with open_store(tmp_path / "store.sqlite", create=True) as opened:
        yield opened


def into(policy="rl-1", round=1):
    return Into(policy=policy, round=round, base_policy="base")


def rows(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [str(path)]


def test_answers_of_a_file(store, tmp_path):
    files = rows(
        tmp_path / "a.jsonl",
        {"prompt": "q1", "response": "x", "logp": -1.5},
        {"prompt": "q1", "response": "y", "logp": -2.5},
        {"prompt": "q2", "response": "x", "logp": None},
        {"prompt": "q2"},
    )
    found = ingest_files(store, files, into(), ReadOptions(), now=1.0, logprob="logp")
    assert (found.prompts, found.new_prompts, found.responses, found.new_responses) == (2, 2, 3, 3)
    assert [row["line"] for row in found.dropped] == [4]
    again = ingest_files(store, files, into(), ReadOptions(), now=2.0, logprob="logp")
    assert (again.responses, again.new_prompts, again.new_responses) == (3, 0, 0)
    with store.reading() as connection:
        drawn = connection.exec_driver_sql("SELECT logprob FROM draws ORDER BY response_id").scalars().all()
    assert drawn == [-1.5, -2.5, None]
    assert {r.base_logprob for r in store.responses()} == {None}, "another policy's log-probability is not the base's"


def test_the_base_policys_log_probability_is_the_base_one(lite, tmp_path):
    files = rows(tmp_path / "a.jsonl", {"prompt": "q", "response": "x", "base_logprob": -1.5})
    ingest_files(lite, files, into("base", 0), ReadOptions(), now=1.0, logprob="base_logprob")
    assert [r.base_logprob for r in lite.responses()] == [-1.5]


def test_preferences_of_a_file_as_labels(store, tmp_path):
    files = rows(
        tmp_path / "a.jsonl",
        {"prompt": "q1", "chosen": "good", "rejected": "bad"},
        {"prompt": "q1", "chosen": "better", "rejected": "good"},
        {"prompt": "q2", "chosen": "same", "rejected": "same"},
    )
    found = ingest_files(store, files, into("base", 0), ReadOptions(), now=1.0, annotator="crowd")
    assert (found.new_comparisons, found.new_labels) == (2, 2)
    assert found.left_out == {"a preference between equal answers": 1}
    order = [
        tuple(g.responses[k][0].content for k in (g.preferences[0].chosen, g.preferences[0].rejected))
        for g in store.labelled_groups()
    ]
    assert order == [("good", "bad"), ("better", "good")]
    assert ingest_files(store, files, into("base", 0), ReadOptions(), now=1.0, annotator="crowd").new_labels == 0
    assert store.counts(1.0).open == 0


def test_votes_are_annotators_and_soft_labels_are_left_out(lite, tmp_path):
    def preference(**more):
        return {"prompt": "q", "responses": ["x", "y"], "preferences": [{"chosen": 1, "rejected": 0, **more}]}

    files = rows(tmp_path / "a.jsonl", preference(probability=2 / 3, votes=[1, 1, 0]))
    files += rows(tmp_path / "b.jsonl", preference(probability=0.8) | {"prompt": "other"})
    found = ingest_files(lite, files, into("base", 0), ReadOptions(), now=1.0, annotator="crowd")
    assert found.left_out == {"a preference without single votes": 1}
    assert {label.annotator: label.verdict for label in lite.labels()} == {
        "crowd-1": "b",
        "crowd-2": "b",
        "crowd-3": "a",
    }
    with pytest.raises(ConfigError, match="exclude each other"):
        ingest_files(lite, files, into(), ReadOptions(), now=1.0, annotator="crowd", logprob="x")


def test_the_round_of_a_policy(lite):
    assert round_of(lite, "base") == 0
    fill(lite, 1, round=2)
    assert round_of(lite, "base") == 2
    assert round_of(lite, "new") == 3
    with pytest.raises(ConfigError, match="--round"):
        into(round=-1)
    with pytest.raises(DataError, match="policy"):
        into(policy=" ")


# -- sampling -------------------------------------------------------------------------------------------------------


def sampler(calls, stop_at=None):
    def sample(prompts, seed):
        if stop_at is not None and seed >= stop_at:
            raise KeyboardInterrupt
        calls.append(seed)
        return [
            [Completion(f"{p[0].content} {seed} {k}", (), -float(k) if k else None, 3, "stop") for k in range(2)]
            for p in prompts
        ]

    return sample


def test_a_sampled_policy_goes_on_where_it_stopped(lite, tmp_path):
    fill(lite, 20)
    prompts = stored_prompts(lite)
    output = sampled_file(tmp_path / "sampled", into("hub/name"))
    assert output.name == "hub_name-1.jsonl"
    calls: list[int] = []

    def run(stop_at=None, **identity):
        return ingest_sampled(
            lite,
            prompts,
            lambda: sampler(calls, stop_at),
            output,
            into("hub/name"),
            n=2,
            seed=0,
            identity=identity,
            now=1.0,
        )

    with pytest.raises(Interrupted, match="the same command goes on"):
        run(stop_at=2)
    assert calls == [0, 1]
    assert lite.counts(1.0).responses == 40
    found = run()
    assert (found.sampled, found.new_responses, calls) == (40, 40, [0, 1, 2])
    assert found.warnings == []
    assert (run().new_responses, calls) == (0, [0, 1, 2]), "whole: not sampled again"
    with pytest.raises(ConfigError, match="sampled with other options"):
        run(options=1)


def test_no_prompts_to_sample(lite):
    with pytest.raises(DataError, match="no prompts yet"):
        stored_prompts(lite)


# -- the exact bench ------------------------------------------------------------------------------------------------


def pool(i, k=4):
    group = Group(prompt=turns(f"q{i}"), responses=tuple(turns(f"answer {i} {j}", "assistant") for j in range(k)))
    return Pool(group, np.zeros((0, k)), np.full(k, 1 / k))


def test_tilted_answers_are_drawn_as_often_as_the_policy_says_them(lite):
    n = 400
    pools = [pool(i) for i in range(n)]
    rewards = [np.array([0.0, 1.0, 2.0, 3.0])] * n
    ingest_tilted(lite, pools, rewards, into(), method="tilt", strength=1.0, n=1, seed=0, base_n=1, now=1.0)
    (expected_K,) = policies.tilt(rewards[0], pools[0].base_K, [float(np.std(rewards[0]))])
    drawn = np.bincount([int(r.text[-1]) for r in lite.responses(policy="rl-1")], minlength=4) / n
    assert drawn == pytest.approx(expected_K, abs=4 * math.sqrt(0.25 / n))
    base = np.bincount([int(r.text[-1]) for r in lite.responses(policy="base")], minlength=4) / n
    assert base == pytest.approx(np.full(4, 0.25), abs=4 * math.sqrt(0.25 / n))
    assert {r.base_logprob for r in lite.responses()} == {math.log(0.25)}
    with lite.reading() as connection:
        rows = connection.exec_driver_sql("SELECT DISTINCT logprob FROM draws WHERE policy = 'rl-1'").scalars().all()
    assert sorted(rows) == pytest.approx(np.log(expected_K))


def test_tilting_again_adds_nothing(lite):
    pools, rewards = [pool(0), pool(1)], [np.arange(4.0)] * 2
    options = {"method": "best_of_n_iid", "strength": 4, "n": 3, "seed": 1, "now": 1.0}
    first = ingest_tilted(lite, pools, rewards, into(), **options)
    again = ingest_tilted(lite, pools, rewards, into(), **options)
    assert first.new_responses == first.responses == again.responses
    assert again.new_responses == 0


@pytest.mark.parametrize(
    ("method", "strength", "said"),
    [("tilt", 0.0, "above 0"), ("best_of_n_iid", 0.5, "at least 1"), ("other", 1.0, "give tilt")],
)
def test_policies_that_are_none(method, strength, said):
    with pytest.raises(ConfigError, match=said):
        tilted_weights([pool(0)], [np.arange(4.0)], method, strength)


def test_equal_rewards_optimise_nothing():
    with pytest.raises(DataError, match="same reward"):
        tilted_weights([pool(0)], [np.zeros(4)], "tilt", 1.0)
