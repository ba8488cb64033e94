"""Scoring speed of one artifact in every tool: 16 responses a prompt, and one.

    make peers
    .venv/peers/bin/python benchmarks/score_speed.py --data DIR [--prompts 4] [--single-prompts 48] [--json OUT]

DIR holds alpaca_eval/candidates_vs_gpt4_turbo.parquet. An untrained reward model of SmolLM2-135M-Instruct is saved with
rewardsmith, and each tool loads that folder. The first 16 systems' answers to the first --prompts prompts, and the
first system's to the first --single-prompts, of those prompts whose answers all fit into --max-length tokens, so that
no tool cuts anything. In turns, each in a process of its own, at --batch-sizes rows (rewardbench at its default, 8):

    transformers   AutoModelForSequenceClassification on padded batches of rows sorted by length, the usual best effort
    CrossEncoder   sentence-transformers' `predict`, which sorts too
    rewardbench    batches in the order of the data through its pipeline class, as its own loop does
    ours           `load_scorer(folder).score(groups)`

Measured: responses a second from messages to rewards (rendering and tokenising included, loading left out, after one
short prompt as warm-up); peak memory from the loaded model on; the largest difference of any reward to ours.

Targets: at least 3 times the responses a second of the best peer with 16 responses, 1.3 times with one; all rewards
within 1e-3 of ours in float32. The first line of a case says what sharing alone can give: tokens of all rows over
distinct tokens.

The JSON file: {"settings", "machine", "targets", "cases": {case: {"responses", "row_tokens", "distinct_tokens",
"results": {way: [{"seconds", "cpu_seconds", "peak_mib", "rewards", "threads"}]}}}}.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peer_parity import import_rewardbench
from quality_vs_trl import Messages
from speed_common import (
    Result,
    Task,
    alpaca_answers,
    compute_in,
    dialogue,
    forget_peak,
    in_child,
    in_turns,
    make_start,
    new_parser,
    peak_mib,
    read_rows,
    rendered,
    report,
    spread,
    start,
    table,
    target,
    tokenizer_of,
    write_rows,
)

OURS = "ours"
RESPONSES = 16
REWARDBENCH_BATCH = 8
TOLERANCE = 1e-3
Score = Callable[[list[dict[str, Any]]], list[float]]


# The ways: each loads the folder and gives a function from rows {prompt, responses} to rewards ------


def dialogues_of(rows: Sequence[dict[str, Any]]) -> list[Messages]:
    return [dialogue(row["prompt"], answer) for row in rows for answer in row["responses"]]


def load_ours(task: Task) -> Score:
    from rewardsmith import Group, Message, load_scorer

    scorer = load_scorer(task["start"], device="cpu", precision=task["precision"])

    def score(rows: list[dict[str, Any]]) -> list[float]:
        groups = [
            Group(
                prompt=(Message("user", row["prompt"]),),
                responses=tuple((Message("assistant", answer),) for answer in row["responses"]),
            )
            for row in rows
        ]
        return [float(reward) for scores in scorer.score(groups) for reward in scores.rewards]

    return score


def load_transformers(task: Task) -> Score:
    import torch
    from transformers import AutoModelForSequenceClassification

    tokenizer = tokenizer_of(task)
    model = AutoModelForSequenceClassification.from_pretrained(task["start"], dtype=torch.float32).eval()
    at_once = task["rows_at_once"]

    def score(rows: list[dict[str, Any]]) -> list[float]:
        ids = rendered(tokenizer, dialogues_of(rows))
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        rewards = [0.0] * len(ids)
        for first in range(0, len(order), at_once):
            members = order[first : first + at_once]
            batch = tokenizer.pad({"input_ids": [ids[i] for i in members]}, return_tensors="pt", padding_side="right")
            for i, reward in zip(members, model(**batch, use_cache=False).logits[:, 0].tolist(), strict=True):
                rewards[i] = reward
        return rewards

    return score


def load_cross_encoder(task: Task) -> Score:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(task["start"], device="cpu")

    def score(rows: list[dict[str, Any]]) -> list[float]:
        rewards = model.predict(dialogues_of(rows), batch_size=task["rows_at_once"], show_progress_bar=False)
        return [float(reward) for reward in rewards]

    return score


def load_rewardbench(task: Task) -> Score:
    """Its pipeline moves every batch to "cuda"; that one call is made to do nothing."""
    import torch
    from transformers import AutoModelForSequenceClassification, BatchEncoding

    pipeline_class, _ = import_rewardbench()
    setattr(BatchEncoding, "to", lambda self, device: self)  # noqa: B010
    tokenizer = tokenizer_of(task)
    tokenizer.padding_side = "left"
    model = AutoModelForSequenceClassification.from_pretrained(task["start"], dtype=torch.float32)
    pipeline = pipeline_class("text-classification", model=model, tokenizer=tokenizer)
    options = {"truncation": True, "padding": True, "max_length": task["max_length"], "return_token_type_ids": False}
    at_once = task["rows_at_once"]

    def score(rows: list[dict[str, Any]]) -> list[float]:
        texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in dialogues_of(rows)]
        parts = [texts[i : i + at_once] for i in range(0, len(texts), at_once)]
        return [reward for part in parts for reward in pipeline(part, **options).float()[:, 0].tolist()]

    return score


LOAD: dict[str, Callable[[Task], Score]] = {
    OURS: load_ours,
    "transformers": load_transformers,
    "CrossEncoder": load_cross_encoder,
    "rewardbench": load_rewardbench,
}


# The benchmark -------------------------------------------------------------------------------------


def prepare(task: Task) -> Result:
    """Write the artifact and each case's rows; {case: counts of responses and tokens}."""
    from rewardsmith.text.pack import pack_rows

    make_start(task)
    tokenizer = tokenizer_of(task)
    cases = {}
    for case, (k, wanted) in task["cases"].items():
        rows: list[dict[str, Any]] = []
        ids_GK = []
        for prompt, answers in alpaca_answers(task["data"]):
            responses = [answer for answer, _ in answers[:k]]
            ids_K = rendered(tokenizer, [dialogue(prompt, answer) for answer in responses])
            if max(map(len, ids_K)) <= task["max_length"] and len(rows) < wanted:
                rows.append({"prompt": prompt, "responses": responses})
                ids_GK.append(ids_K)
        if len(rows) < wanted:
            sys.exit(f"{case}: only {len(rows)} of {wanted} prompts fit into {task['max_length']} tokens")
        write_rows(task["files"][case], rows)
        batch = pack_rows(ids_GK)
        cases[case] = {
            "responses": k * wanted,
            "row_tokens": sum(len(ids) for ids_K in ids_GK for ids in ids_K),
            "distinct_tokens": batch.n_tokens,
        }
    return cases


