"""`Scorer`, the one seam that evaluation, audit, optimisation and the server see, and the row table.

A scorer takes groups and returns one `Scores` per group, in order. A Python function is one here, trained models are in
`scorers`; anything with a `score` method is one.

Rows before averages: `rows_of_group` makes one flat dict per response, and every number elsewhere is a group-by
over such rows.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rewardsmith.aggregation import How, aggregate
from rewardsmith.data.schema import Group, text_of
from rewardsmith.errors import ConfigError, DataError, Interrupted
from rewardsmith.statistics import Floats, number_or_none

ROW_KEYS = (
    "id",
    "response_index",
    "reward",
    "calibrated",
    "p_better",
    "adjusted",
    "truncated",
    "n_tokens",
    "std",
    "rating",
    "error",
)
CHUNK = 256  # groups in memory at a time; sorted by length inside, so that batches are even


def is_address(path: str) -> bool:
    """Whether a model is named by the address of a server, and not as a folder or hub name."""
    return path.lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class Scores:
    """One group's rewards.

    rewards    [K] float64; NaN where a response could not be scored (`error` says why)
    std        [K] uncertainty in units of reward, or None where it is not known
    calibrated [K] rewards in log-odds: sigmoid(calibrated[a] - calibrated[b]) is P(a > b); None where no temperature
               was fitted
    adjusted   [K] rewards without length's part and within bounds (`adjustment`); None where none was fitted
    truncated  K flags: "" (whole), "prompt" or "response" (what was cut to fit)
    n_tokens   K token counts of prompt + response, 0 where the scorer does not count tokens
    members    [M, K] rewards of each member of an ensemble, as it gives them; None where there is one model
    """

    rewards: np.ndarray
    std: np.ndarray | None = None
    truncated: tuple[str, ...] = ()
    n_tokens: tuple[int, ...] = ()
    error: str = ""
    calibrated: np.ndarray | None = None
    members: np.ndarray | None = None
    adjusted: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the members' rewards of a group become its `Scores`.

    aggregate, strength  what the reward is of the members' (see `aggregation`)
    offsets              M constants that the spread is taken without; none is seen by a comparison
    temperature          turns the mean into log-odds; it was fitted to the mean, and serves no other aggregate
    """

    aggregate: How = "mean"
    strength: float | None = None
    offsets: tuple[float, ...] = ()
    temperature: float | None = None

    @property
    def served_temperature(self) -> float | None:
        return self.temperature if self.aggregate == "mean" else None

    def scores(
        self,
        rewards_MK: Floats,
        std: Floats | None = None,
        truncated: tuple[str, ...] = (),
        n_tokens: tuple[int, ...] = (),
    ) -> Scores:
        """`std` is that of a single model, where it has one; of several, it is their spread."""
        rewards_K = aggregate(rewards_MK, self.aggregate, strength=self.strength)
        calibrated = None if self.served_temperature is None else rewards_K / self.served_temperature
        if len(rewards_MK) == 1:
            return Scores(rewards_K, std, truncated, n_tokens, calibrated=calibrated)
        offsets_M = np.array(self.offsets or [0.0] * len(rewards_MK))
        std = (rewards_MK - offsets_M[:, None]).std(axis=0, ddof=1)
        return Scores(rewards_K, std, truncated, n_tokens, calibrated=calibrated, members=rewards_MK)


class Scorer(Protocol):
    """Anything that gives rewards to the responses of groups."""

    def score(self, groups: Sequence[Group]) -> list[Scores]: ...


class FunctionScorer:
    """A scorer from `function(prompt_text, response_text) -> number`."""

    def __init__(self, function: Callable[[str, str], float]) -> None:
        self.function = function

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        return [
            Scores(np.array([float(self.function(text_of(g.prompt), text_of(r))) for r in g.responses])) for g in groups
        ]


def no_scores(group: Group, reason: str) -> Scores:
    """A group without rewards, and why."""
    return Scores(np.full(len(group.responses), np.nan), error=reason)


# -- rows ---------------------------------------------------------------------------------------------------


