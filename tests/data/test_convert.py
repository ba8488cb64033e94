"""A round trip through any shape and file type gives back the same groups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewardsmith.data.convert import convert, ranks_of
from rewardsmith.data.files import read_rows
from rewardsmith.data.readers import ReadOptions, ReadReport, read_groups
from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.errors import DataError

SHAPES = ("trl", "openrlhf", "nemo", "rewardsmith")
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")

texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
names = st.text("abcé_", min_size=1, max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)
extras = st.dictionaries(
    st.just("tool_calls"), st.lists(st.dictionaries(names, values, max_size=2), min_size=1, max_size=2)
)
turns = st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), texts, extras)
answers = st.tuples(st.lists(turns, max_size=2), st.builds(Message, st.just("assistant"), texts, extras)).map(
    lambda parts: (*parts[0], parts[1])
)
finite = st.floats(0, 10, allow_nan=False)


@st.composite
def preference_lists(draw: Any, k: int) -> tuple[Preference, ...]:
    """Statements about any pairs, several about one pair and circles included."""
    made = []
    for _ in range(draw(st.integers(0, 5)) if k > 1 else 0):
        chosen, rejected = draw(st.permutations(range(k)))[:2]
        share = draw(st.sampled_from([0.5, 0.7, 1.0]))
        votes = draw(st.just(()) | st.just((1.0, 0.5, 0.0)))
        made.append(
            Preference(
                chosen=chosen,
                rejected=rejected,
                probability=share,
                margin=draw(finite),
                weight=draw(finite),
                votes=votes,
            )
        )
    return tuple(made)


@st.composite
def groups(draw: Any) -> Group:
    k = draw(st.integers(1, 4))
    return Group(
        prompt=tuple(draw(st.lists(turns, max_size=3))),
        responses=tuple(draw(answers) for _ in range(k)),
        preferences=draw(preference_lists(k)),
        ratings=draw(st.none() | st.tuples(*[st.none() | st.floats(-1e6, 1e6)] * k)),
        tags=draw(st.dictionaries(names, texts, max_size=2)),
        tools=draw(st.none() | st.lists(st.dictionaries(names, values, max_size=2), max_size=2)),
        template_kwargs=draw(st.dictionaries(names, values, max_size=2)),
        weight=draw(finite),
        note=draw(texts),
        id=draw(st.just("") | st.just("an id é")),
    )


def round_trip(made: list[Group], shape: str, path: Path) -> list[Group]:
    convert(made, shape, path)
    report = ReadReport()
    found = [replace(g, source="") for g in read_groups(path, ReadOptions(), report=report)]
    assert not report.dropped
    return found


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(made=st.lists(groups(), min_size=1, max_size=3, unique_by=lambda g: g.id))
def test_a_round_trip_is_exact(tmp_path: Path, made: list[Group]) -> None:
    for shape in SHAPES:
        for suffix in (".jsonl", ".parquet"):
            assert round_trip(made, shape, tmp_path / f"out{suffix}") == made, (shape, suffix)


def ranked(**more: Any) -> Group:
    """Three responses, 0 and 1 tied, both better than 2."""
    return Group(
        prompt=(Message("system", "S"), Message("user", "Q")),
        responses=tuple((Message("assistant", text),) for text in "ABC"),
        preferences=(
            Preference(chosen=0, rejected=1, probability=0.5),
            Preference(chosen=0, rejected=2, margin=1.5),
            Preference(chosen=1, rejected=2),
        ),
        **more,
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_file_type(tmp_path: Path, shape: str, suffix: str) -> None:
    made = [ranked(id=f"g{i}", tags={"subset": "s"}) for i in range(3)]
    assert round_trip(made, shape, tmp_path / f"out{suffix}") == made
    assert [p.name for p in tmp_path.iterdir()] == [f"out{suffix}"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("shape", ["trl", "openrlhf", "nemo"])
def test_other_tools_read_the_same_pairs(tmp_path: Path, shape: str, suffix: str) -> None:
    """Without our column the file is what its shape says: strict preferences, and no tie told as a win."""
    tie = Group(
        prompt=ranked().prompt,
        responses=ranked().responses[:2],
        preferences=(Preference(chosen=0, rejected=1, probability=0.5),),
    )
    report = convert([ranked(), tie], shape, tmp_path / f"out{suffix}")
    rows = [row.value or {} for row in read_rows(str(tmp_path / f"out{suffix}"))]
    for row in rows:
        json.loads(row.pop("rewardsmith"))
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = list(read_groups(bare))
    assert all(g.prompt == ranked().prompt for g in found)
    if shape == "nemo":
        assert [[c["rank"] for c in row["completions"]] for row in rows] == [[0, 0, 1], [0, 0]]
        assert [replace(g, source="", id="x") for g in found] == [
            replace(ranked(), preferences=tuple(replace(p, margin=0.0) for p in ranked().preferences), id="x"),
            replace(tie, id="x"),
        ]
        return
    assert (report.groups, report.rows, report.placeholders) == (2, 3, 1)
    said = [tuple(side[0].content for side in g.responses) for g in found]
    assert said == [("A", "C"), ("B", "C"), ("A", "A")]
    assert [g.preferences[0].margin for g in found] == [1.5, 0, 0]


def test_trl_and_openrlhf_rows_are_what_those_tools_expect(tmp_path: Path) -> None:
    tools = [{"type": "function"}]
    group = replace(ranked(), tools=tools, template_kwargs={"thinking": False})
    prompt = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    a, c = ([{"role": "assistant", "content": text}] for text in "AC")
    also = {
        "margin": 1.5,
        "tools": json.dumps(tools, separators=(",", ":")),
        "chat_template_kwargs": {"thinking": False},
    }
    for shape, expected in (
        ("trl", {"prompt": prompt, "chosen": a, "rejected": c, **also}),
        ("openrlhf", {"chosen": prompt + a, "rejected": prompt + c, **also}),
    ):
        convert([group], shape, tmp_path / "out.jsonl")
        row = next(read_rows(str(tmp_path / "out.jsonl"))).value or {}
        assert {k: v for k, v in row.items() if k != "rewardsmith"} == expected


def test_ranks_only_where_they_say_no_more_than_the_preferences() -> None:
    group = ranked()
    assert ranks_of(group) == [0, 0, 1]
    assert ranks_of(replace(group, preferences=group.preferences[1:])) == [0, 0, 1]
    assert ranks_of(replace(group, preferences=group.preferences[2:])) is None  # 0 was compared with nobody
    circle = tuple(Preference(chosen=i, rejected=(i + 1) % 3) for i in range(3))
    assert ranks_of(replace(group, preferences=circle)) is None
    assert ranks_of(replace(group, preferences=())) is None


def test_rows_in_another_order_are_named_not_counted_twice(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    convert([ranked(id="g"), ranked(id="h")], "trl", path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]))
    report = ReadReport()
    assert [g.id for g in read_groups(path, report=report)] == ["g", "h"]
    assert [d.line for d in report.dropped] == [1]
    assert "not below its first row" in report.dropped[0].reason


@pytest.mark.parametrize(
    "change",
    [
        "x",
        "{}",
        '{"format": 9}',
        '{"format": 1}',
        '{"format": 1, "at": [0], "k": 2}',
        '{"format":1,"at":[0,1],"k":3}',
    ],
)
def test_a_damaged_column_is_a_dropped_row(tmp_path: Path, change: str) -> None:
    path = tmp_path / "out.jsonl"
    convert([ranked(id="g"), ranked(id="h")], "nemo", path)
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    path.write_text(json.dumps(first | {"rewardsmith": change}) + "\n" + json.dumps(second) + "\n")
    report = ReadReport()
    assert [g.id for g in read_groups(path, report=report)] == ["h"]
    assert [d.line for d in report.dropped] == [1]


def test_an_edited_text_counts(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    convert([ranked()], "trl", path)
    path.write_text(path.read_text().replace('"content":"A"', '"content":"A, edited"'))
    (group,) = read_groups(path)
    assert [r[0].content for r in group.responses] == ["A, edited", "B", "C"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whole_or_not_at_all(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_text("what was there")

    def interrupted() -> Iterator[Group]:
        yield ranked()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(interrupted(), "trl", path)
    for bad in (
        [],
        [replace(ranked(), note="\ud800")],
        [Group(prompt=(), responses=((Message("assistant", "a\0"),),))],
    ):
        with pytest.raises(DataError):
            convert(bad, "trl", path)
    assert path.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write the shape 'hh'"):
        convert([ranked()], "hh", tmp_path / "a.jsonl")
    for name in ("a.csv", "a.parquet.gz", "a"):
        with pytest.raises(DataError, match="give a name that ends in"):
            convert([ranked()], "trl", tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        convert([ranked()], "trl", tmp_path / "file" / "a.jsonl")


def test_the_same_groups_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        convert([ranked()], "trl", tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
