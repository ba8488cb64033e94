"""What a model is trained with again: the recorded options, the changes, and nothing of the other machine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

import pytest

from rewardsmith.data.options import ReadOptions
from rewardsmith.errors import ConfigError
from rewardsmith.mitigation.training import changes_of, config_of, other_data, recorded_read, start_of
from rewardsmith.training.config import TrainConfig
from rewardsmith.training.loss_config import LossConfig

OLD = TrainConfig(
    data=("old.jsonl", "more.jsonl"),
    data_weights=(1.0, 2.0),
    model="/nowhere/trunk",
    output="old-rm",
    eval_fraction=0.2,
    limit=7,
    epochs=3,
    learning_rate=1e-4,
    train_layers=2,
    tokens_per_batch=512,
    trust_remote_code=True,
    tracker="wandb",
    overwrite=True,
    read=ReadOptions(rating_key="gold", tag_keys=("a",)),
    loss=LossConfig(centring=0.01),
)
META = {"config": json.loads(json.dumps(asdict(OLD)))}


def made(**changes) -> TrainConfig:
    return config_of(META, changes, model="trunk", data="new.jsonl", output="new-rm")


def test_options_are_kept_and_those_of_the_other_run_are_not():
    found = made()
    assert (found.epochs, found.learning_rate, found.train_layers, found.loss.centring) == (3, 1e-4, 2, 0.01)
    expected = TrainConfig(
        data=("new.jsonl",), model="trunk", output="new-rm", epochs=3, learning_rate=1e-4, train_layers=2, resume=True,
        loss=LossConfig(centring=0.01),
    )  # fmt: skip
    assert found == expected


def test_changes_find_their_place():
    found = made(epochs=1, label_smoothing=0.1, max_length=64)
    assert found == replace(
        made(), epochs=1, loss=LossConfig(centring=0.01, label_smoothing=0.1), render=replace(OLD.render, max_length=64)
    )
    with pytest.raises(ConfigError, match="no option of train"):
        made(epoch=1)
    with pytest.raises(ConfigError, match="no option of train"):
        made(output="elsewhere")


def test_options_that_go_together_only_are_changed_at_once():
    meta = {"config": {**META["config"], "loss": {"label_smoothing": 0.1}}}
    changes = {"flip_rate": 0.1, "label_smoothing": 0.0}
    found = config_of(meta, changes, model="trunk", data="new.jsonl", output="new-rm")
    assert (found.loss.flip_rate, found.loss.label_smoothing) == (0.1, 0.0)
    with pytest.raises(ConfigError, match="give one of them"):
        config_of(meta, {"flip_rate": 0.1}, model="trunk", data="new.jsonl", output="new-rm")


def test_a_value_of_another_type_is_said():
    for word in ("epochs=two", "schedule=step", "learning-rate=fast", "keep-best=1", 'consistency-kinds=["typos"]'):
        with pytest.raises(ConfigError, match=word.partition("=")[0]):
            made(**changes_of([word]))
    kinds = made(**changes_of(['consistency-kinds=["padding","bold"]', "learning-rate=1", "quantize=none"]))
    assert (kinds.loss.consistency_kinds, kinds.learning_rate, kinds.quantize) == (("padding", "bold"), 1, "none")
    assert made(**changes_of(["train-layers=none"])).train_layers is None


def test_without_held_out_pairs_nothing_stops_early():
    meta = {"config": json.loads(json.dumps(asdict(replace(OLD, early_stopping=2))))}
    options = {"model": "trunk", "data": "new.jsonl", "output": "new-rm"}
    assert config_of(meta, {}, **options).early_stopping == 0
    assert config_of(meta, {}, eval_data=["held.jsonl"], **options).early_stopping == 2


def test_words_are_values():
    words = ["epochs=2", "learning-rate=1e-5", "schedule=cosine", "train-layers=none", "keep_best=false"]
    expected = {"epochs": 2, "learning_rate": 1e-5, "schedule": "cosine", "train_layers": None, "keep_best": False}
    assert changes_of(words) == expected
    with pytest.raises(ConfigError, match="OPTION=VALUE"):
        changes_of(["epochs"])


def test_data_is_read_as_recorded():
    assert recorded_read(META) == OLD.read
    assert recorded_read({}) == ReadOptions()


def test_other_files_than_the_model_was_trained_on_are_said(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("x")
    known = hashlib.sha256(b"x").hexdigest()
    meta = {"data": {"train": {"files": [{"path": "old/a.jsonl", "sha256": known}]}}}
    assert other_data(meta, [str(file)]) == []
    assert other_data({}, [str(file)]) == []
    file.write_text("y")
    assert "other files" in other_data(meta, [str(file)])[0]


def test_a_trunk_that_is_not_here_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"/nowhere/trunk.*--model"):
        start_of(META, None)
    assert start_of(META, "hub/name") == "hub/name"
    assert start_of({"config": {"model": f"gguf:{tmp_path}"}}, None) == f"gguf:{tmp_path}"
    assert start_of({"base_model": "owner/name"}, None) == "owner/name"
    with pytest.raises(ConfigError, match="--model"):
        start_of({}, None)
