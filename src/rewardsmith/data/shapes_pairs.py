"""Shapes that say `chosen` and `rejected`: TRL, OpenRLHF, HH, LLaMA-Factory, axolotl, ms-swift, RM-Bench."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rewardsmith.data.fields import Row, answer, kind_of, list_of, messages, present, required, text
from rewardsmith.data.options import ReadOptions
from rewardsmith.data.parts import (
    PROMPT_LIKE,
    Parts,
    answered,
    asked,
    has,
    is_text_list,
    pair,
    place_of,
    prompt_of,
    prompt_turns,
    split_dialogues,
    with_system,
)
from rewardsmith.data.schema import Message, Messages, Preference
from rewardsmith.errors import DataError

TURN = re.compile(r"\n\n(Human|Assistant):")


def is_trl(row: Row, options: ReadOptions) -> bool:
    if not has(row, "chosen", "rejected") or is_rm_bench(row, options) or is_hh(row, options):
        return False
    return "prompt" in row or not PROMPT_LIKE & row.keys()


def read_trl(row: Row, options: ReadOptions) -> Parts:
    """TRL: `chosen` and `rejected`, text or messages, with or without an explicit `prompt`."""
    chosen, rejected = required(row, "chosen"), required(row, "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise DataError(f"'chosen' is {kind_of(chosen)} and 'rejected' is {kind_of(rejected)}")
    prompt = prompt_turns(row["prompt"], "prompt") if present(row, "prompt") else None
    if isinstance(chosen, str):
        prompt = prompt or ()
    return answered_pair(row, prompt)


def answered_pair(row: Row, prompt: Messages | None) -> Parts:
    """`chosen` and `rejected` as answers to `prompt`, or as whole dialogues that repeat it."""
    names = ("chosen", "rejected")
    sides = [messages(required(row, name), name, "assistant") for name in names]
    return pair(row, *answered(row, prompt, sides, names))


def is_hh(row: Row, options: ReadOptions) -> bool:
    if not has(row, "chosen", "rejected"):
        return False
    return is_dialogue(row.get("prompt")) or any(is_dialogue(row[key]) for key in ("chosen", "rejected"))


def is_dialogue(value: object) -> bool:
    return isinstance(value, str) and bool(TURN.match(value)) and "\n\nAssistant:" in value


def read_hh(row: Row, options: ReadOptions) -> Parts:
    """Anthropic HH: whole dialogues as text; the prompt is the turns that both sides share.

    Some copies of it cut the shared part out into `prompt`, which then ends with an open "\\n\\nAssistant:".
    """
    sides = [required(row, key) for key in ("chosen", "rejected")]
    if is_dialogue(row.get("prompt")) and not any(is_dialogue(side) for side in sides):
        prompt = open_dialogue(row["prompt"])
        texts = [text(side, key).strip() for side, key in zip(sides, ("chosen", "rejected"))]
        return pair(row, with_system(row, prompt), [(Message("assistant", said),) for said in texts])
    prompt, responses = split_dialogues(
        [dialogue(s, k) for s, k in zip(sides, ("chosen", "rejected"))], ("chosen", "rejected")
    )
    if present(row, "prompt") and place_of(hh_prompt(row["prompt"]), prompt) is None:
        raise DataError("the dialogues of 'chosen' and 'rejected' repeat another prompt than 'prompt'")
    return pair(row, with_system(row, prompt), responses)


def hh_prompt(value: object) -> Messages:
    """The prompt beside whole dialogues: a dialogue itself, or the last question alone."""
    return open_dialogue(value) if is_dialogue(value) else (Message("user", text(value, "prompt").strip()),)


def open_dialogue(value: object) -> Messages:
    """A dialogue without the empty assistant turn that it ends with."""
    turns = dialogue(value, "prompt")
    return turns[:-1] if turns[-1] == Message("assistant", "") else turns


def dialogue(value: object, key: str) -> Messages:
    """Turns of "\\n\\nHuman: ...\\n\\nAssistant: ..."; the blanks around a turn belong to the shape."""
    before, *parts = TURN.split(text(value, key))
    if before.strip() or not parts:
        raise DataError(f"'{key}' does not begin with '\\n\\nHuman:' or '\\n\\nAssistant:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(Message(roles[who], said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True))


def is_llama_factory(row: Row, options: ReadOptions) -> bool:
    if "prompt" in row or not has(row, "chosen", "rejected") or is_rm_bench(row, options):
        return False
    return "instruction" in row or "conversations" in row


def read_llama_factory(row: Row, options: ReadOptions) -> Parts:
    """LLaMA-Factory: `instruction`, `input`, `history`, or `conversations`; `chosen` and `rejected`."""
    if present(row, "conversations"):
        prompt = prompt_turns(row["conversations"], "conversations")
    else:
        prompt = (*history(row), *asked(row))
    return answered_pair(row, prompt)


def history(row: Row) -> Iterator[Message]:
    """`history`: earlier rounds as [question, answer]."""
    for index, turn in enumerate(list_of(row.get("history") or [], "history", empty=True)):
        where = f"history[{index}]"
        if not isinstance(turn, list) or len(turn) != 2:
            raise DataError(f"'{where}' is not [question, answer]")
        yield Message("user", text(turn[0], where))
        yield Message("assistant", text(turn[1], where))


def is_axolotl(row: Row, options: ReadOptions) -> bool:
    if not has(row, "chosen", "rejected") or is_rm_bench(row, options):
        return False
    return not {"prompt", "instruction", "conversations"} & row.keys() and ("input" in row or "messages" in row)


def read_axolotl(row: Row, options: ReadOptions) -> Parts:
    """Axolotl: `system`, `input` (or `messages`), `chosen`, `rejected`."""
    return answered_pair(row, prompt_turns(row["messages"], "messages") if present(row, "messages") else asked(row))


def is_ms_swift(row: Row, options: ReadOptions) -> bool:
    return "messages" in row and ("rejected_response" in row or "rejected_messages" in row)


def read_ms_swift(row: Row, options: ReadOptions) -> Parts:
    """ms-swift: `messages` end with the chosen answer, `rejected_response` or `rejected_messages` is not."""
    turns = messages(required(row, "messages"), "messages", "user")
    if turns[-1].role != "assistant":
        raise DataError("'messages' do not end with an assistant turn")
    if present(row, "rejected_messages"):
        other = messages(row["rejected_messages"], "rejected_messages", "user")
        prompt, responses = split_dialogues((turns, other), ("messages", "rejected_messages"))
    else:
        rejected = text(required(row, "rejected_response"), "rejected_response")
        prompt, responses = turns[:-1], [turns[-1:], (Message("assistant", rejected),)]
    return pair(row, with_system(row, prompt), responses)


def is_rm_bench(row: Row, options: ReadOptions) -> bool:
    return is_text_list(row.get("chosen")) and is_text_list(row.get("rejected"))


def read_rm_bench(row: Row, options: ReadOptions) -> Parts:
    """RM-Bench: lists of chosen and rejected answers, one a style; each chosen one beats each rejected one.

    The responses keep the file's order: concise, detailed, markdown for chosen, then for rejected.
    """
    prompt = prompt_of(row, "prompt")
    sides = {key: list_of(required(row, key), key) for key in ("chosen", "rejected")}
    if len(sides["chosen"]) != len(sides["rejected"]):
        raise DataError(f"{len(sides['chosen'])} chosen and {len(sides['rejected'])} rejected styles")
    responses = [answer(v, f"{key}[{i}]") for key, values in sides.items() for i, v in enumerate(values)]
    n = len(sides["chosen"])
    beats = [Preference(chosen=c, rejected=n + r) for c in range(n) for r in range(n)]
    return Parts(prompt=prompt, responses=responses, preferences=beats)
