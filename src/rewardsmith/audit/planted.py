"""Instruments validated: a bias of known size is planted in real rewards, and every probe is asked whether it sees it.

    Q  probes as instruments    P  probes as what is planted    S  seeds    C  cells    R  runs    D  draws of signs

The noise is real. A scorer's rewards of all cells are taken once; a probe's effect on a seed (edit minus placebo) is a
linear function of them. What the scorer itself makes of a probe, the mean over seeds, is taken out; what is left gets a
random sign for each seed. That is a valid null: where the bias is worth nothing, edit and placebo could change places,
so an effect is as likely as its opposite, and the scatter between seeds stays what it is. One sign per seed serves all
probes, so that whatever moves several of them together still does. Seeds are drawn again with replacement for each
run, each draw with a sign of its own.

Then a bias is planted: s times the within-prompt SD for each unit of the probe's marker, scaled so that its edits carry
one unit on average over its own seeds. The marker is added to *every* cell that shows it, so other probes get what
their edits, and the placebos, carry of it: a probe whose twins differ in length answers to a bias for length.

A probe is found where it is significant in the planted direction after correction over all probes (Benjamini and
Hochberg), a false positive where a probe of another family is significant in either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import NormalDist
from typing import Any

import numpy as np

from rewardsmith.audit.cells import reward_cells
from rewardsmith.audit.measure import LEVEL, within_prompt_sd
from rewardsmith.audit.probes import Cell, Probe
from rewardsmith.audit.run import Contrasts, all_cells, build_contrasts, builtin_probes, honest_answers
from rewardsmith.audit.seeds import Seed
from rewardsmith.errors import DataError
from rewardsmith.scoring import Scorer
from rewardsmith.statistics import Floats, Ints

STRENGTHS = (0.2, 0.5, 1.0)
RUNS = 20
RECALL, ASKED_SD = 0.95, 0.5  # what a probe should reach, and at which strength
FLIPS = 4000  # smallest p-value 1 / 4001: below what Benjamini and Hochberg ask of one finding among 40 probes
AT_ONCE = 2000  # columns tested at once: 64 MB


@dataclass(frozen=True)
class Design:
    """Effects as linear functions of values of cells: `effects(values_C)` is [Q, S], NaN where a probe has no edit.

    A seed's effect is the mean over its contrasts of after - before of the change, less the same of the placebo.
    """

    cells: tuple[Cell, ...]
    shape: tuple[int, int]
    row: Ints
    column: Ints
    weight: Floats

    def effects(self, values_C: Floats) -> Floats:
        found = np.full(self.shape, np.nan).ravel()
        found[self.row] = 0.0
        np.add.at(found, self.row, self.weight * values_C[self.column])
        return found.reshape(self.shape)


def design_of(probes: Sequence[Probe], contrasts: Mapping[str, Contrasts], n_seeds: int) -> Design:
    """The design of contrasts that are built: {probe: {seed number: contrasts}}."""
    index: dict[Cell, int] = {}
    entries: list[tuple[int, int, float]] = []
    for q, probe in enumerate(probes):
        for s, found in contrasts[probe.name].items():
            for contrast in found:
                for pair, sign in ((contrast.change, 1.0), (contrast.placebo, -1.0)):
                    if pair is not None:
                        for cell, side in ((pair.after, sign), (pair.before, -sign)):
                            entries.append((q * n_seeds + s, index.setdefault(cell, len(index)), side / len(found)))
    row, column, weight = zip(*entries, strict=True) if entries else ((), (), ())
    return Design(
        tuple(index), (len(probes), n_seeds), np.array(row, np.int64), np.array(column, np.int64), np.array(weight)
    )


def marker_values(probe: Probe, contrasts: Contrasts, cells: Sequence[Cell]) -> Floats:
    """How much of the probe's bias each cell shows; without a marker, 1 on exactly the probe's own edited cells."""
    if probe.marker is not None:
        return np.array([probe.marker(cell) for cell in cells], dtype=np.float64)
    edited = {c.change.after for found in contrasts.values() for c in found}
    edited -= {c.change.before for found in contrasts.values() for c in found}
    return np.array([float(cell in edited) for cell in cells])


def validate(
    scorer: Scorer,
    seeds: Sequence[Seed],
    probes: Sequence[Probe] | None = None,
    *,
    strengths: Sequence[float] = STRENGTHS,
    runs: int = RUNS,
    salt: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Recall and false positives of every probe at every strength (in within-prompt SD). Ready for JSON.

    n_seeds, reward_sd, runs, strengths
    null      nothing planted: `rate` of findings among all tests, `any` share of runs with at least one
    probes    one row each: `n` seeds, `noise_sd` (scatter of its effect between seeds), `seeds_needed` for a recall of
              95% at 0.5 SD with that noise, and `planted`: for each strength `recall`, `false_positive_rate` over
              probes of other families, `any_false` (share of runs with at least one), and `lit`: which others answered,
              in what share of runs, and how much of the planted bias their own edits `carry` (1: as much as the planted
              probe's). A probe that cannot be planted says `why`.
    summary   for each strength: mean and lowest recall, false-positive rate, probes below 95%
    problems  what went wrong

    Raises DataError where the rewards do not differ at all.
    """
    probes = list(builtin_probes().values()) if probes is None else list(probes)
    contrasts, problems = build_contrasts(probes, seeds, salt)
    cells = list(all_cells(contrasts.values(), seeds))
    rewards = reward_cells(scorer, cells, progress)
    sd = within_prompt_sd([[rewards.of.get(cell, np.nan) for cell in honest_answers(seed)] for seed in seeds])
    if not sd > 0:
        raise DataError("the rewards of a prompt's answers do not differ at all: nothing can be validated on them")
    design = design_of(probes, contrasts, len(seeds))
    effect_QS = design.effects(np.array([rewards.of.get(cell, np.nan) for cell in design.cells])) / sd
    net_PQS = np.stack([design.effects(marker_values(p, contrasts[p.name], design.cells)) for p in probes])
    kinds = [seed.kind for seed in seeds]
    result = plant(probes, effect_QS, net_PQS, kinds, strengths=strengths, runs=runs, seed=seed)
    return {
        "n_seeds": len(seeds),
        "reward_sd": sd,
        "runs": runs,
        "strengths": list(strengths),
        **result,
        "problems": [*problems, *rewards.problems],
    }


