"""The frozen layers' cache: the same numbers with it, without it, cold and warm; never trusted when it is not ours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rewardsmith.model.reward_model import RewardModel
from rewardsmith.text.token_cache import cache_folder
from rewardsmith.training.cache import DATA, META
from rewardsmith.training.loop import train
from tests.training.test_loop import config, losses, model_folder, row, same_bits, weights  # noqa: F401


@pytest.fixture
def lower_calls(monkeypatch) -> list[int]:
    """Tokens of every batch that went through frozen layers by themselves."""
    calls: list[int] = []
    lower = RewardModel.lower
    monkeypatch.setattr(RewardModel, "lower", lambda self, batch: calls.append(batch.n_tokens) or lower(self, batch))
    return calls


@pytest.fixture
def top(config):  # noqa: F811
    return replace(config, train_layers=1)


def caches() -> list[Path]:
    return sorted(meta.parent for meta in cache_folder("trunk").glob(f"*/{META}"))


def test_losses_are_those_of_a_run_without_it(top, tmp_path, lower_calls):
    train(replace(top, output=str(tmp_path / "without"), trunk_cache_gb=0), quiet=True)
    assert not lower_calls
    train(top, quiet=True)
    assert losses(top.output) == pytest.approx(losses(tmp_path / "without"), abs=1e-5)


def test_a_warm_cache_gives_the_bits_of_a_cold_one_and_runs_no_frozen_layer(top, tmp_path, lower_calls, capsys):
    top = replace(top, tokens_per_batch=64)
    train(top)
    assert "kept in" in capsys.readouterr().err
    cold = list(lower_calls)
    lower_calls.clear()
    # another rate and another seed read the same frozen layers
    train(replace(top, output=str(tmp_path / "other"), seed=1, learning_rate=1e-3), quiet=True)
    train(replace(top, output=str(tmp_path / "warm")))
    assert "read from" in capsys.readouterr().err
    assert len(lower_calls) == 2 < len(cold), "one batch in each run, to see that the cache is still true"
    assert same_bits(weights(top.output), weights(tmp_path / "warm"))
    assert len(caches()) == 1


@pytest.mark.parametrize("damage", ["cut", "other numbers", "no meta", "bad meta"])
def test_a_damaged_cache_is_made_anew(top, tmp_path, damage):
    train(top, quiet=True)
    (cache,) = caches()
    data = (cache / DATA).read_bytes()
    if damage == "cut":
        (cache / DATA).write_bytes(data[:-8])
    elif damage == "other numbers":
        (cache / DATA).write_bytes(torch.randn(len(data) // 4).numpy().tobytes())
    elif damage == "no meta":
        (cache / META).unlink()
    else:
        (cache / META).write_text("{")
    train(replace(top, output=str(tmp_path / "again")), quiet=True)
    assert (cache / DATA).read_bytes() == data
    assert same_bits(weights(top.output), weights(tmp_path / "again"))


def test_other_tokens_or_other_layers_have_another_cache(top, tmp_path):
    train(top, quiet=True)
    train(replace(top, output=str(tmp_path / "heads"), train_layers=0), quiet=True)
    Path(top.data[0]).write_text("".join(json.dumps(row(i)) + "\n" for i in range(40)))
    train(replace(top, output=str(tmp_path / "data")), quiet=True)
    assert len(caches()) == 3


def test_what_does_not_fit_is_said_and_training_goes_on(top, capsys):
    train(replace(top, trunk_cache_gb=1e-6))
    error = capsys.readouterr().err
    assert "frozen layers are computed in every step: " in error
    assert "more than --trunk-cache-gb 1e-06" in error
    assert not caches()
    assert (Path(top.output) / "model.safetensors").exists()


def test_a_folder_that_cannot_be_used_is_said_and_training_goes_on(top, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    train(replace(top, epochs=1))
    assert "cannot be used" in capsys.readouterr().err


def test_the_oldest_cache_makes_room(top, tmp_path):
    train(top, quiet=True)
    (first,) = caches()
    size = (first / DATA).stat().st_size
    other = replace(top, output=str(tmp_path / "other"), train_layers=0, trunk_cache_gb=1.9 * size / 1e9)
    train(other, quiet=True)
    (left,) = caches()
    assert left != first


def test_an_interrupted_computation_leaves_nothing(top, monkeypatch):
    lower = RewardModel.lower

    def stops(self, batch):
        if stops.calls:
            raise KeyboardInterrupt
        stops.calls += 1
        return lower(self, batch)

    stops.calls = 0
    monkeypatch.setattr(RewardModel, "lower", stops)
    with pytest.raises(KeyboardInterrupt):
        train(replace(top, tokens_per_batch=64), quiet=True)
    assert list(cache_folder("trunk").iterdir()) == []
