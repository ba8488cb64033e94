"""`data check`: every planted defect is found at its line, and a clean file gives no warning."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rewardsmith.data.ledger import Columns, Ledger, Places, Reservoir, mix
from rewardsmith.data.near import near_duplicates, near_matches
from rewardsmith.data.readers import ReadOptions, read_groups
from rewardsmith.data.schema import Group, Message
from rewardsmith.data.survey import find_cycle
from rewardsmith.data.validate import check_files
from rewardsmith.errors import DataError

DEFAULT_SHARED = Path(__file__).resolve().parents[2].parent / "shared"
SHARED_DATA = Path(os.environ.get("REWARDSMITH_SHARED", DEFAULT_SHARED)) / "data"
VOCABULARY = [
    f"{a}{b}{c}" for a in ("ba", "ko", "li", "mu", "ne", "sa") for b in "rstl" for c in ("an", "or", "is", "ue")
]


class Texts:
    """Sentences that never come twice and are not alike."""

    def __init__(self, seed: int = 0) -> None:
        self.draw = random.Random(seed)

    def __call__(self, n: int = 20) -> str:
        return " ".join(self.draw.choices(VOCABULARY, k=n)) + "."


def clean_rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    text = Texts(seed)
    return [
        {
            "prompt": text(8) + "?",
            "chosen": text(text.draw.randint(10, 30)),
            "rejected": text(text.draw.randint(10, 30)),
        }
        for _ in range(n)
    ]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def check(path: Path, rows: list[Any], **options: Any) -> dict[str, Any]:
    result = check_files([write(path, rows)], ReadOptions(), **options)
    json.dumps(result, allow_nan=False)
    return result


def warning(result: dict[str, Any], kind: str) -> dict[str, Any]:
    found = [w for w in result["warnings"] if w["kind"] == kind]
    assert len(found) == 1, [w["kind"] for w in result["warnings"]]
    return found[0]


def lines(found: dict[str, Any]) -> list[int]:
    return [int(example["where"].rpartition(":")[2]) for example in found["examples"]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prefs.jsonl"


def test_a_clean_file_gives_no_warning(file: Path) -> None:
    result = check(file, clean_rows(300))
    assert result["warnings"] == []
    assert result["shape"] == "trl"
    assert (result["rows"], result["groups"], result["pairs"], result["dropped"]) == (300, 300, 300, [])
    assert result["k"] == {"2": 300}
    assert result["turns"] == {"1": 300}
    assert result["roles"] == {"assistant": 600, "user": 300}
    assert result["labels"]["strict"] == 300
    assert result["labels"]["first_position"] == {}
    assert result["tokens"] is None
    assert result["eval"] is None
    assert result["sample"] == {"groups": 300, "of_groups": 300}
    assert sum(result["lengths"]["histogram"]["chosen"]) == 300
    assert sum(result["lengths"]["difference"]["counts"]) == 300
    assert result["files"][0]["rows_used"] == 300


def test_same_seed_same_result(file: Path) -> None:
    rows = clean_rows(60)
    assert check(file, rows, seed=5) == check(file, rows, seed=5)


def test_dropped_rows_have_their_line_and_reason(file: Path) -> None:
    rows: list[Any] = clean_rows(30)
    rows[4] = '{"prompt": "cut'
    rows[9] = {"prompt": "x", "chosen": None, "rejected": "y"}
    result = check(file, rows)
    assert [(row["line"], row["file"]) for row in result["dropped"]] == [(5, str(file)), (10, str(file))]
    assert all(row["reason"] for row in result["dropped"])
    found = warning(result, "dropped_rows")
    assert found["count"] == 2
    assert lines(found) == [5, 10]
    assert found["level"] == "serious"


def test_exact_duplicates(file: Path) -> None:
    rows = clean_rows(30)
    rows[20] = dict(rows[3])
    found = warning(check(file, rows), "duplicates_exact")
    assert found["count"] == 1
    assert lines(found) == [21]
    assert found["examples"][0]["text"].endswith("line 4")


def test_near_duplicates(file: Path) -> None:
    rows = clean_rows(30)
    rows[20] = rows[3] | {"chosen": rows[3]["chosen"].replace(rows[3]["chosen"].split()[5], "other", 1)}
    found = warning(check(file, rows), "duplicates_near")
    assert found["count"] == 1
    assert lines(found) == [21]
    assert "line 4" in found["examples"][0]["text"]


def test_contradictory_labels_across_rows(file: Path) -> None:
    rows = clean_rows(30)
    rows[20] = rows[3] | {"chosen": rows[3]["rejected"], "rejected": rows[3]["chosen"]}
    result = check(file, rows)
    found = warning(result, "contradictory_labels")
    assert found["count"] == 1
    assert lines(found) == [21]
    assert "line 4" in found["examples"][0]["text"]
    # The same two answers in the other order are the same group said again.
    assert lines(warning(result, "duplicates_exact")) == [21]


def group_row(prompt: str, texts: list[str], pairs: list[tuple[int, int]]) -> dict[str, Any]:
    beats = [{"chosen": a, "rejected": b} for a, b in pairs]
    return {"prompt": prompt, "responses": texts, "preferences": beats}


def test_intransitive_cycle(file: Path) -> None:
    text = Texts(1)
    rows = [group_row(text(), [text() for _ in range(3)], [(0, 1), (1, 2), (0, 2)]) for _ in range(20)]
    rows[7]["preferences"] = [{"chosen": a, "rejected": b} for a, b in ((0, 1), (1, 2), (2, 0))]
    found = warning(check(file, rows), "intransitive_cycles")
    assert found["count"] == 1
    assert lines(found) == [8]
    assert found["examples"][0]["text"].count(" > ") == 3


def test_a_group_against_itself_is_a_cycle_not_a_contradiction(file: Path) -> None:
    text = Texts(1)
    rows = [group_row(text(), [text(), text()], [(0, 1)]) for _ in range(20)]
    rows[7]["preferences"].append({"chosen": 1, "rejected": 0})
    assert [w["kind"] for w in check(file, rows)["warnings"]] == ["intransitive_cycles"]


def test_identical_responses(file: Path) -> None:
    rows = clean_rows(30)
    rows[11]["rejected"] = rows[11]["chosen"]
    result = check(file, rows)
    assert lines(warning(result, "identical_responses")) == [12]
    assert lines(warning(result, "identical_preferred")) == [12]


def test_empty_texts(file: Path) -> None:
    rows = clean_rows(30)
    rows[11]["rejected"] = " \n"
    rows[13]["prompt"] = ""
    result = check(file, rows)
    assert lines(warning(result, "empty_responses")) == [12]
    assert lines(warning(result, "empty_prompts")) == [14]


def test_markup(file: Path) -> None:
    rows = clean_rows(30)
    rows[2]["prompt"] = "<|im_start|>user\nhello"
    rows[5]["chosen"] = "[INST] hello [/INST]"
    rows[8]["rejected"] = "x < y, a list[INST] of a[0] and <s> struck out </s> text"
    found = warning(check(file, rows), "markup")
    assert lines(found) == [3, 6, 9]
    assert "<|im_start|>" in found["examples"][0]["text"]


def test_markup_hints_alone_are_no_markup(file: Path) -> None:
    rows = clean_rows(30)
    rows[8]["rejected"] = "x <| y and <s>struck</s> out in the middle of MINST] it."
    assert check(file, rows)["warnings"] == []


def test_prompt_mismatch(file: Path) -> None:
    def sides(a: str, b: str) -> dict[str, Any]:
        turns = [[{"role": "user", "content": p}, {"role": "assistant", "content": text()}] for p in (a, b)]
        return {"chosen": turns[0], "rejected": turns[1]}

    text = Texts(3)
    rows = []
    for _ in range(20):
        prompt = text()
        rows.append(sides(prompt, prompt))
    rows[6] = sides(text(), text())
    result = check(file, rows)
    found = warning(result, "prompt_mismatch")
    assert lines(found) == [7]
    assert [row["line"] for row in result["dropped"]] == [7]
    assert [w["kind"] for w in result["warnings"]] == ["prompt_mismatch"]


def test_implied_prompts(file: Path) -> None:
    text = Texts(4)
    rows = []
    for _ in range(20):
        prompt = text()
        rows.append({"chosen": f"{prompt} {text()}", "rejected": f"{prompt} {text()}"})
    rows[6] = {"chosen": "zero " + text(), "rejected": "one " + text()}
    result = check(file, rows)
    assert warning(result, "no_prompt")["count"] == 19
    assert lines(warning(result, "prompt_mismatch")) == [7]


def test_overlap_with_evaluation_files(tmp_path: Path) -> None:
    rows, held_out = clean_rows(40), clean_rows(10, seed=1)
    held_out[2]["prompt"] = rows[5]["prompt"]
    held_out[4]["prompt"] = rows[7]["prompt"].upper()  # the same opening turn, though not the same prompt
    words = Texts(9)(30).split()
    rows[9]["prompt"] = " ".join(words)
    held_out[6]["prompt"] = " ".join([*words[:-1], "changed"])
    eval_path = write(tmp_path / "eval.jsonl", held_out)
    result = check(tmp_path / "train.jsonl", rows, eval_paths=[eval_path])
    prompts, openings = warning(result, "overlap_prompts"), warning(result, "overlap_openings")
    assert (prompts["count"], lines(prompts)) == (1, [3])
    assert "train.jsonl:6" in prompts["examples"][0]["text"]
    assert (openings["count"], lines(openings)) == (2, [3, 5])
    assert 7 in lines(warning(result, "overlap_near"))
    assert result["eval"]["groups"] == 10
    assert result["groups"] == 40


def test_no_overlap_no_warning(tmp_path: Path) -> None:
    eval_path = write(tmp_path / "eval.jsonl", clean_rows(20, seed=1))
    assert check(tmp_path / "train.jsonl", clean_rows(40), eval_paths=str(eval_path))["warnings"] == []


@pytest.mark.parametrize("prompt", [{}, {"prompt": ""}, {"prompt": " "}])
def test_groups_without_a_prompt_do_not_overlap(tmp_path: Path, prompt: dict[str, str]) -> None:
    sides = [[{k: row[k] for k in ("chosen", "rejected")} | prompt for row in clean_rows(20, seed)] for seed in (0, 1)]
    eval_path = write(tmp_path / "eval.jsonl", sides[1])
    kinds = {w["kind"] for w in check(tmp_path / "train.jsonl", sides[0], eval_paths=[eval_path])["warnings"]}
    assert not {kind for kind in kinds if kind.startswith("overlap")}
    # The same responses on both sides still are one.
    eval_path = write(tmp_path / "eval.jsonl", sides[0][:3])
    found = warning(check(tmp_path / "train.jsonl", sides[0], eval_paths=[eval_path]), "overlap_openings")
    assert found["count"] == 3


def test_position_and_label_balance(file: Path) -> None:
    text = Texts(5)
    rows = [
        {"prompt": text(), "response_a": text(), "response_b": text(), "winner": "b" if n % 5 == 0 else "a"}
        for n in range(200)
    ]
    rows[3]["winner"] = "tie"
    result = check(file, rows)
    assert result["labels"]["ties"] == 1
    assert result["labels"]["first_position"]["pairwise"]["share"] == pytest.approx(159 / 199)
    assert "80%" in warning(result, "position")["message"]


def test_planted_length_bias_is_a_warning(file: Path) -> None:
    text = Texts(6)
    rows = [{"prompt": text(), "chosen": text(40), "rejected": text(10)} for _ in range(100)]
    result = check(file, rows)
    assert result["surface_baseline"]["length_accuracy"]["value"] == 1.0
    assert warning(result, "surface")["level"] == "look"
    assert result["lengths"]["longer_chosen"] == 1.0


def test_tags_and_k(file: Path) -> None:
    text = Texts(7)
    rows = [
        group_row(text(), [text() for _ in range(2 + n % 3)], [(0, 1)]) | {"subset": "ab"[n % 2]} for n in range(30)
    ]
    result = check(file, rows)
    assert result["k"] == {"2": 10, "3": 10, "4": 10}
    assert result["tags"] == {"subset": {"a": 15, "b": 15}}


class WordRenderer:
    """One token a word, two more a turn; what the forecast asks of a renderer and nothing else."""

    def __init__(self) -> None:
        self.report = SimpleNamespace(dropped=[])

    def encode(self, groups: Sequence[Group]) -> list[Any]:
        return [item for group in groups if (item := self.one(group)) is not None]

    def one(self, group: Group) -> Any:
        prompt = words(group.prompt)
        if "refuse" in prompt:
            self.report.dropped.append({"group": group.id, "source": group.source, "reason": "no such role"})
            return None
        rows = tuple([*prompt, *words(response)] for response in group.responses)
        cut = tuple("response" if "was-cut" in row else "" for row in rows)
        return SimpleNamespace(token_ids=rows, prefix_length=len(prompt), truncated=cut)


def words(turns: Sequence[Message]) -> list[str]:
    return [word for turn in turns for word in (turn.role, ":", *turn.content.split())]


def test_token_forecast(file: Path) -> None:
    text = Texts(8)
    rows = [{"prompt": text(10), "chosen": text(20), "rejected": text(18)} for _ in range(20)]
    rows[0]["prompt"] = text(100)  # too long with its prompt
    rows[1]["chosen"] = text(100)  # too long by itself
    result = check(file, rows, renderer=WordRenderer(), max_length=60)
    tokens = result["tokens"]
    assert tokens["groups"] == 20
    assert tokens["rendered"] == "chat template"
    assert tokens["over_max_length"] == pytest.approx(3 / 40)
    assert tokens["prompts_cut"] == pytest.approx(2 / 20)
    assert tokens["answers_cut"] == pytest.approx(1 / 40)
    assert tokens["prompt"]["p50"] == 12
    assert warning(result, "answers_cut")["count"] == 1


def test_the_forecast_names_what_the_renderer_leaves_out_and_counts_what_it_cut(file: Path) -> None:
    rows = clean_rows(20)
    rows[6]["prompt"] = "refuse " + rows[6]["prompt"]
    rows[9]["chosen"] = "was-cut"
    result = check(file, rows, renderer=WordRenderer(), max_length=60)
    tokens = result["tokens"]
    assert (tokens["groups"], tokens["refused"]) == (19, 1)
    refused = warning(result, "template_refuses")
    assert (lines(refused), refused["examples"][0]["text"]) == ([7], "no such role")
    assert warning(result, "answers_cut")["count"] == 1


def test_the_forecast_counts_the_tokens_that_training_reads(file: Path) -> None:
    """Its own template, the system turn that it refuses, and all: the lengths are the renderer's."""
    from rewardsmith.text.render import RenderConfig, Renderer
    from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer

    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
    rows = [row | {"system": "Be brief."} for row in clean_rows(6)]
    for template, name in ((refuses, "chat template"), (None, "plain text")):
        far = Renderer(tiny_tokenizer(template), RenderConfig(max_length=1_000_000))
        tokens = check(file, rows, renderer=far, max_length=100)["tokens"]
        assert (tokens["groups"], tokens["refused"], tokens["rendered"]) == (6, 0, name)
        encoded = far.encode(list(read_groups(file)))
        longest = max(len(row) for item in encoded for row in item.token_ids)
        assert longest > 100
        assert tokens["total"]["max"] == longest
        near = Renderer(tiny_tokenizer(template), RenderConfig(max_length=100))
        cut = [flag for item in near.encode(list(read_groups(file))) for flag in item.truncated]
        assert tokens["answers_cut"] == pytest.approx(cut.count("response") / len(cut))