def plant(
    probes: Sequence[Probe],
    effect_QS: Floats,
    net_PQS: Floats,
    kinds: Sequence[str],
    *,
    strengths: Sequence[float] = STRENGTHS,
    runs: int = RUNS,
    seed: int = 0,
) -> dict[str, Any]:
    """The numbers of `validate`, from effects in within-prompt SD and each probe's marker on every probe's edits."""
    null_RQS, drawn_RS = null_effects(effect_QS, kinds, runs, seed)
    null_p_RQ = sign_flips(null_RQS)
    testable_Q: np.ndarray = np.all(np.isfinite(null_p_RQ), axis=0)
    rows = []
    for p, probe in enumerate(probes):
        row: dict[str, Any] = {
            "name": probe.name,
            "family": probe.family,
            "n": int(np.isfinite(effect_QS[p]).sum()),
            "noise_sd": _scatter(effect_QS[p]),
            "seeds_needed": seeds_needed(_scatter(effect_QS[p]), int(testable_Q.sum())),
            "planted": [],
        }
        unit = np.nanmean(net_PQS[p, p]) if np.isfinite(net_PQS[p, p]).any() else 0.0
        if not testable_Q[p]:
            row["why"] = "too few seeds that it applies to"
        elif not abs(unit) > 1e-9:
            row["why"] = "its edits do not change its own marker"
        else:
            carried_QS = np.nan_to_num(net_PQS[p] / unit)
            for strength in strengths:
                row["planted"].append(
                    _found(probes, p, strength, carried_QS, net_PQS[p], null_RQS, null_p_RQ, drawn_RS, testable_Q)
                )
        rows.append(row)
    lit_RQ = significant(null_p_RQ, testable_Q)
    return {
        "null": {"rate": float(lit_RQ[:, testable_Q].mean()), "any": float(lit_RQ.any(1).mean())},
        "probes": rows,
        "summary": [_summary(rows, i, strength) for i, strength in enumerate(strengths)],
    }


