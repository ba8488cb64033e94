"""How rewards are read, `score` and `serve` alike: aggregates of an ensemble's members, and adjusted rewards."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardsmith.adjustment import AdjustedScorer, Adjustment, Bound, Length
from rewardsmith.aggregation import HOWS, How
from rewardsmith.cli import main
from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import ConfigError
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.remote import RemoteScorer
from rewardsmith.scorers import ModelScorer
from rewardsmith.scoring import Reading
from rewardsmith.serving.engine import Engine, load_engine, reading_hash
from rewardsmith.serving.service import groups_of
from rewardsmith.text.render import RenderConfig, Renderer
from tests.serving.conftest import Running, running, tiny_engine, tiny_scorer
from tests.test_verbs_serve import saved
from tests.tiny import tiny_tokenizer, tiny_trunk

TOLERANCE = 1e-4
PROMPT, ANSWERS = "hello there", ["a good", "b bad answer that is longer", "c", "the in on"]
GROUP = Group(prompt=(Message("user", PROMPT),), responses=tuple((Message("assistant", answer),) for answer in ANSWERS))
LENGTH = Length(0.4, 2.0, (1.5,), (0.3,))
BOUND = Bound("sigmoid", 0.2, 1.5, -1.0, 1.0)


def ensemble(how: How) -> ModelScorer:
    models = [RewardModel(tiny_trunk(seed=seed)) for seed in (0, 1, 2)]
    renderer = Renderer(tiny_tokenizer(), RenderConfig(max_length=128))
    return ModelScorer(models, renderer, tokens_per_batch=64, reading=Reading(aggregate=how, temperature=2.0))


def own(server: Running) -> list[dict[str, Any]]:
    body = {"messages": [{"role": "user", "content": PROMPT}], "responses": ANSWERS}
    return server.post("/v1/reward", body).json["groups"][0]["rewards"]


def in_every_dialect(server: Running) -> dict[str, list[float]]:
    """The rewards of the one prompt's answers, asked at once wherever a request can say that it is one prompt."""
    ranks = server.post("/rerank", {"query": PROMPT, "texts": ANSWERS, "raw_scores": True}).json
    pairs = [[PROMPT, answer] for answer in ANSWERS]
    prompt = f"<|user|>{PROMPT}</s><|assistant|>"
    queries = [f"{prompt}{answer}{end}" for answer, end in zip(ANSWERS, ["</s>", "", "</s><pad>", "</s>"])]
    return {
        "/v1/reward": [row["reward"] for row in own(server)],
        "/score": [row["score"] for row in server.post("/score", {"text_1": PROMPT, "text_2": ANSWERS}).json["data"]],
        "/rerank": [rank["score"] for rank in sorted(ranks, key=lambda rank: rank["index"])],
        "/predict": [p[0]["score"] for p in server.post("/predict", {"inputs": pairs, "raw_scores": True}).json],
        "/get_reward": server.post("/get_reward", {"query": queries, "prompts": [prompt] * 4}).json["rewards"],
    }


@pytest.mark.parametrize("how", HOWS)
def test_aggregates_are_those_of_score_in_every_dialect(how: How) -> None:
    scorer = ensemble(how)
    (wanted,) = scorer.score([GROUP])
    with running(Engine(scorer, "tiny", artifact=None, meta={})) as server:
        for path, rewards in in_every_dialect(server).items():
            np.testing.assert_allclose(rewards, wanted.rewards, atol=TOLERANCE, err_msg=path)
        rows = own(server)
        assert wanted.std is not None
        np.testing.assert_allclose([row["std"] for row in rows], wanted.std, atol=TOLERANCE)
        assert (rows[0]["calibrated"] is None) == (how != "mean"), "the temperature is the mean's"
        alone = server.post("/classify", {"messages": turns(ANSWERS[0])}).json
        mean = scorer.score([Group(prompt=GROUP.prompt, responses=GROUP.responses[:1])])[0].rewards
        np.testing.assert_allclose(alone["data"][0]["probs"], mean, atol=TOLERANCE)


