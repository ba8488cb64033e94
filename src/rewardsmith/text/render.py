"""Messages become tokens here and nowhere else.

A `Renderer` owns a tokenizer, the chat template and the policy for over-long input. Training, scoring and
serving all call `encode`, and the `RenderContract` that travels with an artifact says what it did, so that
the same group has the same tokens next year.

What is decided here:
- The text is the chat template over prompt + response, tokenised as a whole without further special tokens.
  The reward is read at the last token of that text, which is also where transformers, TRL and vLLM read it.
- A tokenizer without a template gets `plain_template`, built from its own special tokens.
- A template that asks for today's date gets a fixed one: a reward must not change overnight.
- A template that refuses or ignores system turns gets them folded into the first user turn.
- The end of an answer is never cut to fit `max_length`: the oldest tokens of the prompt go first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rewardsmith.data.schema import Group, Message, Messages
from rewardsmith.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIXED_DATES = {"%d %b %Y": "01 Jan 2025", "%d %B %Y": "01 January 2025", "%B %d, %Y": "January 01, 2025"}
PROBE = "zqxv"  # unlikely to be part of any template's own words


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """How long an input may be, and what happens to a longer one."""

    max_length: int = 1024
    """Most tokens of prompt + answer. A longer one loses the oldest tokens of its prompt (counted and flagged)."""
    max_response_length: int | None = None
    """Cut every answer after this many tokens before rendering (counted and flagged). Off by default."""
    overlong: Literal["cut-prompt", "drop", "error"] = "cut-prompt"
    """What to do with a group that is longer than max_length: cut its prompt, leave the group out, or stop."""

    def __post_init__(self) -> None:
        if self.max_length < 8:
            raise ConfigError(f"--max-length {self.max_length}: give at least 8 tokens")
        if self.max_response_length is not None and self.max_response_length < 1:
            raise ConfigError(f"--max-response-length {self.max_response_length}: give at least 1 token")


@dataclass(frozen=True, kw_only=True)
class RenderContract:
    """What a reader of the artifact must do to get the same tokens.

    vocabulary_sha256  of the tokenizer's words and their numbers, without what was added to it
    """

    template_sha256: str
    vocabulary_sha256: str
    template_origin: Literal["tokenizer", "plain"]
    max_length: int
    max_response_length: int | None
    truncation: str
    pooled_token: str = "the last token of the rendered text"
    add_special_tokens: bool = False
    date_pinned: bool = False
    system_turns: Literal["kept", "folded into the first user turn"] = "kept"
    prompt_depends_on_answer: bool = False
    pad_token: str | None = None
    bos_in_text: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Encoded:
    """The tokens of one group.

    token_ids      K int32 arrays: prompt + response, as the model reads them
    prefix_length  how many leading tokens all K have in common (each keeps at least one of its own)
    truncated      K flags: "" (whole), "prompt" (its oldest tokens cut), "response" (the answer itself was cut)
    """

    group: Group
    token_ids: tuple[np.ndarray, ...]
    prefix_length: int
    truncated: tuple[str, ...]

    @property
    def n_tokens(self) -> int:
        """Distinct tokens: the shared prefix once, and each response's own."""
        return self.prefix_length + sum(len(ids) - self.prefix_length for ids in self.token_ids)


