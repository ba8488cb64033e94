"""`rewardsmith ensemble ...`, --aggregate and --mc-dropout on tiny models: what is written, JSON, one-line mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rewardsmith.cli import main
from rewardsmith.errors import ConfigError
from rewardsmith.model.artifact import save_reward_model
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.serving.engine import load_engine
from rewardsmith.text.render import RenderConfig, Renderer
from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer, tiny_trunk

ROWS = [{"prompt": f"q {i}", "chosen": f"good {i}", "rejected": f"bad {'x' * (i % 5)}"} for i in range(12)]


def save(folder: Path, seed: int = 0, noise: float = 0.0, template: str = CHAT_TEMPLATE, **shape) -> None:
    """A tiny artifact; `noise` moves the weights of the trunk of seed 0 a little."""
    model = RewardModel(tiny_trunk(seed=0 if noise else seed, **shape))
    torch.manual_seed(seed)
    with torch.no_grad():
        torch.nn.init.normal_(model.value_head.weight)
        for parameter in model.trunk.parameters() if noise else ():
            parameter += noise * torch.randn_like(parameter)
    save_reward_model(model, Renderer(tiny_tokenizer(template), RenderConfig(max_length=64)), folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Fine-tunings `a` and `b` of one trunk, an unrelated `c`, a wider `wide`, `other` with other tokens."""
    folder = tmp_path_factory.mktemp("ensembles")
    save(folder / "a", seed=1, noise=1e-3)
    save(folder / "b", seed=2, noise=1e-3)
    save(folder / "c", seed=5)
    save(folder / "wide", seed=3, intermediate_size=96)
    save(folder / "other", seed=4, template=CHAT_TEMPLATE.replace("'</s>'", "'!</s>'"), hidden_size=16)
    (folder / "prefs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


@pytest.fixture
def run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*map(str, words), "--quiet"])
        return code, *capsys.readouterr()

    return call


def rewards(run, model: object, output: Path, *options: object) -> np.ndarray:
    code, _, err = run("score", model, "prefs.jsonl", "--output", output, "--overwrite", *options)
    assert code == 0, err
    return np.array([json.loads(line)["reward"] for line in output.read_text().splitlines()])


