"""What optimisation bought: the gain of the reward and of gold, split into what surface markers carry and the rest.

Two splits, each of the proxy and of gold, each of which adds up to the gain.

By marker. Proxy and gold are regressed on the markers within prompts, over all candidates by their base probability.
The part of a marker is its coefficient times how far the policy moves its mean; what is left is the rest. It says
what a straight line in the markers accounts for, not what caused it.

By length bucket. A prompt's candidates in thirds by length; over all prompts, m is the mass and y the mean (less the
prompt's base mean) of a third under the policy, m0 and y0 under the base:

    gain = sum_b (m_b - m0_b) y0_b                 +  sum_b m_b (y_b - y0_b)
         = between (mass moved to other lengths)   +  within (better answers of like length)

It needs no straight line, and length can only hide in `within` as far as it differs inside a third. Both sums are taken
at the base's means and the policy's masses: the form that averages the two sides would give a third that the policy
has all but left half a vote, by the mean of next to nothing.
Source: Kitagawa (1955), "Components of a difference between two rates"; Oaxaca (1973) for the regression.

    P  prompts
    K  candidates of a prompt
    F  columns of features; columns that share a name are one marker (length and its square)
    M  markers
    S  sizes: values of n, or strengths
    D  bootstrap draws; the sample itself counts as one draw
    X  sums that everything here is a function of
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import expm1, log1p
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rewardsmith.data.surface import FEATURES, surface_features
from rewardsmith.errors import ConfigError
from rewardsmith.statistics import Floats, Interval, Ints, resampled_sums

BUCKETS = 3
FEWEST_PER_COLUMN = 5  # degrees of freedom within prompts for each coefficient: below it nothing is regressed
SMALLEST = 1e-10  # share of the largest direction: below it two markers cannot be told apart
ROUNDING = 1e-10  # of the standard deviation
MOST_SHARE = 1.5  # of a gain: beyond it two numbers say more than a percentage
LENGTH = "length"

# What is looked at, each the log of 1 + the counts of these features of `data.surface` taken together; a ready opener
# is one thing counted.
MARKERS: dict[str, tuple[str, ...]] = {
    LENGTH: ("length",),
    "lists": ("bullets", "numbered items"),
    "bold and headers": ("bold", "headers"),
    "hedging": ("hedges",),
    "refusal": ("refusal",),
    "apology": ("apology",),
    "caveats": ("caveats",),
    "sycophancy": ("ready opener", "thanks and offers"),
    "exclamation": ("exclamation marks",),
    "emoji": ("emoji",),
}


def markers(texts: Sequence[Sequence[str]]) -> tuple[list[str], list[Floats]]:
    """Names of the columns and [K, F] per prompt: `MARKERS`, and the square of the length about its mean.

    With its square, a reward that likes some length best is no "rest". Each distinct text is read once.
    """
    column = {feature.name: index for index, feature in enumerate(FEATURES)}
    columns = [[column[name] for name in names] for names in MARKERS.values()]
    flag = column["ready opener"]  # 0 or 1, where the others are logs of 1 + a count
    seen: dict[str, list[float]] = {}
    for text in (text for row in texts for text in row):
        if text not in seen:
            value = surface_features(text)
            seen[text] = [log1p(sum(value[f] if f == flag else expm1(value[f]) for f in those)) for those in columns]
    rows = [np.array([seen[text] for text in row]).reshape(len(row), len(MARKERS)) for row in texts]
    at = list(MARKERS).index(LENGTH)
    mean = float(np.mean(np.concatenate(rows)[:, at])) if seen else 0.0
    return [*MARKERS, LENGTH], [np.column_stack([row, (row[:, at] - mean) ** 2]) for row in rows]


def bought(
    features: Sequence[ArrayLike],
    names: Sequence[str],
    proxy: Sequence[ArrayLike],
    gold: Sequence[ArrayLike],
    policies: Sequence[ArrayLike],
    base: Sequence[ArrayLike],
    sizes: Sequence[float],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row per size, ready for JSON. Intervals are 95%, over prompts drawn with replacement.

    features  [K, F] per prompt; names  of the F columns. The buckets are thirds of the first column called "length",
              of the first column where none is
    proxy, gold, base  [K] per prompt; base sums to 1
    policies  [S, K] per prompt, each row sums to 1; a row of NaN where the prompt lacks that size

    n, n_prompts
    proxy_gain, gold_gain   means over prompts of E_policy - E_base; proxy_interval, gold_interval
    proxy_sd, gold_sd       within-prompt standard deviation under the base: gains and parts over it can be compared
    parts     per marker, largest part of the proxy's gain first: `proxy` and `gold`, the parts, with intervals;
              `shift`, how far the policy moves the marker's (first) column, and `shift_sd` of within-prompt standard
              deviations, with `low` and `high` (of shift_sd)
    rest      {"proxy", "gold", "proxy_interval", "gold_interval"}: the gain less all parts
    r2        {"proxy", "gold"}: what the markers explain within prompts, in the sample
    within_bucket  {"buckets": mass under base and policy, shortest first, "proxy", "gold": {"between", "within"}}
    reading   the row in a sentence
    reason    why `parts` is empty and `rest` None, else None

    Raises ConfigError where the shapes do not fit.
    """
    pool = _pool(features, names, proxy, gold, policies, base, sizes)
    rows_PX, layout = _sums(pool)
    if not len(rows_PX):
        return []
    sums_DX = rows_PX.sum(0, keepdims=True)
    if len(rows_PX) > 1 and draws:
        sums_DX = np.concatenate([sums_DX, resampled_sums(rows_PX, draws, np.random.default_rng(seed))])
    sums = {name: sums_DX[:, at].reshape(len(sums_DX), *shape) for name, (at, shape) in layout.items()}
    marker_names = list(dict.fromkeys(names))
    group_F = np.array([marker_names.index(name) for name in names])
    freedom = sum(len(row.base_K) - 1 for row in pool)
    reason = None
    if freedom < FEWEST_PER_COLUMN * len(names):
        reason = f"{freedom} candidates beyond one a prompt are too few to regress on {len(names)} columns"
    found = _statistics(sums, group_F)
    return [_row(found, s, size, marker_names, group_F, reason) for s, size in enumerate(sizes)]


