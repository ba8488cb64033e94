"""Two processes train the same model as one: the loss of a step is the sum of its parts, wherever they ran."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rewardsmith.training.parallel import clip, dealt
from tests.tiny import tiny_tokenizer, tiny_trunk


def test_each_process_gets_as_many_batches_and_each_batch_counts_once():
    for n_batches in range(1, 8):
        for n_processes in range(1, 5):
            hands = [dealt(range(n_batches), rank, n_processes) for rank in range(n_processes)]
            assert len({len(hand) for hand in hands}) == 1
            assert sorted(batch for hand in hands for batch, counts in hand if counts) == list(range(n_batches))


def test_clipping_is_that_of_torch():
    parameters = [
        torch.nn.Parameter(torch.randn(5, 3)),
        torch.nn.Parameter(torch.randn(2)),
        torch.nn.Parameter(torch.ones(1)),
    ]
    for p in parameters[:2]:
        p.grad = torch.randn_like(p)
    same = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    for p, q in zip(parameters[:2], same[:2], strict=True):
        q.grad = p.grad.clone()
    assert torch.equal(clip(parameters, 0.5), torch.nn.utils.clip_grad_norm_(same, 0.5))
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(parameters[:2], same[:2], strict=True))


# With one group a step, a process is idle in every step.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch_size", "options"),
    [
        ("5", ""),
        ("1", ""),
        ("5", "--shard"),
        ("1", "--shard --train-layers 1"),
        ("5", "--odin 1 --consistency 1 --text-regularisation 0.1"),
        ("5", "--shard --consistency 1 --flip-rate 0.1"),
    ],
)
def test_two_processes_give_the_losses_of_one(tmp_path, batch_size, options):
    AutoModelForCausalLM.from_config(tiny_trunk().config).save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    rows = [{"prompt": f"q {i}", "chosen": f"good {i}", "rejected": "bad" * (1 + i % 3)} for i in range(20)]
    (tmp_path / "prefs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = ["train", "--data", "prefs.jsonl", "--model", "lm", "--eval-fraction", "0.2", "--learning-rate", "1e-3"]
    words += ["--batch-size", batch_size, "--tokens-per-batch", "60", "--device", "cpu", "--json"]
    words += [*options.split(), "--output"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    curves = []
    for launcher, output in ([], "one"), (torchrun, "two"):
        command = [sys.executable, *launcher, "-m", "rewardsmith.cli", *words, output]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["training"]["processes"] == (2 if launcher else 1)
        lines = (tmp_path / output / "training_metrics.jsonl").read_text().splitlines()
        curves.append([json.loads(line) for line in lines])
    assert len(curves[0]) == len(curves[1]) > 3
    for one, two in zip(*curves, strict=True):
        assert one.keys() == two.keys()
        assert all(one[k] == pytest.approx(two[k], rel=1e-3, abs=1e-4) for k in one)
    one, two = (load_file(tmp_path / output / "model.safetensors") for output in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one)


@pytest.mark.slow
def test_a_sharded_run_goes_on_where_it_was_stopped(tmp_path):
    """Weights and optimiser state are put together for the state, and split again from it."""
    AutoModelForCausalLM.from_config(tiny_trunk().config).save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    rows = [{"prompt": f"q {i}", "chosen": f"good {i}", "rejected": "bad" * (1 + i % 3)} for i in range(24)]
    (tmp_path / "prefs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "run.py").write_text(STOPPING)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "run.py"]
    curves = []
    for runs in (["whole"], ["broken", "broken resume"]):
        for run in runs:
            done = subprocess.run(
                [*command, *run.split()], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr[-2000:]
        lines = (tmp_path / runs[0] / "training_metrics.jsonl").read_text().splitlines()
        curves.append([json.loads(line)["loss"] for line in lines])
    assert len(curves[0]) == 12
    assert curves[0] == pytest.approx(curves[1], abs=1e-6)
    one, two = (load_file(tmp_path / output / "model.safetensors") for output in ("whole", "broken"))
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


STOPPING = """
import sys
from rewardsmith.errors import Interrupted
from rewardsmith.training import loop
from rewardsmith.training.config import TrainConfig

output, resume = sys.argv[1], "resume" in sys.argv
config = TrainConfig(data=("prefs.jsonl",), model="lm", output=output, batch_size=4, epochs=2, learning_rate=1e-3,
                     tokens_per_batch=60, device="cpu", shard=True, resume=resume)
if output == "broken" and not resume:
    step = loop.Run._train_step
    loop.Run._train_step = lambda self, n, items: (step(self, n, items), setattr(self, "interrupted", n == 4))
try:
    loop.train(config, quiet=True)
except Interrupted:
    assert output == "broken" and not resume
"""
