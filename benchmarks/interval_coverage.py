"""Whether the intervals hold the truth and the tests keep their level, on simulated pairs with a known truth.

    python benchmarks/interval_coverage.py [--sets N] [--prompts N [N ...]] [--json OUT]

A data set has --prompts prompts with 2 to 5 responses each and every pair of them (1 to 10). A response's quality is
normal; the pair's label is the better quality. Scorer s gives quality plus noise, half of it in common with the other
scorer, with a scale of its own in each prompt: exp(mean_s + difficulty + u_s), where `difficulty` is the prompt's and
u_s the scorer's luck with the prompt, both normal. So pairs of a prompt go together, in accuracy and in the difference
of two scorers. Given the scale, a pair is right with probability 1/2 + arcsin(1 / sqrt(1 + scale^2)) / pi; one
integral over the scale gives the true accuracy.

Of --sets data sets, for each number of prompts:

    accuracy, difference   how often the 95% interval by prompt holds the truth; `by pair` is the interval that takes
                           pairs for independent
    equal                  two scorers of the same accuracy: how often p < 5%, by prompt (`p_value`) and by pair
                           (McNemar)
    better                 two scorers whose true difference is the mean `smallest_detectable` of the equal ones, half
                           of it above and half below their accuracy: how often p_value < 5%, wanted 80%

Targets: coverage 93% to 97%, level 3% to 7% (by prompt); what is by pair is there to be compared. Each share has a
standard error of about one point at 500 sets, so about one target in twenty-five is missed by chance alone.
The JSON file: {"settings", "machine", "targets", "results": [{"prompts", "truth", shares ...}]}.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from rewardsmith.evaluation.compare import compare_rows
from rewardsmith.evaluation.evaluate import PairRows
from rewardsmith.evaluation.metrics import Interval, clustered_mean, is_correct
from speed_common import report, table, target

RESPONSES = range(2, 6)
MEAN = -0.2  # log scale of the noise of two equal scorers: an accuracy of about 0.77
DIFFICULTY, LUCK = 0.8, 0.6  # standard deviations of the log scale, over prompts
COMMON = 0.5  # of the noise's variance

Floats = NDArray[np.float64]


# The truth -----------------------------------------------------------------------------------------


def true_accuracy(mean: float) -> float:
    """Of a scorer with this mean log scale; the number of responses says nothing about the scale."""
    node, weight = np.polynomial.hermite_e.hermegauss(80)
    scale = np.exp(mean + math.hypot(DIFFICULTY, LUCK) * node)
    return float(weight @ (0.5 + np.arcsin(1 / np.sqrt(1 + scale**2)) / np.pi) / weight.sum())


def mean_of_accuracy(accuracy: float) -> float:
    """The mean log scale that has this true accuracy."""
    return float(brentq(lambda mean: true_accuracy(mean) - accuracy, -8, 8))


# Data ----------------------------------------------------------------------------------------------


def simulate(prompts: int, means: tuple[float, float], rng: np.random.Generator) -> tuple[PairRows, PairRows]:
    """The rows of scorers A and B, whose noise has these mean log scales."""
    sizes = rng.choice(RESPONSES, prompts)
    prompt_R = np.repeat(np.arange(prompts), sizes)
    quality_R, common_R = rng.normal(size=(2, len(prompt_R)))
    difficulty_C = DIFFICULTY * rng.normal(size=prompts)
    rewards = []
    for mean in means:
        scale_C = np.exp(mean + difficulty_C + LUCK * rng.normal(size=prompts))
        own_R = rng.normal(size=len(prompt_R))
        noise_R = math.sqrt(COMMON) * common_R + math.sqrt(1 - COMMON) * own_R
        rewards.append(quality_R + scale_C[prompt_R] * noise_R)
    starts = np.cumsum(sizes) - sizes
    pairs = np.array([(s + i, s + j) for s, k in zip(starts, sizes) for i, j in itertools.combinations(range(k), 2)])
    rows_a, rows_b = (pair_rows(quality_R, reward_R, prompt_R, pairs) for reward_R in rewards)
    return rows_a, rows_b


def pair_rows(quality_R: Floats, reward_R: Floats, prompt_R: NDArray[np.int64], pairs: NDArray[np.int64]) -> PairRows:
    first, second = pairs.T
    label_P = (quality_R[first] > quality_R[second]).astype(np.float64)
    equal_P, prompt_P = np.ones(len(pairs)), prompt_R[first]
    return PairRows(reward_R[first] - reward_R[second], label_P, prompt_P, prompt_P, equal_P, equal_P)


# Measurements --------------------------------------------------------------------------------------


def measure(prompts: int, sets: int, seed: int) -> dict[str, Any]:
    """The shares of `sets` data sets of equal scorers, and of as many with a difference that should show."""
    equal = [one_set(prompts, (MEAN, MEAN), seed + i) for i in range(sets)]
    wanted = float(np.mean([found["smallest_detectable"] for found in equal]))
    accuracy = true_accuracy(MEAN)
    apart = (mean_of_accuracy(accuracy + wanted / 2), mean_of_accuracy(accuracy - wanted / 2))
    better = [one_set(prompts, apart, seed + sets + i) for i in range(sets)]
    return {
        "prompts": prompts,
        "truth": {"accuracy": accuracy, "equal": 0.0, "better": wanted},
        "accuracy": share(equal, "accuracy"),
        "accuracy_by_pair": share(equal, "accuracy_by_pair"),
        "difference": share(equal, "difference"),
        "difference_by_pair": share(equal, "difference_by_pair"),
        "difference_better": share(better, "difference"),
        "rejected": share(equal, "rejected"),
        "rejected_mcnemar": share(equal, "rejected_mcnemar"),
        "power": share(better, "rejected"),
    }


def one_set(prompts: int, means: tuple[float, float], seed: int) -> dict[str, Any]:
    """Of one data set: which intervals hold the truth, which tests reject, and the smallest detectable difference."""
    rows_a, rows_b = simulate(prompts, means, np.random.default_rng([prompts, seed]))
    accuracy, accuracy_b = map(true_accuracy, means)
    difference = accuracy - accuracy_b
    found = compare_rows(rows_a, rows_b, seed=seed)
    right_a, right_b = (is_correct(r.margin_P, r.probability_P).astype(float) for r in (rows_a, rows_b))
    each_P = np.arange(len(rows_a))
    return {
        "accuracy": holds(Interval(**found["a"]["accuracy"]), accuracy),
        "accuracy_by_pair": holds(clustered_mean(right_a, each_P, seed=seed), accuracy),
        "difference": holds(Interval(**found["difference"]), difference),
        "difference_by_pair": holds(clustered_mean(right_a - right_b, each_P, seed=seed), difference),
        "rejected": found["p_value"] < 0.05,
        "rejected_mcnemar": found["mcnemar_p"] < 0.05,
        "smallest_detectable": found["smallest_detectable"],
    }


def holds(interval: Interval, truth: float) -> bool:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low <= truth <= interval.high


def share(sets: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([found[key] for found in sets]))


# Report --------------------------------------------------------------------------------------------

COLUMNS = {
    "prompts": "prompts",
    "accuracy": "accuracy: coverage",
    "accuracy_by_pair": "by pair",
    "difference": "difference, equal: coverage",
    "difference_by_pair": "by pair",
    "difference_better": "difference, better: coverage",
    "rejected": "equal: p < 5%",
    "rejected_mcnemar": "McNemar",
    "smallest": "smallest detectable, mean",
    "power": "power there",
}


def row(result: dict[str, Any]) -> list[str]:
    percent = {key: f"{100 * value:.1f}%" for key, value in result.items() if isinstance(value, float)}
    cells = percent | {"prompts": str(result["prompts"]), "smallest": f"{100 * result['truth']['better']:.1f} points"}
    return [cells[key] for key in COLUMNS]


def targets(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Within two points of what was promised."""
    checks = {"accuracy": 0.95, "difference": 0.95, "difference_better": 0.95, "rejected": 0.05}
    return [
        target(f"{key}, {result['prompts']} prompts: off {wanted} by", 0.02, abs(result[key] - wanted), at_most=True)
        for key, wanted in checks.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=500, help="data sets of each kind (default 500)")
    parser.add_argument("--prompts", type=int, nargs="+", default=[50, 100, 300], help="in a set (default 50 100 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    results = []
    for prompts in options.prompts:
        print(f"{prompts} prompts", file=sys.stderr, flush=True)
        results.append(measure(prompts, options.sets, options.seed))
    found = [check for result in results for check in targets(result)]
    report(options, [table(list(COLUMNS.values()), [row(r) for r in results])], found, {"results": results})


if __name__ == "__main__":
    main()
