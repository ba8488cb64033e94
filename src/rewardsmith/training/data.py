"""The groups of a run: read, split, rendered, and every one that is left out named."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rewardsmith.data.options import ReadReport
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group
from rewardsmith.data.split import side_of
from rewardsmith.errors import DataError
from rewardsmith.text.render import Encoded, Renderer
from rewardsmith.text.token_cache import encode_cached
from rewardsmith.training.config import TrainConfig
from rewardsmith.training.objective import usable_preferences
from rewardsmith.training.teacher import taught
from rewardsmith.training.twins import with_twin


@dataclass
class Data:
    """The encoded groups of one side, and what was read on the way."""

    encoded: list[Encoded]
    report: ReadReport
    left_out: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def n_pairs(self) -> int:
        return sum(len(item.group.preferences) for item in self.encoded)


def load_data(config: TrainConfig, renderer: Renderer) -> tuple[Data, Data]:
    """Training and evaluation groups, rendered. Groups that say nothing to the loss are left out and named."""
    report = ReadReport()
    weights = config.data_weights or None
    groups = read_groups(config.data, config.read, weights=weights, report=report)
    fractions = {"train": 1.0 - config.eval_fraction, "eval": config.eval_fraction}
    sides: dict[str, list[Group]] = {"train": [], "eval": []}
    for group in groups:
        sides[side_of(group, fractions, config.seed) if config.eval_fraction else "train"].append(group)
        if config.limit is not None and len(sides["train"]) >= config.limit:
            break
    eval_report = ReadReport()
    if config.eval_data:
        sides["eval"] = list(read_groups(config.eval_data, config.read, report=eval_report))
    notes: list[str] = []
    if config.teacher is not None:
        sides["train"], note = taught(sides["train"], config)
        notes.append(note)
    train_data, eval_data = (
        _encode(sides[name], renderer, config, read, edits=name == "train" and bool(config.loss.consistency))
        for name, read in (("train", report), ("eval", eval_report))
    )
    train_data.notes[:0] = notes
    if not train_data.encoded:
        reason = train_data.left_out[0]["reason"] if train_data.left_out else "no group has a preference"
        raise DataError(f"nothing to train on in {', '.join(config.data)}: {reason}")
    if config.eval_fraction and not eval_data.encoded:
        raise DataError(
            f"--eval-fraction {config.eval_fraction} holds out no prompt of {len(sides['train'])}: raise it"
        )
    if config.eval_data and not any(item.group.preferences for item in eval_data.encoded):
        raise DataError(f"nothing to evaluate on in {', '.join(config.eval_data)}: no group has a preference")
    return train_data, eval_data


def _encode(
    groups: Sequence[Group], renderer: Renderer, config: TrainConfig, report: ReadReport, *, edits: bool = False
) -> Data:
    useful = [g for g in groups if usable_preferences(g, config.loss) or (config.loss.regression and g.ratings)]
    edited: dict[int, Encoded] = {}
    notes: list[str] = []
    if edits:
        edited, note = _encode_edited(useful, renderer, config)
        notes.append(note)
    plain = [group for group in useful if id(group) not in edited]
    encoded = encode_cached(renderer, plain) if config.token_cache else list(renderer.encode_stream(iter(plain)))
    if config.render.max_response_length is None:
        # An answer that does not fit whole would be judged by a part: better left out than trained on.
        encoded = [item for item in encoded if "response" not in item.truncated]
    found = {id(item.group): item for item in encoded} | edited
    in_order = [found[id(group)] for group in useful if id(group) in found]
    return Data(in_order, report, _named(groups, useful, set(found), renderer), notes)


def _encode_edited(useful: Sequence[Group], renderer: Renderer, config: TrainConfig) -> tuple[dict[int, Encoded], str]:
    """id(group) -> the group with an edit of one of its answers, where one applies and all of it fits; and a note.

    An answer is cut before it is edited, and the edit is not: otherwise what the edit adds behind a long answer would
    be cut off again.
    """
    whole = Renderer(renderer.tokenizer, replace(renderer.config, max_response_length=None, overlong="drop"))
    cut = [renderer.cut_answers(group) for group in useful]
    found = [with_twin(group, config.loss.consistency_kinds, config.seed) for group, _ in cut]
    twinned = [group for group, kind in found if kind]
    encoded = encode_cached(whole, twinned) if config.token_cache else list(whole.encode_stream(iter(twinned)))
    item_of = {id(item.group): item for item in encoded}
    kept: dict[int, Encoded] = {}
    counts: Counter[str] = Counter()
    for group, (twin, kind), (_, n_cut) in zip(useful, found, cut, strict=True):
        if id(twin) in item_of:
            kept[id(group)] = item_of[id(twin)]
            counts[kind] += 1
            renderer.report.groups += 1
            renderer.report.responses_cut += n_cut
    if not kept or all(len(group.responses) == 1 for group in useful):
        reason = (
            "none of the edits applies to any group" if not kept else "no prompt has two answers to measure them by"
        )
        raise DataError(f"--consistency has nothing to hold together in {', '.join(config.data)}: {reason}")
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
    return kept, f"edits that should change nothing: {kinds}; {len(useful) - len(kept)} groups go without"


def _named(
    groups: Sequence[Group], useful: Sequence[Group], kept: set[int], renderer: Renderer
) -> list[dict[str, str]]:
    """Every group that is not trained on, with the reason. `kept` are the ids of those that are."""
    says_something = {id(group) for group in useful}
    reasons = {d["group"]: d["reason"] for d in renderer.report.dropped}
    return [
        {
            "group": g.id,
            "source": g.source,
            "reason": reasons.get(g.id, "an answer is longer than --max-length")
            if id(g) in says_something
            else "nothing to learn from: no preference that counts",
        }
        for g in groups
        if id(g) not in kept
    ]


def prompt_blocks(encoded: Sequence[Encoded], most: int) -> list[list[int]]:
    """Indices of groups, those with one prompt together, at most `most` in a block.

    A prompt that comes in several rows of the files is then computed once for all of them, and its comparisons,
    which say much the same, are one step's business (InstructGPT, 2203.02155, section 3.5).
    """
    blocks: list[list[int]] = []
    open_block: dict[str, list[int]] = {}
    for i, item in enumerate(encoded):
        key = item.group.prompt_id
        block = open_block.get(key)
        if block is None or len(block) == most:
            block = open_block[key] = []
            blocks.append(block)
        block.append(i)
    return blocks


def fingerprint(renderer: Renderer, data: Data) -> str:
    """A hash over tokens and labels: what the numbers of a run depend on."""
    labels = repr([(i.group.preferences, i.group.ratings, i.group.weight) for i in data.encoded])
    return renderer.fingerprint(data.encoded) + hashlib.blake2b(labels.encode(), digest_size=8).hexdigest()


def some(encoded: Sequence[Encoded], tokens: int = 4096) -> list[Encoded]:
    """The first groups, about `tokens` of them: enough for parity figures, not another pass over the data."""
    some: list[Encoded] = []
    for item in encoded:
        if some and sum(x.n_tokens for x in some) + item.n_tokens > tokens:
            break
        some.append(item)
    return some


def sources(paths: Sequence[str], data: Data) -> dict[str, Any]:
    """What the data was: names, hashes of the files' bytes, counts."""
    files = [{"path": p, "sha256": _sha256(Path(p))} for p in paths]
    return {
        "files": files,
        "groups": len(data.encoded),
        "pairs": data.n_pairs,
        "rows_dropped": len(data.report.dropped),
    }


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def data_notes(train: Data, held_out: Data, renderer: Renderer) -> list[str]:
    """What a user should know of both sides before training starts, a line each."""
    notes = []
    for side, data in (("training", train), ("held-out", held_out)):
        if not data.encoded:
            continue
        shapes = ", ".join(sorted({f.shape for f in data.report.files if f.shape}))
        notes.append(
            f"{side}: {len(data.encoded)} groups, {data.n_pairs} pairs" + (f" (shape {shapes})" if shapes else "")
        )
        notes += [f"warning: {warning}" for warning in data.report.warnings]
        notes += data.notes
        dropped = len(data.report.dropped)
        if dropped:
            row = data.report.dropped[0]
            notes.append(f"{side}: {dropped} rows dropped, the first {row.file}:{row.line}: {row.reason}")
        if data.left_out:
            first_out = data.left_out[0]
            first = f"{first_out['source']}: {first_out['reason']}"
            notes.append(f"{side}: {len(data.left_out)} groups left out, the first {first}")
    report = renderer.report
    if report.prompts_cut or report.responses_cut:
        notes.append(f"cut to fit: {report.prompts_cut} prompts (oldest tokens), {report.responses_cut} answers")
    if renderer.contract.date_pinned:
        notes.append("the chat template inserts today's date: pinned to a fixed one, saved with the model")
    if renderer.contract.prompt_depends_on_answer:
        notes.append("the chat template changes earlier turns depending on the answer: less of the prompt is shared")
    return notes
