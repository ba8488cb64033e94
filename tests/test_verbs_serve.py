"""The verbs: mistakes are one line before a model is loaded; a whole process, its signals and its end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rewardsmith.cli import main
from rewardsmith.model.artifact import PROBE, save_reward_model
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.refresh import releases
from rewardsmith.scorers import load_scorer
from rewardsmith.text.render import Renderer
from tests.tiny import tiny_tokenizer, tiny_trunk


def saved(folder: Path, seed: int = 0) -> Path:
    renderer = Renderer(tiny_tokenizer())
    save_reward_model(RewardModel(tiny_trunk(seed=seed)).eval(), renderer, folder, overwrite=True)
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "keys are needed"),
        (["--api-key", "short"], "at least 16"),
        (["--key-file", "missing.txt"], "cannot be read"),
        (["--tls-cert", "x.pem"], "together"),
        (["--tls-cert", "x.pem", "--tls-key", "y.pem"], "is no file"),
        (["--max-waiting", "3"], "half of"),
        (["--port", "-1"], "at least 0"),
        ([], "no folder"),
    ],
)
def test_mistakes_are_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "no-such-folder-here", *options]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert "\n" not in said
    if message != "no folder":
        assert message in said


def test_keys_are_made_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "keys.txt")
    assert main(["keys", "add", "trainer", "--file", file, "--json"]) == 0
    key = json.loads(capsys.readouterr().out)["key"]
    assert key not in Path(file).read_text()
    assert main(["keys", "revoke", "trainer", "--file", file]) == 0
    assert main(["keys", "revoke", "trainer", "--file", file]) == 2


class Process:
    """`rewardsmith serve` as a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rewardsmith.cli", "serve", *arguments, "--port", "0", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "serving" in line and "http://" in line:
                self.port = int(line.split("http://127.0.0.1:")[1].split()[0].rstrip("(").split("/")[0])
                return
        raise AssertionError("it did not start")

    def ask(self, body: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", "/v1/reward", json.dumps(body), {"content-type": "application/json"})
        return json.loads(connection.getresponse().read())


@pytest.mark.slow
def test_a_process_serves_reads_again_and_ends(tmp_path: Path) -> None:
    folder = saved(tmp_path / "rm")
    server = Process(str(folder))
    body = {"messages": [m.to_dict() for m in PROBE[0].prompt], "responses": ["Canberra."]}
    first = server.ask(body)
    wanted = load_scorer(str(folder)).score([PROBE[0]])[0].rewards[0]
    assert first["groups"][0]["rewards"][0]["reward"] == pytest.approx(wanted, abs=1e-5)
    saved(folder, seed=1)
    server.process.send_signal(signal.SIGHUP)
    while (second := server.ask(body))["artifact"] == first["artifact"]:
        assert server.process.poll() is None
    assert second["groups"][0]["rewards"][0]["reward"] != pytest.approx(wanted, abs=1e-3)
    server.process.send_signal(signal.SIGTERM)
    out, _ = server.process.communicate(timeout=30)
    assert server.process.returncode == 0
    assert json.loads(out)["responses"] >= 2


@pytest.mark.slow
def test_a_process_follows_a_project(tmp_path: Path) -> None:
    project = tmp_path / "project"
    releases.release(project, saved(tmp_path / "rm-0"))
    server = Process("--follow", str(project), "--follow-seconds", "0.1")
    body = {"messages": [m.to_dict() for m in PROBE[0].prompt], "responses": ["Canberra."]}
    first = server.ask(body)
    assert first["model"] == "project"
    releases.release(project, saved(tmp_path / "rm-1", seed=1))
    while (second := server.ask(body))["artifact"] == first["artifact"]:
        assert server.process.poll() is None
    releases.rollback(project)
    while server.ask(body)["artifact"] == second["artifact"]:
        assert server.process.poll() is None
    server.process.send_signal(signal.SIGTERM)
    out, _ = server.process.communicate(timeout=30)
    assert server.process.returncode == 0
    assert json.loads(out)["model"] == str(project)


def test_a_model_or_a_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve"]) == main(["serve", "rm", "--follow", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("one of the two") == 2
    assert main(["serve", "--follow", str(tmp_path)]) == 2
    assert "nothing is released" in capsys.readouterr().err
