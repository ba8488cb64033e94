"""Messages to tokens: templates, shared prefixes, and what happens to input that is too long."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.errors import ConfigError, DataError, ModelError
from rewardsmith.text.render import (
    Encoded,
    RenderConfig,
    Renderer,
    common_prefix_length,
    fold_system,
    pin_date,
    plain_template,
)
from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer


def group(prompt: str = "hi there", *answers: str, system: str = "") -> Group:
    turns = [Message("system", system)] if system else []
    return Group(
        prompt=(*turns, Message("user", prompt)),
        responses=tuple((Message("assistant", a),) for a in answers or ("yes", "no way")),
        preferences=(Preference(chosen=0, rejected=1),) if len(answers) != 1 else (),
    )


def decoded(renderer: Renderer, item: Encoded) -> list[str]:
    return [renderer.tokenizer.decode(row) for row in item.token_ids]


def test_tokens_are_the_template_over_prompt_and_response():
    renderer = Renderer(tiny_tokenizer())
    (item,) = renderer.encode([group()])
    assert decoded(renderer, item) == [
        "<|user|>hi there</s><|assistant|>yes</s>",
        "<|user|>hi there</s><|assistant|>no way</s>",
    ]
    whole = renderer.tokenizer("<|user|>hi there</s><|assistant|>yes</s>", add_special_tokens=False)["input_ids"]
    assert item.token_ids[0].tolist() == whole


def test_prefix_is_what_all_responses_share():
    renderer = Renderer(tiny_tokenizer())
    (item,) = renderer.encode([group("q", "abc", "abd", "x")])
    heads = {tuple(row[: item.prefix_length]) for row in item.token_ids}
    assert len(heads) == 1
    assert renderer.tokenizer.decode(item.token_ids[0][: item.prefix_length]) == "<|user|>q</s><|assistant|>"
    assert item.n_tokens == item.prefix_length + sum(len(r) - item.prefix_length for r in item.token_ids)


def test_prefix_leaves_every_row_a_token_of_its_own():
    assert common_prefix_length([[1, 2, 3], [1, 2, 3, 4]]) == 2
    assert common_prefix_length([[1, 2], [1, 2]]) == 1
    assert common_prefix_length([[5]]) == 0
    assert common_prefix_length([[1], [2, 3]]) == 0


def test_multi_turn_and_tool_turns_are_rendered():
    renderer = Renderer(tiny_tokenizer())
    item = Group(
        prompt=(Message("system", "be kind"), Message("user", "a"), Message("assistant", "b"), Message("user", "c")),
        responses=((Message("assistant", "call"), Message("tool", "42"), Message("assistant", "d")),),
    )
    text = decoded(renderer, renderer.encode([item])[0])[0]
    assert text.startswith("<|system|>be kind</s><|user|>a</s><|assistant|>b</s><|user|>c</s><|assistant|>call</s>")
    assert text.endswith("42</s><|assistant|>d</s>")


class TestOverlong:
    def limits(self, **changes) -> Renderer:
        return Renderer(tiny_tokenizer(), RenderConfig(**{"max_length": 24, **changes}))

    def test_prompt_loses_its_oldest_tokens_and_the_answer_stays_whole(self):
        renderer = self.limits()
        (item,) = renderer.encode([group("a long prompt " * 4, "answer", "other one")])
        assert max(map(len, item.token_ids)) == 24
        texts = decoded(renderer, item)
        assert texts[0].endswith("<|assistant|>answer</s>")
        assert texts[1].endswith("<|assistant|>other one</s>")
        assert item.truncated == ("prompt", "prompt")
        assert renderer.report.prompts_cut == 1
        # the same prompt for both responses, or the comparison would not be fair
        assert (item.token_ids[0][: item.prefix_length] == item.token_ids[1][: item.prefix_length]).all()

    def test_answer_that_is_too_long_alone_keeps_its_end_and_is_flagged(self):
        renderer = self.limits()
        (item,) = renderer.encode([group("q", "x" * 60 + "END", "short")])
        assert item.truncated == ("response", "prompt")
        assert len(item.token_ids[0]) == 24
        assert decoded(renderer, item)[0].endswith("END</s>")
        assert decoded(renderer, item)[1].endswith("short</s>")
        assert renderer.report.responses_cut == 1

    def test_one_response_alone_is_cut_like_one_of_two(self):
        template = "{{ bos_token }}" + CHAT_TEMPLATE
        renderer = Renderer(tiny_tokenizer(template), RenderConfig(max_length=24))
        prompt = "a long prompt " * 4
        (alone,) = renderer.encode([group(prompt, "answer")])
        (both,) = renderer.encode([group(prompt, "answer", "b")])
        assert alone.truncated == ("prompt",)
        assert alone.token_ids[0][0] == renderer.tokenizer.bos_token_id
        assert alone.token_ids[0].tolist() == both.token_ids[0].tolist()

    def test_common_beginning_of_the_answers_is_not_the_prompt(self):
        renderer = self.limits()
        (item,) = renderer.encode([group("q", "the same words first, A" + "x" * 9, "the same words first, B")])
        assert item.truncated == ("response", "prompt")
        assert decoded(renderer, item)[1].endswith("the same words first, B</s>")

    def test_drop_names_the_group(self):
        renderer = self.limits(overlong="drop")
        long = group("a long prompt " * 4)
        assert [item.group for item in renderer.encode([group(), long])] == [group()]
        (dropped,) = renderer.report.dropped
        assert dropped["group"] == long.id
        assert "more than --max-length 24" in dropped["reason"]

    def test_error_stops_with_the_numbers(self):
        with pytest.raises(DataError, match=r"tokens, more than --max-length 24"):
            self.limits(overlong="error").encode([group("a long prompt " * 4)])

    def test_max_response_length_cuts_the_content_and_keeps_the_template_whole(self):
        renderer = Renderer(tiny_tokenizer(), RenderConfig(max_response_length=5))
        (item,) = renderer.encode([group("q", "abcdefghij", "abc")])
        assert decoded(renderer, item) == ["<|user|>q</s><|assistant|>abcde</s>", "<|user|>q</s><|assistant|>abc</s>"]
        assert item.truncated == ("response", "")
        assert renderer.report.responses_cut == 1

    def test_first_special_token_survives_a_cut(self):
        template = "{{ bos_token }}" + CHAT_TEMPLATE
        renderer = Renderer(tiny_tokenizer(template), RenderConfig(max_length=24))
        (item,) = renderer.encode([group("a long prompt " * 4)])
        assert item.token_ids[0][0] == renderer.tokenizer.bos_token_id
        assert renderer.contract.bos_in_text


class TestTemplates:
    def test_a_tokenizer_without_one_gets_the_stated_plain_template(self):
        tokenizer = tiny_tokenizer(None)
        renderer = Renderer(tokenizer)
        assert renderer.contract.template_origin == "plain"
        assert renderer.text((Message("user", "a"),), (Message("assistant", "b"),)) == "User: a\n\nAssistant: b</s>"
        assert tokenizer.chat_template, "saved with the model, so that other tools render the same text"

    def test_plain_template_writes_the_tokenizers_own_special_tokens(self):
        from tokenizers.processors import TemplateProcessing

        tokenizer = tiny_tokenizer(None)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A <unk>", special_tokens=[("<s>", 1), ("<unk>", 3)]
        )
        tokenizer.chat_template = plain_template(tokenizer)
        text = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
        assert text == "<s>User: a<unk>"

    def test_date_is_pinned(self):
        template = "{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE
        renderer = Renderer(tiny_tokenizer(template))
        assert renderer.contract.date_pinned
        assert renderer.text((Message("user", "a"),), (Message("assistant", "b"),)).startswith("01 Jan 2025<|user|>")
        assert pin_date(renderer.tokenizer.chat_template) == renderer.tokenizer.chat_template

    def test_template_that_rewrites_earlier_turns_is_detected_and_still_encoded(self):
        template = (
            "{% set last = messages[-1]['content'] %}"
            "{% for m in messages %}<|{{ m['role'] }}|>{% if '<think>' in last and not loop.last %}[t]{% endif %}"
            "{{ m['content'] }}</s>{% endfor %}"
        )
        renderer = Renderer(tiny_tokenizer(template))
        assert renderer.contract.prompt_depends_on_answer
        (item,) = renderer.encode([group("q", "<think>a</think>b", "c")])
        assert decoded(renderer, item)[0].startswith("<|user|>[t]q")
        assert decoded(renderer, item)[1].startswith("<|user|>q")
        assert not Renderer(tiny_tokenizer()).contract.prompt_depends_on_answer

    @pytest.mark.parametrize("refuses", [True, False])
    def test_system_turn_is_folded_where_the_template_has_no_place_for_it(self, refuses):
        say = "{{ raise_exception('no system') }}" if refuses else ""
        template = (
            "{% for m in messages %}{% if m['role'] == 'system' %}" + say + "{% else %}"
            "<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endif %}{% endfor %}"
        )
        renderer = Renderer(tiny_tokenizer(template))
        assert renderer.contract.system_turns == "folded into the first user turn"
        (item,) = renderer.encode([group("q", "a", "b", system="be kind")])
        assert decoded(renderer, item)[0] == "<|user|>be kind\n\nq</s><|assistant|>a</s>"

    def test_refused_dialogue_is_dropped_with_the_templates_words(self):
        template = (
            "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
            "<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
        )
        renderer = Renderer(tiny_tokenizer(template))
        bad = Group(prompt=(Message("tool", "x"),), responses=((Message("assistant", "a"),),))
        kept = renderer.encode([group(), bad, group("other")])
        assert [item.group.prompt[0].content for item in kept] == ["hi there", "other"]
        assert "no tools here" in renderer.report.dropped[0]["reason"]

    def test_template_variables_of_the_group_reach_the_template(self):
        renderer = Renderer(tiny_tokenizer("{{ mood }}" + CHAT_TEMPLATE))
        item = Group(
            prompt=(Message("user", "q"),), responses=((Message("assistant", "a"),),), template_kwargs={"mood": "ok"}
        )
        assert decoded(renderer, renderer.encode([item])[0])[0].startswith("ok<|user|>")


def test_contract_names_the_template_by_hash():
    one, other = Renderer(tiny_tokenizer()), Renderer(tiny_tokenizer(CHAT_TEMPLATE + " "))
    assert len(one.contract.template_sha256) == 64
    assert one.contract.template_sha256 != other.contract.template_sha256


def test_contract_names_the_vocabulary_by_hash():
    words = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    vocabulary = words["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(words)), pad_token="<pad>")
    one = Renderer(tiny_tokenizer()).contract
    assert one.vocabulary_sha256 != Renderer(other).contract.vocabulary_sha256
    assert one == Renderer(tiny_tokenizer()).contract


def test_fingerprint_depends_on_the_tokens():
    renderer = Renderer(tiny_tokenizer())
    a, b = renderer.encode([group("q", "a", "b")]), renderer.encode([group("q", "a", "c")])
    assert renderer.fingerprint(a) == renderer.fingerprint(renderer.encode([group("q", "a", "b")]))
    assert renderer.fingerprint(a) != renderer.fingerprint(b)


def test_stream_gives_what_one_call_gives():
    groups = [group(f"prompt {i}") for i in range(7)]
    renderer = Renderer(tiny_tokenizer())
    streamed = list(renderer.encode_stream(iter(groups), chunk=3))
    for a, b in zip(streamed, renderer.encode(groups), strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a.token_ids, b.token_ids, strict=True))


def test_fold_system_keeps_order_and_loses_nothing():
    turns = [Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("system", "t")]
    assert [(m.role, m.content) for m in fold_system(turns)] == [
        ("user", "s\n\nu"),
        ("assistant", "a"),
        ("user", "t"),
    ]


def test_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False
        chat_template = None

    with pytest.raises(ModelError, match="slow tokenizer"):
        Renderer(Slow())  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"max_length": 3}, {"max_response_length": 0}])
def test_senseless_limits_are_refused(changes):
    with pytest.raises(ConfigError):
        RenderConfig(**changes)
