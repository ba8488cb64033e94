"""Does a reward model know where it is wrong, and do an ensemble's members err together?

    python benchmarks/uncertainty.py RM... --data FILE... [--mc-dropout N] [--limit N] [--json OUT]

RM are single reward models (with a Laplace posterior where `rewardsmith ensemble laplace` was run) and ensembles; FILE
are held-out preferences. Each decided pair is scored as a group of two, so that the standard deviation is that of the
pair's difference in reward. Then, of two pairs, one ranked wrongly and one rightly, how often is the wrong one

    std            the one of the larger standard deviation
    std / |gap|    the one whose standard deviation is larger beside its gap in reward
    1 / |gap|      the one of the smaller gap: what is known without any uncertainty, the figure to beat

0.5 is chance. Of ensembles also the accuracy by each aggregate, and the shared-error diagnostic with the share of won
comparisons of each answer as gold. Intervals are clustered by prompt.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.aggregation import HOWS, aggregate
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group, Preference
from rewardsmith.errors import DataError
from rewardsmith.overoptimization.shared_error import shared_error
from rewardsmith.scorers import load_scorer
from rewardsmith.scoring import Scores, score_stream
from rewardsmith.statistics import Floats, clustered_mean

DRAWS = 1000


def pair_groups(groups: Sequence[Group]) -> list[Group]:
    """One group of two for every decided pair, the preferred answer first."""
    return [
        replace(
            group,
            responses=(group.responses[p.chosen], group.responses[p.rejected]),
            preferences=(Preference(chosen=0, rejected=1, probability=p.probability),),
            ratings=None,
        )
        for group in groups
        for p in group.preferences
        if not p.is_tie
    ]


def area(value_P: Floats, wrong_P: np.ndarray, prompt_P: np.ndarray, draws: int = DRAWS) -> dict[str, Any]:
    """P(value of a wrong pair > that of a right one), ties half, with a bootstrap over prompts."""
    names, cluster_P = np.unique(prompt_P, return_inverse=True)
    above_PP = (value_P[:, None] > value_P) + 0.5 * (value_P[:, None] == value_P)

    def by(weight_P: Floats) -> float:
        wrong, right = weight_P * wrong_P, weight_P * ~wrong_P
        return float(wrong @ above_PP @ right / max(wrong.sum() * right.sum(), 1e-12))

    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    low, high = np.quantile([by(count_C[cluster_P].astype(float)) for count_C in counts], [0.025, 0.975])
    return {"value": by(np.ones(len(value_P))), "low": float(low), "high": float(high)}


def of_model(path: str, groups: Sequence[Group], dropout: int) -> dict[str, Any]:
    scorer = load_scorer(path)
    single = scorer.score(groups[:1])[0].members is None
    if single and dropout:
        scorer = load_scorer(path, mc_dropout=dropout)
    pairs = pair_groups(groups)
    scored = [(g, s) for g, s in score_stream(scorer, pairs) if not s.error]
    if not scored:
        raise DataError("no decided pair could be scored")
    gap_P = np.array([s.rewards[0] - s.rewards[1] for _, s in scored])
    prompt_P = np.array([g.prompt_id for g, _ in scored])
    wrong_P = gap_P <= 0
    std_P = pair_std([s for _, s in scored])
    kind = f"dropout {dropout}" if dropout else "none" if std_P is None else "Laplace"
    result: dict[str, Any] = {
        "model": Path(path).name,
        "uncertainty": kind if single else "members",
        "n_pairs": len(scored),
        "accuracy": clustered_mean(~wrong_P, prompt_P).to_json(),
    }
    result["finds_wrong"] = {"1 / |gap|": area(-np.abs(gap_P), wrong_P, prompt_P)}
    if std_P is not None:
        result["finds_wrong"] |= {
            "std": area(std_P, wrong_P, prompt_P),
            "std / |gap|": area(std_P / np.maximum(np.abs(gap_P), 1e-12), wrong_P, prompt_P),
        }
    return result if single else result | of_members(scorer, groups)


def pair_std(scored: Sequence[Scores]) -> Floats | None:
    """[P] standard deviation of the difference in reward. A single model's two answers lie on either side of their
    mean, the reference: half of the difference each."""
    if scored[0].members is not None:
        return np.array([np.diff(s.members, axis=1).std(ddof=1) for s in scored if s.members is not None])
    return None if scored[0].std is None else np.array([2 * s.std[0] for s in scored if s.std is not None])


def of_members(scorer: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """Accuracy by each aggregate over whole groups, and how far the members' errors agree."""
    scored = [(g, s.members) for g, s in score_stream(scorer, groups) if s.members is not None]
    prompts = [g.prompt_id for g, _ in scored for p in g.preferences if not p.is_tie]
    accuracy = {}
    for how in HOWS:
        rewards = [(g, aggregate(members_MK, how)) for g, members_MK in scored]
        right = [r_K[p.chosen] > r_K[p.rejected] for g, r_K in rewards for p in g.preferences if not p.is_tie]
        accuracy[how] = clustered_mean(right, prompts).to_json()
    sizes = range(1, max(len(g.responses) for g, _ in scored) + 1)
    shared = shared_error([m for _, m in scored], [won(g) for g, _ in scored], list(sizes), draws=DRAWS)
    return {"accuracy_by_aggregate": accuracy, "shared_error": shared}


def won(group: Group) -> Floats:
    """[K] each answer's comparisons won less lost, by probability."""
    score_K = np.zeros(len(group.responses))
    for p in group.preferences:
        score_K[p.chosen] += p.probability - 0.5
        score_K[p.rejected] -= p.probability - 0.5
    return score_K


def interval(figure: dict[str, Any]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def show(result: dict[str, Any]) -> str:
    head = f"{result['model']} ({result['uncertainty']}): accuracy {interval(result['accuracy'])}"
    lines = [f"{head}, {result['n_pairs']} pairs"]
    lines += [f"  wrong pairs found by {name:<12} {interval(f)}" for name, f in result["finds_wrong"].items()]
    lines += [f"  accuracy by {name:<12} {interval(f)}" for name, f in result.get("accuracy_by_aggregate", {}).items()]
    if "shared_error" in result:
        lines.append(f"  {result['shared_error']['sentence']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="RM")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--mc-dropout", type=int, default=0, help="of single models: N passes instead of Laplace")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    groups = list(read_groups(tuple(options.data)))[: options.limit]
    results = [of_model(path, groups, options.mc_dropout) for path in options.models]
    print("\n".join(map(show, results)))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
