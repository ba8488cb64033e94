"""`data coverage`: cells by a second route, distances that are calibrated, contamination, and bad input."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest

from rewardsmith.cli import main
from rewardsmith.data.coverage.cells import effective_size
from rewardsmith.data.coverage.contamination import long_runs
from rewardsmith.data.coverage.embedding import LightEmbedder
from rewardsmith.data.coverage.holes import distances, gaussian, holes_report, mahalanobis, ranks
from rewardsmith.data.coverage.items import Item, read_items
from rewardsmith.data.coverage.neighbours import nearest
from rewardsmith.data.coverage.run import coverage
from rewardsmith.data.coverage.traits import prompt_traits
from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.errors import DataError
from rewardsmith.report.coverage_page import LINE, coverage_page, map_labels

TOPICS = {
    "cooking": [
        "oven",
        "flour",
        "butter",
        "sugar",
        "dough",
        "bake",
        "cake",
        "bread",
        "yeast",
        "recipe",
        "kitchen",
        "salt",
        "pepper",
        "onion",
        "soup",
    ],
    "sailing": [
        "boat",
        "sail",
        "wind",
        "harbour",
        "anchor",
        "mast",
        "rope",
        "tide",
        "keel",
        "rudder",
        "knot",
        "captain",
        "deck",
        "storm",
        "coast",
    ],
    "coding": [
        "function",
        "loop",
        "array",
        "compiler",
        "pointer",
        "class",
        "variable",
        "debug",
        "stack",
        "thread",
        "socket",
        "parser",
        "regex",
    ],
}


def prompt_of(topic: str, draw: random.Random) -> str:
    words = draw.sample(TOPICS[topic], 6)
    return f"How do I use the {words[0]} and {words[1]} with {words[2]}, {words[3]}, {words[4]} or {words[5]}?"


def group_of(prompt: str, chosen: str, rejected: str, probability: float = 1.0, **more: object) -> Group:
    return Group(
        prompt=(Message("user", prompt),),
        responses=((Message("assistant", chosen),), (Message("assistant", rejected),)),
        preferences=(Preference(chosen=0, rejected=1, probability=probability),),
        source="prefs.jsonl:1",
        **more,  # type: ignore[arg-type]
    )


def groups_of(n: int, topics: tuple[str, ...] = ("cooking", "sailing"), seed: int = 0) -> list[Group]:
    draw = random.Random(seed)
    return [
        group_of(
            prompt_of(topics[i % len(topics)], draw),
            "word " * draw.randint(1, 30) + str(i),
            "word " * draw.randint(1, 30) + f"{i}!",
        )
        for i in range(n)
    ]


def items_of(topic: str, n: int, seed: int) -> list[Item]:
    draw = random.Random(seed)
    return [Item((Message("user", prompt_of(topic, draw)),), (), "target:1") for _ in range(n)]


def test_cells_count_what_a_loop_counts():
    groups = groups_of(60)
    rows = {(row["dimension"], row["value"]): row for row in coverage(groups, LightEmbedder).report["cells"]}
    assert sum(row["groups"] for (name, _), row in rows.items() if name == "topic") == 60
    texts = [[message[0].content for message in group.responses] for group in groups]
    longer = [1.0 if len(a) > len(b) else 0.5 if len(a) == len(b) else 0.0 for a, b in texts]
    english = rows["language", "English"]
    assert english["longer_wins"]["value"] == pytest.approx(np.mean(longer))
    assert english["longer_wins"]["low"] < english["longer_wins"]["value"] < english["longer_wins"]["high"]
    assert (english["pairs"], english["ties"]) == (60, 0.0)
    everything = coverage(groups, LightEmbedder).report["all"]
    assert everything == {key: english[key] for key in everything}


def test_many_pairs_of_one_prompt_are_one_prompt():
    assert effective_size(np.array([0, 0, 0, 0]), np.ones(4)) == 1
    assert effective_size(np.arange(5), np.ones(5)) == 5
    assert effective_size(np.array([0, 0, 1]), np.ones(3)) == pytest.approx(9 / 5)
    assert effective_size(np.zeros(0, dtype=np.int64), np.zeros(0)) == 0


def test_topics_are_found_and_named_by_their_words():
    topics = coverage(groups_of(80), LightEmbedder, clusters=2).report["topics"]
    for topic in topics:
        words = set(re.findall(r"\w+", topic["name"].partition(": ")[2]))
        assert words <= set(TOPICS["cooking"]) or words <= set(TOPICS["sailing"])
    assert sum(topic["prompts"] for topic in topics) == 80


def test_a_target_like_the_data_is_covered_and_another_is_a_hole():
    groups = groups_of(200)
    like = coverage(groups, LightEmbedder, target=[*items_of("cooking", 60, 5), *items_of("sailing", 60, 6)]).report
    other = coverage(groups, LightEmbedder, target=items_of("coding", 60, 7)).report
    near, far = like["target"]["prompts"], other["target"]["prompts"]
    assert near["far"]["low"] <= 0.1
    assert 0.4 < near["farther"]["value"] < 0.6
    assert far["far"]["value"] > 0.95
    assert sum(hole["far"] for hole in far["holes"]) == pytest.approx(60 * far["far"]["value"])
    assert all(set(hole["name"].split(", ")) <= set(TOPICS["coding"]) for hole in far["holes"])
    assert [w["level"] for w in other["warnings"] if w["kind"] == "holes"] == ["serious"]
    points = coverage(groups, LightEmbedder, target=items_of("coding", 60, 7), with_map=True).points
    assert sum(point["far"] for point in points) == pytest.approx(60 * far["far"]["value"])


def test_distances_by_brute_force():
    texts = [group.prompt[0].content for group in groups_of(40)]
    embedder = LightEmbedder()
    data, target = embedder.fit(texts), embedder.embed(["oven and flour", "unheard of"])
    each = np.arange(40)
    found = distances(data, target, each)
    assert found is not None
    similar = target.word_NV.toarray() @ data.word_NV.toarray().T
    np.testing.assert_allclose(found.nearest_T, 1 - similar.max(1), atol=1e-6)
    assert found.nearest_T[1] == pytest.approx(1)
    own, _ = nearest(data.near_NX, data.near_NX, (each, each))
    dense = data.word_NV.toarray() @ data.word_NV.toarray().T
    np.fill_diagonal(dense, -1)
    np.testing.assert_allclose(own, 1 - dense.max(1), atol=1e-6)
    assert found.near_limit == pytest.approx(min(np.quantile(own, 0.95), 1 - 1e-6))
    mean_D, inverse_DD = gaussian(data.point_ND)
    away = data.point_ND[3].astype(float) - mean_D
    assert mahalanobis(data.point_ND, mean_D, inverse_DD)[3] == pytest.approx(np.sqrt(away @ inverse_DD @ away))
    np.testing.assert_allclose(ranks(np.array([0.0, 0.2, 0.9]), np.array([0.1, 0.2, 0.2, 0.3])), [0, 0.5, 1])


def test_a_text_outside_is_as_far_as_the_same_text_inside():
    """A word outside has the weight that it would have if its text were one of the data."""
    texts = [group.prompt[0].content for group in groups_of(30)]
    whole = LightEmbedder().fit(texts)
    inside, _ = nearest(whole.near_NX, whole.near_NX, (np.arange(30), np.arange(30)))
    embedder = LightEmbedder()
    rest = embedder.fit(texts[1:])
    outside, _ = nearest(embedder.embed(texts[:1]).near_NX, rest.near_NX)
    assert outside[0] == pytest.approx(inside[0], abs=0.02)


def test_what_is_of_the_same_prompt_is_no_neighbour():
    """Data of ten answers to each prompt is far from itself only as far as another prompt's answers are."""
    draw = random.Random(3)
    answers = [f"{prompt_of('cooking', draw)} {i}" for i in range(40)]
    data, opening_N = LightEmbedder().fit([text for text in answers for _ in range(10)]), np.repeat(np.arange(40), 10)
    found = distances(data, data.at(np.arange(10)), opening_N)
    assert found is not None
    similar = data.word_NV.toarray() @ data.word_NV.toarray().T
    similar[opening_N[:, None] == opening_N] = -1
    assert found.near_limit == pytest.approx(np.quantile(1 - similar.max(1), 0.95), abs=1e-6)
    assert distances(data, data, np.arange(400) // 30) is None  # of 14 prompts nothing is judged


def test_many_answers_to_a_prompt_are_one_prompt_in_intervals():
    """Answers that are all alike say no more than one: the interval is that of the prompts alone, as for the hole."""
    texts = [group.prompt[0].content for group in groups_of(60)]
    asked = [item.prompt[0].content for topic in ("cooking", "coding") for item in items_of(topic, 15, 8)]
    parts = {}
    for times in (1, 9):
        embedder = LightEmbedder()
        data, said = embedder.fit(texts), [text for text in asked for _ in range(times)]
        found = distances(data, embedder.embed(said), np.arange(60))
        opening_T, one = np.repeat(np.arange(30), times), np.zeros(30 * times, dtype=np.int64)
        parts[times] = holes_report(said, texts, texts, found, one, opening_T)
    assert [parts[times]["texts"] for times in (1, 9)] == [30, 270]
    for name in ("far", "farther", "off"):
        assert parts[9][name] == pytest.approx(parts[1][name])
    assert parts[9]["holes"][0]["share"] == pytest.approx(parts[1]["holes"][0]["share"])
    assert parts[1]["far"]["high"] - parts[1]["far"]["low"] > 0.25


def test_a_policys_answers_are_judged_by_prompt():
    answers = tuple(f"boat and sail and wind {k}" for k in range(8))
    target = [Item(item.prompt, answers, item.source) for item in items_of("sailing", 12, 4)]
    part = coverage(groups_of(60), LightEmbedder, target=target).report["target"]["answers"]
    assert (part["texts"], part["openings"]) == (96, 12)


def test_a_language_that_the_embedder_does_not_know_is_said():
    thai = [Item((Message("user", "ฉันจะเรียนเปียโนได้อย่างไร"),), (), "target:1")]
    report = coverage(groups_of(60), LightEmbedder, target=[*items_of("sailing", 30, 3), *thai]).report
    assert report["target"]["prompts"]["not_judged"] == {"Thai": 1}
    assert any("does not know the language (Thai 1)" in warning["message"] for warning in report["warnings"])
    assert any(row["value"] == "Thai" and row["groups"] == 0 and row["target"] == 1 for row in report["cells"])


def test_contamination_is_found_by_words():
    groups = groups_of(50)
    copied = groups[7].prompt[0].content
    bench = [Item((Message("user", f"{copied} Please tell."),), (), "b:1"), *items_of("coding", 5, 1)]
    row = coverage(groups, LightEmbedder, benchmarks={"bench": bench}).report["benchmarks"][0]
    assert (row["prompts"], row["contaminated"], row["in_runs"]) == (6, 1, 1)
    assert row["examples"][0]["text"].startswith(copied)
    assert len(long_runs("a b c d e f g h i")) == 2
    assert len(long_runs("a b")) == 1
    assert set(long_runs("A b c d e f g h")) <= set(long_runs("x a b c d e f g h"))


def test_near_duplicates_count_once():
    long = " ".join(TOPICS["cooking"])
    groups = [
        *groups_of(30),
        group_of(f"Tell me of {long} now", "a", "b"),
        group_of(f"Tell me of {long} then", "a", "b"),
    ]
    report = coverage(groups, LightEmbedder).report
    assert report["duplicates"]["near"] == 1
    whole = next(row for row in report["cells"] if row["dimension"] == "turns")
    assert (whole["groups"], round(whole["effective"], 2)) == (32, round(32**2 / (30 + 4), 2))


@pytest.mark.parametrize(
    ("text", "traits"),
    [
        ("I think that cats are better, right?", {"opinion": "states an opinion", "safety": "no alarming words"}),
        ("What do you think of cats?", {"opinion": "asks for an opinion"}),
        ("How do I kill a process?", {"safety": "alarming words", "asks for": "how to do something"}),
        ("Write a python function that adds", {"asks for": "code"}),
        ("Write a short poem about the sea", {"asks for": "a composed text", "prompt length": "1 to 8 words"}),
        ("Wie backe ich einen Kuchen?", {"language": "German", "opinion": "not judged (not English)"}),
    ],
)
def test_traits(text, traits):
    assert prompt_traits((Message("user", text),)).items() >= traits.items()


def test_model_errors_are_in_cells_and_on_the_map():
    groups = groups_of(40)
    rewards = [np.array([1.0, 0.0]) if i % 4 else np.array([0.0, 1.0]) for i in range(40)]
    found = coverage(groups, LightEmbedder, rewards=rewards, with_map=True)
    whole = next(row for row in found.report["cells"] if row["dimension"] == "language")
    assert whole["model_accuracy"]["value"] == 0.75
    assert sum(point["error"] for point in found.points) == 10


def test_labels_of_the_map_stay_apart():
    """Twelve topics with their middles in one place: every number is there, and no label covers another."""
    topics = [{"name": f"{k + 1}: {'mixed: ' if k == 3 else ''}word{k}, other{k}, third{k}"} for k in range(12)]
    points = [{"topic": k, "kind": "data", "x": 0.5 + k / 1000, "y": 0.02} for k in range(12)]
    labels = map_labels({"topics": topics}, points)
    assert [label["number"] for label in labels] == list(range(1, 13))
    named = [label for label in labels if label["name"]]
    assert [label["name"] for label in named][:1] == ["word0, other0"]
    assert len(named) > 2
    assert all(abs(a["y"] - b["y"]) >= LINE - 1 for a in named for b in named if a is not b)
    assert map_labels({"topics": topics[3:4]}, [{**points[0], "topic": 0}])[0]["name"] == "mixed"


# -- the verb -------------------------------------------------------------------------------------------------------


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_of(groups):
    return [
        {"id": str(i), "prompt": g.prompt[0].content, "chosen": g.responses[0][0].content,
         "rejected": g.responses[1][0].content}
        for i, g in enumerate(groups)
    ]  # fmt: skip


def test_the_verb_with_everything(tmp_path, capsys):
    data = write(tmp_path / "prefs.jsonl", rows_of(groups_of(60)))
    target = tmp_path / "prompts.txt"
    target.write_text("\n".join(item.prompt[0].content for item in items_of("coding", 12, 2)))
    scores = write(
        tmp_path / "rows.jsonl",
        [{"id": str(i), "response_index": k, "reward": float(k == 0)} for i in range(60) for k in (0, 1)],
    )
    words = ["data", "coverage", data, "--target", str(target), "--benchmarks", data, "--scores", scores]
    assert main([*words, "--page", str(tmp_path / "page.html"), "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["benchmarks"][0]["contaminated"] == 60
    assert all(row["model_accuracy"]["value"] in (None, 1.0) for row in result["cells"])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count('<circle class="d ') == 60
    assert "<script" not in page
    assert not re.search(r"https?://|url\((?!#)|@import", page)
    assert main([*words, "--quiet"]) == 0
    assert "longer wins" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"probability": 0.5}, "All 30 pairs are ties"),
        ({}, "One slice only in language (English)"),
    ],
)
def test_poor_data_is_one_clear_line(change, said):
    groups = [group_of(g.prompt[0].content, "a b", "c", **change) for g in groups_of(30)]
    messages = [warning["message"] for warning in coverage(groups, LightEmbedder).report["warnings"]]
    assert sum(said in message for message in messages) == 1


