"""A reward model on the published benchmarks whose files are at hand, baselines and intervals beside every score.

    python benchmarks/published_benchmarks.py --model RM --data FOLDER [--only NAME ...] [--json OUT]

Reads FOLDER/rm_bench (chat and safety-refuse), FOLDER/llmbar (natural), FOLDER/pandalm (the first 500 rows) and
FOLDER/xstest (completions of two systems), each by its publisher's rule, as `rewardsmith evaluate --benchmark` does,
with the prompt-blind baseline. Slices of a benchmark are named as such: none of these figures is a whole published
score. With --precision bfloat16 the matrix products are; the weights and the head stay float32.
The JSON file: {"settings", "machine", "targets": [], "results": {name: result}, "seconds": {name: s}}.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from speed_common import report

# Folder of the data -> benchmark.
FILES = {"rm_bench": "rm-bench", "llmbar": "llmbar", "pandalm": "pandalm", "xstest": "xstest"}


def run(options: argparse.Namespace) -> None:
    from rewardsmith.evaluation.benchmarks import benchmark_table, evaluate_benchmark
    from rewardsmith.scorers import load_scorer

    scorer = load_scorer(str(options.model), device=options.device, precision=options.precision)
    results, seconds, tables = {}, {}, []
    for folder, name in FILES.items():
        if options.only and name not in options.only:
            continue
        print(name, file=sys.stderr, flush=True)
        began = time.perf_counter()
        results[name] = evaluate_benchmark(options.data / folder, scorer, name=name, prompt_blind=options.prompt_blind)
        seconds[name] = time.perf_counter() - began
        tables.append(benchmark_table(results[name]) + f"\n  {seconds[name]:.0f} s")
    report(options, tables, [], {"results": results, "seconds": seconds})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a reward model's folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of rm_bench, llmbar, pandalm and xstest")
    parser.add_argument("--only", nargs="+", choices=list(FILES.values()), help="these benchmarks; default: all")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the forward pass")
    parser.add_argument("--no-prompt-blind", dest="prompt_blind", action="store_false", help="without that baseline")
    parser.add_argument("--device", choices=("auto", "cpu"), default="cpu")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
