"""The numbers of a run: summed on the device while it works, looked at in one go, checked, totalled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from rewardsmith.errors import TrainingError
from rewardsmith.model.reward_model import RewardModel
from rewardsmith.model.speed import flops_per_token, matmul_peak, peak_memory
from rewardsmith.text.pack import PackedBatch
from rewardsmith.text.render import Encoded
from rewardsmith.training.objective import LossOutput

# What every run sums up; an option's further terms are logged under their own names.
OWN = ("loss", "correct", "decided", "margin", "reward_sum", "n_rewards", "tokens", "row_tokens", "grad_norm")
COMPUTE = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Meter:
    """`begin` a step, `add` each of its batches for each member, `end` it; `flush` gives lines for the log.

    Nothing waits for the device before `flush`. Over processes the parts of a step add up; over members of an
    ensemble they are averaged.
    """

    def __init__(self, accelerator: Accelerator, precision: str, n_members: int = 1) -> None:
        self.accelerator, self.precision, self.n_members = accelerator, precision, n_members
        self.pending: list[dict[str, Any]] = []  # steps whose numbers are still on the device
        self.last: dict[str, Any] | None = None

    def begin(self, step: int) -> None:
        self.pending.append({"step": step, "groups": [], "sums": {}})

    def add(
        self, items: Sequence[Encoded], batch: PackedBatch, output: LossOutput, rewards_R: torch.Tensor, *, counts: bool
    ) -> None:
        """One batch of the step through one member. What a process without work repeats does not count."""
        record = self.pending[-1]
        share = 1.0 / self.n_members if counts else 0.0
        sums: dict[str, Any] = {
            "loss": output.loss.detach(),
            "correct": output.correct,
            "decided": output.decided,
            "margin": output.margin,
            "reward_sum": rewards_R.detach().sum(),
            "n_rewards": float(len(rewards_R)),
            "tokens": float(batch.n_tokens),
            "row_tokens": float(batch.n_row_tokens),
        }
        for name, value in (sums | output.terms).items():
            record["sums"][name] = record["sums"].get(name, 0.0) + share * value
        record["groups"].append((items, output.group_loss_G))

    def drop(self) -> None:
        """Forget the step that was begun: it will be computed again."""
        self.pending.pop()

    def end(self, norm: torch.Tensor, learning_rate: float) -> None:
        self.pending[-1]["sums"]["grad_norm"] = norm
        self.pending[-1]["learning_rate"] = learning_rate

    def check_now(self, norm: torch.Tensor) -> None:
        """Raise TrainingError where the step's loss or gradient is not finite, before it reaches the weights."""
        self._check(self.pending[-1], float(self.pending[-1]["sums"]["loss"]), float(norm))

    def flush(self) -> list[dict[str, Any]]:
        """One line per pending step, checked. Empty where nothing is pending."""
        if not self.pending:
            return []
        device = self.accelerator.device
        names = list(self.pending[0]["sums"])
        table_SN = torch.stack(
            [torch.stack([torch.as_tensor(r["sums"][n], device=device).float() for n in names]) for r in self.pending]
        )
        if self.accelerator.num_processes > 1:
            table_SN = self.accelerator.reduce(table_SN, reduction="sum")
            table_SN[:, names.index("grad_norm")] /= self.accelerator.num_processes
        lines = []
        for record, values in zip(self.pending, table_SN.tolist(), strict=True):
            v = dict(zip(names, values, strict=True))
            self._check(record, v["loss"], v["grad_norm"])
            lines.append(
                {
                    "step": record["step"],
                    "loss": v["loss"],
                    "accuracy": v["correct"] / v["decided"] if v["decided"] else None,
                    "margin": v["margin"],
                    "reward_mean": v["reward_sum"] / v["n_rewards"],
                    "grad_norm": v["grad_norm"],
                    "learning_rate": record["learning_rate"],
                    "tokens": round(v["tokens"]),
                    "row_tokens": round(v["row_tokens"]),
                    **{name: v[name] for name in names if name not in OWN},
                }
            )
        self.last = lines[-1]
        self.pending = []
        return lines

    def note(self) -> str:
        """The last line's loss and accuracy, for the progress bar."""
        return "" if self.last is None else f"loss {self.last['loss']:.3f} accuracy {self.last['accuracy'] or 0:.2f} "

    def _check(self, record: dict[str, Any], loss: float, norm: float) -> None:
        if np.isfinite(loss) and (np.isfinite(norm) or self.precision == "fp16"):
            return
        seen = {
            item.group.id: (f"{item.group.id} ({item.group.source})", value)
            for items, losses in record["groups"]
            for item, value in zip(items, losses.tolist(), strict=True)
        }
        named = [name for name, value in seen.values() if not np.isfinite(value)] or [name for name, _ in seen.values()]
        shown = ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")
        what = "loss" if not np.isfinite(loss) else "gradient"
        raise TrainingError(
            f"step {record['step']}: the {what} is not a finite number; groups: {shown}. "
            "Look at these rows, lower --learning-rate, or use --precision float32"
        )


def speed(
    models: Sequence[RewardModel], accelerator: Accelerator, precision: str, *, given: bool, totals: dict[str, Any]
) -> dict[str, Any]:
    """What a run reached: tokens/s, the share of tokens that sharing saved, MFU, peak memory.

    `totals` holds "tokens", "row_tokens" and "seconds" of all steps and processes. Hidden states that came from
    the disk are no arithmetic; an ensemble's common layers count once.
    """
    device, seconds = accelerator.device, max(totals["seconds"], 1e-9)
    below = flops_per_token(models[0], training=True) - flops_per_token(models[0], training=True, given=True)
    above = sum(flops_per_token(model, training=True, given=len(models) > 1 or given) for model in models)
    per_token = above + (below if len(models) > 1 and not given else 0.0)
    reached = per_token * totals["tokens"] / seconds / accelerator.num_processes
    peak = matmul_peak(device, COMPUTE[precision])
    return {
        "tokens_per_second": round(totals["tokens"] / seconds, 1),
        "shared_tokens": round(1.0 - totals["tokens"] / max(totals["row_tokens"], 1), 4),
        "mfu": round(reached / peak, 4),
        "peak_gflops": round(peak / 1e9, 1),
        "peak_memory_gb": round(peak_memory(device) / 1e9, 2),
    }
