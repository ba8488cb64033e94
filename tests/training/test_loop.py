"""The training loop: same seed same bits, resumed or not; nothing is lost, overwritten or hidden."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rewardsmith.errors import ConfigError, DataError, Interrupted, ModelError, TrainingError
from rewardsmith.model.artifact import load_reward_model
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.text.render import RenderConfig
from rewardsmith.training import checkpoint, loop
from rewardsmith.training.config import TrainConfig
from rewardsmith.training.loop import train
from rewardsmith.training.loss_config import LossConfig
from rewardsmith.training.optim import rate_factor
from tests.tiny import tiny_tokenizer, tiny_trunk

WORDS = ["red", "blue", "green", "one", "two", "three", "cat", "dog", "sun", "rain"]


def row(i: int) -> dict:
    """The chosen answer says the word that the prompt asks for: learnable, and independent of length."""
    word, other = WORDS[i % 10], WORDS[(i * 3 + 1) % 10]
    other = other if other != word else WORDS[(i + 1) % 10]
    return {"prompt": f"say {word} {i}", "chosen": f"{word} {'!' * (i % 3)}", "rejected": f"{other} {'!' * (i % 2)}"}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("lm")
    trunk = tiny_trunk("llama")
    model = AutoModelForCausalLM.from_config(trunk.config)
    model.model.load_state_dict(trunk.state_dict())
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def config(tmp_path, model_folder) -> TrainConfig:
    for name, rows in (("train", range(48)), ("eval", range(100, 116))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in rows))
    return TrainConfig(
        data=(str(tmp_path / "train.jsonl"),),
        eval_data=(str(tmp_path / "eval.jsonl"),),
        model=model_folder,
        output=str(tmp_path / "rm"),
        batch_size=8,
        epochs=2,
        learning_rate=3e-3,
        eval_every=4,
        save_every=3,
        device="cpu",
        precision="float32",  # auto is bfloat16 on some processors, whose rounding hides what is compared here
    )


def losses(folder: str | Path) -> list[float]:
    lines = (Path(folder) / "training_metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_learns_and_writes_what_it_did(config):
    meta = train(replace(config, epochs=12, keep_best=False), quiet=True)
    curve = losses(config.output)
    assert len(curve) == 72 == meta["training"]["steps"]
    assert sum(curve[-6:]) < 0.6 * sum(curve[:6])
    assert meta["metrics"]["held_out"]["n_pairs"] == 16
    assert meta["data"]["train"]["groups"] == 48
    assert len(meta["data"]["train"]["files"][0]["sha256"]) == 64
    assert meta["parity"]["tolerance"] < 1e-4
    assert meta["normalisation"]["reference"]["n"] == 32
    assert meta["config"]["learning_rate"] == 3e-3
    assert not config.run_folder.exists()
    first = json.loads((Path(config.output) / "training_metrics.jsonl").read_text().splitlines()[0])
    assert set(first) >= {"step", "loss", "accuracy", "margin", "reward_mean", "grad_norm", "learning_rate", "tokens"}


def test_same_seed_same_bits_and_another_seed_other_bits(config, tmp_path):
    train(config, quiet=True)
    train(replace(config, output=str(tmp_path / "again")), quiet=True)
    train(replace(config, output=str(tmp_path / "other"), seed=1), quiet=True)
    assert same_bits(weights(config.output), weights(tmp_path / "again"))
    assert not same_bits(weights(config.output), weights(tmp_path / "other"))


def test_results_do_not_depend_on_how_groups_fall_into_batches(config, tmp_path):
    train(config, quiet=True)
    train(replace(config, output=str(tmp_path / "small"), tokens_per_batch=64), quiet=True)
    assert losses(config.output) == pytest.approx(losses(tmp_path / "small"), abs=2e-4)


def test_interrupt_saves_and_resume_ends_with_the_same_bits(config, tmp_path, monkeypatch):
    train(config, quiet=True)
    broken = replace(config, output=str(tmp_path / "broken"))
    step = loop.Run._train_step

    def interrupted(self, number, items):
        step(self, number, items)
        if number == 6:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop.Run, "_train_step", interrupted)
    with pytest.raises(Interrupted, match=r"stopped at step 7 of 12, state saved; go on with --resume"):
        train(broken, quiet=True)
    monkeypatch.setattr(loop.Run, "_train_step", step)
    assert not Path(broken.output).exists(), "no half artifact"
    with pytest.raises(ConfigError, match="at step 7: add --resume"):
        train(broken, quiet=True)
    train(replace(broken, resume=True), quiet=True)
    assert losses(broken.output) == losses(config.output)
    assert same_bits(weights(broken.output), weights(config.output))


COMMAND = """
import sys, torch
torch.set_num_threads(1)
from rewardsmith.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_killed_and_resumed_run_is_identical(config, tmp_path):
    """SIGKILL in the middle of a run, in another process; the artifact is never half there."""
    words = ["train", "--data", *config.data, "--eval-data", *config.eval_data, "--model", config.model, "--quiet"]
    words += ["--batch-size", "4", "--epochs", "6", "--learning-rate", "3e-3", "--save-every", "5", "--device", "cpu"]
    command = [sys.executable, "-c", COMMAND, *words, "--output"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment, capture_output=True)
    run_folder = tmp_path / ".killed.run"
    process = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not checkpoint.states(run_folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was killed before it was done"
    assert not (tmp_path / "killed").exists()
    subprocess.run([*command, str(tmp_path / "killed"), "--resume"], check=True, env=environment, capture_output=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert same_bits(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_resume_refuses_other_options_and_other_data(config, monkeypatch):
    monkeypatch.setattr(loop, "finish", lambda run, step: {})
    train(config, quiet=True)
    with pytest.raises(TrainingError, match="learning_rate changed"):
        train(replace(config, resume=True, learning_rate=1e-5), quiet=True)
    rows = Path(config.data[0]).read_text().replace("say red 0", "say red 9")
    Path(config.data[0]).write_text(rows)
    with pytest.raises(TrainingError, match="the training data changed"):
        train(replace(config, resume=True), quiet=True)


def test_resume_of_a_finished_run_changes_nothing(config):
    train(config, quiet=True)
    before = weights(config.output)
    train(replace(config, resume=True), quiet=True)
    assert same_bits(before, weights(config.output))


def test_resume_of_an_interrupted_overwrite_goes_on(config, monkeypatch):
    """The old artifact is still there while its successor is trained: that is no reason to drop the new state."""
    train(config, quiet=True)
    monkeypatch.setattr(loop, "finish", lambda run, step: (_ for _ in ()).throw(OSError("disk full")))
    again = replace(config, overwrite=True, seed=5)
    with pytest.raises(OSError, match="disk full"):
        train(again, quiet=True)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="not empty"):
        train(replace(again, overwrite=False, resume=True), quiet=True)
    old = weights(config.output)
    meta = train(replace(again, resume=True), quiet=True)
    assert meta["training"]["steps"] == 12
    assert not same_bits(old, weights(config.output))


def test_full_disk_is_one_line_and_keeps_the_state_before(config, monkeypatch):
    save_file, calls = checkpoint.save_file, []

    def full(tensors, file):
        calls.append(file)
        if len(calls) == 3:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(tensors, file)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ModelError, match=r"cannot be written: .*No space left"):
        train(replace(config, eval_data=(), save_every=2), quiet=True)
    assert [s.name for s in checkpoint.states(config.run_folder)] == ["state-00000004"]


def test_resume_refuses_other_labels(config, monkeypatch):
    monkeypatch.setattr(loop, "finish", lambda run, step: {})
    train(config, quiet=True)
    with pytest.raises(TrainingError, match="the training data changed"):
        train(replace(config, resume=True, data_weights=(0.5,)), quiet=True)


@pytest.mark.parametrize("changes", [{"lora_rank": 2}, {"train_layers": 1}, {"lora_rank": 2, "train_layers": 1}])
def test_partial_training_resumes_to_the_same_bits(config, tmp_path, monkeypatch, changes):
    config = replace(config, **changes)
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
    assert same_bits(weights(broken.output), weights(config.output))


def test_model_that_cannot_be_saved_is_refused_before_training(config, tmp_path):
    tiny_trunk("mamba").save_pretrained(tmp_path / "mamba")
    tiny_tokenizer().save_pretrained(tmp_path / "mamba")
    with pytest.raises(ModelError, match="no sequence classifier"):
        train(replace(config, model=str(tmp_path / "mamba")), quiet=True)


def test_length_beyond_the_table_of_positions_is_refused(config, tmp_path):
    tiny_trunk("gpt2").save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer().save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ConfigError, match="has 256 positions; give --max-length 256"):
        train(replace(config, model=str(tmp_path / "gpt2")), quiet=True)


