"""What the dialects share: messages of a request become a group's, and what must never come from a request is refused.

A request cannot bring a chat template, name a file or an address, or set an argument of the renderer: only texts,
token ids, tools, and plain variables of the model's own template.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import DataError
from rewardsmith.serving.batcher import Caller
from rewardsmith.serving.refusals import Refusal
from rewardsmith.serving.service import Service

Text = Annotated[str, Field(max_length=4 * 2**20)]
MOST_PARTS = 1000
RESERVED = frozenset({"messages", "conversation", "tools", "documents"})


class TextPart(BaseModel):
    """A piece of a message: text only."""

    type: str
    text: Text | None = None


class MessageIn(BaseModel):
    """One turn. Further fields (`tool_calls`, `name`, `reasoning_content`) reach the chat template as they are."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"role": "user", "content": "Hello"}]})
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: Text | Annotated[list[TextPart], Field(max_length=MOST_PARTS)] | None = None

    def to_message(self) -> Message:
        return Message(self.role, self.text(), unicode_checked(self.model_extra or {}))

    def text(self) -> str:
        """The content as one text; Refusal for a part that is none."""
        if self.content is None:
            return ""
        if isinstance(self.content, str):
            return self.content
        for part in self.content:
            if part.type != "text" or part.text is None:
                raise Refusal("invalid", f"a content part of type {part.type[:40]!r}: this model reads text only")
        return "\n".join(part.text or "" for part in self.content)


Messages = Annotated[list[MessageIn], Field(min_length=1, max_length=1000)]
Tools = Annotated[list[dict[str, JsonValue]], Field(max_length=200)]
Variables = Annotated[dict[str, JsonValue], Field(max_length=50)]


def service_of(request: Request) -> Service:
    return request.app.state.service


def client_of(request: Request) -> Caller:
    """Who asks, and until when, as the gate noted it."""
    return Caller(str(request.scope["client_id"]), request.scope["deadline"])


TheService = Annotated[Service, Depends(service_of)]
Client = Annotated[Caller, Depends(client_of)]


def make_group(
    prompt: Sequence[Message],
    responses: Sequence[Sequence[Message]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
    id: str = "",
) -> Group:
    """A group of a request; Refusal where it is none."""
    try:
        return Group(
            prompt=tuple(prompt),
            responses=tuple(map(tuple, responses)),
            tools=None if tools is None else unicode_checked(list(tools)),
            template_kwargs=checked_variables(variables or {}),
            id=id,
        )
    except DataError as error:
        raise Refusal("invalid", str(error)) from None


def checked_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of the chat template. An argument of the renderer (`chat_template` among them) is no such thing."""
    from transformers import PreTrainedTokenizerBase

    taken = RESERVED | set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
    if wrong := sorted(set(variables) & taken):
        raise Refusal("invalid", f"template variables may not be named {', '.join(wrong)}")
    return unicode_checked(dict(variables))


def unicode_checked(value: Any) -> Any:
    """The value; Refusal where a text in it is no Unicode (a lone surrogate)."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                raise Refusal("invalid", "a text holds a lone surrogate, which is no character") from None
        elif isinstance(item, Mapping):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            pending += item
    return value


def router(tag: str) -> APIRouter:
    return APIRouter(tags=[tag])


def described(model: type[BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of an endpoint, for the OpenAPI description."""
    words = {
        400: "malformed",
        401: "no key, or a wrong one",
        403: "not allowed",
        404: "no such model",
        408: "the body came too slowly",
        413: "too large",
        415: "not application/json",
        422: "cannot be scored as it stands",
        424: "the model failed",
        429: "too much is waiting: see Retry-After",
        500: "the model failed",
        503: "not ready",
        504: "the deadline passed",
    }
    return {status: {"model": model, "description": words[status]} for status in statuses}
