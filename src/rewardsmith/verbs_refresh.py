"""The verbs `refresh ...`: options, calls into the library, and how the results are shown to people."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.data.options import ReadOptions
from rewardsmith.errors import ConfigError
from rewardsmith.progress import Bar
from rewardsmith.verbs_common import Files, Name, ScorerOptions, at_least, dropped_lines
from rewardsmith.verbs_policy import SamplerOptions

if TYPE_CHECKING:
    from rewardsmith.cli import Common
    from rewardsmith.overoptimization.candidates import Pool
    from rewardsmith.refresh.ingest import Ingested, Into
    from rewardsmith.refresh.project import Project
    from rewardsmith.refresh.reasons import Look, Rewards
    from rewardsmith.refresh.store import Store
    from rewardsmith.statistics import Floats

Folder = Annotated[Name, tyro.conf.arg(metavar="PROJECT")]


@dataclass(frozen=True, kw_only=True)
class RefreshInit:
    """Make a refresh project: a folder with settings and a store of answers, pairs, labels and models.

    Example: rewardsmith refresh init project
    Example: rewardsmith refresh init project --store postgresql://me@localhost/refresh
    """

    project: Folder
    """The folder; one that is a project already stays as it is."""
    store: str = "store.sqlite"
    """A file in the folder (SQLite), or postgresql://USER@HOST/NAME. ${VARIABLE} stands for a variable of the
    environment: a password belongs in one."""
    base_policy: str = "base"
    """The name of the policy that everything started from."""

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.refresh.project import init_project

        project, is_new = init_project(self.project, store=self.store, base_policy=self.base_policy)
        with project.open() as store:
            return {"folder": str(project.folder), "store": store.where, "new": is_new}

    def show(self, result: dict[str, Any]) -> str:
        state = "a new project" if result["new"] else "was a project already, nothing was changed"
        return f"{result['folder']}: {state}; its store: {result['store']}"


@dataclass(frozen=True, kw_only=True)
class RefreshIngest(SamplerOptions):
    """Take in what a policy said: from files, from a policy that is sampled now, or from the exact bench's policies.

    Example: rewardsmith refresh ingest project outputs.jsonl --policy rl-1
    Example: rewardsmith refresh ingest project prefs.jsonl --policy base --labels-by annotator
    Example: rewardsmith refresh ingest project prompts.jsonl --policy rl-1 --sample checkpoints/rl-1 --n 4
    Example: rewardsmith refresh ingest project pool.jsonl --policy tilt-2 --tilted tilt --strength 2 --reward rm

    Ingesting again adds nothing; an interrupted sampling goes on where it stopped.
    """

    project: Folder
    """The project's folder."""
    files: Annotated[Files, tyro.conf.arg(metavar="FILES...")] = ()
    """Answers in any shape that train reads; with --sample, prompts (default: those of the project)."""
    policy: str
    """The name of the policy that gave the answers."""
    round: int | None = None
    """The round they belong to. Default: where this policy was last seen; for a new one, one after the last."""
    logprob: str | None = None
    """Column with the policy's log-probability of each answer."""
    labels_by: str | None = None
    """Take the files' preferences as labels by this name."""
    limit: int | None = None
    """With --sample: use the first N distinct prompts only."""
    sample: str | None = None
    """Sample this policy: a hub name, a folder or gguf:PATH; with --url, the name the server knows it by."""
    tilted: Literal["tilt", "best_of_n_iid"] | None = None
    """The files are candidates: take the answers of the policy that optimises --reward over them exactly."""
    strength: float = 1.0
    """With --tilted: the SD of a prompt's rewards over beta (tilt), or n (best_of_n_iid)."""
    reward: str | None = None
    """With --tilted: a column of the files, or a reward model's folder."""
    base_n: int = 0
    """With --tilted: answers a prompt that are drawn of the base policy too."""
    read: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(limit=(self.limit, 1), round=(self.round, 0), base_n=(self.base_n, 0))
        if self.sample is not None and self.tilted is not None:
            raise ConfigError("--sample and --tilted exclude each other")
        if self.sample is None and not self.files:
            raise ConfigError("name at least one file of answers, or a policy with --sample")
        if (self.tilted is None) != (self.reward is None):
            raise ConfigError("--tilted and --reward go together: how the policy is optimised, and for which reward")

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.refresh.ingest import Into, round_of
        from rewardsmith.refresh.project import open_project

        project = open_project(self.project)
        with project.open() as store:
            round = self.round if self.round is not None else round_of(store, self.policy)
            into = Into(policy=self.policy, round=round, base_policy=project.base_policy)
            if self.sample is not None:
                found = self._sampled(project, store, into, common)
            elif self.tilted is not None:
                found = self._tilted(store, into, common)
            else:
                found = self._files(store, into, common)
            return found.to_json()

    def _files(self, store: Store, into: Into, common: Common) -> Ingested:
        from rewardsmith.refresh.ingest import ingest_files

        with Bar("ingesting, groups", None, quiet=common.quiet) as bar:
            return ingest_files(
                store, self.files, into, self.read, now=time.time(), logprob=self.logprob, annotator=self.labels_by,
                progress=bar.advance,
            )  # fmt: skip

    def _sampled(self, project: Project, store: Store, into: Into, common: Common) -> Ingested:
        from rewardsmith.overoptimization.sample import read_prompts
        from rewardsmith.refresh.ingest import ingest_sampled, sampled_file, stored_prompts

        assert self.sample is not None
        dropped: list[dict[str, Any]] = []
        if self.files:
            prompts, dropped = read_prompts(self.files, self.limit)
        else:
            prompts = stored_prompts(store, self.limit)
        output = sampled_file(project.sampled, into)
        identity = {
            "policy": [self.sample, self.url, self.plain],
            "options": [self.n, self.max_tokens, self.temperature, self.sample_seed],
        }
        with Bar("sampling, prompts", len(prompts), quiet=common.quiet) as bar:
            found = ingest_sampled(
                store, prompts, lambda: self.sampler(self.sample or ""), output, into, n=self.n, seed=self.sample_seed,
                identity=identity, now=time.time(), progress=bar.advance,
            )  # fmt: skip
        found.dropped = [*dropped, *found.dropped]
        return found

    def _tilted(self, store: Store, into: Into, common: Common) -> Ingested:
        from rewardsmith.refresh.ingest import ingest_tilted

        assert self.tilted is not None
        pools, rewards, left_out = self._rewarded(common)
        found = ingest_tilted(
            store, pools, rewards, into, method=self.tilted, strength=self.strength, n=self.n, seed=self.sample_seed,
            base_n=self.base_n, now=time.time(),
        )  # fmt: skip
        found.left_out.update({row["reason"]: row["count"] for row in left_out})
        return found

    def _rewarded(self, common: Common) -> tuple[list[Pool], list[Floats], list[dict[str, Any]]]:
        from rewardsmith.refresh.ingest import recorded_pools, scored_pools
        from rewardsmith.scoring import is_address

        assert self.reward is not None
        if not (is_address(self.reward) or Path(self.reward).is_dir()):
            return recorded_pools(self.files, self.read, self.reward, self.logprob)
        options = ScorerOptions(device=self.device, trust_remote_code=self.trust_remote_code)
        with Bar("scoring groups", None, quiet=common.quiet) as bar:
            return scored_pools(self.files, self.read, options.open(self.reward), progress=bar.advance)

    def show(self, result: dict[str, Any]) -> str:
        lines = [
            f"round {result['round']}, policy {result['policy']}: {result['responses']} answers to {result['prompts']} "
            f"prompts, {result['new_responses']} answers and {result['new_prompts']} prompts of them new",
        ]
        if result["new_comparisons"] or result["new_labels"]:
            lines.append(f"{result['new_labels']} labels of {result['new_comparisons']} pairs came with them")
        if result["cut"]:
            lines.append(f"{result['cut']} answers were cut at {self.max_tokens} tokens")
        lines += [f"left out: {reason} ({count})" for reason, count in result["left_out"].items()]
        lines += [f"warning: {warning}" for warning in result["warnings"]]
        return "\n".join([*lines, *dropped_lines(result["dropped"])])


