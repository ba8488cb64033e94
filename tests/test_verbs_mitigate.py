"""`rewardsmith mitigate` on a tiny model: the whole loop, what is kept of it, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rewardsmith.cli import main
from tests.mitigation.conftest import place  # noqa: F401  (a fixture)

ASKED = ["--n-seeds", "3", "--probe", "padding", "list", "emoji", "--device", "cpu", "--quiet"]


@pytest.fixture
def run(place, monkeypatch, capsys, tmp_path):  # noqa: F811
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["mitigate", "rm", "--data", "train.jsonl", *words])
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def mended(place, tmp_path_factory):  # noqa: F811
    """(words of a mitigation, its folder and page, after it was run once)."""
    folder = tmp_path_factory.mktemp("loop")
    gate = folder / "gate.toml"
    gate.write_text("[probes.padding]\nmax_effect_sd = 100\n[evaluation]\nmin_accuracy = 0.01\n")
    files = [str(place / name) for name in ("rm", "train.jsonl", "dev.jsonl", "candidates.jsonl")]
    words = ["mitigate", files[0], "--data", files[1], *ASKED, "--output", str(folder / "mended"), "--take",
             "padding=0.5:rejected", "balance", "review", "--eval-data", files[2], "--candidates", files[3],
             "--gold", "gold", "--gate", str(gate)]  # fmt: skip
    assert main([*words, "--page", str(folder / "page.html")]) == 0
    return words, folder


def test_the_loop_gives_before_and_after(mended):
    _, folder = mended
    result = json.loads((folder / "mended" / "result.json").read_text())
    assert result["taken"] == ["padding=0.5:rejected", "balance", "review"]
    assert result["data"]["made"] == 20
    assert {row["name"] for row in result["probes"]} == {"padding", "list", "emoji"}
    assert result["evaluation"]["before"]["n_pairs"] == result["evaluation"]["after"]["n_pairs"] == 24
    gap = result["evaluation"]["difference"]["accuracy"]["value"]
    sides = [result["evaluation"][side]["accuracy"]["value"] for side in ("before", "after")]
    assert gap == pytest.approx(sides[1] - sides[0])
    assert [row["n"] for row in result["candidates"]["rows"]] == [1, 2, 4]
    assert result["gate"]["before"]["passed"]
    assert result["gate"]["after"]["passed"]
    assert result["plan"]["warnings"] == []
    assert result["training"]["left_out"] == {}
    for row, side in ((row, side) for row in result["probes"] for side in ("before", "after")):
        audit = json.loads((folder / "mended" / f"audit-{side}.json").read_text())
        assert row[side]["value"] == next(p["effect_sd"] for p in audit["probes"] if p["name"] == row["name"])
    for row in result["probes"]:  # paired by seed, from the same rewards as the audits
        assert row["change"]["value"] == pytest.approx(row["after"]["value"] - row["before"]["value"])
    assert "before and after" in (folder / "page.html").read_text(encoding="utf-8").lower()
    assert (folder / "mended" / "data" / "doubtful.jsonl").exists()


def test_what_is_there_is_not_made_again(mended, capsys):
    words, folder = mended
    files = [path for path in (folder / "mended").rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    first = json.loads((folder / "mended" / "result.json").read_text())
    capsys.readouterr()
    assert main(words) == 0
    assert "fell by" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in files} == before
    # What was lost is made again from the rest, to the same numbers.
    for name in ("result.json", "audit-after.json"):
        (folder / "mended" / name).unlink()
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluation"] == first["evaluation"]


def test_what_is_asked_for_otherwise_is_not_taken_for_what_is_there(mended, capsys):
    words, _ = mended
    capsys.readouterr()
    assert main([word if word != "balance" else "praise" for word in words]) == 2
    assert "other taken" in capsys.readouterr().err
    # Without a gate only the result is another one.
    assert main(words[: words.index("--gate")]) == 0
    assert main(words) == 0


def test_the_audits_are_audits(mended, run, tmp_path):
    _, folder = mended
    words = ["--device", "cpu", "--quiet", "--plan", "--output", str(tmp_path / "b")]
    code, _, err = run("--audit", str(folder / "mended" / "audit-before.json"), *words)
    assert code == 0, err
    code, _, err = run("--audit", str(folder / "mended" / "audit-after.json"), *words)
    assert code == 2
    assert "of another model" in err


def test_an_audit_of_plain_rewards_is_none_of_adjusted_ones(mended, run, tmp_path):
    _, folder = mended
    words = ["--device", "cpu", "--quiet", "--plan", "--adjusted", "--output", str(tmp_path / "b")]
    code, _, err = run("--audit", str(folder / "mended" / "audit-before.json"), *words)
    assert code == 2
    assert "judged the plain rewards; leave out --adjusted" in err


def test_a_gold_column_that_is_not_there_is_said_before_anything_is_computed(run, tmp_path):
    code, _, err = run(*ASKED, "--output", str(tmp_path / "b"), "--candidates", "candidates.jsonl", "--gold", "golf")
    assert code == 2
    assert "candidates.jsonl has no column 'golf'; it has: " in err
    assert "gold" in err.partition("it has: ")[2]
    assert not list((tmp_path / "b").glob("*"))


def test_adjustments_are_fitted_on_pairs_kept_out(run, tmp_path):
    words = [*ASKED, "--output", str(tmp_path / "mended"), "--take", "length-calibration", "bound", "--dev-data",
             "dev.jsonl", "--eval-data", "dev.jsonl", "--train", "epochs=2", "label-smoothing=0.1"]  # fmt: skip
    code, out, err = run(*words, "--json")
    assert code == 0, err
    assert json.loads(out)["adjusted"]
    meta = json.loads((tmp_path / "mended" / "rm" / "reward_model.json").read_text())
    assert meta["adjustment"]["bound"]["name"] == "sigmoid"
    assert meta["adjustment"]["length"]["slope"] != 0
    assert meta["config"]["epochs"] == 2
    assert meta["config"]["loss"]["label_smoothing"] == 0.1
    assert meta["config"]["learning_rate"] == 1e-3  # as the first model


def test_what_is_read_is_not_written_over(mended, capsys):
    words, _ = mended
    output = words[words.index("--output") + 1]
    ours = {"rm": f"{output}/rm", "--audit": f"{output}/audit-before.json", "--data": f"{output}/data/train.jsonl"}
    for option, path in ours.items():
        asked = ["mitigate", ours["rm"] if option == "rm" else words[1], "--data",
                 path if option == "--data" else words[3], "--output", output, "--overwrite"]  # fmt: skip
        capsys.readouterr()
        assert main([*asked, *(["--audit", path] if option == "--audit" else [])]) == 2
        assert f"{path} is part of what mitigate writes" in capsys.readouterr().err
    for path in ours.values():
        assert Path(path).exists()


def test_a_mistake_beside_overwrite_deletes_nothing(mended, capsys):
    words, folder = mended
    assert main([*words, "--overwrite", "--model", "nowhere", "--probe", "magic"]) == 2
    assert (folder / "mended" / "rm").is_dir()


def test_a_gate_is_held_against_held_out_pairs_where_nothing_is_to_be_mended(mended, run, tmp_path):
    _, folder = mended
    audit = json.loads((folder / "mended" / "audit-before.json").read_text())
    sound = {**audit, "probes": [row | {"fault": False} for row in audit["probes"]]}
    (tmp_path / "sound.json").write_text(json.dumps(sound))
    (tmp_path / "gate.toml").write_text("[evaluation]\nmin_accuracy = 0.999\n")
    words = ["--audit", str(tmp_path / "sound.json"), "--gate", str(tmp_path / "gate.toml"), "--device", "cpu"]
    code, out, err = run(*words, "--output", str(tmp_path / "b"), "--eval-data", "dev.jsonl", "--quiet", "--json")
    result = json.loads(out)
    assert result["nothing"], result
    assert code == int(not result["gate"]["before"]["passed"]), err
    assert result["gate"]["before"]["n_checked"] == 1, "a threshold that is not held against anything passes"


def test_another_gate_in_the_same_file_is_another_verdict(mended):
    words, _ = mended
    gate = Path(words[words.index("--gate") + 1])
    before = gate.read_text()
    gate.write_text("[evaluation]\nmin_accuracy = 0.999\n")
    assert main(words) == 1
    gate.write_text(before)
    assert main(words) == 0


def test_too_few_pairs_to_fit_on_are_said_before_training(run, tmp_path):
    for words in ([], ["--dev-data", "few.jsonl"]):
        Path("few.jsonl").write_text("".join(Path("dev.jsonl").read_text().splitlines(keepends=True)[:9]))
        output = tmp_path / str(len(words))
        code, _, err = run(*ASKED, "--output", str(output), "--take", "length-calibration", *words)
        assert code == 2
        assert "at least 20 are needed" in err
        assert not (output / "training.json").exists()


def test_without_a_cache_nothing_is_scored_twice(run, tmp_path, monkeypatch):
    """Each group of texts reaches each model once, over audit, plan, paired effects and evaluation."""
    from rewardsmith.scorers import ModelScorer

    asked: list[tuple[int, str]] = []
    score = ModelScorer.score

    def counted(self, groups):
        asked.extend((id(self), group.id) for group in groups)
        return score(self, groups)

    monkeypatch.setattr(ModelScorer, "score", counted)
    words = [*ASKED, "--output", str(tmp_path / "mended"), "--no-score-cache", "--take", "consistency", "odin",
             "--eval-data", "dev.jsonl"]  # fmt: skip
    code, out, err = run(*words, "--json")
    assert code == 0, err
    assert json.loads(out)["taken"] == ["consistency", "odin"]
    meta = json.loads((tmp_path / "mended" / "rm" / "reward_model.json").read_text())
    assert (meta["config"]["loss"]["consistency"], meta["config"]["loss"]["odin"]) == (0.2, 1.0)
    assert len({scorer for scorer, _ in asked}) == 2
    assert len(asked) == len(set(asked)) > 0
    assert not (tmp_path / "cache" / "rewardsmith" / "scores").exists()


def test_a_plan_names_what_has_no_remedy(run, tmp_path):
    code, out, err = run(*ASKED, "--output", str(tmp_path / "mended"), "--plan", "--json")
    assert code == 0, err
    plan = json.loads(out)["plan"]
    assert {"worst", "without_remedy", "proposals", "warnings"} <= set(plan)
    assert "no held-out pairs" in plan["warnings"][-1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--take", "magic"], "no remedy is named 'magic'"),
        (["--take", "balance=0.5"], "has no share"),
        (["--take", "padding=0.1:wins"], "error: --take padding=0.1:wins: 'wins' is no verdict"),
        (["--train", "epochs"], "OPTION=VALUE"),
        (["--take", "praise", "--train", "epoch=3"], "no option of train"),
        (["--take", "label-smoothing", "flip-rate"], "give one of them"),
        (["--candidates", "candidates.jsonl"], "go together"),
        (["--audit", "none.json"], "No such file"),
        (["--audit", "train.jsonl"], "no JSON"),
        (["--model", "nowhere", "--take", "praise"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, words, says):
    asked = ["--device", "cpu", "--quiet"] if "--audit" in words else ASKED
    code, out, err = run(*asked, "--output", str(tmp_path / "mended"), *words)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_what_cannot_be_measured_or_written_is_said_before_the_audit(run, tmp_path, capsys):
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"prompt": "q", "responses": ["a b", "c d"]}\n')
    code, _, err = run(*ASKED, "--output", str(tmp_path / "mended"), "--eval-data", str(bare))
    assert (code, err.count("\n")) == (2, 1)
    assert "--eval-data: none of 1 groups has a label" in err
    code, _, err = run(*ASKED, "--output", str(bare / "mended"))
    assert code == 2
    assert "bare.jsonl is a file, not a folder" in err
    assert main(["mitigate", "http://localhost:1", "--data", "train.jsonl", "--output", "m", *ASKED]) == 2
    assert "is a server" in capsys.readouterr().err
    assert not (tmp_path / "mended").exists()


def test_a_stopped_training_goes_on_with_the_same_command(run, tmp_path, monkeypatch):
    from rewardsmith.errors import Interrupted
    from rewardsmith.training import loop

    def stopped(*given, **options):
        raise Interrupted("stopped at step 1 of 2, state saved; go on with --resume")

    words = [*ASKED, "--output", str(tmp_path / "mended"), "--take", "list"]
    with monkeypatch.context() as patched:
        patched.setattr(loop, "train", stopped)
        code, _, err = run(*words)
    assert (code, err) == (130, "error: stopped at step 1 of 2, state saved; the same command goes on\n")
    assert run(*words)[0] == 0


def test_groups_that_training_left_out_are_counted(place, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(place)
    long = tmp_path / "train.jsonl"
    more = {"prompt": "q", "chosen": "The garden is long. " * 200, "rejected": "The tower."}
    long.write_text((place / "train.jsonl").read_text() + json.dumps(more) + "\n")
    words = ["mitigate", "rm", "--data", str(long), *ASKED, "--output", str(tmp_path / "mended"), "--take", "list"]
    assert main(words) == 0
    assert "1 of 45 groups were left out of training: 1 because an answer is longer" in capsys.readouterr().out


def test_ties_alone_and_one_slice_are_said(run, tmp_path, capsys):
    ties = tmp_path / "ties.jsonl"
    row = {
        "prompt": "q",
        "responses": ["a b", "c d"],
        "preferences": [{"chosen": 0, "rejected": 1, "probability": 0.5}],
    }
    ties.write_text("".join(json.dumps(row | {"prompt": f"q{i}"}) + "\n" for i in range(4)))
    more = ["--output", str(tmp_path / "mended"), *ASKED]
    capsys.readouterr()
    assert main(["mitigate", "rm", "--data", str(ties), *more]) == 2
    assert "all 4 pairs are ties" in capsys.readouterr().err
    one = tmp_path / "one.jsonl"
    pair = {"prompt": "q", "chosen": "The garden is long.", "rejected": "The tower.", "subset": "code"}
    one.write_text("".join(json.dumps(pair | {"prompt": f"What {i}?"}) + "\n" for i in range(4)))
    assert main(["mitigate", "rm", "--data", str(one), *more, "--plan", "--eval-data", str(one)]) == 0
    said = capsys.readouterr().out
    for words in ("one slice (subset=code)", "trained on other files", "4 of 4 held-out groups open like one"):
        assert words in said
