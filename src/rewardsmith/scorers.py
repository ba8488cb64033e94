"""Trained models as scorers: one model or the members of an ensemble, members that read different tokens, an ONNX
file; and `load_scorer`, which makes the right one of a folder's name.

Shape legend: G groups, K responses of a group, R rows of all groups, M members, H hidden size, T tokens of a batch,
V values of a row: M rewards, or a reward and H features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rewardsmith.aggregation import How, check_aggregate
from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError, ModelError
from rewardsmith.last_layer import HeadDropout, Uncertainty, check_dropout, read_posterior
from rewardsmith.scoring import Reading, Scores, is_address, no_scores
from rewardsmith.statistics import Floats
from rewardsmith.temperature import of_artifact
from rewardsmith.text.render import Encoded, Renderer, RenderReport

if TYPE_CHECKING:
    import torch

    from rewardsmith.model.onnx_file import OnnxModel
    from rewardsmith.model.reward_model import RewardModel
    from rewardsmith.text.pack import PackedBatch

Precision = Literal["float32", "bfloat16"]
Rows = Sequence[Sequence[np.ndarray]]  # of each group the token ids of its rows


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
        values = self._in_batches(encoded, self.reward_batch)
        done = {id(item.group): (item, found) for item, found in zip(encoded, values, strict=True)}
        results = []
        for group in groups:
            if id(group) in done:
                item, found = done[id(group)]
                results.append(self.scores_of(found, item.truncated, tuple(map(len, item.token_ids))))
            else:
                results.append(no_scores(group, reasons.get(group.id, "left out by the renderer")))
        return results

    def scores_of(self, values: Floats, truncated: tuple[str, ...], n_tokens: tuple[int, ...]) -> Scores:
        """One group's scores from what `reward_batch` gives for all its rows, side by side."""
        if self.uncertainty is None:
            return self.reading.scores(values, None, truncated, n_tokens)
        return self.reading.scores(values[:1], self.uncertainty.std(values[1:].T), truncated, n_tokens)

    def features(self, groups: Sequence[Group]) -> list[Floats | None]:
        """[K, H] what the head reads of each group's answers, of several members the first one's; None where a group
        cannot be rendered."""
        encoded = self.renderer.encode(groups)
        values = self._in_batches(encoded, lambda rows_GK: self._values(rows_GK, self.models[:1], with_features=True))
        found = {id(item.group): values_VK[1:].T for item, values_VK in zip(encoded, values, strict=True)}
        return [found.get(id(group)) for group in groups]

    def reward_batch(self, rows_GK: Rows) -> list[Floats]:
        """[M, K] rewards of each group's rows of tokens by each member, in one packed batch whatever its size. With an
        `uncertainty`, [1 + H, K]: below a single model's reward, what its head read.

        A std needs all rows of a group: those of one that is computed in parts are put side by side for `scores_of`.
        """
        return self._values(rows_GK, self.models, with_features=self.uncertainty is not None)

    def _values(self, rows_GK: Rows, models: Sequence[RewardModel], *, with_features: bool) -> list[Floats]:
        import torch

        batch = self._packed(rows_GK)
        of_members = self._run(batch, models)
        values_VR = torch.stack([reward_R for reward_R, _ in of_members]).double().cpu().numpy()
        if with_features:
            values_VR = np.concatenate([values_VR, of_members[0][1].double().cpu().numpy().T])
        return [
            values_VR[:, first : first + len(rows_K)] for first, rows_K in zip(batch.first_row_G, rows_GK, strict=True)
        ]

    def _in_batches(self, encoded: Sequence[Encoded], call: Callable[[Rows], list[Floats]]) -> list[Floats]:
        """What `call` gives for each group, in as many batches as the budget asks for."""
        from rewardsmith.text.pack import plan_batches

        rows_GK = [item.token_ids for item in encoded]
        found: list[Floats] = [np.empty((0, 0))] * len(rows_GK)
        for groups in plan_batches(rows_GK, self.tokens_per_batch):
            for g, values in zip(groups, call([rows_GK[g] for g in groups]), strict=True):
                found[g] = values
        return found

    def _packed(self, rows_GK: Rows) -> PackedBatch:
        """One packed batch on the device, counted. ModelError for a token that a member does not know."""
        from rewardsmith.text.pack import pack_rows

        embeddings: list[Any] = [model.trunk.get_input_embeddings() for model in self.models]
        n_known = min(len(table.weight) for table in embeddings)
        batch = pack_rows(rows_GK)
        if (token := int(batch.token_ids_T.max())) >= n_known:
            raise ModelError(
                f"the tokenizer makes token {token}, and the model knows {n_known}: the tokenizer files beside "
                "the weights are another model's; restore them"
            )
        self.n_tokens += batch.n_tokens
        self.n_row_tokens += batch.n_row_tokens
        return batch.to(self.models[0].value_head.weight.device)

    def _run(self, batch: PackedBatch, models: Sequence[RewardModel]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """([R] rewards, [R, H] what the head read) of each member. Lower layers that members share run once."""
        import torch

        from rewardsmith.model.layers import layers_of, plain

        half = self.precision == "bfloat16"
        given: dict[int, torch.Tensor] = {}  # by the first layer, which a family of members has in common
        found = []
        with torch.inference_mode(), torch.autocast(batch.token_ids_T.device.type, torch.bfloat16, enabled=half):
            for model in models:
                given_TH = None
                if model.parts is not None:
                    family = id(layers_of(plain(model.trunk))[0])
                    if family not in given:
                        given[family] = model.lower(batch)
                    given_TH = given[family]
                features_RH = model.features(batch, given_TH)
                found.append((model.read(features_RH), features_RH))
        return found


class OnnxScorer(ModelScorer):
    """An ONNX folder as a scorer: padded batches of rows of similar length, on the CPU."""

    def __init__(
        self, model: OnnxModel, renderer: Renderer, *, tokens_per_batch: int = 8192, reading: Reading | None = None
    ) -> None:
        super().__init__([], renderer, tokens_per_batch=tokens_per_batch, reading=reading)
        self.model = model

    def reward_batch(self, rows_GK: Rows) -> list[Floats]:
        """[1, K] rewards of each group's rows of tokens."""
        rows = [row for rows_K in rows_GK for row in rows_K]
        rewards_R = np.empty(len(rows))
        part: list[int] = []
        order = sorted(range(len(rows)), key=lambda r: -len(rows[r]))
        for place, r in enumerate(order):
            part.append(r)
            if place + 1 == len(order) or (len(part) + 1) * len(rows[part[0]]) > self.tokens_per_batch:
                rewards_R[part] = self.model.rewards([rows[i] for i in part])
                part = []
        self.n_tokens += sum(map(len, rows))
        self.n_row_tokens += sum(map(len, rows))
        ends = np.cumsum([len(rows_K) for rows_K in rows_GK])[:-1]
        return [part_K[None] for part_K in np.split(rewards_R, ends)]


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
    """The scorer of an artifact, ensemble or ONNX folder, or of a Hugging Face sequence classifier with one output.

    `max_response_length` replaces what the artifact's render contract says. A single model's `std` is that of its
    Laplace posterior where the artifact holds one, and with `mc_dropout` that of so many passes, drawn from `seed`,
    that each leave out a share of `mc_dropout_rate` of the head's inputs.
    """
    import torch

    if is_address(path):
        raise ConfigError(f"{path}: a server gives rewards only, and this needs the weights; name the model's folder")
    from rewardsmith.model.members import load_parts
    from rewardsmith.model.meta import read_meta
    from rewardsmith.model.onnx_file import is_onnx, load_onnx
    from rewardsmith.model.speed import keep_freed_memory

    meta = read_meta(path)
    check_aggregate(aggregate, aggregate_strength, n_members(meta))
    if mc_dropout:
        check_dropout(mc_dropout, mc_dropout_rate)
        if n_members(meta) > 1:
            raise ConfigError(f"--mc-dropout with the ensemble {path}: its members' spread is the std; leave it out")
    if is_onnx(path):
        if mc_dropout:
            raise ConfigError(f"--mc-dropout with {path}: an ONNX file gives rewards only; name the model's folder")
        onnx_model, renderer, meta = load_onnx(path, max_response_length=max_response_length)
        return OnnxScorer(onnx_model, renderer, tokens_per_batch=tokens_per_batch, reading=reading_of(meta))
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
