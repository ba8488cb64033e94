"""Training speed on groups of K responses: TRL's RewardTrainer on pairs of them, Rewardsmith on the groups.

    make peers
    .venv/peers/bin/python benchmarks/train_groups.py --data DIR [--steps 3] [--prompts-per-step 2] [--json OUT]
    .venv/peers/bin/python benchmarks/train_groups.py --worst-case [--pairs 4] [--length 256] [--json OUT]

DIR holds alpaca_eval/candidates_vs_gpt4_turbo.parquet. Of each prompt, K = 8 of the 42 answers whose tokens fit into
--max-length, evenly spaced in the order of their gold values, which all differ: K (K - 1) / 2 = 28 pairs, none of them
a tie. SmolLM2-135M-Instruct, all weights, settings as in train_speed.py. Four ways take turns:

    trl, all pairs       28 pairs a prompt, 56 rows: the same loss as ours
    trl, a chain         7 pairs of neighbours in the order, 14 rows
    trl, disjoint pairs  4 pairs, 8 rows: each answer once
    ours                 the group: 8 rows, which share the prompt

"The best TRL can do without encoding an answer many times" is the chain: K - 1 is the fewest pairs that still state the
whole order (with fewer, two answers exist that nothing compares, even indirectly), and no K - 1 pairs have fewer than
2 K - 2 rows. It costs 21 of the 28 comparisons. The disjoint pairs say nothing across pairs, so they are no substitute;
they bound from below what any choice of pairs costs. TRL runs --pairs-at-once pairs in a forward pass (default 1: what
train_speed.py finds to be its best) and accumulates the rest.

Measured as in train_speed.py: prompts a second and peak memory. Target: at least 12 times the prompts a second of TRL
on all pairs.

--worst-case: nothing to share. Pairs of random tokens of one length, so that TRL pads nothing; no two rows begin with
the same token. `RewardModel` on `pack_rows` against transformers' padded AutoModelForSequenceClassification (TRL's
forward, without its Trainer's overhead): forward, Bradley-Terry loss, backward, AdamW, the same rows in one pass each.
Target: never slower (at least 1 time as fast).

The JSON file is that of train_speed.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from speed_common import (
    TRAINING_COLUMNS,
    Clock,
    Result,
    Task,
    alpaca_answers,
    dialogue,
    in_child,
    in_turns,
    make_start,
    new_parser,
    our_order,
    ratios,
    read_rows,
    rendered,
    report,
    start,
    table,
    target,
    tokenizer_of,
    train_ours,
    train_with_trl,
    training_result,
    training_rows,
    write_rows,
)

ALL_PAIRS, CHAIN, DISJOINT, OURS = "trl, all pairs", "trl, a chain", "trl, disjoint pairs", "ours"


# Groups --------------------------------------------------------------------------------------------


def groups_of(task: Task) -> list[Result]:
    """Rows in our own shape: prompt, K responses, best first, and their gold values as ratings."""
    tokenizer = tokenizer_of(task)
    k, wanted = task["k"], task["prompts"]
    groups: list[Result] = []
    for prompt, answers in alpaca_answers(task["data"]):
        lengths = map(len, rendered(tokenizer, [dialogue(prompt, answer) for answer, _ in answers]))
        fitting = [answer for answer, n in zip(answers, lengths) if n <= task["max_length"]]
        by_gold = sorted({gold: (answer, gold) for answer, gold in fitting}.values(), key=lambda a: -a[1])
        if len(by_gold) >= k:
            spaced = [by_gold[round(i * (len(by_gold) - 1) / (k - 1))] for i in range(k)]
            groups.append({"prompt": prompt, "responses": [a for a, _ in spaced], "ratings": [g for _, g in spaced]})
        if len(groups) == wanted:
            return groups
    sys.exit(f"only {len(groups)} of {wanted} prompts have {k} answers of {task['max_length']} tokens")


def pairs_of(way: str, k: int) -> list[tuple[int, int]]:
    """Which responses (best first) a way compares."""
    if way == ALL_PAIRS:
        return list(combinations(range(k), 2))
    return list(pairwise(range(k))) if way == CHAIN else [(i, i + 1) for i in range(0, k - 1, 2)]


def pair_rows(group: Result, pairs: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """TRL's rows of a group."""
    dialogues = [dialogue(group["prompt"], answer) for answer in group["responses"]]
    return [{"chosen": dialogues[i], "rejected": dialogues[j]} for i, j in pairs]


