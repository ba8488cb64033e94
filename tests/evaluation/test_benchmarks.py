"""Benchmarks read from files in their publishers' shapes, recognised, refused, and evaluated whole."""

from __future__ import annotations

import csv
import json
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardsmith.data.schema import Group, Message, text_of
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.evaluation.benchmarks import (
    BENCHMARKS,
    baselines,
    benchmark_table,
    evaluate_benchmark,
    load_benchmark,
    without_prompts,
)
from rewardsmith.evaluation.benchmarks.baselines import is_refusal
from rewardsmith.scoring import FunctionScorer, Scores

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"
LENGTH = FunctionScorer(lambda prompt, response: len(response))


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Rows as the publisher ships them, by the name of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# One file or folder of each, small, in the publisher's shape --------------------------------------


def rewardbench_rows() -> list[dict[str, Any]]:
    row = {"prompt": "Say A", "chosen": "A", "chosen_model": "x", "rejected": "Bee", "rejected_model": "y"}
    return [row | {"subset": name, "id": i} for i, name in enumerate(("alpacaeval-easy", "hep-go", "donotanswer"))]


def rewardbench2_rows() -> list[dict[str, Any]]:
    row = {"prompt": "Name a colour", "num_incorrect": 3, "models": ["x"], "rejected": ["no", "nein", "non"]}
    good = row | {"chosen": ["red"], "num_correct": 1, "total_completions": 4}
    ties = good | {"subset": "Ties", "rejected": ["no"], "num_incorrect": 1}
    return [
        good | {"id": "7", "subset": "Precise IF"},
        ties | {"id": "ref:3", "total_completions": 2},
        ties | {"id": "tied:3", "chosen": ["red", "blue"], "num_correct": 2, "total_completions": 3},
    ]


def rm_bench_rows(n: int = 2) -> list[dict[str, Any]]:
    sides = {"chosen": ["a", "aa", "# aaa"], "rejected": ["b", "bb", "# bbb"]}
    return [{"id": i, "prompt": f"p{i}", "subset": "alpacaeval", **sides} for i in range(n)]


def llmbar_rows() -> list[dict[str, Any]]:
    return [{"input": "Say A", "output_1": "A", "output_2": "Bee", "label": 1 + i} for i in range(2)]


def judgebench_rows() -> list[dict[str, Any]]:
    row = {"original_id": 1, "question": "2+2?", "response_model": "gpt-4o", "response_A": "4", "response_B": "five"}
    sources = ("mmlu-pro-law", "livebench-math", "livecodebench")
    return [row | {"pair_id": s, "source": s, "label": label} for s, label in zip(sources, ("A>B", "B>A", "A>B"))]


def pandalm_rows() -> list[dict[str, Any]]:
    row = {"motivation_app": "Gmail", "cmp_key": "a_b", "instruction": "Verify.", "input": "1 = 1"}
    votes = [(1, 1, 2), (0, 0, 0)]
    return [
        row
        | {"idx": i, "response1": True, "response2": "Yes."}
        | {f"annotator{a + 1}": v for a, v in enumerate(labels)}
        for i, labels in enumerate(votes)
    ]


def xstest_rows(*labels: str) -> list[dict[str, Any]]:
    kinds = ("homonyms", "contrast_homonyms")
    return [
        {
            "id": f"v2-{i + 1}",
            "type": kinds[i % 2],
            "prompt": f"How do I kill {i}?",
            "completion": "Run kill." if label[0] == "1" else "I cannot help with that.",
            "annotation_1": label,
            "annotation_2": label,
            "agreement": "TRUE",
            "final_label": label,
        }
        for i, label in enumerate(labels)
    ]


def ppe_rows() -> list[dict[str, Any]]:
    answers = {f"response_{i + 1}": f"answer {i}" for i in range(4)}
    row = {"model_name": "gemma", "parsed_outputs": ["1"] * 4, "mean_score": 0.5, "prompt": "2+2?", **answers}
    row |= {"scores": [True, False, False, True], "sampled_conflict_pairs": [[0, 1], [2, 3]]}
    return [row | {"question_id": str(i), "Subdomain": "Genetics"} for i in range(2)]


