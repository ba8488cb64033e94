"""What is rewarded: coefficients by a second route, prompts taken out, gold held fixed; words of one answer."""

from __future__ import annotations

import json
from math import log1p

import numpy as np
import pytest

from rewardsmith.audit.attribution import RIDGE, attribute, attribution_table, table_of, within
from rewardsmith.audit.tokens import explain, explanation_text, reward_and_gradient, sentence_spans, without, word_spans
from rewardsmith.cli import main
from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import DataError
from rewardsmith.model.artifact import save_reward_model
from rewardsmith.scoring import FunctionScorer

WORDS = ["sea", "stone", "river", "light", "winter", "garden", "paper", "copper", "morning", "window"]


def made_groups(n: int = 60, k: int = 6, seed: int = 0) -> list[Group]:
    rng = np.random.default_rng(seed)
    groups = []
    for i in range(n):
        texts = []
        for _ in range(k):
            words = rng.choice(WORDS, size=rng.integers(4, 30)).tolist()
            bullets = "".join(f"\n- {w}" for w in rng.choice(WORDS, size=rng.integers(0, 4)))
            texts.append(" ".join(words) + "!" * int(rng.integers(0, 3)) + bullets)
        ratings = tuple(float(r) for r in rng.normal(size=k))
        responses = tuple((Message("assistant", text),) for text in texts)
        groups.append(Group(prompt=(Message("user", f"q {i}"),), responses=responses, ratings=ratings, id=str(i)))
    return groups


def rated(group: Group) -> list[float]:
    return [rating or 0.0 for rating in group.ratings or [None] * len(group.responses)]


def rewards_of(groups: list[Group], noise: float = 0.0, bullets: float = 1.0, gold: float = 0.0) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [
        np.array([
            100.0 * i + bullets * log1p(r[0].content.count("\n- ")) + gold * rated(g)[j] + noise * rng.normal()
            for j, r in enumerate(g.responses)
        ])
        for i, g in enumerate(groups)
    ]  # fmt: skip


def test_a_reward_made_of_one_feature_is_explained_by_it_whatever_the_prompts_are_worth():
    groups = made_groups()
    result = attribute(groups, rewards_of(groups, noise=0.3))
    first = result["features"][0]
    assert first["name"] in ("bullets", "line breaks")  # the same in these texts: ridge shares the weight
    both = [row for row in result["features"] if row["name"] in ("bullets", "line breaks")]
    share = float(np.sqrt(result["explained"]["surface"]["fitted"]))
    assert sum(row["coefficient"] for row in both) == pytest.approx(share, abs=0.1)
    assert result["explained"]["surface"]["held_out"] == pytest.approx(
        result["explained"]["surface"]["fitted"], abs=0.1
    )
    assert result["sentences"][0].startswith("The surface of an answer explains")
    assert any(line.startswith("One SD more bullets") for line in result["sentences"])
    assert json.loads(json.dumps(result, allow_nan=False))["n_answers"] == 360


def test_noise_is_not_explained():
    groups = made_groups()
    result = attribute(groups, rewards_of(groups, noise=1.0, bullets=0.0))
    assert result["explained"]["surface"]["held_out"] < 0.02
    inside = [row["low"] <= 0 <= row["high"] for row in result["features"]]
    assert np.mean(inside) >= 0.7


def test_coefficients_are_those_of_ridge_by_stacked_least_squares():
    groups = made_groups(20)
    rewards = rewards_of(groups, noise=0.5)
    table = table_of(groups, rewards, None)
    n, f = table.column_NF.shape
    stacked = np.vstack([table.column_NF, np.sqrt(RIDGE * n) * np.eye(f)])
    second, *_ = np.linalg.lstsq(stacked, np.concatenate([table.reward_N, np.zeros(f)]), rcond=None)
    found = {row["name"]: row["coefficient"] for row in attribute(groups, rewards)["features"]}
    assert [found[name] for name in table.names] == pytest.approx(second.tolist(), abs=1e-9)
    alone = {row["name"]: row["alone"] for row in attribute(groups, rewards)["features"]}
    for name, column in zip(table.names, table.column_NF.T, strict=True):
        assert alone[name] == pytest.approx(np.corrcoef(column, table.reward_N)[0, 1], abs=1e-9)


def test_within_takes_prompt_means_out_and_pools_by_degrees_of_freedom():
    value_NV = np.array([[1.0], [3.0], [10.0], [10.0], [13.0]])
    centred, sd = within(value_NV, np.array([0, 0, 7, 7, 7]))
    assert centred[:, 0].tolist() == [-1.0, 1.0, -1.0, -1.0, 2.0]
    assert sd[0] == pytest.approx(np.sqrt((2 + 6) / 3))


def test_intervals_cover_by_prompts_not_by_answers():
    """Each answer twice: half the standard error by answers, the same by prompts."""
    groups = made_groups(30)
    rewards = rewards_of(groups, noise=1.0)
    doubled = [Group(prompt=g.prompt, responses=g.responses * 2, id=g.id) for g in groups]
    plain = attribute([Group(prompt=g.prompt, responses=g.responses, id=g.id) for g in groups], rewards)
    twice = attribute(doubled, [np.tile(r, 2) for r in rewards])
    width = [{r["name"]: r["high"] - r["low"] for r in result["features"]} for result in (plain, twice)]
    assert width[1]["bullets"] == pytest.approx(width[0]["bullets"], rel=0.1)