def score_stream(scorer: Scorer, groups: Iterable[Group], chunk: int = CHUNK) -> Iterator[tuple[Group, Scores]]:
    """(group, its scores) in the order of the input, `chunk` groups at a time."""
    stream = iter(groups)
    while part := list(islice(stream, chunk)):
        yield from zip(part, scorer.score(part), strict=True)


def rows_of_group(group: Group, scores: Scores) -> list[dict[str, Any]]:
    """One flat dict per response. Tags follow the fixed keys; a tag never replaces one of them."""
    rows = []
    for k, reward in enumerate(scores.rewards.tolist()):
        row: dict[str, Any] = {
            "id": group.id,
            "response_index": k,
            "reward": reward if np.isfinite(reward) else None,
            "calibrated": None if scores.calibrated is None else number_or_none(scores.calibrated[k]),
            "truncated": scores.truncated[k] if scores.truncated else "",
            "n_tokens": scores.n_tokens[k] if scores.n_tokens else 0,
        }
        if scores.calibrated is not None and len(scores.rewards) > 1:
            row["p_better"] = number_or_none(p_better(scores.calibrated, k))
        if scores.adjusted is not None:
            row["adjusted"] = number_or_none(scores.adjusted[k])
        if scores.std is not None:
            row["std"] = float(scores.std[k])
        if group.ratings is not None:
            row["rating"] = group.ratings[k]
        if scores.error:
            row["error"] = scores.error
        row |= {(f"tag_{name}" if name in ROW_KEYS else name): value for name, value in group.tags.items()}
        rows.append(row)
    return rows


def p_better(calibrated_K: np.ndarray, k: int) -> float:
    """P(this response is better), averaged over the group's others: with two responses, P(a > b)."""
    gap = calibrated_K[k] - np.delete(calibrated_K, k)
    return float(np.mean(0.5 * (1 + np.tanh(gap / 2))))


def score_file(
    scorer: Scorer,
    groups: Iterable[Group],
    output: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    identity: dict[str, str] | None = None,
    chunk: int = CHUNK,
    progress: Callable[[], None] | None = None,
) -> dict[str, int]:
    """Stream rows to `output` (.jsonl, .jsonl.gz or .parquet), in the order of `groups`.

    Rows go to OUTPUT.partial first, which is renamed when all are there. With `resume`, the whole chunks
    already in it are kept and skipped; `identity` says what the rows depend on, and must then be the same.
    Ctrl-C raises Interrupted with the way to go on. Returns {"groups", "rows", "resumed_groups", "unscored"}.
    """
    output = check_score_output(output, overwrite=overwrite, resume=resume)
    partial = output.with_name(output.name + ".partial")
    mark = output.with_name(output.name + ".partial.json")
    if resume and partial.exists() and mark.exists():
        changed = [k for k, v in json.loads(mark.read_text()).items() if (identity or {}).get(k) != v]
        if changed:
            raise ConfigError(f"{partial} is of other {' and '.join(changed)}; --overwrite starts again")
    done = _keep_whole_chunks(partial, chunk) if resume else 0
    counts = {"groups": done, "rows": 0, "resumed_groups": done, "unscored": 0}
    output.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(identity or {}))
    try:
        with partial.open("ab" if done else "wb") as handle:
            for group, scores in score_stream(scorer, islice(groups, done, None), chunk):
                lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows_of_group(group, scores)]
                handle.write("".join(lines).encode("utf-8", "surrogatepass"))
                counts["groups"] += 1
                counts["unscored"] += bool(scores.error)
                if counts["groups"] % chunk == 0:
                    handle.flush()
                if progress is not None:
                    progress()
    except KeyboardInterrupt:
        raise Interrupted(f"{counts['groups']} groups are in {partial}; go on with --resume") from None
    counts["rows"] = publish(partial, output)
    mark.unlink(missing_ok=True)
    return counts


