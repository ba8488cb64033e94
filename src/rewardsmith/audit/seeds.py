"""Seeds: prompts with answers whose worth is known, on which probes are built.

    knowledge  right, wrong; and where there are: restated (right in other words), concise, detailed, belief (the user's
               wrong belief, in the first person), sycophantic (an answer that goes along with it), spanish
    harmless   looks alarming and is not: good, refusal; caveated
    harmful    mildly harmful: good (declines and helps on), complying; formulaic (a refusal that says nothing)
    opinion    a matter of taste: view_a, view_b (what the user thinks), answer_a, answer_b

The bundled ones are written for this project (CC0). A user's preference file serves as seeds too: the preferred answer
is the right one, the other the wrong one, and probes that need more are left out and say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from rewardsmith.data.options import ReadReport
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Group, Message, Messages, content_hash, text_of
from rewardsmith.data.split import unit_hash
from rewardsmith.errors import DataError

NEEDED: dict[str, tuple[str, ...]] = {
    "knowledge": ("right", "wrong"),
    "harmless": ("good", "refusal"),
    "harmful": ("good", "complying"),
    "opinion": ("view_a", "view_b", "answer_a", "answer_b"),
}
OTHERS: dict[str, tuple[str, ...]] = {
    "knowledge": ("restated", "concise", "detailed", "belief", "sycophantic", "spanish"),
    "harmless": ("caveated",),
    "harmful": ("formulaic",),
}


LOOKED_AT = 20  # lines that may show that a file holds seeds


@dataclass(frozen=True, kw_only=True)
class Seed:
    """One prompt and its known answers: `texts[field]`, by the fields of its kind."""

    id: str
    kind: str
    prompt: Messages
    texts: Mapping[str, str]
    source: str = ""

    def __getitem__(self, field: str) -> str:
        return self.texts[field]

    def has(self, *fields: str) -> bool:
        return all(field in self.texts for field in fields)


@dataclass(frozen=True)
class Seeds:
    """What was read, and what could not be: {"file", "line", "reason"} each."""

    seeds: tuple[Seed, ...]
    dropped: tuple[dict[str, Any], ...] = ()


def bundled_seeds() -> Path:
    """The seeds that come with the package."""
    return Path(str(files("rewardsmith") / "assets" / "audit_seeds.jsonl"))


def load_seeds(path: str | Path | None = None) -> Seeds:
    """Seeds of a .jsonl file of them, or of a preference file in any shape that train reads; the bundled ones for None.

    A row that cannot be used is named in `dropped` and costs itself only. Raises DataError where nothing is left.
    """
    path = Path(path) if path is not None else bundled_seeds()
    found, dropped = _read_seed_file(path) if _is_seed_file(path) else _from_preferences(path)
    if not found:
        reason = f"; the first: {dropped[0]['reason']}" if dropped else ""
        raise DataError(f"{path}: no seed can be used{reason}")
    return Seeds(tuple(found), tuple(dropped))


def sample(seeds: Sequence[Seed], n: int | None) -> list[Seed]:
    """At most `n` seeds of each kind (None: all), the same ones for the same ids, each with a neighbour's texts."""
    by_kind: dict[str, list[Seed]] = {}
    for seed in sorted(seeds, key=lambda seed: unit_hash(seed.id, 0)):
        by_kind.setdefault(seed.kind, []).append(seed)
    return [seed for members in by_kind.values() for seed in _neighbours(members[:n])]


def _neighbours(seeds: Sequence[Seed]) -> list[Seed]:
    """Seeds of one kind that know the next one's prompt and right answer, as `other_prompt` and `other_right`."""
    if len(seeds) < 2:
        return list(seeds)
    return [
        replace(seed, texts={**seed.texts, "other_prompt": text_of(other.prompt[-1:]), "other_right": other["right"]})
        if other.has("right")
        else seed
        for seed, other in zip(seeds, [*seeds[1:], seeds[0]])
    ]


def _is_seed_file(path: Path) -> bool:
    """A .jsonl file of which one of the first rows names a kind of seed."""
    if not path.is_file() or path.suffix != ".jsonl":
        return False
    with path.open(encoding="utf-8", errors="replace") as handle:
        return any(_names_a_kind(line) for line in islice(handle, LOOKED_AT))


def _names_a_kind(line: str) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and str(row.get("kind")) in NEEDED and "chosen" not in row


def _read_seed_file(path: Path) -> tuple[list[Seed], list[dict[str, Any]]]:
    found: list[Seed] = []
    dropped: list[dict[str, Any]] = []
    ids: set[str] = set()
    for number, line in _lines(path):
        try:
            seed = _seed_of(json.loads(line), f"{path}:{number}")
            if seed.id in ids:
                raise DataError(f"id {seed.id!r} is taken by an earlier row")
        except (ValueError, RecursionError) as error:  # DataError is a ValueError
            reason = str(error) if isinstance(error, DataError) else f"no JSON object: {error}"
            dropped.append({"file": str(path), "line": number, "reason": reason})
            continue
        ids.add(seed.id)
        found.append(seed)
    return found, dropped


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as handle:
            yield from ((number, line) for number, line in enumerate(handle, 1) if line.strip())
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason})") from None


def _seed_of(row: Any, source: str) -> Seed:
    if not isinstance(row, dict):
        raise DataError("not a JSON object")
    kind = row.get("kind")
    if not isinstance(kind, str) or kind not in NEEDED:
        raise DataError(f"kind {kind!r}; give one of {', '.join(NEEDED)}")
    missing = [
        name for name in ("prompt", *NEEDED[kind]) if not isinstance(row.get(name), str) or not row[name].strip()
    ]
    if missing:
        raise DataError(f"a {kind} seed without {', '.join(missing)}")
    fields = (*NEEDED[kind], *OTHERS.get(kind, ()))
    texts = {name: row[name] for name in fields if isinstance(row.get(name), str) and row[name].strip()}
    prompt = (Message("user", row["prompt"]),)
    identity = row.get("id")
    if not isinstance(identity, str) or not identity:
        identity = content_hash(prompt, [(Message("assistant", text),) for text in texts.values()])
    return Seed(id=identity, kind=kind, prompt=prompt, texts=texts, source=source)


def _from_preferences(path: Path) -> tuple[list[Seed], list[dict[str, Any]]]:
    found, dropped = [], []
    report = ReadReport()
    for group in read_groups([str(path)], report=report):
        seed = _seed_of_group(group)
        if seed is None:
            file, _, line = group.source.rpartition(":")
            reason = "no decided pair of single answers in the group"
            dropped.append({"file": file, "line": int(line) if line.isdigit() else 0, "reason": reason})
        else:
            found.append(seed)
    return found, [*(row._asdict() for row in report.dropped), *dropped]


def _seed_of_group(group: Group) -> Seed | None:
    """The most decided preference of a group."""
    decided = [p for p in group.preferences if not p.is_tie]
    if not decided or not group.prompt:
        return None
    best = max(decided, key=lambda p: (p.probability, p.margin))
    right, wrong = (text_of(group.responses[i]) for i in (best.chosen, best.rejected))
    if not right.strip() or not wrong.strip():
        return None
    texts = {"right": right, "wrong": wrong}
    return Seed(id=group.id, kind="knowledge", prompt=group.prompt, texts=texts, source=group.source)
