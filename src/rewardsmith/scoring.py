"""`Scorer`, the one seam that evaluation, audit, optimisation and the server see, and the row table.

A scorer takes groups and returns one `Scores` per group, in order. A trained model and a Python function are
scorers here; anything with a `score` method is one.

Rows before averages: `rows_of_group` makes one flat dict per response, and every number elsewhere is a group-by
over such rows.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from rewardsmith.aggregation import How, aggregate, check_aggregate
from rewardsmith.data.schema import Group, text_of
from rewardsmith.errors import ConfigError, DataError, Interrupted, ModelError
from rewardsmith.last_layer import HeadDropout, Uncertainty, check_dropout, read_posterior
from rewardsmith.statistics import Floats, number_or_none
from rewardsmith.temperature import of_artifact
from rewardsmith.text.render import Encoded, Renderer, RenderReport

if TYPE_CHECKING:
    import torch

    from rewardsmith.model.reward_model import RewardModel
    from rewardsmith.text.pack import PackedBatch

ROW_KEYS = (
    "id",
    "response_index",
    "reward",
    "calibrated",
    "p_better",
    "truncated",
    "n_tokens",
    "std",
    "rating",
    "error",
)
Precision = Literal["float32", "bfloat16"]
CHUNK = 256  # groups in memory at a time; sorted by length inside, so that batches are even


@dataclass(frozen=True)
class Scores:
    """One group's rewards.

    rewards    [K] float64; NaN where a response could not be scored (`error` says why)
    std        [K] uncertainty in units of reward, or None where it is not known
    calibrated [K] rewards in log-odds: sigmoid(calibrated[a] - calibrated[b]) is P(a > b); None where no temperature
               was fitted
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


