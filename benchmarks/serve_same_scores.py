"""The same rewards by every way to score a model: one table of the largest differences to offline scoring.

    python benchmarks/serve_same_scores.py RM --data DIR [--prompts 12] [--without ray,onnx] [--json OUT]

DIR holds alpaca_eval/candidates_vs_gpt4_turbo.parquet: --responses systems' answers to --prompts prompts. All in
float32 on this machine:

    offline             `load_scorer(RM).score(groups)`, the reference
    served              `rewardsmith serve RM`, one request after the other
    served under load   the same requests three times by 12 clients at once, beside others that ask for something else
    Ray                 `score --engine ray`, two workers on a cluster of this machine
    transformers        AutoModelForSequenceClassification of the exported folder (float32), rows one by one
    ONNX                the exported ONNX file in onnxruntime

A way that cannot run is listed with its reason, and is not counted as passed. Exits with 1 where a reward differs by
more than 1e-3 (of the rewards' spread, where that is above 1), and with 2 where a way did not run.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.bulk import RayOptions, import_ray, score_bulk
from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import RewardsmithError
from rewardsmith.model.artifact import export_reward_model
from rewardsmith.model.onnx_file import export_onnx
from rewardsmith.scorers import load_scorer
from rewardsmith.scoring import read_rewards
from serve_common import TOLERANCE, Client, Server, body_of, offline, real_groups
from speed_common import table

CLIENTS, TIMES = 12, 3
Rewards = list[np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--responses", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=256, help="longest row taken")
    parser.add_argument("--without", default="", help="ways to leave out, by the first word of their name")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    scorer = offline(options.model)
    groups = real_groups(
        options.data, scorer, prompts=options.prompts, responses=options.responses, most_tokens=options.max_tokens
    )
    wanted = [scores.rewards for scores in scorer.score(groups)]
    del scorer
    spread = float(np.concatenate(wanted).std())
    allowed = TOLERANCE * max(1.0, spread)
    ways: dict[str, Callable[[], list[Rewards]]] = {
        "served": partial(served, options.model, groups),
        "served under load": partial(under_load, options.model, groups),
        "ray (score --engine ray)": partial(by_ray, options.model, groups),
        "transformers, exported": partial(by_transformers, options.model, groups),
        "onnx, exported": partial(by_onnx, options.model, groups),
    }
    left_out = set(filter(None, options.without.split(",")))
    rows, results = [], {}
    for name, way in ways.items():
        if name.split()[0].rstrip(",") in left_out:
            results[name] = {"not run": "left out by --without"}
        else:
            results[name] = tried(way, wanted)
        result = results[name]
        difference = result.get("largest difference")
        verdict = "not run" if difference is None else "same" if difference <= allowed else "DIFFERENT"
        rows.append([name, "" if difference is None else f"{difference:.1e}", verdict, result.get("not run", "")])
    n = sum(map(len, wanted))
    print(f"{n} answers to {len(groups)} prompts, rewards spread by {spread:.2f}; allowed: {allowed:.1e}")
    print(table(["way", "largest difference to offline", "verdict", ""], rows))
    if options.json:
        report = {"answers": n, "spread": spread, "allowed": allowed, "ways": results}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    verdicts = [row[2] for row in rows]
    raise SystemExit(1 if "DIFFERENT" in verdicts else 2 if "not run" in verdicts else 0)


def tried(way: Callable[[], list[Rewards]], wanted: Rewards) -> dict[str, Any]:
    """The largest difference over all the times that a way scored the groups, or why it did not."""
    try:
        found = way()
    except (RewardsmithError, ImportError) as error:
        return {"not run": str(error).splitlines()[0][:160]}
    return {"largest difference": max(float(np.abs(np.concatenate(r) - np.concatenate(wanted)).max()) for r in found)}


def served(model: str, groups: Sequence[Group]) -> list[Rewards]:
    server = Server(model)
    client = Client(server.port)
    found = [np.array(answer(client, body_of(group))) for group in groups]
    server.stop()
    return [found]


def under_load(model: str, groups: Sequence[Group]) -> list[Rewards]:
    """Every client asks for all groups in an order of its own; every second request is something else."""
    server = Server(model)
    bodies = [body_of(group) for group in groups]
    found: list[Rewards] = []
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        rng, client = random.Random(seed), Client(server.port)
        for _ in range(TIMES):
            rewards: Rewards = [np.empty(0)] * len(bodies)
            for n in rng.sample(range(len(bodies)), len(bodies)):
                rewards[n] = np.array(answer(client, bodies[n]))
                words = " ".join(rng.choice(("rain", "tea", "seven", "why")) for _ in range(rng.randint(1, 60)))
                other = Group(prompt=groups[n].prompt, responses=((Message("assistant", words),),))
                answer(client, body_of(other))
            found.append(rewards)

    def guarded(seed: int) -> None:
        try:
            work(seed)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.stop()
    if failed:
        raise SystemExit(f"a client failed under load: {failed[0]!r}")
    return found


def answer(client: Client, body: bytes) -> list[float]:
    status, rewards = client.rewards(body)
    if status != 200:
        raise SystemExit(f"the server answers {status}")
    return rewards


def by_ray(model: str, groups: Sequence[Group]) -> list[Rewards]:
    import_ray()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "rows.jsonl"
        load = partial(load_scorer, str(Path(model).resolve()), device="cpu")
        score_bulk(load, groups, output, chunk=max(1, len(groups) // 4), options=RayOptions(ray_workers=2))
        return [read_rewards(output)]


def by_transformers(model: str, groups: Sequence[Group]) -> list[Rewards]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "rm")
        export_reward_model(model, place, dtype="float32")
        stock = AutoModelForSequenceClassification.from_pretrained(place).eval()
        tokenizer = AutoTokenizer.from_pretrained(place)

    def reward(group: Group, response: Sequence[Message]) -> float:
        turns = [message.to_dict() for message in (*group.prompt, *response)]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        with torch.inference_mode():
            return float(stock(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0, 0])

    return [[np.array([reward(group, response) for response in group.responses]) for group in groups]]


def by_onnx(model: str, groups: Sequence[Group]) -> list[Rewards]:
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "rm")
        export_onnx(model, place)
        return [[scores.rewards for scores in load_scorer(place).score(groups)]]


if __name__ == "__main__":
    main()
