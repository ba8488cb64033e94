"""`RemoteScorer`: a server's rewards behind the same seam as a model's.

Requests of a few groups each go out side by side and come back in the order of the groups. What may pass (a full queue,
a restart, a broken connection) is tried again after a pause that doubles, with jitter, never shorter than the server's
Retry-After; a reward asked for twice is the same reward, so nothing can be counted double. What cannot pass is an
error.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from rewardsmith.data.schema import Group, Message, Messages
from rewardsmith.errors import ConfigError, ModelError
from rewardsmith.progress import clock, say
from rewardsmith.scoring import Scores, is_address

KEY_VARIABLE = "REWARDSMITH_API_KEY"
AT_ONCE = 64  # responses in a request
TELL_AFTER_S = 3.0  # of trying in vain: a busy server is seldom so long about it, a wrong address is
CHARACTERS = 500_000  # and characters: far below a server's limit for a body
ABOUT_A_GROUP = frozenset({413, 422})
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class RemoteScorer:
    """A scorer that asks a server started by `rewardsmith serve`.

    key        shown to the server; by default that of the environment's REWARDSMITH_API_KEY
    timeout    seconds for one answer
    patience   seconds for which a request is tried again before ModelError is raised
    at_once    requests under way side by side
    ca_file    certificates to trust, where the server's is not signed by one that this machine knows

    `retries`, `prompts_cut` and `responses_cut` count what happened.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = 120.0,
        patience: float = 300.0,
        at_once: int = 4,
        ca_file: str | None = None,
    ) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:  # a port or an IPv6 address that is none
            host, port = None, None
        if not host or not is_address(url) or parts.query or parts.username:
            raise ConfigError(f"{url!r} is no address of a server; an example: http://127.0.0.1:8000")
        self.url, self.host, self.port = url, host, port
        self.path = parts.path.rstrip("/") + "/v1/reward"
        self.key = (key if key is not None else os.environ.get(KEY_VARIABLE, "")).strip()
        if not self.key.isascii() or not self.key.isprintable():
            raise ConfigError(f"the key for {url} ({KEY_VARIABLE}) has characters that no header can hold")
        self.timeout, self.patience, self.at_once = timeout, patience, at_once
        self.tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        self.kept = threading.local()
        self.told = False
        self.retries = self.prompts_cut = self.responses_cut = 0

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        """Rewards of each group, in order. A group that the server cannot score gets NaN and the reason."""
        with ThreadPoolExecutor(self.at_once, thread_name_prefix="remote") as threads:
            found = list(chain.from_iterable(threads.map(self._ask, parts_of(groups))))
        self.prompts_cut += sum("prompt" in scores.truncated for scores in found)
        self.responses_cut += sum(scores.truncated.count("response") for scores in found)
        return found

    def _ask(self, groups: Sequence[Group]) -> list[Scores]:
        body = json.dumps({"groups": [plain(group) for group in groups]}).encode()
        status, answer = self._patiently(body)
        if status in ABOUT_A_GROUP and len(groups) > 1:  # one of them is to blame, or the server's limits are smaller
            half = len(groups) // 2
            return self._ask(groups[:half]) + self._ask(groups[half:])
        if status in ABOUT_A_GROUP:
            return [Scores(np.full(len(groups[0].responses), np.nan), error=reason_of(answer))]
        if status != 200:
            raise ModelError(f"{self.url} answers {status}: {reason_of(answer)}")
        try:
            found = [scores_of(group) for group in json.loads(answer)["groups"]]
            for group, scores in zip(groups, found, strict=True):
                if len(scores.rewards) != len(group.responses):
                    raise ValueError("rewards of another number of responses")
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{self.url} is no server of rewardsmith: its answer cannot be read ({error})") from None
        return found

    def _patiently(self, body: bytes) -> tuple[int, bytes]:
        """(status, answer), asked again for as long as it may pass."""
        began = time.monotonic()
        until = began + self.patience
        pause = 0.25
        while True:
            try:
                status, answer, retry_after = self._once(body)
                said = f"answers {status}: {reason_of(answer)}"
                if status not in PASSING:
                    return status, answer
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise ModelError(f"{self.url}: {error.verify_message}") from None
                retry_after, said = 0.0, f"cannot be reached: {error or type(error).__name__}"
            wait = retry_after + random.uniform(pause / 2, pause)  # clients sent away together come back apart
            if time.monotonic() + wait > until:
                raise ModelError(f"{self.url} {said} (tried for {self.patience:g} s)")
            if not self.told and time.monotonic() + wait > began + TELL_AFTER_S:
                self.told = True
                say(f"{self.url} {said}; trying again for {clock(self.patience)}")
            self.retries += 1
            time.sleep(wait)
            pause = min(2 * pause, 15.0)

    def _once(self, body: bytes) -> tuple[int, bytes, float]:
        connection = self._connection()
        headers = {"content-type": "application/json", "connection": "keep-alive"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        connection.request("POST", self.path, body, headers)
        reply = connection.getresponse()
        answer = reply.read()
        if reply.getheader("connection", "").lower() == "close":
            self._drop()
        return reply.status, answer, seconds_of(reply.getheader("retry-after"))

    def _connection(self) -> http.client.HTTPConnection:
        found: http.client.HTTPConnection | None = getattr(self.kept, "connection", None)
        if found is None:
            if self.tls is None:
                found = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
            else:
                found = http.client.HTTPSConnection(self.host, self.port, timeout=self.timeout, context=self.tls)
            self.kept.connection = found
        return found

    def _drop(self) -> None:
        found: http.client.HTTPConnection | None = getattr(self.kept, "connection", None)
        if found is not None:
            found.close()
            self.kept.connection = None


def parts_of(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Consecutive groups in requests of a bounded size (a larger group by itself)."""
    part: list[Group] = []
    responses = characters = 0
    for group in groups:
        size = sum(len(m.content) for turns in (group.prompt, *group.responses) for m in turns)
        if part and (responses + len(group.responses) > AT_ONCE or characters + size > CHARACTERS):
            yield part
            part, responses, characters = [], 0, 0
        part.append(group)
        responses += len(group.responses)
        characters += size
    if part:
        yield part


def plain(group: Group) -> dict[str, Any]:
    """A group as /v1/reward takes it."""
    row: dict[str, Any] = {
        "messages": [message.to_dict() for message in group.prompt],
        "responses": [plain_response(response) for response in group.responses],
    }
    if group.tools is not None:
        row["tools"] = [dict(tool) for tool in group.tools]
    if group.template_kwargs:
        row["template_kwargs"] = dict(group.template_kwargs)
    return row


def plain_response(response: Messages) -> str | list[dict[str, Any]]:
    if response == (Message("assistant", response[0].content),):
        return response[0].content
    return [message.to_dict() for message in response]


def scores_of(group: dict[str, Any]) -> Scores:
    """A group of the answer as scores."""
    rows = group["rewards"]

    def column(name: str) -> np.ndarray | None:
        values = [row[name] for row in rows]
        known = [value is not None for value in values]
        return np.array([np.nan if v is None else v for v in values], np.float64) if any(known) else None

    rewards = column("reward")
    return Scores(
        np.full(len(rows), np.nan) if rewards is None else rewards,
        column("std"),
        tuple(row["truncated"] for row in rows),
        tuple(row["n_tokens"] for row in rows),
        error=group["error"] or "",
        calibrated=column("calibrated"),
        adjusted=column("adjusted"),
    )


def reason_of(answer: bytes) -> str:
    """What an error's body says, in one line."""
    try:
        text = str(json.loads(answer)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        text = answer[:200].decode("utf-8", "replace")
    return " ".join(text.split())[:300]


def seconds_of(header: str | None) -> float:
    """The seconds of a Retry-After header; 0 for none, or for a date."""
    try:
        return min(max(float(header or 0), 0.0), 60.0)
    except ValueError:
        return 0.0
