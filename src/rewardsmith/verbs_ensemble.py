"""The verbs `ensemble join`, `ensemble average` and `ensemble laplace`: options, calls into the library, and how the
results are shown to people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.data.options import ReadOptions
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError
from rewardsmith.progress import Bar, say
from rewardsmith.verbs_common import Files, Name, at_least, labelled_groups, say_warnings

if TYPE_CHECKING:
    from rewardsmith.cli import Common


@dataclass(frozen=True, kw_only=True)
class Join:
    """Write reward models that were trained apart (other seeds, trunks, tokenizers) as one ensemble folder. Every verb
    takes it like an ensemble of one training; each member reads its own tokens. Weights are linked, not copied.

    Example: rewardsmith ensemble join rm-seed0 rm-seed1 rm-small --output ensemble
    """

    models: Annotated[Files, tyro.conf.arg(metavar="RM...")]
    """Reward models: artifact folders; of an ensemble, all members."""
    output: str
    """Folder for the ensemble."""
    data: tuple[str, ...] = ()
    """Files with responses on which the members' mean rewards are measured, which their spread is taken without.
    Default: a few built-in dialogues."""
    limit: int = 64
    """Use only the first N groups of them."""
    overwrite: bool = False
    """Replace OUTPUT where it exists."""
    trust_remote_code: bool = False
    """Run Python code that comes with a model. Off unless asked."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(limit=(self.limit, 1))

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.ensemble import join, uneven

        groups = _groups(self.data, self.read, self.limit)
        meta = join(
            self.models,
            self.output,
            groups=groups,
            overwrite=self.overwrite,
            trust_remote_code=self.trust_remote_code,
        )
        warning = uneven(meta["member_spread"])
        if warning and not common.quiet:
            say(f"warning: {warning}")
        return {"output": self.output, **meta, "warnings": [warning] if warning else []}

    def show(self, result: dict[str, Any]) -> str:
        lines = [f"{self.output}: an ensemble of {len(result['members'])}, measured on {result['measured_on']}"]
        for origin, mean, spread in zip(result["joined"], result["member_means"], result["member_spread"], strict=True):
            lines.append(
                f"  {origin['member']}  {origin['from']:<20} mean {mean:+.3f}, spread within prompts {spread:.3f}"
            )
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Average:
    """One reward model whose weights are the mean of several ones' that were trained from the same trunk (WARM). With
    --data also what lies on the straight line between them: where the loss rises, they are not to be averaged.

    Example: rewardsmith ensemble average ensemble --output rm-warm --data heldout.jsonl
    """

    models: Annotated[Files, tyro.conf.arg(metavar="RM...")]
    """Reward models of one trunk: artifact folders; of an ensemble, all members."""
    output: str
    """Folder for the averaged reward model."""
    data: tuple[str, ...] = ()
    """Preference files on which accuracy and loss are measured along the lines."""
    limit: int | None = None
    """Use only the first N groups of them."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU where there is one."""
    seed: int = 0
    """Seed of the bootstrap."""
    overwrite: bool = False
    """Replace OUTPUT where it exists."""
    trust_remote_code: bool = False
    """Run Python code that comes with a model. Off unless asked."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(limit=(self.limit, 1), seed=(self.seed, 0))

    def run(self, common: Common) -> dict[str, Any]:
        import torch

        from rewardsmith.model.artifact import replacing
        from rewardsmith.weight_averaging import average

        replacing(self.output, overwrite=self.overwrite)  # refuses before anything is computed
        groups: list[Group] = []
        if self.data:
            groups, report, _ = labelled_groups(self.data, self.read, self.limit)
            say_warnings(report, common)
        with Bar("points between members", quiet=common.quiet or not groups) as bar:
            meta = average(
                self.models,
                self.output,
                groups=groups,
                overwrite=self.overwrite,
                device="cuda" if self.device == "auto" and torch.cuda.is_available() else "cpu",
                seed=self.seed,
                trust_remote_code=self.trust_remote_code,
                progress=bar.advance,
            )
        return {"output": self.output, **meta}

    def show(self, result: dict[str, Any]) -> str:
        lines = [
            f"{self.output}: the mean of {len(result['averaged'])} reward models, whose trunks differ by up to "
            f"{result['distance']:.2g} of their size"
        ]
        if "barrier" in result:
            from rewardsmith.weight_averaging import barrier_table

            lines.append(barrier_table(result["barrier"]))
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class FitLaplace:
    """Fit how sure the last layer is (Laplace approximation) to preferences, and keep it in the artifact: score then
    gives a std, that of the difference in reward to the prompt's mean answer. Use the training data. The rewards stay
    as they are.

    Example: rewardsmith ensemble laplace rm prefs.jsonl
    """

    model: Annotated[Name, tyro.conf.arg(metavar="RM")]
    """The artifact folder of a single reward model."""
    files: Annotated[Files, tyro.conf.arg(metavar="FILE...")]
    """Preference files, in any shape that train reads."""
    prior: float | None = None
    """Precision of the head's prior: larger is surer. Default: what makes the evidence of the data largest."""
    limit: int | None = None
    """Use only the first N groups."""
    overwrite: bool = False
    """Replace a posterior that is there."""
    tokens_per_batch: int = 8192
    """Most tokens computed at once."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU where there is one."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless asked."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(limit=(self.limit, 1), tokens_per_batch=(self.tokens_per_batch, 16))
        if self.prior is not None and not 0 < self.prior < float("inf"):
            raise ConfigError(f"--prior {self.prior:g}: give a number above 0")

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.ensemble import check_takes_posterior, fit_posterior
        from rewardsmith.scorers import load_scorer

        check_takes_posterior(self.model, overwrite=self.overwrite)
        groups, report, dropped = labelled_groups(self.files, self.read, self.limit)
        say_warnings(report, common)
        scorer = load_scorer(
            self.model,
            tokens_per_batch=self.tokens_per_batch,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
        )
        names = ", ".join(file.rpartition("/")[2] for file in self.files)
        note = fit_posterior(self.model, scorer, groups, prior=self.prior, data=names, overwrite=self.overwrite)
        return {"model": self.model, "laplace": note, "dropped": dropped}

    def show(self, result: dict[str, Any]) -> str:
        note = result["laplace"]
        return (
            f"last layer of {self.model}: {note['n_pairs']} pairs determine {note['effective_parameters']:.1f} of "
            f"{note['hidden_size']} directions; prior precision {note['prior']:.3g} (from {note['prior_from']})\n"
            f"next: rewardsmith score {self.model} FILE --output ROWS (its column std)"
        )


def _groups(files: Sequence[str], read: ReadOptions, limit: int) -> list[Group]:
    return list(islice(read_groups(files, read), limit)) if files else []
