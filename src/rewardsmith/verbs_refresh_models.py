"""The verbs `refresh train`, `gate`, `release` and `rollback`: options, calls into the library, and what is said."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.errors import ConfigError
from rewardsmith.progress import say
from rewardsmith.statistics import interval_text
from rewardsmith.verbs_common import Name, ScorerOptions, at_least, dropped_lines
from rewardsmith.verbs_label import COLUMN, GoldErrors, JudgeOptions, Label, labelling_settings
from rewardsmith.verbs_policy import SamplerOptions

if TYPE_CHECKING:
    from rewardsmith.cli import Common
    from rewardsmith.refresh.candidates import Recorded, Sampled
    from rewardsmith.refresh.labellers import Labeller
    from rewardsmith.refresh.project import Project
    from rewardsmith.scoring import Scorer
    from rewardsmith.training.config import TrainConfig

Folder = Annotated[Name, tyro.conf.arg(metavar="PROJECT")]
SET_HERE = ("data", "eval_data", "data_weights", "output", "resume", "overwrite")  # by the project, of train's options


@dataclass(frozen=True, kw_only=True)
class RefreshTrain:
    """Train a reward model on the labels of all rounds, on the scale of the project's reference answers. The same
    labels and options are found trained already; a killed run goes on.

    Options of `rewardsmith train` stand in refresh.toml under [train], or in a file that --train-config names.

    Example: rewardsmith refresh train project --model HuggingFaceTB/SmolLM2-135M-Instruct
    Example: rewardsmith refresh train project --variant importance --replay-floor 0.5
    """

    project: Folder
    """The project's folder."""
    model: str | None = None
    """The trunk: a language model, as of train --model."""
    variant: Literal["all", "warm", "last", "importance"] | None = None
    """all: from the trunk on all rounds (default). warm: from the released model on all rounds. last: from the trunk on
    the newest round. importance: from the trunk, old rounds weighted by how likely the newest policy was to write their
    answers."""
    replay_floor: float | None = None
    """Least share of the loss that old rounds have together. Default: 0.3."""
    importance_cap: float | None = None
    """Largest importance weight, where the mean is 1. Default: 5."""
    train_config: str | None = None
    """A TOML file with options of `rewardsmith train`, which go before those of refresh.toml."""

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.cli import read_config
        from rewardsmith.refresh.models import train_model
        from rewardsmith.refresh.project import open_project

        project = open_project(self.project)
        given = {"variant": self.variant, "replay_floor": self.replay_floor, "importance_cap": self.importance_cap}
        more = read_config(self.train_config) if self.train_config is not None else {}
        variant, template = train_options(project, given, more | ({} if self.model is None else {"model": self.model}))
        with project.open() as store:
            return train_model(project.folder, store, variant, template, at=time.time(), quiet=common.quiet)

    def show(self, result: dict[str, Any]) -> str:
        weights = result["weights"]
        shares = ", ".join(f"round {r} {share:.0%}" for r, share in weights["shares"].items())
        state = "trained" if result["trained"] else "was trained already"
        lines = [
            f"{result['name']}: {state} on {result['groups']} pairs, in {result['path']}",
            f"of the loss: {shares}",
        ]
        if importance := weights["importance"]:
            lines.append(
                f"importance weights: {importance['n_old']} old pairs count as {importance['effective']:.1f}, "
                f"{importance['n_capped']} at the cap of {importance['cap']:g}"
            )
        return "\n".join([*lines, f"next: rewardsmith refresh gate {self.project}"])


