"""The verbs `sample` and `rl`: options, calls into the library, and how the results are shown to people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.errors import ConfigError
from rewardsmith.overoptimization.policy_config import PolicyConfig
from rewardsmith.progress import Bar
from rewardsmith.verbs_common import Files, Name, at_least, dropped_lines

if TYPE_CHECKING:
    from rewardsmith.cli import Common
    from rewardsmith.overoptimization.sample import Sampler


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """How a policy is sampled: a model that is loaded here, or a server."""

    n: int = 8
    """Answers to each prompt."""
    max_tokens: int = 256
    """Longest answer; what is longer is cut."""
    temperature: float = 1.0
    """Of the samples. Nothing else is changed about the distribution."""
    seed: int | None = None
    """Of the samples. Default: 0."""
    url: str | None = None
    """Ask an OpenAI-compatible server instead, such as http://localhost:8000/v1."""
    plain: bool = False
    """With --url: send plain text to /completions rather than messages to /chat/completions."""
    api_key_env: str = "OPENAI_API_KEY"
    """With --url: the environment variable that holds the key."""
    timeout: float = 120.0
    """With --url: seconds to wait for a reply."""
    retries: int = 5
    """With --url: tries after a failure that may pass, each after twice the wait."""
    requests_at_once: int = 4
    """With --url: prompts on their way at the same time."""
    rows_at_once: int = 32
    """Answers written at the same time."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes a GPU where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the matrix products. auto: bfloat16 where the processor multiplies it natively."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless asked."""

    def __post_init__(self) -> None:
        at_least(
            n=(self.n, 1), max_tokens=(self.max_tokens, 1), seed=(self.seed, 0), timeout=(self.timeout, 0.1),
            retries=(self.retries, 0), requests_at_once=(self.requests_at_once, 1),
            rows_at_once=(self.rows_at_once, 1),
        )  # fmt: skip
        if not self.temperature > 0:
            raise ConfigError(f"--temperature {self.temperature}: give a number above 0")

    @property
    def sample_seed(self) -> int:
        """0 where no seed is given."""
        return self.seed or 0

    def sampler(self, model: str) -> Sampler:
        """The sampler of a hub name, folder or gguf:PATH, or of a server's model."""
        if self.url is not None:
            from rewardsmith.overoptimization.sample_server import Server

            return Server(
                url=self.url, model=model, n=self.n, max_tokens=self.max_tokens, temperature=self.temperature,
                chat=not self.plain, api_key_env=self.api_key_env, timeout_s=self.timeout, retries=self.retries,
                requests_at_once=self.requests_at_once,
            )  # fmt: skip
        from rewardsmith.overoptimization.sample import model_sampler

        return model_sampler(
            model, n=self.n, max_tokens=self.max_tokens, temperature=self.temperature,
            rows_at_once=self.rows_at_once, device=self.device, precision=self.precision,
            trust_remote_code=self.trust_remote_code,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sample(SamplerOptions):
    """Let a policy write N answers to each prompt, with their log-probabilities: the candidates that `optimize` reads.

    Example: rewardsmith sample HuggingFaceTB/SmolLM2-135M-Instruct prompts.jsonl --output candidates.jsonl --n 16
    Example: rewardsmith sample my-model prompts.txt --url http://localhost:8000/v1 --output candidates.jsonl --n 64
    """

    model: Annotated[Name, tyro.conf.arg(metavar="MODEL")]
    """A hub name, a folder or gguf:PATH; with --url, the name the server knows it by."""
    files: Annotated[Files, tyro.conf.arg(metavar="PROMPTS...")]
    """Rows with "prompt", a .txt with one a line, or any preference file."""
    output: str
    """Where the rows go: a .jsonl file."""
    limit: int | None = None
    """Use the first N distinct prompts only."""
    resume: bool = False
    """Keep the rows of an interrupted run (OUTPUT.partial) and go on behind them."""
    overwrite: bool = False
    """Replace OUTPUT where it exists."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(limit=(self.limit, 1))
        if not self.output.endswith(".jsonl"):
            raise ConfigError(f"output {self.output!r}: name it .jsonl")

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.overoptimization.sample import read_prompts, write_candidates
        from rewardsmith.scoring import check_score_output

        check_score_output(self.output, overwrite=self.overwrite, resume=self.resume)
        if not self.files:
            raise ConfigError("name at least one file of prompts")
        prompts, dropped = read_prompts(self.files, self.limit)
        sampler = self.sampler(self.model)
        with Bar("sampling, prompts", len(prompts), quiet=common.quiet) as bar:
            counts = write_candidates(
                prompts, sampler, self.output, n=self.n, seed=self.sample_seed, resume=self.resume,
                identity=self._identity(), progress=bar.advance,
            )  # fmt: skip
        return {**counts, "output": self.output, "dropped": dropped}

    def _identity(self) -> dict[str, Any]:
        from rewardsmith.scoring import file_mark

        return {
            "model": [self.model, self.url, self.plain],
            "files": [file_mark(Path(file)) for file in self.files],
            "options": [self.n, self.max_tokens, self.temperature, self.limit, self.sample_seed],
        }

    def show(self, result: dict[str, Any]) -> str:
        lines = [f"{result['rows']} answers to {result['prompts']} prompts in {result['output']}"]
        if result["resumed_prompts"]:
            lines.append(f"{result['resumed_prompts']} prompts kept from the interrupted run")
        if result["cut"]:
            lines.append(f"{result['cut']} answers were cut at {self.max_tokens} tokens")
        return "\n".join([*lines, *dropped_lines(result["dropped"])])


@dataclass(frozen=True, kw_only=True)
class Rl(PolicyConfig):
    __doc__ = PolicyConfig.__doc__

    rm: Annotated[Name, tyro.conf.arg(metavar="RM")]
    """The reward model that is optimised: an artifact or ensemble folder."""

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.overoptimization.policy import run_policy

        return run_policy(self, quiet=common.quiet)

    def show(self, result: dict[str, Any]) -> str:
        first, last = result["first"], result["last"]
        lines = [f"policy after {result['steps']} steps, records and rows: {self.output}"]
        if result["stopped"]:
            option, value = (
                ("--max-kl", self.max_kl) if result["stopped"] == "max-kl" else ("--gold-drop", self.gold_drop)
            )
            lines.append(f"stopped early: {option} {value:g} was reached")
        for key in ("proxy", "gold", "kl", "tokens", "cut"):
            if key in first and key in last:
                lines.append(f"{key:<7}{first[key]:9.3f} -> {last[key]:.3f}")
        moved = [
            f"{name} {first['markers'][name]:.0%} -> {share:.0%}"
            for name, share in last["markers"].items()
            if share != first["markers"][name]
        ]
        if moved:
            lines.append("markers: " + ", ".join(moved))
        if best := result["best_gold"]:
            lines.append(f"gold was best at step {best['step']}, kl {best['kl']:.2f}: {best['gold']:.3f}")
        return "\n".join(lines)
