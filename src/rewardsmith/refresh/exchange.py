"""Pairs to Label Studio and Argilla, and labels back from them, as JSON.

Label Studio: a list of tasks (Label Studio's guide, "Task format"):
    {"id", "data": {"prompt", "left", "right", ...}, "annotations": [{"completed_by", "result": [...], "lead_time",
    "was_cancelled", "created_at"}]}
    A result is {"type": "choices", "value": {"choices": ["left"]}}, or that of the Pairwise tag, {"type": "pairwise",
    "value": {"selected": "left"}}. A skipped task is an annotation that was cancelled.
Argilla: a list of records (`Dataset.records.to_json`, argilla 2.x):
    {"id", "fields": {...}, "metadata": {...}, "suggestions": {}, "responses": {QUESTION: [{"value", "user_id"}]}}

Which answer stands left is drawn for each pair by a hash, and goes with it (`shown`), as does a hash of the texts
(`check`): a label for other texts than the store has is never taken. Labels of people go along, those of judges and
scorers do not: they would lead people.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rewardsmith.data.schema import Messages, content_hash
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.refresh.records import Comparison, Label, NewLabel, Verdict
from rewardsmith.refresh.store import Store

Tool = Literal["label-studio", "argilla"]
Which = Literal["open", "labelled", "all"]
AT_ONCE = 500  # pairs with their texts in memory
SIDES = {"left": 0, "right": 1}
WORDS = ("left", "right", "tie", "skip", "flag")
TEXTS = ("prompt", "left", "right")
# The same annotator has the same id in every export.
PEOPLE = uuid.uuid5(uuid.NAMESPACE_URL, "rewardsmith:annotator")
LABEL_STUDIO_CONFIG = """<View>
  <Header value="Prompt"/>
  <Text name="prompt" value="$prompt"/>
  <View style="display: grid; grid-template-columns: 1fr 1fr; gap: 1em">
    <View><Header value="Left answer"/><Text name="left" value="$left"/></View>
    <View><Header value="Right answer"/><Text name="right" value="$right"/></View>
  </View>
  <Header value="Which answer is better?"/>
  <Choices name="verdict" toName="prompt" choice="single" showInline="true" required="true">
    <Choice value="left" hotkey="1"/>
    <Choice value="tie" hotkey="0"/>
    <Choice value="right" hotkey="2"/>
    <Choice value="flag" hotkey="f"/>
  </Choices>
  <TextArea name="note" toName="prompt" maxSubmissions="1" placeholder="What is wrong, where you flag it"/>
</View>
"""


@dataclass(frozen=True)
class Incoming:
    """A label of a file, about the sides as they were shown; `who` as the tool names its people, by number or by a name
    that may be one of ours (`is_name`).
    """

    comparison_id: int
    check: str
    shown: str
    who: str
    is_name: bool
    word: str
    at: float | None
    seconds: float | None
    note: str
    key: str


# -- out ----------------------------------------------------------------------------------------------------


def export_pairs(
    store: Store, output: str | Path, to: Tool, *, which: Which = "open", limit: int | None = None
) -> dict[str, Any]:
    """Write pairs with the labels they have, and the settings of a project for them beside it; returns counts."""
    target = Path(output)
    if target.suffix != ".json":
        raise ConfigError(f"--output {output}: give a name that ends in .json")
    by_pair: dict[int, list[Label]] = {}
    left_out = 0
    for label in store.labels():
        by_pair.setdefault(label.comparison_id, [])
        if label.source == "person":
            by_pair[label.comparison_id].append(label)
        else:
            left_out += 1
    ids = chosen(store, which, by_pair, limit)
    n_labels = 0
    items: list[dict[str, Any]] = []
    for begin in range(0, len(ids), AT_ONCE):
        for pair in store.comparisons(ids[begin : begin + AT_ONCE]):
            given = by_pair.get(pair.id, [])
            n_labels += len(given)
            items.append(task_of(pair, given) if to == "label-studio" else record_of(pair, given))
    settings = target.with_suffix(".config.xml" if to == "label-studio" else ".settings.json")
    write_whole(settings, LABEL_STUDIO_CONFIG if to == "label-studio" else json.dumps(argilla_settings(), indent=1))
    write_whole(target, json.dumps(items, ensure_ascii=False, indent=1))
    return {
        "output": str(target),
        "settings": str(settings),
        "to": to,
        "pairs": len(items),
        "labels": n_labels,
        "left_out": left_out,
    }


def chosen(store: Store, which: Which, labelled: Mapping[int, Sequence[Label]], limit: int | None) -> list[int]:
    """Ids of the pairs to write, the most urgent first."""
    wanted = dict.fromkeys(pair.id for pair in store.open_comparisons()) if which != "labelled" else {}
    if which != "open":
        wanted |= dict.fromkeys(sorted(labelled))
    return list(wanted)[:limit]


def write_whole(target: Path, text: str) -> None:
    """A file that is there whole or not at all."""
    writing = target.with_name(f".{target.name}.writing-{os.getpid()}")
    try:
        writing.write_text(text + "\n", encoding="utf-8", errors="replace")
        os.replace(writing, target)
    finally:
        writing.unlink(missing_ok=True)


def task_of(pair: Comparison, labels: Sequence[Label] = ()) -> dict[str, Any]:
    """A pair as Label Studio's task."""
    shown = shown_of(pair)
    return {
        "id": pair.id,
        "data": {**texts_of(pair, shown), **about(pair, shown)},
        "annotations": [annotation_of(label, shown) for label in labels],
        "predictions": [],
    }


