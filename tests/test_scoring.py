"""Scorers and the row table: order, resume, formats; nothing is lost."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.errors import ConfigError, Interrupted
from rewardsmith.last_layer import fit_laplace
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scorers import JointScorer, ModelScorer
from rewardsmith.scoring import FunctionScorer, Reading, Scores, read_rewards, score_file
from rewardsmith.text.render import RenderConfig, Renderer
from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer, tiny_trunk


def groups(n: int = 11) -> list[Group]:
    return [
        Group(
            prompt=(Message("user", "q" * (1 + 7 * i % 13)),),
            responses=tuple((Message("assistant", f"answer {i} " * (1 + (i + k) % 4)),) for k in range(1 + i % 3)),
            preferences=(Preference(chosen=0, rejected=1),) if i % 3 else (),
            tags={"slice": f"s{i % 2}", "reward": "a tag may not replace a key"},
            id=f"g{i}",
        )
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def scorer() -> ModelScorer:
    torch.manual_seed(0)
    return ModelScorer(RewardModel(tiny_trunk()), Renderer(tiny_tokenizer()), tokens_per_batch=60)


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rewards_do_not_depend_on_batches_order_or_company(scorer):
    everything = groups()
    together = [s.rewards for s in scorer.score(everything)]
    alone = [scorer.score([g])[0].rewards for g in everything]
    reverse = [s.rewards for s in scorer.score(everything[::-1])][::-1]
    big = [s.rewards for s in ModelScorer(scorer.models, scorer.renderer, tokens_per_batch=10_000).score(everything)]
    for other in (alone, reverse, big):
        assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(together, other, strict=True))
    assert np.concatenate(together).std() > 0.01


def test_rows_keep_the_order_of_the_input(scorer, tmp_path):
    everything = groups()
    counts = score_file(scorer, everything, tmp_path / "rows.jsonl")
    rows = read(tmp_path / "rows.jsonl")
    assert [(r["id"], r["response_index"]) for r in rows] == [
        (g.id, k) for g in everything for k in range(len(g.responses))
    ]
    assert counts == {"groups": 11, "rows": len(rows), "resumed_groups": 0, "unscored": 0}
    assert list(rows[0])[:6] == ["id", "response_index", "reward", "calibrated", "truncated", "n_tokens"]
    assert rows[0]["slice"] == "s0"
    assert rows[0]["tag_reward"] == "a tag may not replace a key"
    assert isinstance(rows[0]["reward"], float)


def test_parquet_and_gzip_hold_the_same_rows(scorer, tmp_path):
    for name in ("rows.jsonl", "rows.parquet", "rows.jsonl.gz"):
        score_file(scorer, groups(), tmp_path / name)
    rows = read(tmp_path / "rows.jsonl")
    table = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert table == rows
    with gzip.open(tmp_path / "rows.jsonl.gz") as handle:
        assert [json.loads(line) for line in handle] == rows
    assert sorted(f.name for f in tmp_path.iterdir()) == ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"]


class Breaks:
    """Scores `n` groups, then breaks, as a killed process would; remembers what it was asked."""

    def __init__(self, scorer: ModelScorer, n: int) -> None:
        self.scorer, self.n, self.seen = scorer, n, []

    def score(self, some):
        if len(self.seen) >= self.n:
            raise RuntimeError
        self.seen += [g.id for g in some]
        return self.scorer.score(some)


@pytest.mark.parametrize(("cut", "kept"), [(0, 4), (1, 4), (25, 4), (900, 0)])
def test_resumed_rows_are_those_of_an_unbroken_run(scorer, tmp_path, cut, kept):
    everything = groups()
    score_file(scorer, everything, tmp_path / "whole.jsonl", chunk=2)
    with pytest.raises(RuntimeError):
        score_file(Breaks(scorer, 6), everything, tmp_path / "rows.jsonl", chunk=2)
    assert not (tmp_path / "rows.jsonl").exists()
    partial = tmp_path / "rows.jsonl.partial"
    data = partial.read_bytes()
    partial.write_bytes(data[: len(data) - cut])  # a kill may cut a line anywhere
    again = Breaks(scorer, 100)
    counts = score_file(again, everything, tmp_path / "rows.jsonl", resume=True, chunk=2)
    assert (tmp_path / "rows.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert counts["resumed_groups"] == kept or cut == 900
    assert again.seen == [g.id for g in everything[counts["resumed_groups"] :]]
    assert not partial.exists()


def test_an_old_partial_file_is_neither_lost_nor_mixed_with_other_rows(scorer, tmp_path):
    with pytest.raises(RuntimeError):
        score_file(Breaks(scorer, 6), groups(), tmp_path / "rows.jsonl", chunk=2, identity={"model": "a"})
    with pytest.raises(ConfigError, match="add --resume"):
        score_file(scorer, groups(), tmp_path / "rows.jsonl")
    with pytest.raises(ConfigError, match="is of other model; --overwrite starts again"):
        score_file(scorer, groups(), tmp_path / "rows.jsonl", resume=True, identity={"model": "b"})
    counts = score_file(scorer, groups(), tmp_path / "rows.jsonl", overwrite=True, identity={"model": "b"})
    assert counts["resumed_groups"] == 0
    assert [f.name for f in tmp_path.iterdir()] == ["rows.jsonl"]


def test_interrupt_says_how_to_go_on(scorer, tmp_path):
    class Interrupts:
        def score(self, some):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="go on with --resume"):
        score_file(Interrupts(), groups(), tmp_path / "rows.jsonl")


def test_rewards_are_read_back_from_rows(scorer, tmp_path):
    score_file(scorer, groups(), tmp_path / "rows.jsonl")
    read_back = read_rewards(tmp_path / "rows.jsonl")
    assert all(a.tolist() == s.rewards.tolist() for a, s in zip(read_back, scorer.score(groups()), strict=True))


def test_group_that_cannot_be_rendered_keeps_its_rows_with_the_reason(tmp_path):
    template = CHAT_TEMPLATE.replace(
        "{% for m in messages %}",
        "{% for m in messages %}{% if 'BAD' in m['content'] %}{{ raise_exception('no') }}{% endif %}",
    )
    scorer = ModelScorer(RewardModel(tiny_trunk()), Renderer(tiny_tokenizer(template)))
    bad = Group(
        prompt=(Message("user", "BAD"),), responses=((Message("assistant", "a"),), (Message("assistant", "b"),))
    )
    good = groups(1)[0]
    counts = score_file(scorer, [bad, good], tmp_path / "rows.jsonl")
    rows = read(tmp_path / "rows.jsonl")
    assert counts["unscored"] == 1
    assert [r["reward"] is None for r in rows] == [True, True, False]
    assert "no" in rows[0]["error"]


def test_truncation_is_flagged_in_the_row():
    scorer = ModelScorer(RewardModel(tiny_trunk()), Renderer(tiny_tokenizer(), RenderConfig(max_length=20)))
    group = Group(
        prompt=(Message("user", "long " * 9),),
        responses=((Message("assistant", "a"),), (Message("assistant", "b" * 40),)),
    )
    (scores,) = scorer.score([group])
    assert scores.truncated == ("prompt", "response")
    assert max(scores.n_tokens) == 20


def test_function_scorer_reads_texts():
    scorer = FunctionScorer(lambda prompt, response: len(response))
    (scores,) = scorer.score([groups()[1]])
    assert scores.rewards.tolist() == [len("answer 1 " * 2), len("answer 1 " * 3)]
    assert isinstance(scores, Scores)
    assert all(math.isfinite(r) for r in scores.rewards)


@pytest.mark.parametrize("name", ["rows.txt", "rows", "rows.csv"])
def test_unknown_format_is_refused(scorer, tmp_path, name):
    with pytest.raises(ConfigError, match=r"name it \.jsonl"):
        score_file(scorer, groups(1), tmp_path / name)


def test_existing_output_is_kept(scorer, tmp_path):
    (tmp_path / "rows.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        score_file(scorer, groups(1), tmp_path / "rows.jsonl")
    assert (tmp_path / "rows.jsonl").read_text() == "mine"


def test_members_are_served_and_aggregated_centred_on_the_prompt():
    torch.manual_seed(1)
    models, renderer = [RewardModel(tiny_trunk(seed=i)) for i in range(3)], Renderer(tiny_tokenizer())
    plain = ModelScorer(models, renderer).score(groups())
    lower = ModelScorer(models, renderer, reading=Reading(aggregate="lower-bound", strength=2, temperature=3)).score(
        groups()
    )
    for a, b in zip(plain, lower, strict=True):
        assert a.members.shape == (3, len(a.rewards))
        assert a.rewards == pytest.approx(a.members.mean(axis=0))
        centred = a.members - a.members.mean(axis=1, keepdims=True)
        assert b.rewards == pytest.approx(a.rewards - 2 * centred.std(axis=0, ddof=1))
        assert b.calibrated is None  # the temperature was fitted to the mean
    alone = ModelScorer(models[0], renderer).score(groups()[:1])[0]
    assert alone.members is None
    with pytest.raises(ConfigError, match="a single reward model"):
        ModelScorer(models[0], renderer, reading=Reading(aggregate="min"))


def test_features_are_what_the_head_reads_and_the_uncertainty_is_of_them(scorer):
    some = groups()
    features = scorer.features(some)
    head = scorer.models[0].value_head.weight.detach()[0].double().numpy()
    for found, scores in zip(features, scorer.score(some), strict=True):
        assert found @ head == pytest.approx(scores.rewards, abs=1e-5)
    posterior, _ = fit_laplace(np.random.default_rng(0).normal(size=(9, 32)), head, np.zeros(32), prior=1.0)
    unsure = ModelScorer(scorer.models, scorer.renderer, tokens_per_batch=60, uncertainty=posterior)
    for found, scores in zip(features, unsure.score(some), strict=True):
        assert scores.std == pytest.approx(posterior.std(found), abs=1e-6)


@pytest.mark.parametrize("seeds", [[0], [0, 1]], ids=["a model of the padded path", "an ensemble"])
def test_features_are_those_of_the_first_model(seeds):
    models = [RewardModel(tiny_trunk("mamba", seed=seed)) for seed in seeds]
    scorer = ModelScorer(models, Renderer(tiny_tokenizer()), tokens_per_batch=60)
    for found, scores in zip(scorer.features(groups()), scorer.score(groups()), strict=True):
        wanted = scores.rewards if scores.members is None else scores.members[0]
        assert found @ models[0].head() == pytest.approx(wanted, abs=1e-5)


def test_parts_with_other_tokens_are_one_ensemble():
    other = CHAT_TEMPLATE.replace("'</s>'", "'!</s>'")
    single = [
        ModelScorer(RewardModel(tiny_trunk(seed=i)), Renderer(tiny_tokenizer(t)))
        for i, t in enumerate((other, CHAT_TEMPLATE))
    ]
    pair = ModelScorer([RewardModel(tiny_trunk(seed=i)) for i in (2, 3)], Renderer(tiny_tokenizer()))
    joint = JointScorer([(single[0], [1]), (pair, [3, 0]), (single[1], [2])], Reading(offsets=(1.0, 2.0, 3.0, 4.0)))
    for i, scores in enumerate(joint.score(groups())):
        (by_pair,) = pair.score([groups()[i]])
        alone = [s.score([groups()[i]])[0].rewards for s in single]
        wanted = np.stack([by_pair.members[1], alone[0], alone[1], by_pair.members[0]])
        assert scores.members == pytest.approx(wanted, abs=1e-5)
        assert scores.rewards == pytest.approx(wanted.mean(axis=0), abs=1e-5)
        assert scores.std == pytest.approx((wanted - np.arange(1, 5)[:, None]).std(axis=0, ddof=1), abs=1e-5)
    assert joint.report.groups == 11


def test_what_one_member_cannot_read_has_no_reward():
    refuses = CHAT_TEMPLATE.replace(
        "{% for m in messages %}",
        "{% for m in messages %}{% if 'q' * 8 in m['content'] %}{{ raise_exception('no') }}{% endif %}",
    )
    parts = [ModelScorer(RewardModel(tiny_trunk()), Renderer(tiny_tokenizer(t))) for t in (CHAT_TEMPLATE, refuses)]
    found = JointScorer([(parts[0], [0]), (parts[1], [1])], Reading()).score(groups())
    assert [bool(s.error) for s in found] == ["q" * 8 in g.prompt[0].content for g in groups()]
    assert all(np.isnan(s.rewards).all() == bool(s.error) for s in found)