def test_too_few_words_in_common_are_not_called_a_language():
    same = [group_of("What is a sonnet?", f"a poem {n}", "b") for n in range(3)]
    said = [warning["message"] for warning in coverage(same, LightEmbedder).report["warnings"]]
    assert [m for m in said if "None of the data's 1 prompt can be placed: they have too few words in common" in m]
    assert not [m for m in said if "because the embedding does not know" in m]


@pytest.mark.filterwarnings("error")
def test_texts_of_the_same_words_are_as_near_as_the_data(tmp_path, capsys):
    groups = [group_of(f"What is the capital of country {n}?", f"City {n}.", "Unknown.") for n in range(40)]
    data = write(tmp_path / "prefs.jsonl", rows_of(groups))
    assert main(["data", "coverage", data, "--target", data, "--clusters", "5", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "0% lie off the data as a whole" in out
    assert "--clusters 5: no more than 1 could be told apart" in out
    assert main(["data", "coverage", data, "--page", f"{data}/page.html", "--quiet"]) == 2
    assert "prefs.jsonl is a file, not a folder" in capsys.readouterr().err


def test_what_is_not_judged_of_a_language_is_no_lack(tmp_path):
    target = [Item((Message("user", "ما هي عاصمة مصر"),), (), "target:1") for _ in range(10)]
    found = coverage(groups_of(60), LightEmbedder, target=target).report
    assert not [w for w in found["warnings"] if w["kind"] == "thin" and "not judged" in w["message"]]
    assert [w for w in found["warnings"] if w["kind"] == "thin" and "Arabic" in w["message"]]


def test_input_without_prompts_is_an_error(tmp_path, capsys):
    bare = [Group(prompt=(), responses=((Message("assistant", "a"),),)) for _ in range(3)]
    with pytest.raises(DataError, match="none of the 3 groups has a prompt"):
        coverage(bare, LightEmbedder)
    data = write(tmp_path / "prefs.jsonl", rows_of(groups_of(5)))
    empty = write(tmp_path / "target.jsonl", [{"colour": "red"}])
    assert main(["data", "coverage", data, "--target", empty, "--quiet"]) == 2
    assert "target.jsonl: no prompt is there" in capsys.readouterr().err
    (tmp_path / "nothing.jsonl").write_text("")
    assert main(["data", "coverage", str(tmp_path / "nothing.jsonl"), "--quiet"]) == 2
    assert "nothing.jsonl: the file is empty" in capsys.readouterr().err
    assert main(["data", "coverage", data, "--scores", data, "--quiet"]) == 2
    assert "no row has id, response_index and reward" in capsys.readouterr().err


def test_five_groups_are_described(tmp_path):
    found = coverage(groups_of(5), LightEmbedder, target=items_of("coding", 2, 0), with_map=True)
    assert found.report["target"]["prompts"]["far"] is None
    assert coverage_page({**found.report, "files": ["a"], "scores": None}, found.points).count("<circle class") >= 5


def test_items_of_tables_and_lines(tmp_path):
    table = tmp_path / "bench.csv"
    table.write_text("id,question,answer\n1,What is up?,The sky.\n2,,none\n")
    items = read_items([str(table)])
    assert [(item.prompt[0].content, item.answers) for item in items] == [("What is up?", ("The sky.",))]
