"""A trunk as an embedder: means over a text's own tokens, whatever the batch; languages that are spelt out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rewardsmith.trunk_embedding import Trunk, TrunkEmbedder, known_languages
from tests.tiny import tiny_tokenizer, tiny_trunk

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
