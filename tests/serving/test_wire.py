"""Each dialect's shapes, and its refusals in its own words."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rewardsmith.data.schema import Group, Message
from rewardsmith.serving.playground import N_REFUSALS, refusals
from tests.serving.conftest import start, tiny_scorer
from tests.sockets import Reply, Running

USER = {"role": "user", "content": "hello there"}
TURNS = [USER, {"role": "assistant", "content": "a good"}]
RENDERED = "<|user|>hello there</s><|assistant|>a good</s>"


def offline(prompt: str, *answers: str) -> list[float]:
    group = Group(prompt=(Message("user", prompt),), responses=tuple((Message("assistant", a),) for a in answers))
    return tiny_scorer().score([group])[0].rewards.tolist()


def near(values: Any) -> Any:
    return pytest.approx(values, abs=1e-5)


# -- our own ----------------------------------------------------------------------------------------------------


def test_reward_says_all_that_is_known(server: Running) -> None:
    reply = server.post("/v1/reward", {"messages": [USER], "responses": ["a good", "b bad answer"]})
    assert reply.status == 200
    assert (reply.json["model"], reply.json["artifact"]) == ("tiny", "hash-0")
    (group,) = reply.json["groups"]
    first, second = group["rewards"]
    wanted = offline("hello there", "a good", "b bad answer")
    assert [first["reward"], second["reward"]] == near(wanted)
    assert first["calibrated"] == near(wanted[0] / 2)
    assert first["p_better"] == near(1 / (1 + math.exp((wanted[1] - wanted[0]) / 2)))
    assert first["p_better"] + second["p_better"] == near(1)
    assert (first["std"], first["truncated"], group["error"]) == (None, "", None)
    assert first["n_tokens"] < second["n_tokens"]


def test_many_groups_in_order_with_turns_and_ids(server: Running) -> None:
    groups = [
        {"messages": [{"role": "user", "content": f"question {n}"}], "responses": [[TURNS[1]], "b"], "id": f"g{n}"}
        for n in range(7)
    ]
    reply = server.post("/v1/reward", {"model": "tiny", "groups": groups}).json
    assert [group["id"] for group in reply["groups"]] == [f"g{n}" for n in range(7)]
    for n, group in enumerate(reply["groups"]):
        assert [row["reward"] for row in group["rewards"]] == near(offline(f"question {n}", "a good", "b"))


def test_over_long_input_is_cut_and_flagged(server: Running) -> None:
    long = "b " * 200
    (group,) = server.post("/v1/reward", {"messages": [{"role": "user", "content": long}], "responses": ["a"]}).json[
        "groups"
    ]
    assert (group["rewards"][0]["truncated"], group["rewards"][0]["n_tokens"]) == ("prompt", 128)
    assert group["rewards"][0]["reward"] == near(offline(long, "a")[0])


def test_parts_of_a_message_are_texts(server: Running) -> None:
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": "there"}]
    reply = server.post("/v1/reward", {"messages": [{"role": "user", "content": parts}], "responses": ["a"]})
    assert reply.json["groups"][0]["rewards"][0]["reward"] == near(offline("hello\nthere", "a")[0])
    image = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x"}}]
    reply = server.post("/v1/reward", {"messages": [{"role": "user", "content": image}], "responses": ["a"]})
    assert (reply.status, reply.json["error"]["type"]) == (422, "invalid")


# -- vLLM -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"messages": TURNS},
        {"input": RENDERED},
        {"input": [RENDERED]},
        {"model": "tiny", "input": RENDERED, "user": "x"},
    ],
)
def test_classify(server: Running, body: dict[str, Any]) -> None:
    reply = server.post("/classify", body).json
    assert set(reply) == {"id", "object", "created", "model", "data", "usage"}
    assert (reply["object"], reply["model"], reply["id"][:9]) == ("list", "tiny", "classify-")
    (row,) = reply["data"]
    assert set(row) == {"index", "label", "probs", "num_classes"}
    assert (row["index"], row["num_classes"], row["label"]) == (0, 1, "reward")
    assert row["probs"] == near(offline("hello there", "a good"))
    n = reply["usage"]["prompt_tokens"]
    assert reply["usage"] == {
        "prompt_tokens": n,
        "total_tokens": n,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }


def test_token_ids_are_taken_as_they_are(server: Running) -> None:
    ids = tiny_scorer().renderer.tokenizer(RENDERED, add_special_tokens=False)["input_ids"]
    assert server.post("/classify", {"input": ids}).json["data"][0]["probs"] == near(offline("hello there", "a good"))
    both = server.post("/classify", {"input": [ids, ids[:3]]}).json["data"]
    assert [row["index"] for row in both] == [0, 1]
    assert server.post("/classify", {"input": [5, 999]}).status == 400


def test_pooling_in_numbers_and_in_bytes(server: Running) -> None:
    row = server.post("/pooling", {"messages": TURNS}).json["data"][0]
    assert (row["object"], row["data"]) == ("pooling", near(offline("hello there", "a good")))
    row = server.post("/pooling", {"messages": TURNS, "encoding_format": "base64"}).json["data"][0]
    assert list(struct.unpack("<f", base64.b64decode(row["data"]))) == near(offline("hello there", "a good"))


@pytest.mark.parametrize(
    "names", [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")]
)
def test_score_pairs(server: Running, names: tuple[str, str]) -> None:
    first, second = names
    reply = server.post("/score", {first: "hello there", second: ["a good", "b"]}).json
    assert [(row["index"], row["object"]) for row in reply["data"]] == [(0, "score"), (1, "score")]
    assert [row["score"] for row in reply["data"]] == near(offline("hello there", "a good", "b"))
    many = server.post("/v1/score", {first: ["x", "y"], second: ["a", "b"]}).json["data"]
    assert [row["score"] for row in many] == near([offline("x", "a")[0], offline("y", "b")[0]])
    reply = server.post("/score", {first: ["x", "y"], second: ["a"]})
    assert (reply.status, reply.json["error"]["message"]) == (400, "Input lengths must be either 1:1, 1:N or N:N")


def test_models(server: Running) -> None:
    reply = server.get("/v1/models").json
    assert reply["object"] == "list"
    card = reply["data"][0]
    assert (card["id"], card["object"], card["root"], card["max_model_len"]) == ("tiny", "model", "tiny", 128)


def test_vllm_refuses_what_is_too_long_unless_it_may_be_cut(server: Running) -> None:
    long = [{"role": "user", "content": "b " * 200}, TURNS[1]]
    reply = server.post("/classify", {"messages": long})
    assert (reply.status, reply.json["error"]["type"], reply.json["error"]["code"]) == (400, "BadRequestError", 400)
    assert "maximum context length is 128 tokens" in reply.json["error"]["message"]
    cut = server.post("/classify", {"messages": long, "truncate_prompt_tokens": -1}).json
    assert cut["data"][0]["probs"] == near(offline("b " * 200, "a good"))
    assert cut["usage"]["prompt_tokens"] == 128
    assert server.post("/classify", {"input": "b " * 200}).status == 400
    ids = tiny_scorer().renderer.tokenizer("b " * 200, add_special_tokens=False)["input_ids"]
    last = server.post("/classify", {"input": ids[-20:]}).json["data"][0]["probs"]
    assert server.post("/classify", {"input": ids, "truncate_prompt_tokens": 20}).json["data"][0]["probs"] == near(last)
    reply = server.post("/classify", {"input": ids, "truncate_prompt_tokens": 20, "truncation_side": "right"})
    assert (reply.status, "where the reward is read" in reply.json["error"]["message"]) == (400, True)


def test_vllm_knows_no_other_model_and_no_foreign_template(server: Running) -> None:
    reply = server.post("/classify", {"model": "other", "input": "x"})
    assert reply.status == 404
    assert reply.json == {
        "error": {
            "message": "The model `other` does not exist.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }
    }
    for extra in ({"chat_template": "{{ 1 }}"}, {"chat_template_kwargs": {"chat_template": "x"}}):
        assert server.post("/classify", {"messages": TURNS, **extra}).status == 400


# -- TEI --------------------------------------------------------------------------------------------------------


def test_predict_tells_pairs_from_batches(server: Running) -> None:
    wanted = offline("hello there", "a good")[0]
    single = server.post("/predict", {"inputs": RENDERED, "raw_scores": True}).json
    assert single == [{"score": near(wanted), "label": "reward"}]
    pair = server.post("/predict", {"inputs": ["hello there", "a good"], "raw_scores": True}).json
    assert pair == [{"score": near(wanted), "label": "reward"}]
    batch = server.post("/predict", {"inputs": [["hello there", "a good"], [RENDERED]], "raw_scores": True}).json
    assert [[row["score"] for row in rows] for rows in batch] == [[near(wanted)], [near(wanted)]]
    squashed = server.post("/predict", {"inputs": ["hello there", "a good"]}).json
    assert squashed[0]["score"] == near(1 / (1 + math.exp(-wanted)))


def test_rerank_puts_the_best_first(server: Running) -> None:
    texts = ["a good", "b", "something else"]
    rewards = offline("hello there", *texts)
    ranks = server.post("/rerank", {"query": "hello there", "texts": texts, "raw_scores": True}).json
    assert [rank["index"] for rank in ranks] == np.argsort(rewards)[::-1].tolist()
    assert [rank["score"] for rank in ranks] == near(sorted(rewards, reverse=True))
    assert set(ranks[0]) == {"index", "score"}
    with_text = server.post("/rerank", {"query": "q", "texts": texts, "return_text": True}).json
    assert {rank["text"] for rank in with_text} == set(texts)


def test_info(server: Running) -> None:
    info = server.get("/info").json
    assert (info["model_id"], info["model_sha"], info["max_input_length"]) == ("tiny", "hash-0", 128)
    assert info["model_type"] == {"reranker": {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}}
    assert info["max_client_batch_size"] == 512


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/predict", {"inputs": []}, 400, "Empty"),
        ("/rerank", {"query": "q", "texts": []}, 400, "Empty"),
        ("/predict", {"inputs": 3}, 422, "Tokenizer"),
        ("/predict", {"inputs": ["a", "b", "c"]}, 422, "Tokenizer"),
        ("/predict", {"inputs": "b " * 200}, 413, "Validation"),
        ("/predict", {"inputs": ["b " * 200, "a"]}, 413, "Validation"),
        ("/predict", {"inputs": [["a"]] * 513}, 413, "Validation"),
        ("/predict", b"{", 400, "Validation"),
    ],
)
def test_tei_refusals(server: Running, path: str, body: Any, status: int, kind: str) -> None:
    reply = server.post(path, body)
    assert (reply.status, set(reply.json), reply.json["error_type"]) == (status, {"error", "error_type"}, kind)


def test_tei_cuts_where_it_may(server: Running) -> None:
    reply = server.post("/predict", {"inputs": ["b " * 200, "a"], "truncate": True, "raw_scores": True})
    assert reply.json[0]["score"] == near(offline("b " * 200, "a")[0])


# -- OpenRLHF ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "</s>", "</s><pad><pad>", "</s>\n", "<pad> \n<pad>"])
def test_get_reward_whatever_the_policy_left_at_the_end(server: Running, end: str) -> None:
    query = RENDERED.removesuffix("</s>") + end
    reply = server.post("/get_reward", {"query": [query, query], "prompts": ["p", "p"], "labels": [None, 1]})
    assert reply.status == 200
    wanted = offline("hello there", "a good")[0]
    assert reply.json == {"rewards": [near(wanted)] * 2, "scores": [near(wanted)] * 2, "extra_logs": {}}


def test_blanks_of_the_answer_are_part_of_it(server: Running) -> None:
    reply = server.post("/get_reward", {"query": [RENDERED.replace("a good</s>", "a good \n</s>")]})
    assert reply.json["rewards"] == near(offline("hello there", "a good \n"))


def test_get_reward_refuses_like_its_framework(server: Running) -> None:
    assert set(server.post("/get_reward", {"query": []}).json) == {"detail"}
    assert server.post("/get_reward", {"prompts": []}).status == 422


# -- operations ---------------------------------------------------------------------------------------------------


def test_health_ready_metrics(server: Running) -> None:
    assert (server.get("/health").status, server.get("/health").body) == (200, b"")
    assert server.get("/ready").json == {"ready": True, "model": "tiny", "artifact": "hash-0", "release": None}
    said = server.get("/metrics")
    assert said.headers["content-type"].startswith("text/plain")
    for name in ("request_seconds", "queue_seconds", "batch_fill", "tokens_total", "reward_bucket", "refusal_share"):
        assert f"rewardsmith_{name}" in said.body.decode()


def test_every_refusal_is_described(server: Running) -> None:
    described = server.get("/openapi.json").json
    for path in ("/v1/reward", "/classify", "/pooling", "/score", "/predict", "/rerank", "/get_reward"):
        assert {"200", "400", "429"} <= set(described["paths"][path]["post"]["responses"])
    assert b"/v1/reward" in server.get("/docs").body


@pytest.fixture
def tight() -> Iterator[Running]:
    from rewardsmith.serving.settings import Limits

    yield from start(limits=Limits(max_waiting=4, max_responses=2, max_tokens=60, request_seconds=20))


def test_limits_are_said_in_every_dialect(tight: Running) -> None:
    three = {"messages": [USER], "responses": ["a", "b", "c"]}
    replies: list[Reply] = [
        tight.post("/v1/reward", three),
        tight.post("/score", {"text_1": "q", "text_2": ["a", "b", "c"]}),
        tight.post("/rerank", {"query": "q", "texts": ["a", "b", "c"]}),
        tight.post("/get_reward", {"query": ["a", "b", "c"]}),
    ]
    assert [reply.status for reply in replies] == [413] * 4
    assert replies[2].json == {"error": "batch size 3 > maximum allowed batch size 2", "error_type": "Validation"}
    assert tight.post("/v1/reward", {"messages": [USER], "responses": ["a " * 40]}).status == 413


# -- the page's own ---------------------------------------------------------------------------------------------


def test_edits_of_the_page_against_the_offline_rewards(server: Running) -> None:
    answer = "a good answer. It is in the other place."
    reply = server.post("/playground/explain", {"messages": [USER], "response": answer}).json
    edits = {edit["name"]: edit for edit in reply["edits"]}
    # All are one group, as on the page: the longest of it says how much of the prompt is left.
    own, *others = offline("hello there", answer, *refusals())
    changes = [reward - own for reward in others]
    refusal = edits.pop("refusal")
    assert (refusal["n_texts"], len(set(refusals()))) == (N_REFUSALS, N_REFUSALS)
    assert [refusal["change"], refusal["least"], refusal["most"]] == near(
        [np.mean(changes), min(changes), max(changes)]
    )
    assert refusal["p_better"] == near(np.mean([1 / (1 + np.exp(-change / 2)) for change in changes]))
    for edit in edits.values():
        assert (edit["n_texts"], edit["least"], edit["most"]) == (1, None, None)
        assert edit["change"] == near(offline("hello there", edit["text"], *refusals())[0] - own)
