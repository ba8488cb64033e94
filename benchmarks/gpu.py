"""Training steps of a 1 to 2 billion weight model on a GPU: padded, packed, and every distinct token once.

    python benchmarks/gpu.py [--pairs 32] [--steps 6] [--json OUT] [--profile OUT]

Needs a CUDA device; elsewhere it says so. A Qwen-2 shape of 1.5 billion weights with random values (no download),
float32 weights, compute in bfloat16 by autocast, AdamW, no checkpointing: a token's activations take about 4 MB, so
that --tokens-per-batch 8192 and the optimiser's 24 GB fit on a card of 80 GB. Pairs of random tokens whose lengths
follow people's: prompts and answers are log-normal around --prompt-length and --response-length tokens. Ways take
turns, each in a process of its own; each step is --pairs pairs, in as many forward passes as --tokens-per-batch asks
for:

    padded    rows of similar length padded to the longest, transformers' SDPA: TRL's way at its best
    packed    rows end to end without padding, each by itself: OpenRLHF's way. With flash-attn's kernels where that
              package is installed, else with the kernel that ours uses
    ours      rows end to end, what they have in common once

Measured: pairs a second over --steps steps after two of warm-up, peak memory of the device, MFU: 6 FLOP for each weight
that a token is multiplied with and each token that this way has to compute (padding counts nothing), over the best
matrix product of this device in bfloat16.

Targets: ours at least 3 times padded and 1.3 times packed; MFU of ours at least 45%.

--small makes the model tiny, and --device cpu runs anywhere: to see that the script works, not to measure. --profile
writes which kernels one more step of ours spends its time in.

The JSON file: {"settings", "machine", "targets", "results": {way: [{"seconds", "peak_mib", "tokens", "computed",
"mfu", "device", "attention"}]}}.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from speed_common import Result, Task, in_child, in_turns, new_parser, ratios, report, spread, start, table, target

PADDED, PACKED, OURS = "padded", "packed", "ours"
SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}
SMALL = {**SHAPE, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
WARM_UP = 2

Row = list[int]


def pairs_of(task: Task) -> list[list[list[Row]]]:
    """Of each step its pairs, each two rows that begin with one prompt."""
    import numpy as np

    rng = np.random.default_rng(task["seed"])

    def length(middle: int) -> int:
        return int(np.clip(rng.lognormal(np.log(middle), 0.6), 8, 4 * middle))

    def tokens(n: int) -> Row:
        return rng.integers(10, SHAPE["vocab_size"], size=n).tolist()

    steps = []
    for _ in range(WARM_UP + task["steps"]):
        prompts = [tokens(length(task["prompt_length"])) for _ in range(task["pairs"])]
        answers = [[tokens(length(task["response_length"])) for _ in range(2)] for _ in prompts]
        steps.append([[p + a for a in both] for p, both in zip(prompts, answers, strict=True)])
    return steps


def measure(task: Task) -> Result:
    if task["way"] == "probe":
        import torch

        if task["device"] == "cuda" and not torch.cuda.is_available():
            return {"device": None}
        return {"device": torch.cuda.get_device_name() if task["device"] == "cuda" else "cpu"}
    return Trial(task).run()


class Trial:
    """One way of training on the same pairs."""

    def __init__(self, task: Task) -> None:
        import torch
        from transformers import AutoConfig, AutoModel

        from rewardsmith import RewardModel

        self.task, self.way, self.device = task, task["way"], torch.device(task["device"])
        torch.manual_seed(task["seed"])
        shape = SMALL if task["small"] else SHAPE
        config = AutoConfig.for_model("qwen2", **shape, pad_token_id=0)
        self.flash = self.way == PACKED and self.device.type == "cuda" and has_flash()
        attention = "flash_attention_2" if self.flash else "sdpa"
        with self.device:  # random values are made where they are used: minutes less
            trunk = AutoModel.from_config(config, dtype=torch.float32, attn_implementation=attention)
        path: Any = "packed" if self.way == OURS or (self.way == PACKED and not self.flash) else "padded"
        self.model = RewardModel(trunk, path=path).to(self.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=self.device.type == "cuda")
        linear = [m.weight.numel() for m in trunk.modules() if isinstance(m, torch.nn.Linear)]
        self.flop_per_token = 6 * sum(linear)

    def run(self) -> Result:
        import torch

        from rewardsmith.model.speed import matmul_peak, peak_memory

        seconds, tokens, computed = [], 0, 0
        peak = matmul_peak(self.device, torch.bfloat16)
        for step, pairs in enumerate(pairs_of(self.task)):
            if step == WARM_UP and self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            started = self.now()
            useful, through = self.step(pairs)
            if step >= WARM_UP:
                seconds.append(self.now() - started)
                tokens, computed = tokens + useful, computed + through
        if self.task["profile"] and self.way == OURS:
            self.profile(pairs, self.task["profile"])
        return {
            "seconds": seconds,
            "peak_mib": peak_memory(self.device) / 2**20,
            "tokens": tokens,
            "computed": computed,
            "mfu": tokens * self.flop_per_token / sum(seconds) / peak,
            "peak_tflops": peak / 1e12,
            "attention": "flash-attn" if self.flash else "sdpa" if self.way == PADDED else "flex or gathered",
        }

    def profile(self, pairs: list[list[Row]], file: str) -> None:
        """Which kernels a step spends its time in, the longest first."""
        import torch

        kinds = [torch.profiler.ProfilerActivity.CPU]
        kinds += [torch.profiler.ProfilerActivity.CUDA] * (self.device.type == "cuda")
        with torch.profiler.profile(activities=kinds) as found:
            self.step(pairs)
            self.now()
        key = f"self_{self.device.type}_time_total"
        Path(file).write_text(found.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=90))

    def now(self) -> float:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self, pairs: list[list[Row]]) -> tuple[int, int]:
        """One optimiser step; (tokens that the way has to compute, tokens that went through the model)."""
        import torch

        from rewardsmith import losses

        useful = through = 0
        for part in self.parts(pairs):
            with torch.autocast(self.device.type, torch.bfloat16):
                rewards_NK, n_useful, n_through = self.rewards(part)
            loss = losses.bradley_terry(rewards_NK[:, 0], rewards_NK[:, 1]).sum() / len(pairs)
            loss.backward()
            useful, through = useful + n_useful, through + n_through
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return useful, through

    def parts(self, pairs: list[list[Row]]) -> list[list[list[Row]]]:
        """The pairs of a step in parts, each of at most `tokens_per_batch` tokens as this way computes them."""
        from rewardsmith.text.pack import plan_batches

        budget = self.task["tokens_per_batch"]
        if self.way == OURS:
            return [[pairs[i] for i in part] for part in plan_batches(pairs, budget)]
        found: list[list[list[Row]]] = [[]]
        for pair in sorted(pairs, key=lambda pair: -max(map(len, pair))):  # similar lengths together
            longest = max(max(map(len, p)) for p in [*found[-1], pair])
            rows = 2 * (len(found[-1]) + 1)
            tokens = rows * longest if self.way == PADDED else sum(len(r) for p in [*found[-1], pair] for r in p)
            if found[-1] and tokens > budget:
                found.append([])
            found[-1].append(pair)
        return found

    def rewards(self, pairs: list[list[Row]]) -> tuple[Any, int, int]:
        """(rewards [N, 2], useful tokens, tokens computed) of N pairs."""
        import torch

        from rewardsmith.text.pack import pack_rows

        rows = [row for pair in pairs for row in pair]
        n_row_tokens = sum(map(len, rows))
        if self.way == PADDED:
            longest = max(map(len, rows))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.device)
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.device)
            return self.model(ids, mask).view(-1, 2), n_row_tokens, ids.numel()
        if self.flash:
            ids = torch.tensor([[token for row in rows for token in row]], device=self.device)
            places = torch.cat([torch.arange(len(row)) for row in rows])[None].to(self.device)
            hidden = self.model.trunk(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state[0]
            last = torch.tensor([len(row) for row in rows]).cumsum(0).to(self.device) - 1
            rewards = self.model.value_head(hidden[last].float()).view(-1, 2)
            return rewards, n_row_tokens, n_row_tokens
        batch = pack_rows(pairs, share=self.way == OURS).to(self.device)
        return self.model(batch=batch).view(-1, 2), batch.n_tokens, batch.n_tokens


def has_flash() -> bool:
    import importlib.util

    return importlib.util.find_spec("flash_attn") is not None


def run(options: argparse.Namespace) -> None:
    shared: Task = vars(options)
    device = in_child(options, {**shared, "way": "probe"})["device"]
    if device is None:
        sys.exit("no CUDA device here: this benchmark measures a GPU (--device cpu --small shows that it runs)")
    results = in_turns(options, {way: {**shared, "way": way} for way in (PADDED, PACKED, OURS)})
    rows = []
    for way, runs in results.items():
        rates = [options.pairs * len(r["seconds"]) / sum(r["seconds"]) for r in runs]
        tokens = runs[0]["computed"] / (len(runs[0]["seconds"]))
        memory = statistics.median(r["peak_mib"] for r in runs)
        mfu = spread([r["mfu"] for r in runs])
        ours = spread(ratios(results, OURS, way))
        rows.append([way, runs[0]["attention"], spread(rates), ours, f"{tokens:.0f}", f"{memory:.0f}", mfu])
    columns = ("way", "attention", "pairs/s", "ours is x times as fast", "tokens computed a step", "peak MiB", "MFU")
    targets = [
        target(f"speed against {PADDED}", 3.0, statistics.median(ratios(results, OURS, PADDED))),
        target(f"speed against {PACKED}", 1.3, statistics.median(ratios(results, OURS, PACKED))),
        target("MFU of ours", 0.45, statistics.median(r["mfu"] for r in results[OURS])),
    ]
    print(f"{device}\n")
    report(options, [table(columns, rows)], targets, {"results": results, "device": device})


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__, repeats=2, data=False)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--steps", type=int, default=6, help="measured optimiser steps, after two of warm-up")
    parser.add_argument("--pairs", type=int, default=32, help="in an optimiser step")
    parser.add_argument("--prompt-length", type=int, default=400, help="middle length of a prompt in tokens")
    parser.add_argument("--response-length", type=int, default=250, help="middle length of an answer in tokens")
    parser.add_argument("--tokens-per-batch", type=int, default=8192, help="in one forward pass, of every way")
    parser.add_argument("--profile", default=None, help="write the kernels of one step of ours to this file")
    return parser


if __name__ == "__main__":
    start(parser(), run, measure)
