"""The verb `mitigate`: options, calls into the library, and how the result is shown to people."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.data.options import ReadOptions
from rewardsmith.errors import ConfigError
from rewardsmith.progress import Bar, say
from rewardsmith.verbs_audit import N_SEEDS
from rewardsmith.verbs_common import Name, PageOptions, ScorerOptions, adjusted_scorer, at_least, check_place

if TYPE_CHECKING:
    from rewardsmith.cli import Common
    from rewardsmith.mitigation.run import Loop
    from rewardsmith.scoring import Scorer

OURS = ("audit-before.json", "plan.json", "data.json", "training.json", "audit-after.json", "result.json")
FOLDERS = ("data", "rm", ".rm.run")


@dataclass(frozen=True, kw_only=True)
class Mitigate(PageOptions, ScorerOptions):
    """Mend what an audit found: propose what fits its worst probes, with the expected cost; apply what you take; train
    again as the model was trained; audit again; and show before and after. Each step lies in --output and is kept.

    Exits with 1 where a gate is not passed afterwards, or something went wrong on the way.

    Example: rewardsmith mitigate rm --data train.jsonl --eval-data heldout.jsonl --output mended --plan
    Example: rewardsmith mitigate rm --data train.jsonl --audit audit.json --take auto --output mended
    Example: rewardsmith mitigate rm --data train.jsonl --take padding=0.2 balance --output mended --page p.html
    """

    rm: Annotated[Name, tyro.conf.arg(metavar="RM")]
    """The reward model to mend: an artifact or ensemble folder. It stays as it is."""
    data: tuple[str, ...]
    """Preference files to train on again, usually those that it was trained on. Read as the artifact records, unless
    the options below say otherwise."""
    output: str
    """Folder for the steps: the audits, the plan, the data, the new model in OUTPUT/rm, the result."""
    audit: str | None = None
    """An audit of this model (rewardsmith audit RM --output FILE). Default: make one."""
    take: tuple[str, ...] = ("auto",)
    """auto for the remedies that the plan marks with a star, or names of remedies. Pairs can be given a share and a
    verdict, as with data augment: padding=0.2:rejected."""
    plan: bool = False
    """Only propose: audit, print the plan, and stop."""
    model: str | None = None
    """The language model to train from. Default: what the artifact was trained from."""
    train: tuple[str, ...] = ()
    """OPTION=VALUE of train, other than in the artifact's own training. Example: epochs=2 learning-rate=1e-5"""
    eval_data: tuple[str, ...] = ()
    """Held-out preference files for accuracy and length before and after. Default: what its own training held out."""
    dev_data: tuple[str, ...] = ()
    """Preference files to fit length-calibration and bound on. Default: a tenth of the prompts of --data."""
    candidates: tuple[str, ...] = ()
    """Files with several answers to a prompt, for the best of n before and after."""
    gold: str | None = None
    """The column of --candidates that says what an answer is worth."""
    gate: str | None = None
    """Thresholds in a TOML file, held against both audits and evaluations."""
    seeds: str | None = None
    """Without --audit: prompts with known answers to audit on. Default: the bundled ones."""
    n_seeds: int | Literal["all"] = N_SEEDS
    """Without --audit: at most N seeds of each kind, or all."""
    probe: tuple[str, ...] = ()
    """Without --audit: ask only these probes."""
    contrasts: tuple[str, ...] = ()
    """Without --audit: files of contrast pairs as further probes."""
    overwrite: bool = False
    """Drop what an earlier mitigation has left in --output, and replace --page."""
    seed: int = 0
    """Seed of the new pairs, of splits and of intervals. The training has its own."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        from rewardsmith.mitigation.remedies import AUTO, taken_of
        from rewardsmith.mitigation.training import changes_of

        at_least(
            n_seeds=(None if self.n_seeds == "all" else self.n_seeds, 2),
            tokens_per_batch=(self.tokens_per_batch, 16),
            seed=(self.seed, 0),
        )
        changes_of(self.train)
        taken_of([word for word in self.take if word != AUTO], [])
        if not self.data:
            raise ConfigError("--data: give at least one preference file")
        if not self.take:
            raise ConfigError("--take: say auto, or names of remedies; --plan only proposes")
        if bool(self.candidates) != (self.gold is not None):
            raise ConfigError(
                "--candidates and --gold go together: answers, and the column that says what they are worth"
            )
        if self.audit is not None and (self.seeds or self.probe or self.contrasts or self.n_seeds != N_SEEDS):
            raise ConfigError("--audit says what was asked: leave out --seeds, --n-seeds, --probe and --contrasts")
        if not Path(self.output).name or Path(self.output).is_file():
            raise ConfigError(f"--output {self.output!r}: give a folder of its own")
        self._check_inputs()
        check_place("--output", Path(self.output) / OURS[0])
        self.check_page()

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.report.mitigation_page import write_mitigation_page

        loop = self._loop(common)
        if self.overwrite:
            self._forget()
        if self.plan:
            plan = {key: value for key, value in loop.plan().items() if key != "audit"}
            return {"model": self.rm, "output": self.output, "plan": plan, "exit_code": 0}
        result = loop.go()
        failed = result["gate"] is not None and not result["gate"].get("after", result["gate"]["before"])["passed"]
        result = result | {"page": self.page, "exit_code": int(bool(result["problems"]) or failed)}
        if self.page is not None and not result.get("nothing"):
            write_mitigation_page(result, self.page)
        return result

    def _check_inputs(self) -> None:
        """ConfigError where what is read lies among what is written: it would be trained over, or deleted."""
        own = [(Path(self.output) / name).resolve() for name in (*OURS, *FOLDERS)]
        single = [name for name in (self.audit, self.gate, self.seeds) if name is not None and self.overwrite]
        files = (self.rm, *self.data, *self.eval_data, *self.dev_data, *self.candidates, *self.contrasts, *single)
        for name in files:
            place = Path(name).resolve()
            if any(place == one or one in place.parents for one in own):
                raise ConfigError(f"{name} is part of what mitigate writes to {self.output}: give another --output")

    def _forget(self) -> None:
        """Our own files and folders in --output, and nothing else."""
        folder = Path(self.output)
        for name in OURS:
            (folder / name).unlink(missing_ok=True)
        for name in FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)

    def _loop(self, common: Common) -> Loop:
        from rewardsmith.audit.gate import read_gate
        from rewardsmith.audit.own import read_contrasts
        from rewardsmith.audit.run import builtin_probes
        from rewardsmith.mitigation.audits import Asked, read_audit
        from rewardsmith.mitigation.run import Loop, Mitigation

        asked = Asked(
            seeds=self.seeds,
            n_seeds=None if self.n_seeds == "all" else self.n_seeds,
            salt=self.seed,
            probes=self.probe or tuple(builtin_probes()),
            contrasts=self.contrasts,
            adjusted=self.adjusted,
        )
        if self.audit is not None:
            asked = Asked.from_json(read_audit(self.audit, self.rm)["asked"])
            if self.adjusted and not asked.adjusted:
                raise ConfigError(
                    f"--adjusted: {self.audit} judged the plain rewards; leave out --adjusted, or give an audit of the "
                    f"adjusted ones (rewardsmith audit {self.rm} --adjusted --output FILE)"
                )
        asked.read_probes()  # a wrong name is said before anything is computed
        gate = None
        if self.gate is not None:
            given = read_contrasts(asked.contrasts, builtin_probes())[0] if asked.contrasts else []
            gate = read_gate(self.gate, [*builtin_probes(), *(one.name for one in given)])
        what = Mitigation(
            model=self.rm, output=self.output, data=self.data, read=self.read if self.read != ReadOptions() else None,
            audit=self.audit, asked=asked, take=self.take, start=self.model, train=self.train,
            eval_data=self.eval_data, dev_data=self.dev_data, candidates=self.candidates, gold=self.gold,
            seed=self.seed, device=self.device, trust_remote_code=self.trust_remote_code,
        )  # fmt: skip
        loop = Loop(
            what,
            self._opened,
            gate=gate,
            bar=lambda title: Bar(title, quiet=common.quiet),
            tell=lambda text: None if common.quiet else say(text),
            quiet=common.quiet,
        )
        if loop.report.dropped and not common.quiet:
            say(f"{len(loop.report.dropped)} rows of --data were dropped; the first: {loop.report.dropped[0].reason}")
        return loop

    def _opened(self, model: str, adjusted: bool) -> Scorer:
        from rewardsmith.score_cache import open_scorer

        scorer: Scorer = open_scorer(
            model, tokens_per_batch=self.tokens_per_batch, device=self.device, precision=self.precision,
            trust_remote_code=self.trust_remote_code, cache=self.score_cache,
        )  # fmt: skip
        return adjusted_scorer(scorer, model) if adjusted else scorer

    def show(self, result: dict[str, Any]) -> str:
        from rewardsmith.mitigation.show import plan_text, result_text

        if self.plan:
            return plan_text(result["plan"], self.output)
        return "\n".join([result_text(result), *([] if result.get("nothing") else self.page_line())])
