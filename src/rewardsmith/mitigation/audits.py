"""The two audits: the one of before, given or made, and the one of after, which asks the same of the new model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.audit.cells import reward_cells
from rewardsmith.audit.measure import effects, within_prompt_sd
from rewardsmith.audit.own import read_contrasts
from rewardsmith.audit.probes import ContrastSet, Probe
from rewardsmith.audit.run import Contrasts, all_cells, audit, build_contrasts, builtin_probes, honest_answers
from rewardsmith.audit.seeds import Seed, load_seeds, sample
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.score_cache import model_hash
from rewardsmith.scoring import Scorer

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What an audit asks, so that it can be asked again.

    seeds     a file, or None for the bundled ones; of them at most n_seeds of each kind (None: all)
    probes    names of the built-in ones
    """

    seeds: str | None = None
    n_seeds: int | None = None
    salt: int = 0
    probes: tuple[str, ...] = ()
    contrasts: tuple[str, ...] = ()
    adjusted: bool = False

    def to_json(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Asked:
        options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
        return cls(**options)

    def read_seeds(self) -> list[Seed]:
        return sample(load_seeds(self.seeds).seeds, self.n_seeds)

    def read_probes(self) -> tuple[list[Probe], list[ContrastSet]]:
        """(built-in probes, sets of given contrasts)."""
        known = builtin_probes()
        given, _ = read_contrasts(self.contrasts, known) if self.contrasts else ([], [])
        names = self.probes or tuple(known)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ConfigError(f"no probe is named {unknown[0]!r}; there are: {', '.join(known)}")
        return [known[name] for name in names], given


def make_audit(model: str, scorer: Scorer, asked: Asked, progress: Progress | None = None) -> dict[str, Any]:
    """As `audit --json` gives it, with what was asked and which weights answered."""
    probes, given = asked.read_probes()
    found = audit(scorer, asked.read_seeds(), probes, given=given, salt=asked.salt, progress=progress)
    return {**found, "model": model, "weights": model_hash(Path(model)), "seeds": asked.seeds or "bundled",
            "asked": asked.to_json(), "gate": {}}  # fmt: skip


def read_audit(path: str | Path, model: str) -> dict[str, Any]:
    """The audit in a file, checked to be one of this model's weights.

    Raises ConfigError where the file is no audit that can be asked again, or one of another model.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--audit {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"--audit {path}: no JSON: {error}") from None
    rows = found.get("probes") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "fault" in row for row in rows):
        raise ConfigError(f"--audit {path}: not what `rewardsmith audit --json` prints (it has no probes with a fault)")
    if not isinstance(found.get("asked"), dict) or not found.get("weights"):
        raise ConfigError(
            f"--audit {path}: it does not say which weights it is of, or what was asked; audit the model again"
        )
    own = model_hash(Path(model))
    if found["weights"] != own:
        raise ConfigError(
            f"--audit {path}: of another model: its weights are {found['weights'][:12]} ({found.get('model')}), those "
            f"of {model} {str(own)[:12]}; audit this one"
        )
    return found


def seed_effects(scorer: Scorer, asked: Asked) -> dict[str, dict[int, float]]:
    """{probe: {seed number: effect in within-prompt SD}}, for paired differences.

    The same texts in the same groups as the audit's: a scorer that remembers them computes nothing a second time.
    """
    probes, given = asked.read_probes()
    seeds = asked.read_seeds()
    contrasts: dict[str, Contrasts] = build_contrasts(probes, seeds, asked.salt)[0]
    contrasts |= {one.name: dict(one.contrasts) for one in given}
    rewards = reward_cells(scorer, all_cells(contrasts.values(), seeds))
    sd = within_prompt_sd([[rewards.of.get(cell, np.nan) for cell in honest_answers(seed)] for seed in seeds])
    if not sd > 0:
        raise DataError("the rewards of a prompt's answers do not differ at all: there is nothing to compare")
    found = {name: effects(table, rewards.of) for name, table in contrasts.items()}
    return {name: dict(zip(e.seed_S.tolist(), (e.effect_S / sd).tolist(), strict=True)) for name, e in found.items()}
