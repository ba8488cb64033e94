"""The application: endpoints of all dialects around one service, behind the gate.

A refusal is said in the words of the dialect whose path was asked.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from rewardsmith.installed import own_version
from rewardsmith.serving import playground, wire_openrlhf, wire_own, wire_tei, wire_vllm
from rewardsmith.serving.gate import App, Gate
from rewardsmith.serving.keys import KeyRing
from rewardsmith.serving.refusals import Refusal, refusal_of
from rewardsmith.serving.service import Service
from rewardsmith.serving.wire import TheService, described, router

DIALECTS = (wire_own, wire_vllm, wire_tei, wire_openrlhf)
ABOUT = (
    "Rewards of a reward model, in the HTTP shapes of vLLM, Text Embeddings Inference and OpenRLHF, and in our own. "
    "A server that asks for keys takes them as `Authorization: Bearer KEY` or `X-API-Key: KEY`. "
    "`X-Timeout-Seconds` sets a deadline, after which a request is dropped unanswered (504); one that "
    "the queue would keep longer than that is refused at once (429)."
)

operations = router("operations")


class State(BaseModel):
    """Whether the server answers, and with which model; `release` where it follows the releases of a project."""

    ready: bool
    model: str
    artifact: str | None
    release: str | None = None


def create_app(
    service: Service,
    *,
    keys: KeyRing | None = None,
    hosts: Sequence[str] = (),
    cors_origins: Sequence[str] = (),
    log_texts: bool = False,
    log_requests: bool = True,
) -> App:
    """The ASGI application of a service. Options as of `serve`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    # FastAPI's own documentation pages load scripts from elsewhere; ours is a page of this package.
    api = FastAPI(
        title="Rewardsmith",
        description=ABOUT,
        version=own_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    api.state.service = service
    for dialect in DIALECTS:
        api.include_router(dialect.routes)
    api.include_router(playground.routes)
    api.include_router(operations)
    api.add_exception_handler(Refusal, refused)
    api.add_exception_handler(RequestValidationError, refused)
    api.add_exception_handler(HTTPException, refused)
    paths = (
        frozenset(api.openapi()["paths"])
        | frozenset(playground.FILES)
        | {"/docs", "/openapi.json", "/v1/score", "/favicon.ico"}
    )
    gate: App = Gate(
        api,  # type: ignore[arg-type]
        service=service,
        keys=keys or KeyRing(),
        hosts=hosts,
        paths=paths,
        answer=answered,
        log_texts=log_texts,
        log_requests=log_requests,
    )
    if cors_origins:
        gate = CORSMiddleware(  # type: ignore[assignment]
            gate,  # type: ignore[arg-type]
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key", "x-timeout-seconds"],
        )
    return gate


@operations.get("/health", summary="The process answers", response_class=Response)
async def health() -> Response:
    return Response(status_code=200)


@operations.get("/ready", summary="The model is warm", responses=described(wire_own.ErrorResponse, 503))
async def ready(service: TheService) -> State:
    if not service.ready:
        raise Refusal("unready", "the model is not warm, or the server is shutting down", retry_after=1.0)
    return State(
        ready=True, model=service.engine.name, artifact=service.engine.artifact, release=service.engine.release
    )


@operations.get("/metrics", summary="For Prometheus", response_class=Response)
async def metrics(service: TheService) -> Response:
    return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


@operations.post(
    "/admin/reload",
    summary="Read the model's folder again and serve it from now on",
    responses=described(wire_own.ErrorResponse, 401, 403, 500),
)
async def reload(service: TheService) -> State:
    """Needs an admin key. Takes no argument: which folder is served was said when the server was started."""
    engine = await service.reload()
    return State(ready=service.ready, model=engine.name, artifact=engine.artifact, release=engine.release)


# -- refusals -----------------------------------------------------------------------------------------------


async def refused(request: Request, error: Exception) -> Response:
    status, body, headers = answered(request.url.path, refusal_of(error))
    return Response(body, status_code=status, headers=headers)


def answered(path: str, refusal: Refusal) -> tuple[int, bytes, dict[str, str]]:
    """A refusal in the words of a path's dialect."""
    dialect: Any = wire_own
    for module in DIALECTS:
        if path in {route.path for route in module.routes.routes if hasattr(route, "path")}:
            dialect = module
    status, body = dialect.error_body(refusal)
    headers = {"content-type": "application/json"}
    if refusal.retry_after is not None:
        headers["retry-after"] = str(math.ceil(refusal.retry_after))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return status, json.dumps(body).encode(), headers
