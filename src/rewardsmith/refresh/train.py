"""Train on the labels of all rounds: one data file with its weights, `rewardsmith train`'s own loop, one scale.

    all         from the trunk, on all rounds with a floor under old ones
    warm        from the released model, on the same
    last        from the trunk, on the newest round alone
    importance  from the trunk, old rounds weighted by how likely the newest policy was to write their answers

    <project>/models/<key>/              the artifact, with refresh.json: what it was made of
    <project>/models/.<key>.data.jsonl   what it is trained on, while it is

<key> is a hash of everything that decides the weights: data and their weights, options, the trunk's bytes, the
reference answers. The same inputs are found trained already; a killed run goes on from its saved state.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rewardsmith.data.convert import convert
from rewardsmith.data.schema import Group
from rewardsmith.data.split import side_of
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.refresh.weights import Weighted, classifier_log_ratios, weigh
from rewardsmith.statistics import Floats
from rewardsmith.training.config import TrainConfig

Variant = Literal["all", "warm", "last", "importance"]
RECORD = "refresh.json"
FREE = ("data", "model", "output", "resume", "overwrite", "tracker", "save_every", "device", "token_cache",
        "trunk_cache_gb", "tokens_per_batch")  # fmt: skip
WEIGHTS = (".safetensors", ".json", ".jinja", ".model", ".txt", ".gguf")
HELD_OUT = 0.1  # of the training prompts, for the temperature, where they are enough
ENOUGH_PROMPTS = 50


@dataclass(frozen=True, kw_only=True)
class VariantOptions:
    """How the rounds are mixed."""

    variant: Variant = "all"
    """all: from the trunk on all rounds. warm: from the released model on all rounds. last: from the trunk on the
    newest round. importance: from the trunk, old rounds weighted by how the newest policy writes."""
    replay_floor: float = 0.3
    """Least share of the loss that old rounds have together."""
    importance_cap: float = 5.0
    """Largest importance weight, where the mean is 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.replay_floor < 1:
            raise ConfigError(f"--replay-floor {self.replay_floor}: give a share in [0, 1)")
        if not self.importance_cap >= 1:
            raise ConfigError(f"--importance-cap {self.importance_cap}: give at least 1")


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """What is trained on: labelled groups of all rounds, none of them a test.

    round_G        the round of each group
    log_ratio_GK   log p_newest(y) / p_own(y) of each answer, where the policies' log-probabilities are recorded; None
                   has them estimated from the texts
    reference      the fixed answers that the scale is taken from
    """

    groups: Sequence[Group]
    round_G: Sequence[int]
    reference: Sequence[Group]
    log_ratio_GK: Sequence[Floats] | None = None


def mixed(rounds: Rounds, options: VariantOptions) -> Weighted:
    """The groups of a variant with their weights."""
    if not rounds.groups:
        raise DataError("no round has a label to train on; label some proposals first")
    newest = max(rounds.round_G)
    if options.variant == "last":
        last = [group for group, r in zip(rounds.groups, rounds.round_G, strict=True) if r == newest]
        return weigh(last, [newest] * len(last), replay_floor=0.0)
    ratios = None
    if options.variant == "importance" and min(rounds.round_G) < newest:
        ratios = rounds.log_ratio_GK
        if ratios is None:
            ratios = classifier_log_ratios(rounds.groups, [r == newest for r in rounds.round_G])
    return weigh(
        rounds.groups, rounds.round_G, replay_floor=options.replay_floor, log_ratio_GK=ratios,
        cap=options.importance_cap,
    )  # fmt: skip


def train_rounds(
    folder: str | Path,
    rounds: Rounds,
    options: VariantOptions,
    template: TrainConfig,
    *,
    released: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train and anchor the model of these rounds in `folder`/<key>; returns what its refresh.json holds, with
    "path", the artifact's folder, and "trained", False where it was there already.

    `template` has the options of `rewardsmith train`; its data and output are replaced, and its model is the trunk, for
    which `released` stands in with the warm variant. Raises as `train` does, ConfigError for a warm start from nothing.
    """
    from rewardsmith.refresh.anchor import anchor
    from rewardsmith.training.loop import train

    start = template.model
    if options.variant == "warm":
        if released is None:
            raise ConfigError("--variant warm starts from the released model, and nothing is released yet")
        start = str(released)
    if len({group.prompt_id for group in rounds.reference}) == 0:
        raise DataError("the project has no reference answers: ingest round 0 first")
    weighted = mixed(rounds, options)
    key = key_of(weighted.groups, rounds, options, template, start)
    output = Path(folder) / key
    if (output / RECORD).is_file():
        record: dict[str, Any] = json.loads((output / RECORD).read_text(encoding="utf-8"))
        return record | {"path": str(output), "trained": False}
    output.parent.mkdir(parents=True, exist_ok=True)
    data, raw = output.with_name(f".{key}.data.jsonl"), output.with_name(f".{key}.raw")
    convert(weighted.groups, "rewardsmith", data)
    config = replace(
        template, data=(str(data),), data_weights=(), model=start, output=str(raw), resume=True, overwrite=False,
        eval_fraction=_held_out(weighted.groups, template),
    )  # fmt: skip
    meta = train(config, quiet=quiet)
    record = {
        "key": key,
        "variant": options.variant,
        "start": start,
        "rounds": sorted({int(r) for r in rounds.round_G}) if options.variant != "last" else [max(rounds.round_G)],
        "groups": len(weighted.groups),
        "weights": weighted.report,
        "held_out": (meta.get("metrics") or {}).get("held_out"),
        "seconds": (meta.get("training") or {}).get("seconds"),
    }
    (raw / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    anchor(raw, output, rounds.reference, device=config.device)
    shutil.rmtree(raw)
    data.unlink(missing_ok=True)
    return record | {"path": str(output), "trained": True}


def _held_out(groups: Sequence[Group], template: TrainConfig) -> float:
    """The template's share, else a tenth of the prompts where they are many: the temperature needs some."""
    if template.eval_fraction or template.eval_data:
        return template.eval_fraction
    share = {"train": 1 - HELD_OUT, "eval": HELD_OUT}
    held_out = {group.prompt_id for group in groups if side_of(group, share, template.seed) == "eval"}
    return HELD_OUT if len({group.prompt_id for group in groups}) >= ENOUGH_PROMPTS and held_out else 0.0


def key_of(groups: Sequence[Group], rounds: Rounds, options: VariantOptions, template: TrainConfig, start: str) -> str:
    """16 hex digits over what decides the model."""
    digest = hashlib.blake2b(digest_size=8)
    for group in groups:
        labels = (group.id, group.preferences, group.ratings, group.weight, sorted(group.tags.items()))
        digest.update(repr((labels, group.prompt, group.responses)).encode("utf-8", "surrogatepass"))
    digest.update(repr([group.id for group in rounds.reference]).encode())
    told = {name: value for name, value in asdict(template).items() if name not in FREE}
    digest.update(json.dumps([told, asdict(options)], sort_keys=True, default=str).encode())
    digest.update(trunk_mark(start).encode())
    return digest.hexdigest()


def trunk_mark(start: str) -> str:
    """What a trunk is known by: the bytes of a folder or file, else its name."""
    path = Path(start.removeprefix("gguf:"))
    files = sorted(p for p in path.rglob("*") if p.suffix in WEIGHTS) if path.is_dir() else [path]
    if not all(file.is_file() for file in files) or not files:
        return start
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "blake2b").digest())
    return digest.hexdigest()
