"""`data augment`: counterfactual groups from the user's own data, beside what is there. See `counterfactuals`.

    made = augment(groups, {"padding": Wanted(share=0.1), "other": Wanted(share=0.1)})
    made.groups, made.report

A new group that contradicts a label of the same texts is refused and counted, as is one that only repeats it. Which
groups are drawn depends on their ids and the seed alone. All groups are held in memory: any label may be contradicted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from rewardsmith.data.counterfactuals import (
    KINDS,
    PROBABILITY,
    RATED_ALIKE,
    SURE,
    TAG,
    Around,
    Source,
    refuses,
    source_of,
)
from rewardsmith.data.coverage.languages import ENGLISH, NO_WORDS, language_of
from rewardsmith.data.schema import Group, Messages, text_of
from rewardsmith.data.split import unit_hash
from rewardsmith.data.surface import surface_baseline
from rewardsmith.data.survey import snippet
from rewardsmith.errors import ConfigError, DataError

EXAMPLES = 2  # of each kind in the report
MANY_REFUSALS = 0.05  # share of preferred answers that refuse: above it, the data is about when to refuse


@dataclass(frozen=True)
class Wanted:
    """share: new groups for each group of the data. verdict: "tie" or "rejected" where the kind leaves it open."""

    share: float
    verdict: str = ""


@dataclass(frozen=True)
class Augmented:
    """The new groups, kind by kind, and what is to be said of them, ready for JSON (see `augment`)."""

    groups: list[Group]
    report: dict[str, Any]


def parse_kinds(words: Sequence[str], option: str = "--kinds") -> dict[str, Wanted]:
    """`padding=0.1`, `list=0.05:rejected`, `other` -> what is wanted; ConfigError for what cannot be meant."""
    wanted: dict[str, Wanted] = {}
    for word in words:
        name, _, rest = word.partition("=")
        share, _, verdict = rest.partition(":")
        if name not in KINDS:
            raise ConfigError(f"{option} {word}: no kind is named {name!r}; there are: {', '.join(KINDS)}")
        kind = KINDS[name]
        try:
            value = float(share) if share else kind.share
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:  # NaN fails this too
            raise ConfigError(f"{option} {word}: {share!r} is no share from 0 to 1; example: {name}=0.1")
        if verdict and (not kind.verdict or verdict not in ("tie", "rejected")):
            known = "tie or rejected" if kind.verdict else f"none: what {name} states is fixed"
            raise ConfigError(f"{option} {word}: {verdict!r} is no verdict; there is {known}")
        wanted[name] = Wanted(value, verdict)
    return wanted


def augment(groups: Sequence[Group], wanted: Mapping[str, Wanted] | None = None, *, seed: int = 0) -> Augmented:
    """New groups of the kinds in `wanted`, or of all kinds at their usual shares (None).

    Report: groups (of the data), made, kinds [{kind, verdict, wanted, made, conflicts, repeats, not_applicable,
    reasons, examples}], left_out {kind: why}, surface_baseline {before, after}.

    conflicts  groups whose statement contradicts a label of the same texts
    repeats    groups whose statements are there already

    Raises DataError where no group has a decided label.
    """
    sources = [source_of(group, Random(f"{group.id}:{seed}")) for group in groups]
    if not any(source.label is not None for source in sources):
        raise DataError(
            f"none of the {len(groups)} groups has a decided label (of a probability of {SURE} or more): there is "
            "nothing to start from"
        )
    left_out = {} if wanted is not None else unsuited(sources)
    asked = wanted if wanted is not None else {name: Wanted(kind.share) for name, kind in KINDS.items() if kind.usual}
    stated = Statements()
    for group in groups:
        stated.add(group)
    around = Around(sources, RATED_ALIKE * rating_range(groups))
    made: list[Group] = []
    rows = []
    for name, want in asked.items():
        if name not in left_out:
            found, row = make_kind(name, want, sources, around, stated, seed)
            made += found
            rows.append(row)
    before, after = surface_baseline(groups, seed), surface_baseline([*groups, *made], seed)
    report = {
        "groups": len(groups),
        "made": len(made),
        "kinds": rows,
        "left_out": left_out,
        "surface_baseline": {"before": before, "after": after},
    }
    return Augmented(made, report)


def unsuited(sources: Sequence[Source]) -> dict[str, str]:
    """Kinds that the data speaks against, with the reason: made only where they are asked for by name."""
    answers = [text_of(s.group.responses[s.better]) for s in sources if s.better is not None]
    share = sum(map(refuses, answers)) / len(answers)
    if share <= MANY_REFUSALS:
        return {}
    why = f"{share:.0%} of the preferred answers refuse: whether a refusal is needless is what this data is about"
    return {"refusal": why}


def rating_range(groups: Sequence[Group]) -> float:
    rated = [r for group in groups for r in group.ratings or () if r is not None]
    return max(rated) - min(rated) if rated else 0.0


def make_kind(
    name: str, want: Wanted, sources: Sequence[Source], around: Around, stated: Statements, seed: int
) -> tuple[list[Group], dict[str, Any]]:
    """Up to the wanted number of groups of one kind, and its part of the report."""
    kind = KINDS[name]
    verdict = want.verdict or kind.verdict
    target = round(want.share * len(sources))
    found: list[Group] = []
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    examples: list[dict[str, Any]] = []
    order = sorted(range(len(sources)), key=lambda i: (unit_hash(f"{name}\0{sources[i].group.id}", seed), i))
    for i in order:
        if len(found) >= target:
            break
        source = sources[i]
        if kind.english and not may_be_english(source):
            reasons["the words to add are English, the text is not"] += 1
            continue
        made = kind.make(source, around, Random(f"{name}:{source.group.id}:{seed}"), PROBABILITY[verdict])
        if isinstance(made, str):
            reasons[made] += 1
            continue
        fate = stated.fate(made)
        if fate:
            counts[fate] += 1
            continue
        tagged = replace(made, tags={**made.tags, TAG: name}, note=f"{name}, made from group {source.group.id}", id="")
        stated.add(tagged)
        found.append(tagged)
        if len(examples) < EXAMPLES:
            examples.append(example(source, tagged, verdict))
    return found, {
        "kind": name,
        "verdict": verdict,
        "wanted": target,
        "made": len(found),
        "conflicts": counts["conflicts"],
        "repeats": counts["repeats"],
        "not_applicable": sum(reasons.values()),
        "reasons": dict(reasons.most_common()),
        "examples": examples,
    }


def may_be_english(source: Source) -> bool:
    """False for a group in another language, as far as it is recognised, or in another script."""
    group = source.group
    answer = group.responses[source.better if source.better is not None else 0]
    language = language_of(f"{text_of(group.prompt[-1:])}\n{text_of(answer)}")
    return language in (ENGLISH, NO_WORDS) or language.startswith("Latin script")


def example(source: Source, made: Group, verdict: str) -> dict[str, Any]:
    """The beginning of what was made, and its end, where edits often are."""
    first, second = (text_of(response) for response in made.responses[:2])
    return {
        "source": source.group.source,
        "prompt": snippet(text_of(made.prompt[-1:])),
        "answer": snippet(first),
        "other": snippet(second),
        "other_ends": snippet(second[-100:]),
        "states": "tie" if verdict == "tie" else "answer over other",
    }


class Statements:
    """What is said of which texts, to find contradictions. White space and the order of rows play no part, and case
    does only where two answers differ in nothing else."""

    def __init__(self) -> None:
        self.said: dict[tuple[int, int, int], set[int]] = {}

    def add(self, group: Group) -> None:
        for key, sign in self._statements(group):
            self.said.setdefault(key, set()).add(sign)

    def fate(self, group: Group) -> str:
        """ "conflicts", "repeats" (nothing is new), or "" where the group can be added."""
        known = [(self.said.get(key, set()), sign) for key, sign in self._statements(group)]
        if any(said - {sign} for said, sign in known):
            return "conflicts"
        return "repeats" if all(said for said, _ in known) else ""

    def _statements(self, group: Group) -> Iterator[tuple[tuple[int, int, int], int]]:
        """(prompt, first, second) by hash, and 1 where the first is better, -1 where the second is, 0 for a tie."""
        prompt = of_texts(group.prompt)
        keys = [of_texts(response) for response in group.responses]
        for p in group.preferences:
            a, b = keys[p.chosen], keys[p.rejected]
            if a == b:
                a, b = (of_texts(group.responses[i], cased=True) for i in (p.chosen, p.rejected))
            sign = 0 if p.is_tie else 1
            yield ((prompt, a, b), sign) if a <= b else ((prompt, b, a), -sign)


def of_texts(messages: Messages, *, cased: bool = False) -> int:
    """A number that is the same for the same turns, without regard to white space, and to case unless `cased`. Within
    one run only."""
    return hash(tuple((m.role, " ".join((m.content if cased else m.content.casefold()).split())) for m in messages))
