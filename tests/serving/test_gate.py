"""What must not get in: wrong keys, foreign hosts, and hostile requests. The server is well after each."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError

from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import ConfigError, ModelError
from rewardsmith.remote import RemoteScorer
from rewardsmith.serving.gate import Gate, host_name, is_loopback, presented_keys
from rewardsmith.serving.keys import KeyRing, add_key
from rewardsmith.serving.refusals import Refusal, validation_refusal
from rewardsmith.serving.run import check_address, check_tls, listen, serve
from rewardsmith.serving.settings import Limits
from tests.serving.conftest import running, start, tiny_engine, tiny_scorer
from tests.sockets import Running

GOOD = {"messages": [{"role": "user", "content": "hi"}], "responses": ["a"]}


@pytest.fixture(scope="module")
def small() -> Iterator[Running]:
    yield from start(limits=Limits(max_body_bytes=20_000, body_seconds=0.6))


def raw(server: Running, data: bytes, *, pause: float = 0.0, timeout: float = 5.0) -> bytes:
    """What the server says to these bytes, sent one after the other with `pause` between where it is not 0."""
    with socket.create_connection((server.host, server.port), timeout=timeout) as connection:
        parts = [data[n : n + 1] for n in range(len(data))] if pause else [data]
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except OSError:
            pass
        found = b""
        try:
            while part := connection.recv(65536):
                found += part
        except OSError:
            pass
        return found


def request(body: bytes = b"{}", *lines: str, path: str = "/v1/reward", host: str = "localhost") -> bytes:
    head = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", "Connection: close", *lines]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def deep(open_: str, close: str, n: int = 5000) -> bytes:
    return (open_ * n + "1" + close * n).encode()


BODIES: list[tuple[str, Any]] = [
    ("nothing", b""),
    ("no json", b"hello"),
    ("half a json", b'{"messages": ['),
    ("json twice", b'{}{"messages": []}'),
    ("a number", 3),
    ("a list", []),
    ("a text", "hello"),
    ("null", None),
    ("deep lists", deep("[", "]")),
    ("deep objects", deep('{"a":', "}")),
    ("deep inside", b'{"messages": ' + deep("[", "]") + b', "responses": ["a"]}'),
    ("not utf-8", b'{"messages": [{"role": "user", "content": "\xff\xfe"}], "responses": ["a"]}'),
    ("utf-16", json.dumps(GOOD).encode("utf-16-be")[:99]),
    ("lone surrogate", b'{"messages": [{"role": "user", "content": "\\ud800"}], "responses": ["a"]}'),
    ("surrogate in a key", b'{"messages": [], "responses": ["a"], "\\ud800": 1}'),
    ("surrogate in an extra", b'{"messages": [{"role": "user", "content": "x", "n": "\\udfff"}], "responses": ["a"]}'),
    ("a huge number", b'{"messages": [], "responses": ["a"], "id": ' + b"9" * 6000 + b"}"),
    ("no responses", {"messages": [], "responses": []}),
    ("responses missing", {"messages": []}),
    ("responses of another type", {"messages": [], "responses": "abc"}),
    ("a response that is a number", {"messages": [], "responses": [1]}),
    ("a response without turns", {"messages": [], "responses": [[]]}),
    ("an unknown field", {**GOOD, "path": "/etc/passwd"}),
    ("a model by path", {"groups": [GOOD], "model": "../../etc"}),
    ("a role of another type", {"messages": [{"role": 1, "content": "x"}], "responses": ["a"]}),
    ("a role that is empty", {"messages": [{"role": "", "content": "x"}], "responses": ["a"]}),
    ("content of another type", {"messages": [{"role": "user", "content": {"a": 1}}], "responses": ["a"]}),
    ("an image", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}], "responses": ["a"]}),
    ("a template", {**GOOD, "template_kwargs": {"chat_template": "{{ 1 }}"}}),
    ("a renderer's argument", {**GOOD, "template_kwargs": {"tokenize": True}}),
    ("tools of another type", {**GOOD, "tools": "x"}),
    ("too many responses", {"messages": [], "responses": [""] * 600}),
    ("too large", {"messages": [], "responses": ["x" * 30_000]}),
]
# Fields that vLLM's endpoint does not have: it ignores them, as vLLM does.
IGNORED = ("an unknown field", "a template", "a renderer's argument", "tools of another type")
HEADS: list[tuple[str, bytes]] = [
    ("no request", b"\r\n\r\n"),
    ("garbage", bytes(range(256)) + b"\r\n\r\n"),
    ("a TLS hello", bytes.fromhex("16030100a5010000a10303") + b"\0" * 80 + b"\r\n\r\n"),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("no host", b"POST /v1/reward HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"),
    ("two hosts", request(b"{}", "Host: evil")),
    ("a foreign host", request(b"{}", host="attacker.example")),
    ("a host that only begins right", request(b"{}", host="localhost.attacker.example")),
    ("a negative length", request(b"{}", "Content-Length: -1")),
    ("a length that is none", request(b"{}", "Content-Length: abc")),
    ("two lengths", request(b"{}", "Content-Length: 2", "Content-Length: 3")),
    ("length and chunks", request(b"2\r\n{}\r\n0\r\n\r\n", "Content-Length: 2", "Transfer-Encoding: gzip")),
    ("a length too large", request(b"", "Content-Length: 99999999999")),
    ("chunks too large", request(b"6000\r\n" + b"x" * 0x6000 + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked")),
    ("chunks that are none", request(b"zz\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked")),
    ("a header too long", request(b"{}", f"X-A: {'a' * 70_000}")),
    ("a header with a control", b"POST /v1/reward HTTP/1.1\r\nHost: localhost\r\nX-A: a\x00b\r\n\r\n"),
    ("a header folded", b"POST /v1/reward HTTP/1.1\r\nHost: localhost\r\nX A: b\r\n\r\n"),
    ("text/plain", request(json.dumps(GOOD).encode()).replace(b"application/json", b"text/plain")),
    ("a form", request(b"messages=x").replace(b"application/json", b"application/x-www-form-urlencoded")),
    ("a deadline that is none", request(json.dumps(GOOD).encode(), "X-Timeout-Seconds: soon")),
    ("a deadline of nothing", request(json.dumps(GOOD).encode(), "X-Timeout-Seconds: 0")),
    ("two deadlines", request(json.dumps(GOOD).encode(), "X-Timeout-Seconds: 5", "X-Timeout-Seconds: 6")),
]
PATHS: list[tuple[str, str]] = [
    ("GET", "/../../etc/passwd"),
    ("GET", "/..%2f..%2fetc/passwd"),
    ("GET", "/%2e%2e/%2e%2e/etc/passwd"),
    ("GET", "/playground.js/../../keys.py"),
    ("GET", "/static/playground.js"),
    ("GET", "//etc/passwd"),
    ("GET", "/playground.html"),
    ("GET", "/v1/reward"),
    ("DELETE", "/v1/models"),
    ("PUT", "/v1/reward"),
    ("POST", "/health"),
    ("POST", "/admin/reload"),
    ("GET", "/admin/reload"),
    ("POST", "/admin/reload?path=/etc"),
    ("TRACE", "/"),
    ("OPTIONS", "/v1/reward"),
]


def test_there_are_enough_of_them() -> None:
    assert len(BODIES) + len(HEADS) + len(PATHS) >= 60


def is_well(server: Running) -> None:
    reply = server.post("/v1/reward", GOOD)
    assert (reply.status, reply.json["groups"][0]["error"]) == (200, None)


@pytest.mark.parametrize(("name", "body"), BODIES, ids=[name for name, _ in BODIES])
@pytest.mark.parametrize("path", ["/v1/reward", "/classify", "/predict", "/get_reward", "/playground/explain"])
def test_hostile_bodies(small: Running, path: str, name: str, body: Any) -> None:
    if path == "/classify" and name in IGNORED:
        assert small.post(path, body).status == 200
        return
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = small.post(path, sent)
    assert 400 <= reply.status < 424, reply.body
    assert b"etc" not in reply.body or name != "an unknown field", "what was sent is not said again"
    assert reply.json, "in the dialect's own words"


def test_well_after_hostile_bodies(small: Running) -> None:
    is_well(small)


@pytest.mark.parametrize(("name", "data"), HEADS, ids=[name for name, _ in HEADS])
def test_hostile_heads(small: Running, name: str, data: bytes) -> None:
    said = raw(small, data)
    assert said == b"" or said.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505")), said[:200]
    is_well(small)


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_hostile_paths(small: Running, method: str, path: str) -> None:
    reply = small.ask(method, path)
    assert reply.status in (403, 404, 405)
    assert b"root:" not in reply.body
    is_well(small)


@pytest.mark.parametrize(
    ("data", "pause"),
    [
        (b"POST /v1/reward HTTP/1.1\r\nHost: localhost\r\n", 0.0),
        (b"POST /v1/reward HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 60, 0.05),
        (request(b'{"messages":', "Content-Length: 500"), 0.0),
        (b"", 0.0),
    ],
    ids=["half a head", "a byte now and then", "half a body", "nothing at all"],
)
def test_a_slow_client_is_let_go(small: Running, data: bytes, pause: float) -> None:
    started = time.monotonic()
    said = raw(small, data, pause=pause)
    assert time.monotonic() - started < 4.5, "the server ended it"
    assert said == b"" or said.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("head", ["Content-Length: 10000", "Transfer-Encoding: chunked"])
def test_who_has_no_key_holds_no_place_with_a_body(small: Running, head: str) -> None:
    said = raw(small, f"GET / HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
    assert said.startswith(b"HTTP/1.1 413")
    assert b"this path takes no body" in said


def test_a_body_full_of_faults_is_refused_at_once() -> None:
    started = time.monotonic()
    refusal = validation_refusal(
        RequestValidationError([{"type": "x", "loc": ("body", n, "b"), "msg": "wrong"} for n in range(200_000)])
    )
    assert (refusal.kind, refusal.message) == ("invalid", "0.b: wrong")
    assert time.monotonic() - started < 5, "each fault is looked at once"


def gated(app: Any, behind: Any, **options: Any) -> Gate:
    def answer(path: str, refusal: Refusal) -> tuple[int, bytes, dict[str, str]]:
        return refusal.status, b"", {}

    return Gate(app, service=behind, keys=KeyRing(), hosts=(), paths=frozenset({"/x"}), answer=answer, **options)


class Noted:
    """What a gate notes of its requests."""

    limits = Limits()

    def __init__(self) -> None:
        self.left = 0
        self.statuses: list[int] = []

    def wait_seconds(self) -> float:
        return 1.0

    def note_left(self) -> None:
        self.left += 1

    def note(self, path: str, status: int, seconds: float) -> None:
        self.statuses.append(status)


def pass_through(gate: Gate) -> None:
    """One request whose client leaves as soon as it has its answer."""

    async def run() -> None:
        answered = asyncio.Event()
        messages = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await answered.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                answered.set()

        await gate({"type": "http", "path": "/x", "method": "POST", "headers": []}, receive, send)

    asyncio.run(run())


def test_who_has_the_whole_answer_has_not_left_before_it() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all"})
        await asyncio.sleep(0.05)  # what an application does after its answer

    noted = Noted()
    pass_through(gated(app, noted))
    assert (noted.left, noted.statuses) == (0, [200])


@pytest.mark.parametrize("log_texts", [False, True])
def test_a_fault_of_ours_is_logged_without_texts(log_texts: bool, capsys: pytest.CaptureFixture[str]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("a private text")

    noted = Noted()
    pass_through(gated(app, noted, log_texts=log_texts))
    said = capsys.readouterr().err
    assert noted.statuses == [500]
    assert "ValueError" in said
    assert ("ValueError: a private text" in said) == log_texts


def test_control_characters_are_texts_like_others(small: Running) -> None:
    text = "".join(map(chr, range(32))) + "\u202e\ufeff\U0001f600"
    reply = small.post("/v1/reward", {"messages": [{"role": "user", "content": text}], "responses": [text, ""]})
    assert reply.status == 200


def test_headers_of_every_answer(small: Running) -> None:
    for reply in (small.get("/"), small.post("/v1/reward", GOOD), small.get("/nothing")):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert "access-control-allow-origin" not in reply.headers
        assert "server" not in reply.headers


def test_no_page_elsewhere_may_ask_unless_allowed() -> None:
    preflight = {"origin": "https://app.example", "access-control-request-method": "POST"}
    with running(cors_origins=["https://app.example"]) as server:
        allowed = server.ask("OPTIONS", "/v1/reward", headers=preflight)
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        other = server.ask("OPTIONS", "/v1/reward", headers=preflight | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_https(tmp_path: Any) -> None:
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]
    subprocess.run(words, check=True, capture_output=True)
    group = Group(prompt=(Message("user", "hi"),), responses=((Message("assistant", "a"),),))
    with running(tls_cert=cert, tls_key=key) as server:
        assert server.address.startswith("https://")
        found = RemoteScorer(server.address, ca_file=cert).score([group])[0].rewards
        assert found == pytest.approx(tiny_scorer().score([group])[0].rewards, abs=1e-5)
        with pytest.raises(ModelError, match="certificate"):
            RemoteScorer(server.address).score([group])
        with pytest.raises(ModelError, match="cannot be reached"):
            RemoteScorer(server.address.replace("https", "http"), patience=0).score([group])
    with pytest.raises(ConfigError, match="do not go together"):
        check_tls(cert, cert)


def test_a_model_that_cannot_be_warmed_up_serves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine()
    monkeypatch.setattr(engine, "warm_up", lambda: 1 / 0)
    with pytest.raises(ModelError, match="did not start"):
        serve(engine, tiny_engine, port=0)


# -- keys ---------------------------------------------------------------------------------------------------------


def test_keys_of_every_kind(tmp_path: Any) -> None:
    file = tmp_path / "keys.txt"
    user, admin = add_key(file, "user"), add_key(file, "admin", admin=True)
    with running(keys=KeyRing([], file)) as server:
        for path in ("/", "/health", "/ready", "/docs", "/openapi.json", "/playground.js"):
            assert server.get(path).status == 200, "open to all"
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": user},
            {"authorization": f"Basic {user}"},
            {"authorization": "Bearer"},
            {"x-api-key": user[:-1]},
            {"x-api-key": user + "x"},
            {"x-api-key": "\u00e9"},
        ):
            sent = {name: value.encode("latin-1").decode("latin-1") for name, value in headers.items()}
            reply = server.post("/v1/reward", GOOD, headers=sent)
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert server.get("/metrics").status == 401
        assert server.post("/classify", {"input": "x"}).json == {"error": "Unauthorized"}
        for headers in ({"authorization": f"Bearer {user}"}, {"x-api-key": user}, {"Authorization": f"bearer {user}"}):
            assert server.post("/v1/reward", GOOD, headers=headers).status == 200
        both = {"authorization": f"Bearer {user}", "x-api-key": admin}
        assert server.post("/v1/reward", GOOD, headers=both).status == 400
        assert server.post("/admin/reload", None, headers={"x-api-key": user}).status == 403
        assert server.post("/admin/reload", None, headers={"x-api-key": admin}).status == 200
        by_address = {"x-api-key": user, "host": "whatever.example"}
        assert server.post("/v1/reward", GOOD, headers=by_address).status == 200, "a key is enough"


def test_a_file_without_keys_lets_nobody_in(tmp_path: Any) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("# none yet\n")
    with running(keys=KeyRing([], file)) as server:
        assert server.post("/v1/reward", GOOD).status == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org", ""])
def test_no_foreign_address_without_keys(host: str) -> None:
    with pytest.raises(ConfigError, match="keys are needed"):
        check_address(host, KeyRing())
    check_address(host, KeyRing(["sixteen-characters"]))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


def test_an_address_that_is_taken(server: Running) -> None:
    with pytest.raises(ConfigError, match="--port"):
        listen("127.0.0.1", server.port)
    with pytest.raises(ConfigError, match="--port"):
        listen("127.0.0.1", 99999)


def test_host_names_and_keys_in_headers() -> None:
    assert [host_name(h) for h in ("A.b:80", "a.b", "[::1]:80", "127.0.0.1:1")] == ["a.b", "a.b", "::1", "127.0.0.1"]
    assert presented_keys([(b"authorization", b"Bearer  k "), (b"x-other", b"n")]) == ["k"]


def test_limits_that_contradict() -> None:
    with pytest.raises(ConfigError, match="half of"):
        Limits(max_responses=10, max_waiting=19)
    with pytest.raises(ConfigError, match="max-tokens"):
        Limits(max_tokens=0)
    with pytest.raises(ConfigError, match="more than 0"):
        Limits(drain_seconds=0)
