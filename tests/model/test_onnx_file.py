"""ONNX folders: the rewards of the model they were made from, through onnxruntime, whatever the padding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from rewardsmith.cli import main
from rewardsmith.model.artifact import PROBE, save_reward_model
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.scorers import OnnxScorer, load_scorer
from rewardsmith.text.render import Renderer
from tests.tiny import tiny_tokenizer, tiny_trunk


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rm") / "rm"
    renderer = Renderer(tiny_tokenizer())
    calibration = {"calibration": {"temperature": 2.0, "status": "fitted", "n_pairs": 9, "pairs": "x"}}
    save_reward_model(RewardModel(tiny_trunk()).eval(), renderer, folder, meta=calibration)
    return folder


@pytest.fixture(scope="module")
def exported(artifact: Path) -> Path:
    output = artifact.parent / "onnx"
    assert main(["export", str(artifact), "--output", str(output), "--format", "onnx"]) == 0
    return output


def test_rewards_are_the_models(artifact: Path, exported: Path) -> None:
    ours, theirs = load_scorer(str(artifact)), load_scorer(str(exported), tokens_per_batch=64)
    assert isinstance(theirs, OnnxScorer)
    for a, b in zip(ours.score(PROBE), theirs.score(PROBE), strict=True):
        np.testing.assert_allclose(b.rewards, a.rewards, atol=1e-4)
        np.testing.assert_allclose(b.calibrated, a.rewards / 2, atol=1e-4)
        assert (a.n_tokens, a.truncated) == (b.n_tokens, b.truncated)


def test_the_folder_says_what_moved(exported: Path) -> None:
    meta = json.loads((exported / "reward_model.json").read_text())
    assert meta["onnx"]["weights"] == "float32"
    assert 0 <= meta["onnx"]["max_difference"] < 1e-4
    assert meta["onnx"]["n_rows"] == 5


@pytest.mark.parametrize("verb", ["selftest", "ensemble laplace"])
def test_what_needs_the_weights_says_so(exported: Path, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = exported.parent / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "q", "chosen": "good", "rejected": "bad"}) + "\n")
    assert main([*verb.split(), str(exported), str(file)]) == 2
    assert "ONNX file" in capsys.readouterr().err


def int8_weights(folder: Path) -> int:
    graph = onnx.load(folder / "model.onnx").graph
    return sum(weight.data_type == onnx.TensorProto.INT8 for weight in graph.initializer)


@pytest.mark.parametrize("dtype", ["int8", "int8-dynamic"])
def test_int8_is_close_and_int8(artifact: Path, exported: Path, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = artifact.parent / dtype
    words = ["export", str(artifact), "--output", str(output), "--format", "onnx", "--dtype", dtype, "--json"]
    assert main(words) == 0
    figures = json.loads(capsys.readouterr().out)["onnx"]
    assert 0 < figures["max_difference"] < 0.1 * figures["reward_spread"]
    assert figures["dynamic"] + figures["weights_only"] == 10  # of two layers: k and v are narrow, and stay float32
    assert bool(figures["dynamic"]) == (dtype == "int8-dynamic")
    assert (int8_weights(output), int8_weights(exported)) == (11, 0)  # and the embedding
    assert sorted(path.name for path in output.glob("*onnx*")) == ["model.onnx"]
    ours, theirs = load_scorer(str(artifact)), load_scorer(str(output), tokens_per_batch=64)
    for a, b in zip(ours.score(PROBE), theirs.score(PROBE), strict=True):
        np.testing.assert_allclose(b.rewards, a.rewards, atol=0.1 * figures["reward_spread"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "onnx", "--dtype", "float16"], "float32, int8 or int8-dynamic"),
        (["--dtype", "int8"], "--format onnx"),
        (["--dtype", "int8-dynamic"], "--format onnx"),
    ],
)
def test_types_that_do_not_go(
    artifact: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(artifact), "--output", str(artifact.parent / "no"), *options]) == 2
    assert message in capsys.readouterr().err
