"""A project's models: what is trained on and what is tested on, and a model's trial.

    <project>/tests/frozen.jsonl      the labelled pairs of the first round that no model is trained on; never changed
    <project>/tests/reference.jsonl   answers of the first round that every model's scale is taken from; never changed
    <project>/models/<key>/           trained models (`refresh.train`)
    <project>/releases/               what was released (`refresh.releasing`)

Which prompts are trained on and which test is in `refresh.sides`. Everything here may be repeated: what is done is
found, not redone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.convert import convert
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.model.meta import read_meta
from rewardsmith.refresh import releases
from rewardsmith.refresh.connect import parts
from rewardsmith.refresh.gate import Evidence, GateOptions, judge
from rewardsmith.refresh.records import Model
from rewardsmith.refresh.releasing import candidate_of, released_name
from rewardsmith.refresh.sides import BLIND, TEST_SHARE, labelled
from rewardsmith.refresh.status import TRAINED, label_mark
from rewardsmith.refresh.store import Store
from rewardsmith.refresh.tables import draws, sa
from rewardsmith.refresh.train import Rounds, VariantOptions, train_rounds
from rewardsmith.scoring import Scorer, is_address
from rewardsmith.statistics import Floats
from rewardsmith.temperature import of_artifact
from rewardsmith.training.config import TrainConfig

REFERENCE_PROMPTS, REFERENCE_ANSWERS = 64, 4
OWN_TAGS = ("round", "policy_a", "policy_b")  # of the store: no slices of a test

Open = Callable[[str], Scorer]  # a model's folder to its scorer


# -- what is fixed once -----------------------------------------------------------------------------------------


def frozen_tests(project: Path, store: Store) -> list[Group]:
    """The tests of the first round, as they were when they were first asked for. DataError where there is none."""

    def first() -> list[Group]:
        found = labelled(store)
        rounds = [r for _, r in (*found.train, *found.test)]
        if not rounds:
            raise DataError("the project has no labels yet; label some proposals first")
        tests = found.tests_of(min(rounds))
        if not tests:
            raise DataError(
                f"none of the {len(rounds)} labelled pairs has a prompt on the test side "
                f"({TEST_SHARE:.0%} of the prompts are): label more prompts of round {min(rounds)}"
            )
        return [replace(g, tags={k: v for k, v in g.tags.items() if k not in OWN_TAGS}) for g in tests]

    return _fixed(project, store, "frozen", first)


def reference_answers(project: Path, store: Store) -> list[Group]:
    """Answers of the first round on whose rewards the scale of every model is taken."""

    def first() -> list[Group]:
        rounds = [row["round"] for row in store.policies()]
        by_prompt: dict[int, list[Any]] = {}
        for response in store.responses(round=min(rounds, default=0)):
            by_prompt.setdefault(response.prompt_id, []).append(response)
        chosen = sorted(by_prompt)[:REFERENCE_PROMPTS]
        if not chosen:
            raise DataError("the project has no answers yet; ingest some first")
        return [
            Group(
                prompt=prompt.messages,
                responses=tuple(r.messages for r in by_prompt[prompt.id][:REFERENCE_ANSWERS]),
                tools=prompt.tools,
                template_kwargs=prompt.template_kwargs,
            )
            for prompt in store.prompts(chosen)
        ]

    return _fixed(project, store, "reference", first)


def _fixed(project: Path, store: Store, name: str, first: Callable[[], list[Group]]) -> list[Group]:
    """The groups of a file that is written once; DataError where it has changed since, by its hash in the store."""
    file = project / "tests" / f"{name}.jsonl"
    known = store.value(f"{name}_sha256")
    if known is None:
        convert(first(), "rewardsmith", file)
        store.set_value(f"{name}_sha256", known := _sha256(file))
    if not file.is_file() or _sha256(file) != known:
        raise DataError(f"{file} is not the file that was written first; restore it from a copy: it is never changed")
    return list(read_groups(str(file)))


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# -- train --------------------------------------------------------------------------------------------------------


def train_model(
    project: Path, store: Store, options: VariantOptions, template: TrainConfig, *, at: float, quiet: bool = False
) -> dict[str, Any]:
    """Train on every label there is and register the model; returns its record with "name" and "path"."""
    frozen_tests(project, store)  # before anything is trained, what it will be tested on is fixed
    labels = label_mark(store.counts(at))
    found = labelled(store).train
    if not found:
        raise DataError("no labelled pair has a prompt on the training side; label some more")
    groups, rounds = [group for group, _ in found], [r for _, r in found]
    ratios = recorded_log_ratios(store, groups, rounds) if options.variant == "importance" else None
    start = None
    if options.variant == "warm" and releases.current(project) is not None:
        start = releases.open_current(project)[1]
    record = train_rounds(
        project / "models",
        Rounds(groups=groups, round_G=rounds, reference=reference_answers(project, store), log_ratio_GK=ratios),
        options,
        template,
        released=start,
        quiet=quiet,
    )
    name = f"{max(rounds)}-{options.variant}-{record['key'][:8]}"
    store.add_model(
        name,
        path=f"models/{record['key']}",
        artifact_hash=releases.digest_of(releases.file_hashes(record["path"])),
        round=max(rounds),
        parent=released_name(project, store),
        data_hash=record["key"],
        at=at,
        details={
            **{key: record[key] for key in ("variant", "start", "rounds", "groups", "weights", "seconds")},
            **_temperature(record["path"]),
        },
    )
    store.set_value(TRAINED, json.dumps({"model": name, "labels": labels}))
    return record | {"name": name}


def _temperature(folder: str) -> dict[str, float]:
    """{"temperature": T} that makes the model's reward gaps log-odds; {} where none was fitted."""
    found = of_artifact(read_meta(folder))
    return {} if found is None or not np.isfinite(found) else {"temperature": found}


