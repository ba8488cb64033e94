"""The saved folder: what other tools read from it, what is refused, and that it is never half there."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import ConfigError, ModelError
from rewardsmith.model.artifact import (
    PROBE,
    export_reward_model,
    load_reward_model,
    replacing,
    save_reward_model,
    stock_classifier,
)
from rewardsmith.model.load import load_base
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scorers import ModelScorer
from rewardsmith.text.render import RenderConfig, Renderer
from tests.tiny import DECODERS, tiny_tokenizer, tiny_trunk

GROUPS = [
    Group(prompt=(Message("user", f"question {i}"),), responses=tuple((Message("assistant", "a" * k),) for k in (2, 9)))
    for i in range(5)
]


def saved(folder, family: str = "llama", **options):
    torch.manual_seed(3)
    model = RewardModel(tiny_trunk(family)).eval()
    renderer = Renderer(tiny_tokenizer(), RenderConfig(max_length=64))
    meta = save_reward_model(model, renderer, folder, probe=renderer.encode(GROUPS), **options)
    return model, renderer, meta


@pytest.mark.parametrize("family", sorted(DECODERS))
def test_reloaded_rewards_are_the_same_in_transformers_and_here(tmp_path, family):
    model, renderer, meta = saved(tmp_path / "rm", family)
    assert meta["parity"]["n_rows"] == 10
    assert meta["parity"]["reward_spread"] > 0.01
    assert meta["parity"]["tolerance"] < 1e-5
    again, again_renderer, _ = load_reward_model(str(tmp_path / "rm"))
    before = [s.rewards.tolist() for s in ModelScorer(model, renderer).score(GROUPS)]
    after = [s.rewards.tolist() for s in ModelScorer(again, again_renderer).score(GROUPS)]
    assert all(a == pytest.approx(b, abs=1e-5) for a, b in zip(before, after, strict=True))


def test_folder_is_what_other_tools_expect(tmp_path):
    saved(tmp_path / "rm")
    config = json.loads((tmp_path / "rm" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["problem_type"] == "regression"
    assert list(config["id2label"]) == ["0"]
    assert config["pad_token_id"] == 0 != config["eos_token_id"]
    tensors = load_file(tmp_path / "rm" / "model.safetensors")
    assert tensors["score.weight"].shape == (1, 32)
    assert "score.bias" not in tensors
    assert not [f for f in (tmp_path / "rm").iterdir() if f.suffix in (".bin", ".pt", ".pkl")]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"], "version 4 of transformers reads it here"
    assert AutoTokenizer.from_pretrained(tmp_path / "rm").chat_template
    tokenizer = json.loads((tmp_path / "rm" / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    contract = json.loads((tmp_path / "rm" / "reward_model.json").read_text())["render"]
    assert contract["max_length"] == 64


def test_stock_pooling_agrees_under_right_padding_with_text_of_the_template(tmp_path):
    model, renderer, _ = saved(tmp_path / "rm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": "a" * k}], tokenize=False
        )
        for i in range(5)
        for k in (2, 9)
    ]
    with torch.no_grad():
        logits = stock(**tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)).logits[:, 0]
    ours = [r for s in ModelScorer(model, renderer).score(GROUPS) for r in s.rewards]
    assert logits.tolist() == pytest.approx(ours, abs=1e-5)


def test_existing_head_is_kept_and_never_made_up(tmp_path):
    model, _, _ = saved(tmp_path / "rm")
    base = load_base(str(tmp_path / "rm"))
    assert torch.equal(base.head, model.value_head.weight)
    language_model = AutoModelForCausalLM.from_config(tiny_trunk().config)
    language_model.save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    with pytest.raises(ModelError, match="no reward head; train one with"):
        load_reward_model(str(tmp_path / "lm"))


def test_changed_template_is_refused(tmp_path):
    saved(tmp_path / "rm")
    file = tmp_path / "rm" / "chat_template.jinja"
    file.write_text(file.read_text() + "!")
    with pytest.raises(ModelError, match="chat template is not the one"):
        load_reward_model(str(tmp_path / "rm"))


def test_export_to_bfloat16_states_how_far_rewards_moved(tmp_path):
    saved(tmp_path / "rm")
    meta = export_reward_model(str(tmp_path / "rm"), str(tmp_path / "half"))
    tensors = load_file(tmp_path / "half" / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    moved = meta["parity"]["max_difference"]["reloaded"]
    assert 0 < moved < 0.1
    assert meta["parity"]["n_rows"] == sum(len(g.responses) for g in PROBE)


def test_encoder_artifact_loads_in_transformers(tmp_path):
    _, _, meta = saved(tmp_path / "rm", "bert")
    assert meta["pooling"] == "cls"
    assert meta["path"] == "padded"
    assert meta["parity"]["max_difference"]["reloaded"] < 1e-5


def test_lora_is_merged_for_the_artifact(tmp_path):
    from rewardsmith.training.config import TrainConfig
    from rewardsmith.training.optim import choose_parameters

    model = RewardModel(tiny_trunk())
    choose_parameters(model, TrainConfig(data=("x",), model="x", output="x", lora_rank=2), seed=0)
    assert model.value_head.weight.requires_grad, "the head is always trained"
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert all("lora" in n or n == "value_head.weight" for n in trained)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    renderer = Renderer(tiny_tokenizer())
    meta = save_reward_model(model.eval(), renderer, tmp_path / "rm", probe=renderer.encode(GROUPS))
    assert not [n for n in load_file(tmp_path / "rm" / "model.safetensors") if "lora" in n]
    again, again_renderer, _ = load_reward_model(str(tmp_path / "rm"))
    unmerged = [r for s in ModelScorer(model, renderer).score(GROUPS) for r in s.rewards]
    merged = [r for s in ModelScorer(again, again_renderer).score(GROUPS) for r in s.rewards]
    assert merged == pytest.approx(unmerged, abs=1e-4)
    assert meta["parity"]["tolerance"] < 1e-4


class TestNothingHalf:
    def test_failure_leaves_neither_the_folder_nor_its_draft(self, tmp_path):
        def fail() -> None:
            with replacing(tmp_path / "rm") as folder:
                (folder / "part").write_text("x")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert list(tmp_path.iterdir()) == []

    def test_existing_folder_is_replaced_only_when_asked(self, tmp_path):
        (tmp_path / "rm").mkdir()
        (tmp_path / "rm" / "mine").write_text("x")
        with pytest.raises(ConfigError, match="not empty"):
            replacing(tmp_path / "rm")
        with replacing(tmp_path / "rm", overwrite=True) as folder:
            (folder / "new").write_text("y")
            assert (tmp_path / "rm" / "mine").exists()
        assert [f.name for f in (tmp_path / "rm").iterdir()] == ["new"]
        assert [f.name for f in tmp_path.iterdir()] == ["rm"]


class TestBadModels:
    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("/no/such/folder", "does not exist"),
            ("gguf:/no/such.gguf", "does not exist"),
            ("gguf:.", "0 .gguf files"),
        ],
    )
    def test_missing(self, name, found, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelError, match=found):
            load_base(name)

    def test_folder_without_config_and_plain_file(self, tmp_path):
        with pytest.raises(ModelError, match=r"no config\.json"):
            load_base(str(tmp_path))
        (tmp_path / "x.gguf").write_text("junk")
        with pytest.raises(ModelError, match="gguf:"):
            load_base(str(tmp_path / "x.gguf"))
        with pytest.raises(ModelError, match="cannot load model"):
            load_base(f"gguf:{tmp_path / 'x.gguf'}")

    def test_damaged_weights(self, tmp_path):
        saved(tmp_path / "rm")
        file = tmp_path / "rm" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(ModelError, match="cannot load model"):
            load_base(str(tmp_path / "rm"))

    def test_damaged_or_newer_metadata(self, tmp_path):
        saved(tmp_path / "rm")
        file = tmp_path / "rm" / "reward_model.json"
        file.write_text("{")
        with pytest.raises(ModelError, match="cannot be read"):
            load_reward_model(str(tmp_path / "rm"))
        file.write_text('{"format": 99}')
        with pytest.raises(ModelError, match="upgrade rewardsmith"):
            load_reward_model(str(tmp_path / "rm"))

    def test_architecture_without_a_classifier(self, tmp_path):
        with pytest.raises(ModelError, match="no sequence classifier"):
            stock_classifier(RewardModel(tiny_trunk("mamba")))
        shutil.rmtree(tmp_path)


def test_pad_becomes_distinct_from_eos(tmp_path):
    language_model = AutoModelForCausalLM.from_config(tiny_trunk().config)
    language_model.save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    base = load_base(str(tmp_path))
    assert base.tokenizer.pad_token_id not in (base.tokenizer.eos_token_id, base.tokenizer.bos_token_id)
    assert base.trunk.config.pad_token_id == base.tokenizer.pad_token_id
    assert any("pad token set" in note for note in base.notes)


def test_several_eos_ids_are_all_kept_apart_from_pad(tmp_path):
    config = tiny_trunk(eos_token_id=[2, 5]).config
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = "<|assistant|>"  # id 5: the second eos
    tokenizer.save_pretrained(tmp_path)
    assert load_base(str(tmp_path)).tokenizer.pad_token_id not in (2, 5)


def test_weights_that_the_files_lack_are_not_filled_in_at_random(tmp_path):
    from safetensors.torch import save_file

    saved(tmp_path / "rm")
    file = tmp_path / "rm" / "model.safetensors"
    tensors = load_file(file)
    for lost in ("score.weight", "model.layers.1.mlp.up_proj.weight"):
        save_file({k: v for k, v in tensors.items() if k != lost}, file, metadata={"format": "pt"})
        with pytest.raises(ModelError, match="lack the weights .*" + lost.removeprefix("model.")):
            load_base(str(tmp_path / "rm"))


def test_classifier_with_a_layer_before_its_head_is_refused(tmp_path):
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(vocab_size=120, dim=16, hidden_dim=16, n_layers=1, n_heads=2, num_labels=1)
    DistilBertForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="layers between trunk and head"):
        load_base(str(tmp_path))


def test_adapter_alone_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="PEFT adapter alone"):
        load_base(str(tmp_path))