def annotation_of(label: Label, shown: str) -> dict[str, Any]:
    """A label as Label Studio's annotation; people are named by e-mail there, so a name stands in its place."""
    when = datetime.fromtimestamp(label.at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    results = [result("verdict", "choices", {"choices": [word_of(label, shown)]})]
    if label.note:
        results.append(result("note", "textarea", {"text": [label.note]}))
    return {
        "id": label.id,
        "unique_id": str(uuid.uuid5(PEOPLE, f"{label.comparison_id}:{label.annotator}:{label.id}")),
        "completed_by": {"email": label.annotator},
        "result": [] if label.verdict == "skip" else results,
        "was_cancelled": label.verdict == "skip",
        "ground_truth": False,
        "lead_time": label.seconds,
        "created_at": when,
        "updated_at": when,
        "task": label.comparison_id,
    }


def result(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "from_name": name, "to_name": "prompt", "type": kind, "origin": "manual", "value": value}


def record_of(pair: Comparison, labels: Sequence[Label] = ()) -> dict[str, Any]:
    """A pair as Argilla's record."""
    shown = shown_of(pair)
    responses: dict[str, list[dict[str, Any]]] = {}
    for label in labels:
        user = str(user_id(label.annotator))
        responses.setdefault("verdict", []).append({"value": word_of(label, shown), "user_id": user})
        if label.note:
            responses.setdefault("note", []).append({"value": label.note, "user_id": user})
    return {
        "id": f"comparison-{pair.id}",
        "fields": texts_of(pair, shown),
        "metadata": about(pair, shown),
        "suggestions": {},
        "responses": responses,
        "vectors": {},
    }


def argilla_settings() -> dict[str, Any]:
    """What `argilla.Settings.from_json` reads: fields that are plain text, the question, and a note."""
    options = [{"value": word, "text": word, "description": None} for word in WORDS]
    return {
        "guidelines": "Which answer is better? Flag a pair that nobody should label.",
        "questions": [
            {
                "name": "verdict",
                "title": "Which answer is better?",
                "description": None,
                "required": True,
                "settings": {"type": "label_selection", "options": options, "visible_options": len(options)},
            },
            {
                "name": "note",
                "title": "What is wrong, where you flag it",
                "description": None,
                "required": False,
                "settings": {"type": "text", "use_markdown": False},
            },
        ],
        "fields": [
            {"name": name, "title": name, "required": True, "settings": {"type": "text", "use_markdown": False}}
            for name in TEXTS
        ],
        "vectors": [],
        "metadata": [],
        "allow_extra_metadata": True,
    }


def user_id(annotator: str) -> uuid.UUID:
    """Argilla names people by a UUID: one that the name decides."""
    return uuid.uuid5(PEOPLE, annotator)


def texts_of(pair: Comparison, shown: str) -> dict[str, str]:
    left, right = (pair.a, pair.b) if shown == "ab" else (pair.b, pair.a)
    return {
        "prompt": plain(pair.prompt.messages, "user"),
        "left": plain(left.messages, "assistant"),
        "right": plain(right.messages, "assistant"),
    }


def plain(messages: Messages, usual: str) -> str:
    """Turns as text: a single one of the usual role as it is, others with their roles."""
    if len(messages) == 1 and messages[0].role == usual:
        return messages[0].content
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages)