@dataclass
class RenderReport:
    """What happened on the way from groups to tokens: filled while encoding goes on."""

    groups: int = 0
    prompts_cut: int = 0
    responses_cut: int = 0
    dropped: list[dict[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Renderer:
    """Turns groups into token ids by one template and one truncation policy.

    `tokenizer` is changed in place where it lacks a template or pins a date, so that saving it beside the
    weights gives other tools the same text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: RenderConfig | None = None) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(f"{type(tokenizer).__name__} is a slow tokenizer; a fast one (tokenizer.json) is needed")
        self.tokenizer = tokenizer
        self.config = config or RenderConfig()
        self.report = RenderReport()
        origin: Literal["tokenizer", "plain"] = "tokenizer" if tokenizer.chat_template else "plain"
        if not tokenizer.chat_template:
            tokenizer.chat_template = plain_template(tokenizer)
        if isinstance(tokenizer.chat_template, dict):  # several named templates: the default one is the contract
            tokenizer.chat_template = tokenizer.chat_template.get("default") or next(
                iter(tokenizer.chat_template.values())
            )
        date_pinned = "strftime_now" in tokenizer.chat_template
        if date_pinned:
            tokenizer.chat_template = pin_date(tokenizer.chat_template)
        self.folds_system = not self._keeps_system_turns()
        bos = tokenizer.bos_token
        sample = self.text(_turns(("user", "a")), _turns(("assistant", "b")))
        self.contract = RenderContract(
            template_sha256=hashlib.sha256(tokenizer.chat_template.encode()).hexdigest(),
            vocabulary_sha256=_vocabulary_sha256(tokenizer),
            template_origin=origin,
            max_length=self.config.max_length,
            max_response_length=self.config.max_response_length,
            truncation=self.config.overlong,
            date_pinned=date_pinned,
            system_turns="folded into the first user turn" if self.folds_system else "kept",
            prompt_depends_on_answer=self._prompt_depends_on_answer(),
            pad_token=tokenizer.pad_token,
            bos_in_text=bool(bos) and sample.startswith(bos),
        )

    # -- text ---------------------------------------------------------------------------------------------

    def text(self, prompt: Messages, response: Messages, group: Group | None = None) -> str:
        """The rendered dialogue. Raises DataError where the template refuses it."""
        messages = [*prompt, *response]
        if self.folds_system:
            messages = fold_system(messages)
        return self._apply([m.to_dict() for m in messages], group)

    def _apply(self, messages: list[dict[str, Any]], group: Group | None = None) -> str:
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                tools=[dict(tool) for tool in group.tools] if group is not None and group.tools else None,
                **(dict(group.template_kwargs) if group is not None else {}),
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise DataError(f"the chat template refuses the dialogue: {error}") from None
        assert isinstance(text, str)  # tokenize=False
        return text

    def _keeps_system_turns(self) -> bool:
        try:
            text = self._apply([{"role": "system", "content": PROBE}, {"role": "user", "content": "a"}])
        except DataError:
            return False
        return PROBE in text

    def _prompt_depends_on_answer(self) -> bool:
        """Whether the text before the answer differs between two answers (thinking templates do this)."""
        prompt = _turns(("user", "a"), ("assistant", f"<think>t</think>{PROBE}"), ("user", "b"))
        heads = set()
        for answer in ("x", "<think>\ny\n</think>\n\nx"):
            text = self.text(prompt, _turns(("assistant", answer)))
            heads.add(text[: text.rfind("b")])
        return len(heads) > 1

    # -- tokens -------------------------------------------------------------------------------------------

    def encode(self, groups: Sequence[Group]) -> list[Encoded]:
        """Tokenise groups; those left out (too long, refused by the template) are named in `report.dropped`."""
        kept: list[Group] = []
        texts: list[str] = []
        cut_flags: list[list[str]] = []
        for group in groups:
            self.report.groups += 1
            try:
                cut = [self._cut_response(response) for response in group.responses]
                texts += [self.text(group.prompt, response, group) for response, _ in cut]
            except DataError as error:
                self._drop(group, str(error))
                del texts[sum(len(g.responses) for g in kept) :]
                continue
            kept.append(group)
            cut_flags.append([flag for _, flag in cut])
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        encoded, start = [], 0
        for group, flags in zip(kept, cut_flags, strict=True):
            own = ids[start : start + len(group.responses)]
            start += len(group.responses)
            result = self._fit(group, own, flags)
            if result is not None:
                encoded.append(result)
        return encoded

    def encode_stream(self, groups: Iterator[Group], chunk: int = 256) -> Iterator[Encoded]:
        """`encode` over a stream, `chunk` groups at a time (the tokenizer is parallel inside a call)."""
        buffer: list[Group] = []
        for group in groups:
            buffer.append(group)
            if len(buffer) == chunk:
                yield from self.encode(buffer)
                buffer = []
        yield from self.encode(buffer)

    def _cut_response(self, response: Messages) -> tuple[Messages, str]:
        limit = self.config.max_response_length
        if limit is None:
            return response, ""
        last = response[-1]
        offsets = self.tokenizer(last.content, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if len(offsets) <= limit:
            return response, ""
        shorter = Message(last.role, last.content[: offsets[limit - 1][1]], last.extra)
        return (*response[:-1], shorter), "response"

    def _fit(self, group: Group, ids: list[list[int]], flags: list[str]) -> Encoded | None:
        """Apply max_length to one group. The prompt is cut by the same amount for all K responses."""
        if any(len(row) == 0 for row in ids):
            self._drop(group, "the rendered text has no token")
            return None
        limit = self.config.max_length
        prefix = common_prefix_length(ids)
        overflow = max(len(row) for row in ids) - limit
        if overflow > 0:
            if self.config.overlong == "error":
                raise DataError(
                    f"{group.source or group.id}: {limit + overflow} tokens, more than --max-length {limit}; "
                    "raise it, or let --overlong cut-prompt or drop handle it"
                )
            if self.config.overlong == "drop":
                self._drop(group, f"{limit + overflow} tokens, more than --max-length {limit}")
                return None
            # Position 0 stays when it is a special token: models lean on their first token (attention sink).
            head = 1 if ids[0][0] in self._first_specials() else 0
            cut = min(overflow, max(self._prompt_length(group, ids) - head, 0))
            ids = [row[:head] + row[head + cut :] for row in ids]
            prefix = max(prefix - cut, 0)
            flags = [flag or ("prompt" if cut else "") for flag in flags]
            for k, row in enumerate(ids):
                if len(row) > limit:  # the answer alone is too long: its beginning goes, its end stays
                    ids[k], flags[k] = row[:head] + row[head + len(row) - limit :], "response"
            prefix = min(prefix, common_prefix_length(ids))
            self.report.prompts_cut += int(cut > 0)
        self.report.responses_cut += flags.count("response")
        return Encoded(group, tuple(np.asarray(row, dtype=np.int32) for row in ids), prefix, tuple(flags))

    def prompt_lengths(self, encoded: Sequence[Encoded]) -> list[int]:
        """How many leading tokens of each group's rows are its prompt's. Where the prompt was cut, what all rows have
        in common stands for it: the same, if not all answers begin alike."""
        probe = (Message("assistant", PROBE),)
        texts = [self.text(item.group.prompt, probe, item.group) for item in encoded]
        others = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return [
            item.prefix_length if any(item.truncated) else min(_common(row, other) for row in item.token_ids)
            for item, other in zip(encoded, others, strict=True)
        ]

    def cut_answers(self, group: Group) -> tuple[Group, int]:
        """The group with its answers cut to `max_response_length`, as `encode` would cut them; how many were."""
        cut = [self._cut_response(response) for response in group.responses]
        n_cut = sum(flag == "response" for _, flag in cut)
        return replace(group, responses=tuple(response for response, _ in cut)), n_cut

    def _prompt_length(self, group: Group, ids: Sequence[Sequence[int]]) -> int:
        """How many leading tokens of every row are the prompt's: those that another answer would have too.

        The shared prefix is no measure of it: one response shares with nobody, and answers may begin alike.
        """
        other = self.text(group.prompt, (Message("assistant", PROBE),), group)
        other_ids = self.tokenizer(other, add_special_tokens=False)["input_ids"]
        return min(common_prefix_length([row, other_ids]) for row in ids)

    def _first_specials(self) -> set[int]:
        tokenizer = self.tokenizer
        return {i for i in (tokenizer.bos_token_id, tokenizer.cls_token_id) if i is not None}

    def _drop(self, group: Group, reason: str) -> None:
        self.report.dropped.append({"group": group.id, "source": group.source, "reason": reason})

    def fingerprint(self, encoded: Sequence[Encoded]) -> str:
        """A hash over the token ids: two runs that print the same one read the same tokens."""
        digest = hashlib.blake2b(digest_size=8)
        for item in encoded:
            for row in item.token_ids:
                digest.update(row.tobytes() + b"|")
        return digest.hexdigest()


def plain_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The stated template for a tokenizer that has none: "Role: text", blank lines between, then eos.

    The tokenizer's own leading and trailing special tokens ([CLS] .. [SEP], <s>) are written into it, so
    that the text is complete and nothing is added later.
    """
    bare = tokenizer("x", add_special_tokens=False)["input_ids"]
    full = tokenizer("x")["input_ids"]
    start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    before = tokenizer.convert_ids_to_tokens(full[:start])
    after = tokenizer.convert_ids_to_tokens(full[start + len(bare) :])
    if not after and tokenizer.eos_token:
        after = [tokenizer.eos_token]
    quote = {"before": "".join(before).replace("'", "\\'"), "after": "".join(after).replace("'", "\\'")}
    return (
        f"{{{{ '{quote['before']}' }}}}"
        "{% for message in messages %}"
        "{{ message['role'] | capitalize + ': ' + message['content'] }}"
        "{% if not loop.last %}{{ '\n\n' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n\nAssistant: ' }}{% else %}"
        f"{{{{ '{quote['after']}' }}}}"
        "{% endif %}"
    )


def pin_date(template: str) -> str:
    """Put a fixed date in front of a template that asks for today's."""
    if template.startswith("{%- macro strftime_now"):
        return template
    return (
        "{%- macro strftime_now(format) -%}"
        f"{{{{ {FIXED_DATES!r}.get(format, '2025-01-01') }}}}"
        "{%- endmacro -%}" + template
    )


def fold_system(messages: list[Message]) -> list[Message]:
    """System turns as the opening of the next user turn, for templates that have no system role."""
    folded: list[Message] = []
    pending = ""
    for message in messages:
        if message.role == "system":
            pending += message.content + "\n\n"
        elif message.role == "user" and pending:
            folded.append(Message("user", pending + message.content, message.extra))
            pending = ""
        else:
            folded.append(message)
    return folded if not pending else [*folded, Message("user", pending.strip())]


def common_prefix_length(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows share; at least one token of every row stays its own."""
    if len(rows) == 1:
        return 0  # nobody to share with
    limit = max(min(len(row) for row in rows) - 1, 0)
    heads_KL = np.array([row[:limit] for row in rows])
    differs_L = (heads_KL != heads_KL[0]).any(axis=0)
    return int(differs_L.argmax()) if differs_L.any() else limit


def _common(row: np.ndarray, other: Sequence[int]) -> int:
    """How many leading tokens of a row another one has too; at least one stays the row's own."""
    n = min(len(row) - 1, len(other))
    differs = row[:n] != np.asarray(other[:n])
    return int(differs.argmax()) if differs.any() else n


def _turns(*pairs: tuple[str, str]) -> Messages:
    return tuple(Message(role, content) for role, content in pairs)


def _vocabulary_sha256(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)  # not all of them are made by the tokenizers library
    words = tokenizer.get_vocab() if backend is None else backend.get_vocab(with_added_tokens=False)
    return hashlib.sha256(repr(sorted(words.items())).encode("utf-8", "surrogatepass")).hexdigest()
