"""The endpoints of Text Embeddings Inference for a model with one output: /predict, /rerank, /info.

A string is a dialogue that is rendered already; a pair of strings is a prompt and its answer, rendered here. A flat
list of two strings is a pair, a batch is a list of lists. Without `raw_scores` a sigmoid is put on the reward, and
without `truncate` what is too long is refused, both as TEI does.

Source: router/src/http/{types,server}.rs of huggingface/text-embeddings-inference.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from rewardsmith.data.schema import Message
from rewardsmith.installed import own_version
from rewardsmith.serving.batcher import Caller
from rewardsmith.serving.engine import Engine, Rows
from rewardsmith.serving.refusals import Kind, Refusal
from rewardsmith.serving.service import Service
from rewardsmith.serving.wire import Client, Text, TheService, described, make_group, router

routes = router("Text Embeddings Inference")
Sequence1or2 = Annotated[list[Text], Field(min_length=1, max_length=2)]


class PredictRequest(BaseModel):
    """Further fields are ignored."""

    inputs: Text | Sequence1or2 | list[Sequence1or2]
    truncate: bool | None = False
    raw_scores: bool = False


class Prediction(BaseModel):
    score: float
    label: str


class RerankRequest(BaseModel):
    query: Text
    texts: list[Text]
    truncate: bool | None = False
    raw_scores: bool = False
    return_text: bool = False


class Rank(BaseModel):
    index: int
    text: str | None = None
    score: float


class ClassifierModel(BaseModel):
    id2label: dict[str, str]
    label2id: dict[str, int]


class ModelType(BaseModel):
    reranker: ClassifierModel


class Info(BaseModel):
    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: ModelType
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None


class ErrorResponse(BaseModel):
    error: str
    error_type: str


REFUSALS = described(ErrorResponse, 400, 401, 403, 404, 408, 413, 415, 422, 424, 429, 503, 504)


@routes.post("/predict", summary="Rewards of texts or pairs", responses=REFUSALS)
async def predict(
    body: PredictRequest, service: TheService, client: Client
) -> list[Prediction] | list[list[Prediction]]:
    single = isinstance(body.inputs, str) or (bool(body.inputs) and isinstance(body.inputs[0], str))
    inputs: Any = [body.inputs] if single else body.inputs
    sequences = [[item] if isinstance(item, str) else item for item in inputs]
    scores = await rewards_of(service, client, sequences, bool(body.truncate), body.raw_scores)
    predictions = [[Prediction(score=score, label="reward")] for score in scores]
    return predictions[0] if single else predictions


@routes.post("/rerank", summary="Answers by their reward", response_model_exclude_none=True, responses=REFUSALS)
async def rerank(body: RerankRequest, service: TheService, client: Client) -> list[Rank]:
    """Best first."""
    sequences = [[body.query, text] for text in body.texts]
    scores = await rewards_of(service, client, sequences, bool(body.truncate), body.raw_scores)
    ranks = [
        Rank(index=n, score=score, text=text if body.return_text else None)
        for n, (score, text) in enumerate(zip(scores, body.texts, strict=True))
    ]
    return sorted(ranks, key=lambda rank: (-rank.score, rank.index))


@routes.get("/info", summary="What is served, and its limits", responses=described(ErrorResponse, 401))
async def info(service: TheService) -> Info:
    engine, limits = service.engine, service.limits
    return Info(
        model_id=engine.name,
        model_sha=engine.artifact,
        model_dtype=engine.meta.get("dtype") or "float32",
        model_type=ModelType(reranker=ClassifierModel(id2label={"0": "reward"}, label2id={"reward": 0})),
        max_concurrent_requests=limits.max_waiting,
        max_input_length=engine.max_length,
        max_batch_tokens=engine.scorer.tokens_per_batch,
        max_batch_requests=None,
        max_client_batch_size=limits.max_responses,
        auto_truncate=False,
        tokenization_workers=min(1, os.cpu_count() or 1),
        version=own_version(),
        sha=None,
        docker_label=None,
    )


async def rewards_of(
    service: Service, client: Caller, sequences: Sequence[Sequence[str]], truncate: bool, raw: bool
) -> list[float]:
    """One score of each text or (prompt, answer)."""
    if not sequences:
        raise Refusal("empty", "`inputs` cannot be empty")
    pairs = [n for n, sequence in enumerate(sequences) if len(sequence) == 2]
    singles = [n for n, sequence in enumerate(sequences) if len(sequence) == 1]
    groups = [make_group([Message("user", sequences[n][0])], [[Message("assistant", sequences[n][1])]]) for n in pairs]
    engine = service.engine
    encoded = await service.encode(engine, groups)
    texts = await service.tokenise(engine, [sequences[n][0] for n in singles])
    rows: dict[int, Rows] = {n: paired(engine, item, truncate) for n, item in zip(pairs, encoded, strict=True)}
    for n, row in zip(singles, texts, strict=True):
        if not len(row):
            raise Refusal("empty", "`inputs` cannot be empty")
        if len(row) > engine.max_length and not truncate:
            raise too_long(engine, len(row))
        cut, flag = engine.fitted(row, None)
        rows[n] = Rows((cut,), (flag,))
    in_order = [rows[n] for n in range(len(sequences))]
    prompts = [sequence[0] if len(sequence) == 2 else None for sequence in sequences]
    answers = [sequence[1] if len(sequence) == 2 else None for sequence in sequences]
    values = await service.score_rows(client, engine, in_order, answers, prompts)
    return values if raw else [sigmoid(value) for value in values]


def paired(engine: Engine, item: Rows | str, truncate: bool) -> Rows:
    if isinstance(item, str):
        raise Refusal("invalid", item)
    if any(item.truncated) and not truncate:
        raise too_long(engine, None)
    return item


def too_long(engine: Engine, n_tokens: int | None) -> Refusal:
    given = "more" if n_tokens is None else str(n_tokens)
    return Refusal(
        "long", f"Input validation error: `inputs` must have less than {engine.max_length} tokens. Given: {given}"
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


ERRORS: dict[Kind, tuple[int, str]] = {
    "empty": (400, "Empty"),
    "large": (413, "Validation"),
    "long": (413, "Validation"),
    "invalid": (422, "Tokenizer"),
    "overloaded": (429, "Overloaded"),
    "failed": (424, "Backend"),
    "late": (504, "Overloaded"),
    "unready": (503, "Unhealthy"),
}


def error_body(refusal: Refusal) -> tuple[int, Any]:
    status, kind = ERRORS.get(refusal.kind, (refusal.status, "Validation"))
    message = "Model is overloaded" if refusal.kind == "overloaded" else refusal.message
    return status, {"error": message, "error_type": kind}
