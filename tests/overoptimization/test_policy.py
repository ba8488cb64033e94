"""Policy runs: what needs no TRL (options, output, resuming), and GRPO and RLOO themselves where TRL is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from rewardsmith.cli import main
from rewardsmith.errors import ConfigError, Interrupted, RewardsmithError, TrainingError
from rewardsmith.overoptimization import policy_records as records
from rewardsmith.overoptimization.policy import (
    changes,
    check_output,
    fingerprint,
    last_checkpoint,
    prompt_order,
    run_policy,
)
from rewardsmith.overoptimization.policy_config import PolicyConfig
from rewardsmith.scoring import FunctionScorer
from rewardsmith.verbs_policy import Rl
from tests.overoptimization.conftest import tiny_policy

HAS_TRL = importlib.util.find_spec("trl") is not None
needs_trl = pytest.mark.skipif(not HAS_TRL, reason="TRL is not installed: pip install 'rewardsmith[rl]'")

PROXY = FunctionScorer(lambda prompt, response: response.count("e") - 0.1 * len(response))
GOLD = FunctionScorer(lambda prompt, response: -float(len(response)))


def config(tmp_path: Path, **changes: Any) -> PolicyConfig:
    plain: dict[str, Any] = {
        "rm": "rm", "policy": str(tmp_path / "policy"), "prompts": (str(tmp_path / "prompts.txt"),),
        "output": str(tmp_path / "run"), "steps": 2, "prompts_per_step": 2, "completions": 2, "max_tokens": 5,
        "rows_at_once": 4, "learning_rate": 1e-2, "precision": "float32", "device": "cpu",
    }  # fmt: skip
    (tmp_path / "prompts.txt").write_text("hi\nwhy\nhow\nwho\nwhat\n")
    return PolicyConfig(**(plain | changes))


# -- without TRL --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"completions": 1}, "--completions"),
        ({"kl": -0.1}, "--kl"),
        ({"kl": float("nan")}, "--kl"),
        ({"temperature": 0.0}, "--temperature"),
        ({"rows_at_once": 3}, "does not divide"),
        ({"gold_drop": 1.0}, "--gold"),
    ],
)
def test_options_that_make_no_run(tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config(tmp_path, **wrong)


def test_missing_trl_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trl" else find(name))
    (tmp_path / "p.txt").write_text("hi\n")
    code = main(["rl", "rm", "--policy", "x", "--prompts", str(tmp_path / "p.txt"), "--output", str(tmp_path / "o")])
    assert code == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: rl needs TRL, which is not installed: pip install 'rewardsmith[rl]'"
    ]


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ConfigError, match="one process"):
        run_policy(config(tmp_path))


def test_what_people_are_shown(tmp_path: Path) -> None:
    plain = config(tmp_path, max_kl=4.0)
    verb = Rl(**{field.name: getattr(plain, field.name) for field in fields(plain)})
    first = {"proxy": 0.5, "kl": 0.0, "markers": {"list": 0.25, "praise": 0.5}}
    last = {"proxy": 1.5, "kl": 4.5, "markers": {"list": 0.75, "praise": 0.5}}
    best = {"step": 3, "kl": 2.0, "gold": -0.25, "split": "train"}
    shown = verb.show({"steps": 5, "stopped": "max-kl", "first": first, "last": last, "best_gold": best})
    assert "after 5 steps" in shown
    assert "--max-kl 4 was reached" in shown
    assert "0.500 -> 1.500" in shown
    assert "markers: list 25% -> 75%" in shown
    assert "praise" not in shown
    assert "step 3, kl 2.00: -0.250" in shown


def checkpoint(run: Path, step: int, state: str | None = "{}") -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    if state is not None:
        (folder / "trainer_state.json").write_text(state)
    return folder


def test_last_checkpoint_is_a_whole_one(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    checkpoint(tmp_path, 9)
    whole = checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 20, None)
    checkpoint(tmp_path, 30, '{"global_st')
    assert last_checkpoint(tmp_path) == whole


def test_nothing_is_destroyed_unasked(tmp_path: Path) -> None:
    plain = config(tmp_path)
    output = Path(plain.output)
    check_output(plain)
    checkpoint(plain.run_folder, 10)
    with pytest.raises(ConfigError, match=r"at step 10.*--resume"):
        check_output(plain)
    check_output(config(tmp_path, resume=True))
    assert plain.run_folder.exists()
    check_output(config(tmp_path, overwrite=True))
    assert not plain.run_folder.exists()
    output.mkdir()
    (output / "notes.txt").touch()
    with pytest.raises(ConfigError, match="not empty"):
        check_output(plain)
    (output / "run.json").touch()
    with pytest.raises(ConfigError, match="complete"):
        check_output(config(tmp_path, resume=True))
    check_output(config(tmp_path, overwrite=True))
    assert (output / "notes.txt").exists(), "what is replaced goes when the new one is whole"


def test_prompts_come_round_equally_often() -> None:
    order = prompt_order(3, 10, seed=1)
    assert len(order) == 10
    assert sorted(order[:3]) == sorted(order[3:6]) == [0, 1, 2]
    assert order == prompt_order(3, 10, seed=1) != prompt_order(3, 10, seed=2)


def test_changes_names_what_decides_numbers() -> None:
    before = {"config": {"kl": 0.1, "output": "a", "max_kl": None}, "policy": "p", "rm": "r", "gold": None,
              "prompts": {}, "bfloat16": False}  # fmt: skip
    assert changes(before, before) == []
    now = {**before, "config": {"kl": 0.2, "output": "b", "max_kl": 3.0}, "policy": "q"}
    assert changes(before, now) == ["--kl", "the policy"]


def test_fingerprint_sees_one_number() -> None:
    model = tiny_policy()
    before = fingerprint(model)
    assert before == fingerprint(tiny_policy())
    model.model.norm.weight.data[0] += 1e-6
    assert fingerprint(model) != before


# -- with TRL -----------------------------------------------------------------------------------------------


def run(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return run_policy(config(tmp_path, **changes), scorer=PROXY, gold=GOLD, quiet=True)


def read(tmp_path: Path, name: str = records.RECORDS, output: str = "run") -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in records.read(tmp_path / output / name)]


@needs_trl
@pytest.mark.parametrize(("algorithm", "kl"), [("grpo", 0.1), ("grpo", 0.0), ("rloo", 0.1), ("rloo", 0.0)])
def test_two_steps(tmp_path: Path, policy_folder: str, algorithm: str, kl: float) -> None:
    result = run(tmp_path, algorithm=algorithm, kl=kl, held_out=2, held_out_every=1)
    found = read(tmp_path)
    assert [(r["step"], r["split"]) for r in found] == [
        (0, "held-out"), (0, "train"), (1, "held-out"), (1, "train"), (2, "held-out")
    ]  # fmt: skip
    assert result["steps"] == 2
    assert result["stopped"] is None
    first, last = found[1], found[-1]
    assert first["kl"] == first["kl_k1"] == first["kl_k3"] == 0, "the policy begins at its reference"
    assert last["kl"] > 0, "an update moved it"
    rows = read(tmp_path, records.ROWS)
    assert len(rows) == 2 * 4 + 3 * 2
    for row in rows:
        assert row["proxy"] == pytest.approx(PROXY.function("", row["response"]))
        assert row["gold"] == -len(row["response"])
    means = [row["proxy"] for row in rows if row["step"] == 0 and row["split"] == "train"]
    assert first["proxy"] == pytest.approx(sum(means) / 4)
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "policy")
    start = AutoModelForCausalLM.from_pretrained(policy_folder)
    assert fingerprint(saved) != fingerprint(start) == result["policy"]
    assert not (tmp_path / ".run.run").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["algorithm"] == algorithm


@needs_trl
def test_the_proxy_is_what_is_optimised(tmp_path: Path, policy_folder: str) -> None:
    run(tmp_path, steps=15, prompts_per_step=4, completions=8, rows_at_once=32, kl=0.0, learning_rate=3e-3)
    proxy = [record["proxy"] for record in read(tmp_path)]
    assert sum(proxy[-3:]) / 3 > sum(proxy[:3]) / 3 + 0.2


@needs_trl
def test_an_interrupted_run_ends_as_an_unbroken_one(tmp_path: Path, policy_folder: str) -> None:
    options: dict[str, Any] = {"steps": 4, "held_out": 1, "held_out_every": 2, "kl": 0.1}
    whole = run(tmp_path, output=str(tmp_path / "whole"), **options)

    class Interrupting(FunctionScorer):
        calls = 0

        def score(self, groups: Any) -> Any:
            self.calls += 1
            if self.calls == 3:  # held-out, step 0, step 1: stops at the end of that step
                os.kill(os.getpid(), signal.SIGINT)
            return super().score(groups)

    with pytest.raises(Interrupted, match="step 2 of 4"):
        run_policy(config(tmp_path, **options), scorer=Interrupting(PROXY.function), gold=GOLD, quiet=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="at step 2"):
        run(tmp_path, **options)
    with pytest.raises(TrainingError, match="--kl"):
        run(tmp_path, resume=True, **(options | {"kl": 0.3}))
    (tmp_path / ".run.run" / records.RECORDS).open("a").write('{"step": 2, "split": "train"}\n{"ste')
    resumed = run(tmp_path, resume=True, **options)
    assert read(tmp_path) == read(tmp_path, output="whole")
    assert read(tmp_path, records.ROWS) == read(tmp_path, records.ROWS, output="whole")
    assert resumed["last"]["kl"] == whole["last"]["kl"]


@needs_trl
def test_it_stops_at_its_kl(tmp_path: Path, policy_folder: str) -> None:
    result = run(tmp_path, steps=5, max_kl=1e-6, smooth=1, kl=0.0)
    assert (result["stopped"], result["steps"]) == ("max-kl", 2), "the records of step 1 are the first that differ"
    assert (tmp_path / "run" / "policy" / "model.safetensors").exists()


@needs_trl
def test_pessimism_without_a_spread(tmp_path: Path, policy_folder: str) -> None:
    with pytest.raises(RewardsmithError, match="ensemble"):
        run(tmp_path, pessimism=1.0)
    shutil.rmtree(tmp_path / ".run.run")
