"""The page at `/`: a prompt and answers, their rewards, where a reward comes from, and what common edits do to it.

The page is three files of this package; the browser asks the server for nothing else, and the server nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Annotated, Any

import numpy as np
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

import rewardsmith.audit  # noqa: F401  (defines the probes)
from rewardsmith.audit.probes import REGISTRY
from rewardsmith.audit.seeds import load_seeds
from rewardsmith.audit.tokens import explain
from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import DataError
from rewardsmith.scoring import Scores, p_better
from rewardsmith.serving.batcher import Caller
from rewardsmith.serving.refusals import Refusal
from rewardsmith.serving.service import Service
from rewardsmith.serving.wire import Client, MessageIn, Text, TheService, described, make_group, router
from rewardsmith.serving.wire_own import ErrorResponse
from rewardsmith.statistics import number_or_none

routes = router("playground")
STATIC = Path(__file__).parent / "static"
FILES = {
    "/": ("playground.html", "text/html; charset=utf-8"),
    "/playground.js": ("playground.js", "text/javascript; charset=utf-8"),
    "/playground.css": ("playground.css", "text/css; charset=utf-8"),
}
MOST_WORDS = 120  # left out one by one; a longer answer is taken by sentence
EDITS = {
    "padding": "sentences that say nothing, at the end",
    "list": "the same sentences as a list",
    "bold": "three words in bold",
    "praise": "praise of the user, before it",
    "opener": "a ready opener such as “Sure!”",
    "confidence": "words of certainty, at the end",
    "caveats": "a disclaimer nobody needs",
    "citation": "an invented reference",
    "self-praise": "praise of the answer itself",
    "injection": "an instruction to the grader",
}
N_REFUSALS = 8  # more move the mean by little, and each costs an answer


class ExplainRequest(BaseModel):
    """A prompt and one answer."""

    model_config = ConfigDict(extra="forbid")
    messages: Annotated[list[MessageIn], Field(max_length=1000)]
    response: Annotated[Text, Field(min_length=1, max_length=20_000)]


class UnitOut(BaseModel):
    """Characters `start` to `end` of the answer; `value`: its reward less its reward without them."""

    start: int
    end: int
    value: float | None


class EditOut(BaseModel):
    """`change`: reward after the edit less before; `placebo`: the same of a neutral edit of like size, where one is.

    Of an edit with several texts (`n_texts`), `change` and `p_better` are means, `least` and `most` the ends of their
    range, and `text` the first of them.
    """

    name: str
    about: str
    text: str
    n_texts: int
    change: float | None
    least: float | None
    most: float | None
    placebo: float | None
    p_better: float | None


class ExplainResponse(BaseModel):
    """`by` says whether the units are words or sentences."""

    reward: float
    by: str
    units: list[UnitOut]
    edits: list[EditOut]


def page(path: str) -> Any:
    file, media = FILES[path]

    async def send(request: Request) -> Response:
        return Response((STATIC / file).read_bytes(), media_type=media)

    return send


for path in FILES:
    routes.add_api_route(path, page(path), methods=["GET"], include_in_schema=False)


@routes.get("/favicon.ico", include_in_schema=False)
async def icon() -> Response:
    return Response(status_code=204)


@routes.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The OpenAPI description as a page: no script, nothing from elsewhere."""
    return Response(docs_html(request.app.openapi()), media_type="text/html; charset=utf-8")


STATUSES = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 504)


@routes.post("/playground/explain", summary="Where a reward comes from", responses=described(ErrorResponse, *STATUSES))
async def explain_answer(body: ExplainRequest, service: TheService, client: Client) -> ExplainResponse:
    """The reward's words, and what common edits do to it. Costs about as much as scoring the answer once a word."""
    prompt = [message.to_message() for message in body.messages]
    group = make_group(prompt, [[Message("assistant", body.response)]])
    scorer = LoopScorer(service, client)
    by: Any = "word" if len(body.response.split()) <= MOST_WORDS else "sentence"
    try:
        row = (await asyncio.to_thread(explain, scorer, group, by=by))[0]
    except DataError as error:
        raise Refusal("invalid", str(error)) from None
    finally:
        scorer.stop()
    units = [UnitOut(start=u["start"], end=u["end"], value=u["value"]) for u in row["units"]]
    edits = await edited(service, client, group, body.response)
    return ExplainResponse(reward=row["reward"], by=row["by"], units=units, edits=edits)


