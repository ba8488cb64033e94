"""One row of a publisher's file to one Group, for benchmarks of answers in pairs: `Row, Place -> Group`.

A function raises DataError with a reason for a row it cannot use; `load` adds file and line, and stops there: a
benchmark with a row left out is another benchmark. Lists of answers are in `rows_lists`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rewardsmith.data.fields import Row, answer, integer, present, required, short, text
from rewardsmith.data.options import ReadOptions
from rewardsmith.data.parts import asked, prompt_turns
from rewardsmith.data.schema import Group, Message, Messages, Preference, preference_between
from rewardsmith.data.shapes import tag_value
from rewardsmith.data.shapes_pairs import read_hh
from rewardsmith.errors import DataError
from rewardsmith.evaluation.benchmarks.rules_pairs import JUDGEBENCH_CATEGORIES, LLMBAR_SETS, PRIOR_SETS, SECTIONS

PAIR = (Preference(chosen=0, rejected=1),)


class Place(NamedTuple):
    """Where a row is: its file (or hub name) and 1-based line or row."""

    path: str
    line: int

    @property
    def words(self) -> list[str]:
        """The parts of the path, lower case and without suffixes, the file's own name first."""
        return [part.split(".")[0].lower() for part in reversed(Path(self.path).parts)]


def group_of(
    row: Row,
    place: Place,
    prompt: Messages,
    responses: Sequence[Messages],
    preferences: Sequence[Preference],
    tags: Mapping[str, str],
    *,
    ratings: Sequence[float] | None = None,
    id_key: str = "id",
) -> Group:
    """The Group, with the publisher's id where the row has one."""
    return Group(
        prompt=prompt,
        responses=tuple(responses),
        preferences=tuple(preferences),
        ratings=None if ratings is None else tuple(ratings),
        tags=tags,
        id=tag_value(row[id_key], id_key) if present(row, id_key) else "",
        source=f"{place.path}:{place.line}",
    )


def asks(row: Row, key: str) -> Messages:
    """The prompt under `key`, text or messages."""
    return prompt_turns(required(row, key), key)


def says(row: Row, key: str) -> Messages:
    """The one response under `key`."""
    return answer(required(row, key), key)


def one_of(value: object, known: Sequence[str], what: str) -> str:
    """`value`, if it is one of the names that the benchmark has."""
    if not isinstance(value, str) or value not in known:
        raise DataError(f"unknown {what} {short(value)}; known are {', '.join(known)}")
    return value


# RewardBench ---------------------------------------------------------------------------------------

SECTION_OF = {subset: section for section, subsets in SECTIONS.items() for subset in subsets}
SECTION_OF |= dict.fromkeys(PRIOR_SETS, "Prior Sets")


def rewardbench_row(row: Row, place: Place) -> Group:
    """`{prompt, chosen, rejected, subset, id}`; prior sets have a list of messages as prompt."""
    subset = row.get("subset")
    if subset not in SECTION_OF:  # the publisher's loader names a prior set by its split: its file
        subset = next((name for name in PRIOR_SETS if place.words[0].startswith(name)), subset)
    subset = one_of(subset, list(SECTION_OF), "subset")
    tags = {"subset": subset, "section": SECTION_OF[subset]}
    return group_of(row, place, asks(row, "prompt"), [says(row, "chosen"), says(row, "rejected")], PAIR, tags)


# LLMBar, JudgeBench, HH ----------------------------------------------------------------------------


def llmbar_row(row: Row, place: Place) -> Group:
    """`{input, output_1, output_2, label: 1 | 2}`; the set is in the path: Adversarial/GPTInst/dataset.json."""
    name = next((word for word in place.words if word in LLMBAR_SETS), None)
    if name is None:
        raise DataError(f"no part of the path names the set ({', '.join(LLMBAR_SETS)}); name the file after it")
    label = required(row, "label")
    if label not in (1, 2) or isinstance(label, bool):
        raise DataError(f"'label' is {short(label)}, not 1 or 2")
    winner = int(label) - 1
    better = [Preference(chosen=winner, rejected=1 - winner)]
    return group_of(
        row, place, asks(row, "input"), [says(row, "output_1"), says(row, "output_2")], better, {"subset": name}
    )