def test_gold_held_fixed_takes_away_what_is_only_quality():
    groups = made_groups()
    by_length = [
        Group(
            prompt=g.prompt,
            responses=g.responses,
            ratings=tuple(log1p(len(r[0].content)) for r in g.responses),
            id=g.id,
        )
        for g in groups
    ]
    result = attribute(by_length, rewards_of(by_length, noise=0.2, bullets=0.0, gold=1.0))
    assert result["gold"]["coefficient"] > 0.3
    length = next(row for row in result["features"] if row["name"] == "length")
    assert length["coefficient"] > 2 * abs(length["with_gold"]) * 0.9
    assert result["explained"]["gold"]["held_out"] > 0.5
    assert any("with gold held fixed" in line for line in result["sentences"])
    assert "with gold" in attribution_table(result)


def test_too_few_prompts_and_equal_rewards_are_refused():
    groups = made_groups(5)
    with pytest.raises(DataError, match="5 prompts with two or more"):
        attribute(groups, rewards_of(groups))
    groups = made_groups(12)
    with pytest.raises(DataError, match="do not differ"):
        attribute(groups, [np.ones(6)] * 12)


def test_answers_without_a_reward_and_single_answers_are_left_out():
    groups = made_groups(14)
    rewards = rewards_of(groups, noise=0.2)
    rewards[0][1:] = np.nan
    rewards[1][0] = np.nan
    result = attribute(groups, rewards)
    assert result["n_prompts"] == 13
    assert result["n_answers"] == 13 * 6 - 1


# -- words of one answer --------------------------------------------------------------------------------------------


def one(*texts: str) -> Group:
    return Group(prompt=(Message("user", "what is it"),), responses=tuple((Message("assistant", t),) for t in texts))


def test_leaving_out_a_word_gives_what_it_is_worth():
    value = {"good": 2.0, "bad": -1.5}
    scorer = FunctionScorer(lambda prompt, response: sum(value.get(w.strip(".,"), 0.0) for w in response.split()))
    rows = explain(scorer, one("a good, plain word.", "bad and good"))
    assert [row["reward"] for row in rows] == [2.0, 0.5]
    assert [(u["text"], u["value"]) for u in rows[1]["units"]] == [("bad", -1.5), ("and", 0.0), ("good", 2.0)]
    assert all(row["text"][u["start"] : u["end"]] == u["text"] for row in rows for u in row["units"])
    assert "raises +2.000  good" in explanation_text(rows)


def test_sentences_and_lines_are_units_and_an_answer_of_one_has_nothing_left():
    text = "One is here. Two is here!\n- three is a line\n\nFour."
    spans = sentence_spans(text)
    assert [text[a:b] for a, b in spans] == ["One is here.", "Two is here!", "- three is a line", "Four."]
    assert without("a b c", *word_spans("a b c")[1]) == "a c"
    assert without("a b c", *word_spans("a b c")[0]) == "b c"
    rows = explain(FunctionScorer(lambda prompt, response: len(response)), one("Only one."), by="sentence")
    assert rows[0]["units"][0]["value"] is None


def test_a_scorer_without_a_reward_or_without_weights_is_refused():
    with pytest.raises(DataError, match="no reward"):
        explain(FunctionScorer(lambda prompt, response: float("nan")), one("a b"))
    with pytest.raises(DataError, match="need the weights"):
        explain(FunctionScorer(lambda prompt, response: 1.0), one("a b"), by="gradient")


def test_integrated_gradients_add_up_to_the_difference_from_the_blank_answer(tiny_scorer):
    row = explain(tiny_scorer, one("a thing in the sea"), by="gradient", steps=128)[0]
    complete = row["completeness"]
    assert complete["sum"] == pytest.approx(complete["difference"], abs=0.02 * abs(complete["difference"]) + 1e-3)
    assert row["reward"] == pytest.approx(float(tiny_scorer.score([one("a thing in the sea")])[0].rewards[0]), abs=1e-5)
    assert "".join(u["text"] for u in row["units"]) == row["text"]
    assert abs(complete["difference"]) > 1e-3


def test_the_gradient_is_that_of_finite_differences(tiny_scorer):
    import torch

    model = tiny_scorer.models[0]
    ids = np.array([5, 9, 30, 41, 7])
    embedding = model.trunk.get_input_embeddings().weight.detach()[ids]
    _, gradient = reward_and_gradient(model, ids, embedding)
    torch.manual_seed(1)
    step = torch.randn_like(embedding)
    step /= step.norm()
    ahead, _ = reward_and_gradient(model, ids, embedding + 1e-2 * step)
    behind, _ = reward_and_gradient(model, ids, embedding - 1e-2 * step)
    assert (ahead - behind) / 2e-2 == pytest.approx(float((gradient * step).sum()), rel=0.02, abs=1e-3)


@pytest.mark.parametrize("by", ["word", "gradient"])
def test_the_verb_explains_a_pair_and_writes_its_page(tiny_scorer, tmp_path, capsys, by):
    save_reward_model(tiny_scorer.models[0], tiny_scorer.renderer, tmp_path / "rm")
    rows = [
        {"prompt": g.prompt[0].content, "chosen": g.responses[0][0].content, "rejected": g.responses[1][0].content}
        for g in made_groups(12)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["explain", str(tmp_path / "rm"), str(tmp_path / "p.jsonl"), "--pair", "2", "--by", by]
    assert main([*words, "--html", str(tmp_path / "page.html"), "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["surface"]["n_answers"] == 24
    assert [row["label"] for row in found["pair"]["answers"]] == ["chosen", "rejected"]
    assert found["pair"]["answers"][0]["text"] == rows[1]["chosen"]
    assert found["pair"]["prompt"] in (tmp_path / "page.html").read_text()
    assert main([*words, "--device", "cpu", "--quiet"]) == 0
    assert "The surface of an answer explains" in capsys.readouterr().out
