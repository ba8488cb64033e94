"""Two processes train the same model as one: the loss of a step is the sum of its parts, wherever they ran."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM

from tests.tiny import tiny_tokenizer, tiny_trunk


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", ["5", "1"])  # with 1, a process is idle in every step
def test_two_processes_give_the_losses_of_one(tmp_path, batch_size):
    AutoModelForCausalLM.from_config(tiny_trunk().config).save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    rows = [{"prompt": f"q {i}", "chosen": f"good {i}", "rejected": "bad" * (1 + i % 3)} for i in range(20)]
    (tmp_path / "prefs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = ["train", "--data", "prefs.jsonl", "--model", "lm", "--eval-fraction", "0.2", "--learning-rate", "1e-3"]
    words += ["--batch-size", batch_size, "--tokens-per-batch", "60", "--device", "cpu", "--json", "--output"]
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