def test_mean_pooling_is_kept_and_named_as_ours_alone(config, tmp_path, capsys):
    tiny_trunk("bert").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    short = replace(config, model=str(tmp_path / "bert"), render=RenderConfig(max_length=200), epochs=1)
    meta = train(replace(short, pooling="mean"), quiet=True)
    assert meta["parity"]["max_difference"]["padded"] < 1e-4 < meta["parity"]["max_difference"]["reloaded"]
    assert "use it through rewardsmith only" in capsys.readouterr().err
    model, _, _ = load_reward_model(config.output)
    assert model.pooling == "mean"


def test_encoder_trains(config, tmp_path):
    tiny_trunk("bert").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    short = replace(config, model=str(tmp_path / "bert"), render=RenderConfig(max_length=200), epochs=1)
    meta = train(short, quiet=True)
    assert meta["pooling"] == "cls"
    assert meta["parity"]["tolerance"] < 1e-4


def test_ties_alone_in_the_evaluation_give_no_accuracy(config, tmp_path):
    tie = {"prompt": "q", "responses": ["a", "b"], "preferences": [{"chosen": 0, "rejected": 1, "probability": 0.5}]}
    (tmp_path / "ties.jsonl").write_text("".join(json.dumps({**tie, "id": str(i)}) + "\n" for i in range(4)))
    meta = train(replace(config, eval_data=(str(tmp_path / "ties.jsonl"),)), quiet=True)
    assert meta["metrics"]["held_out"]["accuracy"] is None
    json.dumps(meta, allow_nan=False)


