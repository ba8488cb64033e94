"""How much of `evaluate` is not the model: reading, hashing, tokenising, packing, the cache, statistics.

    python benchmarks/evaluate_overhead.py --model RM --data FOLDER [--rows N] [--model-rows N] [--json OUT]

Writes N pairs (default 10,000) made of the training pairs of hh_harmless with at most --characters of text: every pair
comes again and again, with a number of its own in front of its last question, so that no two have a text in common and
nothing is found in a cache. Then runs `rewardsmith evaluate RM FILE --json` in a process of its own with an empty cache
and a clock around its parts, and once more, where every reward is in the cache. `model` is the forward pass alone; its
loading, and Python's start with the imports, are not the model's time. Short rows are the hard case: the model has
little to do for each.

With --model-rows the forward pass is computed for that many pairs only, and the model's time is their time by token;
every other part is measured whole. The rewards of the other pairs are then random numbers. The table says so.

Target: under 5% outside the model. The JSON file: {"settings", "machine", "targets", "seconds": {part}, "again":
{part}, "tokens", "tokens_computed", "extrapolated"}.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from speed_common import report, table, target

TARGET = 0.05
WORKER = "_worker"
BYTES_PER_TOKEN = 10  # of a file that holds every prompt twice, about: the table says what it came to
MARK = "\n\nHuman:"
PARTS = {
    "model": "forward pass",
    "start": "Python, imports, the rest of the command",
    "load": "loading the model, its self-check",
    "read": "reading the file",
    "hash": "hash of the model's files",
    "cache": "the score cache",
    "tokenise": "rendering and tokenising",
    "pack": "packing into batches",
    "statistics": "statistics",
    "print": "writing JSON",
}


# Data ----------------------------------------------------------------------------------------------


def write_pairs(data: Path, output: Path, rows: int, characters: int) -> int:
    """`rows` distinct pairs from those of at most `characters`; returns how many different ones there are."""
    with gzip.open(data / "hh_harmless" / "train.jsonl.gz", "rt", encoding="utf-8") as handle:
        pairs = [json.loads(line) for line in handle]
    pairs = [
        p for p in pairs if max(len(p["chosen"]), len(p["rejected"])) <= characters and p["chosen"] != p["rejected"]
    ]
    if not pairs:
        sys.exit(f"no pair has at most {characters} characters")
    with output.open("w", encoding="utf-8") as handle:
        for i in range(rows):
            pair = pairs[i % len(pairs)]
            handle.write(json.dumps({side: numbered(pair[side], i) for side in ("chosen", "rejected")}) + "\n")
    return len(pairs)


def numbered(dialogue: str, i: int) -> str:
    """The dialogue with a number in front of the person's last turn, which both sides share."""
    before, _, after = dialogue.rpartition(MARK)
    return f"{before}{MARK} ({i}){after}"


# One measurement -----------------------------------------------------------------------------------


