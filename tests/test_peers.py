"""The artifact in other tools: same rewards, or a reason. What needs a heavy peer is marked slow.

PEER_PYTHON and OLD_PYTHON name other environments than .venv/peers (transformers 5) and none (transformers 4).
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from rewardsmith.model.artifact import save_reward_model
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.text.render import Renderer
from tests.tiny import tiny_tokenizer, tiny_trunk

ROOT = Path(__file__).resolve().parent.parent
# way -> the module it imports
MODULES = {
    "transformers, one row": "transformers",
    "transformers, padded batch": "transformers",
    "TRL GRPOTrainer": "trl",
    "CrossEncoder": "sentence_transformers",
    "rewardbench pipeline": "rewardbench",
}


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peer_parity", ROOT / "benchmarks" / "peer_parity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


peer_parity = load_script()


@functools.cache
def has_module(python: str, module: str) -> bool:
    """Whether that interpreter finds the module (it is not imported)."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return Path(python).is_file() and subprocess.run([python, "-c", code], check=False).returncode == 0


def python_with(module: str) -> str:
    """The current interpreter or the peers'; skips where neither has the module."""
    for python in (sys.executable, os.environ.get("PEER_PYTHON", str(peer_parity.PEER_PYTHON))):
        if has_module(python, module):
            return python
    pytest.skip(f"{module} is neither in this environment nor in .venv/peers (make peers)")


@pytest.fixture(scope="module")
def rm(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("peers") / "rm"
    save_reward_model(RewardModel(tiny_trunk(rope_theta=500_000.0)), Renderer(tiny_tokenizer()), folder)
    return str(folder)


@pytest.fixture(scope="module")
def ours(rm: str) -> dict[str, float]:
    rewards, left_out = peer_parity.our_rewards(rm, peer_parity.DIALOGUES)
    assert not left_out
    assert max(rewards.values()) - min(rewards.values()) > 0.1, "rewards this close would agree by accident"
    return rewards


def check(python: str, ways: tuple[str, ...], rm: str, ours: dict[str, float]) -> None:
    dialogues = [peer_parity.DIALOGUES[name] for name in ours]
    for way, result in peer_parity.run_in(python, ways, rm, dialogues).items():
        judged = peer_parity.judge(result, list(ours.values()), peer_parity.TOLERANCE)
        if judged["verdict"] == "not run":
            pytest.skip(f"{way}: {judged['note']}")
        assert judged["verdict"] == "same", (way, judged)


@pytest.mark.slow
@pytest.mark.parametrize("way", MODULES)
def test_a_peer_gives_our_rewards(way: str, rm: str, ours: dict[str, float]) -> None:
    check(python_with(MODULES[way]), (way,), rm, ours)


@pytest.mark.slow
def test_transformers_4_gives_our_rewards(rm: str, ours: dict[str, float]) -> None:
    python = os.environ.get("OLD_PYTHON", "")
    if not has_module(python, "transformers"):
        pytest.skip("OLD_PYTHON names no environment with transformers 4")
    check(python, ("transformers, one row", "transformers, padded batch"), rm, ours)


def test_every_way_is_tested() -> None:
    assert set(MODULES) == set(peer_parity.WAYS)


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        ({"rewards": [1.0, 2.0]}, "same"),
        ({"rewards": [1.0, 2.01]}, "DIFFERENT"),
        ({"rewards": [1.0, float("nan")]}, "DIFFERENT"),
        ({"rewards": [1.0]}, "FAILED"),
        ({"error": "ValueError: no"}, "FAILED"),
        ({"missing": "trl is not installed"}, "not run"),
    ],
)
def test_verdicts(result: dict, verdict: str) -> None:
    judged = peer_parity.judge({"version": "", "transformers": "", "note": "", **result}, [1.0, 2.0], 1e-3)
    assert judged["verdict"] == verdict
    assert verdict in peer_parity.show([("a way", judged)])
    expected = {"same": 0, "not run": 2}.get(verdict, 1)
    assert peer_parity.status_of([("a way", judged)]) == expected


def test_a_missing_environment_names_the_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert peer_parity.main(["rm", "--peer-python", str(tmp_path / "python")]) == 2
    assert "make peers" in capsys.readouterr().err
    old = argparse.Namespace(peer_python=sys.executable, old_python=str(tmp_path / "python"))
    assert "--old-python" in peer_parity.missing_environment(old)


def test_a_peer_that_dies_has_failed(tmp_path: Path) -> None:
    dead = tmp_path / "python"
    dead.write_text("#!/bin/sh\necho no torch here >&2\nexit 3\n")
    dead.chmod(0o755)
    result = peer_parity.run_in(dead, ("CrossEncoder",), str(tmp_path), [])["CrossEncoder"]
    assert "no torch here" in peer_parity.judge(result, [], 1e-3)["note"]