def test_tensorboard_files_stay(config, tmp_path):
    train(replace(config, tracker="tensorboard", epochs=1), quiet=True)
    assert list((tmp_path / "rm.logs").rglob("events.*"))


def test_output_is_not_overwritten_unasked(config):
    train(config, quiet=True)
    with pytest.raises(ConfigError, match="not empty"):
        train(config, quiet=True)
    train(replace(config, overwrite=True, epochs=1), quiet=True)
    assert len(losses(config.output)) == 6


def test_nan_stops_before_the_weights_and_names_the_group(config, monkeypatch):
    forward = loop.PreferenceLoss.forward

    def poisoned(self, rewards_R, batch):
        output = forward(self, rewards_R, batch)
        bad = output.group_loss_G.clone()
        bad[1] = float("nan")
        return replace(output, loss=output.loss * float("nan"), group_loss_G=bad)

    monkeypatch.setattr(loop.PreferenceLoss, "forward", poisoned)
    with pytest.raises(TrainingError, match=r"step 1: the loss is not a finite number; groups: .*train\.jsonl:\d+"):
        train(config, quiet=True)
    assert not Path(config.output).exists()


def test_best_weights_are_kept(config, monkeypatch):
    """The second evaluation is the best one; later steps must not reach the artifact."""
    figures = iter([0.5, 0.9, 0.6] + [0.1] * 20)
    evaluate = loop.Run.evaluate
    kept = {}

    def staged(self):
        metrics, calibration = evaluate(self)
        metrics["accuracy"] = next(figures)
        if metrics["accuracy"] == 0.9:
            kept.update({n: p.detach().clone() for n, p in self.models[0].named_parameters()})
        return metrics, calibration

    monkeypatch.setattr(loop.Run, "evaluate", staged)
    meta = train(config, quiet=True)
    assert meta["metrics"]["kept_step"] == 8
    assert torch.equal(weights(config.output)["score.weight"], kept["value_head.weight"])


def test_early_stopping(config, monkeypatch):
    evaluate = loop.Run.evaluate
    monkeypatch.setattr(loop.Run, "evaluate", lambda self: (evaluate(self)[0] | {"accuracy": 0.5, "loss": 1.0}, None))
    meta = train(replace(config, eval_every=1, early_stopping=3), quiet=True)
    assert meta["training"]["steps"] == 4


