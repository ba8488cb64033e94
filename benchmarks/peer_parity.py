"""One artifact, the same dialogues, every tool that reads it: the largest difference to our own rewards.

    make peers
    python benchmarks/peer_parity.py RM [--peer-python PATH] [--old-python PATH] [--json OUT]

--peer-python   an environment with transformers 5, TRL and sentence-transformers (default: what `make peers` made);
                with `pip install --no-deps rewardbench` there, rewardbench's pipeline too
--old-python    an environment with transformers 4 and rewardbench (4.51 is what rewardbench 0.1.4 pins); without it
                nothing is said about transformers 4

Ours is `load_scorer`. Each way runs in the peer's environment on the CPU, loads the folder as that tool does, and
renders the messages as that tool does. Rows that our render contract cuts are left out, since other tools do not
read the contract.

A way ends as `same` (largest difference within the tolerance), `DIFFERENT`, `FAILED` (the tool ran and raised) or
`not run` (a package is missing; the reason is stated, and it does not count as passed). Exit status: 0 all that ran
are the same, 1 a way is different or failed, 2 an environment is missing or nothing ran.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Messages = list[dict[str, str]]
Result = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
PEER_PYTHON = ROOT / ".venv" / "peers" / "bin" / "python"
TOLERANCE = 1e-3
WORKER = "_worker"
TIMEOUT_S = 1800


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


# The last turn is the answer. Long ones stay below 200 tokens an answer with an ordinary tokenizer.
DIALOGUES: dict[str, Messages] = {
    "one turn": [user("What is the capital of Australia?"), assistant("Canberra.")],
    "one turn, other answer": [
        user("What is the capital of Australia?"),
        assistant("Sydney, the largest city of the country."),
    ],
    "one letter": [user("Is seven a prime number? Answer y or n."), assistant("y")],
    "three turns": [
        user("Hello!"),
        assistant("Hi, how can I help?"),
        user("Write one sentence about rain."),
        assistant("Rain fell all night on the tin roof."),
    ],
    "system turn": [
        system("You are a chemist. Answer in one line."),
        user("Why does salt melt ice?"),
        assistant("Dissolved ions lower the freezing point of water."),
    ],
    "system and three turns": [
        system("Be brief."),
        user("Name a metal."),
        assistant("Iron."),
        user("And one that is liquid at room temperature?"),
        assistant("Mercury."),
    ],
    "long answer": [user("How do I make tea?"), assistant("Boil the water, then wait a little. " * 20 + "Pour it.")],
    "unicode, code, spaces": [
        user("Übersetze „good morning“ ins Japanische 🌅 und zeig Python dazu."),
        assistant("おはようございます\n\n```python\nprint('おはよう')\n```\n  — höflich: ございます ☀️  "),
    ],
}


# Ours ----------------------------------------------------------------------------------------------


def our_rewards(rm: str, dialogues: dict[str, Messages]) -> tuple[dict[str, float], dict[str, str]]:
    """(rewards, reasons): one reward a dialogue, or why its comparison would not be fair."""
    from rewardsmith import Group, Message, load_scorer

    def group_of(messages: Messages) -> Group:
        *prompt, answer = (Message(m["role"], m["content"]) for m in messages)
        return Group(prompt=tuple(prompt), responses=((answer,),))

    scorer = load_scorer(rm, device="cpu")
    folded = scorer.renderer.contract.system_turns != "kept"
    rewards: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for name, scores in zip(dialogues, scorer.score([group_of(m) for m in dialogues.values()]), strict=True):
        if scores.error:
            reasons[name] = scores.error
        elif any(scores.truncated):
            reasons[name] = f"our contract cuts the {scores.truncated[0]}"
        elif folded and dialogues[name][0]["role"] == "system":
            reasons[name] = "our contract folds system turns"
        else:
            rewards[name] = float(scores.rewards[0])
    return rewards, reasons


# The ways: each runs in a peer's environment and knows nothing of ours ------------------------------


def texts_of(tokenizer: Any, dialogues: Sequence[Messages]) -> list[str]:
    return [tokenizer.apply_chat_template(messages, tokenize=False) for messages in dialogues]


def transformers_logits(rm: str, dialogues: Sequence[Messages], rows_at_once: int) -> list[float]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(rm).eval()
    tokenizer = AutoTokenizer.from_pretrained(rm)
    tokenizer.padding_side = "right"
    texts = texts_of(tokenizer, dialogues)
    rewards: list[float] = []
    for i in range(0, len(texts), rows_at_once):
        part = texts[i : i + rows_at_once]
        inputs = tokenizer(part, return_tensors="pt", padding=len(part) > 1, add_special_tokens=False)
        with torch.inference_mode():
            rewards += model(**inputs).logits[:, 0].tolist()
    return rewards


def one_row(rm: str, dialogues: Sequence[Messages]) -> list[float]:
    return transformers_logits(rm, dialogues, 1)


def padded_batch(rm: str, dialogues: Sequence[Messages]) -> list[float]:
    return transformers_logits(rm, dialogues, len(dialogues))


def tiny_policy(tokenizer: Any) -> Any:
    """A random model of a few thousand weights: GRPOTrainer wants a policy, and this one is never run."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **ids))


