"""Sampling: prompts, the distribution that is drawn from, the candidates file, and a server of OpenAI's shape."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rewardsmith.cli import main
from rewardsmith.data.schema import Message, Messages
from rewardsmith.errors import ConfigError, DataError, Interrupted
from rewardsmith.overoptimization import sample
from rewardsmith.overoptimization.sample import (
    Completion,
    completions_of,
    generate,
    prompt_ids,
    read_prompts,
    write_candidates,
)
from rewardsmith.overoptimization.sample_server import Server, completions_in
from tests.overoptimization.conftest import tiny_policy
from tests.tiny import tiny_tokenizer

PROMPTS: list[Messages] = [(Message("user", text),) for text in ("hi", "why is it so?", "a b c")]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_prompts_of_rows_texts_and_preferences(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    rows = write(tmp_path / "a.jsonl", [{"prompt": "one"}, {"prompt": turns}, {"prompt": 3}, {"prompt": "one"}])
    found, dropped = read_prompts([rows])
    assert found == [(Message("user", "one"),), (Message("system", "s"), Message("user", "q"))]
    assert [(d["line"], d["reason"][:8]) for d in dropped] == [(3, "'prompt'")]
    text = tmp_path / "b.txt"
    text.write_text("one\n\n two\n")
    assert [prompt[0].content for prompt in read_prompts([str(text)])[0]] == ["one", " two"]
    pairs = write(
        tmp_path / "c.jsonl", [{"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}]
    )
    assert read_prompts([pairs, rows], limit=2)[0] == [(Message("user", "q"),), (Message("user", "one"),)]


def test_no_prompt_is_an_error(tmp_path: Path) -> None:
    empty = tmp_path / "a.txt"
    empty.write_text("\n")
    with pytest.raises(DataError, match="no prompt"):
        read_prompts([str(empty)])
    with pytest.raises(DataError, match="cannot be read"):
        read_prompts([str(tmp_path / "none.txt")])


def test_prompt_ids_of_a_template_and_without() -> None:
    with_template = prompt_ids(tiny_tokenizer(), PROMPTS[0])
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(with_template) == "<|user|>hi</s><|assistant|>"
    assert tokenizer.decode(prompt_ids(tiny_tokenizer(None), PROMPTS[0])) == "hi"


def test_first_token_follows_the_models_distribution() -> None:
    model, tokenizer = tiny_policy(), tiny_tokenizer()
    n, temperature = 3000, 0.8
    drawn = generate(model, tokenizer, PROMPTS[:1], n, max_tokens=1, temperature=temperature, rows_at_once=3000)[0]
    with torch.no_grad():
        logits = model(torch.tensor([prompt_ids(tokenizer, PROMPTS[0])])).logits[0, -1]
    p = torch.softmax(logits / temperature, -1).double().numpy()
    seen = np.bincount([row[0] for row in drawn], minlength=len(p))
    # Pearson's statistic over the likely tokens; no top-k or top-p of a default may have cut the rest off.
    likely = p * n >= 5
    statistic = float(((seen - n * p) ** 2 / (n * p))[likely].sum())
    assert statistic < likely.sum() + 4 * np.sqrt(2 * likely.sum())
    assert abs(seen[~likely].sum() / n - p[~likely].sum()) < 0.02


def test_seed_decides_and_the_process_random_state_is_left_alone() -> None:
    model, tokenizer = tiny_policy(), tiny_tokenizer()
    model.train()
    before = torch.get_rng_state()
    first = generate(model, tokenizer, PROMPTS, 2, max_tokens=6, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert generate(model, tokenizer, PROMPTS, 2, max_tokens=6, seed=3) == first
    assert generate(model, tokenizer, PROMPTS, 2, max_tokens=6, seed=4) != first


def test_completions_end_at_their_closing_token_and_know_their_probability() -> None:
    model, tokenizer = tiny_policy(), tiny_tokenizer()
    with torch.no_grad():  # an output row that points where every last hidden state does not would never be drawn
        model.lm_head.weight[2] = model.lm_head.weight.norm(dim=1).max() * 0.05
    found = [one for of_prompt in completions_of(model, tokenizer, PROMPTS, 20, max_tokens=12) for one in of_prompt]
    closed = [one for one in found if one.finish == "stop"]
    assert closed
    assert len(closed) < len(found)
    for one in found:
        assert one.n_tokens == len(one.ids) <= 12
        assert (2 in one.ids) == (one.finish == "stop")
        assert 2 not in one.ids[:-1]
        assert "</s>" not in one.text
    ids = prompt_ids(tokenizer, PROMPTS[0])
    one = found[0]
    with torch.no_grad():
        log_TV = model(torch.tensor([ids + list(one.ids)])).logits[0].log_softmax(-1)
    plain = sum(float(log_TV[len(ids) - 1 + t, token]) for t, token in enumerate(one.ids))
    assert one.logprob == pytest.approx(plain, abs=1e-4)


# -- the candidates file ------------------------------------------------------------------------------------


def numbered(n: int, calls: list[int]) -> sample.Sampler:
    """A sampler whose answers say their prompt and seed."""

    def draw(prompts: Sequence[Messages], seed: int) -> list[list[Completion]]:
        calls.append(seed)
        return [
            [Completion(f"{prompt[0].content} {seed} {k}", (), -1.5, 4, "length" if k else "stop") for k in range(n)]
            for prompt in prompts
        ]

    return draw


def test_candidates_are_one_row_per_response_in_order(tmp_path: Path) -> None:
    prompts = [*PROMPTS, (Message("system", "s"), Message("user", "q"))]
    output = tmp_path / "c.jsonl"
    counts = write_candidates(prompts, numbered(2, []), output, n=2, seed=7)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert counts == {"prompts": 4, "rows": 8, "resumed_prompts": 0, "cut": 4}
    assert [row["prompt"] for row in rows[:6:2]] == ["hi", "why is it so?", "a b c"]
    assert rows[6]["prompt"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    assert list(rows[0]) == ["prompt_id", "prompt", "response", "base_logprob", "n_tokens", "finish"]
    assert rows[0]["response"] == "hi 7 0"
    assert rows[0]["base_logprob"] == -1.5
    assert len({row["prompt_id"] for row in rows}) == 4
    assert not list(tmp_path.glob("*.partial*"))


def test_an_interrupted_file_goes_on_at_a_whole_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "CHUNK", 2)
    prompts = [(Message("user", str(i)),) for i in range(5)]
    whole = tmp_path / "whole.jsonl"
    write_candidates(prompts, numbered(3, []), whole, n=3)

    def stops_at_chunk_1(part: Sequence[Messages], seed: int) -> list[list[Completion]]:
        if seed == 1:
            raise KeyboardInterrupt
        return numbered(3, [])(part, seed)

    output = tmp_path / "c.jsonl"
    with pytest.raises(Interrupted, match="--resume"):
        write_candidates(prompts, stops_at_chunk_1, output, n=3, identity={"files": 1})
    partial = tmp_path / "c.jsonl.partial"
    partial.write_text(partial.read_text() + '{"prompt_id": "half')
    with pytest.raises(ConfigError, match="other files"):
        write_candidates(prompts, numbered(3, []), output, n=3, identity={"files": 2}, resume=True)
    calls: list[int] = []
    counts = write_candidates(prompts, numbered(3, calls), output, n=3, identity={"files": 1}, resume=True)
    assert (counts["resumed_prompts"], calls) == (2, [1, 2])
    assert output.read_bytes() == whole.read_bytes()


def test_verb(tmp_path: Path, policy_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("hi\nwhy\n")
    output = tmp_path / "c.jsonl"
    arguments = ["sample", policy_folder, str(prompts), "--output", str(output), "--n", "3", "--max-tokens", "4",
                 "--precision", "float32", "--device", "cpu"]  # fmt: skip
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 6
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert all(row["base_logprob"] < 0 for row in rows)
    assert main(arguments) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert "6 answers to 2 prompts" in capsys.readouterr().out
    assert main(["sample", policy_folder, str(prompts), "--output", str(tmp_path / "c.csv")]) == 2


# -- servers ------------------------------------------------------------------------------------------------


@contextmanager
def serving(replies: list[tuple[int, Any]], seen: list[tuple[str, dict[str, Any], Any]]) -> Iterator[str]:
    """A server that gives the replies in turn (the last one for ever) and notes what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, body, self.headers.get("Authorization")))
            status, reply = replies.pop(0) if len(replies) > 1 else replies[0]
            text = json.dumps(reply(body) if callable(reply) else reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            if status == 429:
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def chat(body: dict[str, Any]) -> dict[str, Any]:
    """Choices out of order, each with its tokens' log-probabilities."""
    text = body["messages"][-1]["content"]
    return {
        "choices": [
            {
                "index": k,
                "message": {"role": "assistant", "content": f"{text} {k}"},
                "finish_reason": "length" if k else "stop",
                "logprobs": {"content": [{"token": "x", "logprob": -0.5}, {"token": "y", "logprob": -0.25 * k}]},
            }
            for k in reversed(range(body["n"]))
        ]
    }


def test_chat_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    seen: list[tuple[str, dict[str, Any], Any]] = []
    with serving([(200, chat)], seen) as url:
        server = Server(url=url, model="m", n=2, max_tokens=5, temperature=0.5, api_key_env="MY_KEY")
        found = server(PROMPTS, 3)
    assert [[one.text for one in of_prompt] for of_prompt in found] == [
        [f"{prompt[0].content} {k}" for k in range(2)] for prompt in PROMPTS
    ]
    assert found[0][1] == Completion("hi 1", (), -0.75, 2, "length")
    path, body, authorization = next(call for call in seen if call[1]["messages"][-1]["content"] == "hi")
    assert (path, authorization) == ("/v1/chat/completions", "Bearer secret")
    assert body == {"model": "m", "n": 2, "temperature": 0.5, "max_tokens": 5, "seed": 9, "logprobs": True,
                    "messages": [{"role": "user", "content": "hi"}]}  # fmt: skip
    assert len({call[1]["seed"] for call in seen}) == 3, "no two prompts are drawn with one seed"


def test_plain_server_without_logprobs() -> None:
    seen: list[tuple[str, dict[str, Any], Any]] = []
    reply = {"choices": [{"text": " yes", "logprobs": {"token_logprobs": [None, -1.0]}}, {"text": "no"}]}
    with serving([(200, reply)], seen) as url:
        found = Server(url=url, model="m", n=2, max_tokens=5, chat=False, api_key_env="NOT_SET_HERE")(PROMPTS[:1], 0)
    assert [(one.text, one.logprob, one.n_tokens) for one in found[0]] == [(" yes", None, 2), ("no", None, None)]
    assert seen[0][0] == "/v1/completions"
    assert seen[0][1]["prompt"] == "hi"
    assert seen[0][2] is None


def test_what_may_pass_is_asked_again() -> None:
    seen: list[tuple[str, dict[str, Any], Any]] = []
    with serving([(503, "busy"), (429, "slow"), (200, chat)], seen) as url:
        found = Server(url=url, model="m", n=1, max_tokens=5, wait_s=0.01)(PROMPTS[:1], 0)
    assert found[0][0].text == "hi 0"
    assert len(seen) == 3


def test_what_will_not_pass_is_said_at_once() -> None:
    seen: list[tuple[str, dict[str, Any], Any]] = []
    with (
        serving([(400, {"error": "no such model"})], seen) as url,
        pytest.raises(ConfigError, match=r"status 400.*no such model"),
    ):
        Server(url=url, model="m", n=1, max_tokens=5, wait_s=0.01)(PROMPTS[:1], 0)
    assert len(seen) == 1


def test_silence_and_other_shapes() -> None:
    with pytest.raises(ConfigError, match="no reply after 2 tries"):
        Server(url="http://127.0.0.1:9", model="m", n=1, max_tokens=5, wait_s=0.01, retries=1)(PROMPTS[:1], 0)
    with pytest.raises(DataError, match=r"4 choices.*3 were asked"):
        completions_in(chat({"n": 4, "messages": [{"content": "x"}]}), 3, "server")
    with serving([(200, {"choices": [{"message": {}}]})], []) as url, pytest.raises(DataError, match="shape"):
        Server(url=url, model="m", n=1, max_tokens=5)(PROMPTS[:1], 0)
