"""vLLM's endpoints for reward models: /classify, /pooling, /score, /v1/models.

A string of `input` is a dialogue that is rendered already, a list of numbers its tokens, `messages` are rendered here.
What is longer than the model reads is refused, as vLLM does, unless `truncate_prompt_tokens` allows to cut: its last
tokens stay, never its first. The head is a regression: `use_activation` changes nothing, as in vLLM.

Source: vllm/entrypoints/pooling (protocol and serving of classify, pooling, scoring), OpenAI's error shape.
"""

from __future__ import annotations

import base64
import struct
import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from rewardsmith.data.schema import Message
from rewardsmith.serving.engine import Engine, Rows
from rewardsmith.serving.refusals import Refusal
from rewardsmith.serving.service import Service
from rewardsmith.serving.wire import Client, Messages, Text, TheService, Variables, described, make_group, router

routes = router("vLLM")
Ids = Annotated[list[int], Field(min_length=1)]
Input = Text | Ids | Annotated[list[Text], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)]
Side = Text | Annotated[list[Text], Field()]


class Basic(BaseModel):
    """Fields of every request. Others are ignored, as vLLM does."""

    model: str | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    use_activation: bool | None = None


class InputRequest(Basic):
    """Texts that are rendered already, or their tokens."""

    input: Input


class ChatRequest(Basic):
    """One dialogue, the last turn of which is the response."""

    messages: Messages
    chat_template: str | None = None
    chat_template_kwargs: Variables | None = None
    add_generation_prompt: bool = False
    continue_final_message: bool = False


class PoolingInputRequest(InputRequest):
    encoding_format: Literal["float", "base64"] = "float"
    task: str | None = None


class PoolingChatRequest(ChatRequest):
    encoding_format: Literal["float", "base64"] = "float"
    task: str | None = None


class TextRequest(Basic):
    text_1: Side
    text_2: Side


class DocumentsRequest(Basic):
    queries: Side
    documents: Side


class ItemsRequest(Basic):
    queries: Side
    items: Side


class DataRequest(Basic):
    data_1: Side
    data_2: Side


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None


class ClassificationData(BaseModel):
    index: int
    label: str | None
    probs: list[float]
    num_classes: int


class PoolingData(BaseModel):
    index: int
    object: Literal["pooling"] = "pooling"
    data: list[float] | str


class ScoreData(BaseModel):
    index: int
    object: Literal["score"] = "score"
    score: float


class Answer(BaseModel):
    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    usage: Usage


class ClassificationResponse(Answer):
    data: list[ClassificationData]


class PoolingResponse(Answer):
    data: list[PoolingData]


