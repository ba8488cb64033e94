"""The refresh verbs with a reward model at hand: its head's input as features, its rewards as signals."""

from __future__ import annotations

import json

import pytest
import torch

from rewardsmith.cli import main
from rewardsmith.model.artifact import save_reward_model
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.text.render import RenderConfig, Renderer
from tests.overoptimization.pools import rows, write_rows
from tests.refresh.test_drift import groups
from tests.tiny import tiny_tokenizer, tiny_trunk


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with candidates, two files of outputs, and an untrained reward model."""
    folder = tmp_path_factory.mktemp("refresh-model")
    torch.manual_seed(0)
    renderer = Renderer(tiny_tokenizer(), RenderConfig(max_length=128))
    probe = renderer.encode(groups(2, 0))
    save_reward_model(RewardModel(tiny_trunk()), renderer, folder / "rm", probe=probe)
    write_rows(folder / "c.jsonl", rows(40, 5))
    for name, start in (("new", 500), ("ref", 0)):
        made = groups(30, start, start=start, answers=1)
        write_rows(
            folder / f"{name}.jsonl",
            [{"prompt": g.prompt[0].content, "response": g.responses[0][0].content} for g in made],
        )
    return folder


def test_the_trunk_gives_the_features_once(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    words = ["refresh", "simulate", "c.jsonl", "--gold", "judge", "--budget", "24", "--rounds", "2", "--seeds", "1"]
    words += ["--kl", "0.4", "--draws", "20", "--strategies", "all_data", "--features", "rm", "--answers", "4"]
    words += ["--feature-file", "f.npz", "--device", "cpu", "--json", "--quiet"]
    results = []
    for _ in range(2):
        assert main(words) == 0
        results.append(json.loads(capsys.readouterr().out))
        monkeypatch.setattr("rewardsmith.scorers.ModelScorer.features", None)  # the second time nothing is computed
    assert results[0] == results[1]
    assert results[0]["n_features"] == 32
    assert results[0]["candidates"] == 160


def test_drift_scores_both_sides(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    words = ["refresh", "drift", "new.jsonl", "--reference", "ref.jsonl", "--model", "rm", "--permutations", "99"]
    assert main([*words, "--device", "cpu", "--json", "--quiet"]) == 0
    signals = [row["signal"] for row in json.loads(capsys.readouterr().out)["signals"]]
    assert signals == ["apart", "distance", "neighbour", "length", "reward"]
