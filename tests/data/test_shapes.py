"""Every shape: a tiny hand-written row, recognised without flags, and the exact group that it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rewardsmith.data.readers import ReadOptions, ReadReport, read_groups
from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.errors import DataError

Row = dict[str, Any]


def user(text: str) -> Message:
    return Message("user", text)


def said(text: str) -> Message:
    return Message("assistant", text)


Q, A, B, C = (user("Q"),), (said("A"),), (said("B"),), (said("C"),)
WON = (Preference(chosen=0, rejected=1),)
CHAT_Q = [{"role": "user", "content": "Q"}]
CHAT_A = [{"role": "assistant", "content": "A"}]
CHAT_B = [{"role": "assistant", "content": "B"}]
CHAT_C = [{"role": "assistant", "content": "C"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "f"}}]}


def read(tmp_path: Path, rows: Row | list[Row], **options: Any) -> tuple[list[Group], ReadReport]:
    path = tmp_path / "rows.jsonl"
    rows = rows if isinstance(rows, list) else [rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = ReadReport()
    return list(read_groups(path, ReadOptions(**options), report=report)), report


def pair(prompt: Any = Q, chosen: Any = A, rejected: Any = B, **more: Any) -> Group:
    return Group(prompt=prompt, responses=(chosen, rejected), **{"preferences": WON, **more})


HH = "\n\nHuman: Q\n\nAssistant: "
CASES: list[tuple[str, Row, Group]] = [
    ("trl", {"prompt": "Q", "chosen": "A", "rejected": "B"}, pair()),
    ("trl", {"chosen": "A", "rejected": "B"}, pair(())),
    ("trl", {"prompt": CHAT_Q, "chosen": CHAT_A, "rejected": CHAT_B}, pair()),
    ("trl", {"chosen": CHAT_Q + CHAT_A, "rejected": CHAT_Q + CHAT_B}, pair()),
    # The prompt as text and again inside the dialogues, as in the most used binarised data sets.
    ("trl", {"prompt": "Q", "chosen": CHAT_Q + CHAT_A, "rejected": CHAT_Q + CHAT_B}, pair()),
    ("trl", {"prompt": "", "chosen": "", "rejected": "B"}, pair((user(""),), (said(""),))),
    (
        "trl",
        {
            "prompt": CHAT_Q,
            "chosen": [CALL, {"role": "tool", "content": "1"}, *CHAT_A],
            "rejected": CHAT_B,
            "tools": json.dumps([TOOL]),
            "chat_template_kwargs": {"thinking": False},
            "margin": 0.5,
        },
        pair(
            Q,
            (Message("assistant", "", {"tool_calls": CALL["tool_calls"]}), Message("tool", "1"), *A),
            tools=[TOOL],
            template_kwargs={"thinking": False},
            preferences=(Preference(chosen=0, rejected=1, margin=0.5),),
        ),
    ),
    (
        "trl",
        {
            "prompt": "Q",
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "A"}]}],
            "rejected": CHAT_B,
            "system": "S",
        },
        pair((Message("system", "S"), *Q)),
    ),
    ("hh", {"chosen": HH + "A", "rejected": HH + "B"}, pair()),
    (
        "hh",
        {"chosen": HH + "x\n\nHuman: R\n\nAssistant: A", "rejected": HH + "x\n\nHuman: R\n\nAssistant: B"},
        pair((*Q, said("x"), user("R"))),
    ),
    # Identical sides still leave a response on each.
    ("hh", {"chosen": HH + "A", "rejected": HH + "A"}, pair(Q, A, A)),
    # Sides that part at a user turn: the prompt goes back to before the answer that they share.
    (
        "hh",
        {"chosen": HH + "x\n\nHuman: R\n\nAssistant: A", "rejected": HH + "x\n\nHuman: S\n\nAssistant: B"},
        pair(Q, (said("x"), user("R"), *A), (said("x"), user("S"), *B)),
    ),
    ("hh", {"chosen": HH + "A", "rejected": HH + "A\n\nHuman: R\n\nAssistant: B"}, pair(Q, A, (*A, user("R"), *B))),
    ("hh", {"prompt": "\n\nHuman: Q\n\nAssistant:", "chosen": " A", "rejected": " B"}, pair()),
    (
        "ultrafeedback",
        {
            "instruction": "Q",
            "completions": [
                {"response": "A", "overall_score": 7},
                {"response": "B", "overall_score": "3"},
                {"response": "C", "overall_score": None},
            ],
        },
        Group(prompt=Q, responses=(A, B, C), preferences=WON, ratings=(7, 3, None)),
    ),
    (
        "ultrafeedback",
        {"prompt": "Q", "completions": [{"text": "B", "score": 1}, {"text": "A", "score": 2}]},
        Group(prompt=Q, responses=(B, A), preferences=(Preference(chosen=1, rejected=0),), ratings=(1, 2)),
    ),
    (
        "nemo",
        {
            "context": CHAT_Q,
            "completions": [
                {"rank": 1, "completion": CHAT_B},
                {"rank": 0, "completion": CHAT_A},
                {"rank": 1, "completion": "C"},
            ],
        },
        Group(
            prompt=Q,
            responses=(B, A, C),
            preferences=(
                Preference(chosen=1, rejected=0),
                Preference(chosen=0, rejected=2, probability=0.5),
                Preference(chosen=1, rejected=2),
            ),
        ),
    ),
    (
        "ms-swift",
        {"messages": CHAT_Q + CHAT_A, "rejected_response": "B", "margin": 2},
        pair(preferences=(Preference(chosen=0, rejected=1, margin=2),)),
    ),
    ("ms-swift", {"messages": CHAT_Q + CHAT_A, "rejected_messages": CHAT_Q + CHAT_B}, pair()),
    ("llama-factory", {"instruction": "Q", "input": "", "chosen": "A", "rejected": "B"}, pair()),
    (
        "llama-factory",
        {"instruction": "Q", "input": "I", "chosen": "A", "rejected": "B", "system": "S", "history": [["u", "v"]]},
        pair((Message("system", "S"), user("u"), said("v"), user("Q\nI"))),
    ),
    (
        "llama-factory",
        {
            "conversations": [{"from": "human", "value": "Q"}],
            "chosen": {"from": "gpt", "value": "A"},
            "rejected": {"from": "gpt", "value": "B"},
        },
        pair(),
    ),
    ("axolotl", {"system": "S", "input": "Q", "chosen": "A", "rejected": "B"}, pair((Message("system", "S"), *Q))),
    ("axolotl", {"messages": CHAT_Q, "chosen": CHAT_A[0], "rejected": CHAT_B[0]}, pair()),
    # Whole dialogues beside the prompt that they repeat, in every shape that has room for both.
    ("axolotl", {"messages": CHAT_Q, "chosen": CHAT_Q + CHAT_A, "rejected": CHAT_Q + CHAT_B}, pair()),
    (
        "axolotl",
        {"system": "S", "input": "Q", "chosen": CHAT_Q + CHAT_A, "rejected": CHAT_Q + CHAT_B},
        pair((Message("system", "S"), *Q)),
    ),
    (
        "axolotl",
        {
            "messages": CHAT_Q,
            "chosen": CHAT_Q + CHAT_C + CHAT_Q + CHAT_A,
            "rejected": CHAT_Q + CHAT_C + CHAT_Q + CHAT_B,
        },
        pair((*Q, *C, *Q)),
    ),
    ("llama-factory", {"instruction": "Q", "chosen": CHAT_Q + CHAT_A, "rejected": CHAT_Q + CHAT_B}, pair()),
    ("llama-factory", {"conversations": CHAT_Q, "chosen": CHAT_Q + CHAT_A, "rejected": CHAT_Q + CHAT_B}, pair()),
    (
        "pairwise",
        {"prompt": "Q", "response_a": CHAT_Q + CHAT_A, "response_b": CHAT_Q + CHAT_B, "winner": "model_a"},
        pair(),
    ),
    (
        "nemo",
        {
            "context": CHAT_Q,
            "completions": [{"rank": r, "completion": CHAT_Q + said_} for r, said_ in ((0, CHAT_A), (1, CHAT_B))],
        },
        pair(),
    ),
    (
        "ultrafeedback",
        {
            "prompt": "Q",
            "completions": [{"score": s, "response": CHAT_Q + said_} for s, said_ in ((2, CHAT_A), (1, CHAT_B))],
        },
        pair(ratings=(2, 1)),
    ),
    (
        "scored",
        {"prompt": "Q", "response": CHAT_Q + CHAT_A + CHAT_Q + CHAT_B, "score": 1},
        Group(prompt=Q, responses=((*A, *Q, *B),), ratings=(1,)),
    ),
    ("scored", {"prompt": "Q", "response": "A"}, Group(prompt=Q, responses=(A,))),
    (
        "pairwise",
        {"input": "Q", "output_1": "B", "output_2": "A", "label": 2},
        Group(prompt=Q, responses=(B, A), preferences=(Preference(chosen=1, rejected=0),)),
    ),
    (
        "pairwise",
        {"prompt": "Q", "response_a": "A", "response_b": "B", "winner": "tie (bothbad)"},
        pair(preferences=(Preference(chosen=0, rejected=1, probability=0.5),)),
    ),
    (
        "pairwise",
        {
            "instruction": "Q",
            "input": "I",
            "response1": "B",
            "response2": "A",
            "annotator1": 2,
            "annotator2": 0,
            "annotator10": 2,
            "annotator3": None,
        },
        Group(
            prompt=(user("Q\nI"),),
            responses=(B, A),
            preferences=(Preference(chosen=1, rejected=0, probability=1 - 0.5 / 3, votes=(1, 0.5, 1)),),
        ),
    ),
    (
        "pairwise",
        {
            "prompt": '["Q"]',
            "response_a": '["A"]',
            "response_b": '["B"]',
            "winner_model_a": 1,
            "winner_model_b": 0,
            "winner_tie": 0,
        },
        pair(),
    ),
    ("pairwise", {"conversation_a": CHAT_Q + CHAT_A, "conversation_b": CHAT_Q + CHAT_B, "winner": "model_a"}, pair()),
    (
        "pairwise",
        {"context": CHAT_Q, "response1": "A", "response2": "B", "overall_preference": -2},
        pair(preferences=(Preference(chosen=0, rejected=1, margin=2),)),
    ),
    (
        "rm-bench",
        {"prompt": "Q", "chosen": ["A", "C"], "rejected": ["B", "D"]},
        Group(
            prompt=Q,
            responses=(A, C, B, (said("D"),)),
            preferences=tuple(Preference(chosen=c, rejected=r) for c in (0, 1) for r in (2, 3)),
        ),
    ),
    (
        "rewardsmith",
        {
            "id": "x",
            "prompt": "Q",
            "responses": ["A", CHAT_B, "C"],
            "ratings": [1, None, 3],
            "tags": {"k": 2},
            "note": "why",
            "tools": [TOOL],
            "template_kwargs": {"a": None},
            "weight": 0.5,
        },
        Group(
            id="x",
            prompt=Q,
            responses=(A, B, C),
            ratings=(1, None, 3),
            preferences=(Preference(chosen=2, rejected=0),),
            tags={"k": "2"},
            note="why",
            tools=[TOOL],
            template_kwargs={"a": None},
            weight=0.5,
        ),
    ),
    (
        "rewardsmith",
        {
            "prompt": CHAT_Q,
            "responses": ["A", "B"],
            "preferences": [
                {"chosen": 0, "rejected": 1, "probability": 0.25, "margin": 1, "weight": 2, "votes": [0, 0.5]}
            ],
        },
        pair(preferences=(Preference(chosen=1, rejected=0, probability=0.75, margin=1, weight=2, votes=(1, 0.5)),)),
    ),
]


@pytest.mark.parametrize(("shape", "row", "group"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_a_shape_is_recognised_and_read(tmp_path: Path, shape: str, row: Row, group: Group) -> None:
    (found,), report = read(tmp_path, row)
    assert report.files[0].shape == shape
    assert not report.files[0].unknown_keys
    assert found.source == f"{tmp_path / 'rows.jsonl'}:1"
    for name in Group.__dataclass_fields__:
        if name != "source":
            assert same(getattr(found, name), getattr(group, name)), name


def same(found: Any, wanted: Any) -> bool:
    """Equality, with probabilities that were averaged compared to rounding."""
    if isinstance(wanted, tuple) and wanted and isinstance(wanted[0], Preference):
        shares = [p.probability for p in found] == pytest.approx([p.probability for p in wanted])
        return bool(shares) and [strip(p) for p in found] == [strip(p) for p in wanted]
    return bool(found == wanted)


def strip(p: Preference) -> tuple[Any, ...]:
    return p.chosen, p.rejected, p.margin, p.weight, p.votes


def test_rows_of_one_prompt_become_one_group(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Q", "response": "A", "score": 2, "subset": "s", "source": "one"},
        {"prompt": "other", "response": "A", "score": 1},
        {"prompt": "Q", "response": "B", "score": "1.5", "subset": "s", "source": "two"},
        {"prompt": "Q", "response": "C", "score": None, "subset": "s", "source": "two"},
    ]
    groups, report = read(tmp_path, rows)
    first = Group(prompt=Q, responses=(A, B, C), ratings=(2, 1.5, None), preferences=WON, tags={"subset": "s"})
    assert [g.id for g in groups] == [first.id, groups[1].id]
    assert (groups[0].ratings, groups[0].preferences, groups[0].tags) == (first.ratings, WON, {"subset": "s"})
    file = report.files[0]
    assert (file.shape, file.rating_key, file.rows, file.rows_used, file.groups, file.pairs) == (
        "scored",
        "score",
        4,
        4,
        2,
        1,
    )
    assert file.defaulted["tag 'source' left out: the responses of a prompt disagree"] == 1


def test_candidates_without_a_score_are_groups_without_labels(tmp_path: Path) -> None:
    rows = [{"prompt": p, "response": r} for p, r in (("Q", "A"), ("R", "A"), ("Q", "B"))]
    groups, report = read(tmp_path, rows)
    assert [(len(g.responses), g.ratings, g.preferences) for g in groups] == [(2, None, ()), (1, None, ())]
    assert (report.files[0].shape, report.files[0].rows_used, report.files[0].pairs) == ("scored", 3, 0)
    assert [w.split(": ", 1)[1] for w in report.warnings] == [
        "no row states a preference; the groups can be scored, not trained on"
    ]
    # A score that some rows lack is a score that is not known.
    groups, _ = read(tmp_path, [rows[0] | {"score": 2}, rows[2]])
    assert groups[0].ratings == (2, None)
    # A score column that was named has to be there.
    with pytest.raises(DataError, match="no known shape"):
        read(tmp_path, rows, rating_key="stars")
    # Two answers without a winner are no pair, and the message says what is missing.
    with pytest.raises(DataError, match=r"response_a and response_b are there, but no column says who won \(winner,"):
        read(tmp_path, {"prompt": "Q", "response_a": "A", "response_b": "B"})


def test_prompt_ids_keep_equal_prompts_apart(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "response": r, "gold": 1, "prompt_id": i} for r, i in (("A", 1), ("B", 2), ("C", 1))]
    groups, _ = read(tmp_path, rows)
    assert [(g.id, len(g.responses)) for g in groups] == [("1", 2), ("2", 1)]


def test_columns_named_by_the_user(tmp_path: Path) -> None:
    row = {"question": "Q", "good": "A", "bad": "B", "how_much": 3, "sys": "S", "key": 7, "lang": "de"}
    (group,), report = read(
        tmp_path,
        row,
        shape="openrlhf",
        prompt_key="question",
        chosen_key="good",
        rejected_key="bad",
        margin_key="how_much",
        system_key="sys",
        id_key="key",
        tag_keys=("lang",),
    )
    assert group.prompt == (Message("system", "S"), *Q)
    assert (group.responses, group.preferences[0].margin, group.id, group.tags) == (
        (A, B),
        3,
        "7",
        {"lang": "de"},
    )
    assert not report.files[0].unknown_keys


def test_scores_and_lists_named_by_the_user(tmp_path: Path) -> None:
    (group,), _ = read(
        tmp_path,
        {"prompt": "Q", "outs": ["A", "B"], "stars": [5, 1]},
        responses_key="outs",
        rating_key="stars",
    )
    assert (group.responses, group.ratings, group.preferences) == ((A, B), (5, 1), WON)
    row = {"prompt": "Q", "outs": [{"text": "A", "stars": 5}, {"text": "B", "stars": 4}]}
    (group,), report = read(tmp_path, row, responses_key="outs", rating_key="stars", rating_gap=1.0)
    assert (group.ratings, group.preferences, report.files[0].shape) == ((5, 4), (), "ultrafeedback")
    (group,), _ = read(tmp_path, {"prompt": "Q", "text": "A", "a": 1, "b": 2}, response_key="text", rating_key="b")
    assert group.ratings == (2,)


GOOD: dict[str, Row] = {
    "trl": {"prompt": "Q", "chosen": "A", "rejected": "B"},
    "hh": {"chosen": HH + "A", "rejected": HH + "B"},
    "ultrafeedback": {"prompt": "Q", "completions": [{"response": "A", "score": 1}]},
    "scored": {"prompt": "Q", "response": "A", "score": 1},
    "nemo": {"prompt": "Q", "completions": [{"rank": 0, "completion": "A"}]},
    "ms-swift": {"messages": CHAT_Q + CHAT_A, "rejected_response": "B"},
    "llama-factory": {"instruction": "Q", "chosen": "A", "rejected": "B"},
    "axolotl": {"input": "Q", "chosen": "A", "rejected": "B"},
    "pairwise": {"prompt": "Q", "response1": "A", "response2": "B", "winner": 1},
    "rm-bench": {"prompt": "Q", "chosen": ["A"], "rejected": ["B"]},
    "rewardsmith": {"prompt": "Q", "responses": ["A", "B"]},
}
BAD: list[tuple[str, Row, str]] = [
    ("trl", {"chosen": None}, "'chosen' is null"),
    ("trl", {"rejected": 3}, "'chosen' is text and 'rejected' is a number"),
    ("trl", {"chosen": CHAT_A}, "'chosen' is a list and 'rejected' is text"),
    ("trl", {"chosen": [], "rejected": CHAT_B}, "'chosen' is an empty list"),
    ("trl", {"chosen": [{"role": "boss", "content": "x"}], "rejected": CHAT_B}, "'chosen[0]' has the role 'boss'"),
    ("trl", {"chosen": CHAT_Q, "rejected": CHAT_Q}, "'chosen' has no assistant turn"),
    ("trl", {"prompt": None, "chosen": CHAT_A, "rejected": CHAT_Q + CHAT_B}, "begin with different prompts"),
    ("trl", {"prompt": "R", "chosen": CHAT_Q + CHAT_A, "rejected": CHAT_Q + CHAT_B}, "repeat another prompt"),
    ("trl", {"chosen": "\ud800"}, "'chosen' holds a lone surrogate at character 0"),
    ("trl", {"chosen": "a\0"}, "'chosen' holds a NUL"),
    ("trl", {"margin": -1}, "margin -1.0 is not a finite number >= 0"),
    ("trl", {"margin": float("nan")}, "'margin' is nan, not a finite number"),
    ("trl", {"margin": True}, "'margin' is true/false, not a number"),
    ("trl", {"tools": "nonsense"}, "'tools' is text and not a JSON list"),
    ("trl", {"tools": ["f"]}, "'tools[0]' is text, not an object"),
    ("hh", {"rejected": "\n\nHuman: other\n\nAssistant: B"}, "begin with different prompts"),
    ("hh", {"rejected": "text"}, "'rejected' does not begin with"),
    ("hh", {"rejected": "\n\nHuman: Q"}, "'rejected' has no assistant turn"),
    ("ultrafeedback", {"completions": []}, "'completions' is an empty list"),
    ("ultrafeedback", {"completions": ["x"]}, "'completions[0]' is text and not a JSON dict"),
    ("ultrafeedback", {"completions": [{"response": "A"}]}, "no completion has a rating"),
    (
        "ultrafeedback",
        {"completions": [{"response": "A", "score": "N/A"}]},
        "'completions[0].score' is 'N/A', not a number",
    ),
    ("scored", {"score": 10**400}, "'score' is too large for a number"),
    ("scored", {"score": float("inf")}, "'score' is inf, not a finite number"),
    ("scored", {"response": True}, "'response' is true/false, neither text nor messages"),
    ("scored", {"prompt_id": []}, "'prompt_id' is a list"),
    ("nemo", {"completions": [{"completion": "A"}]}, "no 'rank'"),
    ("nemo", {"completions": [{"rank": 0, "completion": None}]}, "'completion' is null"),
    ("ms-swift", {"messages": CHAT_Q}, "'messages' do not end with an assistant turn"),
    ("ms-swift", {"rejected_response": None}, "'rejected_response' is null"),
    ("llama-factory", {"instruction": None}, "neither 'instruction' nor 'input' is there"),
    ("llama-factory", {"history": ["x"]}, "'history[0]' is not [question, answer]"),
    ("axolotl", {"input": 5}, "'input' is a number, not text"),
    # The given prompt holds the answer: it is no prompt, and must not become one.
    (
        "axolotl",
        {"input": None, "messages": CHAT_Q + CHAT_A, "chosen": CHAT_Q + CHAT_A, "rejected": CHAT_Q + CHAT_B},
        "the prompt ends with 'chosen' already: take the answer out of the prompt",
    ),
    ("axolotl", {"messages": CHAT_Q + CHAT_A}, "the prompt ends with 'chosen' already"),
    ("llama-factory", {"chosen": CHAT_C + CHAT_A, "rejected": CHAT_Q + CHAT_B}, "begin with different prompts"),
    (
        "llama-factory",
        {"instruction": "R", "chosen": CHAT_Q + CHAT_A, "rejected": CHAT_Q + CHAT_B},
        "repeat another prompt",
    ),
    ("nemo", {"completions": [{"rank": 0, "completion": [*CHAT_A, *CHAT_Q]}] * 2 + [3]}, "is a number, not an object"),
    ("nemo", {"prompt": "R", "completions": [{"rank": 0, "completion": CHAT_Q + CHAT_A}]}, "repeat another prompt"),
    ("pairwise", {"winner": "nobody"}, "'winner' is 'nobody', which names no winner"),
    ("pairwise", {"winner": None}, "none of 'winner'"),
    ("pairwise", {"response1": None}, "'response1' is null"),
    ("pairwise", {"winner_model_a": 1, "winner_model_b": 1}, "add up to 2, not 1"),
    ("rm-bench", {"rejected": ["B", "C"]}, "1 chosen and 2 rejected styles"),
    ("rewardsmith", {"responses": []}, "'responses' is an empty list"),
    ("rewardsmith", {"responses": ["A", None]}, "'responses[1]' is null, neither text nor messages"),
    ("rewardsmith", {"ratings": [1]}, "1 ratings for 2 responses"),
    ("rewardsmith", {"preferences": [{"chosen": 0, "rejected": 2}]}, "preference names response 2 of 2"),
    ("rewardsmith", {"preferences": [{"chosen": 0.5, "rejected": 1}]}, "is 0.5, not a whole number"),
    ("rewardsmith", {"preferences": [{"chosen": 0, "rejected": 1, "p": 1}]}, "unknown key 'p'"),
    (
        "rewardsmith",
        {"preferences": [{"chosen": 0, "rejected": 1, "probability": 2}]},
        "probability 2.0 is not in [0, 1]",
    ),
    ("rewardsmith", {"tags": {"a": [1]}}, "'tags.a' is a list, not a tag"),
    ("rewardsmith", {"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "not text: 'image'"),
    (
        "rewardsmith",
        {"prompt": [{"role": "user", "content": "x", "k": [[[[0]]]] * 2}] * 1000 + [3]},
        "is a number, not a message",
    ),
]


@pytest.mark.parametrize(("shape", "change", "reason"), BAD, ids=[f"{i}-{b[0]}" for i, b in enumerate(BAD)])
def test_a_bad_row_is_dropped_with_its_reason(tmp_path: Path, shape: str, change: Row, reason: str) -> None:
    good = GOOD[shape]
    groups, report = read(tmp_path, [good, good | change, good])
    assert len(groups) in (1, 2)  # the scored rows of one prompt are one group
    assert report.files[0].shape == shape
    (dropped,) = report.dropped
    assert dropped.line == 2
    assert reason in dropped.reason
    assert "\n" not in dropped.reason


@pytest.mark.parametrize("shape", GOOD)
def test_a_missing_key_is_a_dropped_row(tmp_path: Path, shape: str) -> None:
    good = GOOD[shape]
    for key in good:
        changed = {k: v for k, v in good.items() if k != key}
        _, report = read(tmp_path, [good, changed, good], shape=shape)
        optional = key == "prompt" if shape in ("rewardsmith", "trl") else key == "score"
        assert [d.line for d in report.dropped] == ([] if optional else [2]), key


def test_ambiguous_files_ask(tmp_path: Path) -> None:
    both = [GOOD["trl"], GOOD["nemo"]] * 5
    with pytest.raises(
        DataError, match=r"fit several shapes: trl \(5 of 10 rows\), nemo \(5 of 10 rows\); give --shape"
    ):
        read(tmp_path, both)
    with pytest.raises(DataError, match=r"no known shape has the columns 'chosen, question, rejected'.*--prompt-key"):
        read(tmp_path, {"question": "Q", "chosen": "A", "rejected": "B"})
    with pytest.raises(DataError, match=r"several score columns \(score, rating\); name one with --rating-key"):
        read(tmp_path, GOOD["scored"] | {"rating": 3})
    with pytest.raises(DataError, match=r"'label' is 0 or 1 and never 2.*--winner-labels"):
        read(tmp_path, [{"prompt": "Q", "response1": "A", "response2": "B", "label": n} for n in (0, 1)])


def test_winner_labels(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "response1": "A", "response2": "B", "label": n} for n in (0, 1, 9)]
    groups, report = read(tmp_path, rows, winner_labels=("0", "1"))
    assert [g.preferences[0].chosen for g in groups] == [0, 1]
    assert report.dropped[0].reason == "'label' is 9, not one of 0, 1"
