"""Bulk scoring: chunks of groups scored side by side by the workers of a Ray cluster, each exactly once in the output.

    OUTPUT.parts/manifest.jsonl   a line of what the rows depend on; then one for each part that is whole
    OUTPUT.parts/00000012.jsonl   the rows of chunk 12

Who runs this reads the groups, hands the chunks out through Ray Data, and alone writes: a part appears under its name
when it is whole, and only then in the manifest. A worker that dies is replaced and its chunk scored again; the rows of
a chunk scored twice replace each other. A run that dies is taken up where the manifest ends. At the end all parts are
put together in the order of the input. Workers need nothing but the model's folder under the same path.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rewardsmith.adjustment import AdjustedScorer, Adjustment
from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError, DataError, Interrupted, ModelError
from rewardsmith.scoring import CHUNK, Scorer, check_score_output, publish, rows_of_group

MANIFEST = "manifest.jsonl"
CORES_A_MODEL = 4  # of a cluster without GPUs: more of them score a batch hardly sooner
# For a cluster that is started for one run: nothing is sent anywhere, and its workers are as urgent as this process.
LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
COUNTED = ("tokens", "row_tokens", "prompts_cut", "responses_cut")


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where --engine ray finds its workers."""

    ray_workers: int | None = None
    """Models that score side by side. Default: one for each GPU of the cluster, or for every 4 cores without any."""
    ray_address: str | None = None
    """A running cluster (auto, or HOST:PORT). Default: RAY_ADDRESS, or a cluster on this machine for this run only."""

    def __post_init__(self) -> None:
        if self.ray_workers is not None and self.ray_workers < 1:
            raise ConfigError(f"--ray-workers {self.ray_workers}: give at least 1")


