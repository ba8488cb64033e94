"""The labelling page's application: its files and a few requests, behind the gate of `serving`.

Who labels is the name of the key that was shown; where no keys are used, the name in the request.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from rewardsmith.errors import DataError, StoreError
from rewardsmith.labelling.desk import Desk, on_page, shown_order
from rewardsmith.progress import say
from rewardsmith.refresh.records import MOST_ANSWERS, Leased, check_name
from rewardsmith.serving.gate import App, Gate
from rewardsmith.serving.keys import KeyRing
from rewardsmith.serving.refusals import Refusal, refusal_of

STATIC = Path(__file__).parent / "static"
SCRIPTS = ("markdown.js", "outbox.js", "server.js", "ranking.js", "drawing.js", "told.js", "who.js", "label.js")
FILES = {
    "/": ("label.html", "text/html; charset=utf-8"),
    **{f"/{name}": (name, "text/javascript; charset=utf-8") for name in SCRIPTS},
    "/label.css": ("label.css", "text/css; charset=utf-8"),
}
OPEN = frozenset({*FILES, "/favicon.ico", "/health"})  # need no key: they say nothing of anybody's texts
MOST_HELD = 200
Name = Annotated[str, Field(max_length=400)]
Number = Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)]
Key = Annotated[str, Field(min_length=8, max_length=64, pattern=r"^[0-9a-zA-Z-]+$")]
Place = Annotated[int, Field(ge=1, le=MOST_ANSWERS, strict=True)]
Answer = Annotated[int, Field(ge=0, lt=MOST_ANSWERS, strict=True)]
AnswerPlaces = Annotated[list[Place], Field(min_length=2, max_length=MOST_ANSWERS)]


class Asked(BaseModel):
    """Who asks; `holding` are the numbers of the pairs and sets that this page has in hand."""

    model_config = ConfigDict(extra="forbid")
    annotator: Name
    holding: Annotated[list[Number], Field(max_length=MOST_HELD)] = []


class Said(BaseModel):
    """What is said of the answers as they were shown: a place for each, from the left on, or one word for all.

    `key` names this press and no other.
    """

    model_config = ConfigDict(extra="forbid")
    key: Key
    annotator: Name
    number: Number
    verdict: Literal["ranked", "skip", "flag"]
    places: AnswerPlaces | None = None
    order: Annotated[list[Answer], Field(min_length=2, max_length=MOST_ANSWERS)]
    seconds: Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)] = 0.0
    at: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)] = 0.0
    note: Annotated[str, Field(max_length=10_000)] = ""

    def said(self) -> list[int] | Literal["skip", "flag"]:
        """DataError where it says both or neither."""
        if self.verdict != "ranked" and self.places is None:
            return self.verdict
        if self.verdict == "ranked" and self.places is not None:
            return self.places
        raise DataError(f"verdict {self.verdict!r}: places are given with 'ranked', and with no other verdict")


class Undo(BaseModel):
    """Which press is taken back."""

    model_config = ConfigDict(extra="forbid")
    key: Key
    annotator: Name
    number: Number


def create_app(desk: Desk, *, keys: KeyRing | None = None, hosts: Sequence[str] = (), log_requests: bool = True) -> App:
    """The ASGI application of a desk. Endpoints run in threads: the store waits for its disk there."""
    keys = keys or KeyRing()
    api = FastAPI(title="Rewardsmith labelling", docs_url=None, redoc_url=None, openapi_url=None)
    for error in (Refusal, RequestValidationError, HTTPException, DataError, StoreError):
        api.add_exception_handler(error, refused)
    for path in FILES:
        api.add_api_route(path, file_of(path), methods=["GET"])

    def annotator_of(request: Request, said: str) -> str:
        """Who labels; Refusal where a key speaks for somebody else."""
        said = check_name(said)
        if keys and said != (name := str(request.scope["client_id"])):
            raise Refusal("forbidden", f"this key is {name}'s, not {said}'s: sign in with the key of {said}")
        return said

    def for_page(annotator: str, leased: Leased | None) -> dict[str, Any] | None:
        if leased is None:
            return None
        order = shown_order(desk.project, leased.comparison.id, annotator, len(leased.answers))
        return on_page(leased, order)

    @api.get("/favicon.ico")
    @api.get("/health")
    def nothing() -> Response:
        return Response(status_code=204)

    @api.get("/api/hello")
    def hello(request: Request) -> dict[str, Any]:
        """What the page is for; `annotator` where a key says who asks."""
        return {
            "project": desk.project,
            "title": desk.title,
            "needs_key": bool(keys),
            "annotator": str(request.scope["client_id"]) if keys else None,
            "lease_seconds": desk.limits.lease_seconds,
        }

    @api.post("/api/next", dependencies=[Depends(json_only)])
    def next_set(request: Request, body: Asked) -> dict[str, Any]:
        annotator = annotator_of(request, body.annotator)
        given = desk.next(annotator, body.holding)
        shown = for_page(annotator, given.leased)
        return {"set": shown, "waiting": given.waiting, "progress": desk.progress(annotator)}

    @api.post("/api/label", dependencies=[Depends(json_only)])
    def label(request: Request, body: Said) -> dict[str, Any]:
        annotator = annotator_of(request, body.annotator)
        kept = desk.label(
            annotator,
            body.number,
            body.said(),
            order=body.order,
            key=body.key,
            at=body.at,
            seconds=body.seconds,
            note=body.note,
        )
        return {"fresh": kept.fresh, "progress": desk.progress(annotator)}

    @api.post("/api/undo", dependencies=[Depends(json_only)])
    def undo(request: Request, body: Undo) -> dict[str, Any]:
        annotator = annotator_of(request, body.annotator)
        shown = for_page(annotator, desk.undo(annotator, body.key, body.number))
        return {"set": shown, "progress": desk.progress(annotator)}

    @api.post("/api/renew", dependencies=[Depends(json_only)])
    def renew(request: Request, body: Asked) -> dict[str, Any]:
        return {"held": desk.renew(annotator_of(request, body.annotator), body.holding)}

    @api.post("/api/release", dependencies=[Depends(json_only)])
    def release(request: Request, body: Asked) -> dict[str, Any]:
        return {"released": desk.release(annotator_of(request, body.annotator), body.holding)}

    @api.get("/api/team")
    def team() -> dict[str, Any]:
        return desk.report()

    return Gate(
        api,  # type: ignore[arg-type]
        service=desk,
        keys=keys,
        hosts=hosts,
        paths=frozenset({*OPEN, *(f"/api/{name}" for name in API)}),
        answer=answered,
        open=OPEN,
        log_requests=log_requests,
    )


API = ("hello", "next", "label", "undo", "renew", "release", "team")


def file_of(path: str) -> Callable[[], Response]:
    file, media = FILES[path]

    def send() -> Response:
        return Response((STATIC / file).read_bytes(), media_type=media)

    return send


async def json_only(request: Request) -> None:
    """Refuse what a page of another origin could send without asking first: a form, or plain text."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal("media", "send application/json")


# -- refusals -----------------------------------------------------------------------------------------------


async def refused(request: Request, error: Exception) -> Response:
    status, body, headers = answered(request.url.path, why(error))
    return Response(body, status_code=status, headers=headers)


def why(error: Exception) -> Refusal:
    """What went wrong, for the one who labels. What the store says of its disk is for the log."""
    if isinstance(error, StoreError):
        say(f"the store: {error}")
        return Refusal("unready", "the store cannot be used just now (the server's log says why)", retry_after=2.0)
    if isinstance(error, DataError):
        return Refusal("invalid", str(error))
    return refusal_of(error)


def answered(path: str, refusal: Refusal) -> tuple[int, bytes, dict[str, str]]:
    """A refusal as JSON, in the shape of `serve`'s own."""
    headers = {"content-type": "application/json"}
    if refusal.retry_after is not None:
        headers["retry-after"] = str(math.ceil(refusal.retry_after))
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    return refusal.status, json.dumps({"error": {"type": refusal.kind, "message": refusal.message}}).encode(), headers
