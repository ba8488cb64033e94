"""Completions from a server that speaks OpenAI's HTTP shape: /v1/chat/completions, or /v1/completions for plain text.

    POST URL/chat/completions  {"model", "messages", "n", "temperature", "max_tokens", "seed", "logprobs": true}
    -> {"choices": [{"index", "message": {"content"}, "finish_reason", "logprobs": {"content": [{"logprob"}]}}]}
    POST URL/completions       {"model", "prompt", ..., "logprobs": 1}
    -> {"choices": [{"index", "text", "finish_reason", "logprobs": {"token_logprobs": [x]}}]}

What a server calls log-probability is its own affair: vLLM's are, unless it is told otherwise, of temperature 1.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rewardsmith.data.schema import Messages, text_of
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.overoptimization.sample import Completion

WORTH_A_RETRY = (408, 409, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where and how to ask. A `Sampler`: called with prompts and a seed.

    url          up to and with /v1
    model        the name the server knows it by
    chat         messages to /chat/completions; False: plain text to /completions
    logprobs     ask for log-probabilities; a server that knows none may refuse the request
    api_key_env  the environment variable that holds the key; none is sent where it is not set
    """

    url: str
    model: str
    n: int
    max_tokens: int
    temperature: float = 1.0
    chat: bool = True
    logprobs: bool = True
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: float = 120.0
    retries: int = 5
    wait_s: float = 1.0
    requests_at_once: int = 4

    def __call__(self, prompts: Sequence[Messages], seed: int) -> list[list[Completion]]:
        with ThreadPoolExecutor(self.requests_at_once) as pool:
            return list(pool.map(lambda i: self.ask(prompts[i], seed * len(prompts) + i), range(len(prompts))))

    def ask(self, prompt: Messages, seed: int) -> list[Completion]:
        """The completions of one prompt. ConfigError where there is no reply, DataError where it cannot be read."""
        body: dict[str, Any] = {
            "model": self.model,
            "n": self.n,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": seed,
        }
        if self.chat:
            body |= {"messages": [turn.to_dict() for turn in prompt]}
        else:
            body |= {"prompt": text_of(prompt)}
        if self.logprobs:
            body |= {"logprobs": True if self.chat else 1}
        return completions_in(self._post("chat/completions" if self.chat else "completions", body), self.n, self.url)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The reply; a refusal or silence that may pass is asked again, each time after twice the wait."""
        address = f"{self.url.rstrip('/')}/{path}"
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.api_key_env):
            headers["Authorization"] = f"Bearer {key}"
        problem = ""
        for attempt in range(self.retries + 1):
            wait = min(self.wait_s * 2**attempt, LONGEST_WAIT_S)
            try:
                request = urllib.request.Request(address, json.dumps(body).encode(), headers)
                with urllib.request.urlopen(request, timeout=self.timeout_s) as reply:
                    return dict(json.load(reply))
            except urllib.error.HTTPError as error:
                problem = f"status {error.code}: {_said(error)}"
                if error.code not in WORTH_A_RETRY:
                    raise ConfigError(f"{address}: {problem}") from None
                wait = _asked_to_wait(error, wait)
            except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
                problem = str(getattr(error, "reason", None) or error or type(error).__name__)
            except (ValueError, TypeError):
                problem = "the reply is not a JSON object"
            if attempt < self.retries:
                time.sleep(wait)
        raise ConfigError(f"{address}: no reply after {self.retries + 1} tries; the last: {problem}")


def completions_in(reply: dict[str, Any], n: int, where: str) -> list[Completion]:
    """The choices of a reply, in the order of their index. DataError where there are not n of them."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or len(choices) != n:
        found = len(choices) if isinstance(choices, list) else "no"
        raise DataError(f"{where}: {found} choices in a reply where {n} were asked for; does this server know 'n'?")
    try:
        return [_completion(choice) for choice in sorted(choices, key=lambda choice: choice.get("index", 0))]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: a choice in a reply has not the shape of OpenAI's: {error}") from None


def _completion(choice: dict[str, Any]) -> Completion:
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    stated = choice.get("logprobs") or {}
    tokens = stated.get("token_logprobs")
    if tokens is None and stated.get("content") is not None:
        tokens = [token["logprob"] for token in stated["content"]]
    logprob = None if tokens is None or None in tokens else float(sum(tokens))
    return Completion(
        text or "", (), logprob, None if tokens is None else len(tokens),
        str(choice.get("finish_reason") or "stop"),
    )  # fmt: skip


def _said(error: urllib.error.HTTPError) -> str:
    """The first words of an error's body."""
    try:
        return " ".join(error.read(500).decode("utf-8", "replace").split())[:200] or str(error.reason)
    except OSError:
        return str(error.reason)


def _asked_to_wait(error: urllib.error.HTTPError, otherwise: float) -> float:
    try:
        return min(max(float(error.headers["Retry-After"]), 0.0), LONGEST_WAIT_S)
    except (TypeError, ValueError):
        return otherwise