def measure(task: Task) -> Result:
    if task["way"] == "prepare":
        return prepare(task)
    import torch

    rows = read_rows(task["rows"])
    score = LOAD[task["way"]](task)
    with compute_in(task["precision"]):
        score([{"prompt": "Hello!", "responses": ["Hi, how can I help?"]}])
        forget_peak()
        started, cpu_started = time.perf_counter(), time.process_time()
        rewards = score(rows)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    figures = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak_mib()}
    return {**figures, "rewards": rewards, "threads": torch.get_num_threads()}


def ways_of(options: argparse.Namespace) -> dict[str, Task]:
    """Name of the way -> what its task adds."""
    ways: dict[str, Task] = {}
    for tool in options.tools:
        sizes = [REWARDBENCH_BATCH] if tool == "rewardbench" else options.batch_sizes
        ways |= {f"{tool}, {size} at once": {"way": tool, "rows_at_once": size} for size in sizes}
    return {**ways, OURS: {"way": OURS}}


def summarise(case: str, wanted: float, found: Result) -> tuple[str, list[Result]]:
    """A case's table and targets."""
    n, results = found["responses"], found["results"]
    seconds = {way: statistics.median(run["seconds"] for run in runs) for way, runs in results.items()}
    reference = results[OURS][0]["rewards"]
    rows, largest = [], 0.0
    for way, runs in results.items():
        apart = max(abs(a - b) for run in runs for a, b in zip(run["rewards"], reference, strict=True))
        largest = max(largest, apart)
        turns = list(zip(results[OURS], runs, strict=True))
        ratios = [spread([theirs[key] / ours[key] for ours, theirs in turns]) for key in ("seconds", "cpu_seconds")]
        memory = statistics.median(run["peak_mib"] for run in runs)
        speed = spread([n / run["seconds"] for run in runs])
        rows.append([way, speed, *ratios, f"{memory:.0f}", f"{apart:.1e}"])
    columns = ("way", "responses/s", "ours is x times as fast", "by CPU time", "peak MiB", "largest difference to ours")
    sharing = found["row_tokens"] / found["distinct_tokens"]
    head = f"{case}: {n} responses, {found['row_tokens']} tokens, {sharing:.2f} times the distinct ones\n\n"
    targets = [target(f"{case}: largest difference of a reward", TOLERANCE, largest, at_most=True)]
    if len(seconds) > 1:
        best = min((way for way in seconds if way != OURS), key=lambda way: seconds[way])
        targets.insert(0, target(f"{case}: speed against {best}", wanted, seconds[best] / seconds[OURS]))
    return head + table(columns, rows), targets


def run(options: argparse.Namespace) -> None:
    names = {f"{RESPONSES} responses": 3.0, "1 response": 1.3}
    with tempfile.TemporaryDirectory() as folder:
        shared: Task = {
            **vars(options),
            "start": str(Path(folder) / "start"),
            "cases": dict(zip(names, ((RESPONSES, options.prompts), (1, options.single_prompts)))),
            "files": {case: str(Path(folder) / f"{case}.jsonl") for case in names},
        }
        cases = in_child(options, {**shared, "way": "prepare"})
        for case, found in cases.items():
            tasks = {way: {**shared, **more, "rows": shared["files"][case]} for way, more in ways_of(options).items()}
            found["results"] = in_turns(options, tasks)
    summaries = [summarise(case, wanted, cases[case]) for case, wanted in names.items()]
    targets = [t for _, found in summaries for t in found]
    report(options, [text for text, _ in summaries], targets, {"cases": cases})


def parser() -> argparse.ArgumentParser:
    peers = [tool for tool in LOAD if tool != OURS]
    parser = new_parser(__doc__, repeats=3, max_length=1024)
    parser.add_argument("--prompts", type=int, default=4, help="prompts with 16 responses")
    parser.add_argument("--single-prompts", type=int, default=48, help="prompts with one response")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 16], help="rows at once in the peers")
    parser.add_argument("--tools", nargs="*", choices=peers, default=peers, help="peers to compare with")
    return parser


if __name__ == "__main__":
    start(parser(), run, measure)