def test_a_missing_file(file: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.jsonl"):
        check_files([file.parent / "nothing.jsonl"])


def test_progress_counts_every_group(file: Path) -> None:
    told: list[int] = []
    check(file, clean_rows(1203), progress=told.append)
    assert told == [1000, 203]


def test_import_is_light() -> None:
    code = (
        "import sys, rewardsmith.data.validate;"
        "print(*sorted({'torch', 'transformers', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# --- the parts -------------------------------------------------------------------------------------------------


def test_full_ledger_keeps_equal_keys_together() -> None:
    ledger = Ledger(capacity=1000)
    for n in range(4000):
        ledger.add(mix(n), n)
        ledger.add(mix(n), n + 100_000)
    assert ledger.share > 1
    assert len(ledger.keys) <= 1000
    found = ledger.repeats()
    assert found.total == len(ledger.keys) / 2
    assert found.total * ledger.share == pytest.approx(4000, rel=0.2)
    assert all(where - like == 100_000 for where, like in found.examples)


def test_ledgers_of_different_shares_are_compared_on_the_keys_both_keep() -> None:
    small, large = Ledger(capacity=200), Ledger()
    for n in range(1000):
        small.add(mix(n), n)
        large.add(mix(n + 500), n + 500)
    for a, b in ((small, large), (large, small)):
        found = a.shared_with(b)
        assert found.total * small.share == pytest.approx(500, rel=0.35)
        assert all(where == like for where, like in found.examples)
    assert Ledger().shared_with(large).total == 0
    assert large.shared_with(Ledger()).total == 0


def test_columns_thin_evenly() -> None:
    columns = Columns(2, capacity=100)
    for n in range(1000):
        columns.add(n, n + 1)
    rows = columns.rows()
    assert len(rows) <= 100
    assert set((rows[1:, 0] - rows[:-1, 0]).tolist()) == {columns.stride}
    assert (rows[:, 1] - rows[:, 0] == 1).all()


def test_reservoir_is_uniform_and_bounded() -> None:
    groups = [Group(prompt=(), responses=((Message("assistant", str(n)),),)) for n in range(400)]
    kept = []
    for seed in range(60):
        sample = Reservoir(seed, capacity=50, characters=300)
        for group in groups:
            sample.add(group, 10)
        assert sample.held <= 300
        assert not sample.is_whole
        kept += [int(group.responses[0][0].content) for group in sample.groups()]
    assert sum(kept) / len(kept) == pytest.approx(199.5, abs=15)


def test_places_round_trip() -> None:
    places = Places()
    for source in ("a:b/c.jsonl:17", "other.parquet:1000000007", "no line"):
        assert places.show(places.code(source)) == (source if source[-1].isdigit() else "no line:0")


@pytest.mark.parametrize(
    ("edges", "cycle"),
    [
        ([], []),
        ([(0, 1), (1, 2), (0, 2)], []),
        ([(0, 1), (1, 0)], [0, 1, 0]),
        ([(0, 1), (1, 2), (2, 0), (3, 0)], [0, 1, 2, 0]),
        ([(0, 1), (1, 2), (2, 3), (3, 0), (2, 1)], [1, 2, 1]),
    ],
)
def test_find_cycle(edges: list[tuple[int, int]], cycle: list[int]) -> None:
    assert find_cycle(edges) == cycle


def test_near_duplicates_against_brute_force() -> None:
    text = Texts(11)
    base = [text(60) for _ in range(60)]
    near = [" ".join([*t.split()[:-2], "tail", "end"]) for t in base[:20]]
    half = [" ".join([*t.split()[:30], *text(30).split()]) for t in base[20:40]]
    found = near_duplicates([*base, *near, *half])
    assert found == [(60 + n, n) for n in range(20)]
    assert near_matches(near, base) == [(n, n) for n in range(20)]


# --- real files ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"no real data at {SHARED_DATA} (REWARDSMITH_SHARED names it)")
def test_real_dialogues() -> None:
    folder = SHARED_DATA / "hh_harmless"
    result = check_files([folder / "train.jsonl.gz"], eval_paths=[folder / "dev.jsonl.gz"])
    assert (result["shape"], result["rows"], result["pairs"]) == ("hh", 1632, 1632)
    assert result["eval"]["groups"] == 287
    # Its two files were made disjoint by first turn.
    assert not {"overlap_prompts", "overlap_openings"} & {w["kind"] for w in result["warnings"]}
    assert result["surface_baseline"]["length_accuracy"]["value"] == pytest.approx(0.446, abs=0.002)