def measure_groups(task: Task) -> Result:
    if task["way"] == OURS:
        return train_ours(task)
    groups = read_rows(task["rows"])
    pairs = pairs_of(task["way"], task["k"])
    rows = [row for i in our_order(task["seed"], len(groups)) for row in pair_rows(groups[i], pairs)]
    return train_with_trl(task, rows, len(pairs) * task["batch_size"])


# The worst case ------------------------------------------------------------------------------------


def random_rows(task: Task, vocabulary: int) -> Any:
    """[2 pairs, length] ids, chosen rows first; no two rows begin alike."""
    import torch

    generator = torch.Generator().manual_seed(task["seed"])
    ids_BL = torch.randint(100, vocabulary, (2 * task["pairs"], task["length"]), generator=generator)
    ids_BL[:, 0] = 100 + torch.randperm(vocabulary - 100, generator=generator)[: len(ids_BL)]
    return ids_BL


def measure_worst_case(task: Task) -> Result:
    """Steps over the same rows, which start where the other side starts."""
    import torch
    from torch.nn.functional import softplus
    from transformers import AutoModelForSequenceClassification

    from rewardsmith import load_reward_model
    from rewardsmith.text.pack import pack_rows

    ours = task["way"] == OURS
    model: Any
    if ours:
        model = load_reward_model(task["start"])[0]
        ids_BL = random_rows(task, model.trunk.config.vocab_size)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(task["start"], dtype=torch.float32)
        ids_BL = random_rows(task, model.config.vocab_size)
    mask_BL = torch.ones_like(ids_BL)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=task["learning_rate"], weight_decay=0.0, fused=True)
    losses = []
    with Clock() as clock:
        for _ in range(task["steps"] + 1):
            with torch.autocast("cpu", torch.bfloat16, enabled=task["precision"] == "bfloat16"):
                if ours:
                    rewards_B = model(batch=pack_rows([[row] for row in ids_BL.numpy()]))
                else:
                    rewards_B = model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).logits[:, 0]
            chosen_P, rejected_P = rewards_B.float().chunk(2)
            loss = softplus(rejected_P - chosen_P).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))
    return training_result(clock, losses, ids_BL.numel() * len(losses))


# The benchmark -------------------------------------------------------------------------------------


def measure(task: Task) -> Result:
    if task["way"] != "prepare":
        return measure_worst_case(task) if task["worst_case"] else measure_groups(task)
    make_start(task)
    if not task["worst_case"]:
        write_rows(task["rows"], groups_of(task))
    return {}


def run(options: argparse.Namespace) -> None:
    if not options.worst_case and options.data is None:
        sys.exit("give --data DIR, or --worst-case")
    ways = ("transformers, padded", OURS) if options.worst_case else tuple(options.ways)
    with tempfile.TemporaryDirectory() as folder:
        shared: Task = {
            **vars(options),
            "start": str(Path(folder) / "start"),
            "rows": str(Path(folder) / "groups.jsonl"),
            "prompts": (options.steps + 1) * options.prompts_per_step,
            "batch_size": options.prompts_per_step,
        }
        in_child(options, {**shared, "way": "prepare"})
        results = in_turns(options, {way: {**shared, "way": way} for way in ways})
    theirs = "transformers, padded" if options.worst_case else ALL_PAIRS
    targets = []
    if {OURS, theirs} <= results.keys():
        wanted = 1.0 if options.worst_case else 12.0
        targets = [target(f"speed against {theirs}", wanted, statistics.median(ratios(results, OURS, theirs)))]
    unit, of_a_step = ("pairs/s", options.pairs) if options.worst_case else ("prompts/s", options.prompts_per_step)
    rows = training_rows(results, OURS, of_a_step)
    report(options, [table(("way", unit, *TRAINING_COLUMNS), rows)], targets, {"results": results})


def parser() -> argparse.ArgumentParser:
    ways = (ALL_PAIRS, CHAIN, DISJOINT, OURS)
    parser = new_parser(__doc__, repeats=2, data=False)
    parser.add_argument("--data", type=Path, help="folder of alpaca_eval")
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways, help="which to measure; ours is needed")
    parser.add_argument("--steps", type=int, default=3, help="measured optimiser steps, after one of warm-up")
    parser.add_argument("--prompts-per-step", type=int, default=2, help="prompts in an optimiser step")
    parser.add_argument("--k", type=int, default=8, help="responses of a prompt")
    parser.add_argument("--pairs-at-once", type=int, default=1, help="pairs in a forward pass of TRL")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--worst-case", action="store_true", help="rows of one length that share nothing")
    parser.add_argument("--pairs", type=int, default=4, help="of the worst case, in a step")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row in the worst case")
    return parser


if __name__ == "__main__":
    start(parser(), run, measure)
