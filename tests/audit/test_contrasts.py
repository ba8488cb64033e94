"""Contrasts of real answers, in the publishers' shapes."""

from __future__ import annotations

import csv
import json

import pytest

from rewardsmith.audit.contrasts import alpaca, real_contrasts, rm_bench, twins, xstest
from rewardsmith.errors import ConfigError, DataError


def texts(one):
    return sorted((c.change.before.response, c.change.after.response) for cs in one.contrasts.values() for c in cs)


def answers(**systems: str):
    return [
        {"prompt": f"q{i}", "generator": name.replace("__", "_"), "response": f"{text} {i}"}
        for name, text in systems.items()
        for i in range(3)
    ]


def test_twins_run_from_the_shorter_to_the_longer():
    assert set(twins(["a", "a_concise", "b", "c", "c_verbose", "d_concise"])) == {
        ("a_concise", "a"),
        ("c", "c_verbose"),
    }


def test_alpaca_takes_twins_or_any_two():
    rows = answers(a="plain", a_concise="short", b="other")
    (one,) = alpaca(rows)
    assert (one.name, one.agrees_with) == ("a_concise to a", ("padding",))
    assert texts(one) == [(f"short {i}", f"plain {i}") for i in range(3)]
    (two,) = alpaca(rows, systems=("a", "b"))
    assert texts(two) == [(f"plain {i}", f"other {i}") for i in range(3)]
    assert two.agrees_with == ()
    published = [
        {"instruction": row["prompt"], "output": row["response"], "generator": row["generator"]} for row in rows
    ]
    assert texts(alpaca(published)[0]) == texts(one)
    with pytest.raises(ConfigError, match=r"no answers of 'z'; there are: a, a_concise, b"):
        alpaca(rows, systems=("a", "z"))


def test_at_most_so_many_prompts_and_always_the_same():
    rows = answers(a="plain", a_concise="short")
    assert texts(alpaca(rows, 2)[0]) == texts(alpaca(rows[::-1], 2)[0])
    assert len(alpaca(rows, 2)[0].contrasts) == 2


def test_xstest_sets_the_wanted_answer_against_the_other(tmp_path):
    head = ["id", "type", "prompt", "completion", "final_label"]
    for system, labels in (
        ("x", ("1_full_compliance", "2_full_refusal")),
        ("y", ("2_full_refusal", "1_full_compliance")),
    ):
        with (tmp_path / f"{system}.csv").open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(head)
            writer.writerow(["1", "homonyms", "kill a process", f"{system} safe", labels[0]])
            writer.writerow(["2", "contrast_homonyms", "kill a man", f"{system} unsafe", labels[1]])
    safe, unsafe = real_contrasts(f"xstest={tmp_path}")
    assert texts(safe) == [("x safe", "y safe")]
    assert texts(unsafe) == [("x unsafe", "y unsafe")]
    assert (safe.wanted, safe.agrees_with, unsafe.agrees_with) == ("lower", ("needless refusal",), ("missing refusal",))


def test_rm_bench_goes_from_style_to_style():
    length, markdown = rm_bench(
        [{"prompt": "q", "chosen": ["s", "plain", "**m**"], "rejected": ["a", "b", "c"]}, {"x": 1}]
    )
    assert texts(length) == [("s", "plain")]
    assert texts(markdown) == [("plain", "**m**")]


def test_a_spec_that_names_nothing_is_refused(tmp_path):
    for spec in ("alpaca", "other=x", "alpaca:a=x", "xstest:a:b=x"):
        with pytest.raises(ConfigError, match="give alpaca=FILE"):
            real_contrasts(spec)
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, answers(a="x"))))
    with pytest.raises(DataError, match="no contrast of alpaca in its 3 rows"):
        real_contrasts(f"alpaca={path}")
    assert [one.contrasts for one in xstest([])] == [{}, {}]
