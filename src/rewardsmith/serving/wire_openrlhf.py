"""OpenRLHF's remote reward model: POST /get_reward.

A query is prompt and answer as the policy's template rendered them, with or without the end-of-turn token, perhaps
padded. It is made to end as this model's template ends a dialogue, so that the reward is the one that the same
dialogue gets elsewhere. What is too long loses its beginning, never its end.

Source: openrlhf/cli/serve_rm.py and openrlhf/utils/remote_rm_utils.py; `scores` and `extra_logs` of later versions.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, JsonValue

from rewardsmith.serving.engine import Rows
from rewardsmith.serving.refusals import Refusal
from rewardsmith.serving.wire import Client, Text, TheService, described, router

routes = router("OpenRLHF")


class GetRewardRequest(BaseModel):
    """`prompts` tell where each answer begins; `labels` are ignored, as other fields are."""

    query: Annotated[list[Text], Field(min_length=1)]
    prompts: list[Text] | None = None
    labels: list[JsonValue] | None = None


class GetRewardResponse(BaseModel):
    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class ErrorResponse(BaseModel):
    detail: str


STATUSES = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 504)


@routes.post("/get_reward", summary="Rewards of rendered dialogues", responses=described(ErrorResponse, *STATUSES))
async def get_reward(body: GetRewardRequest, service: TheService, client: Client) -> GetRewardResponse:
    engine = service.engine
    rows = await service.tokenise(engine, body.query, close=True)
    fitted = [Rows((cut,), (flag,)) for cut, flag in (engine.fitted(row, None) for row in rows)]
    prompts, answers = split_by_prompts(body)
    answers = [None if answer is None else engine.opened(answer) for answer in answers]
    rewards = await service.score_rows(client, engine, fitted, answers, prompts)
    return GetRewardResponse(rewards=rewards, scores=rewards, extra_logs={})


def split_by_prompts(body: GetRewardRequest) -> tuple[list[str | None], list[str | None]]:
    """(prompts, the answers behind them) where the prompts are what the queries begin with."""
    prompts = body.prompts or []
    if len(prompts) != len(body.query):
        return [None] * len(body.query), [None] * len(body.query)
    known = [bool(prompt) and query.startswith(prompt) for query, prompt in zip(body.query, prompts, strict=True)]
    answers = [
        query[len(prompt) :] if begins else None
        for query, prompt, begins in zip(body.query, prompts, known, strict=True)
    ]
    return [prompt if begins else None for prompt, begins in zip(prompts, known, strict=True)], answers


def error_body(refusal: Refusal) -> tuple[int, Any]:
    return refusal.status, {"detail": refusal.message}
