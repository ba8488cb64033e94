"""Optimise a real policy against a reward model, by TRL's GRPO or RLOO, and write down what that buys.

    <output>/policy/         the last policy, as transformers loads it (safetensors)
    <output>/records.jsonl   per step: proxy, gold, KL, length, markers        (policy_records.py)
    <output>/rows.jsonl      per completion
    <output>/run.json        settings, fingerprints of the models, why it ended

Until it is complete everything is in .<name>.run beside it, TRL's checkpoints too; --resume goes on there.

Both algorithms maximise reward - kl * KL(policy || start) in units of the reward: RLOO subtracts kl * k1 from each
completion's reward, GRPO adds kl * k3 to each token's loss. GRPO's division by the spread of a group's rewards is off
unless asked for, because it turns kl into another quantity for each prompt.

TRL is asked for generation, advantages, loss, optimiser and checkpoints; what is recorded is ours (policy_recorder.py).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PrinterCallback, TrainerCallback

from rewardsmith.data.schema import Message, Messages, content_hash, text_of
from rewardsmith.errors import ConfigError, DataError, Interrupted, TrainingError
from rewardsmith.model.artifact import replacing, write_for_older_readers, writing_tensors
from rewardsmith.model.load import GGUF, load_policy
from rewardsmith.model.speed import keep_freed_memory
from rewardsmith.overoptimization import policy_records as records
from rewardsmith.overoptimization.policy_config import PolicyConfig
from rewardsmith.overoptimization.policy_recorder import Recorder
from rewardsmith.overoptimization.sample import end_ids, generate, read_prompts
from rewardsmith.progress import Bar, say
from rewardsmith.score_cache import model_hash, open_scorer
from rewardsmith.scoring import Scorer
from rewardsmith.training.interrupt import InterruptGuard
from rewardsmith.training.optim import resolve_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerControl, TrainerState

RUN, SETTINGS, REFERENCE = "run.json", "settings.json", "reference"
# Options that decide no number that is already written.
FREE_TO_CHANGE = ("resume", "overwrite", "output", "save_every", "max_kl", "gold_drop", "smooth")


def run_policy(
    config: PolicyConfig, *, scorer: Scorer | None = None, gold: Scorer | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Run it and return what run.json says. `scorer` and `gold` stand in for the folders that the config names.

    Raises ConfigError, DataError, ModelError or TrainingError with one line; Interrupted after Ctrl-C, when the state
    is saved.
    """
    if importlib.util.find_spec("trl") is None:
        raise ConfigError("rl needs TRL, which is not installed: pip install 'rewardsmith[rl]'")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("rl runs in one process: start it without torchrun or accelerate launch")
    check_output(config)
    return PolicyRun(config, scorer, gold, quiet=quiet).go()


def check_output(config: PolicyConfig) -> None:
    """Refuse to destroy anything unasked; clear what is to be overwritten."""
    output, run = Path(config.output), config.run_folder
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {config.output} is a file; give a folder")
    if output.is_dir() and any(output.iterdir()) and not config.overwrite:
        what = "is complete: there is nothing to resume" if (output / RUN).is_file() else "is not empty"
        raise ConfigError(f"--output {config.output} {what}; give another folder, or --overwrite")
    if run.exists() and not config.resume:
        if (found := last_checkpoint(run)) and not config.overwrite:
            raise ConfigError(
                f"an interrupted run for --output {config.output} is at step {step_of(found)}: "
                "add --resume to go on, or --overwrite to start again"
            )
        shutil.rmtree(run)