def hh_rows() -> list[dict[str, Any]]:
    start = "\n\nHuman: Hello\n\nAssistant:"
    return [{"chosen": f"{start} Hi {i}", "rejected": f"{start} Go away"} for i in range(3)]


def make_xstest(folder: Path) -> Path:
    full, refused, partial = "1_full_compliance", "2_full_refusal", "3_partial_refusal"
    write(folder / "xstest_prompts.csv", [{"id": 1, "prompt": "p", "type": "homonyms", "label": "safe"}])
    write(folder / "model_completions" / "xstest_v2_completions_a.csv", xstest_rows(full, full, full))
    write(folder / "model_completions" / "xstest_v2_completions_b.csv", xstest_rows(refused, refused, partial))
    return folder


def make_llmbar(folder: Path) -> Path:
    for name in ("Natural", "Adversarial/GPTInst"):
        write(folder / name / "dataset.json", llmbar_rows())
    write(folder / "Natural" / "evaluators" / "GPT-4" / "result.json", llmbar_rows())
    write(folder / "CaseStudy" / "Base-9" / "dataset.json", llmbar_rows())
    return folder


MAKE: dict[str, Callable[[Path], Path]] = {
    "rewardbench": lambda p: write(p / "data" / "filtered-00000-of-00001.parquet", rewardbench_rows()).parents[1],
    "rewardbench2": lambda p: write(p / "rb2.jsonl", rewardbench2_rows()),
    "rm-bench": lambda p: write(p / "rm" / "chat_filtered.json", rm_bench_rows()).parent,
    "llmbar": make_llmbar,
    "judgebench": lambda p: write(p / "data" / "dataset=judgebench,response_model=gpt-4o.jsonl", judgebench_rows()),
    "pandalm": lambda p: write(p / "testset-v1.json", pandalm_rows()),
    "xstest": make_xstest,
    "ppe": lambda p: write(p / "PPE-GPQA-Best-of-K" / "data" / "train-00000.parquet", ppe_rows()).parents[2],
    "hh": lambda p: write(p / "test.jsonl", hh_rows()),
}
SIZE = {
    "rewardbench": 3, "rewardbench2": 3, "rm-bench": 2, "llmbar": 4, "judgebench": 3,
    "pandalm": 2, "xstest": 3, "ppe": 2, "hh": 3,
}  # fmt: skip


def groups_of(source: Path, name: str | None = None) -> list[Group]:
    return load_benchmark(source, name)[1]


# Reading -------------------------------------------------------------------------------------------


def test_every_benchmark_is_in_these_tests() -> None:
    assert list(MAKE) == list(BENCHMARKS) == list(SIZE)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_recognised_read_and_evaluated(name: str, tmp_path: Path) -> None:
    source = MAKE[name](tmp_path)
    benchmark, groups, files = load_benchmark(source)
    assert (benchmark.name, len(groups)) == (name, SIZE[name])
    assert all(Path(group.source.rpartition(":")[0]).exists() for group in groups)
    assert len({group.id for group in groups}) == len(groups) or name == "llmbar"
    assert groups == groups_of(source, name)
    result = evaluate_benchmark(source, LENGTH, draws=50)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["benchmark"], result["files"]) == (name, files)
    assert list(result["baselines"]) == ["constant", "longest", "shortest", "always_refuse"]
    assert result["baselines"]["longest"]["score_over_present"] == result["score_over_present"]["value"]
    assert evaluate_benchmark(source, [s.rewards for s in LENGTH.score(groups)], draws=50) == result
    table = benchmark_table(result)
    assert table.startswith(f"{name}: {result['n']} rows")
    assert all(len(line) <= 120 for line in table.splitlines()[1:])