def turns(answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("adjustment", [Adjustment(LENGTH), Adjustment(LENGTH, BOUND), Adjustment(None, BOUND)])
def test_adjusted_rewards_are_those_of_score_in_every_dialect(adjustment: Adjustment) -> None:
    meta = {"adjustment": adjustment.to_json()}
    (wanted,) = AdjustedScorer(tiny_scorer(), adjustment, instead=True).score([GROUP])
    with running(Engine(tiny_scorer(), "tiny", artifact=None, meta=meta, adjusted=True)) as server:
        for path, rewards in in_every_dialect(server).items():
            np.testing.assert_allclose(rewards, wanted.rewards, atol=TOLERANCE, err_msg=path)
        chat = server.post("/classify", {"messages": turns(ANSWERS[1])}).json
        assert chat["data"][0]["probs"] == pytest.approx([wanted.rewards[1]], abs=TOLERANCE)
        assert {row["calibrated"] for row in own(server)} == {None}, "the temperature is the plain rewards'"
        text = server.post("/classify", {"input": f"<|user|>{PROMPT}</s><|assistant|>{ANSWERS[0]}</s>"})
        if adjustment.length is None:
            assert text.json["data"][0]["probs"] == pytest.approx([wanted.rewards[0]], abs=TOLERANCE)
        else:
            assert (text.status, "does not say where the answer begins" in text.body.decode()) == (400, True)


def test_plain_rewards_have_the_adjusted_ones_beside_them() -> None:
    adjustment = Adjustment(LENGTH, BOUND)
    (wanted,) = AdjustedScorer(tiny_scorer(), adjustment).score([GROUP])
    with running(Engine(tiny_scorer(), "tiny", artifact=None, meta={"adjustment": adjustment.to_json()})) as server:
        (found,) = RemoteScorer(server.address).score([GROUP])
        np.testing.assert_allclose(found.rewards, wanted.rewards, atol=TOLERANCE)
        assert found.adjusted is not None
        np.testing.assert_allclose(found.adjusted, wanted.adjusted, atol=TOLERANCE)
        assert server.post("/classify", {"input": "<|user|>x</s><|assistant|>a</s>"}).status == 200
    with running() as server:
        assert RemoteScorer(server.address).score([GROUP])[0].adjusted is None


def test_what_cannot_be_read_so_is_refused_before_it_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(saved(tmp_path / "rm"))
    with pytest.raises(ConfigError, match="has no adjustment"):
        load_engine(folder, adjusted=True)
    with pytest.raises(ConfigError, match="single reward model"):
        load_engine(folder, aggregate="min")
    assert main(["serve", folder, "--aggregate", "min"]) == 2
    assert "single reward model" in capsys.readouterr().err
    assert main(["serve", folder, "--aggregate-strength", "2"]) == 2
    assert "has no strength" in capsys.readouterr().err


def test_the_hash_says_how_rewards_are_read() -> None:
    read = [
        reading_hash("h", "mean", None, None),
        reading_hash("h", "min", None, None),
        reading_hash("h", "mean-var", 0.5, None),
        reading_hash("h", "mean-var", 1.0, None),
        reading_hash("h", "mean", None, Adjustment(LENGTH)),
        reading_hash("h", "mean", None, Adjustment(LENGTH, BOUND)),
    ]
    assert read[0] == "h"
    assert len(set(read)) == len(read)
    assert reading_hash(None, "min", None, None) is None


def test_expected_rewards_are_the_bounded_ones() -> None:
    def expected(adjustment: Adjustment, *, adjusted: bool) -> tuple[float, float]:
        meta = {"adjustment": adjustment.to_json(), "normalisation": {"reference": {"mean": 3.0, "std": 7.0}}}
        return Engine(tiny_scorer(), "tiny", artifact=None, meta=meta, adjusted=adjusted).expected()

    assert expected(Adjustment(LENGTH, BOUND), adjusted=True) == (0.5, 0.25)
    assert expected(Adjustment(LENGTH, BOUND), adjusted=False) == (3.0, 7.0)
    assert expected(Adjustment(LENGTH), adjusted=True) == (3.0, 7.0)


def test_rows_of_one_prompt_belong_together() -> None:
    assert groups_of([], 3) == [[0], [1], [2]]
    assert groups_of(["a", None, "b", "a", None], 5) == [[0, 3], [1], [2], [4]]


def test_a_dialogue_that_ends_a_hundred_thousand_times_is_opened_at_once() -> None:
    engine = tiny_engine()
    end = str(engine.scorer.renderer.tokenizer.eos_token)
    started = time.monotonic()
    assert engine.opened("an answer " + f"{end} \n" * 100_000) == "an answer "
    assert time.monotonic() - started < 2, "each place is looked at once"
