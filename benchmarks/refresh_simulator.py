"""Does refreshing a reward model pay at an equal number of labels? Simulated on alpaca_eval's recorded answers.

    python benchmarks/refresh_simulator.py --data DIR [--work DIR] [--json OUT] [--figure OUT.png]
    python benchmarks/refresh_simulator.py --data DIR --features RM --prompts 300 --answers 12 --max-response-length 160

DIR of --data holds alpaca_eval/candidates_vs_{davinci003,gpt4_turbo}.parquet; `gold` there is a recorded judge's
preference, which labels the pairs and judges the policies. Four rounds, five seeds; light reward models on surface and
words, or on what a reward model's head reads (--features RM). The main setting (800 labels, KL 1) was stated before
anything was run; the others show what depends on it. The penalty of each strategy is chosen on the dev prompts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MAIN = {"budget": 800, "kl": 1.0}
SETTINGS: tuple[dict[str, Any], ...] = (
    MAIN,
    {"budget": 200, "kl": 1.0},
    {"budget": 3200, "kl": 1.0},
    {"budget": 800, "kl": 0.5},
    {"budget": 800, "kl": 2.0},
    {"budget": 800, "kl": 1.0, "from-previous": True},
)
JUDGES = ("davinci003", "gpt4_turbo")
TITLES = {"davinci003": "older judge, against davinci003", "gpt4_turbo": "later judge, against GPT-4-turbo"}
STYLES = {
    "fixed": ("#1d2126", "-", "o"),
    "all_data": ("#1f5fa8", "-", "s"),
    "importance": ("#7a4fb0", "--", "D"),
    "replay": ("#b4540a", "-.", "^"),
    "last_only": ("#8a8f96", ":", "v"),
}


def run(options: argparse.Namespace, judge: str, setting: dict[str, Any]) -> dict[str, Any]:
    """One simulation on the command line, as a user would."""
    name = "text" if options.features == "text" else "trunk"
    words = [
        "refresh", "simulate", str(options.data / "alpaca_eval" / f"candidates_vs_{judge}.parquet"), "--gold", "gold",
        "--rounds", "4", "--seeds", str(options.seeds), "--features", options.features,
        "--feature-file", str(options.work / f"refresh-{name}-{judge}.npz"), "--json", "--quiet",
    ]  # fmt: skip
    if name == "trunk":
        words += ["--precision", options.precision, "--max-response-length", str(options.max_response_length)]
    for option, value in (("limit", options.prompts), ("answers", options.answers)):
        words += [f"--{option}", str(value)] if value else []
    for option, value in setting.items():
        words += [f"--{option}"] if value is True else [f"--{option}", str(value)]
    done = subprocess.run(
        [sys.executable, "-m", "rewardsmith.cli", *words], stdout=subprocess.PIPE, check=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def shown(judge: str, setting: dict[str, Any], result: dict[str, Any]) -> None:
    """Gold after the last round of every strategy, and what the laws said."""
    print(f"\n{judge} {json.dumps(setting)}: {result['prompts']} prompts, base {of(result['base'])}")
    for row in result["strategies"]:
        last = row["rounds"][-1]
        print(
            f"  {row['strategy']:<11} penalty {row['penalty']:<7g} labels {last['labels']:<5} gold {of(last['gold'])}"
            f"  over fixed {of(last['over_fixed'], '+')}  right on own pairs {last['accuracy_own']['value']:.3f}"
        )
    for row in result["predictions"]:
        if row["round"] == result["rounds"] and row["strategy"] in ("fixed", result["best"]):
            print(
                f"  law {row['form']:<4}{row['strategy']:<11} predicted gain {of(row['predicted'], '+')}"
                f"  measured {of(row['measured'], '+')}"
            )
    print(f"  {result['text']}", flush=True)


def of(found: dict[str, Any], sign: str = "") -> str:
    return f"{found['value']:{sign}.4f} [{found['low']:{sign}.4f}, {found['high']:{sign}.4f}]"


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Gold by round at the main setting, and the last round's difference to the fixed model at every budget."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    judges = [judge for judge in JUDGES if any(row["judge"] == judge for row in rows)]
    figure, grid = plt.subplots(2, len(judges), figsize=(5.2 * len(judges), 7.2), squeeze=False, layout="constrained")
    for column, judge in enumerate(judges):
        main = next(row["result"] for row in rows if row["judge"] == judge and row["setting"] == MAIN)
        by_round(grid[0, column], main)
        grid[0, column].set_title(f"{TITLES[judge]}\n{main['budget']} labels, four rounds", fontsize=10)
        at_one = [row for row in rows if row["judge"] == judge and set(row["setting"]) == set(MAIN)]
        by_budget(grid[1, column], [row["result"] for row in at_one if row["setting"]["kl"] == MAIN["kl"]])
    grid[0, 0].set_ylabel("gold of the policy")
    grid[1, 0].set_ylabel("gold less that of the fixed model\nafter the last round, KL 1")
    grid[0, 0].legend(fontsize=8, frameon=False, loc="lower right")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


def by_round(axes: Any, result: dict[str, Any]) -> None:
    base = result["base"]["value"]
    for row in result["strategies"]:
        colour, dash, mark = STYLES[row["strategy"]]
        kl = [0.0, *(at["kl"] for at in row["rounds"])]
        gold = [base, *(at["gold"]["value"] for at in row["rounds"])]
        d = [value**0.5 for value in kl]
        label = row["strategy"].replace("_", " ")
        axes.plot(d, gold, color=colour, linestyle=dash, marker=mark, markersize=4, label=label)
        if row["strategy"] in ("fixed", result["best"]):
            low, high = ([result["base"][end], *(at["gold"][end] for at in row["rounds"])] for end in ("low", "high"))
            axes.fill_between(d, low, high, color=colour, alpha=0.1, linewidth=0)
    length = [row for row in result["references"] if row["reference"] == "length" and row["gold"]["value"] is not None]
    axes.plot(
        [row["kl"] ** 0.5 for row in length], [row["gold"]["value"] for row in length], color="#c0bcb2", label="length"
    )
    axes.set_xlabel("√KL to the base policy; one mark a round")
    axes.spines[["top", "right"]].set_visible(False)


def by_budget(axes: Any, results: list[dict[str, Any]]) -> None:
    results = sorted(results, key=lambda result: result["budget"])
    names = [row["strategy"] for row in results[0]["strategies"] if row["strategy"] != "fixed"]
    for place, name in enumerate(names):
        colour, _, mark = STYLES[name]
        for step, result in enumerate(results):
            over = next(row for row in result["strategies"] if row["strategy"] == name)["rounds"][-1]["over_fixed"]
            x = step + (place - (len(names) - 1) / 2) * 0.14
            axes.plot([x, x], [over["low"], over["high"]], color=colour, linewidth=1.6)
            axes.plot([x], [over["value"]], mark, color=colour, markersize=5)
    axes.axhline(0, color="#1d2126", linewidth=0.8)
    axes.set_xticks(range(len(results)), [f"{result['budget']:,} labels" for result in results])
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("refresh-study"), help="where features are kept")
    parser.add_argument("--features", default="text")
    parser.add_argument("--judges", nargs="+", default=list(JUDGES), choices=JUDGES)
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--answers", type=int)
    parser.add_argument("--max-response-length", type=int, default=160)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only-main", action="store_true", help="the main setting alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for judge in options.judges:
        for setting in (MAIN,) if options.only_main else SETTINGS:
            result = run(options, judge, setting)
            shown(judge, setting, result)
            rows.append({"judge": judge, "setting": setting, "result": result})
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