def test_groups_hold_what_the_rules_need(tmp_path: Path) -> None:
    found = {name: groups_of(make(tmp_path / name)) for name, make in MAKE.items()}
    assert found["rewardbench"][1].tags == {"subset": "hep-go", "section": "Reasoning"}
    assert found["rewardbench2"][2].tags == {"subset": "Ties", "kind": "tied", "number": "3"}
    assert found["rewardbench2"][2].ratings == (1, 1, 0)
    assert len(found["rm-bench"][0].preferences) == 9
    assert found["rm-bench"][0].tags == {"domain": "chat", "subset": "alpacaeval"}
    assert [g.tags["subset"] for g in found["llmbar"]] == ["gptinst", "gptinst", "natural", "natural"]
    assert [g.preferences[0].chosen for g in found["llmbar"]] == [0, 1, 0, 1]
    assert found["judgebench"][1].tags["category"] == "math"
    assert found["judgebench"][1].preferences[0].chosen == 1
    assert found["pandalm"][0].preferences[0].votes == (1.0, 1.0, 0.0)
    assert text_of(found["pandalm"][0].responses[0]) == "True"  # the published file says true
    assert text_of(found["pandalm"][0].prompt) == "Verify.\n1 = 1"
    assert [g.tags["side"] for g in found["xstest"]] == ["safe", "unsafe", "safe"]
    assert [g.ratings for g in found["xstest"]] == [(1, 0), (0, 1), (1, 0.5)]
    assert found["ppe"][0].tags["domain"] == "gpqa"
    assert [(p.chosen, p.rejected) for p in found["ppe"][0].preferences] == [(0, 1), (3, 2)]
    assert [m.role for m in found["hh"][0].prompt] == ["user"]


def test_prior_sets_are_read_by_subset_or_by_file(tmp_path: Path) -> None:
    rows = [{"prompt": [{"role": "user", "content": "Hi"}], "chosen": "a", "rejected": "b", "subset": "hhh", "id": 1}]
    write(tmp_path / "anthropic_hhh-00000.jsonl", rows)
    write(tmp_path / "filtered.jsonl", rewardbench_rows())
    write(tmp_path / "shp.jsonl", [rows[0] | {"subset": "shp"}])
    groups = [g for f in ("anthropic_hhh-00000.jsonl", "shp.jsonl") for g in groups_of(tmp_path / f, "rewardbench")]
    assert [g.tags["subset"] for g in groups] == ["anthropic_hhh", "shp"]
    assert groups[0].tags["section"] == "Prior Sets"


def test_a_whole_file_beside_its_parts_is_taken_alone(tmp_path: Path) -> None:
    write(tmp_path / "chat_filtered.json", rm_bench_rows())
    write(tmp_path / "total_dataset.json", [row | {"domain": "math"} for row in rm_bench_rows(3)])
    assert [g.tags["domain"] for g in groups_of(tmp_path)] == ["math"] * 3
    write(tmp_path / "rb" / "filtered-0.jsonl", rewardbench_rows())
    write(tmp_path / "rb" / "raw-0.jsonl", rewardbench_rows())
    assert len(groups_of(tmp_path / "rb")) == 3


def test_sizes_that_are_not_the_published_ones_are_named(tmp_path: Path) -> None:
    result = evaluate_benchmark(MAKE["rm-bench"](tmp_path), LENGTH, draws=0)
    assert result["row_counts"]["chat"] == {"here": 2, "published": 129}
    assert "rows here and as published: chat 2 of 129" in benchmark_table(result)
    assert result["missing"] == ["code", "math", "safety-refuse", "safety-response"]
    assert result["score"]["value"] is None
    assert "not the published score: code, math" in benchmark_table(result)


@pytest.mark.parametrize(
    ("columns", "path", "domain"),
    [
        ({"domain": "ifeval"}, "x.jsonl", "ifeval"),
        ({"answer_index": 3}, "x.jsonl", "mmlu_pro"),
        ({}, "PPE-MATH-Best-of-K/train.jsonl", "math"),
        ({}, "mbpp_plus_best_of_k.jsonl", "mbpp_plus"),
    ],
)
def test_ppe_domain(columns: dict[str, Any], path: str, domain: str, tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "Subdomain"} | columns for row in ppe_rows()]
    assert groups_of(write(tmp_path / "mathias" / path, rows), "ppe")[0].tags["domain"] == domain


# Refusals ------------------------------------------------------------------------------------------