def about(pair: Comparison, shown: str) -> dict[str, Any]:
    return {"comparison": pair.id, "round": pair.round, "shown": shown, "check": check_of(pair)}


def check_of(pair: Comparison) -> str:
    """A hash of the texts that were compared."""
    return content_hash(pair.prompt.messages, (pair.a.messages, pair.b.messages))


def shown_of(pair: Comparison) -> str:
    """A fair coin that the texts decide."""
    return "ab" if hashlib.blake2b(check_of(pair).encode(), digest_size=1).digest()[0] & 1 else "ba"


def word_of(label: Label, shown: str) -> str:
    """A stored verdict as one about sides."""
    return {shown[0]: "left", shown[1]: "right"}.get(label.verdict, label.verdict)


# -- in -----------------------------------------------------------------------------------------------------


def import_labels(store: Store, file: str | Path, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Take the labels of a tool's export; returns counts, and what was not taken with the reason.

    names  what the tool calls its people -> annotators; others keep the tool's name with the tool's before it

    A label that its annotator has in the store already stays as it is there, so a file may be imported again.
    DataError where the file is no such export.
    """
    items = read_items(file)
    tool = tool_of(items, file)
    dropped: list[dict[str, Any]] = []
    incoming: list[tuple[int, Incoming]] = []
    without = 0
    for number, item in enumerate(items, 1):
        try:
            found = list(labels_in_task(item) if tool == "label-studio" else labels_in_record(item))
        except DataError as error:
            dropped.append({"file": str(file), "line": number, "reason": str(error)})
            continue
        without += not found
        incoming += [(number, label) for label in found]
    ours = store.counts(time.time()).annotators
    known = {name: name for name in ours} | {str(user_id(name)): name for name in ours}
    wanted = sorted({label.comparison_id for _, label in incoming})
    there = there_in(store, wanted)
    new, seen = [], set()
    for number, label in incoming:
        try:
            made = checked(label, there, annotator_of(label, names or {}, known, tool))
        except DataError as error:
            dropped.append({"file": str(file), "line": number, "reason": str(error)})
            continue
        if (one := (made.comparison_id, made.annotator)) in seen:
            reason = f"{made.annotator} has two labels for pair {made.comparison_id}; the first is taken"
            dropped.append({"file": str(file), "line": number, "reason": reason})
            continue
        seen.add(one)
        new.append(made)
    return {
        "file": str(file),
        "from": tool,
        "tasks": len(items),
        "labels": len(new),
        "new": store.add_labels(new),
        "unlabelled": without,
        "dropped": dropped,
    }


def read_items(file: str | Path) -> list[Any]:
    """The list that an export is."""
    try:
        items = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: cannot be opened: {error.strerror or error}") from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: is no JSON: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(items, list) or not items:
        raise DataError(f"{file}: no list of tasks; export JSON, not JSON-MIN or CSV")
    return items


def tool_of(items: Sequence[Any], file: str | Path) -> Tool:
    first = next((item for item in items if isinstance(item, dict)), {})
    if "data" in first and ("annotations" in first or "completions" in first):
        return "label-studio"
    if "fields" in first and "responses" in first:
        return "argilla"
    raise DataError(
        f"{file}: neither tasks of Label Studio (data, annotations) nor records of Argilla (fields, responses)"
    )


def labels_in_task(task: Any) -> Iterator[Incoming]:
    """Labels of Label Studio's task. DataError where it is none of ours."""
    id, check, shown = origin(inner(task, "data", dict))
    for annotation in inner(task, "annotations", list):
        if not isinstance(annotation, dict):
            raise DataError("an annotation is no object")
        word, note = "skip" if annotation.get("was_cancelled") else "", ""
        for one in inner(annotation, "result", list):
            value = one.get("value") if isinstance(one, dict) else None
            if not isinstance(value, dict):
                raise DataError("a result has no value")
            said = value.get("choices", [value.get("selected")])
            if one.get("type") in ("choices", "pairwise"):
                if not isinstance(said, list) or len(said) != 1:
                    raise DataError(f"pair {id}: not one choice but {str(said)[:60]}")
                word = word or str(said[0]).lower()
            elif one.get("type") == "textarea":
                note = "\n".join(map(str, value.get("text") or ()))
        if not word:
            continue  # saved without a choice
        who = annotation.get("completed_by")
        is_name = isinstance(who, dict) and bool(who.get("email"))
        who = who.get("email") or who.get("id") if isinstance(who, dict) else who
        key = annotation.get("unique_id") or annotation.get("id") or f"{id}:{who}"
        yield Incoming(
            id, check, shown, f"{who}", is_name, word, seconds_at(annotation.get("created_at")),
            number_or_none(annotation.get("lead_time")), note, f"label-studio:{id}:{key}",
        )  # fmt: skip


def labels_in_record(record: Any) -> Iterator[Incoming]:
    """Labels of Argilla's record. DataError where it is none of ours."""
    id, check, shown = origin(inner(record, "metadata", dict))
    responses = inner(record, "responses", dict)
    notes = {str(one.get("user_id")): str(one.get("value") or "") for one in objects(responses, "note")}
    for one in objects(responses, "verdict"):
        who = str(one.get("user_id"))
        word = str(one.get("value")).lower()
        yield Incoming(id, check, shown, who, True, word, None, None, notes.get(who, ""), f"argilla:{id}:{who}")


def objects(responses: dict[str, Any], question: str) -> list[dict[str, Any]]:
    found = responses.get(question) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise DataError(f"the responses to {question} are no list of objects")
    return found


def inner(item: Any, name: str, kind: type) -> Any:
    found = item.get(name) if isinstance(item, dict) else None
    if not isinstance(found, kind):
        raise DataError(f"{name} is missing, or no {'list' if kind is list else 'object'}")
    return found


def origin(data: dict[str, Any]) -> tuple[int, str, str]:
    """(number of the pair, hash of its texts, which stood left)."""
    id, check, shown = data.get("comparison"), data.get("check"), data.get("shown")
    if isinstance(id, str) and id.isdigit():
        id = int(id)
    if not isinstance(id, int) or isinstance(id, bool) or not isinstance(check, str) or shown not in ("ab", "ba"):
        raise DataError("comparison, check and shown do not say which pair this is: was it made by refresh export?")
    return id, check, str(shown)


def there_in(store: Store, ids: Sequence[int]) -> dict[int, str]:
    """Hashes of the texts of those pairs that the store has."""
    found = {}
    for id in ids:
        try:
            found[id] = check_of(store.comparison(id))
        except (DataError, OverflowError):
            continue
    return found


def annotator_of(label: Incoming, names: Mapping[str, str], known: Mapping[str, str], tool: Tool) -> str:
    """Who labelled: as was said by the caller, as the store knows them, an e-mail address, or the tool's own name."""
    if label.who in ("None", ""):
        raise DataError(f"pair {label.comparison_id}: does not say who labelled it")
    if label.who in names:
        return names[label.who]
    if label.is_name and label.who in known:
        return known[label.who]
    return label.who if "@" in label.who else f"{tool}:{label.who}"


def checked(label: Incoming, there: Mapping[int, str], annotator: str) -> NewLabel:
    """A label of a file as one of the store. DataError for what is none."""
    if label.comparison_id not in there:
        raise DataError(f"pair {label.comparison_id} is not in this project")
    if there[label.comparison_id] != label.check:
        raise DataError(f"pair {label.comparison_id} has other texts in this project")
    if label.word not in WORDS:
        raise DataError(f"pair {label.comparison_id}: {label.word[:40]!r} is no verdict; there are {', '.join(WORDS)}")
    side = SIDES.get(label.word)
    verdict: Verdict = label.word if side is None else label.shown[side]  # type: ignore[assignment]
    new = NewLabel(
        comparison_id=label.comparison_id,
        annotator=annotator,
        verdict=verdict,
        at=time.time() if label.at is None else label.at,
        seconds=label.seconds,
        shown=label.shown,
        note=label.note[:10_000],
        key=label.key,
    )
    new.row()  # DataError for a name or a time that the store does not take
    return new


def seconds_at(text: Any) -> float | None:
    """Seconds since 1970 of an ISO time; None where it is none."""
    try:
        when = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def number_or_none(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9 else None
