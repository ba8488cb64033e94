"""What an ensemble is worth under pressure: each way to aggregate its members, beside one member by itself.

P  prompts      M  members      K  candidates of a prompt      S  sizes: values of n
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rewardsmith.aggregation import HOWS, aggregate
from rewardsmith.errors import DataError
from rewardsmith.overoptimization.candidates import Pool
from rewardsmith.overoptimization.curves import Draws, curve_rows, path_of
from rewardsmith.overoptimization.shared_error import shared_error
from rewardsmith.statistics import Floats

KEYS = ("n", "kl", "gold", "low", "high")


def ensemble_report(
    pools: Sequence[Pool], method: str, draws: Draws, *, more: dict[str, Any], sizes: Sequence[int] | None = None
) -> dict[str, Any]:
    """`single`, `aggregates` and `shared_error` of pools that have their members' rewards, along one method.

    single        gold at each strength by one member, the mean over members
    aggregates    by each way of `aggregation.aggregate`: rows with `over_single`, how much more gold than one member
                  by itself brings, paired by prompt
    shared_error  `shared_error.shared_error`, or its reason where it cannot be told
    """
    members = [pool.members_MK for pool in pools if pool.members_MK is not None]
    assert len(members) == len(pools), "all pools have members, or none is asked about"
    of_member = [path_of(method, pools, [m_MK[m] for m_MK in members], sizes) for m in range(len(members[0]))]
    single_PS: Floats = np.mean([path.gold_JPS[0] for path in of_member], axis=0)
    strength_S = of_member[0].strength_S
    found = []
    for how in HOWS:
        path = path_of(method, pools, [aggregate(m_MK, how) for m_MK in members], sizes)
        over = draws.intervals(path.gold_JPS[0] - single_PS)
        rows = curve_rows(path, [""], draws)
        curve = [{**{key: row[key] for key in KEYS}, "over_single": o} for row, o in zip(rows, over, strict=True)]
        found.append({"aggregate": how, "method": method, "curves": curve})
    golds = [pool.gold_JK[0] for pool in pools]
    at = [int(n) for n in strength_S if n <= min(map(len, golds))]
    try:
        shared: dict[str, Any] = shared_error(members, golds, at, **more)
    except DataError as error:  # gold that never differs within a prompt, say: the curves stand without it
        shared = {"sentence": f"Whether the members share their errors cannot be told: {error}."}
    single = [{"n": int(n), **row} for n, row in zip(strength_S, draws.intervals(single_PS), strict=True)]
    return {"n_members": len(of_member), "single": single, "aggregates": found, "shared_error": shared}