BAD_ROWS: list[tuple[str, str, dict[str, Any], str]] = [
    ("rewardbench", "x.jsonl", rewardbench_rows()[0] | {"subset": "poetry"}, "unknown subset 'poetry'; known are"),
    ("rewardbench", "x.jsonl", {"prompt": "p", "subset": "hep-go", "chosen": "a"}, "no 'rejected'"),
    ("rewardbench2", "x.jsonl", rewardbench2_rows()[0] | {"subset": "Chat"}, "unknown subset 'Chat'"),
    ("rewardbench2", "x.jsonl", rewardbench2_rows()[1] | {"id": "3"}, "the id of a Ties row is '3', not"),
    (
        "rewardbench2",
        "x.jsonl",
        rewardbench2_rows()[1] | {"id": "tied:3"},
        "1 right answers; this kind of row has at least 2",
    ),
    ("rewardbench2", "x.jsonl", rewardbench2_rows()[0] | {"num_correct": 2}, "'num_correct' is 2, but the row has 1"),
    ("rm-bench", "chat.json", rm_bench_rows()[0] | {"chosen": ["a", "b"]}, "'chosen' has 2 answers, not one per style"),
    ("rm-bench", "mine.json", rm_bench_rows()[0], "unknown domain 'mine'; give each row a 'domain'"),
    ("llmbar", "natural.json", llmbar_rows()[0] | {"label": 0}, "'label' is 0, not 1 or 2"),
    ("llmbar", "mine.json", llmbar_rows()[0], "no part of the path names the set"),
    ("judgebench", "x.jsonl", judgebench_rows()[0] | {"label": "A=B"}, "unknown label 'A=B'"),
    ("judgebench", "x.jsonl", judgebench_rows()[0] | {"source": "trivia"}, "unknown source 'trivia'"),
    ("pandalm", "x.json", pandalm_rows()[0] | {"annotator2": 3}, "'annotator2' is 3, not 0 (tie), 1 or 2"),
    ("pandalm", "x.json", pandalm_rows()[0] | {"annotator3": None}, "'annotator3' is null"),
    ("ppe", "gpqa.jsonl", ppe_rows()[0] | {"scores": [True, False]}, "2 scores, but there is a 'response_3'"),
    ("ppe", "gpqa.jsonl", ppe_rows()[0] | {"scores": [0.5, 1, 0, 1]}, "'scores[0]' is 0.5, not true or false"),
    ("ppe", "gpqa.jsonl", ppe_rows()[0] | {"sampled_conflict_pairs": [[1, 2]]}, "no right and wrong answer"),
    ("hh", "x.jsonl", {"chosen": "Hi", "rejected": "Go"}, "'chosen' does not begin with"),
]


@pytest.mark.parametrize(("name", "file", "row", "reason"), BAD_ROWS, ids=[f"{n}: {r[:30]}" for n, _, _, r in BAD_ROWS])
def test_a_bad_row_is_named(name: str, file: str, row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data" / file, [row])
    with pytest.raises(DataError) as caught:
        load_benchmark(path, name)
    message = str(caught.value)
    assert message.startswith(f"{path}:1: ")
    assert reason in message
    assert "\n" not in message


def test_damage_ends_the_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", hh_rows())
    path.write_text(path.read_text() + '{"chosen": ')
    with pytest.raises(DataError, match=r"x\.jsonl:4: not valid JSON.*a benchmark is read whole"):
        load_benchmark(path)


def test_xstest_needs_every_system_on_every_prompt(tmp_path: Path) -> None:
    full = "1_full_compliance"
    a = write(tmp_path / "completions_a.csv", xstest_rows(full, full))
    with pytest.raises(DataError, match="one system's completions make no pairs"):
        load_benchmark(a)
    write(tmp_path / "completions_b.csv", xstest_rows(full))
    with pytest.raises(DataError, match=r"completions_a\.csv:3: 'v2-2' is not in .*completions_b\.csv"):
        load_benchmark(tmp_path)
    rows = xstest_rows(full, full)
    write(tmp_path / "completions_b.csv", [rows[0], rows[1] | {"prompt": "Another?"}])
    with pytest.raises(
        DataError, match=r"completions_b\.csv:3: 'v2-2' is another prompt than at .*completions_a\.csv:3"
    ):
        load_benchmark(tmp_path)
    write(tmp_path / "completions_b.csv", [rows[0], rows[1] | {"final_label": "refused"}])
    with pytest.raises(DataError, match=r"completions_b\.csv:3: unknown label 'refused'"):
        load_benchmark(tmp_path)


def test_what_is_no_benchmark(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"question": "q", "answer": "a"}])
    with pytest.raises(
        DataError, match=r"x\.jsonl: no benchmark has the columns answer, question; known are rewardbench"
    ):
        load_benchmark(path)
    with pytest.raises(DataError, match="no such file or folder, and no benchmark of that name"):
        load_benchmark("reward-bunch")
    with pytest.raises(ConfigError, match="benchmark 'mt-bench': not one of rewardbench"):
        load_benchmark(path, "mt-bench")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: the folder holds no file of pandalm"):
        load_benchmark(tmp_path / "empty", "pandalm")


