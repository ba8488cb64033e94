"""Is the drift watch to be trusted? False alarms and misses on alpaca_eval's recorded answers.

    python benchmarks/refresh_drift.py --data DIR [--repeats 20] [--splits 100]

The reference is one answer, of a system drawn at random, to each of 300 prompts. The new outputs are answers to other
prompts: of a system drawn at random (nothing has changed), or the longest of n of them, as a policy would give that was
optimised against a reward of length. Everything is drawn anew in each repeat.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rewardsmith.data.options import ReadOptions
from rewardsmith.data.schema import Group
from rewardsmith.overoptimization.candidates import Pool, read_pools
from rewardsmith.refresh import two_samples as two
from rewardsmith.refresh.drift import drift, sample_groups

REFERENCE = 300
PERMUTATIONS = 199
SIGNALS = 4  # of texts without a model


def answers(pools: list[Pool], n: int, rng: np.random.Generator) -> list[Group]:
    """The longest of n answers drawn for each prompt."""
    found = []
    for pool in pools:
        drawn = rng.choice(len(pool.base_K), n, replace=False)
        found.append(pool.keep([int(drawn[np.argmax(pool.length_K[drawn])])]).group)
    return found


def verdict(pools: list[Pool], n: int, n_new: int, seed: int) -> tuple[str, list[str]]:
    """(verdict, signals that are alarmed) of one draw."""
    rng = np.random.default_rng([seed, n, n_new])
    order = [pools[p] for p in rng.permutation(len(pools))]
    reference = sample_groups(answers(order[:REFERENCE], 1, rng))
    new = sample_groups(answers(order[REFERENCE : REFERENCE + n_new], n, rng))
    found = drift(new, reference, permutations=PERMUTATIONS, seed=seed)
    return found["verdict"], [row["signal"] for row in found["signals"] if row["alarm"]]


def length_alone(pools: list[Pool], n: int, n_new: int, repeats: int) -> str:
    """How often the test of length sees what is there, beside the shift from which it is said to in four of five."""
    level = 0.05 / SIGNALS
    lengths = [np.log1p(pool.length_K) for pool in pools]
    seen, shifts = [], []
    for seed in range(repeats):
        rng = np.random.default_rng([seed, n, n_new])
        order = rng.permutation(len(lengths))
        old = np.array([rng.choice(lengths[p]) for p in order[:REFERENCE]])
        new = [rng.choice(lengths[p], n, replace=False).max() for p in order[REFERENCE : REFERENCE + n_new]]
        value_N = np.concatenate([old, new])
        flags_BN = two.deal(n_new, len(value_N), 399, seed)
        both_SB = np.stack([two.ks_distances(value_N, flags_BN), two.mean_shifts(value_N, flags_BN)])
        seen.append(two.joint_p_value(both_SB) <= level)
        shifts.append((np.mean(new) - old.mean()) / old.std())
    said = two.detectable_sd(n_new, REFERENCE, level)
    return f"shift {np.mean(shifts):.2f} SD, seen in {np.mean(seen):.0%}; said to be seen in 80% from {said:.2f} SD"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--splits", type=int, default=100)
    options = parser.parse_args()
    file = options.data / "alpaca_eval" / "candidates_vs_davinci003.parquet"
    pools, _, _ = read_pools([str(file)], ["gold"], ReadOptions())
    print(f"length alone, at the level of one of {SIGNALS} signals, 100 repeats")
    for n in (1, 2, 4):
        for n_new in (30, 100):
            print(f"  longest of {n}, {n_new} prompts: {length_alone(pools, n, n_new, 100)}", flush=True)
    print(f"{'new outputs':<20}{'prompts':>8}{'asked':>7}{'due':>6}{'not due':>9}{'cannot tell':>13}  alarms by signal")
    for n, sizes, repeats in (
        (1, (100,), options.splits),
        (2, (30, 100), options.repeats),
        (4, (30, 100), options.repeats),
    ):
        for n_new in sizes:
            found = [verdict(pools, n, n_new, seed) for seed in range(repeats)]
            said = [what for what, _ in found]
            names = [name for _, signals in found for name in signals]
            by_signal = ", ".join(f"{name} {names.count(name)}" for name in dict.fromkeys(names)) or "none"
            what = "as the reference" if n == 1 else f"longest of {n}"
            counts = f"{said.count('due'):>6}{said.count('not due'):>9}{said.count('cannot tell'):>13}"
            print(f"{what:<20}{n_new:>8}{repeats:>7}{counts}  {by_signal}", flush=True)


if __name__ == "__main__":
    main()
