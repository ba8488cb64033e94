"""The shapes of preference rows: for each, how it is recognised and how a row becomes the parts of a Group.

A shape is one small function `Row -> Parts` beside the predicate that recognises it; `SHAPES` at the end
lists them all. The predicates exclude one another: a row matches one shape, or the reader asks. Each function
raises DataError with a precise reason for a row it cannot use. Our own shape is here, the others in
`shapes_pairs`, `shapes_rated` and `shapes_winner`.

Options that rename columns (`--prompt-key`) have been applied before: a shape sees its own names only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rewardsmith.data.fields import (
    Row,
    answer,
    check_text,
    integer,
    kind_of,
    list_of,
    number,
    number_or_none,
    object_of,
    present,
    required,
    short,
    text,
)
from rewardsmith.data.options import NO_PROMPT, SHAPE_NAMES, ReadOptions
from rewardsmith.data.parts import Parts, kwargs_of, prompt_turns, tools_of, with_system
from rewardsmith.data.schema import Preference, preference_between
from rewardsmith.data.shapes_pairs import (
    is_axolotl,
    is_hh,
    is_llama_factory,
    is_ms_swift,
    is_rm_bench,
    is_trl,
    read_axolotl,
    read_hh,
    read_llama_factory,
    read_ms_swift,
    read_rm_bench,
    read_trl,
)
from rewardsmith.data.shapes_rated import (
    is_nemo,
    is_scored,
    is_ultrafeedback,
    read_nemo,
    read_scored,
    read_ultrafeedback,
)
from rewardsmith.data.shapes_winner import ONE_HOT, PAIR_KEYS, WINNER_KEYS, is_pairwise, read_pairwise
from rewardsmith.errors import DataError


def is_rewardsmith(row: Row, options: ReadOptions) -> bool:
    if present(row, "rewardsmith") and row.keys() <= {"id", "prompt", "rewardsmith"}:
        return True  # our parquet: the whole group is in that column
    values = row.get(options.responses_key or "responses")
    if isinstance(values, str):  # a CSV cell
        return values.startswith("[")
    return isinstance(values, list) and not any(isinstance(v, dict) and "role" not in v for v in values)


def read_rewardsmith(row: Row, options: ReadOptions) -> Parts:
    """`{prompt, responses, preferences | ratings, tags, note, tools, template_kwargs, weight}`."""
    where, rated = options.responses_key or "responses", options.rating_key or "ratings"
    prompt = prompt_turns(row["prompt"], "prompt") if present(row, "prompt") else ()
    values = list_of(required(row, where), where)
    ratings = list_of(row[rated], rated, empty=True) if present(row, rated) else None
    return Parts(
        prompt=with_system(row, prompt),
        responses=[answer(v, f"{where}[{i}]") for i, v in enumerate(values)],
        preferences=stated(row) if present(row, "preferences") or ratings is None else None,
        ratings=None if ratings is None else [number_or_none(v, f"{rated}[{i}]") for i, v in enumerate(ratings)],
        tags=tags_of(row),
        tools=tools_of(row),
        template_kwargs=kwargs_of(row, "template_kwargs"),
        weight=number(row["weight"], "weight") if present(row, "weight") else 1.0,
        note=text(row["note"], "note") if present(row, "note") else "",
        rating_key=rated if ratings is not None else "",
        notes=[] if prompt else [NO_PROMPT],
    )


def stated(row: Row) -> list[Preference]:
    """The row's `preferences`; a probability below one half turns the pair round."""
    items = list_of(row.get("preferences") or [], "preferences", empty=True)
    return [one_preference(item, f"preferences[{index}]") for index, item in enumerate(items)]


def one_preference(item: object, where: str) -> Preference:
    """`{chosen, rejected, probability?, margin?, weight?, votes?}`, indices into the responses."""
    stated_ = object_of(item, where)
    unknown = sorted(stated_.keys() - {"chosen", "rejected", "probability", "margin", "weight", "votes"})
    if unknown:
        raise DataError(f"'{where}' has the unknown key {short(unknown[0])}")
    first, second = (integer(required(stated_, key), f"{where}.{key}") for key in ("chosen", "rejected"))
    given = {k: number(stated_[k], f"{where}.{k}") for k in ("margin", "weight") if present(stated_, k)}
    votes = [number(v, f"{where}.votes") for v in list_of(stated_.get("votes") or [], f"{where}.votes", empty=True)]
    share = number(stated_["probability"], f"{where}.probability") if present(stated_, "probability") else 1.0
    return preference_between(first, second, share, votes=votes, **given)


def tags_of(row: Row) -> dict[str, str]:
    """Our own `tags` object: names and values as text."""
    tags = object_of(row["tags"], "tags") if present(row, "tags") else {}
    return {name: tag_value(value, f"tags.{name}") for name, value in tags.items() if value is not None}


def tag_value(value: object, where: str) -> str:
    """A tag as text: text, numbers and true/false are; lists and objects are not."""
    if not isinstance(value, str | int | float):
        raise DataError(f"'{where}' is {kind_of(value)}, not a tag")
    shown = value if isinstance(value, str) else short(value)
    check_text(shown, where)
    check_text(where, "tags")
    return shown


COMMON = frozenset({"prompt", "system", "id", "prompt_id", "idx", "rewardsmith"})
ASKED = COMMON | {"context", "instruction", "input"}
PAIR = COMMON | {"chosen", "rejected", "margin", "tools", "chat_template_kwargs"}
OWN = COMMON | {"responses", "preferences", "ratings", "tags", "note", "tools", "template_kwargs", "weight"}
WINNER = ASKED | {*WINNER_KEYS, *ONE_HOT, *(key for keys in PAIR_KEYS for key in keys)}
SWIFT = PAIR | {"messages", "rejected_response", "rejected_messages"}
LLAMA = PAIR | {"instruction", "input", "history", "conversations"}


@dataclass(frozen=True)
class Shape:
    """A shape's reader, what recognises it, and the keys it reads (others are counted in the report)."""

    read: Callable[[Row, ReadOptions], Parts]
    matches: Callable[[Row, ReadOptions], bool]
    keys: frozenset[str]


def never(row: Row, options: ReadOptions) -> bool:
    """OpenRLHF is TRL's shape with renamed keys: only the user can say so."""
    return False


SHAPES: dict[str, Shape] = {
    "rewardsmith": Shape(read_rewardsmith, is_rewardsmith, OWN),
    "trl": Shape(read_trl, is_trl, PAIR),
    "hh": Shape(read_hh, is_hh, PAIR),
    "ultrafeedback": Shape(read_ultrafeedback, is_ultrafeedback, ASKED | {"completions"}),
    "scored": Shape(read_scored, is_scored, ASKED | {"response"}),
    "nemo": Shape(read_nemo, is_nemo, ASKED | {"completions"}),
    "ms-swift": Shape(read_ms_swift, is_ms_swift, SWIFT),
    "llama-factory": Shape(read_llama_factory, is_llama_factory, LLAMA),
    "axolotl": Shape(read_axolotl, is_axolotl, PAIR | {"input", "messages"}),
    "openrlhf": Shape(read_trl, never, PAIR),
    "pairwise": Shape(read_pairwise, is_pairwise, WINNER),
    "rm-bench": Shape(read_rm_bench, is_rm_bench, ASKED | {"chosen", "rejected"}),
}
assert tuple(SHAPES) == SHAPE_NAMES