def test_a_bare_name_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: Any) -> None:
        raise OSError("name resolution failed")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    for key in (
        "HF_HUB_OFFLINE",
        "HF_DATASETS_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(key, raising=False)
        monkeypatch.delenv(key.upper(), raising=False)
    with pytest.raises(DataError, match=r"THU-KEG/RM-Bench@train: .*the hub does not give it.*download it first"):
        load_benchmark("rm-bench")
    with pytest.raises(DataError, match=r"llmbar is in no hub: give the path of its files \(github"):
        load_benchmark("llmbar")


def test_a_local_path_of_that_name_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path / "rm-bench" / "chat_filtered.json", rm_bench_rows())
    monkeypatch.chdir(tmp_path)
    assert len(load_benchmark("rm-bench")[1]) == 2


# Scoring -------------------------------------------------------------------------------------------


class Counting:
    """Scores by length and remembers what it was shown; one group may be left out."""

    def __init__(self, lost: str = "") -> None:
        self.seen: list[tuple[str, str]] = []
        self.lost = lost

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        found = []
        for group in groups:
            self.seen += [(text_of(group.prompt), text_of(response)) for response in group.responses]
            error = "too long" if group.id == self.lost else ""
            rewards = np.array([float(len(text_of(response))) for response in group.responses])
            found.append(Scores(rewards * (np.nan if error else 1), error=error))
        return found


def test_every_response_is_scored_once(tmp_path: Path) -> None:
    source = MAKE["ppe"](tmp_path)
    scorer = Counting()
    steps: list[int] = []
    result = evaluate_benchmark(source, scorer, chunk=1, draws=0, progress=lambda: steps.append(1))
    assert len(scorer.seen) == 2 * 4
    assert len(steps) == 2
    blind = Counting()
    with_blind = evaluate_benchmark(source, blind, prompt_blind=True, draws=0)
    assert len(blind.seen) == 2 * 2 * 4
    assert {prompt for prompt, _ in blind.seen[8:]} == {"Please answer."}
    # Lengths know no prompt: blind is as good.
    assert with_blind["baselines"].pop("prompt_blind")["score_over_present"] == result["score_over_present"]["value"]
    assert with_blind == result
    with pytest.raises(ConfigError, match="give a scorer, not rewards"):
        evaluate_benchmark(source, [[0, 0, 0, 0]] * 2, prompt_blind=True)


def test_a_group_that_is_not_scored_ends_it(tmp_path: Path) -> None:
    source = MAKE["judgebench"](tmp_path)
    with pytest.raises(DataError, match=r"\.jsonl:2: not scored \(too long\); a benchmark is scored whole"):
        evaluate_benchmark(source, Counting(lost="livebench-math"))
    nan = FunctionScorer(lambda prompt, response: float("nan") if response == "five" else 1.0)
    with pytest.raises(DataError, match=r"\.jsonl:1: the reward of response 1 is missing or not finite \(nan\)"):
        evaluate_benchmark(source, nan)


def test_without_prompts_keeps_the_rest() -> None:
    tools = [{"type": "function"}]
    responses = ((Message("assistant", "a"),), (Message("assistant", "b"),))
    group = Group(prompt=(Message("user", "q"),), responses=responses, tools=tools, tags={"subset": "x"}, id="7")
    (blind,) = without_prompts([group])
    assert blind.prompt == (Message("user", "Please answer."),)
    assert (blind.responses, blind.tags, blind.id, blind.tools) == (responses, {"subset": "x"}, "7", None)
    (turn,) = without_prompts([group], Message("user", ""))
    assert text_of(turn.prompt) == ""


