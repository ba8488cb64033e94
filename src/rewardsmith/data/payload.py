"""The `rewardsmith` column: what a foreign shape cannot say about a group, so that a round trip is exact.

`convert` writes a group as one or more rows of TRL, OpenRLHF or NeMo. The texts are in the shape's own
columns; the first row's `rewardsmith` column holds, as JSON text, the rest: id, K, which responses the row
shows (`at`), the other responses, preferences, ratings, tags, tools, template variables, weight and note.
Further rows of the group say only to which group they belong. Other tools ignore the column; our reader
restores the exact Group, taking the texts from the row (so an edited text counts) and the rest from here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rewardsmith.data.fields import (
    Row,
    answer,
    integer,
    list_of,
    messages,
    object_of,
    present,
    required,
    text,
)
from rewardsmith.data.options import ReadOptions
from rewardsmith.data.parts import Parts, prompt_turns
from rewardsmith.data.schema import Group, Messages, Preference, content_hash
from rewardsmith.data.shapes import read_rewardsmith
from rewardsmith.errors import DataError

COLUMN = "rewardsmith"
FORMAT = 1


class Follower(NamedTuple):
    """A further row (2 .. rows) of the group whose first row carries everything."""

    head: str
    row: int
    rows: int


class Restored(NamedTuple):
    """A whole group: its parts, its id (None: the content hash), and what its further rows call it."""

    parts: Parts
    id: str | None
    head: str
    rows: int


def own_row(group: Group) -> dict[str, Any]:
    """The group in our own shape; what has its default value is left out."""
    return {
        "prompt": turns(group.prompt),
        "responses": [turns(response) for response in group.responses],
        **rest(group),
    }


def rest(group: Group) -> dict[str, Any]:
    """Everything but the texts."""
    row: dict[str, Any] = {"preferences": [stated(p) for p in group.preferences]}
    # A content hash is computed again when read: two equal groups then keep their one id.
    if group.id != content_hash(group.prompt, group.responses):
        row = {"id": group.id, **row}
    if group.ratings is not None:
        row["ratings"] = list(group.ratings)
    row |= {key: dict(value) for key in ("tags", "template_kwargs") if (value := getattr(group, key))}
    if group.tools is not None:
        row["tools"] = [dict(tool) for tool in group.tools]
    if group.weight != 1.0:
        row["weight"] = group.weight
    return row | ({"note": group.note} if group.note else {})


def turns(side: Messages) -> list[dict[str, Any]]:
    return [message.to_dict() for message in side]


def stated(preference: Preference) -> dict[str, Any]:
    """A preference as our shape writes it, defaults left out."""
    row: dict[str, Any] = {"chosen": preference.chosen, "rejected": preference.rejected}
    defaults = {"probability": 1.0, "margin": 0.0, "weight": 1.0}
    row |= {key: value for key, usual in defaults.items() if (value := getattr(preference, key)) != usual}
    return row | ({"votes": list(preference.votes)} if preference.votes else {})


def head_payload(group: Group, at: Sequence[int], rows: int, *, extras: bool, whole: bool) -> str:
    """The column of a group's first row, which shows the responses `at`.

    extras  the file type keeps the turns' further keys (JSON lines do, parquet columns do not)
    whole   the row shows prompt and response as one list of turns, to be cut at the prompt's length
    """
    payload = {"format": FORMAT, "rows": rows, "at": list(at), "k": len(group.responses), **rest(group)}
    if rows > 1:
        payload["group"] = group.id
    if whole:
        payload["prompt_turns"] = len(group.prompt)
    if not extras and any(turn.extra for turn in group.prompt):
        payload["prompt"] = turns(group.prompt)
    payload["others"] = {
        str(index): turns(response)
        for index, response in enumerate(group.responses)
        if index not in at or (not extras and any(turn.extra for turn in response))
    }
    return dumps(payload)


def follower_payload(group: Group, row: int, rows: int) -> str:
    """The column of row 2 .. rows of a group."""
    return dumps({"format": FORMAT, "head": group.id, "row": row, "rows": rows})


def dumps(value: object) -> str:
    """Compact JSON. Raises DataError for what JSON cannot hold."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise DataError(f"cannot be written as JSON: {error}") from None


def payload_of(row: Row) -> dict[str, Any] | None:
    """The row's `rewardsmith` column, or None where it has none."""
    return object_of(row[COLUMN], COLUMN) if present(row, COLUMN) and row[COLUMN] != "" else None


def restore(row: Row, payload: dict[str, Any], options: ReadOptions) -> Restored | Follower:
    """The group that a written row came from. Raises DataError where the column does not fit the row."""
    if payload.get("format") != FORMAT:
        raise DataError(f"the 'rewardsmith' column has format {payload.get('format')!r}, this version reads {FORMAT}")
    if "head" in payload:
        head = text(payload["head"], "rewardsmith.head")
        return Follower(head, integer(required(payload, "row"), "row"), integer(required(payload, "rows"), "rows"))
    whole = payload if "responses" in payload else {**payload, **written_texts(row, payload)}
    # The keys that options rename are those of the user's rows, not of this column.
    parts = read_rewardsmith(whole, replace(options, responses_key=None, rating_key=None))
    own_id = text(payload["id"], "rewardsmith.id") if present(payload, "id") else None
    head = text(payload.get("group", ""), "rewardsmith.group")
    return Restored(parts, own_id, head, integer(payload.get("rows", 1), "rewardsmith.rows"))


def written_texts(row: Row, payload: dict[str, Any]) -> dict[str, Any]:
    """`prompt` and `responses` of a group, from the row's own columns and the payload's other responses."""
    shown: Any
    if "completions" in row:
        prompt = prompt_turns(required(row, "context"), "context")
        items = list_of(row["completions"], "completions")
        shown = [answer(required(object_of(i, "completions"), "completion"), "completions") for i in items]
    elif "prompt_turns" in payload:
        sides = [messages(required(row, key), key, "assistant") for key in ("chosen", "rejected")]
        cut = integer(payload["prompt_turns"], "rewardsmith.prompt_turns")
        prompt, shown = sides[0][:cut], [side[cut:] for side in sides]
    else:
        prompt = prompt_turns(row.get("prompt") or [], "prompt")
        shown = [answer(required(row, key), key) for key in ("chosen", "rejected")]
    return {"prompt": payload.get("prompt", turns(prompt)), "responses": all_responses(payload, shown)}


def all_responses(payload: dict[str, Any], shown: Sequence[Messages]) -> list[list[dict[str, Any]]]:
    """The K responses in the group's own order."""
    at = [integer(i, "rewardsmith.at") for i in list_of(required(payload, "at"), "rewardsmith.at")]
    if len(at) != len(shown):
        raise DataError(f"the 'rewardsmith' column speaks of {len(at)} responses, the row has {len(shown)}")
    found: dict[int, Any] = {index: turns(side) for index, side in zip(at, shown, strict=True)}
    found |= {
        integer(i, "rewardsmith.others"): side for i, side in object_of(payload.get("others", {}), "others").items()
    }
    k = integer(required(payload, "k"), "rewardsmith.k")
    if sorted(found) != list(range(k)):
        raise DataError(f"the 'rewardsmith' column speaks of {k} responses and the row gives {len(found)}")
    return [found[index] for index in range(k)]
