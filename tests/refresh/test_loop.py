"""The whole loop on a tiny model: rounds with labels, gates and releases; killed at any point it ends the same."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardsmith.cli import main
from rewardsmith.data.schema import Message
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.refresh import releases
from rewardsmith.refresh.candidates import Recorded, RecordedScorer, Sampled, pools_of
from rewardsmith.refresh.loop import Loop
from rewardsmith.refresh.project import open_project
from tests.refresh.tiny_policy import WORDS, policy

__all__ = ["policy"]  # a fixture

TRAIN = """
[train]
model = "{model}"
train_layers = 1
batch_size = 8
learning_rate = 1e-2
max_length = 96
device = "cpu"
precision = "float32"
epochs = 4

[gate]
margin = 0.5
max_ece = 1.0
new_pairs = "skip"

[run]
rounds = 1
answers = 3
tests = 24
"""


def candidates(file: Path, n: int = 120) -> Path:
    """Six answers to each prompt; what one is worth is where its word stands in the list."""
    rows = []
    for i in range(n):
        for k in range(6):
            word = (i * 3 + k * (1 + i % 2)) % 10
            rows.append({"prompt": f"a question {i}", "response": f"{WORDS[word]} {'!' * (k % 3)}", "gold": word})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def arguments(folder: Path, file: Path) -> list[str]:
    return ["refresh", "run", str(folder), "--candidates", str(file), "--gold", "column:gold", "--labels", "48",
            "--device", "cpu", "--json", "--quiet"]  # fmt: skip


def made(folder: Path, model: str, more: str = "") -> Path:
    assert main(["refresh", "init", str(folder), "--quiet"]) == 0
    with (folder / "refresh.toml").open("a") as settings:
        settings.write(TRAIN.format(model=model) + more)
    return folder


def proposing(folder: Path, line: str) -> None:
    """Add an option to [propose]."""
    file = folder / "refresh.toml"
    file.write_text(file.read_text().replace("[propose]\n", f"[propose]\n{line}\n"))


def state_of(folder: Path) -> dict[str, Any]:
    """Everything that a run leaves, without times."""
    with open_project(folder).open() as store:
        return {
            "labels": sorted((x.comparison_id, x.annotator, x.verdict) for x in store.labels()),
            "pairs": [(p.id, p.a.text, p.b.text, p.round, p.kind) for p in every_pair(store)],
            "policies": store.policies(),
            "models": [(m.name, weights_of(folder / m.path), m.parent, m.round) for m in store.models()],
            "gates": [(g.model, g.passed, g.figures["checks"]) for g in store.gates()],
            "releases": [(r.seq, r.model) for r in store.releases()],
            "rounds": [json.loads(store.value(f"round {r}") or "null") for r in range(2)],
            "pointers": [(p.entry, p.release, p.action) for p in releases.history(folder)],
        }


def weights_of(model: Path) -> str:
    """Their hash: the other files of an artifact say how long it took, and where."""
    return releases.file_hashes(model)["model.safetensors"]


def every_pair(store: Any) -> list[Any]:
    return store.comparisons(range(1, 1 + store.counts(0.0).comparisons))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, policy: str) -> tuple[Path, Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("loop")
    file = candidates(root / "candidates.jsonl")
    folder = made(root / "project", policy)
    assert main(arguments(folder, file)) == 0
    return folder, file, state_of(folder)


def test_rounds_are_labelled_trained_tried_and_released(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, _, state = finished
    rounds = state["rounds"]
    assert [r["round"] for r in rounds] == [0, 1]
    assert [r["policy"] for r in rounds] == ["base", "round-1"]
    assert rounds[0]["drawn_for"] is None
    assert rounds[1]["drawn_for"] == 1
    assert rounds[0]["kl"] == 0 < rounds[1]["kl"]
    assert all(r["proposed"] == r["labelled"] for r in rounds)
    assert len(state["models"]) == 2
    passed = [passed for _, passed, _ in state["gates"]]
    assert len(state["releases"]) == sum(passed) >= 1
    assert set(rounds[1]["shares"]) == {"0", "1"}
    verified = releases.open_current(folder)[1]
    assert verified.is_dir()


def test_labels_are_what_gold_says(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, file, state = finished
    gold = Recorded([str(file)], "gold").gold
    with open_project(folder).open() as store:
        for group in store.labelled_groups():
            worth = gold.score([group])[0].rewards
            (preference,) = group.preferences
            assert worth[preference.chosen] > worth[preference.rejected] or preference.is_tie
        held_out = [p for p in (store.comparison(c) for c, _, _ in state["labels"]) if p.kind == "held-out"]
    assert {p.round for p in held_out} == {0, 1}


def test_a_run_that_is_done_changes_nothing(
    finished: tuple[Path, Path, dict[str, Any]], capsys: pytest.CaptureFixture
) -> None:
    folder, file, state = finished
    assert main(arguments(folder, file)) == 0
    assert [r["round"] for r in json.loads(capsys.readouterr().out)["rounds"]] == [0, 1]
    assert state_of(folder) == state


@pytest.mark.slow
def test_killed_again_and_again_it_ends_the_same(finished: tuple[Path, Path, dict[str, Any]], policy: str) -> None:
    whole, file, state = finished
    folder = made(whole.with_name("killed"), policy)
    kills, waits = 0, iter(np.linspace(4, 12, 40).tolist())
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "rewardsmith.cli", *arguments(folder, file)],
            stdout=subprocess.PIPE, env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        end = time.monotonic() + next(waits)
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 1
    assert state_of(folder) == state


class Killed(BaseException):
    pass


STEPS = [
    ("rewardsmith.refresh.loop", "ingest_tilted"), ("rewardsmith.refresh.loop", "propose_tests"),
    ("rewardsmith.refresh.loop", "label_round"), ("rewardsmith.refresh.loop", "train_model"),
    ("rewardsmith.refresh.loop", "gate_model"), ("rewardsmith.refresh.releasing", "sync"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("where", "step"), STEPS)
def test_stopped_after_a_step_it_ends_the_same(
    where: str, step: str, finished: tuple[Path, Path, dict[str, Any]], policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of the last round it is in is done, and then the process is gone before anything is noted."""
    whole, file, state = finished
    folder = made(whole.with_name(f"stopped-{step}"), policy)
    module = importlib.import_module(where)
    real, calls = getattr(module, step), []

    def then_gone(*given: Any, **options: Any) -> Any:
        done = real(*given, **options)
        calls.append(1)
        if len(calls) == 2 or step == "ingest_tilted":
            raise Killed
        return done

    with monkeypatch.context() as patch:
        patch.setattr(module, step, then_gone)
        with pytest.raises(Killed):
            main(arguments(folder, file))
    assert main(arguments(folder, file)) == 0
    assert state_of(folder) == state