class Clock:
    """Seconds by part; a part that runs inside another one is not counted there."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside: list[str] = []
        self.since = time.perf_counter()

    def switch(self) -> None:
        now = time.perf_counter()
        if self.inside:
            self.seconds[self.inside[-1]] += now - self.since
        self.since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.switch()
        self.inside.append(name)
        try:
            yield
        finally:
            self.switch()
            self.inside.pop()

    def around(self, owner: Any, name: str, part: str) -> None:
        """Put the clock around a function or method, wherever it is looked up as `owner.name`."""
        function = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(part):
                return function(*arguments, **options)

        setattr(owner, name, timed)


def measure(model: str, file: str, model_tokens: int | None) -> dict[str, Any]:
    """The command in this process, part by part. Imports before this are of the clock alone."""
    clock = Clock()
    with clock.part("start"):
        import torch

        import rewardsmith.evaluation.evaluate as evaluate
        import rewardsmith.score_cache as score_cache
        import rewardsmith.text.pack as pack
        from rewardsmith import verbs_evaluation
        from rewardsmith.cli import main
        from rewardsmith.model.reward_model import RewardModel
        from rewardsmith.text.render import Renderer

        tokens = {"all": 0, "computed": 0}
        forward: Callable[..., torch.Tensor] = RewardModel.forward

        def counted(self: RewardModel, *arguments: Any, **options: Any) -> torch.Tensor:
            if "load" in clock.inside:
                return forward(self, *arguments, **options)
            batch = options["batch"]
            tokens["all"] += batch.n_tokens
            if model_tokens is not None and tokens["computed"] >= model_tokens:
                return torch.randn(len(batch.last_R))
            tokens["computed"] += batch.n_tokens
            with clock.part("model"):
                return forward(self, *arguments, **options)

        setattr(RewardModel, "forward", counted)  # noqa: B010
        clock.around(verbs_evaluation, "labelled_groups", "read")
        clock.around(score_cache, "load_scorer", "load")
        clock.around(score_cache, "model_hash", "hash")
        for method in ("_key", "_read", "_write"):
            clock.around(score_cache.CachedScorer, method, "cache")
        clock.around(Renderer, "encode", "tokenise")
        clock.around(pack, "pack", "pack")
        clock.around(pack, "plan_batches", "pack")
        for function in ("evaluate_rows", "most_wrong"):
            clock.around(evaluate, function, "statistics")
        clock.around(json, "dumps", "print")
        with redirect_stdout(StringIO()):
            code = main(["evaluate", model, file, "--json", "--quiet", "--device", "cpu"])
    assert code == 0
    return {"seconds": dict(clock.seconds), "tokens": tokens}


def in_child(options: argparse.Namespace, file: Path, cache: str, model_tokens: int | None) -> dict[str, Any]:
    """`measure` in a process of its own; what its start took beyond the clock goes to "start"."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    words = [sys.executable, sys.argv[0], WORKER, str(options.model), str(file), str(model_tokens or "")]
    began = time.perf_counter()
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    whole = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"the measurement failed:\n{done.stderr[-4000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    found["seconds"]["start"] += whole - sum(found["seconds"].values())
    return found


# The benchmark -------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.jsonl"
        n_different = write_pairs(options.data, file, options.rows, options.characters)
        limit = None
        if options.model_rows and options.model_rows < options.rows:
            limit = (
                options.model_rows * file.stat().st_size // options.rows // 10
            )  # about tokens: see the table for how many
        first = in_child(options, file, folder, limit)
        again = in_child(options, file, folder, limit)
    computed, tokens = first["tokens"]["computed"], first["tokens"]["all"]
    seconds = first["seconds"]
    measured = seconds["model"]
    seconds["model"] *= tokens / computed
    whole = sum(seconds.values())
    rows = [
        [
            words,
            f"{seconds.get(part, 0):.2f}",
            f"{seconds.get(part, 0) / whole:.2%}",
            f"{again['seconds'].get(part, 0):.2f}",
        ]
        for part, words in PARTS.items()
    ]
    outside = 1 - seconds["model"] / whole
    rows.append(["all", f"{whole:.1f}", "100%", f"{sum(again['seconds'].values()):.1f}"])
    made = f"{options.rows} pairs of at most {options.characters} characters ({n_different} different ones, numbered), "
    made += f"{tokens} tokens"
    if computed < tokens:
        made += f"; the model computed {computed} of them in {measured:.0f} s: its time is EXTRAPOLATED by tokens"
    columns = ("part", "seconds", "share", "again, all in the cache")
    targets = [target("share of time outside the model", TARGET, outside, at_most=True)]
    content = {
        "seconds": seconds,
        "again": again["seconds"],
        "tokens": tokens,
        "tokens_computed": computed,
        "extrapolated": computed < tokens,
        "outside": outside,
    }
    report(options, [f"{made}\n\n{table(columns, rows)}"], targets, content)


def main() -> None:
    if sys.argv[1:2] == [WORKER]:
        model, file, limit = sys.argv[2:]
        print(json.dumps(measure(model, file, int(limit) if limit else None)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a reward model's folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of hh_harmless")
    parser.add_argument("--rows", type=int, default=10_000, help="pairs (default 10000)")
    parser.add_argument("--model-rows", type=int, help="compute the model for about so many pairs only")
    parser.add_argument("--characters", type=int, default=600, help="longest dialogue (default 600)")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
