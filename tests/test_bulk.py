"""Bulk scoring: every row once and in order, whatever dies on the way. What needs a cluster is marked slow."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rewardsmith.bulk import (
    LOCAL,
    MANIFEST,
    ChunkScorer,
    Parts,
    RayOptions,
    packed,
    parts_folder,
    reason_of,
    score_bulk,
)
from rewardsmith.cli import main
from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import ConfigError, DataError, ModelError
from rewardsmith.scoring import Scores, rows_of_group

HAS_RAY = importlib.util.find_spec("ray") is not None
with_ray = pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: pip install 'rewardsmith[ray]'")
IDENTITY = {"model": "rm", "chunk": "4"}
ROWS = b'{"id": "a"}\n{"id": "b"}\n'


def groups(n: int) -> list[Group]:
    return [
        Group(
            prompt=(Message("user", f"question {i} \ud83d" if i == 3 else f"question {i} \u00e9\u6f22"),),
            responses=tuple((Message("assistant", "a" * (k + i % 7)),) for k in range(1 + i % 3)),
            id=f"g{i}",
        )
        for i in range(n)
    ]


class Lengths:
    """A scorer that can be pickled: a reward is the answer's length. Notes its process in `folder`, and takes its
    time where it is to be killed."""

    def __init__(self, folder: Path | None = None, seconds: float = 0.0) -> None:
        self.seconds, self.n_tokens, self.n_row_tokens = seconds, 0, 0
        self.report = SimpleNamespace(prompts_cut=0, responses_cut=0)
        if folder is not None:
            (folder / str(os.getpid())).touch()

    def score(self, groups: Sequence[Group]) -> list[Scores]:
        time.sleep(self.seconds)
        found = [Scores(np.array([float(len(r[0].content)) for r in group.responses])) for group in groups]
        self.n_tokens += len(groups)
        self.n_row_tokens += sum(len(group.responses) for group in groups)
        return found


def broken() -> Any:
    raise ModelError("no weights here")


def prompts_file(folder: Path) -> str:
    file = folder / "x.jsonl"
    file.write_text('{"prompt": "q", "response": "a"}\n')
    return str(file)


def wanted_rows(all_groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [row for g, s in zip(all_groups, Lengths().score(all_groups), strict=True) for row in rows_of_group(g, s)]


def rows_in(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


# -- without a cluster --------------------------------------------------------------------------------------


def test_a_worker_gives_the_rows_of_its_chunk_and_counts_only_them() -> None:
    worker = ChunkScorer(Lengths, None)
    for number in (3, 8):
        (made,) = worker(packed(number, groups(5))).to_pylist()
        assert (made["chunk"], made["groups"], made["tokens"], made["row_tokens"]) == (number, 5, 5, 9)
        assert [json.loads(line) for line in made["rows"].decode().splitlines()] == wanted_rows(groups(5))


def test_parts_are_put_together_in_order_whatever_came_first(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "rows.jsonl", IDENTITY)
    for number in (2, 0, 1):
        parts.add(number, f'{{"n": {number}}}\n'.encode(), 4, 0)
    assert parts.publish(3) == 3
    assert [row["n"] for row in rows_in(tmp_path / "rows.jsonl")] == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_only_parts_that_are_whole_are_kept(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    parts = Parts(output, IDENTITY)
    for number in range(5):
        parts.add(number, ROWS, 4, 1)
    folder = parts_folder(output)
    (folder / "00000001.jsonl").write_bytes(ROWS[:-3])  # a disk that lost what it said it had
    (folder / "00000002.jsonl").unlink()
    manifest = folder / MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:-9])  # killed while it wrote the last line
    again = Parts(output, IDENTITY, resume=True)
    assert sorted(again.done) == [0, 3]
    again.add(1, ROWS, 4, 1)
    assert sorted(Parts(output, IDENTITY, resume=True).done) == [0, 1, 3], "behind the torn line nothing is lost"


def test_a_chunk_that_was_scored_twice_is_there_once(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "rows.jsonl", IDENTITY)
    parts.add(0, ROWS, 2, 0)
    parts.add(0, ROWS, 2, 0)
    assert parts.publish(1) == 2


def test_parts_are_neither_mixed_nor_lost(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    Parts(output, IDENTITY).add(0, ROWS, 4, 0)
    with pytest.raises(ConfigError, match="add --resume"):
        Parts(output, IDENTITY)
    with pytest.raises(ConfigError, match="of other model"):
        Parts(output, IDENTITY | {"model": "other"}, resume=True)
    with pytest.raises(DataError, match="has 4 groups, and the input 3"):
        Parts(output, IDENTITY, resume=True).check_groups(0, 3)
    assert Parts(output, IDENTITY, overwrite=True).done == {}


def test_a_run_that_is_all_there_needs_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not HAS_RAY:
        pytest.skip("ray is not installed: pip install 'rewardsmith[ray]'")
    import ray

    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("a cluster was started"))
    output = tmp_path / "rows.jsonl"
    identity = {"chunk": "4", "model": "rm"}
    parts = Parts(output, identity)
    worker = ChunkScorer(Lengths, None)
    for number in (0, 1):
        (made,) = worker(packed(number, groups(6)[4 * number :][:4])).to_pylist()
        parts.add(number, made["rows"], made["groups"], made["unscored"])
    counts = score_bulk(Lengths, groups(6), output, resume=True, identity={"model": "rm"}, chunk=4)
    assert (counts["groups"], counts["resumed_groups"], counts["rows"]) == (6, 6, len(wanted_rows(groups(6))))
    assert rows_in(output) == wanted_rows(groups(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray-workers", "2"], "for --engine ray"),
        (["--engine", "ray", "--ray-workers", "0"], "at least 1"),
        (["--engine", "ray", "--aggregate", "min"], "single reward model"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", str(tmp_path), prompts_file(tmp_path), "--output", str(tmp_path / "rows.jsonl"), *options]
    assert main(words) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said


def test_a_server_has_no_weights_for_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", "http://127.0.0.1:1", prompts_file(tmp_path), "--output", str(tmp_path / "rows.jsonl")]
    assert main([*words, "--engine", "ray"]) == 2
    assert "need the weights" in capsys.readouterr().err


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["score", str(tmp_path), prompts_file(tmp_path), "--output", str(tmp_path / "rows.jsonl")]
    assert main([*words, "--engine", "ray"]) == 2
    assert "pip install 'rewardsmith[ray]'" in capsys.readouterr().err


def test_local_scoring_does_not_lose_the_parts_of_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "rows.jsonl"
    Parts(output, IDENTITY).add(0, ROWS, 4, 0)
    assert main(["score", str(tmp_path), prompts_file(tmp_path), "--output", str(output), "--resume"]) == 2
    assert "--engine ray --resume" in capsys.readouterr().err
    assert parts_folder(output).exists()


def test_reasons_are_one_line() -> None:
    assert reason_of(ModelError("a trace\n  of lines\nModelError: no weights here\n")) == "ModelError: no weights here"
    assert reason_of(ValueError()) == "ValueError"


# -- on a cluster of this machine ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Any:
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'rewardsmith[ray]'")
    os.environ |= LOCAL
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield ray
    ray.shutdown()


@pytest.mark.slow
@with_ray
def test_every_row_once_and_in_order(cluster: Any, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    counts = score_bulk(Lengths, groups(50), output, chunk=4, options=RayOptions(ray_workers=2))
    assert rows_in(output) == wanted_rows(groups(50))
    assert (counts["groups"], counts["rows"], counts["tokens"]) == (50, len(wanted_rows(groups(50))), 50)


@pytest.mark.slow
@with_ray
def test_a_worker_that_is_killed_costs_no_row_and_doubles_none(cluster: Any, tmp_path: Path) -> None:
    output, pids = tmp_path / "rows.jsonl", tmp_path / "pids"
    pids.mkdir()
    killed: list[int] = []

    def kill() -> None:
        while not list(parts_folder(output).glob("0*.jsonl")):
            time.sleep(0.01)
        killed.append(int(next(pids.iterdir()).name))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    load = partial(Lengths, pids, 0.2)
    counts = score_bulk(load, groups(48), output, chunk=4, options=RayOptions(ray_workers=1))
    killer.join(10)
    assert killed
    assert len(list(pids.iterdir())) >= 2, "another worker took over"
    assert rows_in(output) == wanted_rows(groups(48))
    assert counts["rows"] == len(wanted_rows(groups(48)))


@pytest.mark.slow
@with_ray
def test_what_workers_cannot_load_is_one_line(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a worker failed: .*no weights here.*--resume"):
        score_bulk(broken, groups(4), tmp_path / "rows.jsonl", chunk=4, options=RayOptions(ray_workers=1))


@pytest.mark.slow
@with_ray
def test_a_run_that_is_killed_goes_on_and_gives_the_rewards_of_the_local_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole process dies; a second one takes its parts over."""
    from tests.test_verbs_serve import saved  # workers of the other tests import this module, and need no torch

    model = str(saved(tmp_path / "rm"))
    file = tmp_path / "x.jsonl"
    lines = [json.dumps({"prompt": f"question {i}", "responses": ["a" * (i % 9), "b"]}) for i in range(256 * 12)]
    file.write_text("\n".join(lines) + "\n")
    bulk = [model, str(file), "--output", str(tmp_path / "bulk.jsonl"), "--engine", "ray", "--ray-workers", "1"]
    # The rows of a chunk are the same to the bit where the number of threads is; here they are near.
    first = subprocess.Popen([sys.executable, "-m", "rewardsmith.cli", "score", *bulk, "--quiet"])
    folder = parts_folder(tmp_path / "bulk.jsonl")
    until = time.monotonic() + 600
    while len(list(folder.glob("0*.jsonl"))) < 2:
        assert time.monotonic() < until
        assert first.poll() is None
        time.sleep(0.01)
    first.kill()
    first.wait()
    assert not (tmp_path / "bulk.jsonl").exists()
    assert main(["score", *bulk, "--quiet"]) == 2, "not without --resume"
    capsys.readouterr()
    done = subprocess.run(
        [sys.executable, "-m", "rewardsmith.cli", "score", *bulk, "--resume", "--json", "--quiet"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert 512 <= counts["resumed_groups"] < 256 * 12
    assert (counts["groups"], counts["rows"]) == (256 * 12, 2 * 256 * 12)
    assert main(["score", model, str(file), "--output", str(tmp_path / "local.jsonl"), "--quiet"]) == 0
    found, wanted = rows_in(tmp_path / "bulk.jsonl"), rows_in(tmp_path / "local.jsonl")
    assert [(row["id"], row["response_index"]) for row in found] == [
        (row["id"], row["response_index"]) for row in wanted
    ]
    np.testing.assert_allclose([r["reward"] for r in found], [r["reward"] for r in wanted], atol=1e-4)
