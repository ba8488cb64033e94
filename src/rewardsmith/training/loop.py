"""Train: read, render, step, evaluate, save. One straight line, one process or many.

The numbers of a run depend on its options and data alone. The order of the groups is a function of (seed,
epoch), a step's loss does not depend on how its groups fell into batches, and what else decides the next step
(weights, optimiser, random state) is in the saved state; so a run that was killed and resumed ends with the
same bits on the CPU.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from rewardsmith.errors import ConfigError, Interrupted, TrainingError
from rewardsmith.model.artifact import stock_classifier
from rewardsmith.model.layers import depth
from rewardsmith.model.load import Base, load_base
from rewardsmith.model.meta import META, read_meta
from rewardsmith.model.speed import keep_freed_memory
from rewardsmith.progress import Bar, say
from rewardsmith.text.pack import PackedBatch, pack, plan_batches
from rewardsmith.text.render import Encoded, Renderer
from rewardsmith.training import checkpoint
from rewardsmith.training.cache import GB, CacheUnusable, TrunkCache
from rewardsmith.training.config import TrainConfig
from rewardsmith.training.data import data_notes, fingerprint, load_data, prompt_blocks
from rewardsmith.training.finish import METRICS, finish
from rewardsmith.training.held_out import held_out_metrics
from rewardsmith.training.interrupt import InterruptGuard
from rewardsmith.training.meter import Meter
from rewardsmith.training.objective import PreferenceLoss, make_pair_batch, step_weight
from rewardsmith.training.optim import make_members, make_optimizer, rate_factor, resolve_precision
from rewardsmith.training.parallel import clip, dealt, shard
from rewardsmith.training.setup import check_length, lacks_memory, out_of_memory, start_accelerator, tokens_at_once
from rewardsmith.training.side_step import SideStep
from rewardsmith.training.sides import Trained, make_sides

SYNC_EVERY = 10  # steps between two looks at the numbers on a GPU; on a CPU looking is free
FEWEST_TOKENS = 256  # at once: less does not make a step that lacks memory fit
FREE_TO_CHANGE = ("resume", "overwrite", "tracker", "save_every", "output")  # options that decide no number


def train(config: TrainConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Train a reward model and write its artifact to `config.output`; returns the artifact's metadata.

    Raises ConfigError, DataError, ModelError or TrainingError with one line; Interrupted after Ctrl-C, when
    the state is saved.
    """
    finished = _check_output(config)
    if finished is not None:
        return finished
    return Run(config, quiet=quiet).go()


def _check_output(config: TrainConfig) -> dict[str, Any] | None:
    """Refuse to destroy anything unasked; metadata of the artifact if there is nothing left to do."""
    output, run = Path(config.output), config.run_folder
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {config.output} is a file; give a folder")
    if config.resume and (output / META).is_file() and not checkpoint.states(run):
        say(f"{output} is complete: nothing to resume")
        return read_meta(output)
    if output.is_dir() and any(output.iterdir()) and not config.overwrite:
        raise ConfigError(f"--output {config.output} is not empty; give another folder, or --overwrite")
    if run.exists() and not config.resume:
        if checkpoint.states(run) and not config.overwrite:
            step = int(checkpoint.states(run)[-1].name.removeprefix(checkpoint.PREFIX))
            raise ConfigError(
                f"an interrupted run for --output {config.output} is at step {step}: "
                "add --resume to go on, or --overwrite to start again"
            )
        shutil.rmtree(run, ignore_errors=True)  # several processes may be at it
    return None