def test_joined_models_score_as_their_mean_whatever_they_read(run, tmp_path):
    code, out, _ = run("ensemble", "join", "a", "other", "wide", "b", "--output", tmp_path / "e", "--json")
    meta = json.loads(out)
    assert code == 0
    assert meta["members"] == [f"member-{m}" for m in range(4)]
    assert [origin["from"] for origin in meta["joined"]] == ["a", "other", "wide", "b"]
    alone = [rewards(run, name, tmp_path / "rows.jsonl") for name in ("a", "other", "wide", "b")]
    assert rewards(run, tmp_path / "e", tmp_path / "rows.jsonl") == pytest.approx(np.mean(alone, axis=0), abs=1e-5)
    stds = [json.loads(line)["std"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    centred = np.array(alone) - np.array(meta["member_means"])[:, None]
    assert stds == pytest.approx(centred.std(axis=0, ddof=1), abs=1e-5)
    a, b = np.array(alone).mean(axis=0).reshape(-1, 2).T  # the mean survives the cache and evaluate too
    code, out, _ = run("evaluate", tmp_path / "e", "prefs.jsonl", "--json")
    assert json.loads(out)["accuracy"]["value"] == pytest.approx(np.mean(a > b))
    with pytest.raises(ConfigError, match="serve each"):
        load_engine(str(tmp_path / "e"))


def test_an_ensemble_joins_with_all_its_members_and_verbs_take_it(run, tmp_path):
    assert run("ensemble", "join", "a", "b", "--output", tmp_path / "two")[0] == 0
    code, out, _ = run(
        "ensemble", "join", tmp_path / "two", "wide", "--output", tmp_path / "e", "--data", "prefs.jsonl"
    )
    assert code == 0
    assert "an ensemble of 3, measured on 12 groups" in out
    assert "two/member-0" in out
    assert run("selftest", tmp_path / "two", "prefs.jsonl")[0] == 0
    assert run("report", tmp_path / "e", "prefs.jsonl", "--output", tmp_path / "page.html")[0] == 0
    assert "3, which were trained apart (two/member-0, two/member-1, wide)" in (tmp_path / "page.html").read_text()
    for how in ("min", "mean-var", "soft-min", "lower-bound"):
        code, out, _ = run("evaluate", tmp_path / "e", "prefs.jsonl", "--aggregate", how, "--json")
        assert code == 0
    code, out, _ = run("compare", tmp_path / "e", tmp_path / "two", "prefs.jsonl", "--aggregate", "min", "--json")
    assert code == 0


def test_the_average_of_weights_loads_and_shows_the_line(run, tmp_path):
    code, out, _ = run(
        "ensemble", "average", "a", "b", "--output", tmp_path / "warm", "--data", "prefs.jsonl", "--json"
    )
    meta = json.loads(out)
    assert code == 0
    assert meta["averaged"] == ["a", "b"]
    assert meta["distance"] < 0.05
    (line,) = meta["barrier"]["lines"]
    assert [point["t"] for point in line["points"]] == [0, 0.25, 0.5, 0.75, 1]
    code, out, _ = run("evaluate", tmp_path / "warm", "prefs.jsonl", "--json")
    assert json.loads(out)["accuracy"]["value"] == meta["barrier"]["average"]["accuracy"]["value"]
    assert json.loads(out)["n_pairs"] == meta["barrier"]["n_pairs"] == 12
    code, out, _ = run("ensemble", "average", "a", "b", "--output", tmp_path / "w2", "--data", "prefs.jsonl")
    assert "barrier: loss" in out


def test_laplace_is_kept_and_gives_a_std_that_export_keeps(run, tmp_path, place):
    save(tmp_path / "rm", seed=1)
    plain = rewards(run, tmp_path / "rm", tmp_path / "rows.jsonl")
    code, out, _ = run("ensemble", "laplace", tmp_path / "rm", "prefs.jsonl")
    assert code == 0
    assert "12 pairs determine" in out
    assert np.array_equal(rewards(run, tmp_path / "rm", tmp_path / "rows.jsonl"), plain)
    stds = [json.loads(line)["std"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert min(stds) > 0
    assert run("export", tmp_path / "rm", "--output", tmp_path / "copy", "--dtype", "float32")[0] == 0
    rewards(run, tmp_path / "copy", tmp_path / "copied.jsonl")
    copied = [json.loads(line)["std"] for line in (tmp_path / "copied.jsonl").read_text().splitlines()]
    assert copied == pytest.approx(stds, rel=1e-4)
    code, _, err = run("ensemble", "laplace", tmp_path / "rm", "prefs.jsonl")
    assert code == 2
    assert "--overwrite replaces it" in err
    assert run("ensemble", "laplace", tmp_path / "rm", "prefs.jsonl", "--overwrite", "--prior", 3)[0] == 0
    assert json.loads((tmp_path / "rm/reward_model.json").read_text())["laplace"]["prior"] == 3


def test_dropout_adds_a_std_and_leaves_the_reward(run, tmp_path):
    plain = rewards(run, "a", tmp_path / "rows.jsonl")
    assert np.array_equal(rewards(run, "a", tmp_path / "rows.jsonl", "--mc-dropout", 8), plain)
    first = (tmp_path / "rows.jsonl").read_text()
    rewards(run, "a", tmp_path / "rows.jsonl", "--mc-dropout", 8)
    assert (tmp_path / "rows.jsonl").read_text() == first
    rewards(run, "a", tmp_path / "rows.jsonl", "--mc-dropout", 8, "--seed", 1)
    assert (tmp_path / "rows.jsonl").read_text() != first
    assert all(json.loads(line)["std"] > 0 for line in first.splitlines())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("ensemble join a --output new", "1 reward model given: name two or more"),
        ("ensemble join a a --output new", "a is given twice"),
        ("ensemble join a nowhere --output new", "nowhere is no folder of a reward model"),
        ("ensemble join a b --output c", "'c' is not empty; give another, or --overwrite"),
        ("ensemble join a b --output new --limit 0", "--limit 0: give at least 1"),
        ("ensemble average a c --output new", "not trained from one pre-trained trunk"),
        ("ensemble average a wide --output new", "no average of the two"),
        ("ensemble average a other --output new", "no average of the two"),
        ("ensemble average a b --output c", "'c' is not empty"),
        ("ensemble laplace two prefs.jsonl", "two is an ensemble, whose spread is its std; name a member"),
        ("ensemble laplace lm prefs.jsonl", "lm is no artifact"),
        ("ensemble laplace a prefs.jsonl --prior 0", "--prior 0: give a number above 0"),
        ("evaluate a prefs.jsonl --aggregate min", "this is a single reward model"),
        ("score a prefs.jsonl --output new.jsonl --aggregate min", "this is a single reward model"),
        ("evaluate two prefs.jsonl --aggregate min --aggregate-strength 2", "min has no strength"),
        ("evaluate two prefs.jsonl --aggregate median", "--aggregate"),
        ("score two prefs.jsonl --output new.jsonl --mc-dropout 9", "its members' spread is the std"),
        ("score a prefs.jsonl --output new.jsonl --mc-dropout 1", "at least 2 passes"),
        ("score a prefs.jsonl --output new.jsonl --mc-dropout 9 --mc-dropout-rate 1", "between 0 and 1"),
        ("selftest mixed prefs.jsonl", "its members read different tokens; test each: mixed/member-0"),
        ("ensemble", "'ensemble' is no verb"),
    ],
)
def test_mistakes_are_one_line(run, place, words, reason):
    for name, parts in (("two", ("a", "b")), ("mixed", ("a", "other"))):
        if not (place / name).exists():
            assert run("ensemble", "join", *parts, "--output", name)[0] == 0
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert reason in err
    assert not (place / "new").exists()
    assert not [p for p in place.iterdir() if "writing" in p.name]