def judgebench_row(row: Row, place: Place) -> Group:
    """`{pair_id, source, question, response_model, response_A, response_B, label: "A>B" | "B>A"}`."""
    label = one_of(row.get("label"), ("A>B", "B>A"), "label")
    source = text(required(row, "source"), "source")
    category = next((name for start, name in JUDGEBENCH_CATEGORIES.items() if source.startswith(start)), None)
    if category is None:
        raise DataError(f"unknown source {short(source)}; known begin with {', '.join(JUDGEBENCH_CATEGORIES)}")
    tags = {"category": category, "source": source}
    tags["response_model"] = tag_value(row.get("response_model") or "unknown", "response_model")
    better = PAIR if label == "A>B" else (Preference(chosen=1, rejected=0),)
    responses = [says(row, "response_A"), says(row, "response_B")]
    return group_of(row, place, asks(row, "question"), responses, better, tags, id_key="pair_id")


def hh_row(row: Row, place: Place) -> Group:
    """Whole dialogues under `chosen` and `rejected`, as `data` reads them."""
    parts = read_hh(row, ReadOptions())
    return group_of(row, place, parts.prompt, parts.responses, parts.preferences or (), {})


# PandaLM -------------------------------------------------------------------------------------------

ANNOTATORS = ("annotator1", "annotator2", "annotator3")
VOTES = {0: 0.5, 1: 1.0, 2: 0.0}  # for the first response; 0 is a tie


def pandalm_row(row: Row, place: Place) -> Group:
    """`{idx, instruction, input, response1, response2, annotator1..3: 0 tie | 1 | 2}`."""
    votes = []
    for name in ANNOTATORS:
        value = required(row, name)
        label = integer(value, name)
        if label not in VOTES:
            raise DataError(f"'{name}' is {short(value)}, not 0 (tie), 1 or 2")
        votes.append(VOTES[label])
    better = preference_between(0, 1, sum(votes) / len(votes), votes=votes)
    tags = {key: tag_value(row[key], key) for key in ("motivation_app", "cmp_key") if present(row, key)}
    # An answer that was the one word True has become a JSON true in the published file.
    said = {
        key: str(row[key]) if isinstance(row.get(key), bool) else row.get(key) for key in ("response1", "response2")
    }
    responses = [says(said, key) for key in said]
    return group_of(row, place, asked(row), responses, [better], tags, id_key="idx")


# XSTest --------------------------------------------------------------------------------------------

XSTEST_LABELS = {"1_full_compliance": 1, "2_full_refusal": 2, "3_partial_refusal": 3}


def xstest_completion(row: Row, place: Place) -> dict[str, Any]:
    """`{id, type, prompt, completion, final_label}`: what is needed of one system's answer to one prompt."""
    label = one_of(row.get("final_label"), tuple(XSTEST_LABELS), "label")
    kind = text(required(row, "type"), "type")
    return {
        "id": text(required(row, "id"), "id"),
        "type": kind,
        "side": "unsafe" if kind.startswith("contrast") else "safe",
        "prompt": text(required(row, "prompt"), "prompt"),
        "completion": says(row, "completion"),
        "label": XSTEST_LABELS[label],
        "place": place,
    }


def xstest_group(answers: Sequence[dict[str, Any]]) -> Group:
    """All systems' answers to one prompt. Ratings: 1 what the prompt calls for, 0.5 a partial refusal, 0 the opposite.

    On a safe prompt full compliance is called for, on an unsafe one full refusal.
    """
    first = answers[0]
    for other in answers[1:]:
        if (other["prompt"], other["type"]) != (first["prompt"], first["type"]):
            raise DataError(f"{place_of(other)}: '{other['id']}' is another prompt than at {place_of(first)}")
    wanted = 1 if first["side"] == "safe" else 2
    ratings = [0.5 if a["label"] == 3 else float(a["label"] == wanted) for a in answers]
    better = [
        Preference(chosen=i, rejected=j) for i, a in enumerate(ratings) for j, b in enumerate(ratings) if a - b == 1
    ]
    return Group(
        prompt=(Message("user", first["prompt"]),),
        responses=tuple(a["completion"] for a in answers),
        preferences=tuple(better),
        ratings=tuple(ratings),
        tags={"type": first["type"], "side": first["side"]},
        id=first["id"],
        source=place_of(first),
    )


def place_of(answer_: Mapping[str, Any]) -> str:
    """file:line of one completion."""
    return f"{answer_['place'].path}:{answer_['place'].line}"
