"""The command line: JSON alone on standard output, one clear line for a mistake, exit codes, --config."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rewardsmith.cli import VERBS, expand_config, main, read_config
from rewardsmith.errors import ConfigError
from rewardsmith.training.config import TrainConfig
from tests.tiny import tiny_tokenizer, tiny_trunk

ROWS = [{"prompt": f"q {i % 7}", "chosen": f"good {i}", "rejected": f"bad {'x' * (i % 5)}"} for i in range(24)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a preference file, a tiny language model and a reward model trained on the command line."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "prefs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_trunk().config).save_pretrained(folder / "lm")
    tiny_tokenizer().save_pretrained(folder / "lm")
    words = ["train", "--data", "prefs.jsonl", "--model", "lm", "--output", "rm", "--eval-fraction", "0.3", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*words, "--device", "cpu"]) == 0
    return folder


@pytest.fixture
def run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(list(words))
        except SystemExit as exit:
            code = int(exit.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_train_prints_one_json_object(run, tmp_path):
    code, out, _ = run(
        "train", "--data", "prefs.jsonl", "--model", "lm", "--output", str(tmp_path / "rm"), "--json", "--device", "cpu"
    )
    assert code == 0
    assert json.loads(out)["training"]["groups"] == 24
    assert out.count("\n") == 1


def test_evaluate_has_the_promised_keys(run):
    code, out, _ = run("evaluate", "rm", "prefs.jsonl", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["n_pairs"] == 24
    for key in ("accuracy", "length_baseline"):
        assert result[key]["low"] <= result[key]["value"] <= result[key]["high"]
    assert {"length_matched_accuracy", "nll", "brier", "ece", "slices", "dropped"} <= set(result)
    code, out, _ = run("evaluate", "rm", "prefs.jsonl")
    assert "longer answer wins" in out


def test_evaluate_shows_the_most_wrong_pairs_and_uses_the_stored_temperature(run, tmp_path, place):
    rows = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} if i < 3 else r for i, r in enumerate(ROWS)]
    (tmp_path / "flipped.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    code, out, _ = run("evaluate", "rm", str(tmp_path / "flipped.jsonl"), "--json", "--most-wrong", "2")
    result = json.loads(out)
    assert code == 0
    wrong = round((1 - result["accuracy"]["value"]) * 24)
    assert len(result["most_wrong"]) == min(wrong, 2)
    margins = [row["margin"] for row in result["most_wrong"]]
    assert margins == sorted(margins)
    for row in result["most_wrong"]:
        line = int(row["source"].rpartition(":")[2])
        assert (row["prompt"], row["chosen"], row["rejected"]) == tuple(rows[line - 1].values())
    assert {"source=flipped.jsonl", "turns=1"} <= {row["slice"] for row in result["slices"]}
    stored = json.loads((place / "rm" / "reward_model.json").read_text())["calibration"]
    used = result["calibration"]["temperature"]
    assert used["fitted_here"] == (stored["status"] not in ("fitted", "uninformative"))
    assert used["fitted_here"] or used["value"] == stored["temperature"]


@pytest.mark.parametrize("what", ["other numbers", "more words"])
def test_another_tokenizer_is_one_line(run, tmp_path, place, what):
    folder = tmp_path / "rm"
    shutil.copytree(place / "rm", folder)
    if what == "other numbers":
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        reason = "the tokenizer is not the one this model was trained with"
    else:
        other = tiny_tokenizer()
        other.add_tokens([f"w{i}" for i in range(40)] + ["good", "bad"])  # past the model's 120 tokens
        other.save_pretrained(folder)
        reason = "and the model knows 120"
    code, out, err = run("evaluate", str(folder), "prefs.jsonl", "--json", "--quiet")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert reason in err


@pytest.mark.parametrize("damage", ["tokenizer", "nan"])
def test_a_broken_reward_model_is_one_line(run, tmp_path, place, damage):
    folder = tmp_path / "rm"
    shutil.copytree(place / "rm", folder)
    if damage == "nan":
        tensors = load_file(folder / "model.safetensors")
        tensors["score.weight"][:] = math.nan
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        (folder / "tokenizer.json").write_text("{")
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps({**r, "subset": "hep-go"}) + "\n" for r in ROWS))
    for words in (["prefs.jsonl"], [str(tmp_path / "bench.jsonl"), "--benchmark", "rewardbench"]):
        code, out, err = run("evaluate", str(folder), *words, "--json", "--quiet")
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert ("the reward of response 0 is missing or not finite" in err) == (damage == "nan")


@pytest.mark.parametrize(
    ("name", "file", "row", "reason"),
    [
        (
            "rm-bench",
            "chat_filtered.json",
            {"id": 1, "prompt": "q", "chosen": ["a"], "rejected": ["b"]},
            "one per style",
        ),
        ("rm-bench", "x.json", {"prompt": "q", "chosen": "a", "rejected": "b"}, "'chosen'"),
        ("llmbar", "natural.json", {"input": "q", "output_1": "a", "output_2": "b"}, "label"),
        ("auto", "y.json", {"text": "a", "stars": 5}, "no benchmark has the columns stars, text"),
    ],
)
def test_a_benchmark_of_the_wrong_shape_is_one_line(run, tmp_path, name, file, row, reason):
    (tmp_path / file).write_text(json.dumps([row]))
    code, out, err = run("evaluate", "rm", str(tmp_path / file), "--benchmark", name, "--json", "--quiet")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert reason in err


def test_training_fits_a_temperature_and_score_says_p_better(run, tmp_path, place):
    stored = json.loads((place / "rm" / "reward_model.json").read_text())["calibration"]
    assert stored["pairs"] == "held-out"
    assert stored["n_pairs"] > 0
    mixed = tmp_path / "mixed.jsonl"  # labels that no temperature could make certain
    flipped = {**ROWS[0], "chosen": ROWS[0]["rejected"], "rejected": ROWS[0]["chosen"]}
    mixed.write_text("".join(json.dumps(row) + "\n" for row in [flipped, *ROWS[1:]]))
    code, out, _ = run("calibrate", "rm", str(mixed), "--json")
    fit = json.loads(out)["calibration"]
    assert code == 0
    assert fit["n_pairs"] == 24
    assert json.loads((place / "rm" / "reward_model.json").read_text())["calibration"] == fit
    assert run("score", "rm", "prefs.jsonl", "--output", str(tmp_path / "r.jsonl"))[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    temperature = fit["temperature"]
    for a, b in zip(rows[::2], rows[1::2], strict=True):
        gap = 0.0 if temperature is None else (a["reward"] - b["reward"]) / temperature
        assert a["calibrated"] - b["calibrated"] == pytest.approx(gap)
        assert a["p_better"] == pytest.approx(1 / (1 + math.exp(-gap)))
        assert a["p_better"] + b["p_better"] == pytest.approx(1)


def test_calibrate_needs_an_artifact(run):
    code, out, err = run("calibrate", "lm", "prefs.jsonl")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


def test_a_benchmark_is_scored_by_its_rule_with_baselines_beside_it(run, tmp_path):
    rows = [
        {"prompt": f"q{i}", "chosen": "yes " * (1 + i % 3), "rejected": "no", "subset": "alpacaeval-easy", "id": i}
        for i in range(6)
    ]
    (tmp_path / "filtered.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = run("evaluate", "rm", str(tmp_path / "filtered.jsonl"), "--benchmark", "auto", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["benchmark"] == "rewardbench"
    assert set(result["baselines"]) == {"constant", "longest", "shortest", "always_refuse", "prompt_blind"}
    code, out, _ = run("evaluate", "rm", str(tmp_path), "--benchmark", "rewardbench", "--no-prompt-blind")
    assert code == 0
    assert "long" in out
    assert "blind" not in out


def test_compare_with_itself_finds_nothing_and_with_another_says_what(run, place):
    code, out, _ = run("compare", "rm", "rm", "prefs.jsonl", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["difference"]["value"] == 0
    assert result["p_value"] == 1
    assert result["disagreements"] == []
    if not (place / "other").exists():
        words = ["--data", "prefs.jsonl", "--model", "lm", "--seed", "3", "--device", "cpu", "--quiet"]
        assert run("train", *words, "--output", "other")[0] == 0
    code, out, _ = run("compare", "rm", "other", "prefs.jsonl", "--json", "--disagreements", "2")
    result = json.loads(out)
    accuracies = [result[side]["accuracy"]["value"] for side in ("a", "b")]
    assert result["difference"]["value"] == pytest.approx(accuracies[0] - accuracies[1])
    assert {"p_value", "smallest_detectable", "slices", "mcnemar_p", "dropped"} <= set(result)
    assert {s["slice"] for s in result["slices"]} >= {"longer=chosen", "longer=rejected"}
    found = result["discordant"]["only_a"] + result["discordant"]["only_b"]
    assert len(result["disagreements"]) == min(2, found) > 0
    for pair in result["disagreements"]:
        assert (pair["margin_a"] > 0) != (pair["margin_b"] > 0)
        assert pair["prompt"].startswith("q ")
    code, out, _ = run("compare", "rm", "other", "prefs.jsonl", "--disagreements", "1")
    assert "A minus B" in out
    assert "is right" in out


def test_compare_needs_preferences_and_two_models(run, tmp_path):
    (tmp_path / "bare.jsonl").write_text(json.dumps({"prompt": "q", "responses": ["a", "b"]}) + "\n")
    code, _, err = run("compare", "rm", "rm", str(tmp_path / "bare.jsonl"))
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = run("compare", "rm", "nowhere/at/all", "prefs.jsonl", "--quiet")
    assert code == 2
    assert "nowhere/at/all" in err


def test_selftest_of_a_sound_model(run):
    code, out, _ = run("selftest", "rm", "prefs.jsonl", "--limit", "6", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["ok"]
    assert result["n_responses"] == 12
    code, out, _ = run("selftest", "rm", "prefs.jsonl", "--limit", "6")
    assert "must not matter" in out
    assert out.endswith("sound\n")


def test_score_writes_rows(run, tmp_path):
    rows = tmp_path / "rows.jsonl"
    code, out, _ = run("score", "rm", "prefs.jsonl", "--output", str(rows), "--json")
    assert code == 0
    assert json.loads(out)["rows"] == 48 == len(rows.read_text().splitlines())


def test_data_check_and_convert(run, tmp_path):
    code, out, _ = run("data", "check", "prefs.jsonl", "--json")
    assert code == 0
    assert {"shape", "rows", "groups", "pairs", "dropped", "warnings", "surface_baseline"} <= set(json.loads(out))
    code, out, _ = run(
        "data", "convert", "prefs.jsonl", "--to", "nemo", "--output", str(tmp_path / "n.jsonl"), "--json"
    )
    assert code == 0
    assert json.loads(out)["groups"] == 24


def test_export(run, tmp_path):
    code, out, _ = run("export", "rm", "--output", str(tmp_path / "half"), "--json")
    assert code == 0
    assert json.loads(out)["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("train", "--data", "missing.jsonl", "--model", "lm", "--output", "x"), "missing.jsonl"),
        (("train", "--data", "prefs.jsonl", "--model", "./nowhere", "--output", "x"), "nowhere"),
        (("train", "--data", "prefs.jsonl", "--model", "lm", "--output", "rm"), "not empty"),
        (("train", "--data", "prefs.jsonl", "--model", "lm", "--output", "prefs.jsonl"), "is a file"),
        (("evaluate", "lm", "prefs.jsonl"), "no reward head"),
        (("evaluate", "rm"), "name at least one preference file"),
        (("evaluate", "rm", "--benchmark", "auto"), "needs a file or folder"),
        (("evaluate", "rm", "lm", "rm", "--benchmark", "llmbar"), "one file or folder"),
        (("evaluate", "rm", "lm", "--benchmark", "llmbar", "--limit", "3"), "--limit with --benchmark"),
        (("evaluate", "rm", "prefs.jsonl", "--benchmark", "rm-bench"), "prefs.jsonl"),
        (("calibrate", "rm", "missing.jsonl"), "missing.jsonl"),
        (("calibrate", "rm", "prefs.jsonl", "--length-share", "0.5"), "error: --length-share 0.5 is the share"),
        (("calibrate", "http://localhost:1", "prefs.jsonl"), "is a server"),
        (("data", "augment", "prefs.jsonl", "--output", "prefs.jsonl", "--overwrite"), "is a file that is read"),
        (("data", "augment", "prefs.jsonl", "--output", "prefs.jsonl/a.jsonl"), "is a file, not a folder"),
        (
            ("data", "balance", "prefs.jsonl", "--output", "a.jsonl", "--review", "a.jsonl"),
            "another name than --output",
        ),
        (("score", "rm", "prefs.jsonl", "--output", "rows.txt"), "name it .jsonl"),
        (("data", "check", "lm/config.json"), "config.json"),
        (("data", "convert", "prefs.jsonl", "--to", "trl", "--output", "rm/config.json"), "exists"),
        (("fly",), "is no verb"),
        (("train", "--config", "missing.toml"), "missing.toml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, words, found):
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert found in errors[0]
    assert "Traceback" not in err


def test_unknown_option_and_missing_option_are_exit_code_2(run):
    for words in (("train", "--fly"), ("train",), ("evaluate",)):
        code, _, err = run(*words)
        assert code == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert f"rewardsmith {words[0]} --help" in err


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_help_with_an_example(run, verb):
    code, out, _ = run(*verb.split(), "--help")
    assert code == 0
    assert f"Example: rewardsmith {verb}" in " ".join(out.split())


def test_config_file_gives_options_and_the_command_line_wins(run, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('data = ["prefs.jsonl"]\nmodel = "lm"\nepochs = 3\nkeep_best = false\n[render]\nmax_length = 99\n')
    code, out, _ = run(
        "train", "--config", str(file), "--epochs", "1", "--output", str(tmp_path / "rm"), "--json", "--device", "cpu"
    )
    config = json.loads(out)["config"]
    assert code == 0
    assert (config["epochs"], config["keep_best"], config["render"]["max_length"]) == (1, False, 99)


def test_broken_config_file(tmp_path):
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        read_config(str(tmp_path / "bad.toml"))
    assert expand_config(["--x", "1"], TrainConfig) == ["--x", "1"]


def test_config_lists_do_not_swallow_positionals(run, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('tag_keys = ["domain"]\njson = true\n')
    code, out, _ = run("evaluate", "rm", "prefs.jsonl", "--config", str(file))
    assert code == 0
    assert json.loads(out)["n_pairs"] == 24
    file.write_text('model = "rm"\nfiles = ["prefs.jsonl"]\nlimit = 5\n')
    assert json.loads(run("evaluate", "--config", str(file), "--json")[1])["n_groups"] == 5
    assert json.loads(run("evaluate", "--config", str(file), "--limit", "7", "--json")[1])["n_groups"] == 7


def test_config_refuses_what_it_does_not_know(run, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("sped = false\n")
    code, _, err = run("evaluate", "rm", "prefs.jsonl", "--config", str(file))
    assert code == 2
    assert "'sped' is no option" in err


def test_data_check_strict_exits_with_1(run, tmp_path):
    file = tmp_path / "empty.jsonl"
    file.write_text(json.dumps({"prompt": "q", "chosen": "", "rejected": "b"}) + "\n")
    assert run("data", "check", str(file))[0] == 0
    assert run("data", "check", str(file), "--strict")[0] == 1


@pytest.mark.parametrize("words", [("--limit", "-1"), ("--limit", "0"), ("--seed", "-1"), ("--tokens-per-batch", "0")])
def test_numbers_out_of_range(run, words):
    code, _, err = run("evaluate", "rm", "prefs.jsonl", *words)
    assert code == 2
    assert "give at least" in " ".join(err.split())


def test_no_arguments_shows_the_verbs(run):
    code, out, _ = run()
    assert code == 2
    assert all(verb in out for verb in VERBS)
    assert run("--version")[1].startswith("rewardsmith 0.")


def test_report_writes_page_and_card(run, tmp_path):
    page, card = tmp_path / "page.html", tmp_path / "README.md"
    words = ("report", "rm", "prefs.jsonl", "--output", str(page), "--card", str(card), "--device", "cpu")
    code, out, _ = run(*words, "--json")
    assert code == 0
    result = json.loads(out)
    assert result["verdict"] == "Measured on its own training pairs"
    assert result["verdict"] in page.read_text(encoding="utf-8")
    assert result["evaluation"]["n_pairs"] == 24
    assert card.read_text(encoding="utf-8").startswith("---\nlicense: unknown\n")
    code, _, err = run(*words)
    assert code == 2
    assert "--overwrite" in err


def test_report_without_a_file_shows_what_training_kept(run, tmp_path):
    code, out, _ = run("report", "rm", "--output", str(tmp_path / "page.html"), "--json")
    assert code == 0
    result = json.loads(out)
    assert result["evaluation"] is None
    assert "without an interval" in result["verdict"]


def test_report_takes_artifacts_and_known_results_only(run, tmp_path):
    code, _, err = run("report", "lm", "--output", str(tmp_path / "page.html"))
    assert code == 2
    assert "is no artifact" in err
    (tmp_path / "other.json").write_text('{"x": 1}')
    code, _, err = run("report", "rm", "--with", str(tmp_path / "other.json"), "--output", str(tmp_path / "page.html"))
    assert code == 2
    assert "no result that a page can show" in err
    assert not (tmp_path / "page.html").exists()


def test_adjusted_rewards_are_kept_and_shown_until_they_are_taken_out(run, tmp_path, place):
    folder = tmp_path / "rm"
    shutil.copytree(place / "rm", folder)
    rows = [
        {"prompt": f"q {i}", "chosen": f"good {i} {'y' * (i % 13)}", "rejected": f"bad {'x' * (i * 7 % 11)}"}
        for i in range(160)
    ]
    data = str(tmp_path / "dev.jsonl")
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    score = ["score", str(folder), data, "--output", str(tmp_path / "rows.jsonl"), "--overwrite"]

    def scored():
        assert run(*score)[0] == 0
        return [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]

    run("calibrate", str(folder), data)  # a temperature, which every later calibration of this file finds again
    plain = scored()
    assert "adjusted" not in plain[0]
    code, _, err = run("evaluate", str(folder), data, "--adjusted")
    assert (code, "has no adjustment; fit one" in err) == (2, True)
    code, out, _ = run("calibrate", str(folder), data, "--length", "--bound", "sigmoid", "--json")
    result = json.loads(out)["adjustment"]
    assert code == 0
    assert result["stored"]["bound"]["name"] == "sigmoid"
    assert {"accuracy", "length_correlation"} <= set(result["length"]["after"])
    adjusted = scored()
    assert [row["reward"] for row in adjusted] == [row["reward"] for row in plain]
    assert all(0 < row["adjusted"] < 1 for row in adjusted)
    code, out, _ = run("evaluate", str(folder), data, "--adjusted", "--json")
    accuracy = json.loads(out)["accuracy"]["value"]
    pairs = zip(adjusted[::2], adjusted[1::2])
    assert accuracy == pytest.approx(sum(a["adjusted"] > b["adjusted"] for a, b in pairs) / len(rows))
    judged = [
        {"prompt": r["prompt"], "response": r[k], "judge": len(r[k]) % 5} for r in rows for k in r if k != "prompt"
    ]
    (tmp_path / "judged.jsonl").write_text("".join(json.dumps(r) + "\n" for r in judged))
    words = ["--gold", "judge", "--methods", "best_of_n", "--adjusted", "--json"]
    code, out, _ = run("optimize", str(folder), str(tmp_path / "judged.jsonl"), *words)
    assert code == 0
    best = [max((0, 1), key=lambda k: adjusted[i + k]["adjusted"]) + i for i in range(0, len(judged), 2)]
    gold = {row["n"]: row["gold"] for row in json.loads(out)["curves"]}[2]
    assert gold == pytest.approx(sum(judged[i]["judge"] for i in best) / len(best))
    code, out, _ = run("calibrate", str(folder), data)
    assert "no adjustment" in out
    assert [(row.keys(), row["reward"]) for row in scored()] == [(row.keys(), row["reward"]) for row in plain]
