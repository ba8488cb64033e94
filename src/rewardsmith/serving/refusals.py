"""Why a request gets no reward. Each dialect of the server puts the same refusal into its own words."""

from __future__ import annotations

from typing import Literal

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
