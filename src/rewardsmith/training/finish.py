"""The end of a run: the kept weights, measured once more, become the artifact."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.ensemble import save_ensemble
from rewardsmith.installed import own_version
from rewardsmith.model.artifact import save_reward_model
from rewardsmith.progress import clock
from rewardsmith.training import checkpoint
from rewardsmith.training.data import some, sources
from rewardsmith.training.meter import speed
from rewardsmith.training.optim import make_members
from rewardsmith.training.parallel import full

if TYPE_CHECKING:
    from rewardsmith.training.loop import Run

METRICS = "metrics.jsonl"


def finish(run: Run, step: int) -> dict[str, Any]:
    """Take the kept weights, measure once more, write the artifact, clear the run's state."""
    config = run.config
    run.accelerator.wait_for_everyone()
    if run.kept is not None and run.kept["step"] != step:
        checkpoint.load_best(config.run_folder, run.kept["step"], run.modules)
        run.tell(f"keeping the weights of step {run.kept['step']}, the best evaluation")
    for model in run.models:
        model.eval()
    probe = some(run.eval_data.encoded or run.train_data.encoded, tokens=4096 // len(run.models))
    rewards_MR = np.concatenate(run.rewards(probe), axis=1)
    reached = _speed(run)
    meta = _meta(run, step, _reference(run, rewards_MR.mean(axis=0), len(probe))) | {"speed": reached}
    whole = {name: full(t).cpu() for name, t in run.models[0].state_dict().items()} if run.sharded else {}
    if run.main:
        # Without the autocast wrapper: the artifact is float32, and so are its parity figures.
        for parallel in run.parallel:
            run.accelerator.unwrap_model(parallel, keep_fp32_wrapper=False)
        models = run.models
        if run.sharded:
            models, _ = make_members(run.fresh_base(), config)
            models[0].load_state_dict(whole)
        options: dict[str, Any] = {
            "meta": meta,
            "probe": probe,
            "overwrite": config.overwrite,
            "extra": partial(_copy_run, run),
        }
        if len(models) == 1:
            meta = save_reward_model(models[0], run.renderer, config.output, **options)
        else:
            meta = save_ensemble(
                models, run.renderer, config.output, member_means=rewards_MR.mean(axis=1).tolist(), **options
            )
        checkpoint.remove(config.run_folder)
    if config.tracker != "none":
        run.accelerator.end_training()
    run.tell(f"reward model in {config.output} ({clock(run.state['seconds'])} of training)")
    return meta


def _speed(run: Run) -> dict[str, Any]:
    totals = {**run.state, "seconds": run.state["step_seconds"]}
    reached = speed(run.models, run.accelerator, run.precision, given=run.cache is not None, totals=totals)
    run.tell(
        f"{reached['tokens_per_second']:.0f} distinct tokens/s, {reached['shared_tokens']:.0%} of tokens shared; "
        f"{reached['mfu']:.0%} of this machine's {reached['peak_gflops']:.0f} GFLOP/s, "
        f"{reached['peak_memory_gb']:.1f} GB at most"
    )
    return reached


def _reference(run: Run, rewards: np.ndarray, n_groups: int) -> dict[str, Any]:
    """Mean and spread of the kept model's rewards, and of what: the kept evaluation, or a few groups."""
    if run.kept is not None:
        metrics = run.kept["metrics"]
        n = sum(len(item.token_ids) for item in run.eval_data.encoded)
        return {"mean": metrics["reward_mean"], "std": metrics["reward_std"], "n": n, "responses": "held-out"}
    return {
        "mean": float(rewards.mean()),
        "std": float(rewards.std()),
        "n": len(rewards),
        "responses": f"the first {n_groups} training groups",
    }


def _meta(run: Run, step: int, reference: dict[str, Any]) -> dict[str, Any]:
    kept = run.kept
    return {
        "rewardsmith": own_version(),
        "base_model": run.config.model,
        "normalisation": {"applied": "none", "reference": reference},
        "calibration": kept["calibration"] if kept else None,
        "metrics": {"held_out": kept["metrics"] if kept else None, "kept_step": kept["step"] if kept else step},
        "training": {
            "steps": step,
            "groups": len(run.train_data.encoded),
            "pairs": run.train_data.n_pairs,
            "distinct_tokens": run.state["tokens"],
            "seconds": round(run.state["seconds"], 1),
            "precision": run.precision,
            "device": str(run.accelerator.device),
            "processes": run.accelerator.num_processes,
        },
        "data": {
            "train": sources(run.config.data, run.train_data),
            "eval": sources(run.config.eval_data, run.eval_data),
            "rendering": run.renderer.report.to_dict()
            | {"dropped": len(run.train_data.left_out) + len(run.eval_data.left_out)},
            "left_out": (run.train_data.left_out + run.eval_data.left_out)[:1000],
        },
        "config": json.loads(json.dumps(asdict(run.config), default=str)),
    }


def _copy_run(run: Run, folder: Path) -> None:
    """The training curve stays with the model."""
    if (run.config.run_folder / METRICS).exists():
        shutil.copy(run.config.run_folder / METRICS, folder / "training_metrics.jsonl")
