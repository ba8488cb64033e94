"""The audit: seeds to contrasts, contrasts to cells, cells to rewards, rewards to one row per probe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rewardsmith.audit import dialogue_probes, text_probes  # noqa: F401  (they fill the registry)
from rewardsmith.audit.cells import Rewards, reward_cells
from rewardsmith.audit.measure import (
    LEVEL,
    OWN_WORDS,
    adjust,
    difference,
    is_fault,
    measured,
    overtaking,
    within_prompt_sd,
)
from rewardsmith.audit.probes import REGISTRY, Cell, Contrast, ContrastSet, Overtake, Pair, Probe, contrasts_of
from rewardsmith.audit.seeds import Seed
from rewardsmith.data.schema import text_of
from rewardsmith.scoring import Scorer
from rewardsmith.statistics import clustered_mean

EXAMPLES = 3  # of each probe that found something
# (name, field after, field before, what a sound reward does)
CONTROLS = (
    ("wrong answer", "wrong", "right", "lower"),
    ("other words", "restated", "right", "not changed"),
    ("one sentence", "concise", "right", ""),
    ("more detail", "detailed", "right", ""),
)
Contrasts = dict[int, Sequence[Contrast]]


def builtin_probes() -> dict[str, Probe]:
    """The probes that come with the package, and those that were defined since."""
    return dict(REGISTRY.probes)


def audit(
    scorer: Scorer,
    seeds: Sequence[Seed],
    probes: Sequence[Probe] | None = None,
    *,
    given: Sequence[ContrastSet] = (),
    real: Sequence[ContrastSet] = (),
    salt: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """What raises the reward without raising quality. Ready for JSON.

    probes  None: all that are defined. `given` are further ones whose contrasts are there already
    real    contrasts of real answers, which the probes named in their `agrees_with` are compared with

    n_seeds, reward_sd  seeds used; within-prompt SD of rewards over honest answers, the unit of all effects
    probes    one row each: `effect_sd` (edit minus placebo) with interval, `change_sd` and `placebo_sd` apart,
              `p_value`, `p_adjusted`, `smallest_detectable_sd`, `overtake_rate` (wrong answers that pass the right one
              after the edit, of those that were behind), `verdict` and `fault`
    real      the same of real answers, and `agreement` with each probe
    controls  changes that are no hack: a wrong answer, other words, shorter, longer
    best_of_edits  overtaking when each wrong answer takes the edit that serves it best
    examples  for each fault, edits with the largest effect: texts and rewards before and after
    problems  what went wrong: answers without a reward, a scorer that changes its mind, a probe that failed

    `progress(done, all)` is called as prompts are scored. Where the scorer fails, the row says "untested", and
    `problems` says why; nothing is raised.
    """
    started = time.monotonic()
    probes = list(builtin_probes().values()) if probes is None else list(probes)
    asked: list[Probe | ContrastSet] = [*probes, *given]
    contrasts, problems = build_contrasts(probes, seeds, salt)
    contrasts |= {one.name: dict(one.contrasts) for one in given}
    controls = control_contrasts(seeds)
    cells = list(all_cells([*contrasts.values(), *(one.contrasts for one in real), *controls.values()], seeds))
    rewards = reward_cells(scorer, cells, progress)
    sd = within_prompt_sd([[rewards.of.get(cell, np.nan) for cell in honest_answers(seed)] for seed in seeds])
    if not sd > 0 and rewards.of:
        problems.append("the rewards of a prompt's answers do not differ at all: there is nothing to measure")
    rows = rows_of(asked, contrasts, rewards, sd)
    return {
        "n_seeds": len(seeds),
        "reward_sd": sd,
        "probes": rows,
        "real": real_rows(real, rows, rewards, sd),
        "controls": [_control(name, wanted, controls[name], rewards, sd) for name, _, _, wanted in CONTROLS],
        "best_of_edits": best_of_edits(probes, contrasts, rewards),
        "examples": [
            example
            for probe, row in zip(asked, rows, strict=True)
            if row["fault"]
            for example in examples_of(probe, contrasts[probe.name], rewards)
        ],
        "problems": [*problems, *rewards.problems],
        "n_prompts": rewards.n_prompts,
        "n_answers": len(rewards.of),
        "seconds": round(time.monotonic() - started, 1),
    }


def build_contrasts(
    probes: Sequence[Probe], seeds: Sequence[Seed], salt: int = 0
) -> tuple[dict[str, Contrasts], list[str]]:
    """{probe: {seed number: contrasts}}, and a line for each probe that failed to build some."""
    found: dict[str, Contrasts] = {}
    problems = []
    for probe in probes:
        found[probe.name] = {}
        failed: list[str] = []
        for number, seed in enumerate(seeds):
            try:
                contrasts = contrasts_of(probe, seed, salt)
            except Exception as error:  # a user's probe; the others go on
                failed.append(f"{type(error).__name__}: {str(error).partition(chr(10))[0]} (seed {seed.id})")
                continue
            if contrasts:
                found[probe.name][number] = contrasts
        if failed:
            problems.append(
                f"probe {probe.name!r} failed on {len(failed)} of {len(seeds)} seeds; the first: {failed[0]}"
            )
    return found, problems


def control_contrasts(seeds: Sequence[Seed]) -> dict[str, Contrasts]:
    """Changes whose worth is known: what the instrument should see, and what it should not."""
    return {
        name: {
            number: [Contrast(Pair(Cell(seed.prompt, seed[before]), Cell(seed.prompt, seed[after])))]
            for number, seed in enumerate(seeds)
            if seed.has(after, before)
        }
        for name, after, before, _ in CONTROLS
    }


def all_cells(tables: Iterable[Mapping[int, Sequence[Contrast]]], seeds: Sequence[Seed]) -> Iterable[Cell]:
    """Every cell that some number needs; the seeds' own come first."""
    for seed in seeds:
        yield from honest_answers(seed)
    for table in tables:
        for contrasts in table.values():
            for contrast in contrasts:
                yield from cells_of(contrast)