class Run:
    """One training run: what it holds between steps."""

    def __init__(self, config: TrainConfig, *, quiet: bool = False) -> None:
        self.config, self.quiet = config, quiet
        cpu = config.device == "cpu" or not torch.cuda.is_available()
        device = torch.device("cpu" if cpu else "cuda")
        self.precision = resolve_precision(config.precision, device)
        if cpu:
            keep_freed_memory()
        self.accelerator = start_accelerator(config, self.precision, cpu)
        self.tokens_at_once = tokens_at_once(config, self.accelerator.device)
        self.tell(f"loading {config.model}")
        base = self.fresh_base()
        self.models, notes = make_members(base, config)
        stock_classifier(self.models[0])  # what cannot be saved is refused now, not after training
        check_length(config.render.max_length, base)
        if self.models[0].path == "padded":
            notes.append(f"padded path: {self.models[0].path_reason}")
        self.renderer = Renderer(base.tokenizer, config.render)
        self.train_data, self.eval_data = load_data(config, self.renderer)
        for note in [*base.notes, *notes, *data_notes(self.train_data, self.eval_data, self.renderer)]:
            self.tell(note)
        self.sharded = config.shard and self.accelerator.num_processes > 1
        if self.sharded:
            shard(self.models[0], self.accelerator.device, self.accelerator.num_processes)
        self.losses = [PreferenceLoss(config.loss).to(self.accelerator.device) for _ in self.models]
        self.sides = make_sides(self.models, base, config)
        self.starts: dict[int, int] = {}  # id(group) -> where its answers begin, if lengths or texts are asked for
        self.trained: list[Any] = list(self.models)
        if config.loss.has_side_terms:
            self.trained = [Trained(model, sides) for model, sides in zip(self.models, self.sides, strict=True)]
        if config.loss.odin or config.loss.text_regularisation:
            encoded = self.train_data.encoded
            self.starts = dict(zip(map(id, encoded), self.renderer.prompt_lengths(encoded), strict=True))
        self.optimizer = make_optimizer(self.trained, self.losses, config)
        if self.sharded:
            self.parallel = self.trained  # the optimiser holds the split weights already
            self.optimizer = self.accelerator.prepare(self.optimizer)
        else:
            *self.parallel, self.optimizer = self.accelerator.prepare(*self.trained, self.optimizer)
        self.modules = {f"{kind}{m or ''}": module for m, parts in enumerate(zip(self.models, self.losses, self.sides))
                        for kind, module in zip(("model", "loss", "sides"), parts)}  # fmt: skip
        self.cache = self._trunk_cache()
        self.blocks = prompt_blocks(self.train_data.encoded, most=max(config.batch_size // 4, 1))
        self.steps_per_epoch = -(-len(self.train_data.encoded) // config.batch_size)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.state: dict[str, Any] = {
            "best": None, "last": None, "bad_evaluations": 0,
            "tokens": 0, "row_tokens": 0, "seconds": 0.0, "step_seconds": 0.0,
        }  # fmt: skip
        self.order: tuple[int, np.ndarray] | None = None  # (epoch, its order of the groups)
        self.meter = Meter(self.accelerator, self.precision, len(self.models))
        self.interrupted = False  # a signal reached this process
        self.stopping = False  # all processes know

    def fresh_base(self) -> Base:
        config = self.config
        torch.manual_seed(config.seed)  # a pooler or a pad row that the files lack is the same in every run
        return load_base(
            config.model,
            quantize=config.quantize,
            trust_remote_code=config.trust_remote_code,
            with_lm_head=config.loss.text_regularisation > 0,
        )

    def _trunk_cache(self) -> TrunkCache | None:
        """What the frozen layers below the trained ones compute, from the disk; None where that cannot be."""
        config, model = self.config, self.models[0]
        if config.train_layers is None or model.path != "packed" or config.train_layers == depth(model.trunk):
            return None
        if self.sharded:  # a part of a trunk would not gather what the whole gathers
            return None
        for member in self.models:
            member.split(config.train_layers)
        if not config.trunk_cache_gb:
            return None
        if self.accelerator.num_processes > 1:
            self.tell("frozen layers are computed in every step: the cache serves one process")
            return None
        try:
            cache = TrunkCache(
                model,
                self.train_data.encoded + self.eval_data.encoded,
                limit_bytes=config.trunk_cache_gb * GB,
                tokens_per_batch=2 * self.tokens_at_once,
                precision=self.precision,
                autocast=self.accelerator.autocast,
                quiet=not self.loud,
            )
        except CacheUnusable as reason:
            self.tell(f"frozen layers are computed in every step: {reason}")
            return None
        verb = "read from" if cache.found else "kept in"
        self.tell(f"frozen layers: {cache.n_tokens} tokens, {cache.size / 1e6:.0f} MB {verb} {cache.path}")
        return cache

    # -- the line -----------------------------------------------------------------------------------------

    def go(self) -> dict[str, Any]:
        config, run = self.config, self.config.run_folder
        run.mkdir(parents=True, exist_ok=True)
        step = self._resume() if config.resume else 0
        if self.main:
            checkpoint.cut_metrics(run / METRICS, step)
        if config.tracker != "none":
            self.accelerator.init_trackers("rewardsmith", config={"model": config.model, "output": config.output})
        started = time.monotonic() - self.state["seconds"]
        self._train_mode()
        pairs = 0
        with (
            InterruptGuard(self),
            Bar("training", self.total_steps, done=step, quiet=not self.loud) as bar,
        ):
            began = time.monotonic()
            tokens_before = self.state["tokens"]
            while step < self.total_steps and not self._stop_early():
                items = self._step_items(step)
                step_began = time.monotonic()
                self._fitting_step(step, items)
                step += 1
                self._agree_on_interrupt()
                pairs += sum(len(item.group.preferences) for item in items)
                self.state["seconds"] = time.monotonic() - started
                if self._looks_at(step):
                    self._flush()
                self.state["step_seconds"] += time.monotonic() - step_began
                seconds = max(time.monotonic() - began, 1e-9)
                tokens = self.state["tokens"] - tokens_before
                bar.advance(note=f"{self.meter.note()}{pairs / seconds:.2f} pairs/s {tokens / seconds:.0f} tokens/s")
                if self._evaluates_at(step):
                    self._evaluate_and_keep(step)
                if self.stopping or step % config.save_every == 0 or step == self.total_steps:
                    self._save(step)
                if self.stopping and step < self.total_steps:
                    raise Interrupted(f"stopped at step {step} of {self.total_steps}, state saved; go on with --resume")
        self._flush()
        return finish(self, step)

    def _agree_on_interrupt(self) -> None:
        """A signal may reach one process only; all of them must stop at the same step, or they wait forever."""
        if self.accelerator.num_processes > 1:
            flag = torch.tensor(float(self.interrupted), device=self.accelerator.device)
            self.stopping = bool(self.accelerator.reduce(flag, reduction="sum") > 0)
        else:
            self.stopping = self.interrupted

    def _train_mode(self) -> None:
        for model in self.models:
            model.train()

    def _fitting_step(self, step: int, items: Sequence[Encoded]) -> None:
        """A step; where memory does not suffice and nobody named a budget, again in smaller batches."""
        try:
            self._train_step(step, items)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            smaller = self.tokens_at_once // 2
            alone = max(item.n_tokens for item in items) >= self.tokens_at_once  # no budget splits a group
            fixed = self.config.tokens_per_batch is not None or self.accelerator.num_processes > 1
            if fixed or alone or smaller < FEWEST_TOKENS:
                raise out_of_memory(self.config, self.tokens_at_once) from None
            self.tokens_at_once = smaller
        else:
            return
        self.tell(f"out of memory: going on with {self.tokens_at_once} tokens at once")
        self.meter.drop()
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        self._fitting_step(step, items)

    def _train_step(self, step: int, items: Sequence[Encoded]) -> None:
        """One optimiser step over `items`: the loss is their weighted mean, whatever the batches."""
        config, accelerator = self.config, self.accelerator
        groups = [item.group for item in items]
        total = step_weight(groups, config.loss)
        batches = plan_batches([item.token_ids for item in items], self.tokens_at_once)
        world = accelerator.num_processes
        mine = dealt(batches, accelerator.process_index, world)
        self.meter.begin(step + 1)
        side = SideStep(self, items, mine, n_batches=len(batches)) if config.loss.has_side_terms else None
        for n, (members, counts) in enumerate(mine):
            part = [items[i] for i in members]
            packed = pack(part)
            text = None
            if side is not None:
                packed, text = side.text_of(members, packed)
            packed = packed.to(accelerator.device)
            pairs = make_pair_batch([item.group for item in part], packed.first_row_G, total, config.loss)
            pairs = pairs.to(accelerator.device)
            given_TH = self.given(part, packed)
            last = n == len(mine) - 1
            for m, (parallel, loss) in enumerate(zip(self.parallel, self.losses, strict=True)):
                with nullcontext() if last or self.sharded else accelerator.no_sync(parallel):
                    if side is None:
                        with accelerator.autocast():
                            rewards_R = parallel(batch=packed, given_TH=given_TH)
                        output = loss(rewards_R, pairs)
                    else:
                        with accelerator.autocast():
                            found = parallel(batch=packed, given_TH=given_TH, text=text)
                        rewards_R, output = found.quality_R, side.loss(m, members, found, pairs)
                    # Processes average their gradients; the step's loss is the sum of its parts.
                    accelerator.backward(output.loss * (world if counts else 0.0))
                self.meter.add(part, packed, output, rewards_R, counts=counts)
        for loss in self.losses:
            for parameter in loss.parameters():  # outside the parallel model, so not averaged with it
                if parameter.grad is not None:
                    parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")
        norm = self._clip()
        if accelerator.device.type == "cpu":
            self.meter.check_now(norm)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate_factor(step, self.total_steps, config)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.meter.end(norm, self.optimizer.param_groups[0]["lr"])

    def given(self, items: Sequence[Encoded], packed: PackedBatch) -> torch.Tensor | None:
        """What all members have in common, once: from the disk, or computed for this batch."""
        if self.cache is not None:
            return self.cache.given(items, packed)
        if len(self.models) > 1 and self.models[0].parts is not None:
            with self.accelerator.autocast():
                return self.models[0].lower(packed)
        return None

    def _clip(self) -> torch.Tensor:
        """Scale each member's gradient down to the limit; returns the mean norm before."""
        limit = self.config.max_grad_norm or float("inf")
        self.accelerator.unscale_gradients()
        norms = [
            clip([p for m in pair for p in m.parameters() if p.requires_grad], limit)
            for pair in zip(self.models, self.losses, self.sides, strict=True)
        ]
        return torch.stack(norms).mean()

    def _step_items(self, step: int) -> list[Encoded]:
        """The groups of a step: the epoch's order is a function of (seed, epoch) alone."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if self.order is None or self.order[0] != epoch:
            rng = np.random.default_rng([self.config.seed, epoch])
            self.order = (epoch, np.concatenate([self.blocks[b] for b in rng.permutation(len(self.blocks))]))
        chosen = self.order[1][within * self.config.batch_size : (within + 1) * self.config.batch_size]
        return [self.train_data.encoded[i] for i in chosen]

    # -- numbers ------------------------------------------------------------------------------------------

    def _looks_at(self, step: int) -> bool:
        on_cpu = self.accelerator.device.type == "cpu"
        due = step % SYNC_EVERY == 0 or step % self.config.save_every == 0 or self._evaluates_at(step)
        return on_cpu or due or self.stopping or step == self.total_steps

    def _flush(self) -> None:
        """Bring the pending steps' numbers to the CPU in one go, check and log them."""
        lines = self.meter.flush()
        for line in lines:
            for name in ("tokens", "row_tokens"):
                self.state[name] += line[name]
        self._log(lines)

    def _log(self, lines: Sequence[dict[str, Any]]) -> None:
        if self.main:
            with (self.config.run_folder / METRICS).open("a", encoding="utf-8") as handle:
                handle.writelines(json.dumps(line) + "\n" for line in lines)
        if self.config.tracker != "none":
            for line in lines:
                self.accelerator.log(
                    {k: v for k, v in line.items() if k != "step" and v is not None}, step=line["step"]
                )

    # -- evaluation ---------------------------------------------------------------------------------------

    def _evaluates_at(self, step: int) -> bool:
        if not self.eval_data.encoded:
            return False
        every = self.config.eval_every or self.steps_per_epoch
        return step % every == 0 or step == self.total_steps

    def _evaluate_and_keep(self, step: int) -> None:
        metrics, calibration = self.evaluate()
        self._log([{"step": step, **{f"eval_{k}": v for k, v in metrics.items()}}])
        accuracy = "none (ties only)" if metrics["accuracy"] is None else f"{metrics['accuracy']:.4f}"
        self.tell(f"step {step}: held-out accuracy {accuracy}, loss {metrics['loss']:.4f}")
        evaluated = {"step": step, "metrics": metrics, "calibration": calibration}
        self.state["last"] = evaluated
        key = [metrics["accuracy"] or 0.0, -metrics["loss"]]
        best = self.state["best"]
        if best is None or key > best["key"]:
            self.state["best"] = {**evaluated, "key": key}
            self.state["bad_evaluations"] = 0
            if self.config.keep_best:
                weights = checkpoint.trained_weights(self.modules)
                if self.main:
                    checkpoint.save_best(self.config.run_folder, step, weights)
        else:
            self.state["bad_evaluations"] += 1

    @property
    def kept(self) -> dict[str, Any] | None:
        """The evaluation of the weights that are kept: the best one, or the last; None without held-out data."""
        return self.state["best"] if self.config.keep_best else self.state["last"]

    def _stop_early(self) -> bool:
        patience = self.config.early_stopping
        return bool(patience) and self.state["bad_evaluations"] >= patience

    def evaluate(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """What the loop watches on the held-out groups, and their temperature: see `held_out_metrics`."""
        rewards = [rewards_MK.mean(axis=0) for rewards_MK in self.rewards(self.eval_data.encoded)]
        self._train_mode()
        return held_out_metrics([item.group for item in self.eval_data.encoded], rewards)

    @torch.no_grad()
    def rewards(self, encoded: Sequence[Encoded]) -> list[np.ndarray]:
        """[M, K] rewards of each group by each member; processes share the work."""
        for model in self.models:
            model.eval()
        batches = plan_batches([item.token_ids for item in encoded], 2 * self.tokens_at_once)
        mine: list[tuple[int, list[list[float]]]] = []
        for members, counts in dealt(batches, self.accelerator.process_index, self.accelerator.num_processes):
            part = [encoded[i] for i in members]
            packed = pack(part).to(self.accelerator.device)
            given_TH = self.given(part, packed)
            with self.accelerator.autocast():
                rewards_MR = torch.stack([model(batch=packed, given_TH=given_TH) for model in self.models])
            values_MR = rewards_MR.double().cpu().numpy()
            if not counts:
                continue
            for i, first in zip(members, packed.first_row_G, strict=True):
                mine.append((i, values_MR[:, first : first + len(encoded[i].token_ids)].tolist()))
        everyone = gather_object(mine) if self.accelerator.num_processes > 1 else mine
        return [np.array(values) for _, values in sorted(everyone, key=lambda pair: pair[0])]

    # -- state --------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, str]:
        """What must be the same for a resumed run: each option, and the tokens of the data."""
        options = {k: repr(v) for k, v in asdict(self.config).items() if k not in FREE_TO_CHANGE}
        options["the training data"] = fingerprint(self.renderer, self.train_data)
        options["the evaluation data"] = fingerprint(self.renderer, self.eval_data)
        options["the precision"] = self.precision
        options["the number of processes"] = str(self.accelerator.num_processes)
        return options

    def _save(self, step: int) -> None:
        self._flush()
        tensors = checkpoint.tensors_of(self.modules, self.optimizer)
        if self.main:
            state = {**self.state, "identity": self._identity()}
            checkpoint.save_state(self.config.run_folder, step, tensors, state)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        state = checkpoint.load_state(self.config.run_folder, self.modules, self.optimizer)
        if state is None:
            self.tell("no saved state: starting at step 0")
            return 0
        now = self._identity()
        changed = [k for k, v in state.pop("identity").items() if now.get(k) != v]
        if changed:
            names = ", ".join(changed)
            raise TrainingError(f"cannot resume: {names} changed since the run began; use --overwrite to start again")
        step = state.pop("step")
        self.state = state
        self.tell(f"resuming at step {step} of {self.total_steps}")
        return step

    # -- small things -------------------------------------------------------------------------------------

    @property
    def main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def loud(self) -> bool:
        return self.main and not self.quiet

    def tell(self, text: str) -> None:
        if self.loud:
            say(text)
