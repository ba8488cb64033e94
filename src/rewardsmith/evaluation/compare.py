"""Which of two scorers is better on the same pairs, and how small a difference these pairs could show.

    P  pairs, in one order for both scorers
    N  pairs that are no label tie: what is compared
    C  prompts with a pair that is no label tie
    S  slices

Right is strict, as in `metrics.accuracy`: a score tie is wrong, and label ties are left out and counted. Every
difference is A minus B. Pairs of one prompt rise and fall together, so intervals and the p-value go by prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv
from scipy.stats import binom, binomtest, norm

from rewardsmith.data.schema import TIE
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.evaluation import metrics
from rewardsmith.evaluation.calibration import Mask, checked_masks, checked_pairs
from rewardsmith.evaluation.metrics import DRAWS, Floats, Interval, Ints, clustered_mean
from rewardsmith.evaluation.pairs import PairRows
from rewardsmith.statistics import cluster_sums

LEVEL = 0.05  # two-sided
POWER = 0.8
FEWEST = 6  # prompts in which one scorer wins: sign flips of five reach p = 2/2^5 = 0.0625, of six 0.031


def compare_rows(
    rows_a: PairRows,
    rows_b: PairRows,
    slices: Mapping[str, ArrayLike] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Two scorers side by side, ready for JSON: numbers, or None where the data cannot say.

    `rows_a` and `rows_b` are `pair_rows` of the same groups; `slices` maps names to masks over those rows.

    n_pairs, n_prompts   of all rows, the `label_ties` among them, which no other number counts
    a, b                 `accuracy` with its interval, and `score_ties`, which are wrong
    difference           accuracy of A less that of B, with an interval by prompt (`paired_difference`)
    p_value              `sign_flip_test`, by prompt: the one to quote
    mcnemar_p            exact McNemar test, by pair: too small where a prompt has several pairs that go together
    smallest_detectable  see the function of that name
    discordant           pairs that only A, or only B, has right
    slices               the same by slice, in the order given, over `n` pairs that are no label tie; `p_adjusted` by
                         Benjamini and Hochberg over the slices that have any

    Raises DataError where the rows are not the same pairs, a number is missing, or a mask does not fit.
    """
    decided_P, right_aP, right_bP = _verdicts(rows_a, rows_b)
    masks = checked_masks(slices, len(rows_a))
    right_a, right_b, prompt_N = right_aP[decided_P], right_bP[decided_P], rows_a.prompt_P[decided_P]
    difference_N = right_a.astype(np.float64) - right_b
    only_a, only_b = int((difference_N > 0).sum()), int((difference_N < 0).sum())
    return {
        "n_pairs": len(rows_a),
        "n_prompts": len(np.unique(rows_a.prompt_P)),
        "label_ties": int((~decided_P).sum()),
        "a": _accuracy(rows_a, draws, seed),
        "b": _accuracy(rows_b, draws, seed),
        "difference": paired_difference(difference_N, prompt_N, draws=draws, seed=seed).to_json(),
        "p_value": sign_flip_test(difference_N, prompt_N),
        "mcnemar_p": mcnemar(only_a, only_b) if len(difference_N) else None,
        "smallest_detectable": smallest_detectable(difference_N, prompt_N),
        "discordant": {"only_a": only_a, "only_b": only_b},
        "slices": _slices({name: mask[decided_P] for name, mask in masks.items()}, difference_N, prompt_N, draws, seed),
    }


def disagreements(rows_a: PairRows, rows_b: PairRows, n: int = 20) -> Ints:
    """Indices of up to `n` pairs that exactly one of the two has right, the widest disagreement first.

    Width is |m_a / s_a - m_b / s_b|, where s is the scorer's root mean square margin over all pairs: margins have no
    common unit, and calibrated probabilities would all be 1 where both scorers are sure. Equal widths keep the
    order of the rows. Raises as `compare_rows`, and ConfigError where `n` is below 1.
    """
    if n < 1:
        raise ConfigError(f"n is {n}; it is at least 1")
    decided_P, right_aP, right_bP = _verdicts(rows_a, rows_b)
    width_P = np.abs(_scaled(rows_a.margin_P) - _scaled(rows_b.margin_P))
    found = np.flatnonzero(decided_P & (right_aP != right_bP))
    return found[np.argsort(-width_P[found], kind="stable")][:n].astype(np.int64)