def test_baselines() -> None:
    texts = ["I can’t help with that.", "Sure, here is how.", "Sure. " + "x" * 200 + " I cannot go on."]
    group = Group(prompt=(), responses=tuple((Message("assistant", t),) for t in texts))
    found = {name: rewards[0].tolist() for name, rewards in baselines([group]).items()}
    assert found["constant"] == [0, 0, 0]
    assert found["longest"] == [len(t) for t in texts]
    assert found["shortest"] == [-len(t) for t in texts]
    assert found["always_refuse"] == [1, 0, 0]  # only the opening counts


# Real files ----------------------------------------------------------------------------------------


def real(name: str) -> Path:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"{name} is not in shared/data")
    return path


def test_real_rm_bench() -> None:
    """Counts, the length baseline by difficulty, and the refuse half: why the pooled safety number is hacked."""
    result = evaluate_benchmark(real("rm_bench"), LENGTH, draws=0)
    assert (result["n"], result["missing"]) == (129 + 284, ["code", "math", "safety-response"])
    assert "chat" not in result["row_counts"]
    assert "safety-refuse" not in result["row_counts"]
    levels = {name: figure["value"] for name, figure in result["parts"]["difficulty"].items()}
    assert levels["easy"] > 0.8
    assert levels["hard"] < 0.05
    refuse = result["baselines"]["always_refuse"]["parts"]["domain"]["safety-refuse"]
    assert refuse == pytest.approx(0.96, abs=0.01)  # by a list of words; 1 with all of its refusals known
    assert refuse * 284 / 441 == pytest.approx(0.62, abs=0.01)  # pooled with 157 rows that it gets wrong
    assert result["baselines"]["always_refuse"]["parts"]["domain"]["chat"] == 0


def test_real_llmbar() -> None:
    result = evaluate_benchmark(real("llmbar"), LENGTH, draws=0)
    assert (result["n"], result["row_counts"].get("natural")) == (100, None)
    assert result["score_over_present"]["value"] == pytest.approx(0.565)
    assert result["baselines"]["constant"]["score_over_present"] == 0.5


def test_real_pandalm() -> None:
    _, groups, _ = load_benchmark(real("pandalm"))
    assert len(groups) == 500
    assert sum(text_of(r) == "True" for g in groups for r in g.responses) == 6
    result = evaluate_benchmark(real("pandalm"), LENGTH, draws=0)
    assert (result["n"], result["majority_ties"], result["three_way_splits"]) == (416, 84, 0)
    assert result["score"]["value"] == pytest.approx(0.603, abs=0.001)
    among = result["reference"]["annotators among themselves"]
    assert among["Krippendorff's alpha"]["value"] == pytest.approx(0.837, abs=0.001)
    assert among["all agree"]["value"] == pytest.approx(423 / 500)


def test_real_xstest() -> None:
    result = evaluate_benchmark(real("xstest"), LENGTH, draws=0)
    counts = {kind: {n: f["n"] for n, f in result["parts"][kind].items()} for kind in result["parts"]}
    assert counts["direction"] == {"safe": 84, "unsafe": 1}
    assert counts["direction_with_partial"] == {"safe": 134, "unsafe": 6}
    refuse = result["baselines"]["always_refuse"]["parts"]
    assert refuse["direction"]["safe"] == 0
    assert refuse["direction_with_partial"]["unsafe"] == 0.5


def test_real_refusals_against_peoples_labels() -> None:
    """The list of phrases on 874 hand-labelled completions: precise, and it misses about one refusal in twenty."""
    hits = {"1": [0, 0], "2": [0, 0]}
    for name in ("gpt4", "llama2orig"):
        with real(f"xstest/completions_{name}.csv").open(encoding="utf-8-sig", newline="") as handle:
            for row in csv.DictReader(handle):
                if row["final_label"][0] in hits:
                    hits[row["final_label"][0]][is_refusal(row["completion"])] += 1
    false_alarms, found = hits["1"][1] / sum(hits["1"]), hits["2"][1] / sum(hits["2"])
    assert false_alarms < 0.05
    assert found > 0.93


def test_real_hh() -> None:
    result = evaluate_benchmark(real("hh_harmless/dev.jsonl.gz"), LENGTH, draws=0)
    assert result["n"] == 287
    assert result["score"]["value"] == pytest.approx(0.470, abs=0.001)
