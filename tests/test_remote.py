"""The scorer of a server's address: the same rewards, in order, through trouble that passes; errors for the rest."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardsmith import remote
from rewardsmith.cli import main
from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import ConfigError, ModelError
from rewardsmith.remote import RemoteScorer, parts_of, seconds_of
from rewardsmith.score_cache import open_scorer
from rewardsmith.scorers import load_scorer
from rewardsmith.serving.keys import KeyRing
from rewardsmith.serving.settings import Limits
from rewardsmith.verbs_common import ScorerOptions
from tests.serving.conftest import running, tiny_scorer


def groups(n: int = 30) -> list[Group]:
    return [
        Group(
            prompt=(Message("system", "be kind"), Message("user", f"question {i}")),
            responses=((Message("assistant", "a " * (i % 5)),), (Message("assistant", "b"), Message("user", "so?"))),
        )
        for i in range(n)
    ]


def test_the_same_rewards_in_order() -> None:
    wanted = tiny_scorer().score(groups())
    with running() as server:
        scorer = open_scorer(server.address)
        assert isinstance(scorer, RemoteScorer)
        found = scorer.score(groups())
        for mine, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(mine.rewards, theirs.rewards, atol=1e-5)
            assert mine.calibrated is not None
            np.testing.assert_allclose(mine.calibrated, theirs.calibrated, atol=1e-5)
            assert (mine.truncated, mine.n_tokens, mine.std, mine.error) == (
                theirs.truncated,
                theirs.n_tokens,
                None,
                "",
            )
        assert scorer.score([]) == []


def test_a_group_that_cannot_be_rendered_says_why() -> None:
    odd = Group(prompt=(Message("user", "x"),), responses=((Message("assistant", "a"),),), template_kwargs={"a": 1})
    with running() as server:
        assert np.isfinite(RemoteScorer(server.address).score([odd])[0].rewards).all()
        refused = Group(prompt=odd.prompt, responses=odd.responses, template_kwargs={"tokenize": True})
        first, second, third = RemoteScorer(server.address).score([odd, refused, odd])
        assert second.error == "template variables may not be named tokenize"
        assert np.isnan(second.rewards).all()
        assert (first.error, third.error) == ("", "")
        assert np.isfinite([*first.rewards, *third.rewards]).all()


def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "a-key-of-sixteen-or-more"
    with running(keys=KeyRing([key])) as server:
        with pytest.raises(ModelError, match="answers 401"):
            RemoteScorer(server.address).score(groups(1))
        assert RemoteScorer(server.address, key=key).score(groups(1))
        monkeypatch.setenv("REWARDSMITH_API_KEY", key)
        assert RemoteScorer(server.address).score(groups(1))


def test_a_server_with_smaller_limits_and_a_small_queue() -> None:
    wanted = tiny_scorer().score(groups())
    with running(limits=Limits(max_responses=4, max_waiting=8)) as server:
        scorer = RemoteScorer(server.address)
        for mine, theirs in zip(scorer.score(groups()), wanted, strict=True):
            np.testing.assert_allclose(mine.rewards, theirs.rewards, atol=1e-5)


class Flaky:
    """A server whose answers are scripted; the last one stays."""

    def __init__(self, *script: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.script, self.asked = list(script), 0

    def __enter__(self) -> str:
        flaky = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.body = self.rfile.read(int(self.headers["content-length"]))
                step = flaky.script[min(flaky.asked, len(flaky.script) - 1)]
                flaky.asked += 1
                step(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()


def says(status: int, body: Any, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def step(handler: BaseHTTPRequestHandler) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return step


def breaks(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.close()


def answers(handler: Any) -> None:
    row = {"reward": 1.0, "calibrated": None, "adjusted": None, "std": 0.5, "truncated": "", "n_tokens": 3}
    asked = json.loads(handler.body)["groups"]
    rows = [{"error": None, "rewards": [row for _ in group["responses"]]} for group in asked]
    says(200, {"groups": rows})(handler)


BUSY = {"error": {"type": "overloaded", "message": "too many responses are waiting"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", slept.append)
    return slept


def test_what_passes_is_tried_again(quick: list[float]) -> None:
    flaky = Flaky(breaks, says(429, BUSY, retry_after="7"), says(503, b"busy"), says(502, b"<html>"), answers)
    with flaky as url:
        scorer = RemoteScorer(url, at_once=1)
        (scores,) = scorer.score(groups(1))
    assert scores.rewards.tolist() == [1.0, 1.0]
    assert scores.std is not None
    assert scores.std.tolist() == [0.5, 0.5]
    assert scores.calibrated is None
    assert (scorer.retries, flaky.asked) == (4, 5)
    assert 7.25 <= quick[1] <= 7.5, "never sooner than the server asks for, and not all at once"
    assert 0.5 <= quick[2] <= 1.0
    assert 1.0 <= quick[3] <= 2.0


def test_what_does_not_pass_is_an_error() -> None:
    cases = [
        (says(400, {"error": {"message": "no"}}), "answers 400: no"),
        (says(404, b"<html>not here</html>"), "answers 404: <html>not here</html>"),
        (says(200, b"hello"), "no server of rewardsmith"),
        (says(200, {"groups": []}), "no server of rewardsmith"),
    ]
    for step, message in cases:
        with Flaky(step) as url, pytest.raises(ModelError, match=message):
            RemoteScorer(url).score(groups(1))


def test_patience_ends() -> None:
    with Flaky(says(429, BUSY, retry_after="60")) as url, pytest.raises(ModelError, match="429: too many responses"):
        RemoteScorer(url, patience=1).score(groups(1))
    with pytest.raises(ModelError, match="cannot be reached"):
        RemoteScorer("http://127.0.0.1:9", patience=0).score(groups(1))


def test_a_server_that_is_not_there_is_told_of_once_before_patience_ends(monkeypatch, capsys) -> None:
    monkeypatch.setattr(remote, "TELL_AFTER_S", 0.1)
    with pytest.raises(ModelError, match="cannot be reached"):
        RemoteScorer("http://127.0.0.1:9", patience=1).score(groups(3))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("http://127.0.0.1:9 cannot be reached")
    assert line.endswith("trying again for 1 s")


def test_requests_have_bounded_sizes() -> None:
    many = groups(100)
    parts = list(parts_of(many))
    assert [group for part in parts for group in part] == many
    assert max(sum(len(group.responses) for group in part) for part in parts) <= remote.AT_ONCE
    large = Group(prompt=(), responses=((Message("assistant", "x" * 600_000),),))
    assert [len(part) for part in parts_of([large, large, *many[:3]])] == [1, 1, 3]


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "ftp://x",
        "http://user:pw@host",
        "http://host/?a=1",
        "http://host:99999",
        "http://host:x",
        "http://[::1",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        RemoteScorer(url)


def test_a_key_is_taken_without_blanks_and_must_fit_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(remote.KEY_VARIABLE, "a-key-from-a-file\n")
    assert RemoteScorer("http://127.0.0.1:8000").key == "a-key-from-a-file"
    for key in ("two\nlines", "schlüssel"):
        with pytest.raises(ConfigError, match="no header can hold"):
            RemoteScorer("http://127.0.0.1:8000", key=key)


def test_what_needs_weights_says_so() -> None:
    for address in ("http://127.0.0.1:8000", "HTTPS://127.0.0.1:8000"):
        with pytest.raises(ConfigError, match="needs the weights"):
            load_scorer(address)
    with pytest.raises(ConfigError, match="max-response-length"):
        open_scorer("http://127.0.0.1:8000", max_response_length=5)
    with pytest.raises(ConfigError, match="--aggregate"):
        open_scorer("http://127.0.0.1:8000", aggregate="min")
    with pytest.raises(ConfigError, match="serve --adjusted"):
        ScorerOptions(adjusted=True).open("http://127.0.0.1:8000")


@pytest.mark.parametrize("option", [["--aggregate", "min"], ["--mc-dropout", "8"]])
def test_score_asks_no_server_for_what_it_does_not_give(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"prompt": "q", "response": "a"}) + "\n")
    words = ["score", "http://127.0.0.1:1", str(file), "--output", str(tmp_path / "rows.jsonl")]
    assert main([*words, *option]) == 2
    assert "cannot be asked of a server" in capsys.readouterr().err


def test_retry_after_in_seconds() -> None:
    assert [seconds_of(value) for value in ("3", None, "soon", "-1", "9999")] == [3.0, 0.0, 0.0, 0.0, 60.0]


def test_score_and_evaluate_take_an_address(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"question {i}", "chosen": "a good " * (i % 4), "rejected": "bad"} for i in range(1, 13)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with running() as server:
        assert main(["score", server.address, str(file), "--output", str(tmp_path / "rows.jsonl"), "--json"]) == 0
        counts = json.loads(capsys.readouterr().out)
        assert (counts["rows"], counts["tokens"], counts["prompts_cut"]) == (24, None, 0)
        assert main(["evaluate", server.address, str(file), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["n_pairs"] == 12