@dataclass(frozen=True)
class _Prompt:
    features_KF: Floats
    value_K2: Floats  # proxy and gold
    policy_SK: Floats
    base_K: Floats
    bucket_K: Ints


def _pool(
    features: Sequence[ArrayLike],
    names: Sequence[str],
    proxy: Sequence[ArrayLike],
    gold: Sequence[ArrayLike],
    policies: Sequence[ArrayLike],
    base: Sequence[ArrayLike],
    sizes: Sequence[float],
) -> list[_Prompt]:
    counts = {len(part) for part in (features, proxy, gold, policies, base)}
    if len(counts) != 1:
        raise ConfigError(f"what was bought: parts for {sorted(counts)} prompts, which have to be the same ones")
    at = names.index(LENGTH) if LENGTH in names else 0
    pool = []
    for index, parts in enumerate(zip(features, proxy, gold, policies, base, strict=True)):
        features_KF, proxy_K, gold_K, policy_SK, base_K = (np.asarray(part, np.float64) for part in parts)
        k = len(base_K)
        shapes = features_KF.shape, proxy_K.shape, gold_K.shape, policy_SK.shape
        if shapes != ((k, len(names)), (k,), (k,), (len(sizes), k)):
            raise ConfigError(
                f"what was bought: prompt {index} has features {shapes[0]}, proxy {shapes[1]}, gold {shapes[2]} and "
                f"policies {shapes[3]} for {k} candidates, {len(names)} names and {len(sizes)} sizes"
            )
        value_K2 = np.stack([proxy_K, gold_K], axis=1)
        pool.append(_Prompt(features_KF, value_K2, policy_SK, base_K, thirds(features_KF[:, at])))
    return pool


def thirds(length_K: Floats) -> Ints:
    """[K] bucket of each candidate, 0 the shortest; equal lengths share one, at the middle of their ranks."""
    _, value_K, n_V = np.unique(length_K, return_inverse=True, return_counts=True)
    middle_V = np.cumsum(n_V) - (n_V + 1) / 2  # of 0 .. K - 1
    return np.floor(BUCKETS * (middle_V + 0.5) / max(len(length_K), 1)).astype(np.int64)[value_K]


Layout = dict[str, tuple[slice, tuple[int, ...]]]


def _sums(pool: Sequence[_Prompt]) -> tuple[Floats, Layout]:
    """[P, X] what each prompt adds, and where in X each thing lies, with its shape."""
    parts = [_of_prompt(row) for row in pool]
    layout: Layout = {}
    start = 0
    for name, part in (parts[0] if parts else {}).items():
        layout[name] = slice(start, start + part.size), part.shape
        start += part.size
    flat = [np.concatenate([part.ravel() for part in row.values()]) for row in parts]
    return np.array(flat).reshape(len(parts), start), layout