class ScoreResponse(Answer):
    data: list[ScoreData]


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "rewardsmith"
    root: str
    parent: None = None
    max_model_len: int
    permission: list[Any] = Field(default_factory=list)


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorInfo(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: int


class ErrorResponse(BaseModel):
    error: ErrorInfo | str


REFUSALS = described(ErrorResponse, 400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504)


@routes.post("/classify", summary="Rewards as one class", responses=REFUSALS)
async def classify(body: InputRequest | ChatRequest, service: TheService, client: Client) -> ClassificationResponse:
    """`probs` holds the raw reward."""
    engine, rows = await rows_of(service, body)
    rewards = await service.score_rows(client, engine, rows, answers_of(body))
    data = [
        ClassificationData(index=n, label="reward", probs=[value], num_classes=1) for n, value in enumerate(rewards)
    ]
    return ClassificationResponse(**answer("classify", engine, rows), data=data)


@routes.post("/pooling", summary="Rewards as pooled outputs", responses=REFUSALS)
async def pooling(
    body: PoolingInputRequest | PoolingChatRequest, service: TheService, client: Client
) -> PoolingResponse:
    """`data` holds the raw reward, or its four bytes in base64."""
    if body.task not in (None, "classify"):
        raise Refusal("invalid", f"task {body.task[:40]!r} is not supported; there is: classify")
    engine, rows = await rows_of(service, body)
    rewards = await service.score_rows(client, engine, rows, answers_of(body))
    data = [PoolingData(index=n, data=encoded(value, body.encoding_format)) for n, value in enumerate(rewards)]
    return PoolingResponse(**answer("pool", engine, rows), data=data)


@routes.post("/v1/score", include_in_schema=False)
@routes.post("/score", summary="Rewards of answers to prompts", responses=REFUSALS)
async def score(
    body: DocumentsRequest | ItemsRequest | DataRequest | TextRequest, service: TheService, client: Client
) -> ScoreResponse:
    """The first side is what the user says, the second what the assistant answers; 1:1, 1:N or N:N."""
    service.check_model(body.model)
    prompts, responses = sides(body)
    groups = [
        make_group([Message("user", prompt)], [[Message("assistant", response)]])
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    check_side(body)
    engine = service.engine
    rows = [checked(engine, item, body.truncate_prompt_tokens) for item in await service.encode(engine, groups)]
    rewards = await service.score_rows(client, engine, rows, responses, prompts)
    data = [ScoreData(index=n, score=value) for n, value in enumerate(rewards)]
    return ScoreResponse(**answer("score", engine, rows), data=data)


@routes.get("/v1/models", summary="The model that is served", responses=described(ErrorResponse, 401))
async def models(service: TheService) -> ModelList:
    engine = service.engine
    card = ModelCard(id=engine.name, created=engine.loaded, root=engine.name, max_model_len=engine.max_length)
    return ModelList(data=[card])


# -- in ---------------------------------------------------------------------------------------------------


async def rows_of(service: Service, body: InputRequest | ChatRequest) -> tuple[Engine, list[Rows]]:
    """A row of each input, cut only where the request allows it."""
    service.check_model(body.model)
    check_side(body)
    engine = service.engine
    if isinstance(body, ChatRequest):
        if body.chat_template is not None:
            raise Refusal("invalid", "chat_template is not allowed in a request: the model's own one is used")
        if body.add_generation_prompt or body.continue_final_message:
            raise Refusal("invalid", "a reward is read at the end of a whole dialogue, not of an opening")
        messages = [message.to_message() for message in body.messages]
        group = make_group(messages[:-1], [messages[-1:]], variables=body.chat_template_kwargs)
        found = await service.encode(engine, [group])
        return engine, [checked(engine, found[0], body.truncate_prompt_tokens)]
    given = body.input
    if isinstance(given, str) or isinstance(given[0], str):
        texts: Any = [given] if isinstance(given, str) else given
        rows = await service.tokenise(engine, texts)
    else:
        lists: Any = [given] if isinstance(given[0], int) else given
        rows = [engine.check_ids(ids) for ids in lists]
    return engine, [whole_or_cut(engine, row, body.truncate_prompt_tokens) for row in rows]


def check_side(body: Basic) -> None:
    if body.truncation_side == "right" and body.truncate_prompt_tokens is not None:
        raise Refusal(
            "invalid", "truncation_side 'right' cuts off the end, where the reward is read; take 'left' or leave it out"
        )


def whole_or_cut(engine: Engine, row: np.ndarray, allowed: int | None) -> Rows:
    if len(row) == 0:
        raise Refusal("empty", "an input has no token")
    if allowed == 0:
        raise Refusal("invalid", "truncate_prompt_tokens 0 leaves nothing to score")
    if allowed is None and len(row) > engine.max_length:
        raise too_long(engine, len(row))
    cut, flag = engine.fitted(row, allowed if allowed is not None and allowed > 0 else None)
    return Rows((cut,), (flag,))


def checked(engine: Engine, item: Rows | str, allowed: int | None) -> Rows:
    """A rendered dialogue's row: the renderer's own cut (the oldest of the prompt) where -1 allows it."""
    if isinstance(item, str):
        raise Refusal("invalid", item)
    if any(item.truncated) and allowed is None:
        raise too_long(engine, None)
    if allowed is None or allowed == -1:
        return item
    cut = whole_or_cut(engine, item.token_ids[0], allowed)
    return Rows(cut.token_ids, (item.truncated[0] or cut.truncated[0],))


def too_long(engine: Engine, n_tokens: int | None) -> Refusal:
    asked = "more" if n_tokens is None else f"{n_tokens} tokens"
    return Refusal(
        "long",
        f"This model's maximum context length is {engine.max_length} tokens. However, you requested {asked}. "
        "Please reduce the length of the input, or set truncate_prompt_tokens.",
    )


def sides(body: DocumentsRequest | ItemsRequest | DataRequest | TextRequest) -> tuple[list[str], list[str]]:
    """Prompts and responses, paired."""
    if isinstance(body, TextRequest):
        first, second = body.text_1, body.text_2
    elif isinstance(body, DataRequest):
        first, second = body.data_1, body.data_2
    elif isinstance(body, ItemsRequest):
        first, second = body.queries, body.items
    else:
        first, second = body.queries, body.documents
    prompts = [first] if isinstance(first, str) else list(first)
    responses = [second] if isinstance(second, str) else list(second)
    if not prompts:
        raise Refusal("empty", "At least one text element must be given")
    if not responses:
        raise Refusal("empty", "At least one text_pair element must be given")
    if len(prompts) > 1 and len(prompts) != len(responses):
        raise Refusal("invalid", "Input lengths must be either 1:1, 1:N or N:N")
    return (prompts * len(responses) if len(prompts) == 1 else prompts), responses


# -- out --------------------------------------------------------------------------------------------------


def answers_of(body: InputRequest | ChatRequest) -> list[str | None]:
    """The answer's text of a dialogue; a text or a row of tokens does not say where the answer begins."""
    return [body.messages[-1].text()] if isinstance(body, ChatRequest) else []


def answer(what: str, engine: Engine, rows: Sequence[Rows]) -> dict[str, Any]:
    n_tokens = sum(sum(item.n_tokens) for item in rows)
    usage = Usage(prompt_tokens=n_tokens, total_tokens=n_tokens)
    return {"id": f"{what}-{uuid.uuid4().hex}", "created": int(time.time()), "model": engine.name, "usage": usage}


def encoded(value: float, form: str) -> list[float] | str:
    return [value] if form == "float" else base64.b64encode(struct.pack("<f", value)).decode()


TYPES = {404: "NotFoundError", 429: "RateLimitError", 500: "InternalServerError", 503: "ServiceUnavailableError"}


def error_body(refusal: Refusal) -> tuple[int, Any]:
    """vLLM answers with 400 what cannot be scored as it stands, and names no type for a missing key."""
    if refusal.status == 401:
        return 401, {"error": "Unauthorized"}
    status = 400 if refusal.status == 422 else refusal.status
    kind = TYPES.get(status, "BadRequestError")
    param = "model" if refusal.kind == "unknown" else None
    return status, {"error": {"message": refusal.message, "type": kind, "param": param, "code": status}}
