"""A refresh loop for real, small: a language model answers, a gold scorer labels, the gate passes or blocks.

    python benchmarks/refresh_loop.py GOLD --policy POLICY --data DIR --work FOLDER [--rounds 2]

GOLD is a reward model's folder that labels; POLICY samples its own answers to prompts of DIR's preference files anew
in every round, and is the trunk of the reward models too. The policy of a round is that sample under pressure from the
model that is released: what is printed is its KL, what it gets of the released reward and of gold, and the gate's
sentences.

Killed, it goes on when it is called again; done, it prints what it came to.
At the end it is called once more, to show that nothing is done twice.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SETTINGS = """
[train]
train_layers = {layers}
batch_size = 8
learning_rate = {rate}
max_length = 512
epochs = {epochs}
precision = "{precision}"

[gate]
margin = {margin}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gold", type=Path)
    parser.add_argument("--policy", required=True, help="hub name, folder or gguf:PATH")
    parser.add_argument("--trunk", help="of the reward models; default: the policy")
    parser.add_argument("--data", type=Path, required=True, help="preference files whose prompts are asked")
    parser.add_argument("--work", type=Path, required=True, help="folder for the project")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--samples", type=int, default=4, help="answers sampled to each prompt in a round")
    parser.add_argument("--answers", type=int, default=4, help="of these, drawn by the round's policy")
    parser.add_argument("--labels", type=int, default=80)
    parser.add_argument("--tests", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, default=20)
    parser.add_argument("--pressure", type=float, default=2.0)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--margin", type=float, default=0.15)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    project = options.work / "project"
    prompts = write_prompts(options.data, options.work / "prompts.jsonl", options.prompts)
    if not (project / "refresh.toml").exists():
        verb("init", project)
        with (project / "refresh.toml").open("a", encoding="utf-8") as settings:
            settings.write(SETTINGS.format(**{key: value for key, value in vars(options).items() if value is not None}))
    run = [
        "run", project, "--policy", options.policy, "--prompts", prompts, "--gold", options.gold,
        "--model", options.trunk or options.policy, "--rounds", options.rounds, "--n", options.samples,
        "--answers", options.answers, "--labels", options.labels, "--tests", options.tests,
        "--max-tokens", options.max_tokens, "--pressure", options.pressure, "--precision", options.precision,
    ]  # fmt: skip
    found, seconds = verb(*run)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    for row in found["rounds"]:
        print(
            f"round {row['round']}: {row['answers']} answers of {row['policy']}, KL {row['kl']:.2f}, "
            f"{row['labelled']} labels"
        )
        print(f"  gold {interval(row['gold'])}, released reward {interval(row['reward'])}")
        print(f"  {row['model']}: {row['verdict']}, shares {row['shares']}, release {row['release']}")
        for check in row["checks"]:
            print(f"    {'-' if check['ok'] is None else 'pass' if check['ok'] else 'BLOCK'}  {check['sentence']}")
    print(f"released: {found['release']}; {seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU")
    again, seconds = verb(*run)
    print(f"again: {'the same' if again == found else 'NOT THE SAME'} in {seconds:.0f} s")
    status, _ = verb("status", project)
    print(f"status: {status['labelled']} pairs labelled, next: {status['next']}")
    raise SystemExit(again != found)


def write_prompts(data: Path, file: Path, n: int) -> Path:
    """The first `n` distinct prompts of one turn in the files, short ones, as a file of prompts."""
    from rewardsmith.data.readers import read_groups
    from rewardsmith.data.schema import text_of

    if file.exists():
        return file
    found: dict[str, str] = {}
    for path in sorted(data.rglob("*.jsonl*")):
        for group in read_groups(str(path)):
            text = text_of(group.prompt)
            if len(group.prompt) == 1 and 10 < len(text) < 200:
                found.setdefault(group.prompt_id, text)
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"prompt": text}) + "\n" for text in list(found.values())[:n]]
    file.write_text("".join(rows), encoding="utf-8")
    return file


def verb(*words: Any) -> tuple[dict[str, Any], float]:
    """(what `rewardsmith refresh ...` printed, its seconds)."""
    started = time.monotonic()
    command = [sys.executable, "-m", "rewardsmith.cli", "refresh", *map(str, words), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout), time.monotonic() - started


def interval(found: dict[str, float | None] | None) -> str:
    if found is None or found["value"] is None:
        return "unknown"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


if __name__ == "__main__":
    main()