@dataclass(frozen=True, kw_only=True)
class RefreshPropose(ScorerOptions):
    """Choose the pairs of a round that are worth a label, under a budget, and say why.

    Example: rewardsmith refresh propose project --budget 200
    Example: rewardsmith refresh propose project --budget 500 --model ensemble --new-new 0.5 --contested 0.3
    Example: rewardsmith refresh propose project --budget 600 --answers 4

    What is not given here is taken from [propose] in refresh.toml. Proposing again adds what is missing to the budget.
    """

    project: Folder
    """The project's folder."""
    model: str | None = None
    """Whose rewards are looked at: a model of the project, a folder or a server. Default: the released model."""
    budget: int | None = None
    """Pairs of this round to train on, those proposed before included. Default: 200."""
    tests: int | None = None
    """Pairs of held-out prompts beside the budget, drawn blindly: they test models and are never trained on. Default: a
    quarter of the budget."""
    round: int | None = None
    """The round of the answers. Default: the last."""
    policies: tuple[str, ...] = ()
    """The new policies. Default: those of the round, but for the base policy."""
    new_new: float | None = None
    """Share of the budget for the new policy against itself. Default: 0.4."""
    new_base: float | None = None
    """Share for the new policy against the base policy. Default: 0.3."""
    contested: float | None = None
    """Share for high reward with high disagreement. Default: 0.2."""
    random: float | None = None
    """Share that is drawn blindly, so that training sees what is usual. Default: 0.1."""
    answers: int | None = None
    """Answers that are ranked together on the labelling page, 2 to 9: each chosen pair is widened by other answers to
    its prompt. K answers are K (K - 1) / 2 pairs of the budget. Default: 2."""
    per_prompt: int | None = None
    """Most pairs of one prompt in a round; with --answers, most sets. Default: 2."""
    overlap: int | None = None
    """Labels that are wanted of the pairs that several annotators look at. Default: 2."""
    overlap_share: float | None = None
    """Share of the pairs that several annotators look at. Default: 0.1."""
    pool: int | None = None
    """Most prompts that are looked at, drawn at random. Default: 2000."""
    seed: int | None = None
    """Seed of all draws. Default: 0."""

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.refresh.project import open_project
        from rewardsmith.refresh.propose import ProposeOptions, look, propose
        from rewardsmith.refresh.sides import by_side, propose_tests

        project = open_project(self.project)
        options = project.options("propose", ProposeOptions, self._given())
        with project.open() as store:
            seen, held_out = by_side(store, look(store, options, project.base_policy))
            rewards, unscored = self._rewards(project, store, seen, common)
            tests = propose_tests(store, held_out, options.n_tests, seed=options.seed, at=time.time())
            found = propose(store, seen, options, rewards, time.time()) | {"tests": tests.to_json()}
        if tests.missing:
            found["warnings"].append(
                f"{tests.missing} test pairs fewer than {options.n_tests}: a fifth of the prompts is held out, and "
                f"{len(held_out.new)} of those looked at are; ingest answers to more prompts"
            )
        if unscored:
            found["warnings"].append(f"{unscored} answers could not be scored")
        return found

    def _given(self) -> dict[str, Any]:
        from rewardsmith.refresh.propose import ProposeOptions

        given = {option.name: getattr(self, option.name) for option in fields(ProposeOptions)}
        return {name: value for name, value in given.items() if value != ()}

    def _rewards(self, project: Project, store: Store, seen: Look, common: Common) -> tuple[Rewards | None, int]:
        """The model's rewards of what is looked at, and how many answers it could not score."""
        from rewardsmith.refresh.reasons import Rewards
        from rewardsmith.refresh.rewards import find_or_add_model, path_of, score_missing, temperature_of

        model = find_or_add_model(project, store, self.model, time.time())
        if model is None:
            return None, 0
        ids = seen.response_ids()
        path = path_of(project, model)
        with Bar("scoring answers", len(ids), quiet=common.quiet) as bar:
            counts = score_missing(store, model.name, lambda: self.open(path), ids, bar.advance)
        return Rewards(model.name, store.scores(model.name, ids), temperature_of(path)), counts["unscored"]

    def show(self, result: dict[str, Any]) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in result["kinds"].items() if n)
        names = ", ".join(result["policies"])
        lines = [
            f"round {result['round']}, policy {names}: {result['added']} pairs added"
            + (f" ({kinds})" if kinds else "")
            + f", {result['before']} were there; budget {result['budget']}",
            f"looked at {result['candidates']} pairs of {result['prompts']} prompts"
            + (f", with the rewards of {result['model']}" if result["model"] else ""),
        ]
        if any(int(k) > 2 for k in result["sets"]):
            sizes = ", ".join(f"{n} of {k} answers" for k, n in result["sets"].items())
            lines.append(f"shown together: {sizes}")
        tests = result["tests"]
        lines.append(f"{tests['added']} test pairs of held-out prompts added, {tests['before']} were there")
        if result["overlapping"]:
            lines.append(f"{result['overlapping']} of the new pairs want several labels")
        if result["passed_over"]:
            lines.append("passed over: " + "; ".join(f"{n} {why}" for why, n in result["passed_over"].items()))
        return "\n".join([*lines, *(f"warning: {warning}" for warning in result["warnings"])])