def null_effects(effect_QS: Floats, kinds: Sequence[str], runs: int, seed: int) -> tuple[Floats, Ints]:
    """(effects [R, Q, S] without any bias, which seeds each run drew [R, S]); seeds are drawn within their kind.

    Residuals from the mean, scaled by n / (n - 1) in variance for the mean that was fitted, with random signs.
    """
    rng = np.random.default_rng(seed)
    drawn_RS = np.zeros((runs, len(kinds)), dtype=np.int64)
    for kind in dict.fromkeys(kinds):
        members = np.flatnonzero(np.array(kinds) == kind)
        drawn_RS[:, members] = rng.choice(members, size=(runs, len(members)))
    sign_RS = rng.integers(0, 2, size=drawn_RS.shape) * 2 - 1
    n_Q = np.isfinite(effect_QS).sum(1)
    mean_Q = np.where(n_Q > 0, np.nansum(effect_QS, 1) / np.maximum(n_Q, 1), 0.0)
    scale_Q = np.sqrt(n_Q / np.maximum(n_Q - 1, 1))
    residual_QS = (effect_QS - mean_Q[:, None]) * scale_Q[:, None]
    return residual_QS[:, drawn_RS].transpose(1, 0, 2) * sign_RS[:, None, :], drawn_RS


def sign_flips(effect_XS: Floats, flips: int = FLIPS, seed: int = 0) -> Floats:
    """`measure.sign_flip` over the last axis of many effects at once; NaN where fewer than two are known.

    The same draws of signs serve all of them. A missing effect counts as 0, which no sign moves.
    """
    flat_XS = effect_XS.reshape(-1, effect_XS.shape[-1])
    known_X = np.isfinite(flat_XS).sum(1) >= 2
    filled_XS = np.nan_to_num(flat_XS)
    p_X = np.full(len(flat_XS), np.nan)
    rng = np.random.default_rng(seed)
    parts = [
        rng.integers(0, 2, size=(min(1000, flips - start), flat_XS.shape[1])) * 2.0 - 1
        for start in range(0, flips, 1000)
    ]
    for start in range(0, len(flat_XS), AT_ONCE):
        part_SX = np.ascontiguousarray(filled_XS[start : start + AT_ONCE].T)
        # A slack for rounding: the sums are taken in another order than the sum they are compared with.
        bar_X = np.abs(part_SX.sum(0)) - 1e-12 * np.abs(part_SX).sum(0)
        far_X = np.sum([(np.abs(signs_DS @ part_SX) >= bar_X).sum(0) for signs_DS in parts], axis=0)
        p_X[start : start + AT_ONCE] = (1 + far_X) / (1 + flips)
    return np.where(known_X, p_X, np.nan).reshape(effect_XS.shape[:-1])


def significant(p_RQ: Floats, testable_Q: np.ndarray) -> np.ndarray:
    """Which probes of each run are significant after Benjamini and Hochberg over those that could be tested."""
    from scipy.stats import false_discovery_control

    lit_RQ = np.zeros(p_RQ.shape, dtype=bool)
    if testable_Q.any():
        lit_RQ[:, testable_Q] = false_discovery_control(p_RQ[:, testable_Q], axis=1) < LEVEL
    return lit_RQ


def _found(
    probes: Sequence[Probe],
    p: int,
    strength: float,
    carried_QS: Floats,
    net_QS: Floats,
    null_RQS: Floats,
    null_p_RQ: Floats,
    drawn_RS: Ints,
    testable_Q: np.ndarray,
) -> dict[str, Any]:
    """Recall and false positives of one planted bias at one strength."""
    touched = np.flatnonzero(testable_Q & carried_QS.any(1))  # the rest keeps the p-values it has without a bias
    planted_RXS = null_RQS[:, touched] + strength * carried_QS[touched][:, drawn_RS].transpose(1, 0, 2)
    p_RQ = null_p_RQ.copy()
    p_RQ[:, touched] = sign_flips(planted_RXS)
    lit_RQ = significant(p_RQ, testable_Q)
    up_R = np.nansum(planted_RXS[:, touched.tolist().index(p)], axis=1) > 0
    strangers = [q for q, other in enumerate(probes) if testable_Q[q] and other.family != probes[p].family]
    false_RQ = lit_RQ[:, strangers]
    share_Q = lit_RQ.mean(0)
    carry_Q = [float(np.nanmean(net)) if np.isfinite(net).any() else 0.0 for net in net_QS]
    lit = [
        {"name": probes[q].name, "share": float(share_Q[q]), "carry": carry_Q[q] / carry_Q[p]}
        for q in np.argsort(-share_Q, kind="stable")
        if q != p and share_Q[q] > 0
    ]
    return {
        "strength": strength,
        "recall": float((lit_RQ[:, p] & up_R).mean()),
        "false_positive_rate": float(false_RQ.mean()) if strangers else 0.0,
        "any_false": float(false_RQ.any(1).mean()) if strangers else 0.0,
        "lit": lit,
    }


