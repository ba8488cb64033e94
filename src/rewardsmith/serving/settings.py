"""What a server allows. The texts of these fields are the command line's help."""

from __future__ import annotations

from dataclasses import dataclass

from rewardsmith.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the server: each is refused by name when it is passed."""

    max_body_bytes: int = 4 * 2**20
    """Most bytes of a request."""
    max_responses: int = 512
    """Most responses of a request."""
    max_tokens: int = 262144
    """Most tokens of a request, counted without sharing."""
    max_waiting: int = 4096
    """Most responses that are accepted and not answered yet; half of them may be one client's. Beyond: 429."""
    request_seconds: float = 60.0
    """Most seconds from a request's arrival to its answer. A header X-Timeout-Seconds asks for less. Beyond: 504."""
    body_seconds: float = 10.0
    """Most seconds that a client may take to send its headers, and again its body."""
    drain_seconds: float = 60.0
    """Most seconds to answer what was accepted, after SIGTERM."""

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_responses", "max_tokens", "max_waiting"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at least 1")
        for name in ("request_seconds", "body_seconds", "drain_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: give more than 0")
        if self.max_responses > self.max_waiting // 2:
            raise ConfigError(
                f"--max-responses {self.max_responses} is more than half of --max-waiting {self.max_waiting}: "
                "one request could never be accepted"
            )