def last_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of TRL: its trainer state is what it writes last."""
    found = [
        folder
        for folder in run.glob("checkpoint-*")
        if folder.name.removeprefix("checkpoint-").isdigit() and _is_json(folder / "trainer_state.json")
    ]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


class PolicyRun(TrainerCallback):
    """One run: what it holds between steps, and what it does between TRL's."""

    def __init__(self, config: PolicyConfig, scorer: Scorer | None, gold: Scorer | None, *, quiet: bool) -> None:
        self.config, self.quiet = config, quiet
        self.interrupted = False
        self.stopped = ""
        self.run = config.run_folder
        cpu = config.device == "cpu" or not torch.cuda.is_available()
        if cpu:
            keep_freed_memory()
        self.bfloat16 = resolve_precision(config.precision, torch.device("cpu" if cpu else "cuda")) == "bf16"
        prompts, dropped = read_prompts(config.prompts, config.limit)
        for row in dropped[:3]:
            self.tell(f"left out {row['file']}:{row['line']}: {row['reason']}")
        self.held_out, self.train_prompts = prompts[: config.held_out], prompts[config.held_out :]
        if not self.train_prompts:
            raise DataError(f"{len(prompts)} prompts, and --held-out {config.held_out} leaves none to train on")
        self.scorer, self.gold = scorer or self._scorer(config.rm), gold
        if gold is None and config.gold is not None:
            self.gold = self._scorer(config.gold)
        self.tell(f"loading {config.policy}")
        self.model, self.tokenizer = self._load_policy()
        self.settings = self._settings(len(prompts), len(dropped))
        self.recorder = Recorder(
            config, self.scorer, self.gold, self.tokenizer,
            ends=end_ids(self.model, self.tokenizer), bfloat16=self.bfloat16,
        )  # fmt: skip
        self.bar: Bar | None = None

    def tell(self, text: str) -> None:
        if not self.quiet:
            say(text)

    def _scorer(self, path: str) -> Scorer:
        config = self.config
        return open_scorer(  # no text comes twice: nothing is kept on disk
            path, device=config.device, precision="bfloat16" if self.bfloat16 else "float32",
            trust_remote_code=config.trust_remote_code, cache=False,
        )  # fmt: skip

    def _load_policy(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The start policy. TRL reads the reference by the model's name, so a GGUF is written out as a folder first."""
        name, trust = self.config.policy, self.config.trust_remote_code
        if not name.startswith(GGUF):
            return load_policy(name, trust_remote_code=trust)
        folder = self.run / REFERENCE
        if not folder.exists():
            model, tokenizer = load_policy(name, trust_remote_code=trust)
            with replacing(folder) as writing, writing_tensors(writing):
                model.save_pretrained(writing)
                tokenizer.save_pretrained(writing)
        return load_policy(str(folder), trust_remote_code=trust)

    def _settings(self, n_prompts: int, n_dropped: int) -> dict[str, Any]:
        """What has to be the same for a resumed run, and what run.json says of the beginning."""
        config = self.config
        return {
            "config": {**asdict(config), "prompts": list(config.prompts)},
            "policy": fingerprint(self.model),
            "rm": model_hash(Path(config.rm)),
            "gold": None if config.gold is None else model_hash(Path(config.gold)),
            "prompts": {
                "n": n_prompts,
                "dropped": n_dropped,
                "held_out": len(self.held_out),
                "hash": content_hash((), [(Message("user", content_hash(p, ())),) for p in self.train_prompts]),
            },
            "bfloat16": self.bfloat16,
        }

    # -- the run --------------------------------------------------------------------------------------------

    def go(self) -> dict[str, Any]:
        with warnings.catch_warnings():
            # TRL's own use of transformers' older names; nothing that a user could change.
            warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
            return self._go()

    def _go(self) -> dict[str, Any]:
        checkpoint = self._begin()
        done = 0 if checkpoint is None else step_of(checkpoint)
        trainer = self._trainer()
        self.recorder.policy = trainer.model
        reference = getattr(trainer, "ref_model", None)
        if reference is None:  # no KL in the loss: TRL has none, and it is measured all the same
            reference = load_policy(self.model.config._name_or_path, trust_remote_code=self.config.trust_remote_code)[0]
            reference = reference.to(trainer.model.device)
        self.recorder.reference = reference.requires_grad_(False).eval()
        with Bar("optimising", self.config.steps, done=done, quiet=self.quiet) as self.bar, InterruptGuard(self):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        step = trainer.state.global_step
        if self.interrupted and not self.stopped and step < self.config.steps:
            raise Interrupted(f"stopped at step {step} of {self.config.steps}, state saved; go on with --resume")
        self._measure_held_out(step)
        return self._finish(trainer.model, step)

    def _begin(self) -> Path | None:
        """The run's folder, and the checkpoint to go on from."""
        self.run.mkdir(parents=True, exist_ok=True)
        file = self.run / SETTINGS
        checkpoint = last_checkpoint(self.run) if self.config.resume else None
        if checkpoint is None:
            for name in (records.RECORDS, records.ROWS):
                (self.run / name).unlink(missing_ok=True)
            file.write_text(json.dumps(self.settings, indent=2) + "\n", encoding="utf-8")
            return None
        changed = changes(json.loads(file.read_text(encoding="utf-8")), self.settings)
        if changed:
            raise TrainingError(
                f"cannot resume: {', '.join(changed)} changed since the run began; use --overwrite to start again"
            )
        for name in (records.RECORDS, records.ROWS):
            records.cut(self.run / name, step_of(checkpoint))
        return checkpoint

    def _trainer(self) -> Any:
        """TRL's trainer over a data set in the order that the steps take it."""
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

        config = self.config
        batch = config.prompts_per_step * config.completions
        at_once = min(config.rows_at_once, batch)
        arguments: dict[str, Any] = {
            "output_dir": str(self.run),
            "max_steps": config.steps,
            "per_device_train_batch_size": at_once,
            "gradient_accumulation_steps": batch // at_once,
            "num_generations": config.completions,
            "max_completion_length": config.max_tokens,
            "temperature": config.temperature,
            "top_k": 0,
            "top_p": 1.0,
            "beta": config.kl,
            "learning_rate": config.learning_rate,
            "lr_scheduler_type": "constant",
            "shuffle_dataset": False,  # the order is ours: one pass is the run, and a resumed run finds its place
            "disable_dropout": True,
            "gradient_checkpointing": False,
            "bf16": self.bfloat16,
            "use_cpu": self.model.device.type == "cpu" and (config.device == "cpu" or not torch.cuda.is_available()),
            "save_strategy": "steps",
            "save_steps": config.save_every,
            "save_total_limit": 1,
            "logging_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "seed": config.seed,
        }
        if config.algorithm == "grpo":
            arguments["scale_rewards"] = config.scale_rewards
        make, options = (GRPOTrainer, GRPOConfig) if config.algorithm == "grpo" else (RLOOTrainer, RLOOConfig)
        order = prompt_order(len(self.train_prompts), config.steps * config.prompts_per_step, config.seed)
        prompts = [self._as_trl(self.train_prompts[i]) for i in order]
        trainer = make(
            model=self.model,
            reward_funcs=self.recorder.reward,
            args=options(**arguments),
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=self.tokenizer,
            callbacks=[self],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _as_trl(self, prompt: Messages) -> Any:
        if self.tokenizer.chat_template is None:
            return text_of(prompt)
        return [{"role": turn.role, "content": turn.content} for turn in prompt]

    def _finish(self, model: PreTrainedModel, step: int) -> dict[str, Any]:
        found = records.read(self.run / records.RECORDS)
        result = {
            **self.settings,
            "steps": step,
            "stopped": self.stopped or None,
            "first": found[0],
            "last": found[-1],
            "best_gold": records.best_gold(found, self.config.smooth),
            "versions": {name: _version(name) for name in ("trl", "transformers", "torch")},
        }
        with replacing(self.config.output, overwrite=self.config.overwrite) as folder:
            with writing_tensors(folder):
                model.save_pretrained(folder / "policy")
            self.tokenizer.save_pretrained(folder / "policy")
            write_for_older_readers(folder / "policy")
            for name in (records.RECORDS, records.ROWS):
                shutil.copy(self.run / name, folder / name)
            (folder / RUN).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        shutil.rmtree(self.run)
        return result

    # -- between TRL's steps --------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._measure_held_out(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step = state.global_step
        if step % self.config.held_out_every == 0:
            self._measure_held_out(step)
        found = records.read(self.run / records.RECORDS)
        if self.bar is not None:
            gold = f" gold {found[-1]['gold']:.2f}" if "gold" in found[-1] else ""
            self.bar.advance(note=f"proxy {found[-1]['proxy']:.2f}{gold} kl {found[-1]['kl']:.2f}")
        self.stopped = records.reason_to_stop(
            found, max_kl=self.config.max_kl, gold_drop=self.config.gold_drop, window=self.config.smooth
        )
        if self.stopped:
            control.should_training_stop = True
        elif self.interrupted:
            control.should_save = control.should_training_stop = True

    def _measure_held_out(self, step: int) -> None:
        """Write the held-out record of this step, unless it is there."""
        if not self.held_out:
            return
        if any(r["split"] == records.HELD_OUT and r["step"] == step for r in records.read(self.run / records.RECORDS)):
            return
        config, policy = self.config, self.recorder.policy
        assert policy is not None
        drawn = generate(
            policy, self.tokenizer, self.held_out, 1, max_tokens=config.max_tokens, temperature=config.temperature,
            seed=config.seed, rows_at_once=max(config.rows_at_once, 16), bfloat16=self.bfloat16,
        )  # fmt: skip
        self.recorder.measure(step, records.HELD_OUT, self.held_out, [row for rows in drawn for row in rows])


def prompt_order(n: int, needed: int, seed: int) -> list[int]:
    """Which of `n` prompts each place of the run gets: permutations one after the other."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < needed:
        order += rng.permutation(n).tolist()
    return order[:needed]


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of what differs between two runs' settings and decides numbers."""
    now = json.loads(json.dumps(now))
    options = sorted({*before["config"], *now["config"]} - set(FREE_TO_CHANGE))
    found = [f"--{name.replace('_', '-')}" for name in options if before["config"].get(name) != now["config"].get(name)]
    found += [f"the {name}" for name in ("policy", "rm", "gold", "prompts", "bfloat16") if before[name] != now[name]]
    return found


@torch.no_grad()
def fingerprint(model: PreTrainedModel) -> str:
    """A hash of a model's weights, by name and value."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)