def _of_prompt(row: _Prompt) -> dict[str, Floats]:
    base_K, features_KF, value_K2 = row.base_K, row.features_KF, row.value_K2
    centred_KF, deviation_K2 = centred(features_KF, base_K), centred(value_K2, base_K)
    has_S = np.asarray(np.isfinite(row.policy_SK).all(1))
    policy_SK = np.where(has_S[:, None], row.policy_SK, base_K)  # no move where the size is not there
    one_KB = np.eye(BUCKETS)[row.bucket_K]
    weighted_K2B = deviation_K2[:, :, None] * one_KB[:, None, :]
    has_S1, has_S11 = has_S[:, None], has_S[:, None, None]
    return {
        "prompts": np.ones(1),
        "gram": (centred_KF * base_K[:, None]).T @ centred_KF,
        "cross": (centred_KF * base_K[:, None]).T @ deviation_K2,
        "variance": base_K @ deviation_K2**2,
        "has": has_S.astype(np.float64),
        "shift": policy_SK @ centred_KF,
        "gain": policy_SK @ deviation_K2,
        "mass": policy_SK @ one_KB * has_S1,
        "mass0": base_K @ one_KB * has_S1,
        "total": np.einsum("sk,kvb->svb", policy_SK, weighted_K2B) * has_S11,
        "total0": np.einsum("k,kvb->vb", base_K, weighted_K2B) * has_S11,
    }


def centred(value_KX: Floats, base_K: Floats) -> Floats:
    """Less the base mean; exactly 0 where a column is the same throughout, so that no rounding is regressed on."""
    value_KX = value_KX - value_KX[:1]
    return value_KX - base_K @ value_KX


def kitagawa(mass_B: Floats, total_B: Floats, mass0_B: Floats, total0_B: Floats) -> tuple[Floats, Floats]:
    """(between, within), summed over the last axis; `total` is mass times mean.

    A bucket that the base leaves empty has no mean there, and its change counts as within; no policy reaches one.
    """
    mean0_B = np.divide(total0_B, mass0_B, out=np.zeros(np.broadcast(total0_B, mass0_B).shape), where=mass0_B > 0)
    return ((mass_B - mass0_B) * mean0_B).sum(-1), (total_B - mass_B * mean0_B).sum(-1)


def _statistics(sums: dict[str, Floats], group_F: Ints) -> dict[str, Floats]:
    """Means of everything per draw, the parts among them: [D, S, ...]."""
    n_D, n_DS1 = sums["prompts"], np.where(sums["has"] > 0, sums["has"], np.nan)[:, :, None]
    variance_DF = np.diagonal(sums["gram"], axis1=1, axis2=2)
    sd_DF = np.sqrt(variance_DF / n_D)
    coefficient_DF2 = _regression(sums["gram"], sums["cross"])
    shift_DSF, gain_DS2 = sums["shift"] / n_DS1, sums["gain"] / n_DS1
    part_DSF2 = shift_DSF[..., None] * coefficient_DF2[:, None]
    in_marker_FM = np.eye(int(group_F.max()) + 1)[group_F]
    part_DSM2 = np.einsum("dsfv,fm->dsmv", part_DSF2, in_marker_FM)
    explained_D2 = np.einsum("dfv,dfv->dv", coefficient_DF2, sums["cross"])
    with np.errstate(invalid="ignore", divide="ignore"):
        r2_D2 = np.where(sums["variance"] > 0, explained_D2 / sums["variance"], np.nan)
        shift_sd_DSF = shift_DSF / np.where(sd_DF > 0, sd_DF, np.nan)[:, None]
    mass_DS1B, mass0_DS1B = sums["mass"][:, :, None], sums["mass0"][:, :, None]
    between_DS2, within_DS2 = kitagawa(mass_DS1B, sums["total"], mass0_DS1B, sums["total0"])
    value_sd_D2 = np.sqrt(sums["variance"] / n_D)

    def whole(value: Floats) -> Floats:
        """Rounding is no gain: best of 1 gains exactly nothing."""
        least = ROUNDING * value_sd_D2.reshape(len(n_D), *[1] * (value.ndim - 2), 2)
        return np.where(np.abs(value) < least, 0.0, value)

    return {
        "has": sums["has"],
        "gain": whole(gain_DS2),
        "part": whole(part_DSM2),
        "rest": whole(gain_DS2 - part_DSM2.sum(2)),
        "shift": shift_DSF,
        "shift_sd": shift_sd_DSF,
        "sd": value_sd_D2,
        "r2": r2_D2,
        "between": whole(between_DS2 / n_DS1),
        "within": whole(within_DS2 / n_DS1),
        "mass": sums["mass"] / n_DS1,
        "mass0": sums["mass0"] / n_DS1,
    }


def _regression(gram_DFF: Floats, cross_DF2: Floats) -> Floats:
    """[D, F, 2] coefficients; 0 for a column that never differs, the shortest solution where some tell the same."""
    scale_DF = np.sqrt(np.diagonal(gram_DFF, axis1=1, axis2=2))
    inverse_DF = np.divide(1.0, scale_DF, out=np.zeros_like(scale_DF), where=scale_DF > 0)
    scaled_DFF = gram_DFF * inverse_DF[:, :, None] * inverse_DF[:, None, :]
    found_DF2: Floats = np.linalg.pinv(scaled_DFF, rcond=SMALLEST, hermitian=True) @ (cross_DF2 * inverse_DF[..., None])
    return found_DF2 * inverse_DF[..., None]