def recorded_log_ratios(store: Store, groups: Sequence[Group], rounds: Sequence[int]) -> list[Floats] | None:
    """[K] log p_newest / p_own of each answer; None where one of the log-probabilities is not recorded."""
    newest = [row["policy"] for row in store.policies() if row["round"] == store.last_round()]
    pairs = store.comparisons([int(group.source.removeprefix("comparison:")) for group in groups])
    logprob: dict[tuple[int, str], float] = {}
    for part in parts({r.id for pair in pairs for r in (pair.a, pair.b)}):
        known = draws.c.response_id.in_(part) & draws.c.logprob.is_not(None)
        with store.reading() as connection:
            said = connection.execute(sa.select(draws).where(known)).all()
        logprob |= {(row.response_id, row.policy): float(row.logprob) for row in said}
    found = []
    for pair in pairs:
        new = [next((logprob[r.id, p] for p in newest if (r.id, p) in logprob), None) for r in (pair.a, pair.b)]
        own = [logprob.get((r.id, r.policy)) for r in (pair.a, pair.b)]
        if None in new or None in own:
            return None
        found.append(np.array(new, np.float64) - np.array(own, np.float64))
    return found


# -- gate ---------------------------------------------------------------------------------------------------------


def gate_model(
    project: Path, store: Store, model: str | None, options: GateOptions, open_model: Open, *, at: float
) -> dict[str, Any]:
    """Try a registered model (None: the newest) against the released one; returns `judge`'s result with "model".

    The same trial again, of the same model by the same tests, is found in the store.
    """
    from rewardsmith.audit.gate import read_gate
    from rewardsmith.audit.run import builtin_probes

    candidate = candidate_of(store, model)
    if is_address(candidate.path):
        raise ConfigError(f"{candidate.name} is a server; what is released is a folder")
    pointer = releases.current(project)
    folder = project / candidate.path
    frozen, found = frozen_tests(project, store), labelled(store)
    fresh = found.tests_of(candidate.round)
    known = _inputs(candidate, pointer, options, frozen, fresh)
    trials = store.gates(candidate.name)
    for gate in reversed(trials):
        if gate.figures.get("inputs") == known:
            if gate.id != trials[-1].id:  # another trial came between, and `release` goes by the last one
                store.add_gate(candidate.name, passed=gate.passed, figures=gate.figures, at=at)
            return {**gate.figures, "model": candidate.name, "again": True}
    released = None
    if pointer is not None:
        released = releases.verify(project, releases.read_release(project, pointer.release, pointer.sha256))
        if released.resolve() == folder.resolve():
            raise ConfigError(f"{candidate.name} is what is released: there is nothing to try it against")
    thresholds = None if options.gate is None else read_gate(options.gate, list(builtin_probes()))
    audits = [
        _audited(open_model(str(path)), options.audit_seeds) if path is not None and options.audit_seeds else None
        for path in (folder, released)
    ]
    result = judge(
        _evidence(frozen, folder, released, open_model),
        _evidence(fresh, folder, released, open_model),
        options,
        helped=sum(group.tags["kind"] not in BLIND for group in fresh),
        temperature=of_artifact(read_meta(folder)),
        thresholds=thresholds,
        audit=audits[0],
        released_audit=audits[1],
    )
    result = json.loads(json.dumps(result)) | {
        "released": None if pointer is None else pointer.release, "inputs": known,
    }  # fmt: skip
    store.add_gate(candidate.name, passed=result["verdict"] == "pass", figures=result, at=at)
    return {**result, "model": candidate.name, "again": False}


def _evidence(groups: list[Group], new: Path, released: Path | None, open_model: Open) -> Evidence:
    """The groups that both models can score, with their rewards."""
    scores = open_model(str(new)).score(groups) if groups else []
    before = open_model(str(released)).score(groups) if groups and released is not None else None
    kept = [
        g for g in range(len(groups)) if not scores[g].error and (before is None or not before[g].error)
    ]  # fmt: skip
    return Evidence(
        [groups[g] for g in kept],
        [scores[g].rewards for g in kept],
        None if released is None else [before[g].rewards for g in kept] if before is not None else [],
    )


def _audited(scorer: Scorer, n_seeds: int) -> dict[str, Any]:
    from rewardsmith.audit.run import audit
    from rewardsmith.audit.seeds import load_seeds, sample

    return audit(scorer, sample(load_seeds().seeds, n_seeds))


def _inputs(
    model: Model, pointer: releases.Pointer | None, options: GateOptions, frozen: list[Group], fresh: list[Group]
) -> str:
    """A hash of what a trial depends on."""
    thresholds = Path(options.gate).read_text(encoding="utf-8") if options.gate and Path(options.gate).is_file() else ""
    said = [(group.id, group.preferences) for group in (*frozen, *fresh)]
    release = None if pointer is None else pointer.release
    words = repr((model.artifact_hash, release, sorted(asdict(options).items()), thresholds, said))
    return hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