@dataclass(frozen=True, kw_only=True)
class RefreshStatus:
    """Where a project stands: answers, pairs, labels, models, and the step that comes next.

    Example: rewardsmith refresh status project
    """

    project: Folder
    """The project's folder."""

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.refresh.project import open_project
        from rewardsmith.refresh.status import status

        project = open_project(self.project)
        with project.open() as store:
            return status(project, store, time.time())

    def show(self, result: dict[str, Any]) -> str:
        pairs = f"{result['comparisons']} pairs, {result['labelled']} labelled, {result['open']} open"
        lines = [
            f"{result['folder']} ({result['store']})",
            f"{result['prompts']} prompts, {result['responses']} answers; {pairs}, {result['flagged']} flagged",
        ]
        lines += [
            f"round {row['round']}: {row['responses']} answers of policy {row['policy']}" for row in result["policies"]
        ]
        lines += [
            f"round {round}: {n['comparisons']} pairs proposed, {n['labelled']} labelled, {n['open']} open"
            for round, n in result["rounds"].items()
        ]
        for name, said in result["annotators"].items():
            lines.append(f"{name}: " + ", ".join(f"{n} {verdict}" for verdict, n in said.items() if n))
        if result["leases"]:
            lines.append(f"{result['leases']} pairs or sets are being looked at")
        for model in result["registered"]:
            gate = {None: "not tried", True: "passed its gate", False: "blocked by its gate"}[model["gate"]]
            lines.append(f"model {model['name']} (round {model['round']}): {gate}")
        release = result["release"]
        lines.append(
            "nothing is released" if release is None else f"{release['note'] or 'released'}: {release['model']}"
        )
        return "\n".join([*lines, f"next: {result['next']}"])
