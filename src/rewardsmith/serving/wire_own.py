"""Our own endpoint, /v1/reward: K responses a prompt, and all that is known of each reward."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from rewardsmith.data.schema import Message
from rewardsmith.scoring import Scores, p_better
from rewardsmith.serving.engine import Engine
from rewardsmith.serving.refusals import Refusal
from rewardsmith.serving.wire import (
    Client,
    MessageIn,
    Messages,
    Text,
    TheService,
    Tools,
    Variables,
    described,
    make_group,
    router,
)
from rewardsmith.statistics import number_or_none

routes = router("rewardsmith")


class GroupIn(BaseModel):
    """A prompt and its responses: texts, or the turns of which they are made."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "messages": [{"role": "user", "content": "What is the capital of Australia?"}],
                    "responses": ["Canberra.", "Sydney."],
                }
            ]
        },
    )
    messages: Annotated[list[MessageIn], Field(max_length=1000)]
    responses: Annotated[list[Text | Messages], Field(min_length=1)]
    tools: Tools | None = None
    template_kwargs: Variables | None = None
    id: Annotated[str, Field(max_length=200)] = ""


class RewardRequest(BaseModel):
    """Groups to score, in one request."""

    model_config = ConfigDict(extra="forbid")
    groups: Annotated[list[GroupIn], Field(min_length=1)]
    model: str | None = None


class RewardOut(BaseModel):
    """One response's reward.

    reward      null where it could not be scored (see the group's `error`)
    calibrated  in log-odds: sigmoid(a - b) is P(a is better than b); null where no temperature was fitted
    adjusted    without length's part and within bounds, as `score` writes it; null where no adjustment was fitted.
                A server that was told to serve adjusted rewards gives them as `reward`
    std         spread over an ensemble's members, or that of a single model's last layer; null without either
    p_better    P(better than the group's others), their mean
    truncated   "", "prompt" or "response": what was cut to fit
    n_tokens    of prompt and response
    """

    reward: float | None
    calibrated: float | None
    adjusted: float | None
    std: float | None
    p_better: float | None
    truncated: str
    n_tokens: int


class GroupOut(BaseModel):
    """A group's rewards, in the order of its responses."""

    id: str
    rewards: list[RewardOut]
    error: str | None


class RewardResponse(BaseModel):
    """`artifact` is a hash of what decides a reward: the same hash gives the same rewards."""

    model: str
    artifact: str | None
    groups: list[GroupOut]


class ErrorOut(BaseModel):
    type: str
    message: str


class ErrorResponse(BaseModel):
    error: ErrorOut


STATUSES = (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)


@routes.post("/v1/reward", summary="Rewards of responses", responses=described(ErrorResponse, *STATUSES))
async def reward(body: RewardRequest | GroupIn, service: TheService, client: Client) -> RewardResponse:
    """Score one group, or `groups` of them. Over-long input is cut as the artifact says, and flagged."""
    given = [body] if isinstance(body, GroupIn) else body.groups
    service.check_model(body.model if isinstance(body, RewardRequest) else None)
    groups = [
        make_group(
            [message.to_message() for message in group.messages],
            [response_messages(response) for response in group.responses],
            tools=group.tools,
            variables=group.template_kwargs,
        )
        for group in given
    ]
    engine, scores = await service.score_groups(client, groups)
    return response_of(engine, [group.id for group in given], scores)


def response_messages(response: str | list[MessageIn]) -> list[Message]:
    if isinstance(response, str):
        return [Message("assistant", response)]
    return [message.to_message() for message in response]


def response_of(engine: Engine, ids: list[str], scores: list[Scores]) -> RewardResponse:
    groups = [GroupOut(id=id, rewards=rewards_out(s), error=s.error or None) for id, s in zip(ids, scores, strict=True)]
    return RewardResponse(model=engine.name, artifact=engine.artifact, groups=groups)


def rewards_out(scores: Scores) -> list[RewardOut]:
    calibrated = scores.calibrated
    return [
        RewardOut(
            reward=number_or_none(reward),
            calibrated=None if calibrated is None else number_or_none(calibrated[k]),
            adjusted=None if scores.adjusted is None else number_or_none(scores.adjusted[k]),
            std=None if scores.std is None else number_or_none(scores.std[k]),
            p_better=None if calibrated is None or len(calibrated) < 2 else number_or_none(p_better(calibrated, k)),
            truncated=scores.truncated[k] if scores.truncated else "",
            n_tokens=scores.n_tokens[k] if scores.n_tokens else 0,
        )
        for k, reward in enumerate(scores.rewards.tolist())
    ]


def error_body(refusal: Refusal) -> tuple[int, Any]:
    return refusal.status, {"error": {"type": refusal.kind, "message": refusal.message}}