def trl_grpo(rm: str, dialogues: Sequence[Messages]) -> list[float]:
    """GRPOTrainer(reward_funcs=rm): its loading, its rendering, its padding. Nothing is generated or trained."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    prompts = [messages[:-1] for messages in dialogues]
    completions = [messages[-1:] for messages in dialogues]
    tokenizer = AutoTokenizer.from_pretrained(rm, padding_side="left")
    with tempfile.TemporaryDirectory() as folder:
        options = {"per_device_train_batch_size": 2, "num_generations": 2, "report_to": [], "bf16": False}
        trainer = GRPOTrainer(
            model=tiny_policy(tokenizer),
            reward_funcs=rm,
            args=GRPOConfig(output_dir=folder, use_cpu=True, **options),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            processing_class=tokenizer,
        )
        rows = [{"prompt": prompt} for prompt in prompts]
        rewards = trainer._calculate_rewards(rows, prompts, completions, [[0] for _ in prompts])
    return rewards[:, 0].tolist()


def cross_encoder(rm: str, dialogues: Sequence[Messages]) -> list[float]:
    """CrossEncoder(rm).predict(messages), with the activation that the artifact's configuration names."""
    from sentence_transformers import CrossEncoder

    return [float(reward) for reward in CrossEncoder(rm, device="cpu").predict(list(dialogues))]


