"""The benchmarks by name, as their publishers ship them."""

from __future__ import annotations

from collections.abc import Callable

from rewardsmith.data import shapes_pairs
from rewardsmith.data.fields import Row
from rewardsmith.data.options import ReadOptions
from rewardsmith.evaluation.benchmarks import rows, rows_lists
from rewardsmith.evaluation.benchmarks.load import Benchmark, deep, each_row, folder, read_xstest
from rewardsmith.evaluation.benchmarks.rules_lists import ppe, rewardbench2, rm_bench
from rewardsmith.evaluation.benchmarks.rules_pairs import SECTIONS, hh, judgebench, llmbar, rewardbench, xstest
from rewardsmith.evaluation.benchmarks.rules_pandalm import pandalm

# Rows of the filtered split; math-prm's weight and the two XSTest weights are not its row counts.
REWARDBENCH_ROWS = {subset: n for subsets in SECTIONS.values() for subset, n in subsets.items()} | {
    "math-prm": 447,
    "xstest-should-refuse": 154,
    "xstest-should-respond": 250,
}


def has(*columns: str) -> Callable[[Row], bool]:
    """Whether a row has all of these columns."""
    return lambda row: set(columns) <= row.keys()


def is_rewardbench(row: Row) -> bool:
    return {"prompt", "subset"} <= row.keys() and all(isinstance(row.get(key), str) for key in ("chosen", "rejected"))


def lists_answers(row: Row) -> bool:
    return "prompt" in row and all(isinstance(row.get(key), list) for key in ("chosen", "rejected"))


def is_rewardbench2(row: Row) -> bool:
    return lists_answers(row) and bool({"num_correct", "total_completions"} & row.keys())


def is_rm_bench(row: Row) -> bool:
    return lists_answers(row) and not is_rewardbench2(row)


def is_hh(row: Row) -> bool:
    return "subset" not in row and shapes_pairs.is_hh(row, ReadOptions())


ALL = (
    Benchmark(
        name="rewardbench",
        about="chosen against rejected in 23 subsets: chat, hard chat, safety, reasoning",
        origin="huggingface.co/datasets/allenai/reward-bench, data/filtered-*.parquet",
        hub=("allenai/reward-bench@filtered",),
        matches=is_rewardbench,
        files=folder(prefer="filtered*"),
        read=each_row(rows.rewardbench_row),
        rule=rewardbench,
        part_tag="subset",
        rows=REWARDBENCH_ROWS,
    ),
    Benchmark(
        name="rewardbench2",
        about="best of four in five subsets, and ties among several right answers",
        origin="huggingface.co/datasets/allenai/reward-bench-2, data/test-*.parquet",
        hub=("allenai/reward-bench-2@test",),
        matches=is_rewardbench2,
        files=folder(),
        read=each_row(rows_lists.rewardbench2_row),
        rule=rewardbench2,
        part_tag="subset",
        rows={"Factuality": 475, "Precise IF": 160, "Math": 183, "Safety": 450, "Focus": 495, "Ties": 102},
    ),
    Benchmark(
        name="rm-bench",
        about="right against subtly wrong answers, each in three styles",
        origin="github.com/THU-KEG/RM-Bench, data/*.json",
        hub=("THU-KEG/RM-Bench@train",),
        matches=is_rm_bench,
        files=folder(prefer="total_dataset*"),
        read=each_row(rows_lists.rm_bench_row),
        rule=rm_bench,
        part_tag="domain",
        rows={"chat": 129, "code": 228, "math": 529, "safety-refuse": 284, "safety-response": 157},
    ),
    Benchmark(
        name="llmbar",
        about="which of two outputs follows the instruction",
        origin="github.com/princeton-nlp/LLMBar, Dataset/LLMBar",
        matches=has("input", "output_1", "output_2", "label"),
        files=deep("dataset.json", without="CaseStudy|Processed"),
        read=each_row(rows.llmbar_row),
        rule=llmbar,
        part_tag="subset",
        rows={"natural": 100, "neighbor": 134, "gptinst": 92, "gptout": 47, "manual": 46},
    ),
    Benchmark(
        name="judgebench",
        about="a right against a wrong answer of one strong model, in knowledge, reasoning, math and coding",
        origin="github.com/ScalerLab/JudgeBench, data/*.jsonl",
        hub=("ScalerLab/JudgeBench@gpt",),
        matches=has("question", "response_A", "response_B", "label", "source"),
        files=folder(),
        read=each_row(rows.judgebench_row),
        rule=judgebench,
    ),
    Benchmark(
        name="pandalm",
        about="two answers and three annotators, ties allowed",
        origin="github.com/WeOpenML/PandaLM, data/testset-v1.json",
        matches=has("response1", "response2", *rows.ANNOTATORS),
        files=folder(only="testset*", prefer="testset-v1.json*"),
        read=each_row(rows.pandalm_row),
        rule=pandalm,
    ),
    Benchmark(
        name="xstest",
        about="compliance against refusal on prompts that look unsafe, and on prompts that are",
        origin="github.com/paul-rottger/exaggerated-safety, model_completions/*.csv",
        matches=has("type", "prompt", "completion", "final_label"),
        files=folder(only="*completions*", inside="model_completions"),
        read=read_xstest,
        rule=xstest,
    ),
    Benchmark(
        name="ppe",
        about="is the answer with the highest reward of k right: five benchmarks with verified answers",
        origin="huggingface.co/lmarena-ai, PPE-*-Best-of-K",
        hub=tuple(
            f"lmarena-ai/PPE-{name}-Best-of-K@train" for name in ("MMLU-Pro", "MATH", "GPQA", "IFEval", "MBPP-Plus")
        ),
        matches=has("prompt", "scores", "response_1"),
        files=deep("*.parquet"),
        read=each_row(rows_lists.ppe_row),
        rule=ppe,
    ),
    Benchmark(
        name="hh",
        about="human preferences between two continuations of a dialogue",
        origin="huggingface.co/datasets/Anthropic/hh-rlhf, */test.jsonl.gz",
        hub=("Anthropic/hh-rlhf@test",),
        matches=is_hh,
        files=folder(),
        read=each_row(rows.hh_row),
        rule=hh,
    ),
)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in ALL}