def test_a_run_states_its_speed(config, capsys):
    meta = train(replace(config, epochs=1))
    assert meta["speed"].keys() == {"tokens_per_second", "shared_tokens", "mfu", "peak_gflops", "peak_memory_gb"}
    assert 0 < meta["speed"]["mfu"] < 1
    lines = [json.loads(line) for line in (Path(config.output) / "training_metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "tokens" in line]
    saved = 1 - sum(s["tokens"] for s in steps) / sum(s["row_tokens"] for s in steps)
    assert meta["speed"]["shared_tokens"] == pytest.approx(saved, abs=1e-4)
    assert saved > 0.3, "both answers share their prompt"
    assert f"{saved:.0%} of tokens shared" in capsys.readouterr().err


def test_one_prompt_in_several_rows_is_one_steps_business(config):
    rows = [{"prompt": f"say {i % 6}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(24)]
    Path(config.data[0]).write_text("".join(json.dumps(r) + "\n" for r in rows))
    run = loop.Run(replace(config, batch_size=8), quiet=True)
    steps = [run._step_items(s) for s in range(run.total_steps)]
    for epoch in (steps[:3], steps[3:]):
        seen = [item.group.responses[0][0].content for items in epoch for item in items]
        assert sorted(seen) == sorted(r["chosen"] for r in rows)
        counts = [Counter(item.group.prompt[0].content for item in items) for items in epoch]
        assert all(n % 2 == 0 for count in counts for n in count.values()), "two at a time"
    assert [i.group.id for i in steps[0]] != [i.group.id for i in steps[3]]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not enough memory: x")])
def test_lack_of_memory_is_one_line(config, monkeypatch, error):
    def fails(self, step, items):
        raise error

    monkeypatch.setattr(loop.Run, "_train_step", lambda self, *_: self.meter.begin(1) or fails(self, *_))
    with pytest.raises(TrainingError, match=r"out of memory with --tokens-per-batch 4096: lower it, or add"):
        train(replace(config, tokens_per_batch=4096), quiet=True)
    with pytest.raises(TrainingError, match=r"out of memory with --tokens-per-batch 256: lower it, or add"):
        train(config, quiet=True)


def test_a_budget_that_nobody_named_is_found(config, tmp_path, monkeypatch, capsys):
    train(config, quiet=True)
    forward = RewardModel.forward

    def small_device(self, *args, batch=None, **kwargs):
        if self.training and batch is not None and batch.n_tokens > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *args, batch=batch, **kwargs)

    monkeypatch.setattr(RewardModel, "forward", small_device)
    monkeypatch.setattr(loop, "FEWEST_TOKENS", 16)
    train(replace(config, output=str(tmp_path / "small")))
    error = capsys.readouterr().err
    assert "out of memory: going on with 1024 tokens at once" in error
    assert "out of memory: going on with 32 tokens at once" not in error
    assert losses(config.output) == pytest.approx(losses(tmp_path / "small"), abs=2e-4)


def test_held_out_share_keeps_prompts_apart(config):
    meta = train(replace(config, eval_data=(), eval_fraction=0.3, epochs=1), quiet=True)
    n_train, n_eval = meta["data"]["train"]["groups"], meta["metrics"]["held_out"]["n_pairs"]
    assert n_train + n_eval == 48
    assert 4 <= n_eval <= 26


@pytest.mark.parametrize("changes", [{"lora_rank": 2}, {"train_layers": 1}, {"train_layers": 0}])
def test_partial_training_changes_only_what_it_should(config, changes):
    meta = train(replace(config, **changes, keep_best=False), quiet=True)
    before = load_file(Path(config.model) / "model.safetensors")
    after = weights(config.output)
    changed = {n for n in before if n in after and not torch.equal(before[n], after[n])}
    lower = {n for n in before if "embed" in n or "layers.0" in n}
    assert meta["parity"]["tolerance"] < 1e-4
    if "lora_rank" in changes:
        assert changed
        assert not any("norm" in n or "embed" in n for n in changed)
    else:
        assert not changed & lower
        upper = {n for n in changed if "layers.1" in n}
        assert bool(upper) == (changes["train_layers"] == 1)


def test_gradient_checkpointing_gives_the_same_losses(config, tmp_path):
    train(config, quiet=True)
    train(replace(config, output=str(tmp_path / "checkpointed"), gradient_checkpointing=True), quiet=True)
    assert losses(config.output) == pytest.approx(losses(tmp_path / "checkpointed"), abs=1e-5)


def test_bfloat16_compute_keeps_float32_weights(config):
    train(replace(config, precision="bfloat16", epochs=1), quiet=True)
    assert {t.dtype for t in weights(config.output).values()} == {torch.float32}


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(objective="plackett-luce"),
        LossConfig(ties="davidson", label_smoothing=0.1),
        LossConfig(ties="rao-kupper", centring=0.01),
    ],
)
def test_every_objective_trains(config, loss):
    meta = train(replace(config, loss=loss, epochs=1), quiet=True)
    assert meta["training"]["steps"] == 6


def test_ratings_alone_train_by_regression(config, tmp_path):
    rows = [{"id": str(i), "prompt": f"q{i}", "responses": ["a", "bb"], "ratings": [1.0, 1.0]} for i in range(8)]
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    rated = replace(config, data=(str(tmp_path / "rated.jsonl"),), eval_data=(), epochs=30)
    with pytest.raises(DataError, match="nothing to train on"):
        train(rated, quiet=True)
    train(replace(rated, loss=LossConfig(objective="none", regression=1.0)), quiet=True)
    curve = losses(config.output)
    assert curve[-1] < 0.2 * curve[0]


def test_groups_left_out_are_named(config, tmp_path):
    long = {"prompt": "p", "chosen": "x" * 300, "rejected": "y"}
    with open(config.data[0], "a") as handle:
        handle.write(json.dumps(long) + "\n")
    meta = train(replace(config, render=RenderConfig(max_length=64), epochs=1), quiet=True)
    (left_out,) = meta["data"]["left_out"]
    assert left_out["source"].endswith("train.jsonl:49")
    assert "longer than --max-length" in left_out["reason"]


def test_mixing_weights_reach_the_loss(config, tmp_path):
    """A file of weight 0 teaches nothing: the result is that of the other file alone."""
    flipped = [{**row(i), "chosen": row(i)["rejected"], "rejected": row(i)["chosen"]} for i in range(48)]
    (tmp_path / "flipped.jsonl").write_text("".join(json.dumps(r) + "\n" for r in flipped))
    both = replace(config, data=(*config.data, str(tmp_path / "flipped.jsonl")), data_weights=(1.0, 0.0))
    meta = train(both, quiet=True)
    assert meta["data"]["train"]["groups"] == 48
    assert len(meta["data"]["left_out"]) == 48


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"batch_size": 0}, "--batch-size"),
        ({"limit": 0}, "--limit"),
        ({"seed": -1}, "--seed"),
        ({"max_grad_norm": -1.0}, "--max-grad-norm"),
        ({"early_stopping": -1}, "--early-stopping"),
        ({"output": "."}, "--output"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"eval_fraction": 0.2}, "exclude each other"),
        ({"lora_rank": 2, "train_layers": 0}, "leaves no layer"),
        ({"members": 2}, "--members needs"),
        ({"members": 2, "train_layers": 1, "shard": True}, "--shard goes with one member"),
        ({"trunk_cache_gb": -1.0}, "give at least 0"),
        ({"quantize": "4bit"}, "needs --lora-rank"),
        ({"data_weights": (1.0, 2.0)}, "--data-weights"),
        ({"eval_data": (), "early_stopping": 2}, "--early-stopping needs"),
    ],
)
def test_options_that_make_no_sense(config, changes, found):
    with pytest.raises(ConfigError, match=found):
        replace(config, **changes)


def test_rate_rises_then_falls():
    config = TrainConfig(data=("x",), model="m", output="o", warmup_ratio=0.2)
    linear = [rate_factor(s, 10, config) for s in range(10)]
    assert linear == pytest.approx([1 / 3, 2 / 3, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    cosine = [rate_factor(s, 10, replace(config, schedule="cosine")) for s in range(10)]
    assert cosine[2] == 1.0
    assert cosine[6] == pytest.approx(0.5)
    assert {rate_factor(s, 10, replace(config, schedule="constant")) for s in range(2, 10)} == {1.0}