def import_rewardbench() -> tuple[Any, str]:
    """(pipeline class, note). Where the package does not import as a whole, its pipeline module by itself."""
    try:
        return importlib.import_module("rewardbench").REWARD_MODEL_CONFIG["default"]["pipeline_builder"], ""
    except ModuleNotFoundError as error:
        if error.name == "rewardbench":
            raise
        reason = error
    except Exception as error:  # any code may run at import, and what fails there is what we want to tell
        reason = error
    for name in [name for name in sys.modules if name.split(".")[0] == "rewardbench"]:
        del sys.modules[name]
    spec = importlib.util.find_spec("rewardbench")
    assert spec is not None, "a package that failed to import is installed"
    assert spec.submodule_search_locations, "rewardbench is a package"
    root = Path(spec.submodule_search_locations[0])
    for name, path in (("rewardbench", root), ("rewardbench.models", root / "models")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package
    note = f"its pipeline module only; the package does not import here: {first_line(reason)}"
    return importlib.import_module("rewardbench.models.pipeline").RewardBenchPipeline, note


def rewardbench_pipeline(rm: str, dialogues: Sequence[Messages]) -> tuple[list[float], str]:
    """rewardbench's default entry with --not_quantized --torch_dtype float32: left padding, raw logits.

    Its pipeline moves every batch to "cuda"; that one call is made to do nothing, so that it runs on the CPU.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BatchEncoding

    pipeline_class, note = import_rewardbench()
    stay_here: Any = lambda self, device: self  # noqa: E731
    BatchEncoding.to = stay_here
    tokenizer = AutoTokenizer.from_pretrained(rm)
    tokenizer.padding_side = "left"
    model = AutoModelForSequenceClassification.from_pretrained(rm, torch_dtype=torch.float32)
    pipeline = pipeline_class("text-classification", model=model, tokenizer=tokenizer)
    texts = texts_of(tokenizer, dialogues)
    options = {"truncation": False, "padding": True, "max_length": 512, "return_token_type_ids": False}
    return pipeline(texts, **options).float()[:, 0].tolist(), note


WAYS: dict[str, tuple[str, Callable[[str, Sequence[Messages]], Any]]] = {
    "transformers, one row": ("transformers", one_row),
    "transformers, padded batch": ("transformers", padded_batch),
    "TRL GRPOTrainer": ("trl", trl_grpo),
    "CrossEncoder": ("sentence-transformers", cross_encoder),
    "rewardbench pipeline": ("rewardbench", rewardbench_pipeline),
}
OLD_WAYS = tuple(way for way in WAYS if way != "CrossEncoder")


# The worker ----------------------------------------------------------------------------------------


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160] if text else ''}"


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def run_way(way: str, rm: str, dialogues: Sequence[Messages]) -> Result:
    """{"version", "transformers"} and one of "rewards" (with a "note"), "missing", "error"."""
    package, function = WAYS[way]
    result: Result = {"version": version_of(package), "transformers": version_of("transformers"), "note": ""}
    if not result["version"]:
        return {**result, "missing": f"{package} is not installed in this environment"}
    try:
        rewards = function(rm, dialogues)
    except ModuleNotFoundError as error:
        return {**result, "missing": first_line(error)}
    except Exception as error:  # whatever a peer raises on our artifact is the result
        return {**result, "error": first_line(error)}
    if isinstance(rewards, tuple):
        rewards, result["note"] = rewards
    return {**result, "rewards": rewards}


def worker(task_file: Path) -> None:
    """Run the task's ways here; the results are on disk after each, so that a crash loses one way only."""
    task = json.loads(task_file.read_text(encoding="utf-8"))
    import torch

    torch.set_num_threads(1)
    results: dict[str, Result] = {}
    for way in task["ways"]:
        results[way] = run_way(way, task["rm"], task["dialogues"])
        Path(task["out"]).write_text(json.dumps(results), encoding="utf-8")


def run_in(python: str | Path, ways: Sequence[str], rm: str, dialogues: Sequence[Messages]) -> dict[str, Result]:
    """The results of `ways` in another environment. What it printed is kept only where it died."""
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"}
    environment = {**os.environ, **offline, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as folder:
        task, out = Path(folder) / "task.json", Path(folder) / "out.json"
        content = {"rm": str(Path(rm).resolve()), "ways": list(ways), "dialogues": list(dialogues), "out": str(out)}
        task.write_text(json.dumps(content), encoding="utf-8")
        command = [str(python), __file__, WORKER, str(task)]
        try:
            done = subprocess.run(
                command, env=environment, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S
            )
            reason = f"status {done.returncode}: " + (done.stderr.strip().splitlines() or ["no message"])[-1][:160]
        except subprocess.TimeoutExpired:
            reason = f"no end after {TIMEOUT_S} s"
        results = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    lost = {"version": "", "transformers": "", "note": "", "error": reason}
    return {way: results.get(way, lost) for way in ways}


# The table -----------------------------------------------------------------------------------------


def judge(result: Result, ours: Sequence[float], tolerance: float) -> Result:
    """The result with its "verdict", and with "difference" where there are rewards."""
    if "missing" in result:
        return {**result, "verdict": "not run", "note": result["missing"]}
    if "error" in result:
        return {**result, "verdict": "FAILED", "note": result["error"]}
    theirs = result["rewards"]
    if len(theirs) != len(ours):
        return {**result, "verdict": "FAILED", "note": f"{len(theirs)} rewards for {len(ours)} dialogues"}
    differences = [abs(a - b) for a, b in zip(theirs, ours)]
    largest = max(differences) if all(map(math.isfinite, differences)) else math.nan
    return {**result, "difference": largest, "verdict": "same" if largest <= tolerance else "DIFFERENT"}


def show(rows: Sequence[tuple[str, Result]]) -> str:
    """One line a way, and the reasons below."""
    lines = [f"{'way':<28}{'version':<10}{'transformers':<14}{'largest difference':<20}verdict"]
    for way, r in rows:
        difference = f"{r['difference']:.1e}" if "difference" in r else "-"
        versions = f"{r['version'] or '-':<10}{r['transformers'] or '-':<14}"
        lines.append(f"{way:<28}{versions}{difference:<20}{r['verdict']}")
    lines += [f"  {way} ({r['transformers'] or 'no transformers'}): {r['note']}" for way, r in rows if r["note"]]
    return "\n".join(lines)


def status_of(rows: Sequence[tuple[str, Result]]) -> int:
    verdicts = [result["verdict"] for _, result in rows]
    if any(verdict in ("DIFFERENT", "FAILED") for verdict in verdicts):
        return 1
    return 0 if "same" in verdicts else 2


def stored_dtype(rm: str) -> str:
    config = json.loads((Path(rm) / "config.json").read_text(encoding="utf-8"))
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def missing_environment(options: argparse.Namespace) -> str:
    """One line that says what to do, or nothing."""
    if not Path(options.peer_python).is_file():
        return f"no peer environment at {options.peer_python}: run `make peers`, or name one with --peer-python"
    if options.old_python and not Path(options.old_python).is_file():
        return f"no Python at {options.old_python} (--old-python); `make peers` builds the one with transformers 5 only"
    return ""


def compare(options: argparse.Namespace) -> int:
    ours, left_out = our_rewards(options.rm, DIALOGUES)
    for name, reason in left_out.items():
        print(f"left out: {name!r} ({reason})")
    if not ours:
        print("no dialogue is left to compare", file=sys.stderr)
        return 2
    dtype = stored_dtype(options.rm)
    if dtype != "float32":
        print(f"stored as {dtype}: some tools compute in that type; the tolerance is meant for float32")
    dialogues = [DIALOGUES[name] for name in ours]
    results = list(run_in(options.peer_python, tuple(WAYS), options.rm, dialogues).items())
    if options.old_python:
        results += run_in(options.old_python, OLD_WAYS, options.rm, dialogues).items()
    rows = [(way, judge(result, list(ours.values()), options.tolerance)) for way, result in results]
    spread = max(ours.values()) - min(ours.values())
    print(f"{len(ours)} dialogues, rewards over a range of {spread:.3g}, tolerance {options.tolerance:g}\n")
    print(show(rows))
    if not options.old_python:
        print("  transformers 4: not compared (name an environment with --old-python)")
    if options.json:
        content = {"ours": ours, "left_out": left_out, "stored_dtype": dtype, "tolerance": options.tolerance}
        ways = [{"way": way, **result} for way, result in rows]
        Path(options.json).write_text(json.dumps({**content, "ways": ways}, indent=1) + "\n", encoding="utf-8")
    return status_of(rows)


def main(words: Sequence[str]) -> int:
    if words[:1] == [WORKER]:
        worker(Path(words[1]))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="peer_parity.py RM [options]"
    )
    parser.add_argument("rm", help="an artifact folder")
    parser.add_argument("--peer-python", default=str(PEER_PYTHON))
    parser.add_argument("--old-python", default="")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--json", default="", help="write every reward to this file")
    options = parser.parse_args(words)
    if problem := missing_environment(options):
        print(problem, file=sys.stderr)
        return 2
    return compare(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
