"""Typed access to the fields of one row: a function returns what it names or raises DataError with a reason.

The messages name the key and what was found ("'chosen' is null"), never the file: the reader adds file and
line. Text that no tokenizer can encode (lone surrogates) or that breaks other tools (NUL) is refused here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rewardsmith.data.schema import ROLES, Message, Messages
from rewardsmith.errors import DataError

Row = Mapping[str, Any]

# ShareGPT and others name the same four roles differently.
ROLE_NAMES = {role: role for role in ROLES} | {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
}
MAX_DEPTH = 64  # of tool calls and tool schemas; deeper is a damaged or hostile row


def kind_of(value: object) -> str:
    """What a person would call the type of a JSON value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true/false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else type(value).__name__


def present(row: Row, key: str) -> bool:
    """True where the row says something under `key`: absent and null are the same to every shape."""
    return row.get(key) is not None


def required(row: Row, key: str) -> Any:
    """The value under `key`, which may be neither absent nor null."""
    if key not in row:
        raise DataError(f"no '{key}'")
    if row[key] is None:
        raise DataError(f"'{key}' is null")
    return row[key]


def first_key(row: Row, keys: Sequence[str]) -> str:
    """The first of `keys` that the row fills, or DataError naming them all."""
    for key in keys:
        if present(row, key):
            return key
    raise DataError(f"none of {', '.join(repr(k) for k in keys)} is there")


def text(value: object, where: str) -> str:
    """`value` as text that can be encoded and written. Empty text is legal."""
    if not isinstance(value, str):
        raise DataError(f"'{where}' is {kind_of(value)}, not text")
    check_text(value, where)
    return value


def check_text(value: str, where: str) -> None:
    """Raise DataError where `value` holds a lone surrogate or a NUL."""
    if "\0" in value:
        raise DataError(f"'{where}' holds a NUL character")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"'{where}' holds a lone surrogate at character {error.start}, which no tokenizer can encode"
            ) from None


def check_tree(value: object, where: str, depth: int = 0) -> None:
    """`check_text` for every text inside tool calls, tool schemas and the like; bounds their nesting."""
    if depth > MAX_DEPTH:
        raise DataError(f"'{where}' is nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        check_text(value, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"'{where}' holds {value}, not a finite number")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_text(str(key), where)
            check_tree(item, where, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            check_tree(item, where, depth + 1)


def number(value: object, where: str) -> float:
    """`value` as a finite float; text such as "0.5" counts, because CSV has nothing else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise DataError(f"'{where}' is {kind_of(value)}, not a number")
    try:
        result = float(value)
    except ValueError:
        raise DataError(f"'{where}' is {short(value)}, not a number") from None
    except OverflowError:
        raise DataError(f"'{where}' is too large for a number") from None
    if not math.isfinite(result):
        raise DataError(f"'{where}' is {result}, not a finite number")
    return result


def number_or_none(value: object, where: str) -> float | None:
    """`number`, with null and empty text (an empty CSV cell) as None."""
    return None if value is None or value == "" else number(value, where)


def integer(value: object, where: str) -> int:
    """`value` as an int (an index)."""
    result = number(value, where)
    if result != int(result):
        raise DataError(f"'{where}' is {short(value)}, not a whole number")
    return int(result)


def list_of(value: object, where: str, *, empty: bool = False) -> list[Any]:
    """`value` as a list, from JSON text too; an empty one only where `empty`."""
    value = decoded(value, where, list)
    if not isinstance(value, list | tuple):
        raise DataError(f"'{where}' is {kind_of(value)}, not a list")
    if not value and not empty:
        raise DataError(f"'{where}' is an empty list")
    return list(value)


def object_of(value: object, where: str) -> dict[str, Any]:
    """`value` as an object, from JSON text too."""
    value = decoded(value, where, dict)
    if not isinstance(value, Mapping):
        raise DataError(f"'{where}' is {kind_of(value)}, not an object")
    return dict(value)


def decoded(value: object, where: str, wanted: type) -> object:
    """JSON text where a list or object was expected (CSV cells, TRL's `tools`) is decoded."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise DataError(f"'{where}' is text and not a JSON {wanted.__name__}") from None


def messages(value: object, where: str, role: str) -> Messages:
    """Turns from text (one turn of `role`), from one message or from a list of them."""
    if isinstance(value, str):
        return (Message(role, text(value, where)),)
    if isinstance(value, Mapping):
        return (message(value, where),)
    if not isinstance(value, list | tuple):
        raise DataError(f"'{where}' is {kind_of(value)}, neither text nor messages")
    if not value:
        raise DataError(f"'{where}' is an empty list")
    return tuple(message(item, f"{where}[{index}]") for index, item in enumerate(value))


def message(value: object, where: str) -> Message:
    """One turn from `{role, content, ...}` or ShareGPT's `{from, value}`."""
    if not isinstance(value, Mapping):
        raise DataError(f"'{where}' is {kind_of(value)}, not a message")
    role_key, content_key = ("role", "content") if "role" in value else ("from", "value")
    name = value.get(role_key)
    if not isinstance(name, str) or name not in ROLE_NAMES:
        raise DataError(f"'{where}' has the role {short(name)}, not one of {', '.join(ROLES)}")
    # A null is how columnar files say that a key of another message is absent here.
    extra = {k: v for k, v in value.items() if k not in (role_key, content_key) and v is not None}
    check_tree(extra, where)
    return Message(ROLE_NAMES[name], content_of(value.get(content_key), where, extra), extra)


def content_of(value: object, where: str, extra: Row) -> str:
    """A turn's text: plain, or the text parts of OpenAI's list; null only beside tool calls."""
    if value is None and extra.get("tool_calls"):
        return ""
    if isinstance(value, list | tuple):
        return "".join(part_text(part, where) for part in value)
    return text(value, f"{where}.content")


def part_text(part: object, where: str) -> str:
    """The text of one content part; pictures and sound cannot be read as text."""
    if isinstance(part, Mapping) and part.get("type") in ("text", None):
        return text(part.get("text"), f"{where}.content")
    found = repr(part.get("type")) if isinstance(part, Mapping) else kind_of(part)
    raise DataError(f"'{where}' has a content part that is not text: {found[:60]}")


def answer(value: object, where: str) -> Messages:
    """A response: `messages` with at least one assistant turn."""
    turns = messages(value, where, "assistant")
    if not any(turn.role == "assistant" for turn in turns):
        raise DataError(f"'{where}' has no assistant turn")
    return turns


def short(value: object, limit: int = 60) -> str:
    """`repr` of a value, on one line and bounded, for messages."""
    if isinstance(value, int) and value.bit_length() > 256:  # repr of a huge int is slow, or refused
        return "a huge number"
    shown = repr(value[: limit + 1] if isinstance(value, str) else value)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
