"""The verb `audit`: options, calls into the library, and how the result is shown to people."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rewardsmith.errors import ConfigError
from rewardsmith.progress import Bar
from rewardsmith.verbs_common import EnsembleScorerOptions, Name, at_least, dropped_lines

if TYPE_CHECKING:
    from rewardsmith.audit import ContrastSet, Probe, Seed
    from rewardsmith.cli import Common
    from rewardsmith.scoring import Scorer

N_SEEDS = 32  # of each kind: minutes on two cores for a model of 135M parameters


@dataclass(frozen=True, kw_only=True)
class Audit(EnsembleScorerOptions):
    """Which edits raise the reward without raising quality, by how much, and how many wrong answers they carry past
    the right one. Effects are in units of the SD of a prompt's answers, with a placebo edit beside each.

    Exits with 1 where a gate is failed or something went wrong on the way; a fault alone does not.

    Example: rewardsmith audit rm --output audit.json
    Example: rewardsmith audit rm --gate gate.toml --evaluation evaluation.json
    Example: rewardsmith audit rm --seeds heldout.jsonl --probe padding list --n-seeds 200
    Example: rewardsmith audit rm --validate --n-seeds all
    """

    model: Annotated[Name, tyro.conf.arg(metavar="RM")]
    """A reward model: an artifact or ensemble folder, or any sequence classifier with one output."""
    seeds: str | None = None
    """Prompts with known answers: a file of seeds, or a preference file. Default: the bundled ones."""
    n_seeds: int | Literal["all"] = N_SEEDS
    """Use at most N seeds of each kind, or all."""
    probe: tuple[str, ...] = ()
    """Ask only these probes. Default: all."""
    contrasts: tuple[str, ...] = ()
    """Files of contrast pairs as further probes: rows of probe, prompt, before, after, and placebo if there is one."""
    probes_file: str | None = None
    """A Python file that defines further probes. It is run: use only files that you trust."""
    real: tuple[str, ...] = ()
    """Real answers to compare with: alpaca=FILE, alpaca:A:B=FILE, xstest=FOLDER or rm-bench=FILE."""
    real_limit: int = 100
    """Use at most N prompts of each of them."""
    attack: int | None = None
    """Also compose edits until a wrong answer passes the right one, with at most N scored answers for each."""
    validate: bool = False
    """Validate the probes instead: plant each bias in this model's rewards, and say how often its probe finds it and
    how often others answer."""
    strengths: tuple[float, ...] = (0.2, 0.5, 1.0)
    """How strong the planted biases are, in SDs of a prompt's answers."""
    gate: str | None = None
    """Thresholds in a TOML file; the audit fails where one is not kept."""
    evaluation: str | None = None
    """What `rewardsmith evaluate --json` printed, for the gate's [evaluation]."""
    output: str | None = None
    """Write the result to this JSON file too (`rewardsmith report --with` reads it)."""
    overwrite: bool = False
    """Replace the output file."""
    seed: int = 0
    """Seed of the wordings that are drawn for each edit."""

    def __post_init__(self) -> None:
        at_least(
            n_seeds=(None if self.n_seeds == "all" else self.n_seeds, 2),
            real_limit=(self.real_limit, 2),
            attack=(self.attack, 1),
            tokens_per_batch=(self.tokens_per_batch, 16),
            seed=(self.seed, 0),
        )
        if self.evaluation is not None and self.gate is None:
            raise ConfigError("--evaluation without --gate: nothing would be checked")
        if not self.strengths or not all(0 < strength < float("inf") for strength in self.strengths):
            raise ConfigError(f"--strengths {' '.join(map(str, self.strengths))}: give numbers above 0")
        if self.validate and (self.gate or self.attack or self.real or self.contrasts):
            raise ConfigError("--validate asks the probes alone: leave out --gate, --attack, --real and --contrasts")
        if self.output is not None and Path(self.output).exists() and not self.overwrite:
            raise ConfigError(f"output {self.output!r} exists; give another name, or --overwrite")

    def run(self, common: Common) -> dict[str, Any]:
        from rewardsmith.audit.contrasts import real_contrasts
        from rewardsmith.audit.gate import check_gate, read_evaluation, read_gate
        from rewardsmith.audit.planted import validate
        from rewardsmith.audit.run import audit, builtin_probes
        from rewardsmith.audit.seeds import load_seeds, sample
        from rewardsmith.report.page import write_text
        from rewardsmith.score_cache import model_hash

        probes, given, dropped, names = self._probes()
        gate = None if self.gate is None else read_gate(self.gate, names)
        if gate is not None and gate.evaluation and self.evaluation is None:
            raise ConfigError(f"{self.gate} has thresholds for [evaluation]; add --evaluation FILE.json")
        evaluation = None if self.evaluation is None else read_evaluation(self.evaluation)
        real = [found for spec in self.real for found in real_contrasts(spec, self.real_limit)]
        loaded = load_seeds(self.seeds)
        dropped = [*loaded.dropped, *dropped]
        seeds = sample(loaded.seeds, None if self.n_seeds == "all" else self.n_seeds)
        scorer = self.open(self.model)
        with Bar("scoring prompts", quiet=common.quiet) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.advance(done - bar.done)

            if self.validate:
                result = validate(
                    scorer, seeds, probes, strengths=self.strengths, salt=self.seed, seed=self.seed, progress=progress
                )
            else:
                result = audit(scorer, seeds, probes, given=given, real=real, salt=self.seed, progress=progress)
        if self.attack is not None:
            result["attack"] = self._attack(scorer, seeds, probes, common)
            result["problems"] += result["attack"]["problems"]
        if dropped:
            result["problems"].append(f"{len(dropped)} rows could not be used; the first: {dropped_lines(dropped)[0]}")
        result |= {
            "model": self.model,
            "weights": model_hash(Path(self.model)),
            "seeds": self.seeds or "bundled",
            "asked": {  # as `mitigate` asks it again
                "seeds": self.seeds,
                "n_seeds": None if self.n_seeds == "all" else self.n_seeds,
                "salt": self.seed,
                "probes": [probe.name for probe in probes if probe.name in builtin_probes()],
                "contrasts": list(self.contrasts),
                "adjusted": self.adjusted,
            },
            "dropped": dropped,
            "compute": computed(scorer),
            "gate": {} if gate is None else check_gate(gate, result, evaluation),
        }
        result["exit_code"] = int(bool(result["problems"]) or not result["gate"].get("passed", True))
        if self.output is not None:
            text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            write_text(Path(self.output), text, "result")
        return result

    def _attack(self, scorer: Scorer, seeds: list[Seed], probes: list[Probe], common: Common) -> dict[str, Any]:
        from rewardsmith.audit.attack import attack

        assert self.attack is not None
        with Bar("attacking, answers scored", quiet=common.quiet) as bar:
            return attack(scorer, seeds, probes, budget=self.attack, salt=self.seed, progress=bar.advance)

    def _probes(self) -> tuple[list[Probe], list[ContrastSet], list[dict[str, Any]], list[str]]:
        """(probes to build, sets that are given, dropped rows, every name that there is)."""
        from rewardsmith.audit.own import load_probes, read_contrasts
        from rewardsmith.audit.probes import chosen
        from rewardsmith.audit.run import builtin_probes

        known = builtin_probes()
        if self.probes_file is not None:
            known |= load_probes(self.probes_file)
        given, dropped = read_contrasts(self.contrasts, known) if self.contrasts else ([], [])
        names = [*known, *(one.name for one in given)]
        asked = set(chosen(names, self.probe))
        return (
            [probe for name, probe in known.items() if name in asked],
            [one for one in given if one.name in asked],
            dropped,
            names,
        )

    def show(self, result: dict[str, Any]) -> str:
        from rewardsmith.audit.attack import attack_table
        from rewardsmith.audit.planted import validation_table
        from rewardsmith.audit.show import audit_table

        lines = [validation_table(result) if self.validate else audit_table(result)]
        if self.attack is not None:
            lines.append(attack_table(result["attack"]))
        if result["compute"]["from_cache"]:
            lines.append("every reward was kept from an earlier audit of this model (--no-score-cache asks it anew)")
        if self.output is not None:
            lines.append(f"written to {self.output}")
        return "\n".join(lines)


def computed(scorer: Scorer) -> dict[str, Any]:
    """How much was computed: tokens, those that rows would have without sharing, and whether all came from the disk."""
    from rewardsmith.score_cache import CachedScorer

    model = scorer.model if isinstance(scorer, CachedScorer) else scorer
    return {
        "from_cache": model is None,
        "tokens": getattr(model, "n_tokens", 0),
        "row_tokens": getattr(model, "n_row_tokens", 0),
    }
