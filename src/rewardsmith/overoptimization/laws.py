"""The laws of overoptimisation: how gold moves with the distance from the base policy, fitted and tested. numpy only.

    d = sqrt(KL), the gain is gold less the base policy's gold
    bon    gain = d (alpha - beta d)        peak at d = alpha / (2 beta)
    rl     gain = d (alpha - beta log d)    peak at d = exp(alpha / beta - 1)

Both are linear in (alpha, beta). The names are the paper's: one fitted best of n there, the other reinforcement
learning; both are fitted to every curve here. The proxy's own curve has no form in the paper.
Source: Gao et al. (2210.10760), section 3.

    P  prompts
    S  points of a curve: strengths of one kind of policy
    D  bootstrap draws; the sample itself counts as one draw
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardsmith.errors import ConfigError
from rewardsmith.statistics import Floats, Interval, number_or_none, resampled_sums

FORMS = ("bon", "rl")
FORMULA = {"bon": "d (alpha - beta d)", "rl": "d (alpha - beta log d)"}
SAME_KL = 1e-12  # below it a point is the base policy itself
COLLINEAR = 1e-10  # 1 - cos^2 of the two columns: below it one number cannot be told from the other
FLAT = 1e-12  # relative to the largest gold: a spread below it is rounding


def fit_laws(
    kl_PS: ArrayLike,
    gold_PS: ArrayLike,
    base_P: ArrayLike,
    *,
    fit_until: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Both laws on the curve of the mean gain over the mean KL, one row each, ready for JSON.

    kl_PS      KL to the base policy in nats, per prompt and strength; NaN where a prompt lacks that strength
    gold_PS    expected gold there, NaN alike
    base_P     expected gold of the base policy
    fit_until  mean KL up to which the extrapolation test fits; half of the largest by default

    form, formula, alpha, beta
    r2                1 - residual / total sum of squares, the total about the mean of the fitted gains. The law has no
                      constant, so it can be below zero; the points share their prompts, so it says how well the form
                      describes this curve and nothing of noise
    peak_kl, peak_d, gain_at_peak   None where beta is not above zero: no peak. 0 where gold falls from the start
    peak_within       whether the peak lies within the KL that was measured
    *_interval        95%, over prompts drawn with replacement: means, then the fit, in each draw. In a draw without a
                      peak it lies at infinity: `high` is None where more than 2.5% of draws have none
    peak_share        share of draws with a peak
    base, n_prompts, n_points, n_excluded (points of KL 0, which the law meets by itself, and points without a prompt)
    extrapolation     the law fitted on the points up to `fit_until` against the `n_held_out` beyond: `rmse`,
                      `largest_error`, `r2` (about the held-out mean), and `constant`, the errors of staying at the last
                      fitted gain; `rmse_less_constant` below zero: the law extrapolates better than that
    reason            why numbers are None, else None

    Raises ConfigError where the shapes do not fit.
    """
    curve = _curve(kl_PS, gold_PS, base_P, draws, seed)
    return [_row(form, curve, fit_until) for form in FORMS]


def gain_of(form: str, d: ArrayLike, alpha: ArrayLike, beta: ArrayLike) -> Floats:
    """The gain that a law states at distance d = sqrt(KL) >= 0, elementwise."""
    x1, x2 = _columns(form, np.asarray(d, np.float64))
    return np.asarray(alpha, np.float64) * x1 - np.asarray(beta, np.float64) * x2


@dataclass(frozen=True)
class _Curve:
    """Mean distance and gain per draw at the points that are fitted; the first draw is the sample itself."""

    d_DS: Floats
    gain_DS: Floats
    base: float
    n_prompts: int
    n_excluded: int
    largest_gold: float