# Tests and intervals -------------------------------------------------------------------------------


def paired_difference(difference_N: ArrayLike, prompt_N: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Mean of right(A) - right(B) with its 95% interval by prompt.

    Where no pair is discordant the bootstrap would give an interval of no width. Then it is what C prompts without a
    discordant one leave possible: +-(1 - 0.025^(1/C)), Clopper and Pearson's limit on the share of prompts that differ.
    """
    difference_N = np.asarray(difference_N, np.float64)
    n_prompts = len(np.unique(prompt_N))
    if n_prompts < 2 or difference_N.any():
        return clustered_mean(difference_N, prompt_N, draws=draws, seed=seed)
    limit = float(1 - (LEVEL / 2) ** (1 / n_prompts))
    return Interval(0.0, -limit, limit)


def sign_flip_test(difference_N: ArrayLike, prompt_N: ArrayLike) -> float | None:
    """Two-sided p-value of the sum of right(A) - right(B), where the names A and B are dealt anew prompt by prompt.

    Under the hypothesis that the names mean nothing, each prompt's sum d_c keeps its size and has either sign.
    Sums are whole numbers, so that the distribution over all 2^C signs is exact at any size, as a convolution of
    binomials (one for each |d_c|), and no draw is needed: the share with |sum| at least as large as the one found.
    1 where no prompt differs, None without pairs. Source: Fisher (1935), section 21; Miller (2411.00640) for clusters.
    """
    difference_N = np.asarray(difference_N)
    if len(difference_N) == 0:
        return None
    sums_C = _prompt_sums(difference_N, prompt_N)[:, 0]
    if (sums_C != np.rint(sums_C)).any():
        raise DataError("the differences are not whole numbers; give right(A) - right(B) of each pair")
    sums_C = sums_C.astype(np.int64)
    sizes, counts = np.unique(np.abs(sums_C[sums_C != 0]), return_counts=True)
    mass = np.ones(1)  # of t = sum of |d_c| over the prompts dealt to A, from 0 to sum |d_c|
    for size, count in zip(sizes, counts):
        each = np.zeros(size * count + 1)
        each[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        mass = np.convolve(mass, each)
    total = 2 * np.arange(len(mass)) - (len(mass) - 1)
    return min(1.0, float(mass[np.abs(total) >= abs(sums_C.sum())].sum()))


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact McNemar test: discordant pairs are fair coins. 1 without any. Source: McNemar (1947)."""
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def smallest_detectable(difference_N: ArrayLike, prompt_N: ArrayLike) -> float | None:
    """Smallest true difference of accuracy that pairs like these show with 80% power, two-sided at 5%.

        (1.96 + 0.84) x standard error of the paired difference, by prompt

    with the discordance and the clustering that were found. Few discordant prompts make that too small a number:
    below six no test by prompt can reach 5%. So it is at least what gives 80% for six prompts in favour of one side,
    each as large as the discordant ones found, or a whole prompt where none is. A guide: discordance may grow with
    the difference, and with few prompts the power is rather 75% (benchmarks/interval_coverage.py).
    None where no difference would do: fewer than six prompts, or a result above 1.
    Source: Miller (2411.00640) for power from the clustered standard error of paired differences.
    """
    difference_N = np.asarray(difference_N, np.float64)
    sums_C2 = _prompt_sums(difference_N, prompt_N)
    n_prompts, n = len(sums_C2), len(difference_N)
    if n_prompts < FEWEST:
        return None
    residual_C = sums_C2[:, 0] - difference_N.mean() * sums_C2[:, 1]
    error = np.sqrt(n_prompts / (n_prompts - 1) * residual_C @ residual_C) / n
    size_C = np.abs(sums_C2[:, 0])
    size = size_C[size_C > 0].mean() if size_C.any() else n / n_prompts
    # P(at least six of C prompts) is the regularised beta function at their share, so its inverse is the share.
    share = betaincinv(FEWEST, n_prompts - FEWEST + 1, POWER)
    found = float(max((norm.ppf(1 - LEVEL / 2) + norm.ppf(POWER)) * error, share * n_prompts * size / n))
    return found if found <= 1 else None


def benjamini_hochberg(p_S: ArrayLike) -> Floats:
    """Adjusted p-values: the least false discovery rate at which each is still among the discoveries.

    Slices may overlap: the rate holds where p-values rise and fall together. Source: Benjamini and Hochberg (1995).
    """
    p_S = np.asarray(p_S, np.float64)
    order_S = np.argsort(p_S)
    scaled_S = p_S[order_S] * len(p_S) / np.arange(1, len(p_S) + 1)
    adjusted_S = np.empty_like(p_S)
    adjusted_S[order_S] = np.minimum(1, np.minimum.accumulate(scaled_S[::-1])[::-1])
    return adjusted_S


# Parts ---------------------------------------------------------------------------------------------


def _verdicts(rows_a: PairRows, rows_b: PairRows) -> tuple[Mask, Mask, Mask]:
    """(pairs that are no label tie, right by A, right by B), or DataError where the pairs are not the same.

    Lengths may differ: two scorers may count tokens differently.
    """
    if len(rows_a) != len(rows_b):
        raise DataError(f"A has {len(rows_a)} pairs and B {len(rows_b)}; score the same groups with both")
    for name, rows in (("A", rows_a), ("B", rows_b)):
        try:
            checked_pairs(rows.margin_P, rows.probability_P)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
    for column in ("group_P", "prompt_P", "probability_P"):
        differs_P = np.asarray(getattr(rows_a, column) != getattr(rows_b, column))
        if differs_P.any():
            pair = int(np.flatnonzero(differs_P)[0])
            raise DataError(
                f"pair {pair} of A is not pair {pair} of B ({column[:-2]}); score the same groups with both"
            )
    right_aP, right_bP = (metrics.is_correct(rows.margin_P, rows.probability_P) for rows in (rows_a, rows_b))
    return rows_a.probability_P != TIE, right_aP, right_bP


def _accuracy(rows: PairRows, draws: int, seed: int) -> dict[str, Any]:
    found = metrics.accuracy(rows.margin_P, rows.probability_P, rows.prompt_P, draws=draws, seed=seed)
    return {"accuracy": found.interval.to_json(), "score_ties": found.score_ties}


def _slices(
    masks: Mapping[str, Mask], difference_N: Floats, prompt_N: Ints, draws: int, seed: int
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, mask_N in masks.items():
        part = paired_difference(difference_N[mask_N], prompt_N[mask_N], draws=draws, seed=seed)
        p_value = sign_flip_test(difference_N[mask_N], prompt_N[mask_N])
        row = {"slice": name, "n": int(mask_N.sum()), "difference": part.value, "low": part.low, "high": part.high}
        found.append(row | {"p_value": p_value, "p_adjusted": None})
    tested = [row for row in found if row["p_value"] is not None]  # no pairs: no test to adjust for
    for row, adjusted in zip(tested, benjamini_hochberg([row["p_value"] for row in tested])):
        row["p_adjusted"] = float(adjusted)
    return found


def _prompt_sums(difference_N: ArrayLike, prompt_N: ArrayLike) -> Floats:
    """(C, 2): each prompt's sum of differences, and its number of pairs."""
    difference_N = np.asarray(difference_N, np.float64)
    return cluster_sums(np.stack([difference_N, np.ones_like(difference_N)], axis=1), prompt_N)


def _scaled(margin_P: Floats) -> Floats:
    """Margins over their root mean square: about zero, as the side that is written first means nothing."""
    spread = np.sqrt(np.mean(np.square(margin_P))) if len(margin_P) else 0.0
    return margin_P / spread if spread > 0 else np.zeros_like(margin_P)