def test_the_seed_of_the_settings_holds_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, file = made(tmp_path / "project", "trunk", "seed = 5\n"), candidates(tmp_path / "c.jsonl", 4)
    seeds = []
    monkeypatch.setattr("rewardsmith.refresh.loop.run_loop", lambda loop: seeds.append(loop.options.seed) or {})
    main(arguments(folder, file))
    main([*arguments(folder, file), "--seed", "7"])
    assert seeds == [5, 7]


def test_samples_are_pools_with_their_frequencies(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    rows = [("a", "x"), ("a", "x"), ("a", "y"), ("b", "z"), ("b", " "), ("c", "u"), ("c", "v")]
    file.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in rows))
    pools = pools_of([str(file)])
    assert [pool.group.prompt[0].content for pool in pools] == ["a", "c"]
    assert pools[0].base_K == pytest.approx([2 / 3, 1 / 3])
    file.write_text('{"prompt": "a"}\n')
    with pytest.raises(DataError, match="has prompt and response"):
        pools_of([str(file)])


def test_a_round_is_sampled_once(tmp_path: Path) -> None:
    from rewardsmith.overoptimization.sample import Completion

    asked: list[tuple[int, int]] = []

    def sampler(round: int):
        def sample(prompts, seed):
            asked.append((round, seed))
            return [[Completion(f"answer {k} of {seed}", (), -1.0, 3, "stop") for k in range(2)] for _ in prompts]

        return sample

    prompts = [(Message("user", "one"),), (Message("user", "two"),)]
    source = Sampled(tmp_path, prompts, sampler, n=2, seed=0, identity={"policy": "p"})
    first, second = source(0), source(1)
    assert [pool.group for pool in source(0)] == [pool.group for pool in first]
    assert first[0].group.responses != second[0].group.responses
    assert len(asked) == 2
    with pytest.raises(ConfigError, match="other options"):
        Sampled(tmp_path, prompts, sampler, n=2, seed=0, identity={"policy": "q"})(0)


