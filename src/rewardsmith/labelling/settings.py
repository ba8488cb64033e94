"""What the labelling page allows. The texts of these fields are the command line's help."""

from __future__ import annotations

from dataclasses import dataclass

from rewardsmith.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PageLimits:
    """Limits of the labelling page."""

    lease_seconds: float = 600.0
    """How long a pair is kept for who looks at it. While the page is open it is renewed; after that somebody else may
    get the pair."""
    max_body_bytes: int = 65536
    """Most bytes of a request."""
    request_seconds: float = 30.0
    """Most seconds from a request's arrival to its answer."""
    body_seconds: float = 10.0
    """Most seconds that a client may take to send its headers, and again its body."""

    def __post_init__(self) -> None:
        if self.max_body_bytes < 1024:
            raise ConfigError(f"--max-body-bytes {self.max_body_bytes}: give at least 1024")
        for name in ("lease_seconds", "request_seconds", "body_seconds"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least 1")
