"""Features of recorded answers for the simulator's light reward models: of the text, or of a reward model's trunk.

Computing a trunk's features is most of the cost of a simulation, so they are kept in a file that is used again where it
holds the same answers.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rewardsmith.data.convert import replacing
from rewardsmith.data.schema import Group, content_hash
from rewardsmith.errors import DataError
from rewardsmith.overoptimization.candidates import Pool
from rewardsmith.statistics import Floats


def mark_of(groups: Sequence[Group], kind: str) -> str:
    """A hash of the prompts, the answers and what their features are."""
    digest = hashlib.blake2b(kind.encode(), digest_size=12)
    for group in groups:
        digest.update(content_hash(group.prompt, group.responses).encode())
    return digest.hexdigest()


def cached_features(
    groups: Sequence[Group], kind: str, file: str | None, compute: Callable[[], Sequence[Floats]]
) -> tuple[list[Floats], bool]:
    """([K, F] features of each group, whether they came from `file`).

    Written to `file` (.npz) where it is not there. DataError where it is of other answers or another model.
    """
    mark = mark_of(groups, kind)
    if file is not None and Path(file).exists():
        return split_rows(read_features(Path(file), mark), groups), True
    features_RF = np.concatenate([np.asarray(features_KF, np.float32) for features_KF in compute()])
    if file is not None:
        with replacing(Path(file)) as temporary, temporary.open("wb") as handle:
            np.savez(handle, features=features_RF, mark=np.array(mark))
    return split_rows(features_RF, groups), False


def read_features(file: Path, mark: str) -> np.ndarray:
    """[R, F] of a features file; DataError where it is none, or not of this mark."""
    try:
        with np.load(file, allow_pickle=False) as found:
            stored, features_RF = str(found["mark"]), found["features"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise DataError(f"{file}: no file of features that this verb wrote; name another, or remove it") from None
    if stored != mark:
        raise DataError(f"{file}: holds features of other answers, or of another model; name another, or remove it")
    return np.asarray(features_RF)


def split_rows(features_RF: np.ndarray, groups: Sequence[Group]) -> list[Floats]:
    ends = np.cumsum([len(group.responses) for group in groups])[:-1]
    return list(np.split(features_RF.astype(np.float64), ends))


def fewer_answers(pools: Sequence[Pool], n: int, seed: int = 0) -> list[Pool]:
    """Pools with at most `n` answers each, drawn at random by their prompt."""
    found = []
    for pool in pools:
        k = len(pool.base_K)
        rng = np.random.default_rng([seed, int(pool.group.prompt_id, 16)])
        found.append(pool if k <= n else pool.keep(sorted(rng.choice(k, n, replace=False).tolist())))
    return found