def train_options(project: Project, given: Mapping[str, Any], more: Mapping[str, Any]) -> tuple[Any, TrainConfig]:
    """(VariantOptions, TrainConfig) of [train] in refresh.toml, `more` options of train before them, `given` of the
    variant before all. ConfigError where no trunk is named.
    """
    from rewardsmith.cli import option_fields, option_words, parse
    from rewardsmith.refresh.train import VariantOptions
    from rewardsmith.training.config import TrainConfig

    stated = project.table.get("train", {})
    if not isinstance(stated, dict):
        raise ConfigError(f"{project.folder}/refresh.toml: train is no table; write [train]")
    table = {key.replace("-", "_"): value for key, value in stated.items()} | dict(more)
    own = {f.name for f in fields(VariantOptions)}
    of_variant = {"train": {key: value for key, value in table.items() if key in own}}
    variant = replace(project, table=of_variant).options("train", VariantOptions, given)
    known = {f.name: f for f, _ in option_fields(TrainConfig)}
    words = []
    for key, value in table.items():
        if key in own:
            continue
        if key in SET_HERE or key not in known:
            raise ConfigError(f"[train] of {project.folder}/refresh.toml: {key} is no option that can be given here")
        words += option_words(known[key], value)
    if "model" not in table:
        raise ConfigError("name what to train: --model, or model under [train] in refresh.toml")
    template, _ = parse("train", ["--data", "labels", "--output", str(project.models / "model"), *words])
    return variant, template


@dataclass(frozen=True, kw_only=True)
class RefreshGate(ScorerOptions):
    """Try a trained model before it is released: no loss on the frozen tests of round 0 and their slices, gain on the
    newest policy's pairs, calibration and audit within limits. Exits with 1 where it blocks.

    Example: rewardsmith refresh gate project
    Example: rewardsmith refresh gate project --margin 0.02 --audit-seeds 16
    """

    project: Folder
    """The project's folder."""
    name: str | None = None
    """The model's name, as of refresh status. Default: the newest."""
    margin: float | None = None
    """Accuracy that may be lost on the frozen tests: the whole interval has to stay above -MARGIN. Default: 0.05."""
    new_pairs: Literal["up", "shown", "skip"] | None = None
    """Accuracy on held-out pairs of the new policy: up (default), up with the whole interval, or not asked."""
    max_ece: float | None = None
    """Highest expected calibration error on the frozen tests. Default: 0.15."""
    gate: str | None = None
    """Further thresholds in a TOML file, as of audit --gate."""
    audit_seeds: int | None = None
    """Audit both models with N seeds of each kind: a new fault blocks. Default: 0, no audit."""

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.refresh.gate import GateOptions
        from rewardsmith.refresh.models import gate_model
        from rewardsmith.refresh.project import open_project

        project = open_project(self.project)
        given = {f.name: getattr(self, f.name) for f in fields(GateOptions)}
        options = project.options("gate", GateOptions, given)
        with project.open() as store:
            result = gate_model(project.folder, store, self.name, options, self.open, at=time.time())
        return result | {"exit_code": int(result["verdict"] == "block")}

    def show(self, result: dict[str, Any]) -> str:
        step = "release" if result["verdict"] == "pass" else "propose"
        return "\n".join([*gate_lines(result), f"next: rewardsmith refresh {step} {self.project}"])


def gate_lines(result: Mapping[str, Any]) -> list[str]:
    """The verdict and a line for each check."""
    marks = {True: "pass ", False: "BLOCK", None: "  -  "}
    again = " (tried before)" if result["again"] else ""
    lines = [f"{result['model']}: {result['verdict']}{again}"]
    return lines + [f"  {marks[check['ok']]}  {check['sentence']}" for check in result["checks"]]


@dataclass(frozen=True, kw_only=True)
class RefreshRelease:
    """Release a model that its gate let pass: its files are hashed and kept in the registry, and servers that follow
    the project change over.

    Example: rewardsmith refresh release project
    """

    project: Folder
    """The project's folder."""
    name: str | None = None
    """The model's name, as of refresh status. Default: the newest."""
    note: str = ""
    """A few words for the registry."""
    force: bool = False
    """Release it although the gate blocks it, or it was not tried, or it was rolled back."""

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.refresh.project import open_project
        from rewardsmith.refresh.releasing import release_model

        project = open_project(self.project)
        with project.open() as store:
            return release_model(project.folder, store, self.name, note=self.note, force=self.force)

    def show(self, result: dict[str, Any]) -> str:
        state = "is current now" if result["new"] else "was current already"
        return f"release {result['release']:04d}: {result['model']} {state}"


