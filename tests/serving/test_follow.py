"""A server that follows releases: it changes over under load, goes back, and refuses what is not what was released."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardsmith.data.schema import Group, Message
from rewardsmith.model.artifact import save_reward_model
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.refresh import releases
from rewardsmith.scorers import load_scorer
from rewardsmith.serving.engine import Engine, load_engine
from rewardsmith.serving.follow import Follow
from rewardsmith.text.render import RenderConfig, Renderer
from tests.serving.conftest import Running, running
from tests.tiny import tiny_tokenizer, tiny_trunk

BODY = {"messages": [{"role": "user", "content": "a question"}], "responses": ["one", "another one"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = []
    for seed in range(3):
        folder = tmp_path_factory.mktemp("models") / f"rm-{seed}"
        renderer = Renderer(tiny_tokenizer(), RenderConfig(max_length=128))
        save_reward_model(RewardModel(tiny_trunk(seed=seed)).eval(), renderer, folder)
        folders.append(folder)
    return folders


def wanted(folder: Path) -> np.ndarray:
    group = Group(
        prompt=(Message("user", "a question"),),
        responses=((Message("assistant", "one"),), (Message("assistant", "another one"),)),
    )
    return load_scorer(str(folder)).score([group])[0].rewards


def follower(project: Path, again_after: float = 60.0) -> tuple[Callable[[], Engine], Follow]:
    def load() -> Engine:
        pointer, folder = releases.open_current(project)
        return load_engine(str(folder), name="project", device="cpu", release=pointer.label)

    def now() -> str | None:
        pointer = releases.current(project)
        return None if pointer is None else pointer.label

    return load, Follow(now, 0.05, again_after=again_after)


def until(server: Running, release: int, seconds: float = 20) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = server.get("/ready").json
        if state["release"].startswith(f"{release:04d}"):
            return state
        time.sleep(0.02)
    raise AssertionError(f"still {state}")


def publish_unchecked(project: Path, release: releases.Release) -> None:
    """Point to a release whose files have changed meanwhile: no server has seen it whole."""
    release = replace(release, release=2, parent=1)
    file = project / "releases/0002/release.json"
    releases._write_whole(file, asdict(release))
    releases._point(project, releases.history(project), 2, "release", "")


class Load(threading.Thread):
    """Asks without pause until told to stop, and keeps every answer."""

    def __init__(self, server: Running) -> None:
        super().__init__(daemon=True)
        self.server, self.ending = server, threading.Event()
        self.answers: list[tuple[int, Any]] = []
        self.start()

    def run(self) -> None:
        while not self.ending.is_set():
            reply = self.server.post("/v1/reward", BODY)
            self.answers.append((reply.status, json.loads(reply.body)))


def test_changes_over_and_back_under_load(tmp_path: Path, trained: list[Path], capsys: pytest.CaptureFixture) -> None:
    releases.release(tmp_path, trained[0])
    load, follow = follower(tmp_path)
    with running(load(), load, follow=follow) as server:
        assert server.get("/ready").json["release"] == "0001 (entry 1)"
        clients = [Load(server) for _ in range(3)]
        hashes = {until(server, 1)["artifact"]: wanted(trained[0])}
        releases.release(tmp_path, trained[1])
        hashes[until(server, 2)["artifact"]] = wanted(trained[1])
        releases.rollback(tmp_path)
        assert until(server, 1)["release"] == "0001 (entry 3)"
        releases.release(tmp_path, trained[2])
        hashes[until(server, 3)["artifact"]] = wanted(trained[2])
        time.sleep(0.2)
        for client in clients:
            client.ending.set()
        for client in clients:
            client.join(20)
    answers = [answer for client in clients for answer in client.answers]
    assert {status for status, _ in answers} == {200}
    assert {body["artifact"] for _, body in answers} == set(hashes)
    for _, body in answers:  # each reward is that of the model which the answer names
        got = [row["reward"] for row in body["groups"][0]["rewards"]]
        assert np.allclose(got, hashes[body["artifact"]], atol=1e-4)


def test_a_broken_release_is_refused_and_the_old_one_serves_on(
    tmp_path: Path, trained: list[Path], capsys: pytest.CaptureFixture
) -> None:
    broken = tmp_path / "models" / "broken"
    shutil.copytree(trained[1], broken)
    releases.release(tmp_path, trained[0])
    load, follow = follower(tmp_path, again_after=0.3)
    with running(load(), load, follow=follow) as server:
        client = Load(server)
        content = (broken / "model.safetensors").read_bytes()
        release, _ = releases.release(tmp_path / "elsewhere", broken)  # what it would have been
        (broken / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        publish_unchecked(tmp_path, release)
        time.sleep(1.0)
        assert server.get("/ready").json["release"] == "0001 (entry 1)"
        assert "has changed since it was released" in capsys.readouterr().err
        (broken / "model.safetensors").write_bytes(content)  # mended: taken up without being told
        until(server, 2)
        client.ending.set()
        client.join(20)
    assert {status for status, _ in client.answers} == {200}


def test_a_pointer_that_cannot_be_read_is_said_once(
    tmp_path: Path, trained: list[Path], capsys: pytest.CaptureFixture
) -> None:
    releases.release(tmp_path, trained[0])
    load, follow = follower(tmp_path)
    with running(load(), load, follow=follow) as server:
        pointer = tmp_path / "releases/current.json"
        content = pointer.read_text()
        pointer.write_text("{")
        time.sleep(0.5)
        assert server.post("/v1/reward", BODY).status == 200
        pointer.write_text(content)
        time.sleep(0.2)
    assert capsys.readouterr().err.count("cannot see what is released") == 1
