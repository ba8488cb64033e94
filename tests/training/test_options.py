"""Options against hacking, each trained on a tiny model with what it is about planted in the data."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.edits import PADDING
from rewardsmith.ensemble import join
from rewardsmith.errors import ConfigError, DataError, Interrupted, ModelError
from rewardsmith.losses import odin
from rewardsmith.model.artifact import load_reward_model
from rewardsmith.model.load import load_base
from rewardsmith.scorers import load_scorer
from rewardsmith.text.pack import pack, row_paths
from rewardsmith.text.render import RenderConfig, Renderer
from rewardsmith.training import loop
from rewardsmith.training.config import TrainConfig
from rewardsmith.training.loop import train
from rewardsmith.training.loss_config import LossConfig
from rewardsmith.training.sides import best_answers, text_of_batch, text_weight
from rewardsmith.training.teacher import chances, relabelled
from rewardsmith.training.twins import Twinned, with_twin
from tests.tiny import tiny_tokenizer, tiny_trunk

WORDS = ["red", "blue", "green", "one", "two", "three", "cat", "dog", "sun", "rain"]


def save_language_model(folder: Path, family: str = "llama", **changes) -> str:
    trunk = tiny_trunk(family, **changes)
    model = AutoModelForCausalLM.from_config(trunk.config)
    model.base_model.load_state_dict(trunk.state_dict())
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> str:
    return save_language_model(tmp_path_factory.mktemp("lm"), tie_word_embeddings=True)


def long_row(i: int) -> dict:
    """Words say which answer is better; in nine of ten pairs the better one is the longer one as well."""
    rng = random.Random(i)
    long, short = rng.randint(9, 14), rng.randint(2, 6)
    chosen, rejected = (long, short) if rng.random() < 0.9 else (short, long)
    return {"prompt": f"say {i}", "chosen": "red" + "." * chosen, "rejected": "dog" + "." * rejected}


def write(file: Path, rows: list[dict]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture
def config(tmp_path, model_folder) -> TrainConfig:
    return TrainConfig(
        data=(write(tmp_path / "train.jsonl", [long_row(i) for i in range(48)]),),
        model=model_folder,
        output=str(tmp_path / "rm"),
        batch_size=8,
        epochs=2,
        learning_rate=3e-3,
        device="cpu",
        precision="float32",
        token_cache=False,
        trunk_cache_gb=0,
    )


def lines(folder: str | Path) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "training_metrics.jsonl").read_text().splitlines()]


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def gradients(config: TrainConfig, step: int = 0) -> dict[str, torch.Tensor]:
    """The gradient of one step, before it is clipped."""
    run = loop.Run(config, quiet=True)
    found: dict[str, torch.Tensor] = {}

    def look() -> torch.Tensor:
        for kind, module in run.modules.items():
            found.update({f"{kind}/{n}": p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})
        return torch.zeros(())

    run._clip = look
    run._train_step(step, run._step_items(step))
    return found


def rewards_of(folder: str, groups: list[Group]) -> np.ndarray:
    return np.array([scores.rewards for scores in load_scorer(folder, device="cpu").score(groups)])


def one(prompt: str, *answers: str) -> Group:
    return Group(prompt=(Message("user", prompt),), responses=tuple((Message("assistant", a),) for a in answers))


EVERYTHING = LossConfig(odin=1.0, consistency=1.0, text_regularisation=0.1)
OPTIONS = {
    "odin": LossConfig(odin=1.0),
    "consistency": LossConfig(consistency=1.0),
    "text": LossConfig(text_regularisation=0.2),
    "flips": LossConfig(flip_rate=0.1),
    "unbiased": LossConfig(flip_rate=0.1, flip_correction="unbiased"),
    "everything": EVERYTHING,
}


@pytest.mark.parametrize("loss", OPTIONS.values(), ids=OPTIONS)
def test_the_gradient_of_a_step_does_not_depend_on_its_batches(config, loss):
    whole = gradients(replace(config, loss=loss))
    parts = gradients(replace(config, loss=loss, tokens_per_batch=64))
    assert whole.keys() == parts.keys()
    scale = max(g.abs().max() for g in whole.values())
    assert all((whole[n] - parts[n]).abs().max() < 1e-5 * scale for n in whole)
    assert ("sides/length_head.weight" in whole) == bool(loss.odin)


def test_a_step_with_everything_has_the_gradient_of_its_formula(config):
    """Written out for one batch, without the pieces that deal a step out to several."""
    config = replace(config, loss=EVERYTHING)
    run = loop.Run(config, quiet=True)
    items = run._step_items(0)
    groups = [item.group for item in items]
    model, sides, batch = run.models[0], run.sides[0], pack(items)
    features_RH = model.features(batch)
    quality_R, length_R = model.read(features_RH), sides.length_head(features_RH)[:, 0]
    loss, squared, spread = torch.zeros(3)
    own, logs, group_R, nll = 0, [], [], []
    for g, item in enumerate(items):
        ((a, b),) = item.group.twins if isinstance(item.group, Twinned) else ((0, 0),)
        squared = squared + (quality_R[own + a] - quality_R[own + b]) ** 2 / sum(isinstance(x, Twinned) for x in groups)
        spread = spread + (quality_R[own] - quality_R[own + 1]) ** 2 / 2 / len(groups)
        gap = (quality_R + length_R)[own] - (quality_R + length_R)[own + 1]
        loss = loss + torch.nn.functional.softplus(-gap) / len(groups)
        start = run.starts[id(item)]
        logs += [np.log(len(ids) - start) for ids in item.token_ids]
        group_R += [g] * len(item.token_ids)
        row = torch.from_numpy(item.token_ids[0]).long()
        run.models[0]._use("padded")
        hidden = model.trunk(row[None], attention_mask=torch.ones_like(row)[None]).last_hidden_state[0]
        run.models[0]._use("packed")
        logits = hidden[start - 1 : -1] @ model.trunk.get_input_embeddings().weight.detach().T
        nll.append(torch.nn.functional.cross_entropy(logits, row[start:]))
        own += len(item.token_ids)
    first, second = odin(quality_R, length_R, torch.tensor(logs).float(), torch.tensor(group_R))
    overlap = torch.cosine_similarity(model.value_head.weight, sides.length_head.weight).abs()[0]
    loss = loss + torch.log(1 + squared / spread)
    (0.9 * (loss + first.abs() - second + overlap) + 0.1 * torch.stack(nll).mean()).backward()
    found = gradients(config)
    scale = max(g.abs().max() for g in found.values())
    for kind, module in (("model", model), ("sides", sides)):
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                assert (found[f"{kind}/{name}"] - parameter.grad).abs().max() < 1e-5 * scale, name


def test_options_that_are_off_change_no_bit(config, tmp_path, monkeypatch):
    """Nothing of theirs is touched, and the weights are those of a loop that has never heard of them."""
    train(replace(config, epochs=1), quiet=True)
    monkeypatch.setattr(loop, "make_sides", lambda models, base, config: [torch.nn.Module() for _ in models])
    monkeypatch.setattr(loop, "SideStep", None)
    train(replace(config, epochs=1, output=str(tmp_path / "again")), quiet=True)
    one, two = weights(config.output), weights(tmp_path / "again")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert set(lines(config.output)[0]) == {
        "step", "loss", "accuracy", "margin", "reward_mean", "grad_norm", "learning_rate", "tokens", "row_tokens",
    }  # fmt: skip


def test_a_run_with_everything_resumes_to_the_same_bits(config, tmp_path, monkeypatch):
    config = replace(config, loss=EVERYTHING, save_every=2)
    train(config, quiet=True)
    broken = replace(config, output=str(tmp_path / "broken"))
    step = loop.Run._train_step
    with monkeypatch.context() as patch:
        patch.setattr(
            loop.Run, "_train_step", lambda self, n, i: (step(self, n, i), setattr(self, "interrupted", n == 5))
        )
        with pytest.raises(Interrupted):
            train(broken, quiet=True)
    train(replace(broken, resume=True), quiet=True)
    one, two = weights(config.output), weights(broken.output)
    assert all(torch.equal(one[name], two[name]) for name in one)
    terms = {"length_correlation", "length_head_correlation", "consistency", "text_loss"}
    assert [x for x in lines(config.output) if terms <= set(x)] == lines(broken.output)


@pytest.mark.parametrize("changes", [{"members": 2, "train_layers": 1, "trunk_cache_gb": 0.1}, {"lora_rank": 2}])
def test_everything_goes_with_members_a_trunk_cache_and_adapters(config, tmp_path, monkeypatch, changes):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    meta = train(replace(config, loss=EVERYTHING, epochs=1, **changes), quiet=True)
    assert meta["parity"]["tolerance"] < 1e-4
    assert load_scorer(config.output, device="cpu").score([one("say", "a", "b")])[0].rewards.shape == (2,)


# -- ODIN -------------------------------------------------------------------------------------------------------------


def length_correlation(folder: str) -> float:
    """Of the reward with length, words alike."""
    groups = [one(f"say {i}", *("red" + "." * n for n in range(2, 15))) for i in range(100, 108)]
    rewards_GK = rewards_of(folder, groups)
    return float(np.mean([np.corrcoef(row, np.log(np.arange(2, 15) + 4))[0, 1] for row in rewards_GK]))


def test_odin_takes_length_out_of_what_is_served(config, tmp_path):
    config = replace(config, epochs=6)
    train(config, quiet=True)
    aside = replace(config, output=str(tmp_path / "odin"), loss=LossConfig(odin=1.0))
    train(aside, quiet=True)
    plain, odin = length_correlation(config.output), length_correlation(aside.output)
    assert plain > 0.5
    assert abs(odin) < 0.5 * plain
    last = lines(aside.output)[-1]
    assert abs(last["length_correlation"]) < 0.4 < last["length_head_correlation"]
    assert last["accuracy"] > 0.7, "both heads together still tell the labels"
    names = set(weights(aside.output))
    assert names == set(weights(config.output)), "the length head is left out"


def test_odin_serves_encoders(config, tmp_path):
    tiny_trunk("bert").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    short = replace(config, model=str(tmp_path / "bert"), render=RenderConfig(max_length=200), epochs=1)
    meta = train(replace(short, loss=LossConfig(odin=1.0)), quiet=True)
    assert meta["path"] == "padded"
    assert "length_head_correlation" in lines(config.output)[-1]


# -- consistency ------------------------------------------------------------------------------------------------------


def test_an_edit_is_one_more_answer_of_its_group():
    group = Group(
        prompt=(Message("user", "q"),),
        responses=tuple((Message("assistant", a),) for a in ("Paris is the capital.", "London, of course.")),
        preferences=(Preference(chosen=0, rejected=1),),
        ratings=(1.0, 0.0),
    )
    found = [with_twin(replace(group, id=str(i)), ["padding", "bold"], 0) for i in range(40)]
    assert {kind for _, kind in found} == {"padding", "bold"}
    for edited, kind in found:
        assert isinstance(edited, Twinned)
        ((which, twin),) = edited.twins
        assert twin == 2
        assert edited.ratings == (1.0, 0.0, None)
        assert edited.preferences == group.preferences
        before, after = (edited.responses[i][0].content for i in (which, twin))
        assert after.startswith(before) if kind == "padding" else after.replace("**", "") == before
    assert {edited.twins[0][0] for edited, _ in found} == {0, 1}
    same, kind = with_twin(one("q", "   "), ["padding"], 0)
    assert (kind, type(same)) == ("", Group)


def test_an_answer_is_cut_before_it_is_edited(config, tmp_path, capsys):
    rows = [{"prompt": f"q {i}", "chosen": "yes " * 40, "rejected": "no " * 40} for i in range(16)]
    data = write(tmp_path / "long.jsonl", rows)
    options = replace(config, data=(data,), loss=LossConfig(consistency=1.0, consistency_kinds=("padding",)))
    run = loop.Run(replace(options, render=RenderConfig(max_response_length=20)))
    for item in run.train_data.encoded:
        which, twin = item.group.twins[0]
        assert len(item.token_ids[twin]) > len(item.token_ids[which]) + 50
        assert len(item.token_ids[which]) < 50
    assert run.renderer.report.responses_cut == 32
    assert "edits that should change nothing: 16 padding; 0 groups go without" in capsys.readouterr().err


def test_a_group_that_does_not_fit_with_its_edit_goes_without(config, tmp_path, capsys):
    rows = [{"prompt": f"q {i}", "chosen": "yes " * n, "rejected": "no"} for i, n in enumerate([2, 24] * 8)]
    options = replace(config, data=(write(tmp_path / "mixed.jsonl", rows),), epochs=1)
    loss = LossConfig(consistency=1.0, consistency_kinds=("padding", "restating"))
    for overlong in ("cut-prompt", "drop", "error"):
        run = loop.Run(replace(options, loss=loss, render=RenderConfig(max_length=230, overlong=overlong)))
        assert [item.group.prompt[0].content for item in run.train_data.encoded] == [f"q {i}" for i in range(16)]
        assert not run.train_data.left_out
        n_edited = sum(isinstance(item.group, Twinned) for item in run.train_data.encoded)
        assert 0 < n_edited < 16
        assert f"{16 - n_edited} groups go without" in capsys.readouterr().err
        assert run.renderer.report.groups == 16


@pytest.mark.parametrize(
    ("row", "loss", "said"),
    [
        ({"prompt": "q", "chosen": "  ", "rejected": ""}, LossConfig(consistency=1.0), "none of the edits applies"),
        (
            {"prompt": "q", "response": "yes, it is", "rating": 1.0},
            LossConfig(consistency=1.0, objective="none", regression=1.0),
            "no prompt has two answers",
        ),
    ],
)
def test_consistency_without_anything_to_hold_together_is_said(config, tmp_path, row, loss, said):
    data = write(tmp_path / "none.jsonl", [row | {"prompt": f"q {i}"} for i in range(4)])
    with pytest.raises(DataError, match=said):
        train(replace(config, data=(data,), loss=loss), quiet=True)


def test_consistency_takes_the_effect_of_padding_away(config, tmp_path):
    """Longer answers win in training, so that padding pays, unless it must not: in units of what words are worth."""
    config = replace(config, epochs=6)
    train(config, quiet=True)
    loss = LossConfig(consistency=1.0, consistency_kinds=("padding",))
    held = replace(config, output=str(tmp_path / "held"), loss=loss)
    train(held, quiet=True)
    texts = [f" {PADDING[i % 3]}" for i in range(12)]
    groups = [one(f"say {100 + i}", "red...", f"red...{t}", "dog...", f"dog...{t}") for i, t in enumerate(texts)]

    def effect(folder: str) -> float:
        red, red_padded, dog, dog_padded = rewards_of(folder, groups).mean(axis=0)
        return float((abs(red_padded - red) + abs(dog_padded - dog)) / (2 * (red - dog)))

    assert 0 < effect(held.output) < 0.5 * effect(config.output)
    assert lines(held.output)[-1]["consistency"] < lines(held.output)[0]["consistency"]


# -- text regularisation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_text_loss_is_that_of_the_language_model(config, tmp_path, family, tied):
    """By the whole model of transformers, row by row, without packing."""
    folder = save_language_model(tmp_path / "lm", family, tie_word_embeddings=tied)
    rows = [{"prompt": f"say {i}", "chosen": f"red {i}", "rejected": "dog"} for i in range(6)]
    data = write(tmp_path / "few.jsonl", rows)
    options = replace(config, data=(data,), model=folder, batch_size=6, epochs=1, render=RenderConfig(max_length=200))
    run = loop.Run(replace(options, loss=LossConfig(text_regularisation=0.5), warmup_ratio=0.0), quiet=True)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    losses = []
    for item in run.train_data.encoded:
        row = torch.from_numpy(item.token_ids[0]).long()
        begin = len(tiny_tokenizer()(f"<|user|>say {item.group.prompt[0].content[4:]}</s><|assistant|>")["input_ids"])
        logits = model(row[None]).logits[0, begin - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, row[begin:]).item())
    for module in run.models[0].modules():
        module.train(False)
    run._train_step(0, run._step_items(0))
    (line,) = run.meter.flush()
    assert line["text_loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_text_is_read_at_answers_of_the_best_alone(config):
    base = load_base(config.model)
    renderer = Renderer(base.tokenizer)
    ranked = replace(
        one("say it", "best one", "worst", "best two"),
        preferences=(Preference(chosen=0, rejected=1), Preference(chosen=2, rejected=1)),
    )
    nobody = replace(one("tie", "a", "b"), preferences=(Preference(chosen=0, rejected=1, probability=0.5),))
    assert best_answers(ranked, LossConfig()) == [0, 2]
    assert best_answers(nobody, LossConfig()) == []
    assert text_weight([ranked, nobody], LossConfig()) == 1.0
    items = renderer.encode([ranked, nobody])
    starts = renderer.prompt_lengths(items)
    batch, text = text_of_batch(items, pack(items), starts, 1.0, LossConfig())
    assert text.weight_N.sum().item() == pytest.approx(1.0)
    assert base.tokenizer.decode(text.next_N) == "best one</s>best two</s>"
    ahead = [path[p - 1] for path, p in zip(row_paths(batch)[:1], [starts[0]])]
    assert text.at_N[0].item() == ahead[0]
    assert set(text.at_N.tolist()) <= set(batch.layout.read_U.tolist())


def test_text_regularisation_keeps_the_language_model(config, tmp_path):
    rows = [{"prompt": f"say {w}", "chosen": f"{w} {w} {w}", "rejected": "z!"} for w in WORDS for _ in range(4)]
    config = replace(config, data=(write(tmp_path / "say.jsonl", rows),), epochs=6)
    train(replace(config, loss=LossConfig(text_regularisation=0.3)), quiet=True)
    curve = [line["text_loss"] for line in lines(config.output)]
    assert curve[-1] < 0.7 * curve[0]
    assert lines(config.output)[-1]["accuracy"] > 0.9


def test_what_has_no_head_that_writes_is_refused(config, tmp_path):
    train(replace(config, epochs=1), quiet=True)
    again = replace(config, model=config.output, output=str(tmp_path / "next"))
    with pytest.raises(ModelError, match="has no head that writes; start from a language model"):
        train(replace(again, loss=LossConfig(text_regularisation=0.1)), quiet=True)
    tiny_trunk("bert").save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match=r"language-model head is not|lack the weights"):
        train(replace(again, model=str(tmp_path / "bert"), loss=LossConfig(text_regularisation=0.1)), quiet=True)
    for loss in (LossConfig(odin=1.0), LossConfig(text_regularisation=0.1)):
        with pytest.raises(ConfigError, match="--shard does not go with"):
            replace(config, shard=True, loss=loss)


# -- flipped labels ---------------------------------------------------------------------------------------------------


def test_a_quarter_of_flipped_labels_costs_less_with_their_rate(config, tmp_path):
    """By the size of the reward gap: flips shrink it, and their likelihood does not."""
    rng = random.Random(0)
    rows = []
    for i in range(96):
        sides = ["red" + "." * (i % 3), "dog" + "." * (i % 4)]
        chosen, rejected = sides[::-1] if rng.random() < 0.25 else sides
        rows.append({"prompt": f"say {i}", "chosen": chosen, "rejected": rejected})
    config = replace(config, data=(write(tmp_path / "noisy.jsonl", rows),), epochs=3)
    groups = [one(f"say {i}", "red..", "dog..") for i in range(8)]
    gaps = {}
    for name, loss in {"plain": LossConfig(), **{k: OPTIONS[k] for k in ("flips", "unbiased")}}.items():
        loss = replace(loss, flip_rate=0.25) if loss.flip_rate else loss
        train(replace(config, output=str(tmp_path / name), loss=loss), quiet=True)
        rewards_GK = rewards_of(str(tmp_path / name), groups)
        gaps[name] = float((rewards_GK[:, 0] - rewards_GK[:, 1]).mean())
    assert gaps["plain"] > 0
    assert gaps["flips"] > 1.3 * gaps["plain"]
    assert gaps["unbiased"] > 1.3 * gaps["plain"]


# -- a teacher --------------------------------------------------------------------------------------------------------


def test_a_teachers_probability_is_the_mean_of_its_members():
    group = replace(one("q", "a", "b"), preferences=(Preference(chosen=0, rejected=1, weight=2.0, margin=0.5),))

    class Known:
        rewards = np.array([1.0, 0.0])
        members = np.array([[2.0, 0.0], [0.0, 4.0]])

    chance_KK = chances(Known(), 2.0)
    mean = (1 / (1 + np.exp(-1.0)) + 1 / (1 + np.exp(2.0))) / 2
    assert chance_KK[0, 1] == pytest.approx(mean)
    assert chance_KK[0, 1] + chance_KK[1, 0] == pytest.approx(1.0)
    label = relabelled(group.preferences[0], chance_KK, 1.0)
    assert (label.chosen, label.rejected) == (1, 0), "turned round where the teacher says so"
    assert label.probability == pytest.approx(1 - mean, abs=1e-6)
    assert (label.weight, label.margin) == (2.0, 0.0), "a margin is of the order that it was stated with"
    assert relabelled(group.preferences[0], 1 - chance_KK, 1.0).margin == 0.5
    half = relabelled(group.preferences[0], chance_KK, 0.5)
    assert (half.chosen, half.probability) == (0, pytest.approx(0.5 + mean / 2, abs=1e-6))
    tie = Preference(chosen=0, rejected=1, probability=0.5)
    assert relabelled(tie, chance_KK, 1.0) is tie


def test_a_student_learns_from_an_ensemble_without_labels(config, tmp_path, capsys):
    rows = [
        {"prompt": f"say {i}", "chosen": "red" + "." * (i % 5), "rejected": "dog" + "." * (i % 4)} for i in range(48)
    ]
    config = replace(config, data=(write(tmp_path / "clear.jsonl", rows),), epochs=3)
    for seed in (0, 1):
        train(replace(config, output=str(tmp_path / f"t{seed}"), seed=seed), quiet=True)
    join([str(tmp_path / "t0"), str(tmp_path / "t1")], tmp_path / "teacher")
    bare = [{"id": str(i), "prompt": f"say {i}", "responses": [r["chosen"], r["rejected"]]} for i, r in enumerate(rows)]
    student = replace(
        config,
        data=(write(tmp_path / "bare.jsonl", bare),),
        output=str(tmp_path / "s"),
        teacher=str(tmp_path / "teacher"),
    )
    with pytest.raises(DataError, match="nothing to train on"):
        train(replace(student, teacher=None), quiet=True)
    train(student)
    assert "teacher" in capsys.readouterr().err
    groups = [one(f"say {i}", "red..", "dog..") for i in range(100, 116)]
    gap_G = np.diff(rewards_of(student.output, groups), axis=1)[:, 0]
    assert (gap_G < 0).mean() > 0.9
    _, _, meta = load_reward_model(student.output)
    assert meta["config"]["teacher"] == student.teacher


def test_a_share_for_nobody_is_refused(config):
    with pytest.raises(ConfigError, match="--teacher-weight needs --teacher"):
        replace(config, teacher_weight=0.5)
    with pytest.raises(ConfigError, match=r"give a share in \(0, 1\]"):
        replace(config, teacher="t", teacher_weight=0.0)
