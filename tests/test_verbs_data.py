"""The data verbs with a reward model: doubts, margins and head inputs come from it, and what it cannot do is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rewardsmith.cli import main
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import text_of
from rewardsmith.ensemble import join
from rewardsmith.model.artifact import PROBE, save_reward_model
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scorers import load_scorer
from rewardsmith.text.render import RenderConfig, Renderer
from tests.tiny import tiny_tokenizer, tiny_trunk

ROWS = [
    {"prompt": f"question {i}", "chosen": f"answer {i} {'y' * (i % 9)}", "rejected": f"other {'z' * (i % 7)} {i}"}
    for i in range(60)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a preference file and models that learnt nothing: rm; drops, which leaves out what is too long; and
    the ensemble two."""
    folder = tmp_path_factory.mktemp("data-verbs")
    (folder / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    torch.manual_seed(0)
    renderer = Renderer(tiny_tokenizer(), RenderConfig(max_length=128))
    for seed, name in enumerate(("rm", "one", "other")):
        model = RewardModel(tiny_trunk(seed=seed))
        if name != "rm":
            torch.nn.init.normal_(model.value_head.weight)
        save_reward_model(model, renderer, folder / name, probe=renderer.encode(PROBE))
    join([str(folder / "one"), str(folder / "other")], folder / "two")
    drops = Renderer(tiny_tokenizer(), RenderConfig(max_length=128, overlong="drop"))
    save_reward_model(RewardModel(tiny_trunk()), drops, folder / "drops", probe=drops.encode(PROBE))
    return folder


@pytest.mark.parametrize("strategy", ["d-optimal", "coverage", "margin"])
def test_a_model_chooses_pairs(place, tmp_path, capsys, strategy):
    words = ["data", "select", str(place / "prefs.jsonl"), "--budget", "7", "--model", str(place / "rm"), "--json"]
    output = tmp_path / "next.jsonl"
    assert main([*words, "--output", str(output), "--strategy", strategy, "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["selected"], result["candidates"]) == (7, 60)
    assert [g.note for g in read_groups([output])] == [f"{strategy}: {rank} of 7" for rank in range(1, 8)]


def test_one_model_has_no_disagreement(place, tmp_path, capsys):
    words = ["data", "select", str(place / "prefs.jsonl"), "--budget", "7", "--model", str(place / "rm"), "--quiet"]
    assert main([*words, "--output", str(tmp_path / "next.jsonl"), "--strategy", "disagreement"]) == 2
    assert "needs an ensemble's spread" in capsys.readouterr().err


@pytest.mark.parametrize("strategy", ["d-optimal", "coverage", "margin"])
def test_what_the_model_cannot_read_is_named_and_the_rest_chosen(place, tmp_path, capsys, strategy):
    pool, output = tmp_path / "pool.jsonl", tmp_path / "next.jsonl"
    rows = [{"prompt": row["prompt"], "responses": [row["chosen"], row["rejected"]]} for row in ROWS[:9]]
    rows[4]["responses"][0] = "y" * 400  # more than the model's 128 tokens
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data", "select", str(pool), "--budget", "9", "--model", str(place / "drops"), "--json", "--quiet"]
    assert main([*words, "--output", str(output), "--strategy", strategy]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["selected"], result["passed_over"]["not scored"]) == (8, 1)
    assert [(row["line"], bool(row["reason"])) for row in result["dropped"]] == [(5, True)]


def test_an_ensemble_chooses_by_the_spread_of_its_gaps(place, tmp_path, capsys):
    output = tmp_path / "next.jsonl"
    words = ["data", "select", str(place / "prefs.jsonl"), "--budget", "4", "--model", str(place / "two"), "--quiet"]
    assert main([*words, "--output", str(output), "--strategy", "disagreement"]) == 0
    groups = list(read_groups([place / "prefs.jsonl"]))
    members = [s.members for s in load_scorer(str(place / "two")).score(groups)]
    spread = [abs((m[0, 0] - m[0, 1]) - (m[1, 0] - m[1, 1])) for m in members]
    best = [text_of(groups[k].prompt) for k in np.argsort(spread)[::-1][:4]]
    assert [text_of(group.prompt) for group in read_groups([output])] == best


def test_a_model_doubts_labels_or_says_that_it_cannot(place, tmp_path, capsys):
    words = ["data", "balance", str(place / "prefs.jsonl"), "--model", str(place / "rm"), "--quiet", "--json"]
    review = tmp_path / "review.jsonl"
    code = main([*words, "--output", str(tmp_path / "out.jsonl"), "--review", str(review)])
    said = capsys.readouterr()
    if code == 2:  # an untrained model's rewards may say nothing of the labels
        assert "cannot be told better than by chance" in said.err
    else:
        assert all("by the reward model" in json.loads(line)["reason"] for line in review.read_text().splitlines())
        assert json.loads(said.out)["review"]["pairs"] == 60