class ModelScorer:
    """A trained reward model, or the members of an ensemble, as a scorer: packed batches of at most
    `tokens_per_batch` tokens.

    An ensemble's reward is what `reading` makes of its members', their mean where it says nothing else. `uncertainty`
    gives a single model's `std`. `precision` is that of the matrix products; weights, what is added up between layers,
    and the head stay as they were loaded. `n_tokens` and `n_row_tokens` count what was computed, and what would have
    been without sharing.
    """

    def __init__(
        self,
        model: RewardModel | Sequence[RewardModel],
        renderer: Renderer,
        *,
        tokens_per_batch: int = 8192,
        reading: Reading | None = None,
        uncertainty: Uncertainty | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.models = [m.eval() for m in (model if isinstance(model, Sequence) else [model])]
        self.reading = reading or Reading()
        assert len(self.reading.offsets) in (0, len(self.models)), "one offset per member"
        check_aggregate(self.reading.aggregate, self.reading.strength, len(self.models))
        assert uncertainty is None or len(self.models) == 1, "several members are their own uncertainty"
        self.uncertainty = uncertainty
        self.temperature = self.reading.served_temperature
        self.precision = precision
        self.renderer = renderer
        self.tokens_per_batch = tokens_per_batch
        self.n_tokens = self.n_row_tokens = 0

    @property
    def report(self) -> RenderReport:
        """What happened on the way to tokens."""
        return self.renderer.report

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        """Rewards of each group, in order. A group that cannot be rendered gets NaN and the reason."""
        n_dropped = len(self.renderer.report.dropped)
        encoded = self.renderer.encode(groups)
        reasons = {d["group"]: d["reason"] for d in self.renderer.report.dropped[n_dropped:]}
        done = dict(zip((id(item.group) for item in encoded), self._rewards(encoded), strict=True))
        by_group = {id(item.group): item for item in encoded}
        results = []
        for group in groups:
            item = by_group.get(id(group))
            if item is None:
                results.append(no_scores(group, reasons.get(group.id, "left out by the renderer")))
            else:
                rewards_MK, std = done[id(group)]
                lengths = tuple(len(row) for row in item.token_ids)
                results.append(self.reading.scores(rewards_MK, std, item.truncated, lengths))
        return results

    def features(self, groups: Sequence[Group]) -> list[Floats | None]:
        """[K, H] what the head of a single model reads of each group's answers; None where it cannot be rendered."""
        encoded = self.renderer.encode(groups)
        found: dict[int, Floats] = {}
        for members, batch in self._batches(encoded):
            features_RH = self._run(batch)[0][1].double().cpu().numpy()
            for i, first in zip(members, batch.first_row_G, strict=True):
                found[id(encoded[i].group)] = features_RH[first : first + len(encoded[i].token_ids)]
        return [found.get(id(group)) for group in groups]

    def _rewards(self, encoded: Sequence[Encoded]) -> list[tuple[Floats, Floats | None]]:
        """([M, K] rewards by each member, [K] standard deviation where a single model has one) of each group."""
        import torch

        found: list[tuple[Floats, Floats | None]] = [(np.empty((0, 0)), None)] * len(encoded)
        for members, batch in self._batches(encoded):
            of_members = self._run(batch)
            values_MR = torch.stack([reward_R for reward_R, _ in of_members]).double().cpu().numpy()
            features_RH = None if self.uncertainty is None else of_members[0][1].double().cpu().numpy()
            for i, first in zip(members, batch.first_row_G, strict=True):
                rows = slice(first, first + len(encoded[i].token_ids))
                std = None
                if self.uncertainty is not None and features_RH is not None:
                    std = self.uncertainty.std(features_RH[rows])
                found[i] = (values_MR[:, rows], std)
        return found

    def _batches(self, encoded: Sequence[Encoded]) -> Iterator[tuple[list[int], PackedBatch]]:
        """(which groups, their packed batch on the device), until all are served."""
        from rewardsmith.text.pack import pack, plan_batches

        device = self.models[0].value_head.weight.device
        embeddings: list[Any] = [model.trunk.get_input_embeddings() for model in self.models]
        n_known = min(len(table.weight) for table in embeddings)
        for members in plan_batches([item.token_ids for item in encoded], self.tokens_per_batch):
            batch = pack([encoded[i] for i in members])
            if (token := int(batch.token_ids_T.max())) >= n_known:
                raise ModelError(
                    f"the tokenizer makes token {token}, and the model knows {n_known}: the tokenizer files beside "
                    "the weights are another model's; restore them"
                )
            self.n_tokens += batch.n_tokens
            self.n_row_tokens += batch.n_row_tokens
            yield members, batch.to(device)

    def _run(self, batch: PackedBatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """([R] rewards, [R, H] what the head read) of each member. Lower layers that members share run once."""
        import torch

        from rewardsmith.model.layers import layers_of, plain

        half = self.precision == "bfloat16"
        given: dict[int, torch.Tensor] = {}  # by the first layer, which a family of members has in common
        found = []
        with torch.inference_mode(), torch.autocast(batch.token_ids_T.device.type, torch.bfloat16, enabled=half):
            for model in self.models:
                given_TH = None
                if model.parts is not None:
                    family = id(layers_of(plain(model.trunk))[0])
                    if family not in given:
                        given[family] = model.lower(batch)
                    given_TH = given[family]
                features_RH = model.features(batch, given_TH)
                found.append((model.read(features_RH), features_RH))
        return found


class JointScorer:
    """An ensemble whose members read different tokens: each part renders and scores by itself, and the rewards are
    put together as those of one ensemble. Token counts of a row are those of the first part; `n_tokens` those of all.
    """

    def __init__(self, parts: Sequence[tuple[ModelScorer, Sequence[int]]], reading: Reading) -> None:
        self.parts = [part for part, _ in parts]
        self.index = [list(index) for _, index in parts]
        self.reading = reading
        self.temperature = reading.served_temperature
        check_aggregate(reading.aggregate, reading.strength, sum(map(len, self.index)))
        self.report = RenderReport()

    @property
    def n_tokens(self) -> int:
        return sum(part.n_tokens for part in self.parts)

    @property
    def n_row_tokens(self) -> int:
        return sum(part.n_row_tokens for part in self.parts)

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        """As `ModelScorer.score`. What one member cannot score has no reward."""
        found = [
            self._joined(group, of_parts) for group, *of_parts in zip(groups, *(p.score(groups) for p in self.parts))
        ]
        self.report.groups += len(groups)
        self.report.prompts_cut += sum("prompt" in scores.truncated for scores in found)
        self.report.responses_cut += sum(scores.truncated.count("response") for scores in found)
        return found

    def _joined(self, group: Group, of_parts: Sequence[Scores]) -> Scores:
        error = next((scores.error for scores in of_parts if scores.error), "")
        if error:
            return no_scores(group, error)
        rewards_MK = np.empty((sum(map(len, self.index)), len(group.responses)))
        for scores, index in zip(of_parts, self.index, strict=True):
            rewards_MK[index] = scores.rewards if scores.members is None else scores.members
        cut = tuple(next(filter(None, flags), "") for flags in zip(*(s.truncated for s in of_parts), strict=True))
        return self.reading.scores(rewards_MK, None, cut, of_parts[0].n_tokens)


def no_scores(group: Group, reason: str) -> Scores:
    """A group without rewards, and why."""
    return Scores(np.full(len(group.responses), np.nan), error=reason)


def load_scorer(
    path: str,
    *,
    tokens_per_batch: int = 8192,
    device: str = "auto",
    max_response_length: int | None = None,
    precision: Precision = "float32",
    trust_remote_code: bool = False,
    aggregate: How = "mean",
    aggregate_strength: float | None = None,
    mc_dropout: int = 0,
    mc_dropout_rate: float = 0.1,
    seed: int = 0,
) -> ModelScorer | JointScorer:
    """The scorer of an artifact or ensemble folder, or of a Hugging Face sequence classifier with one output.

    `max_response_length` replaces what the artifact's render contract says. A single model's `std` is that of its
    Laplace posterior where the artifact holds one, and with `mc_dropout` that of so many passes, drawn from `seed`,
    that each leave out a share of `mc_dropout_rate` of the head's inputs.
    """
    import torch

    from rewardsmith.model.artifact import load_parts, read_meta
    from rewardsmith.model.speed import keep_freed_memory

    meta = read_meta(path)
    check_aggregate(aggregate, aggregate_strength, n_members(meta))
    if mc_dropout:
        check_dropout(mc_dropout, mc_dropout_rate)
        if n_members(meta) > 1:
            raise ConfigError(f"--mc-dropout with the ensemble {path}: its members' spread is the std; leave it out")
    parts, meta = load_parts(path, max_response_length=max_response_length, trust_remote_code=trust_remote_code)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        keep_freed_memory()
    for part in parts:
        part.models[:] = [model.to(device) for model in part.models]
    reading = reading_of(meta, aggregate, aggregate_strength)
    options: dict[str, Any] = {"tokens_per_batch": tokens_per_batch, "precision": precision}
    if len(parts) > 1:
        scorers = [ModelScorer(part.models, part.renderer, **options) for part in parts]
        return JointScorer(list(zip(scorers, (part.index for part in parts), strict=True)), reading)
    models = parts[0].models
    uncertainty: Uncertainty | None = None
    if len(models) == 1:
        posterior = read_posterior(Path(path), models[0].value_head.in_features) if meta.get("laplace") else None
        uncertainty = posterior
        if mc_dropout:
            mean_H = None if posterior is None else posterior.mean_H
            uncertainty = HeadDropout(models[0].head(), mc_dropout, mc_dropout_rate, seed, mean_H)
    return ModelScorer(models, parts[0].renderer, reading=reading, uncertainty=uncertainty, **options)


def n_members(meta: Mapping[str, Any]) -> int:
    """How many members an artifact's metadata names; 1 for a single model."""
    members = meta.get("members")
    return len(members) if isinstance(members, list) else 1


def reading_of(meta: Mapping[str, Any], aggregate: How = "mean", strength: float | None = None) -> Reading:
    """How the members' rewards of this artifact are read."""
    offsets = tuple(meta.get("member_means") or ())
    return Reading(aggregate=aggregate, strength=strength, offsets=offsets, temperature=of_artifact(meta))


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
            row["p_better"] = number_or_none(_p_better(scores.calibrated, k))
        if scores.std is not None:
            row["std"] = float(scores.std[k])
        if group.ratings is not None:
            row["rating"] = group.ratings[k]
        if scores.error:
            row["error"] = scores.error
        row |= {(f"tag_{name}" if name in ROW_KEYS else name): value for name, value in group.tags.items()}
        rows.append(row)
    return rows


def _p_better(calibrated_K: np.ndarray, k: int) -> float:
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
    counts["rows"] = _publish(partial, output)
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


def _publish(partial: Path, output: Path) -> int:
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
