"""What the shapes share: the parts of a group, and how prompts and dialogues are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rewardsmith.data.fields import (
    Row,
    check_tree,
    kind_of,
    list_of,
    messages,
    number_or_none,
    object_of,
    present,
    text,
)
from rewardsmith.data.options import NO_PROMPT
from rewardsmith.data.schema import Message, Messages, Preference
from rewardsmith.errors import DataError

# Columns that hold a prompt under another name: a pair beside one of them is not "a pair without a prompt".
PROMPT_LIKE = frozenset(
    {"question", "query", "instruction", "input", "context", "problem", "messages", "conversations"}
)


# Two responses side by side.
PAIR_KEYS = (
    ("response1", "response2"),
    ("response_1", "response_2"),
    ("response_a", "response_b"),
    ("output_1", "output_2"),
    ("conversation_a", "conversation_b"),
)


@dataclass(kw_only=True)
class Parts:
    """What a row says, before ids, tags and subsampling.

    `preferences` is None where they follow from `ratings`. `rating_key` names the column that `ratings` come
    from and `notes` what was defaulted, for the report.
    """

    prompt: Messages
    responses: list[Messages]
    preferences: list[Preference] | None = None
    ratings: list[float | None] | None = None
    tags: dict[str, str] = field(default_factory=dict)
    tools: list[Any] | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    note: str = ""
    rating_key: str = ""
    notes: list[str] = field(default_factory=list)


def with_system(row: Row, prompt: Messages) -> Messages:
    """The prompt behind the row's `system` text, where it has one and the prompt has not."""
    if not present(row, "system") or row["system"] == "":
        return prompt
    turn = Message("system", text(row["system"], "system"))
    if prompt and prompt[0].role == "system":
        if prompt[0] != turn:
            raise DataError("'system' and the prompt's own system turn differ")
        return prompt
    return (turn, *prompt)


def asked(row: Row) -> Messages:
    """`instruction` and `input` joined as LLaMA-Factory does, or the one of them that is filled."""
    given = [text(row[key], key) for key in ("instruction", "input") if present(row, key)]
    if not given:
        raise DataError("neither 'instruction' nor 'input' is there")
    return (Message("user", "\n".join(part for part in given if part)),)


def prompt_of(row: Row, *keys: str) -> Messages:
    """The prompt under the first filled of `keys`, else from instruction and input, behind `system`."""
    return with_system(row, own_prompt(row, *keys))


def own_prompt(row: Row, *keys: str) -> Messages:
    """`prompt_of` without the row's `system`."""
    for key in keys:
        if present(row, key):
            return prompt_turns(row[key], key)
    if present(row, "instruction") or present(row, "input"):
        return asked(row)
    raise DataError(f"no prompt: none of {', '.join(repr(k) for k in (*keys, 'instruction', 'input'))} is there")


def prompt_turns(value: object, key: str) -> Messages:
    """A prompt: text, or messages of which there may be none."""
    return () if value == [] else messages(value, key, "user")


def split_dialogues(sides: Sequence[Messages], names: Sequence[str]) -> tuple[Messages, list[Messages]]:
    """The longest common prefix of whole dialogues, and what follows it in each.

    The prefix is cut back until an assistant turn follows in every one, so that identical answers and answers
    that part at a later user turn still leave a response on each side.
    """
    for side, name in zip(sides, names, strict=True):
        if not any(turn.role == "assistant" for turn in side):
            raise DataError(f"'{name}' has no assistant turn")
    shared = 0
    while all(len(side) > shared for side in sides) and all(side[shared] == sides[0][shared] for side in sides):
        shared += 1
    while shared >= 0 and not all(len(s) > shared and s[shared].role == "assistant" for s in sides):
        shared -= 1
    if shared < 0:
        raise DataError(f"{' and '.join(repr(n) for n in names)} begin with different prompts")
    return tuple(sides[0][:shared]), [tuple(side[shared:]) for side in sides]


def answered(
    row: Row, prompt: Messages | None, sides: Sequence[Messages], names: Sequence[str]
) -> tuple[Messages, list[Messages]]:
    """Prompt (behind `system`) and responses, where a side may be an answer or the whole dialogue.

    A side that begins with a system or user turn is a whole dialogue. The prompt is then what the dialogues
    share, which must hold the prompt that the row gives, if it gives one (None: it has no such column). A lone
    dialogue is cut behind the given prompt.
    """
    for side, name in zip(sides, names, strict=True):
        if not any(turn.role == "assistant" for turn in side):
            raise DataError(f"'{name}' has no assistant turn")
        if prompt and prompt[-len(side) :] == side:
            raise DataError(f"the prompt ends with '{name}' already: take the answer out of the prompt")
    if prompt is not None and not any(side[0].role in ("system", "user") for side in sides):
        return with_system(row, prompt), list(sides)
    shared, responses = split_dialogues(sides, names)
    if prompt:
        at = place_of(prompt, shared)
        if at is None:
            whose = f"the messages of {' and '.join(repr(name) for name in names[:2])}"
            raise DataError(f"{whose} repeat another prompt than the row's own")
        end = at + len(prompt)
        if len(sides) == 1 and sides[0][end].role == "assistant":
            shared, responses = sides[0][:end], [sides[0][end:]]
    return with_system(row, shared), responses


def place_of(part: Messages, turns: Messages) -> int | None:
    """Where `part` is a run of turns inside `turns`, or None."""
    starts = range(len(turns) - len(part) + 1)
    return next((start for start in starts if turns[start : start + len(part)] == part), None)


def tools_of(row: Row) -> list[Any] | None:
    """TRL's `tools`: a list, or JSON text of one."""
    if not present(row, "tools") or row["tools"] == "":
        return None
    tools = list_of(row["tools"], "tools", empty=True)
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise DataError(f"'tools[{index}]' is {kind_of(tool)}, not an object")
    check_tree(tools, "tools")
    return tools


def kwargs_of(row: Row, key: str) -> dict[str, Any]:
    """Further template variables: an object, or JSON text of one."""
    if not present(row, key) or row[key] == "":
        return {}
    kwargs = object_of(row[key], key)
    check_tree(kwargs, key)
    return kwargs


def pair(row: Row, prompt: Messages, responses: list[Messages]) -> Parts:
    """The first response preferred to the second, with the row's margin and template inputs."""
    margin = number_or_none(row.get("margin"), "margin") or 0.0
    return Parts(
        prompt=prompt,
        responses=responses,
        preferences=[Preference(chosen=0, rejected=1, margin=margin)],
        tools=tools_of(row),
        template_kwargs=kwargs_of(row, "chat_template_kwargs"),
        notes=[] if prompt else [NO_PROMPT],
    )


def is_text_list(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def has(row: Row, *keys: str) -> bool:
    return all(key in row for key in keys)


def pair_keys(row: Row) -> tuple[str, str] | None:
    return next((keys for keys in PAIR_KEYS if has(row, *keys)), None)


def order(difference: float) -> float:
    """P(first over second) where the difference in quality is all that is known: 1, 0 or a tie."""
    return 0.5 if difference == 0 else float(difference > 0)
