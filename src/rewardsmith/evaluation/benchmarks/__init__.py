"""Published benchmarks for reward models, scored as their publishers score them.

    result = evaluate_benchmark("data/rm_bench", load_scorer("my-model"))
    result["score"], result["parts"], result["baselines"]

`BENCHMARKS` has them by name: rewardbench, rewardbench2, rm-bench, llmbar, judgebench, pandalm, xstest, ppe, hh.
`registry` says how each is recognised and read, `rows` and `rows_lists` turn its rows into groups, the `rules_*`
files hold the published rules as pure functions, `baselines` what scorers that know nothing get.
"""

from rewardsmith.evaluation.benchmarks.baselines import baselines, without_prompts
from rewardsmith.evaluation.benchmarks.evaluate import evaluate_benchmark, load_benchmark
from rewardsmith.evaluation.benchmarks.load import Benchmark
from rewardsmith.evaluation.benchmarks.registry import BENCHMARKS
from rewardsmith.evaluation.benchmarks.show import benchmark_table

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "baselines",
    "benchmark_table",
    "evaluate_benchmark",
    "load_benchmark",
    "without_prompts",
]
