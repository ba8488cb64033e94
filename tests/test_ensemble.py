"""Ensembles: members that are artifacts by themselves, share what is equal, and are scored in one pass."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rewardsmith.data.readers import read_groups
from rewardsmith.ensemble import COMMON, join, uneven
from rewardsmith.errors import ConfigError, Interrupted, ModelError
from rewardsmith.model.artifact import load_reward_model
from rewardsmith.model.layers import layers_of
from rewardsmith.model.members import load_members
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scorers import load_scorer
from rewardsmith.scoring import rows_of_group
from rewardsmith.training import loop
from rewardsmith.training.loop import train
from tests.training.test_loop import config, losses, model_folder, same_bits, weights  # noqa: F401

KINDS = {
    "top layer": {"train_layers": 1},
    "heads": {"train_layers": 0},
    "LoRA": {"lora_rank": 2},
    "LoRA on top": {"lora_rank": 2, "train_layers": 1},
}


@pytest.fixture(params=sorted(KINDS))
def ensemble(request, config):  # noqa: F811
    config = replace(config, members=3, **KINDS[request.param])
    return config, train(config, quiet=True)


def groups_of(config):  # noqa: F811
    return list(read_groups(config.eval_data))


def test_the_reward_is_the_mean_of_members_that_load_by_themselves(ensemble):
    config, meta = ensemble  # noqa: F811
    groups = groups_of(config)
    scores = load_scorer(config.output).score(groups)
    members = [load_scorer(f"{config.output}/{name}") for name in meta["members"]]
    alone = [np.stack([member.score([group])[0].rewards for member in members]) for group in groups]
    offsets = np.array(meta["member_means"])[:, None]
    for score, rewards_MK in zip(scores, alone, strict=True):
        assert score.rewards == pytest.approx(rewards_MK.mean(axis=0), abs=1e-5)
        assert score.std == pytest.approx((rewards_MK - offsets).std(axis=0, ddof=1), abs=1e-5)
    assert np.concatenate([s.std for s in scores]).min() > 0
    assert meta["parity"]["tolerance"] < 1e-4
    row = rows_of_group(groups[0], scores[0])[0]
    assert row["std"] == scores[0].std[0]
    stock = AutoModelForSequenceClassification.from_pretrained(f"{config.output}/member-1")
    assert stock.config.num_labels == 1


def test_equal_weights_lie_on_the_disk_once(ensemble):
    config, _ = ensemble  # noqa: F811
    files = [Path(config.output) / f"member-{m}" / COMMON for m in range(3)]
    assert len({file.stat().st_ino for file in files}) == 1


def test_common_layers_run_once_for_all_members(config):  # noqa: F811
    train(replace(config, members=3, train_layers=1, trunk_cache_gb=0), quiet=True)
    models, _, _ = load_members(config.output)
    bottom, top = (layers_of(model.trunk) for model in models[:2])
    assert bottom[0] is top[0]
    assert bottom[1] is not top[1]
    scorer = load_scorer(config.output)
    seen = []
    layers_of(scorer.models[0].trunk)[0].register_forward_pre_hook(lambda *_: seen.append(1))
    scorer.score(groups_of(config))
    assert len(seen) == 1


def test_common_layers_run_once_in_training_without_a_cache(config, monkeypatch, tmp_path):  # noqa: F811
    calls = []
    lower = RewardModel.lower
    monkeypatch.setattr(RewardModel, "lower", lambda self, batch: calls.append(1) or lower(self, batch))
    many = replace(config, members=3, train_layers=1, eval_data=(), trunk_cache_gb=0)
    meta = train(many, quiet=True)
    # the last: the reference rewards, and the members' means, of a few groups
    assert len(calls) == meta["training"]["steps"] + 1
    cached = replace(many, output=str(tmp_path / "cached"), trunk_cache_gb=1)
    train(cached, quiet=True)
    assert losses(cached.output) == pytest.approx(losses(many.output), abs=1e-5)


def test_the_first_member_is_the_model_that_would_be_trained_alone(config, tmp_path):  # noqa: F811
    alone = replace(config, train_layers=1, keep_best=False, output=str(tmp_path / "alone"))
    train(alone, quiet=True)
    train(replace(alone, members=2, output=config.output), quiet=True)
    member, _, _ = load_reward_model(f"{config.output}/member-0")
    other, _, _ = load_reward_model(f"{config.output}/member-1")
    single, _, _ = load_reward_model(alone.output)
    assert torch.equal(member.value_head.weight, single.value_head.weight)
    assert all(torch.equal(a, b) for a, b in zip(member.parameters(), single.parameters(), strict=True))
    assert not torch.equal(other.value_head.weight, single.value_head.weight)


def test_an_ensemble_resumes_to_the_same_bits(config, tmp_path, monkeypatch):  # noqa: F811
    config = replace(config, members=2, train_layers=1)
    train(config, quiet=True)
    broken = replace(config, output=str(tmp_path / "broken"))
    step = loop.Run._train_step
    with monkeypatch.context() as patch:
        patch.setattr(
            loop.Run, "_train_step", lambda self, n, i: (step(self, n, i), setattr(self, "interrupted", n == 4))
        )
        with pytest.raises(Interrupted):
            train(broken, quiet=True)
    train(replace(broken, resume=True), quiet=True)
    assert losses(broken.output) == losses(config.output)
    for m in range(2):
        one, two = (load_reward_model(f"{folder}/member-{m}")[0] for folder in (broken.output, config.output))
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_members_that_are_joined_again_share_files_and_the_pass(config, tmp_path):  # noqa: F811
    train(replace(config, members=2, train_layers=1, trunk_cache_gb=0, epochs=1), quiet=True)
    own = [Path(config.output) / f"member-{m}" for m in range(2)]
    join([str(folder) for folder in own], tmp_path / "e")
    for m, folder in enumerate(own):
        for file in folder.glob("*.safetensors"):
            assert (tmp_path / "e" / f"member-{m}" / file.name).stat().st_ino == file.stat().st_ino
    whole, joined = load_scorer(config.output), load_scorer(str(tmp_path / "e"))
    seen = []
    layers_of(joined.models[0].trunk)[0].register_forward_pre_hook(lambda *_: seen.append(1))
    for a, b in zip(whole.score(groups_of(config)), joined.score(groups_of(config)), strict=True):
        assert np.array_equal(a.members, b.members)
    assert len(seen) == 1
    with pytest.raises(ConfigError, match="not empty"):
        join([str(folder) for folder in own], tmp_path / "e")
    assert sorted(f.name for f in tmp_path.iterdir() if "writing" in f.name) == []


def test_a_member_on_a_much_wider_scale_is_named():
    assert "member-1's rewards spread 4.0 times as wide as member-0's" in uneven([0.5, 2.0, 1.0])
    assert uneven([1.0, 1.9, 1.5]) == ""


def test_errors_are_one_line(config):  # noqa: F811
    train(replace(config, members=2, train_layers=0, epochs=1), quiet=True)
    with pytest.raises(ModelError, match=r"is an ensemble of 2; name a member: .*member-0"):
        load_reward_model(config.output)
    with pytest.raises(ConfigError, match="has a head, which all members would start from"):
        train(
            replace(config, model=f"{config.output}/member-0", output=config.output + "2", members=2, train_layers=1),
            quiet=True,
        )
    meta = json.loads((Path(config.output) / "reward_model.json").read_text())
    meta["members"] = ["../../elsewhere"]
    (Path(config.output) / "reward_model.json").write_text(json.dumps(meta))
    with pytest.raises(ModelError, match="elsewhere"):
        load_scorer(config.output)