def _curve(kl_PS: ArrayLike, gold_PS: ArrayLike, base_P: ArrayLike, draws: int, seed: int) -> _Curve:
    kl_PS, gold_PS, base_P = (np.asarray(values, np.float64) for values in (kl_PS, gold_PS, base_P))
    if kl_PS.ndim != 2 or kl_PS.shape != gold_PS.shape or base_P.shape != kl_PS.shape[:1]:
        raise ConfigError(
            f"laws: KL {kl_PS.shape}, gold {gold_PS.shape} and base gold {base_P.shape} do not fit: the first two are "
            "[prompts, strengths], the third [prompts]"
        )
    gain_PS = gold_PS - base_P[:, None]
    known_PS = np.isfinite(kl_PS) & np.isfinite(gain_PS)
    rows = [np.where(known_PS, values, 0.0) for values in (kl_PS, gain_PS)]
    rows_PX = np.concatenate([*rows, known_PS], axis=1)
    sums_DX = rows_PX.sum(0, keepdims=True)
    if len(rows_PX) > 1 and draws:
        sums_DX = np.concatenate([sums_DX, resampled_sums(rows_PX, draws, np.random.default_rng(seed))])
    kl_DS, gain_DS, n_DS = np.split(sums_DX, 3, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        kl_DS, gain_DS = kl_DS / n_DS, gain_DS / n_DS
    kept_S = kl_DS[0] > SAME_KL  # false for NaN too
    order_S = np.flatnonzero(kept_S)[np.argsort(kl_DS[0, kept_S], kind="stable")]
    return _Curve(
        d_DS=np.sqrt(np.maximum(kl_DS[:, order_S], 0.0)),
        gain_DS=gain_DS[:, order_S],
        base=float(base_P.mean()) if len(base_P) else np.nan,
        n_prompts=len(base_P),
        n_excluded=int((~kept_S).sum()),
        largest_gold=float(np.max(np.abs(np.where(known_PS, gold_PS, 0.0)), initial=0.0)),
    )


def _row(form: str, curve: _Curve, fit_until: float | None) -> dict[str, Any]:
    alpha_D, beta_D = _fit(form, curve.d_DS, curve.gain_DS)
    fitted_DS = gain_of(form, curve.d_DS, alpha_D[:, None], beta_D[:, None])
    r2_D = _r2(curve.gain_DS, fitted_DS, curve.largest_gold)
    if curve.d_DS.shape[1] < 3:  # two numbers go through two points whatever these are
        r2_D = np.full_like(r2_D, np.nan)
    peak_D = _peak(form, alpha_D, beta_D)
    d, has_peak_D = peak_D[0], np.isfinite(peak_D)
    known_D = ~np.isnan(alpha_D)
    return {
        "form": form,
        "formula": FORMULA[form],
        "alpha": number_or_none(alpha_D[0]),
        "beta": number_or_none(beta_D[0]),
        "r2": number_or_none(r2_D[0]),
        "peak_kl": float(d**2) if has_peak_D[0] else None,
        "peak_d": float(d) if has_peak_D[0] else None,
        "gain_at_peak": float(gain_of(form, d, alpha_D[0], beta_D[0])) if has_peak_D[0] else None,
        "peak_within": bool(d <= curve.d_DS[0].max()) if has_peak_D[0] else None,
        "alpha_interval": _interval(alpha_D),
        "beta_interval": _interval(beta_D),
        "r2_interval": _interval(r2_D),
        "peak_kl_interval": _interval(np.where(known_D, peak_D**2, np.nan)),
        "peak_share": float(has_peak_D[1:].sum() / known_D[1:].sum()) if known_D[1:].any() else None,
        "base": number_or_none(curve.base),
        "n_prompts": curve.n_prompts,
        "n_points": curve.d_DS.shape[1],
        "n_excluded": curve.n_excluded,
        "kl_from": float(curve.d_DS[0].min() ** 2) if curve.d_DS.size else None,
        "kl_to": float(curve.d_DS[0].max() ** 2) if curve.d_DS.size else None,
        "extrapolation": _extrapolation(form, curve, fit_until),
        "reason": _reason(curve.d_DS[0], alpha_D[0], beta_D[0], r2_D[0]),
    }


def _columns(form: str, d: Floats) -> tuple[Floats, Floats]:
    """What alpha and minus beta multiply."""
    if form == "bon":
        return d, d**2
    if form == "rl":
        return d, d * np.log(np.where(d > 0, d, 1.0))
    raise ConfigError(f"no law is called '{form}': {' or '.join(FORMS)}")


def _fit(form: str, d_DS: Floats, gain_DS: Floats) -> tuple[Floats, Floats]:
    """[D] alpha and beta by least squares, by the 2 x 2 normal equations; NaN where the points do not settle both."""
    x1, x2 = _columns(form, d_DS)
    a11, a12, a22 = ((u * v).sum(1) for u, v in ((x1, x1), (x1, x2), (x2, x2)))
    b1, b2 = (x1 * gain_DS).sum(1), (x2 * gain_DS).sum(1)
    det = a11 * a22 - a12**2
    det = np.where(det > COLLINEAR * a11 * a22, det, np.nan)
    return (a22 * b1 - a12 * b2) / det, (a12 * b1 - a11 * b2) / det


def _r2(gain_DS: Floats, fitted_DS: Floats, largest_gold: float) -> Floats:
    """[D] about the mean; NaN where the gains do not differ."""
    if not gain_DS.shape[1]:
        return np.full(len(gain_DS), np.nan)
    total_D = ((gain_DS - gain_DS.mean(1, keepdims=True)) ** 2).sum(1)
    residual_D = ((gain_DS - fitted_DS) ** 2).sum(1)
    flat_D = total_D <= gain_DS.shape[1] * (FLAT * largest_gold) ** 2
    return 1 - residual_D / np.where(flat_D, np.nan, total_D)


def _peak(form: str, alpha_D: Floats, beta_D: Floats) -> Floats:
    """[D] distance of the highest gain; infinite where the law has no peak."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        ratio_D = alpha_D / beta_D
        peak_D = np.maximum(ratio_D / 2, 0.0) if form == "bon" else np.exp(ratio_D - 1)
        return np.where((beta_D > 0) & np.isfinite(peak_D**2), peak_D, np.inf)


def _interval(values_D: Floats) -> dict[str, float | None]:
    """Value of the sample with the 95% interval of the draws; what lies at infinity is None."""
    drawn = values_D[1:][~np.isnan(values_D[1:])]
    found = [values_D[0]]
    if len(drawn) and not np.isnan(values_D[0]):
        # Not interpolated: between two infinities there is no number.
        found += [np.quantile(drawn, 0.025, method="lower"), np.quantile(drawn, 0.975, method="higher")]
    return Interval(*(float(x) if np.isfinite(x) else None for x in found)).to_json()


def _reason(d_S: Floats, alpha: float, beta: float, r2: float) -> str | None:
    if not len(d_S):
        return "no point lies away from the base policy"
    if len(d_S) == 1:
        return "one point away from the base policy cannot settle two numbers"
    if np.isnan(alpha):
        return "the points have the same KL, which cannot settle two numbers"
    if np.isnan(r2):
        return "two points: any such law goes through both" if len(d_S) == 2 else "gold is the same at every point"
    return None if beta > 0 else "beta is not above zero: by this law gold has no peak"


def _extrapolation(form: str, curve: _Curve, fit_until: float | None) -> dict[str, Any]:
    d_S = curve.d_DS[0]
    limit = (d_S.max() ** 2 / 2 if len(d_S) else 0.0) if fit_until is None else fit_until
    near_S: NDArray[np.bool_] = d_S**2 <= limit * (1 + 1e-9)
    d_DS, gain_DS = curve.d_DS[:, ~near_S], curve.gain_DS[:, ~near_S]
    alpha_D, beta_D = _fit(form, curve.d_DS[:, near_S], curve.gain_DS[:, near_S])
    row: dict[str, Any] = {
        "fit_until": float(limit),
        "n_fitted": int(near_S.sum()),
        "n_held_out": int((~near_S).sum()),
        "alpha": number_or_none(alpha_D[0]),
        "beta": number_or_none(beta_D[0]),
        "rmse": None,
        "largest_error": None,
        "r2": None,
        "constant": {"rmse": None, "largest_error": None},
        "rmse_less_constant": Interval(None).to_json(),
    }
    if not d_DS.shape[1] or np.isnan(alpha_D[0]):
        what = "no point lies beyond the limit" if not d_DS.shape[1] else "the points up to the limit settle no law"
        return row | {"reason": what}
    predicted_DS = gain_of(form, d_DS, alpha_D[:, None], beta_D[:, None])
    error_DS, still_DS = predicted_DS - gain_DS, curve.gain_DS[:, near_S][:, -1:] - gain_DS
    rmse_D, still_D = (np.sqrt((e**2).mean(1)) for e in (error_DS, still_DS))
    return row | {
        "rmse": float(rmse_D[0]),
        "largest_error": float(np.abs(error_DS[0]).max()),
        "r2": number_or_none(_r2(gain_DS[:1], predicted_DS[:1], curve.largest_gold)[0]),
        "constant": {"rmse": float(still_D[0]), "largest_error": float(np.abs(still_DS[0]).max())},
        "rmse_less_constant": _interval(rmse_D - still_D),
        "reason": None,
    }


def fit_draws(
    form: str, kl_PS: ArrayLike, gold_PS: ArrayLike, base_P: ArrayLike, *, draws: int = 1000, seed: int = 0
) -> tuple[Floats, Floats]:
    """[D] alpha and beta of one law in each bootstrap draw of prompts, the sample itself first: what an interval of a
    prediction needs. Arguments as of `fit_laws`."""
    curve = _curve(kl_PS, gold_PS, base_P, draws, seed)
    return _fit(form, curve.d_DS, curve.gain_DS)