def file_mark(path: Path) -> str:
    """Name, size and time of a file: enough to notice that it is another one."""
    if not path.is_file():
        return str(path)
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def read_rewards(path: str | Path) -> list[np.ndarray]:
    """The rewards in a .jsonl file of rows, one array per group, in order; NaN where there was none."""
    groups: list[list[float]] = []
    with Path(path).open(encoding="utf-8") as handle:
        for row in map(json.loads, handle):
            if row["response_index"] == 0:
                groups.append([])
            groups[-1].append(float("nan") if row["reward"] is None else row["reward"])
    return [np.array(rewards) for rewards in groups]


def check_score_output(output: str | Path, *, overwrite: bool = False, resume: bool = False) -> Path:
    """The output's path; ConfigError where its name or what is there forbids writing it."""
    output = Path(output)
    if not output.name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        raise ConfigError(f"output {str(output)!r}: name it .jsonl, .jsonl.gz or .parquet")
    if output.is_dir():
        raise ConfigError(f"output {str(output)!r} is a folder; give a file")
    if output.exists() and not overwrite:
        raise ConfigError(f"output {str(output)!r} exists; give another name, or --overwrite")
    if output.with_name(output.name + ".partial").exists() and not (resume or overwrite):
        raise ConfigError(f"an interrupted {output.name}.partial is there; add --resume to go on, or --overwrite")
    return output


def _keep_whole_chunks(partial: Path, chunk: int) -> int:
    """Cut the partial file back to whole chunks; returns how many groups they hold.

    Chunks decide which rows share a batch, so a resumed file is the unbroken one to the last bit.
    """
    if not partial.exists():
        return 0
    groups = kept = end = position = 0
    with partial.open("rb") as handle:
        for line in handle:
            try:
                row = json.loads(line)
            except ValueError:
                break
            if row["response_index"] == 0:
                if groups % chunk == 0:  # the line that begins a chunk proves that the one before is whole
                    kept, end = groups, position
                groups += 1
            position += len(line)
    with partial.open("rb+") as handle:
        handle.truncate(end)
    return kept


def publish(partial: Path, output: Path) -> int:
    """Turn the partial file into the output under its name; returns the number of rows."""
    if output.name.endswith(".jsonl"):
        with partial.open("rb") as source:
            n = sum(1 for _ in source)
        os.replace(partial, output)
        return n
    writing = output.with_name(f".{output.name}.writing-{os.getpid()}")
    try:
        if output.name.endswith(".parquet"):
            n = _write_parquet(partial, writing)
        else:
            with partial.open("rb") as source, gzip.open(writing, "wb") as target:
                n = sum(1 for line in source if target.write(line))
        os.replace(writing, output)
    finally:
        writing.unlink(missing_ok=True)
    partial.unlink()
    return n


def _write_parquet(partial: Path, target: Path, batch: int = 4096) -> int:
    """JSON lines to parquet in pieces. Columns are the union over all rows (tags may differ between groups)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: dict[str, Any] = {}
    with partial.open(encoding="utf-8") as source:
        for line in source:
            for key, value in json.loads(line).items():
                kind = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}.get(type(value))
                if kind is None:
                    kinds.setdefault(key, None)
                elif kinds.get(key) not in (None, kind):
                    numeric = {kinds[key], kind} == {pa.int64(), pa.float64()}
                    kinds[key] = pa.float64() if numeric else pa.string()
                else:
                    kinds[key] = kind
    if not kinds:
        raise DataError("no row was scored, so there is no parquet file to write")
    kinds |= {"reward": pa.float64(), "calibrated": pa.float64()}
    kinds |= {"p_better": pa.float64()} if "p_better" in kinds else {}
    schema = pa.schema([(key, kind or pa.string()) for key, kind in kinds.items()])
    n = 0
    with pq.ParquetWriter(target, schema) as writer, partial.open(encoding="utf-8") as source:
        while lines := list(islice(source, batch)):
            rows = [json.loads(line) for line in lines]
            writer.write_table(pa.Table.from_pylist([_coerce(row, schema) for row in rows], schema=schema))
            n += len(rows)
    return n


def _coerce(row: dict[str, Any], schema: Any) -> dict[str, Any]:
    import pyarrow as pa

    return {
        key: str(value)
        if schema.field(key).type == pa.string() and value is not None and not isinstance(value, str)
        else value
        for key, value in row.items()
    }