@dataclass(frozen=True, kw_only=True)
class RefreshRollback:
    """Go back to an earlier release. Its files are verified first; servers that follow the project change over.

    Example: rewardsmith refresh rollback project --why "worse on code"
    """

    project: Folder
    """The project's folder."""
    to: int | None = None
    """The release's number. Default: the one that was current before the current one was made."""
    why: str = ""
    """A few words for the registry."""

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.refresh.project import open_project
        from rewardsmith.refresh.releasing import rollback_model

        project = open_project(self.project)
        with project.open() as store:
            return rollback_model(project.folder, store, to=self.to, why=self.why)

    def show(self, result: dict[str, Any]) -> str:
        state = "is current now" if result["new"] else "was current already"
        return f"release {result['release']:04d}: {result['model']} {state}"


@dataclass(frozen=True, kw_only=True)
class RefreshRun(SamplerOptions):
    """The whole loop with an automatic labeller: answers, pairs, labels, training, gate and release, for a first model
    and --rounds more. A run that was killed goes on where it was; one that is done says what it came to.

    Options of the steps stand in refresh.toml under [train], [gate], [propose], [label] (a judge, gold) and [run].

    Example: rewardsmith refresh run project --policy my-policy --prompts prompts.txt --gold rm --model my-trunk
    Example: rewardsmith refresh run project --candidates candidates.parquet --gold column:judge --rounds 4
    """

    project: Folder
    """The project's folder."""
    gold: str | None = None
    """Label by what answers are worth: a reward model (a folder or a server's http:// address), or column:NAME of
    --candidates."""
    errors: GoldErrors = field(default_factory=GoldErrors)
    judged: JudgeOptions = field(default_factory=JudgeOptions)
    candidates: tuple[str, ...] = ()
    """Files with several recorded answers to each prompt, as of optimize: the same ones in every round."""
    policy: str | None = None
    """Sample answers from this language model in every round instead; a name with {round} in it names another one in
    each."""
    prompts: tuple[str, ...] = ()
    """With --policy: files of prompts, as of sample."""
    limit: int | None = None
    """Use the first N prompts only."""
    model: str | None = None
    """The trunk of the reward models, as of train --model. Default: that of [train]."""
    train_config: str | None = None
    """A TOML file with options of `rewardsmith train`, which go before those of refresh.toml."""
    rounds: int | None = None
    """Rounds after the first model. Default: 2."""
    labels: int | None = None
    """Pairs labelled in each round, beside those that test. Default: the budget of [propose], or 200."""
    answers: int | None = None
    """Answers drawn for each prompt in a round. Default: 4."""
    tests: int | None = None
    """Pairs of held-out prompts labelled in each round, drawn blindly. Default: 50."""
    pressure: float | None = None
    """How hard the policy is pushed by the released reward: the spread of a prompt's rewards over beta. Default: 2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(n=(self.n, 2), limit=(self.limit, 1), labels=(self.labels, 1))
        if bool(self.candidates) == (self.policy is not None):
            raise ConfigError("give --candidates FILE..., or --policy MODEL with --prompts FILE...: one of the two")
        if self.policy is not None and not self.prompts:
            raise ConfigError("--policy needs --prompts FILE...")
        if (self.gold is None) == (self.judged.judge is None):
            raise ConfigError("name who labels: --gold RM, --gold column:NAME, or --judge URL: one of them")
        if (self.gold or "").startswith(COLUMN) and self.policy is not None:
            raise ConfigError(f"--gold {self.gold}: answers that are sampled have no column; name a reward model")

    @staticmethod
    def of_project(folder: str, given: Collection[str]) -> dict[str, Any]:
        """What [label] of the project says of a judge and of gold, under the options that are `given`."""
        names = {"gold", *(f.name for kind in (JudgeOptions, GoldErrors) for f in fields(kind))}
        stated = labelling_settings(folder, set(given) - {"candidates"})  # here, the files of answers
        return {name: value for name, value in stated.items() if name in names}

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.cli import read_config
        from rewardsmith.refresh.gate import GateOptions
        from rewardsmith.refresh.labellers import Gold
        from rewardsmith.refresh.loop import Loop, LoopOptions, propose_round, run_loop
        from rewardsmith.refresh.project import open_project
        from rewardsmith.refresh.propose import ProposeOptions

        project = open_project(self.project)
        more = read_config(self.train_config) if self.train_config is not None else {}
        variant, template = train_options(project, {}, more | ({} if self.model is None else {"model": self.model}))
        options = project.options("run", LoopOptions, {f.name: getattr(self, f.name) for f in fields(LoopOptions)})
        gate = project.options("gate", GateOptions)
        propose = project.options("propose", ProposeOptions, {"budget": self.labels, "seed": self.seed})
        source = self._candidates(project, options.seed, common.quiet)
        scoring = ScorerOptions(
            device=self.device,
            precision="bfloat16" if self.precision == "bfloat16" else "float32",
            trust_remote_code=self.trust_remote_code,
        )
        gold: Scorer | None = source.gold
        if gold is None and self.gold is not None:
            gold = scoring.open(self.gold)
        if gold is not None:
            labeller: Labeller = Gold(scorer=gold, temperature=self.errors.gold_temperature, seed=self.errors.gold_seed)
        else:
            labeller = Label(project=self.project, judged=self.judged).judged_by()
        with project.open() as store:
            loop = Loop(
                project=project,
                store=store,
                options=options,
                candidates=source,
                propose=lambda loop, round: propose_round(loop, round, propose),
                labeller=labeller,
                variant=variant,
                template=template,
                gate=gate,
                open_model=scoring.open,
                now=time.time,
                gold=gold,
                tell=(lambda _: None) if common.quiet else say,
                quiet=common.quiet,
            )
            return run_loop(loop)

    def _candidates(self, project: Project, seed: int, quiet: bool) -> Recorded | Sampled:
        from rewardsmith.overoptimization.sample import read_prompts
        from rewardsmith.refresh.candidates import Recorded, Sampled
        from rewardsmith.scoring import file_mark

        if self.policy is None:
            column = self.gold.removeprefix(COLUMN) if self.gold and self.gold.startswith(COLUMN) else None
            return Recorded(self.candidates, column, self.limit)
        policy = self.policy
        prompts, dropped = read_prompts(self.prompts, self.limit)
        if dropped and not quiet:
            say("\n".join(dropped_lines(dropped)))

        identity = {
            "policy": [policy, self.url, self.plain],
            "prompts": [file_mark(Path(file)) for file in self.prompts],
            "options": [self.n, self.max_tokens, self.temperature, self.limit, seed],
        }
        return Sampled(
            project.sampled / "run",
            prompts,
            lambda round: self.sampler(policy.replace("{round}", str(round))),
            n=self.n,
            seed=seed,
            identity=identity,
        )

    def show(self, result: dict[str, Any]) -> str:
        lines = [
            f"round {r['round']}: {r['answers']} answers of {r['policy']} (KL {r['kl']:.2f}), "
            + f"{r['labelled']} pairs labelled"
            + ("" if r["gold"] is None else f", gold {interval_text(r['gold'])}")
            + f"; {r['model']}: {r['verdict']}"
            + ("" if r["release"] is None else f", release {r['release']:04d}")
            + "".join(f"\n  {reason}" for reason in r["reasons"])
            for r in result["rounds"]
        ]
        released = "nothing is released" if result["release"] is None else f"released: {result['release']:04d}"
        return "\n".join([*lines, released])
