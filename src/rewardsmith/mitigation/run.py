"""The loop audit -> mitigate -> audit, step by step in one folder; a step whose file is there is not done again.

    audit-before.json    the audit of the model as it is
    plan.json            the worst probes, and the remedies that fit them
    data/, data.json     what is trained on, and what was done to it
    rm/                  the new model
    audit-after.json     the same questions to the new model
    result.json          before and after

Each file says what it was made from. Where that is not what is asked for now, nothing is overwritten: ConfigError.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rewardsmith.adjustment import Adjustment, characters, fit_bound
from rewardsmith.audit.gate import Gate, check_gate
from rewardsmith.data.convert import replacing
from rewardsmith.data.options import ReadOptions, ReadReport
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group
from rewardsmith.data.split import opening_of, side_of
from rewardsmith.errors import ConfigError, DataError, Interrupted
from rewardsmith.evaluation.adjusting import fitted_length
from rewardsmith.evaluation.evaluate import evaluate_rows
from rewardsmith.evaluation.pairs import character_lengths, pair_rows
from rewardsmith.mitigation.audits import Asked, make_audit, read_audit, seed_effects
from rewardsmith.mitigation.measure import HeldOut, both_scored, candidate_rows, held_out_rows, probe_rows
from rewardsmith.mitigation.plan import CORRELATION, make_plan
from rewardsmith.mitigation.remedies import AUTO, Taken, taken_of
from rewardsmith.mitigation.remember import Remembering
from rewardsmith.mitigation.training import changes_of, config_of, other_data, recorded, recorded_read, start_of
from rewardsmith.mitigation.treat import check_enough, treat, write_doubts, write_groups
from rewardsmith.model.meta import read_meta, write_note
from rewardsmith.overoptimization.candidates import read_pools
from rewardsmith.score_cache import model_hash
from rewardsmith.scoring import Scorer, file_mark, is_address, score_stream
from rewardsmith.statistics import Floats
from rewardsmith.temperature import fit_temperature
from rewardsmith.training.config import TrainConfig

if TYPE_CHECKING:
    from rewardsmith.progress import Bar

HELD_OUT_FROM_RECORD = "the held-out pairs of its own training"


class Opener(Protocol):
    """How a scorer of a model is opened; `adjusted` for one that gives the adjusted rewards."""

    def __call__(self, model: str, adjusted: bool) -> Scorer: ...


@dataclass(frozen=True, kw_only=True)
class Mitigation:
    """What is asked for.

    model       the reward model to be mended
    data        preference files to train on again; `read` says how they are read (None: as the artifact records)
    audit       an audit of the model, or None to make one as `asked` says
    start       the trunk to train from, or None for the recorded one
    train       OPTION=VALUE of the run, other than recorded
    eval_data   held-out pairs to measure on; empty: those that the artifact's own training held out
    dev_data    pairs to fit adjustments on; empty: a tenth of the prompts of the data
    candidates, gold   recorded answers with what they are worth, for best of n
    """

    model: str
    output: str
    data: tuple[str, ...]
    read: ReadOptions | None = None
    audit: str | None = None
    asked: Asked = field(default_factory=Asked)
    take: tuple[str, ...] = ()
    start: str | None = None
    train: tuple[str, ...] = ()
    eval_data: tuple[str, ...] = ()
    dev_data: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    gold: str | None = None
    seed: int = 0
    device: str = "auto"
    trust_remote_code: bool = False


class Loop:
    """One mitigation: what it read, and its folder."""

    def __init__(
        self, what: Mitigation, opener: Opener, *, gate: Gate | None = None, bar: Callable[[str], Bar],
        tell: Callable[[str], None], quiet: bool = False,
    ) -> None:  # fmt: skip
        self.what, self.opener, self.gate, self.bar, self.tell, self.quiet = what, opener, gate, bar, tell, quiet
        self.folder = Path(what.output)
        self.meta = read_meta(what.model)
        self.weights = model_hash(Path(what.model))
        if is_address(what.model):
            raise ConfigError(f"{what.model} is a server: mitigate trains again; name the folder that it serves")
        if self.weights is None:
            raise ConfigError(
                f"{what.model} is no artifact: write one with rewardsmith export {what.model} --output DIR"
            )
        self.report = ReadReport()
        self.read = what.read or recorded_read(self.meta)
        self.groups, self.watched, self.held_out = self._read()
        # Before anything is computed: a column that is not there is said at once.
        self.pools, self.left_out, _ = (
            read_pools(what.candidates, [what.gold], ReadOptions()) if what.gold is not None else ([], [], None)
        )
        self._scorers: dict[tuple[str, bool], Remembering] = {}

    # -- what is read ---------------------------------------------------------------------------------------------

    def _read(self) -> tuple[list[Group], list[Group], list[Group]]:
        """(groups to train on, those that the other run kept its best model by, those to measure on)."""
        what, old = self.what, recorded(self.meta)
        weights = tuple(old.get("data_weights") or ()) if len(old.get("data") or ()) == len(what.data) else ()
        groups = list(read_groups(what.data, self.read, weights=weights or None, report=self.report))
        files = [file for file in old.get("eval_data") or () if Path(file).exists()]
        watched = list(read_groups(files, self.read)) if files else []
        if share := float(old.get("eval_fraction") or 0):
            # As the other run split them: what that model has never seen is not trained on now either.
            sides = {"train": 1.0 - share, "eval": share}
            side_G = [side_of(group, sides, int(old.get("seed") or 0)) for group in groups]
            groups, watched = ([g for g, s in zip(groups, side_G, strict=True) if s == name] for name in sides)
        held_out = list(read_groups(what.eval_data, self.read)) if what.eval_data else watched
        if what.eval_data and not any(group.preferences for group in held_out):
            raise DataError(f"--eval-data: none of {len(held_out)} groups has a label: there is no accuracy to measure")
        return groups[: old.get("limit")], watched, held_out

    def scorer(self, model: str, adjusted: bool = False) -> Scorer:
        key = (model, adjusted)
        if key not in self._scorers:
            self._scorers[key] = Remembering(self.opener(model, adjusted))
        return self._scorers[key]

    def rewards(self, scorer: Scorer, groups: Sequence[Group], what: str) -> list[Floats]:
        found = []
        with self.bar(what) as bar:
            bar.total = len(groups)
            for _, scores in score_stream(scorer, groups):
                bar.advance()
                found.append(scores.rewards)
        return found

    # -- steps ----------------------------------------------------------------------------------------------------

    def plan(self) -> dict[str, Any]:
        """The proposal, with the audit that it rests on under "audit"."""
        audit = self._audit_before()
        made_from = {**self._made_from(), "audit": audit["asked"]}
        plan = self._kept("plan.json", made_from)
        if plan is None:
            evaluation, held_out = None, None
            if self.held_out:
                groups, rewards = self._scored_before(audit)
                evaluation, held_out = evaluate_rows(groups, rewards, seed=self.what.seed), (groups, rewards)
            plan = make_plan(audit, self.groups, evaluation, held_out, seed=self.what.seed)
            plan["warnings"] += [*other_data(self.meta, self.what.data), *self._overlap()]
            self._keep("plan.json", made_from, plan)
        return plan | {"audit": audit}

    def _overlap(self) -> list[str]:
        """A warning where held-out prompts are trained on."""
        trained = set(map(opening_of, self.groups))
        both = sum(opening_of(group) in trained for group in self.held_out)
        if not both:
            return []
        return [f"{both} of {len(self.held_out)} held-out groups open like one of --data: their accuracy flatters"]

    def go(self) -> dict[str, Any]:
        """All steps; the result, ready for JSON (see `_result`)."""
        start = start_of(self.meta, self.what.start)  # what is not here is said before hours of work
        named = [word for word in self.what.take if word != AUTO]
        self._config(taken_of(named, []), start)  # nor are options that exclude each other
        plan = self.plan()
        audit = plan.pop("audit")
        taken = taken_of(self.what.take, plan["proposals"])
        if not taken:
            return self._nothing(plan, audit)
        after_training = any(one.remedy.stage == "after" for one in taken)
        if after_training and self.what.dev_data:
            check_enough(self._dev_groups(), "--dev-data")
        needs_dev = after_training and not self.what.dev_data
        made_from = {**self._made_from(), "audit": audit["asked"], "taken": [one.word for one in taken],
                     "dev_data": _marks(self.what.dev_data)}  # fmt: skip
        treated = self._treat(taken, made_from, needs_dev=needs_dev)
        made_from |= {"start": start, "train": list(self.what.train)}
        trained = self._train(self._config(taken, start), made_from)
        if after_training:
            self._adjust(taken)
        after = self._audit_after(audit, after_training)
        made_from |= {"candidates": _marks(self.what.candidates), "gold": self.what.gold,
                      "gate": None if self.gate is None else _marks([self.gate.file])}  # fmt: skip
        result = self._kept("result.json", made_from, again=True)
        if result is None:
            result = self._result(plan, audit, after, taken, treated, trained, after_training)
            self._keep("result.json", made_from, result)
        return result

    def _made_from(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "data": _marks(self.what.data),
            "read": str(self.read),
            "eval_data": _marks(self.what.eval_data),
            "seed": self.what.seed,
        }

    def _audit_before(self) -> dict[str, Any]:
        file = self.folder / "audit-before.json"
        if file.exists():
            found = read_audit(file, self.what.model)
            if self.what.audit is None and found["asked"] != self.what.asked.to_json():
                raise ConfigError(_other(file, "other questions were asked"))
            if (
                self.what.audit is not None
                and found["probes"] != read_audit(self.what.audit, self.what.model)["probes"]
            ):
                raise ConfigError(_other(file, f"it is not the audit of {self.what.audit}"))
            return found
        if self.what.audit is not None:
            found = read_audit(self.what.audit, self.what.model)
        else:
            asked = self.what.asked
            found = self._audit(self.what.model, self.scorer(self.what.model, asked.adjusted), asked)
        _write(file, found)
        return found

    def _audit(self, model: str, scorer: Scorer, asked: Asked) -> dict[str, Any]:
        with self.bar("auditing, prompts") as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.advance(done - bar.done)

            return make_audit(model, scorer, asked, progress)

    def _treat(self, taken: Sequence[Taken], made_from: Mapping[str, Any], *, needs_dev: bool) -> dict[str, Any]:
        report = self._kept("data.json", made_from)
        if report is not None:
            return report
        found = treat(self.groups, taken, needs_dev=needs_dev, seed=self.what.seed)
        write_groups(found.train, self.data / "train.jsonl")
        if found.dev:
            write_groups(found.dev, self.data / "dev.jsonl")
        if self.watched:
            write_groups(self.watched, self.data / "eval.jsonl")
        report = found.report
        if any(one.remedy.stage == "people" for one in taken):
            report["review"] = write_doubts(self.groups, self.data / "doubtful.jsonl", self.what.seed)
        self._keep("data.json", made_from, report)
        return report

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def rm(self) -> str:
        return str(self.folder / "rm")

    def _config(self, taken: Sequence[Taken], start: str) -> TrainConfig:
        changes = {key: value for one in taken for key, value in one.remedy.train.items()}
        return config_of(
            self.meta,
            changes | changes_of(self.what.train),
            model=start,
            data=str(self.data / "train.jsonl"),
            output=self.rm,
            eval_data=[str(self.data / "eval.jsonl")] if self.watched else [],
            device=self.what.device,
            trust_remote_code=self.what.trust_remote_code,
        )

    def _train(self, config: TrainConfig, made_from: Mapping[str, Any]) -> dict[str, Any]:
        """Train, or go on training, or take the model that is there; what the run says of itself."""
        from rewardsmith.training.loop import train

        if self._kept("training.json", made_from) is None:
            self._keep("training.json", made_from, {"started": True})
        try:
            meta = train(config, quiet=self.quiet)
        except Interrupted as error:  # this verb has no --resume: it always goes on
            raise Interrupted(str(error).replace("go on with --resume", "the same command goes on")) from None
        left_out = Counter(row["reason"] for row in meta["data"].get("left_out") or ())
        return {**{key: meta[key] for key in ("training", "metrics", "base_model")}, "left_out": dict(left_out)}

    def _dev_groups(self) -> list[Group]:
        return list(read_groups(self.what.dev_data, self.read))

    def _adjust(self, taken: Sequence[Taken]) -> None:
        """Fit what is done after training, and keep it in the new artifact."""
        if read_meta(self.rm).get("adjustment"):
            return
        groups = self._dev_groups() if self.what.dev_data else list(read_groups(str(self.data / "dev.jsonl")))
        rewards = self.rewards(self.scorer(self.rm), groups, "scoring what adjustments are fitted on")
        kept = [(g, r) for g, r in zip(groups, rewards, strict=True) if _finite(r)]
        groups, rewards = [g for g, _ in kept], [r for _, r in kept]
        names = {one.remedy.name for one in taken}
        length = fitted_length(groups, rewards) if "length-calibration" in names else None
        plain = Adjustment(length)
        bound = None
        if "bound" in names:
            rows = pair_rows(groups, rewards, [character_lengths(group) for group in groups])
            shorn = [plain(r, characters(g)) for g, r in zip(groups, rewards, strict=True)]
            bound = fit_bound(
                "sigmoid", np.concatenate(shorn), fit_temperature(rows.margin_P, rows.probability_P).value
            )
        write_note(self.rm, adjustment=Adjustment(length, bound).to_json())

    def _audit_after(self, before: Mapping[str, Any], adjusted: bool) -> dict[str, Any]:
        asked = Asked.from_json(before["asked"] | {"adjusted": adjusted})
        file = self.folder / "audit-after.json"
        if file.exists():
            found = read_audit(file, self.rm)
            if found["asked"] == asked.to_json():
                return found
        found = self._audit(self.rm, self.scorer(self.rm, adjusted), asked)
        _write(file, found)
        return found

    # -- the result -----------------------------------------------------------------------------------------------

    def _result(
        self, plan: dict[str, Any], before: Mapping[str, Any], after: Mapping[str, Any], taken: Sequence[Taken],
        treated: dict[str, Any], trained: dict[str, Any], adjusted: bool,
    ) -> dict[str, Any]:  # fmt: skip
        """model, output, taken, plan, data, training; probes (`probe_rows`), faults {before, after, new, mended},
        evaluation (`held_out_rows`) or None, candidates (`candidate_rows`) or None, gate {before, after} or None,
        adjusted, warnings, problems."""
        scorers = {
            "before": self.scorer(self.what.model, bool(before["asked"]["adjusted"])),
            "after": self.scorer(self.rm, adjusted),
        }
        worst = [row["name"] for row in plan["worst"] if row["name"] != CORRELATION]
        new = [row["name"] for row in after["probes"] if row["fault"] and row["name"] not in worst]
        asked = Asked.from_json(before["asked"])
        effects = [seed_effects(scorers[side], asked) for side in ("before", "after")]
        evaluation = self._evaluation(scorers)
        gate = None
        if self.gate is not None:
            of_side = {side: (evaluation or {}).get(side) for side in ("before", "after")}
            gate = {name: check_gate(self.gate, audit, of_side[name]) for name, audit in
                    (("before", before), ("after", after))}  # fmt: skip
        gone = {row["name"] for row in before["probes"]} - {row["name"] for row in after["probes"]}
        again = [f"probe {name!r} is of a Python file and was not asked again" for name in sorted(gone)]
        still = {row["name"] for row in after["probes"] if row["fault"]}
        return {
            "model": self.what.model,
            "output": self.what.output,
            "taken": [one.word for one in taken],
            "plan": plan,
            "data": treated,
            "training": trained,
            "adjusted": adjusted,
            "probes": probe_rows(before, after, worst, *effects),
            "faults": {
                "before": len(worst),
                "after": len(still),
                "mended": [name for name in worst if name not in still],
                "new": new,
            },
            "evaluation": evaluation,
            "candidates": self._candidates(scorers),
            "gate": gate,
            "warnings": [*plan["warnings"], *treated["warnings"], *_left_out(treated, trained), *again],
            "problems": [*(f"before: {p}" for p in before["problems"]), *(f"after: {p}" for p in after["problems"])],
        }

    def _scored_before(self, audit: Mapping[str, Any]) -> tuple[list[Group], list[Floats]]:
        scorer = self.scorer(self.what.model, bool(audit["asked"]["adjusted"]))
        rewards = self.rewards(scorer, self.held_out, "scoring held-out groups")
        kept = [(g, r) for g, r in zip(self.held_out, rewards, strict=True) if _finite(r)]
        if not any(group.preferences for group, _ in kept):
            raise DataError("--eval-data: no group with a preference could be scored")
        return [g for g, _ in kept], [r for _, r in kept]

    def _evaluation(self, scorers: Mapping[str, Scorer]) -> dict[str, Any] | None:
        if not self.held_out:
            return None
        before, after = (self.rewards(scorer, self.held_out, f"scoring held-out groups {name}")
                         for name, scorer in scorers.items())  # fmt: skip
        kept = [g for g, (a, b) in enumerate(zip(before, after, strict=True)) if _finite(a) and _finite(b)]
        if not kept:
            raise DataError("--eval-data: no group could be scored by both models")
        held_out = HeldOut([self.held_out[g] for g in kept], [before[g] for g in kept], [after[g] for g in kept])
        found = held_out_rows(held_out, seed=self.what.seed)
        return found | {"on": list(self.what.eval_data) or HELD_OUT_FROM_RECORD, "unscored": len(before) - len(kept)}

    def _candidates(self, scorers: Mapping[str, Scorer]) -> dict[str, Any] | None:
        if not self.what.candidates:
            return None
        assert self.what.gold is not None
        groups = [pool.group for pool in self.pools]
        before, after = (self.rewards(scorer, groups, f"scoring candidates {name}") for name, scorer in scorers.items())
        pools, before, after, unscored = both_scored(self.pools, before, after)
        found = candidate_rows(pools, before, after, self.what.gold, seed=self.what.seed)
        return found | {"left_out": {row.reason: row.count for row in self.left_out} | {"no reward": unscored}}

    def _nothing(self, plan: dict[str, Any], audit: Mapping[str, Any]) -> dict[str, Any]:
        """Where `auto` finds nothing to take: what there would be, and that nothing was done."""
        if plan["worst"]:
            raise DataError(
                f"no remedy fits what was found ({', '.join(row['name'] for row in plan['worst'][:5])}): add pairs "
                "in which the edited side loses to the training data, or name remedies with --take"
            )
        gate = None
        if self.gate is not None:
            held_out = evaluate_rows(*self._scored_before(audit), seed=self.what.seed) if self.held_out else None
            gate = {"before": check_gate(self.gate, audit, held_out)}
        return {"model": self.what.model, "output": self.what.output, "taken": [], "plan": plan, "nothing": True,
                "gate": gate,
                "problems": list(audit["problems"])}  # fmt: skip

    # -- files ----------------------------------------------------------------------------------------------------

    def _kept(self, name: str, made_from: Mapping[str, Any], *, again: bool = False) -> dict[str, Any] | None:
        """What a step has left, or None. Where it was made from something else: ConfigError, or None for a step that
        costs little and is done `again`."""
        file = self.folder / name
        if not file.exists():
            return None
        found = _load(file)
        there = found.get("made_from") or {}
        differs = [key for key in made_from if there.get(key) != json.loads(json.dumps(made_from[key]))]
        if differs and again:
            return None
        if differs:
            raise ConfigError(_other(file, f"it was made with other {differs[0].replace('_', ' ')}"))
        self.tell(f"{file}: kept")
        return {key: value for key, value in found.items() if key != "made_from"}

    def _keep(self, name: str, made_from: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        _write(self.folder / name, {**result, "made_from": dict(made_from)})


def _other(file: Path, why: str) -> str:
    return f"{file} is of another mitigation: {why}; give another --output, or --overwrite"


def _left_out(treated: Mapping[str, Any], trained: Mapping[str, Any]) -> list[str]:
    """A warning where training could not use all that it was given."""
    n = sum(trained["left_out"].values())
    if not n:
        return []
    why = ", ".join(f"{count} because {reason}" for reason, count in trained["left_out"].items())
    return [f"{n} of {treated['groups'] + treated['made']} groups were left out of training: {why}"]


def _load(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); delete it, or give another --output") from None
    return found if isinstance(found, dict) else {}


def _write(file: Path, value: Mapping[str, Any]) -> None:
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _marks(files: Sequence[str]) -> list[str]:
    return [str(file_mark(Path(file))) for file in files]


def _finite(rewards: Floats) -> bool:
    return bool(np.isfinite(rewards).all())
