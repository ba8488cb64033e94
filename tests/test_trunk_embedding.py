"""A trunk as an embedder: means over a text's own tokens, whatever the batch; languages that are spelt out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from rewardsmith.cli import main
from rewardsmith.data.readers import read_groups
from rewardsmith.model.artifact import save_reward_model
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scorers import load_scorer
from rewardsmith.text.render import Renderer
from rewardsmith.trunk_embedding import Trunk, TrunkEmbedder, known_languages
from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer, tiny_trunk

TEXTS = [f"question {i} {'y' * (i % 9)} about {'z' * (i % 7)}" for i in range(40)]


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    torch.manual_seed(0)
    return Trunk("tiny", tiny_trunk().eval(), tiny_tokenizer())


def test_a_state_is_the_mean_over_the_texts_own_tokens(trunk: Trunk) -> None:
    state_NH, _ = TrunkEmbedder(trunk, quiet=True)._states(TEXTS)
    ids = trunk.tokenizer(TEXTS[5], add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        alone_H = trunk.body(input_ids=ids).last_hidden_state[0].double().mean(0).numpy()
    np.testing.assert_allclose(state_NH[5], alone_H, atol=1e-5)
    small_NH, _ = TrunkEmbedder(trunk, tokens_per_batch=64, quiet=True)._states(TEXTS)
    np.testing.assert_allclose(small_NH, state_NH, atol=1e-5)


def test_points_have_length_one_and_the_same_text_the_same_place(trunk: Trunk) -> None:
    embedder = TrunkEmbedder(trunk, quiet=True)
    data = embedder.fit(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(data.point_ND, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(embedder.embed(TEXTS[3:5]).point_ND, data.point_ND[3:5], atol=1e-3)
    assert data.near_NX is data.point_ND


def test_a_language_that_is_spelt_out_is_not_known() -> None:
    texts = ["What is the capital of France?", "ความรู้คืออะไร"]
    rows = [list(range(8)), list(range(len(texts[1].encode())))]
    assert known_languages(texts, rows).tolist() == [True, False]


# -- the verb with a model ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("models") / "rm")
    save_reward_model(RewardModel(tiny_trunk()), Renderer(tiny_tokenizer()), path)
    return path


@pytest.fixture(scope="module")
def words_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward model with a token for every word of the texts: it does not spell them out."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = dict.fromkeys([*special, *(word for text in TEXTS for word in text.split()), "yes", "no"])
    words_tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    words_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), special))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words_tokenizer, **names)
    tokenizer.chat_template = CHAT_TEMPLATE
    path = str(tmp_path_factory.mktemp("models") / "words")
    save_reward_model(RewardModel(tiny_trunk()), Renderer(tokenizer), path)
    return path


@pytest.fixture(scope="module")
def prefs(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "prefs.jsonl"
    rows = [{"prompt": text, "chosen": f"yes {i}", "rejected": f"no, never {i % 7}"} for i, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["data", "coverage", *words, "--device", "cpu", "--quiet", "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_model_tells_topics_holes_and_the_map(
    words_folder: str, prefs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, page = tmp_path / "prompts.txt", tmp_path / "page.html"
    target.write_text("\n".join(TEXTS[:5]), encoding="utf-8")
    words = ["--model", words_folder, "--target", str(target), "--benchmarks", prefs, "--page", str(page)]
    result = run(capsys, prefs, *words)
    assert result["embedding"]["name"] == f"the trunk of {words_folder}"
    assert result["embedding"]["placed"] == len(TEXTS)
    prompts = result["target"]["prompts"]
    assert (prompts["texts"], prompts["judged"], prompts["far"]["value"]) == (5, 5, 0.0)
    assert result["benchmarks"][0]["contaminated"] == len(TEXTS)
    html = page.read_text(encoding="utf-8")
    assert html.count('<circle class="d ') == len(TEXTS)
    assert html.count('<circle class="t ') == 5


def test_a_model_that_spells_everything_out_is_said(
    folder: str, prefs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(capsys, prefs, "--model", folder, "--target", prefs)
    assert result["embedding"]["placed"] == 0
    assert sum(result["embedding"]["not_judged"].values()) == len(TEXTS)
    assert result["target"]["prompts"]["far"] is None
    assert any(warning["kind"] == "too_few" for warning in result["warnings"])


def test_scores_of_a_model_are_its_rewards(folder: str, prefs: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, prefs, "--scores", folder)
    groups = list(read_groups(prefs))
    right = [float(np.diff(score.rewards)[0] < 0) for score in load_scorer(folder).score(groups)]
    assert 0 < np.mean(right) < 1
    whole = next(row for row in result["cells"] if row["dimension"] == "turns")
    assert whole["model_pairs"] == len(TEXTS)
    assert whole["model_accuracy"]["value"] == pytest.approx(np.mean(right))


def test_a_model_that_is_not_there_is_one_line(prefs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--model", "--scores"):
        assert main(["data", "coverage", prefs, option, str(tmp_path / "none"), "--quiet"]) == 2
        said = capsys.readouterr().err
        assert "none" in said
        assert len(said.strip().splitlines()) == 1