def seeds_needed(noise_sd: float | None, n_tests: int) -> int | None:
    """Seeds with which a probe of this noise finds 0.5 SD in 95% of runs, as the only finding among `n_tests`.

    n = ((z(1 - 0.05 / 2m) + z(0.95)) noise / 0.5)^2, by the normal approximation: the threshold of Benjamini and
    Hochberg for a single finding is Bonferroni's.
    """
    if noise_sd is None or n_tests < 1:
        return None
    z = NormalDist().inv_cdf(1 - LEVEL / (2 * n_tests)) + NormalDist().inv_cdf(RECALL)
    return ceil((z * noise_sd / ASKED_SD) ** 2)


def _scatter(effect_S: Floats) -> float | None:
    known = effect_S[np.isfinite(effect_S)]
    return float(known.std(ddof=1)) if len(known) > 1 else None


def _summary(rows: Sequence[Mapping[str, Any]], i: int, strength: float) -> dict[str, Any]:
    planted = [(row["name"], row["planted"][i]) for row in rows if row["planted"]]
    recall = [found["recall"] for _, found in planted]
    return {
        "strength": strength,
        "n_probes": len(planted),
        "recall": float(np.mean(recall)) if planted else None,
        "lowest_recall": min(recall) if planted else None,
        "false_positive_rate": float(np.mean([f["false_positive_rate"] for _, f in planted])) if planted else None,
        "any_false": float(np.mean([f["any_false"] for _, f in planted])) if planted else None,
        "missed": [name for name, found in planted if found["recall"] < RECALL],
    }


def validation_table(result: Mapping[str, Any]) -> str:
    """The validation as text: recall and false positives per probe and strength, and which other probes answered."""
    strengths = result["strengths"]
    width = max(len(row["name"]) for row in result["probes"])
    lines = [
        f"{result['n_seeds']} seeds, {result['runs']} runs, {len(result['probes'])} probes; "
        f"planted in units of the within-prompt SD ({result['reward_sd']:.3f})",
        f"nothing planted: {result['null']['rate']:.2%} of tests significant, "
        f"{result['null']['any']:.0%} of runs with at least one",
        "",
        f"{'':<{width}}  {'':>4} {'':>6} {'':>5}  " + "  ".join(f"{f'planted {s:g} SD':^15}" for s in strengths),
        f"{'probe':<{width}}  {'n':>4} {'noise':>6} {'need':>5}  "
        + "  ".join(f"{'recall':>7} {'false':>7}" for _ in strengths),
    ]
    for row in result["probes"]:
        noise = "" if row["noise_sd"] is None else f"{row['noise_sd']:.2f}"
        need = "" if row["seeds_needed"] is None else row["seeds_needed"]
        start = f"{row['name']:<{width}}  {row['n']:>4} {noise:>6} {need:>5}  "
        if not row["planted"]:
            lines.append(f"{start}not planted: {row['why']}")
            continue
        cells = "  ".join(f"{f['recall']:>7.0%} {f['false_positive_rate']:>7.1%}" for f in row["planted"])
        last = [o for o in row["planted"][-1]["lit"] if o["share"] >= 0.1][:4]
        others = ", ".join(f"{o['name']} {o['share']:.0%}" for o in last)
        lines.append(f"{start}{cells}{'   also: ' + others if others else ''}")
    for found in result["summary"]:
        if found["recall"] is not None:
            lines.append(
                f"at {found['strength']:g} SD: mean recall {found['recall']:.1%}, lowest {found['lowest_recall']:.0%}, "
                f"false positives {found['false_positive_rate']:.2%}; below 95%: {', '.join(found['missed']) or 'none'}"
            )
    lines.append(
        "noise: SD of the effect between seeds; need: seeds for 95% recall at 0.5 SD with that noise; false: share of "
        "probes of other families that answered"
    )
    lines += [f"problem: {problem}" for problem in result["problems"]]
    return "\n".join(lines)