def _row(
    found: dict[str, Floats], s: int, size: float, marker_names: Sequence[str], group_F: Ints, reason: str | None
) -> dict[str, Any]:
    def both(drawn_D2: Floats) -> dict[str, Any]:
        proxy, gold = (_interval(drawn_D2[:, v]) for v in (0, 1))
        return {"proxy": proxy["value"], "gold": gold["value"], "proxy_interval": proxy, "gold_interval": gold}

    def of_marker(m: int, name: str) -> dict[str, Any]:
        first = int(np.flatnonzero(group_F == m)[0])
        shift_sd = _interval(found["shift_sd"][:, s, first])
        return {
            "feature": name,
            **both(found["part"][:, s, m]),
            "shift": _value(found["shift"][0, s, first]),
            "shift_sd": shift_sd["value"],
            "low": shift_sd["low"],
            "high": shift_sd["high"],
        }

    gain = both(found["gain"][:, s])
    parts = [] if reason else [of_marker(m, name) for m, name in enumerate(marker_names)]
    parts.sort(key=lambda part: -abs(part["proxy"] or 0.0))
    row: dict[str, Any] = {
        "n": size,
        "n_prompts": int(found["has"][0, s]),
        "proxy_gain": gain["proxy"],
        "gold_gain": gain["gold"],
        "proxy_interval": gain["proxy_interval"],
        "gold_interval": gain["gold_interval"],
        "proxy_sd": _value(found["sd"][0, 0]),
        "gold_sd": _value(found["sd"][0, 1]),
        "parts": parts,
        "rest": None if reason else both(found["rest"][:, s]),
        "r2": {"proxy": _value(found["r2"][0, 0]), "gold": _value(found["r2"][0, 1])},
        "within_bucket": {
            "buckets": [
                {"base": _value(found["mass0"][0, s, b]), "policy": _value(found["mass"][0, s, b])}
                for b in range(BUCKETS)
            ],
            **{
                side: {name: _interval(found[name][:, s, v]) for name in ("between", "within")}
                for v, side in enumerate(("proxy", "gold"))
            },
        },
        "reason": reason,
    }
    return row | {"reading": reading(row)}


def _interval(values_D: Floats) -> dict[str, float | None]:
    drawn = values_D[1:][~np.isnan(values_D[1:])]
    if np.isnan(values_D[0]) or len(drawn) == 0:
        return Interval(_value(values_D[0])).to_json()
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(values_D[0]), float(low), float(high)).to_json()


def _value(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def reading(row: dict[str, Any]) -> str:
    """The row in a sentence: which marker carries most of the reward's gain, and what it does for gold."""
    where = f"At n = {row['n']:g}"
    if row["proxy_gain"] is None or not row["parts"]:
        return f"{where}: {row['reason'] or 'no prompt has that many candidates'}."
    if not _sure(row["proxy_interval"]):
        return f"{where} the reward has not gained more than noise."
    first = row["parts"][0]
    words = f"{where} {first['feature']} carries {_share(first['proxy'], row, 'proxy')} of the reward's gain and "
    words += f"{_share(first['gold'], row, 'gold')} of gold's"
    rest = row["rest"]["proxy"] / row["proxy_gain"]
    within = row["within_bucket"]["gold"]["within"]
    words += f"; {rest:z.0%} of the reward's gain is none of the markers."
    return f"{words} Among answers of like length gold {_moved(within)}."


def _sure(interval: dict[str, float | None]) -> bool:
    """Whether the interval excludes zero."""
    low, high = interval["low"], interval["high"]
    return low is not None and high is not None and not low <= 0 <= high


def _share(part: float, row: dict[str, Any], side: str) -> str:
    """A part of a gain as a share; as two numbers where the gain is near zero."""
    gain = row[f"{side}_gain"]
    if _sure(row[f"{side}_interval"]) and gain > 0 and abs(part) <= MOST_SHARE * gain:
        return f"{part / gain:z.0%}"  # z: no minus before a rounded zero
    return f"{part:+.3g} (of {gain:+.3g} in all)"


def _moved(interval: dict[str, float | None]) -> str:
    value, low, high = interval["value"], interval["low"], interval["high"]
    if value is None or low is None or high is None:
        return "has no number"
    bounds = f"{value:+.3g} ({low:+.3g} to {high:+.3g})"
    if low <= 0 <= high:
        return f"does not move more than noise: {bounds}"
    return f"{'gains' if value > 0 else 'loses'} {bounds}"