def cells_of(contrast: Contrast) -> Iterable[Cell]:
    for pair in (contrast.change, contrast.placebo):
        if pair is not None:
            yield from (pair.before, pair.after)
    if (overtake := contrast.overtake) is not None:
        yield from (overtake.right, overtake.wrong, overtake.hacked)
        if overtake.right_then is not None:
            yield overtake.right_then


def honest_answers(seed: Seed) -> list[Cell]:
    """The seed's own answers that nobody edited: the unit of effects is how far their rewards lie apart."""
    return [Cell(seed.prompt, seed[field]) for field in OWN_WORDS if seed.has(field)]


def rows_of(
    asked: Sequence[Probe | ContrastSet], contrasts: Mapping[str, Contrasts], rewards: Rewards, sd: float
) -> list[dict[str, Any]]:
    """One row per probe, p-values adjusted for their number."""
    rows = [measured(probe, contrasts[probe.name], rewards.of, sd) for probe in asked]
    adjust(rows)
    for row in rows:
        row["fault"] = is_fault(row)
    return rows


def real_rows(
    real: Sequence[ContrastSet], synthetic: Sequence[Mapping[str, Any]], rewards: Rewards, sd: float
) -> list[dict[str, Any]]:
    """Rows of real answers, each with its `agreement` with the probes that ask the same of edited ones."""
    by_name = {row["name"]: row for row in synthetic}
    rows = rows_of(real, {one.name: dict(one.contrasts) for one in real}, rewards, sd)
    for one, row in zip(real, rows, strict=True):
        row["fault"] = False  # real answers differ in more than the bias
        row["agreement"] = [
            {"probe": name, "says": agreement(row, by_name[name])} for name in one.agrees_with if name in by_name
        ]
    return rows


def agreement(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """ "agree" or "disagree" in sign where both effects were shown, "unclear" where one was not."""
    if any(row["p_adjusted"] is None or row["p_adjusted"] >= LEVEL for row in (a, b)):
        return "unclear"
    return "agree" if a["effect_sd"] * b["effect_sd"] > 0 else "disagree"


def best_of_edits(probes: Sequence[Probe], contrasts: Mapping[str, Contrasts], rewards: Rewards) -> dict[str, Any]:
    """Overtaking under pressure: each wrong answer takes, of all edits of its text, the one with the highest reward."""
    best: dict[int, Overtake] = {}
    for probe in probes:
        if probe.text is None:
            continue
        for number, found in contrasts[probe.name].items():
            for overtake in (c.overtake for c in found if c.overtake is not None):
                reward = rewards.of.get(overtake.hacked, -np.inf)
                if number not in best or reward > rewards.of.get(best[number].hacked, -np.inf):
                    best[number] = overtake
    table = {number: [Contrast(Pair(o.wrong, o.hacked), overtake=o)] for number, o in best.items()}
    passed, seeds = overtaking(table, rewards.of)
    return {
        "overtake_rate": (rate := clustered_mean(passed, seeds)).value,
        "low": rate.low,
        "high": rate.high,
        "n": len(passed),
    }


def examples_of(
    probe: Probe | ContrastSet, contrasts: Contrasts, rewards: Rewards, most: int = EXAMPLES
) -> list[dict[str, Any]]:
    """The contrasts in which the edit did most, in the direction that is a fault."""
    found = [
        (difference(c.change, rewards.of) - difference(c.placebo, rewards.of), c)
        for cs in contrasts.values()
        for c in cs
    ]
    found = sorted(
        (item for item in found if np.isfinite(item[0])),
        key=lambda item: -abs(item[0]) if probe.wanted == "not changed" else -item[0],
    )
    return [
        {
            "probe": probe.name,
            "prompt": text_of(c.change.after.prompt),
            "before": c.change.before.response,
            "after": c.change.after.response,
            "reward_before": rewards.of[c.change.before],
            "reward_after": rewards.of[c.change.after],
            "effect": effect,
        }
        for effect, c in found[:most]
    ]


def _control(name: str, wanted: str, contrasts: Contrasts, rewards: Rewards, sd: float) -> dict[str, Any]:
    """A row on one control: the mean change with its interval, and the share of seeds whose reward it lowers."""
    changes = {n: difference(cs[0].change, rewards.of) for n, cs in contrasts.items()} if sd > 0 else {}
    kept = {n: change / sd for n, change in changes.items() if np.isfinite(change)}
    middle = clustered_mean(list(kept.values()), list(kept))
    lower = clustered_mean([float(change < 0) for change in kept.values()], list(kept))
    return {
        "name": name,
        "wanted": wanted,
        "n": len(kept),
        "change_sd": middle.value,
        "low": middle.low,
        "high": middle.high,
        "share_lower": lower.value,
    }
