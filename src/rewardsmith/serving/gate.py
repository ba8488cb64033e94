"""What every request passes before the application sees it: host, key, size and pace of the body; and what is left of
it in the log and the metrics. Texts are in neither.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from rewardsmith.progress import say
from rewardsmith.serving.keys import KeyRing
from rewardsmith.serving.refusals import Refusal

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Answer = Callable[[str, Refusal], tuple[int, bytes, dict[str, str]]]

# Says nothing of the model or of anybody's texts; a probe of an orchestrator has no key.
OPEN = frozenset(
    {"/", "/health", "/ready", "/playground.js", "/playground.css", "/favicon.ico", "/docs", "/openapi.json"}
)
ADMIN = frozenset({"/admin/reload"})
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
}
BODIES_AT_ONCE = 64  # bodies of the largest size that may be in memory together


class Bounds(Protocol):
    """What of `Limits` holds for every request."""

    @property
    def max_body_bytes(self) -> int: ...
    @property
    def body_seconds(self) -> float: ...
    @property
    def request_seconds(self) -> float: ...


class Behind(Protocol):
    """What the gate asks of the service behind it."""

    @property
    def limits(self) -> Bounds: ...

    def wait_seconds(self) -> float:
        """After how long a request that was too much may be asked again."""

    def note_left(self) -> None:
        """A client left before its answer."""

    def note(self, path: str, status: int, seconds: float) -> None:
        """A request is over."""


class Gate:
    """The outermost part of the application.

    hosts   names that a request may call this server by, where no key is asked for: a page elsewhere that has its own
            name resolve to this machine (DNS rebinding) is turned away. Empty: any
    answer  (path, refusal) -> (status, body, headers) in the words of the path's dialect
    open    paths that need no key
    """

    def __init__(
        self,
        app: App,
        *,
        service: Behind,
        keys: KeyRing,
        hosts: Sequence[str],
        paths: frozenset[str],
        answer: Answer,
        open: frozenset[str] = OPEN,
        log_texts: bool = False,
        log_requests: bool = True,
    ) -> None:
        self.app, self.service, self.keys, self.open = app, service, keys, open
        self.hosts = frozenset(host.lower() for host in hosts)
        self.paths, self.answer = paths, answer
        self.log_texts, self.log_requests = log_texts, log_requests
        self.bytes_held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        path = scope["path"] if scope["path"] in self.paths else "(other)"
        status, body, answered = 0, b"", False

        async def watched(message: dict[str, Any]) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)

        held = 0
        try:
            self._check_host(scope)
            self._check_key(scope)
            held = self._reserve(scope)
            body = await self._body(scope, receive)
            seconds = self._seconds(scope)
            scope["deadline"] = time.monotonic() + seconds
            async with asyncio.timeout(seconds):
                left = await self._run(scope, body, receive, watched)
            if left and not answered:  # with the whole answer in hand it may leave before the application is through
                self.service.note_left()
                status = 499
        except Refusal as refusal:
            await self._refuse(scope["path"], refusal, watched)
        except TimeoutError:
            if not status:
                late = Refusal("late", "the deadline passed", retry_after=self.service.wait_seconds())
                await self._refuse(scope["path"], late, watched)
        except _ClientLeft:
            self.service.note_left()
            status = 499
        except Exception as error:  # a fault of ours: its place goes to the log, and the client learns that it was one
            said = f": {error}" if self.log_texts else ""  # what it says may hold a text of the request
            say("".join(traceback.format_tb(error.__traceback__, limit=-3)) + type(error).__name__ + said)
            if not status:
                await self._refuse(scope["path"], Refusal("failed", "internal error"), watched)
        finally:
            self.bytes_held -= held
            self._note(scope, path, status, time.monotonic() - started, body)

    # -- before -------------------------------------------------------------------------------------------

    def _check_host(self, scope: Scope) -> None:
        given = [value for name, value in scope["headers"] if name == b"host"]
        if len(given) > 1:
            raise Refusal("malformed", "more than one Host header")
        if self.hosts and (not given or host_name(given[0].decode("latin-1")) not in self.hosts):
            raise Refusal("forbidden", "this server is not known by that name; --allow-host adds one")

    def _check_key(self, scope: Scope) -> None:
        """Set who asks: the key's name, or the connection."""
        peer = scope.get("client") or ("?", 0)
        scope["client_id"] = f"{peer[0]}:{peer[1]}"
        path = scope["path"]
        if not self.keys:
            if path in ADMIN:
                raise Refusal("forbidden", "no key is set, so nobody may do this: give --key-file or --api-key")
            return
        if path in self.open:
            return
        presented = presented_keys(scope["headers"])
        if len(presented) > 1:
            raise Refusal("malformed", "more than one key")
        key = self.keys.find(presented[0]) if presented else None
        if key is None:
            raise Refusal("unauthorized", "Unauthorized")
        if path in ADMIN and not key.admin:
            raise Refusal("forbidden", "this key may not do this")
        scope["client_id"] = key.name

    def _reserve(self, scope: Scope) -> int:
        """Bytes set aside for the body: what it says it has, or the most it may have where it comes in chunks."""
        limit = self.service.limits.max_body_bytes
        stated = [value for name, value in scope["headers"] if name == b"content-length"]
        chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        size = int(stated[0]) if stated and stated[0].isdigit() else (limit if chunked else 0)
        if size and scope["path"] in self.open:  # needs no key, and so must not take others' place
            raise Refusal("large", "this path takes no body")
        if size > limit:
            raise Refusal("large", f"a body of {size} bytes; at most {limit} are allowed")
        if self.bytes_held + size > BODIES_AT_ONCE * limit:
            raise Refusal("overloaded", "too many bodies at once", retry_after=1.0)
        self.bytes_held += size
        return size

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        limits = self.service.limits
        parts, size = [], 0
        try:
            async with asyncio.timeout(limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientLeft
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limits.max_body_bytes:
                        raise Refusal("large", f"a body of more than {limits.max_body_bytes} bytes")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal("slow", f"the body did not come within {limits.body_seconds:g} s") from None

    def _seconds(self, scope: Scope) -> float:
        """How long this request may take: the server's limit, or less where it asks for less."""
        most = self.service.limits.request_seconds
        asked = [value for name, value in scope["headers"] if name == b"x-timeout-seconds"]
        if not asked:
            return most
        try:
            seconds = float(asked[0])
        except ValueError:
            seconds = math.nan
        if len(asked) > 1 or not 0 < seconds < math.inf:
            raise Refusal("malformed", "X-Timeout-Seconds is no positive number")
        return min(seconds, most)

    # -- while --------------------------------------------------------------------------------------------

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> bool:
        """Run the application; True where the client left first, and its work was dropped."""
        given = False

        async def replay() -> dict[str, Any]:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            return await asyncio.get_running_loop().create_future()  # nobody asks for more of an answered request

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        work = asyncio.ensure_future(self.app(scope, replay, send))
        leave = asyncio.ensure_future(gone())
        try:
            await asyncio.wait({work, leave}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return False
            return True
        finally:
            for task in (work, leave):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def _refuse(self, path: str, refusal: Refusal, send: Send) -> None:
        status, body, headers = self.answer(path, refusal)
        raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        raw.append((b"content-length", str(len(body)).encode()))
        with suppress(RuntimeError):  # the client is gone already
            await send({"type": "http.response.start", "status": status, "headers": raw})
            await send({"type": "http.response.body", "body": body})

    # -- after --------------------------------------------------------------------------------------------

    def _note(self, scope: Scope, path: str, status: int, seconds: float, body: bytes) -> None:
        self.service.note(path, status, seconds)
        if not self.log_requests or path in ("/health", "/ready", "/metrics"):
            return
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "client": scope.get("client_id", "?"),
            "method": scope["method"] if scope["method"].isalpha() else "?",
            "path": path,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "bytes": len(body),
        }
        if self.log_texts:
            line["body"] = body.decode("utf-8", "replace")
        say(json.dumps(line))


class _ClientLeft(Exception):
    pass


def host_name(header: str) -> str:
    """The name in a Host header, without the port."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if ":" in header else header


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def presented_keys(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    """The keys in `Authorization: Bearer KEY` and `X-API-Key: KEY`."""
    found = []
    for name, value in headers:
        text = value.decode("latin-1").strip()
        if name == b"authorization":
            kind, _, key = text.partition(" ")
            found.append(key.strip() if kind.lower() == "bearer" else "")
        elif name == b"x-api-key":
            found.append(text)
    return found
