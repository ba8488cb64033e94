"""A scorer on a benchmark: every response scored once, the published rule, the baselines beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.evaluation.benchmarks.baselines import baselines, without_prompts
from rewardsmith.evaluation.benchmarks.load import Benchmark, load_groups, recognise
from rewardsmith.evaluation.benchmarks.registry import BENCHMARKS
from rewardsmith.scoring import CHUNK, Scorer, score_stream
from rewardsmith.statistics import DRAWS, Floats

Rewards = Sequence[ArrayLike]


def load_benchmark(source: str | Path, name: str | None = None) -> tuple[Benchmark, list[Group], list[str]]:
    """(benchmark, groups, files) of a benchmark's name, or of a local file or folder.

    A path is recognised by its columns, or read as the benchmark `name`. A bare name with no such path here is
    read from the hub, which needs the network. Raises ConfigError for an unknown name; DataError where nothing
    is there, nothing fits, or a row cannot be used, naming file and line.
    """
    if name is not None and name not in BENCHMARKS:
        raise ConfigError(f"benchmark {name!r}: not one of {', '.join(BENCHMARKS)}")
    if Path(source).exists():
        benchmark = BENCHMARKS[name] if name else recognise(Path(source), BENCHMARKS)
        return benchmark, *load_groups(benchmark, source)
    if str(source) in BENCHMARKS and name in (None, str(source)):
        benchmark = BENCHMARKS[str(source)]
        return benchmark, *load_groups(benchmark, None)
    raise DataError(f"{source}: no such file or folder, and no benchmark of that name ({', '.join(BENCHMARKS)})")


def evaluate_benchmark(
    source: str | Path,
    judge: Scorer | Rewards,
    *,
    name: str | None = None,
    prompt_blind: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
    chunk: int = CHUNK,
    progress: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """The result of a scorer (or of rewards made before, one array per group in file order), ready for JSON.

    source, name  as for `load_benchmark`
    prompt_blind  score the answers once more without their prompts, as a further baseline; needs a scorer
    draws         of the bootstrap behind every 95% interval, which resamples prompts; 0 leaves intervals out

    Beside the rule's own keys (`outcomes.result`): `benchmark`, `files`, `row_counts` (parts that are not the
    published size) and `baselines`: for each its values without intervals (`brief`).
    Raises DataError and ConfigError as `load_benchmark`, and where a reward is missing or not finite.
    """
    benchmark, groups, files = load_benchmark(source, name)
    others: dict[str, Rewards] = dict(baselines(groups))
    if hasattr(judge, "score"):
        rewards: Rewards = score_groups(judge, groups, chunk=chunk, progress=progress)
        if prompt_blind:
            others["prompt_blind"] = score_groups(judge, without_prompts(groups), chunk=chunk, progress=progress)
    elif prompt_blind:
        raise ConfigError("the prompt-blind baseline scores anew: give a scorer, not rewards")
    else:
        rewards = judge
    result = benchmark.rule(groups, rewards, draws=draws, seed=seed)
    return {
        "benchmark": benchmark.name,
        "files": files,
        "row_counts": benchmark.row_counts(groups),
        **result,
        "baselines": {what: brief(benchmark.rule(groups, given, draws=0)) for what, given in others.items()},
    }


def score_groups(
    scorer: Scorer, groups: Sequence[Group], *, chunk: int = CHUNK, progress: Callable[[], None] | None = None
) -> list[Floats]:
    """Rewards of every response, `chunk` groups at a time; DataError for a group that the scorer leaves out."""
    found = []
    for group, scores in score_stream(scorer, groups, chunk):
        if scores.error:
            raise DataError(f"{group.source or group.id}: not scored ({scores.error}); a benchmark is scored whole")
        found.append(scores.rewards)
        if progress is not None:
            progress()
    return found


def brief(result: dict[str, Any]) -> dict[str, Any]:
    """A baseline's result as plain numbers: score, score over what is present, score ties, and every part."""
    return {
        "score": result["score"]["value"],
        "score_over_present": result["score_over_present"]["value"],
        "score_ties": result["score_ties"],
        "parts": {kind: {n: figure["value"] for n, figure in inner.items()} for kind, inner in result["parts"].items()},
    }