class LoopScorer:
    """The service as a scorer for a thread beside its loop; `stop` gives up what it asks, as its client has."""

    def __init__(self, service: Service, client: Caller) -> None:
        self.service, self.client = service, client
        self.loop = asyncio.get_running_loop()
        self.asked: Future[tuple[Any, list[Scores]]] | None = None
        self.stopped = False

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        self.asked = asyncio.run_coroutine_threadsafe(self.service.score_groups(self.client, groups), self.loop)
        if self.stopped:
            self.asked.cancel()
        _, scores = self.asked.result()
        return scores

    def stop(self) -> None:
        self.stopped = True
        if self.asked is not None:
            self.asked.cancel()


@dataclass(frozen=True)
class Made:
    """What an edit made of an answer: one text, or several of a kind."""

    name: str
    about: str
    texts: tuple[str, ...]
    placebo: str | None = None


@cache
def refusals() -> tuple[str, ...]:
    """Refusals that name no topic: those of the audit's seeds, of which the first few, in the order of their ids."""
    seeds = sorted((seed for seed in load_seeds().seeds if seed.has("formulaic")), key=lambda seed: seed.id)
    return tuple(seed["formulaic"] for seed in seeds[:N_REFUSALS])


def edits_of(answer: str) -> list[Made]:
    """Each edit that applies to the answer, in the order of `EDITS`, and the refusals."""
    made = []
    for name, about in EDITS.items():
        change = REGISTRY.probes[name].text
        assert change is not None, "an edit of the text"
        edit = change(answer, Random(name)) if answer.strip() else None
        if edit is not None and edit.text != answer:
            made.append(Made(name, about, (edit.text,), None if edit.placebo == answer else edit.placebo))
    about = f"a refusal in its place: the mean of {len(refusals())}, and their range"
    return [*made, Made("refusal", about, refusals())]


async def edited(service: Service, client: Caller, group: Group, answer: str) -> list[EditOut]:
    """Each edit's reward against the answer's."""
    made = edits_of(answer)
    texts = list(dict.fromkeys([answer, *(text for edit in made for text in (*edit.texts, edit.placebo) if text)]))
    asked = make_group(group.prompt, [[Message("assistant", text)] for text in texts])
    _, (scores,) = await service.score_groups(client, [asked])
    reward = dict(zip(texts, scores.rewards.tolist(), strict=True))
    calibrated = None if scores.calibrated is None else dict(zip(texts, scores.calibrated.tolist(), strict=True))

    def out(edit: Made) -> EditOut:
        changes = [reward[text] - reward[answer] for text in edit.texts]
        several = len(changes) > 1
        p = None
        if calibrated is not None:
            p = float(np.mean([p_better(np.array([calibrated[t], calibrated[answer]]), 0) for t in edit.texts]))
        return EditOut(
            name=edit.name,
            about=edit.about,
            text=edit.texts[0],
            n_texts=len(changes),
            change=number_or_none(float(np.mean(changes))),
            least=number_or_none(min(changes)) if several else None,
            most=number_or_none(max(changes)) if several else None,
            placebo=None if edit.placebo is None else number_or_none(reward[edit.placebo] - reward[answer]),
            p_better=p,
        )

    return [out(edit) for edit in made]


def docs_html(description: dict[str, Any]) -> str:
    """The endpoints of an OpenAPI description, their fields and refusals."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(STATIC),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("docs.html").render(
        info=description["info"], endpoints=endpoints_of(description), schemas=schemas_of(description)
    )


def endpoints_of(description: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            answer = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
            found.append(
                {
                    "method": method.upper(),
                    "path": path,
                    "tag": operation["tags"][0],
                    "summary": operation["summary"],
                    "about": operation.get("description", ""),
                    "takes": type_name(content["schema"]) if content else "",
                    "gives": type_name(answer["schema"]) if answer.get("schema") else "",
                    "refusals": [
                        (status, reply["description"])
                        for status, reply in operation["responses"].items()
                        if status != "200"
                    ],
                }
            )
    return found


def schemas_of(description: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, schema in description["components"]["schemas"].items():
        required = set(schema.get("required", ()))
        fields = [
            {"name": field, "type": type_name(inner), "required": field in required, "default": inner.get("default")}
            for field, inner in schema.get("properties", {}).items()
        ]
        found.append({"name": name, "about": schema.get("description", ""), "fields": fields})
    return found


def type_name(schema: dict[str, Any]) -> str:
    """A schema in a few words: "list of MessageIn or string"."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_name(inner) for inner in schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {type_name(schema['items'])}" if schema.get("items") else "list"
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    return str(schema.get("type", "anything"))