def test_gold_of_an_unknown_answer_is_not_made_up(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    pools = Recorded([str(finished[1])], "gold").pools
    scorer = RecordedScorer([(pools[0].group, pools[0].gold_JK[0])])
    assert scorer.score([pools[0].group])[0].rewards.tolist() == pools[0].gold_JK[0].tolist()
    assert np.isnan(scorer.score([pools[1].group])[0].rewards).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of the two"),
        (["--candidates", "x", "--judge", "http://localhost/v1"], "name who labels"),
        (["--candidates", "x", "--policy", "y"], "one of the two"),
        (["--policy", "y"], "--prompts"),
        (["--policy", "y", "--prompts", "z", "--gold", "column:gold"], "name a reward model"),
        (["--candidates", "x", "--answers", "1"], "at least 2"),
        (["--candidates", "missing.jsonl"], "no such file"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], message: str, tmp_path: Path, policy: str, capsys: pytest.CaptureFixture
) -> None:
    folder = made(tmp_path / "project", policy)
    gold = [] if "--gold" in options else ["--gold", "column:gold"]
    assert main(["refresh", "run", str(folder), *gold, *options, "--quiet"]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize(("words", "seeds"), [([], (7, 5)), (["--seed", "0"], (0, 0)), (["--seed", "3"], (3, 3))])
def test_a_seed_on_the_command_line_goes_before_the_projects_also_where_it_is_0(
    words: list[str], seeds: tuple[int, int], tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = candidates(tmp_path / "candidates.jsonl", 10)
    folder = made(tmp_path / "project", policy, "seed = 7\n")
    proposing(folder, "seed = 5")
    found: list[int] = []

    def seen(loop: Loop) -> dict[str, Any]:
        found.append(loop.options.seed)
        loop.propose(loop, 0)
        return {"rounds": [], "release": None}

    monkeypatch.setattr("rewardsmith.refresh.loop.run_loop", seen)
    monkeypatch.setattr(
        "rewardsmith.refresh.loop.propose_round", lambda loop, round, options: found.append(options.seed)
    )
    assert main([*arguments(folder, file), *words]) == 0
    assert tuple(found) == seeds


def test_sets_are_proposed_and_labelled_in_the_loop(tmp_path: Path, policy: str) -> None:
    file = candidates(tmp_path / "candidates.jsonl", 60)
    folder = made(tmp_path / "project", policy)
    proposing(folder, "answers = 3")
    words = [*arguments(folder, file), "--rounds", "0"]
    assert main(words) == 0
    with open_project(folder).open() as store:
        pairs = every_pair(store)
        assert not any(pair.is_open for pair in pairs)
    ranked = [pair for pair in pairs if pair.set_id]
    assert sum(pair.kind != "held-out" for pair in pairs) == 48
    assert len(ranked) >= 42
    assert all(sum(other.set_id == pair.set_id for other in ranked) == 3 for pair in ranked)
    assert {pair.set_id for pair in pairs if pair.kind == "held-out"} == {None}, "what tests stays a pair"
    assert main(words) == 0
    with open_project(folder).open() as store:
        assert every_pair(store) == pairs
