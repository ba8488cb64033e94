"""Why a request gets no reward. Each dialect of the server puts the same refusal into its own words."""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

Kind = Literal[
    "malformed",  # the body is no JSON, or a header makes no sense
    "unauthorized",
    "forbidden",
    "unknown",  # no such path or model
    "method",
    "slow",  # the body did not come in time
    "large",  # bytes, responses or tokens beyond a limit
    "media",  # not application/json
    "invalid",  # JSON of another shape, or a dialogue that cannot be rendered
    "empty",  # nothing to score
    "long",  # longer than the model reads, where the request does not allow to cut
    "overloaded",
    "failed",  # the model could not compute it
    "unready",
    "late",  # the deadline passed
]
STATUS: dict[Kind, int] = {
    "malformed": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "unknown": 404,
    "method": 405,
    "slow": 408,
    "large": 413,
    "media": 415,
    "invalid": 422,
    "empty": 422,
    "long": 422,
    "overloaded": 429,
    "failed": 500,
    "unready": 503,
    "late": 504,
}


class Refusal(Exception):
    """A request that is not answered with rewards; `retry_after` in seconds where asking again may help."""

    def __init__(self, kind: Kind, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        return STATUS[self.kind]


# Of a fault's place: what is a field or an index, and not the name of a union's member.
FIELD = re.compile(r"[a-z0-9_]+")
TYPES = ("str", "int", "float", "bool", "list", "dict")


def refusal_of(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, RequestValidationError):
        return validation_refusal(error)
    kinds: dict[int, Kind] = {400: "malformed", 404: "unknown", 405: "method", 415: "media"}
    status = error.status_code if isinstance(error, HTTPException) else 500
    said = {"unknown": "no such path", "method": "this path is not asked this way", "malformed": "no valid JSON"}
    kind = kinds.get(status, "failed")
    return Refusal(kind, said.get(kind, "internal error"))


def validation_refusal(error: RequestValidationError) -> Refusal:
    """The first fault and where it is. What the request held there is not repeated."""
    faults = error.errors()
    if any(fault["type"] == "json_invalid" for fault in faults):
        return Refusal("malformed", "the body is no valid JSON")
    # Of a union every member complains: the one with the fewest faults is the one that was meant.
    members = [str(fault["loc"][1]) if len(fault["loc"]) > 1 else "" for fault in faults]
    n_faults = Counter(members)
    fault = min(zip(members, faults, strict=True), key=lambda pair: n_faults[pair[0]])[1]
    where = ".".join(str(part) for part in fault["loc"][1:] if FIELD.fullmatch(str(part)) and part not in TYPES)
    return Refusal("invalid", f"{where[:200] or 'body'}: {printable(fault['msg'])[:300]}")


def printable(text: str) -> str:
    return "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else "?" for c in text)
