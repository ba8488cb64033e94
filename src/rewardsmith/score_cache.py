"""Scores on the disk: the same model asked about the same texts again answers at once, without being loaded.

    <cache>/scores/<model>.sqlite    group -> members' rewards, spread of a single one, what was cut, token counts

What the members' rewards are aggregated to is worked out on the way out: another aggregate costs no scoring.

<model> is a hash of everything in the folder that decides a reward (weights, config, tokenizer, render contract), and
a group's key is a hash of its texts: a retrained model or an edited row has another name, and nothing is ever out of
date. A file that cannot be read is thrown away and made anew; one that cannot be written costs the next run time only.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.aggregation import How, check_aggregate
from rewardsmith.data.schema import Group, content_hash
from rewardsmith.errors import ConfigError
from rewardsmith.model.meta import META
from rewardsmith.remote import RemoteScorer
from rewardsmith.scorers import JointScorer, ModelScorer, Precision, load_scorer, n_members, reading_of
from rewardsmith.scoring import Reading, Scores, is_address
from rewardsmith.text.token_cache import cache_folder

DECIDES = ("render", "pooling", "path", "members", "member_means")  # of that file; the rest says what was measured
LAYOUT = 2  # of a value; part of every key, so that what an older version kept is not found
LIMIT_BYTES = 2e9  # of all files together; the least recently used go first
AT_ONCE = 500  # keys in one query
TIMEOUT_S = 5.0  # for another process's writing


class CachedScorer:
    """A scorer that asks `load()` for the model only where a group is not in `file` yet."""

    def __init__(
        self, file: Path, load: Callable[[], ModelScorer | JointScorer], reading: Reading, salt: str = ""
    ) -> None:
        self.file, self.load, self.reading, self.salt = file, load, reading, salt
        self.temperature = reading.served_temperature
        self.model: ModelScorer | JointScorer | None = None

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        """As `ModelScorer.score`. What could not be scored is not kept."""
        keys = [self._key(group) for group in groups]
        known = self._read(keys)
        missing = [g for g, key in enumerate(keys) if key not in known]
        if missing:
            if self.model is None:
                self.model = self.load()
            fresh = self.model.score([groups[g] for g in missing])
            new = {keys[g]: scores for g, scores in zip(missing, fresh, strict=True)}
            self._write({key: scores for key, scores in new.items() if not scores.error})
            known |= new
        return [known[key] for key in keys]

    def _key(self, group: Group) -> str:
        words = (content_hash(group.prompt, group.responses), group.tools, group.template_kwargs, self.salt, LAYOUT)
        return hashlib.blake2b(repr(words).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def _read(self, keys: Sequence[str]) -> dict[str, Scores]:
        found: dict[str, str] = {}
        if not self.file.exists():
            return {}
        try:
            with closing(sqlite3.connect(self.file, timeout=TIMEOUT_S)) as store:
                for start in range(0, len(keys), AT_ONCE):
                    part = keys[start : start + AT_ONCE]
                    marks = ",".join("?" * len(part))
                    found |= dict(store.execute(f"SELECT key, value FROM scores WHERE key IN ({marks})", part))
            return {key: self._scores(json.loads(value)) for key, value in found.items()}
        except sqlite3.OperationalError:  # in use, or no such table: without it, then
            return {}
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError):
            with suppress(OSError):
                self.file.unlink()
            return {}

    def _write(self, scores: dict[str, Scores]) -> None:
        rows = [(key, json.dumps(_plain(value))) for key, value in scores.items()]
        with suppress(OSError, sqlite3.DatabaseError):
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with closing(sqlite3.connect(self.file, timeout=TIMEOUT_S)) as store, store:
                store.execute("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
                store.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", rows)
            _forget_oldest(self.file)

    def _scores(self, plain: dict[str, Any]) -> Scores:
        return self.reading.scores(
            np.array(plain["members"], dtype=np.float64),
            None if plain["std"] is None else np.array(plain["std"], dtype=np.float64),
            tuple(plain["truncated"]),
            tuple(plain["n_tokens"]),
        )


def open_scorer(
    path: str,
    *,
    tokens_per_batch: int = 8192,
    device: str = "auto",
    max_response_length: int | None = None,
    precision: Precision = "float32",
    trust_remote_code: bool = False,
    aggregate: How = "mean",
    aggregate_strength: float | None = None,
    cache: bool = True,
) -> CachedScorer | ModelScorer | JointScorer | RemoteScorer:
    """`load_scorer`, put off until a group is not known yet; or the scorer of a server's address.

    Only a local folder has a hash to know it by. What the other options say is the server's business there, and
    `max_response_length` and `aggregate` cannot be asked of one: ConfigError.
    """
    if is_address(path):
        if max_response_length is not None:
            raise ConfigError(
                f"{path} cuts answers as its model says: --max-response-length cannot be asked of a server"
            )
        if aggregate != "mean":
            raise ConfigError(
                f"{path} gives what it was started with (serve --aggregate): --aggregate cannot be asked of it"
            )
        return RemoteScorer(path)

    def load() -> ModelScorer | JointScorer:
        return load_scorer(
            path,
            tokens_per_batch=tokens_per_batch,
            device=device,
            max_response_length=max_response_length,
            precision=precision,
            trust_remote_code=trust_remote_code,
            aggregate=aggregate,
            aggregate_strength=aggregate_strength,
        )

    identity = model_hash(Path(path)) if cache else None
    if identity is None:
        return load()
    meta = json.loads((Path(path) / META).read_text(encoding="utf-8"))
    file = cache_folder("scores") / f"{identity}.sqlite"
    check_aggregate(aggregate, aggregate_strength, n_members(meta))
    reading = reading_of(meta, aggregate, aggregate_strength)
    return CachedScorer(file, load, reading, salt=f"{max_response_length or ''} {precision}")


def model_hash(folder: Path) -> str | None:
    """A hash of what decides a reward in an artifact or ensemble folder; None for anything else."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        digest = hashlib.blake2b(digest_size=16)
        for file in sorted(folder.rglob("*")):
            name = str(file.relative_to(folder))
            if file.suffix in (".safetensors", ".onnx", ".data", ".jinja", ".model", ".txt") or (
                file.suffix == ".json" and file.name != META
            ):
                digest.update(f"{name} {file.stat().st_size}\n".encode())
                with file.open("rb") as handle:
                    digest.update(hashlib.file_digest(handle, "blake2b").digest())
        digest.update(json.dumps([meta.get(key) for key in DECIDES], sort_keys=True).encode())
        return digest.hexdigest()
    except (OSError, ValueError, AttributeError):
        return None


def _plain(scores: Scores) -> dict[str, Any]:
    return {
        "members": [scores.rewards.tolist()] if scores.members is None else scores.members.tolist(),
        "std": None if scores.std is None or scores.members is not None else scores.std.tolist(),
        "truncated": list(scores.truncated),
        "n_tokens": list(scores.n_tokens),
    }


def _forget_oldest(kept: Path) -> None:
    files = sorted(kept.parent.glob("*.sqlite"), key=lambda file: file.stat().st_mtime)
    total = sum(file.stat().st_size for file in files)
    for file in files:
        if total <= LIMIT_BYTES:
            break
        if file != kept:
            total -= file.stat().st_size
            file.unlink(missing_ok=True)