def score_bulk(
    load: Callable[[], Any],
    groups: Iterable[Group],
    output: str | Path,
    *,
    adjustment: Adjustment | None = None,
    options: RayOptions | None = None,
    resume: bool = False,
    overwrite: bool = False,
    identity: dict[str, str] | None = None,
    chunk: int = CHUNK,
    progress: Callable[[], None] | None = None,
) -> dict[str, int]:
    """As `score_file`, by workers that each `load()` the scorer; it is pickled and called on their machines.

    Chunks are those of `score_file`, so the rewards are the same up to the number of threads. Returns its counts, and
    those of COUNTED for what was scored by this run. Raises ConfigError where Ray is not installed, and ModelError
    where the workers fail for another reason than that they died.
    """
    ray = import_ray()
    output = check_score_output(output, overwrite=overwrite, resume=resume)
    parts = Parts(output, {"chunk": str(chunk), **(identity or {})}, resume=resume, overwrite=overwrite)
    counts = {"groups": 0, "rows": 0, "resumed_groups": 0, "unscored": 0, **dict.fromkeys(COUNTED, 0)}
    pending: list[Any] = []
    started = False
    try:
        for number, part in enumerate(chunks_of(groups, chunk)):
            counts["groups"] += len(part)
            if number in parts.done:
                parts.check_groups(number, len(part))
                counts["resumed_groups"] += len(part)
                advance(progress, len(part))
                continue
            if not pending:
                started = connect(ray, options or RayOptions())
            pending.append(ray.put(packed(number, part)))
        if pending:
            for row in scored_by_workers(ray, pending, ChunkScorer, (load, adjustment), options or RayOptions()):
                parts.add(row["chunk"], row["rows"], row["groups"], row["unscored"])
                for name in COUNTED:
                    counts[name] += row[name]
                advance(progress, row["groups"])
    except KeyboardInterrupt:
        raise Interrupted(f"{len(parts.done)} chunks are in {parts.folder}; go on with --resume") from None
    except ray.exceptions.RayError as error:
        raise ModelError(f"a worker failed: {reason_of(error)}; what is scored is kept: go on with --resume") from None
    finally:
        if started:
            ray.shutdown()
    counts["unscored"] = sum(done["unscored"] for done in parts.done.values())
    counts["rows"] = parts.publish(-(-counts["groups"] // chunk))
    return counts


def advance(progress: Callable[[], None] | None, n: int) -> None:
    for _ in range(n if progress is not None else 0):
        progress()  # type: ignore[misc]


def chunks_of(groups: Iterable[Group], chunk: int) -> Iterator[list[Group]]:
    stream = iter(groups)
    while part := list(islice(stream, chunk)):
        yield part


# -- Ray ----------------------------------------------------------------------------------------------------


def import_ray() -> Any:
    """Ray with Ray Data; ConfigError with the way to get it."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(
            f"--engine ray needs {error.name or 'ray'}; install it with: pip install 'rewardsmith[ray]'"
        ) from None
    return ray


def connect(ray: Any, options: RayOptions) -> bool:
    """Join a cluster, or start one on this machine; False where the caller is in one already. ConfigError where the
    address is none."""
    if ray.is_initialized():
        return False
    address = options.ray_address or os.environ.get("RAY_ADDRESS")
    here: dict[str, Any] = {}
    if not address:
        here = {"include_dashboard": False}
        os.environ.update({name: value for name, value in LOCAL.items() if name not in os.environ})
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"no Ray cluster at {address or 'this machine'}: {reason_of(error)}") from None
    return True


def packed(number: int, groups: Sequence[Group]) -> Any:
    """A chunk as a block of one row: Ray Data hands it out as a whole."""
    import pyarrow as pa

    return pa.table({"chunk": [number], "groups": pa.array([pickle.dumps(list(groups))], pa.large_binary())})


def scored_by_workers(
    ray: Any, blocks: Sequence[Any], worker: type, arguments: tuple[Any, ...], options: RayOptions
) -> Iterator[dict[str, Any]]:
    """What the workers make of the blocks, in the order in which it is ready."""
    has = ray.cluster_resources()
    gpus, cores = int(has.get("GPU", 0)), int(has.get("CPU", 1))
    n = min(len(blocks), options.ray_workers or gpus or max(1, cores // CORES_A_MODEL))
    each: dict[str, Any] = {"num_gpus": min(1.0, gpus / n)} if gpus else {"num_cpus": max(1, cores // n)}
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it narrates
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    found = ray.data.from_arrow_refs(list(blocks)).map_batches(
        worker,
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=n),
        batch_size=None,
        batch_format="pyarrow",
        **each,
    )
    for table in found.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from table.to_pylist()


class ChunkScorer:
    """One worker: the scorer is loaded once, and each chunk becomes its rows."""

    def __init__(self, load: Callable[[], Any], adjustment: Adjustment | None) -> None:
        self.inner = load()
        self.scorer: Scorer = self.inner if adjustment is None else AdjustedScorer(self.inner, adjustment)

    def __call__(self, block: Any) -> Any:
        import pyarrow as pa

        rows = [self._scored(row["chunk"], pickle.loads(row["groups"])) for row in block.to_pylist()]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        columns["rows"] = pa.array(columns["rows"], pa.large_binary())
        return pa.table(columns)

    def _scored(self, number: int, groups: list[Group]) -> dict[str, Any]:
        before = self._counted()
        scores = self.scorer.score(groups)
        lines = [
            json.dumps(row, ensure_ascii=False) + "\n"
            for group, of_group in zip(groups, scores, strict=True)
            for row in rows_of_group(group, of_group)
        ]
        after = self._counted()
        return {
            "chunk": number,
            "rows": "".join(lines).encode("utf-8", "surrogatepass"),
            "groups": len(groups),
            "unscored": sum(bool(of_group.error) for of_group in scores),
            **{name: after[name] - before[name] for name in COUNTED},
        }

    def _counted(self) -> dict[str, int]:
        inner = self.inner
        values = (inner.n_tokens, inner.n_row_tokens, inner.report.prompts_cut, inner.report.responses_cut)
        return dict(zip(COUNTED, map(int, values), strict=True))


def reason_of(error: BaseException) -> str:
    """One line of what went wrong: Ray's messages are traces, and their last line says it."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[-1] if lines else type(cause).__name__)[:300]


# -- parts --------------------------------------------------------------------------------------------------


def parts_folder(output: Path) -> Path:
    return output.with_name(output.name + ".parts")


def forget_parts(output: Path, *, overwrite: bool) -> None:
    """For a run that makes no parts: take those of an earlier one away, or ConfigError where they may not be lost."""
    folder = parts_folder(output)
    if folder.exists() and not overwrite:
        raise ConfigError(
            f"an interrupted {folder.name} of --engine ray is there; add --engine ray --resume, or --overwrite"
        )
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Parts:
    """The parts of an output that are whole: `done[chunk]` says how many groups it has, and the hash of its rows.

    Raises ConfigError for parts of other rows, and for parts that are there without `resume` or `overwrite`.
    """

    output: Path
    identity: dict[str, str]
    resume: bool = False
    overwrite: bool = False
    done: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = parts_folder(self.output)
        if self.folder.exists() and not self.resume:
            if not self.overwrite:
                raise ConfigError(f"an interrupted {self.folder.name} is there; add --resume to go on, or --overwrite")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = list(whole_lines(self.folder / MANIFEST))
        changed = [name for name, value in (lines[0] if lines else {}).items() if self.identity.get(name) != value]
        if changed:
            raise ConfigError(f"{self.folder} is of other {' and '.join(changed)}; --overwrite starts again")
        self.done = {line["chunk"]: line for line in lines[1:] if self._is_whole(line)}
        # Written anew, without what was torn.
        writing = self.folder / f".{MANIFEST}"
        writing.write_text("".join(json.dumps(line) + "\n" for line in (self.identity, *self.done.values())))
        os.replace(writing, self.folder / MANIFEST)

    def add(self, number: int, rows: bytes, groups: int, unscored: int) -> None:
        """Keep the rows of a chunk. What is in the manifest is on the disk."""
        line = {
            "chunk": number,
            "groups": groups,
            "unscored": unscored,
            "rows": rows.count(b"\n"),
            "hash": hashed(rows),
        }
        writing = self.folder / f".{name_of(number)}"
        with writing.open("wb") as handle:
            handle.write(rows)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(writing, self.folder / name_of(number))
        with (self.folder / MANIFEST).open("a") as manifest:
            manifest.write(json.dumps(line) + "\n")
        self.done[number] = line

    def check_groups(self, number: int, n_groups: int) -> None:
        """DataError where a part is of another number of groups than the input has there."""
        if self.done[number]["groups"] != n_groups:
            raise DataError(
                f"{self.folder / name_of(number)} has {self.done[number]['groups']} groups, and the input {n_groups} "
                "there; --overwrite starts again"
            )

    def publish(self, n_chunks: int) -> int:
        """All parts as one file under the output's name, in order; returns the number of rows."""
        assert sorted(self.done) == list(range(n_chunks)), "every chunk once"
        whole = self.folder / "all.jsonl"
        with whole.open("wb") as target:
            for number in range(n_chunks):
                with (self.folder / name_of(number)).open("rb") as source:
                    shutil.copyfileobj(source, target)
        n_rows = publish(whole, self.output)
        assert n_rows == sum(done["rows"] for done in self.done.values()), "every row once"
        shutil.rmtree(self.folder)
        return n_rows

    def _is_whole(self, line: dict[str, Any]) -> bool:
        file = self.folder / name_of(line["chunk"])
        return file.is_file() and hashed(file.read_bytes()) == line["hash"]


def name_of(number: int) -> str:
    return f"{number:08d}.jsonl"


def hashed(rows: bytes) -> str:
    return hashlib.blake2b(rows, digest_size=16).hexdigest()


def whole_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines up to the first that was torn."""
    if not file.is_file():
        return
    with file.open("rb") as handle:
        for line in handle:
            try:
                yield json.loads(line)
            except ValueError:
                return
