"""The data to train on again: original groups, weighted where that was taken, and the new ones behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardsmith.adjustment import FEWEST
from rewardsmith.data.augment import augment
from rewardsmith.data.balance import balance
from rewardsmith.data.convert import convert, replacing
from rewardsmith.data.noise import by_the_data, review
from rewardsmith.data.payload import dumps
from rewardsmith.data.schema import Group
from rewardsmith.data.split import split_groups
from rewardsmith.data.surface import surface_baseline
from rewardsmith.errors import DataError
from rewardsmith.mitigation.remedies import Taken

FITTED_ON = 0.1  # of the prompts: kept out of training for what is fitted after it
MOST_DOUBTS = 500


@dataclass(frozen=True)
class Treated:
    """Groups to train on, those kept out for what is fitted after training, and what is to be said, ready for JSON."""

    train: list[Group]
    dev: list[Group]
    report: dict[str, Any]


def treat(groups: Sequence[Group], taken: Sequence[Taken], *, needs_dev: bool, seed: int = 0) -> Treated:
    """Apply what was taken to the groups.

    New groups are made from the originals and have their weights of before: weights are there to break what length
    says of the *labels*, and would take an outcome that is known for one of them.

    Report: groups, dev, made, kinds and left_out (as `augment`), balance (as `balance`) or None, surface_baseline
    {before, after}, warnings. Raises DataError where nothing decided is left.
    """
    dev: list[Group] = []
    kept = list(groups)
    if needs_dev:
        sides = split_groups(groups, {"train": 1 - FITTED_ON, "dev": FITTED_ON}, seed)
        kept, dev = sides["train"], sides["dev"]
        check_enough(dev, f"a tenth of {len(groups)} groups")
    wanted = {one.remedy.name: one.wanted for one in taken if one.wanted is not None}
    made = augment(kept, wanted, seed=seed) if wanted else None
    weighted = balance(kept, seed=seed) if any(one.remedy.name == "balance" for one in taken) else None
    trained = [*(weighted.groups if weighted else kept), *(made.groups if made else [])]
    before = made.report["surface_baseline"]["before"] if made else surface_baseline(kept, seed)
    return Treated(
        trained,
        dev,
        {
            "groups": len(kept),
            "dev": len(dev),
            "made": len(made.groups) if made else 0,
            "kinds": made.report["kinds"] if made else [],
            "balance": weighted.report if weighted else None,
            "surface_baseline": {"before": before, "after": surface_baseline(trained, seed)},
            "warnings": weighted.report["warnings"] if weighted else [],
        },
    )


def check_enough(groups: Sequence[Group], what: str) -> None:
    """DataError, before hours of training, where an adjustment could not be fitted on the groups after them."""
    n = sum(len(group.preferences) for group in groups)
    if n < FEWEST:
        raise DataError(
            f"{what} holds {n} pairs to fit the adjustment on, at least {FEWEST} are needed: give --dev-data"
        )


def write_groups(groups: Sequence[Group], path: Path) -> None:
    """Our own shape; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    convert(groups, "rewardsmith", path)


def write_doubts(groups: Sequence[Group], path: Path, seed: int) -> dict[str, Any]:
    """The list of labels that look wrong, the most doubtful first, and how long it is."""
    doubt = by_the_data(groups, seed)
    rows = review(doubt)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text("".join(dumps(row) + "\n" for row in rows[:MOST_DOUBTS]), encoding="utf-8")
    return {"file": str(path), "doubtful": len(rows), "written": min(len(rows), MOST_DOUBTS), "pairs": len(doubt.pairs)}
