"""The data verbs with a reward model: doubts, margins and head inputs come from it, and what it cannot do is said."""

from __future__ import annotations

import json

import pytest
import torch

from rewardsmith.cli import main
from rewardsmith.data.readers import read_groups
from rewardsmith.model.artifact import PROBE, save_reward_model
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.text.render import RenderConfig, Renderer
from tests.tiny import tiny_tokenizer, tiny_trunk

ROWS = [
    {"prompt": f"question {i}", "chosen": f"answer {i} {'y' * (i % 9)}", "rejected": f"other {'z' * (i % 7)} {i}"}
    for i in range(60)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a preference file and an untrained reward model."""
    folder = tmp_path_factory.mktemp("data-verbs")
    (folder / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    torch.manual_seed(0)
    renderer = Renderer(tiny_tokenizer(), RenderConfig(max_length=128))
    save_reward_model(RewardModel(tiny_trunk()), renderer, folder / "rm", probe=renderer.encode(PROBE))
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
