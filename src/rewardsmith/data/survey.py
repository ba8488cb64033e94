"""One pass over a stream of groups: everything `data check` counts, in bounded memory.

`Survey.add` looks at a group once. What can be decided there (an empty answer, a cycle) becomes a `Finding` with
its first places; what needs the other rows (duplicates, contradictions) becomes an entry of a ledger.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rewardsmith.data.ledger import (
    EXAMPLES,
    Columns,
    Ledger,
    Places,
    Reservoir,
    hash_text,
    hash_turns,
    mix,
)
from rewardsmith.data.schema import Group, is_blank, text_of
from rewardsmith.data.split import SHORTEST_PREFIX, common_prefix, opening_of

# Shapes that write the responses in an order of their own. Elsewhere the chosen side is first by definition.
ORDERED = frozenset({"pairwise", "rewardsmith", "nemo", "ultrafeedback", "scored"})
MOST_VALUES = 200  # of one tag that are counted by name
SNIPPET = 160  # characters
# Plain searches first: the pattern is tried on the few texts that hold one of these.
HINTS = ("<|", "INST]", "SYS>>", "_of_turn>", "</s>", "<s>", "\n\nHuman:", "\n\nAssistant:")
MARKUP = re.compile(
    r"<\|\w[\w ]*\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</s>\s*\Z|\A\s*<s>|\n\n(?:Human|Assistant):"
)


@dataclass
class Finding:
    """How often something was seen, and where it was seen first: (place, text) of up to five."""

    count: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)

    def add(self, place: int, text: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((place, snippet(text)))


def snippet(text: str) -> str:
    """The beginning of a text on one line."""
    shown = " ".join(text[: 4 * SNIPPET].split())
    return shown if len(shown) <= SNIPPET else shown[: SNIPPET - 1] + "…"


@dataclass
class Counts:
    """Plain tallies over groups and preferences."""

    groups: int = 0
    pairs: int = 0
    strict: int = 0
    ties: int = 0
    soft: int = 0
    with_margin: int = 0
    with_votes: int = 0
    unanimous: int = 0
    groups_without_pairs: int = 0
    groups_with_ratings: int = 0
    groups_with_tools: int = 0
    k: Counter[int] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    first_chosen: Counter[str] = field(default_factory=Counter)  # by shape
    ordered: Counter[str] = field(default_factory=Counter)


class Survey:
    """What was seen in one stream of groups. `openings` are only kept where an overlap is asked for."""

    def __init__(self, places: Places, seed: int, *, openings: bool = False) -> None:
        self.places = places
        self.counts = Counts()
        self.tags: dict[str, Counter[str]] = {}
        self.findings: dict[str, Finding] = {}
        self.contents, self.comparisons, self.prompts = Ledger(), Ledger(), Ledger()
        self.openings = Ledger() if openings else None
        self.pair_lengths, self.prompt_lengths, self.response_lengths = Columns(2), Columns(1), Columns(1)
        self.sample = Reservoir(seed)

    def found(self, kind: str, place: int, text: str) -> None:
        self.findings.setdefault(kind, Finding()).add(place, text)

    def add(self, group: Group, shape: str = "") -> None:
        """Look at one group that was read from a file of this shape."""
        place = self.places.code(group.source)
        texts = [text_of(response) for response in group.responses]
        prompt = text_of(group.prompt)
        lengths = [len(text) for text in texts]
        self.count(group)
        self.count_preferences(group, shape, lengths)
        self.remember(group, place)
        self.check_texts(group, place, prompt, texts)
        self.prompt_lengths.add(len(prompt))
        for length in lengths:
            self.response_lengths.add(length)
        self.sample.add(group, len(prompt) + sum(lengths))

    def count(self, group: Group) -> None:
        counts = self.counts
        counts.groups += 1
        counts.k[len(group.responses)] += 1
        counts.turns[len(group.prompt)] += 1
        counts.groups_without_pairs += not group.preferences
        counts.groups_with_ratings += group.ratings is not None
        counts.groups_with_tools += bool(group.tools)
        for message in group.prompt:
            counts.roles[message.role] += 1
        for response in group.responses:
            for message in response:
                counts.roles[message.role] += 1
        for name, value in group.tags.items():
            self.count_tag(name, value)

    def count_tag(self, name: str, value: str) -> None:
        values = self.tags.setdefault(name, Counter())
        values[value if value in values or len(values) < MOST_VALUES else "(others)"] += 1

    def count_preferences(self, group: Group, shape: str, lengths: Sequence[int]) -> None:
        counts = self.counts
        first = 0
        strict = 0
        for preference in group.preferences:
            counts.with_margin += preference.margin > 0
            if preference.votes:
                counts.with_votes += 1
                counts.unanimous += len(set(preference.votes)) == 1
            if preference.is_tie:
                counts.ties += 1
                continue
            strict += 1
            counts.soft += preference.probability < 1
            first += preference.chosen < preference.rejected
            self.pair_lengths.add(lengths[preference.chosen], lengths[preference.rejected])
        counts.pairs += len(group.preferences)
        counts.strict += strict
        if shape in ORDERED:
            counts.first_chosen[shape] += first
            counts.ordered[shape] += strict

    def remember(self, group: Group, place: int) -> None:
        """Enter the group's hashes, and check what they say about the group itself."""
        prompt = hash_turns(group.prompt)
        keys = [hash_turns(response) for response in group.responses]
        if not is_blank(group.prompt):  # groups without a prompt do not share one
            self.prompts.add(mix(prompt), place)
        self.contents.add(mix(prompt, *sorted(keys)), place)
        if self.openings is not None:
            self.openings.add(mix(hash_text(opening_of(group))), place)
        edges = [(p.chosen, p.rejected) for p in group.preferences if not p.is_tie]
        alike = 0
        for chosen, rejected in edges:
            a, b = keys[chosen], keys[rejected]
            if a == b:
                alike += 1
            elif a < b:
                self.comparisons.add(mix(prompt, a, b), place, 1)
            else:
                self.comparisons.add(mix(prompt, b, a), place, -1)
        if len(set(keys)) < len(keys):
            self.check_identical(group, place, keys, alike)
        cycle = find_cycle(edges) if len(edges) > 1 else []
        if cycle:
            self.found("intransitive_cycles", place, " > ".join(f"response {k}" for k in cycle))

    def check_identical(self, group: Group, place: int, keys: Sequence[int], alike: int) -> None:
        """Responses of one group that are the same; worse where one of them is preferred to the other."""
        twice = next(k for k, key in enumerate(keys) if key in keys[:k])
        self.found("identical_responses", place, text_of(group.responses[twice]))
        if alike:
            self.found("identical_preferred", place, text_of(group.responses[twice]))

    def check_texts(self, group: Group, place: int, prompt: str, texts: Sequence[str]) -> None:
        """Empty texts, missing prompts, and markup that a chat template would add a second time."""
        if any(not text or text.isspace() for text in texts):
            empty = next(k for k, text in enumerate(texts) if not text or text.isspace())
            self.found("empty_responses", place, f"response {empty} to: {prompt}")
        if not group.prompt:
            self.check_implied(place, texts)
        elif not prompt or prompt.isspace() or not group.prompt[-1].content.strip():
            self.found("empty_prompts", place, f"answered with: {texts[0]}")
        joined = "\0".join((prompt, *texts))
        for hint in HINTS:
            if hint in joined:
                self.check_markup(place, (prompt, *texts))
                break

    def check_markup(self, place: int, texts: Sequence[str]) -> None:
        """The first mark of a chat template in these texts, with its surroundings."""
        mark = next(filter(None, map(MARKUP.search, texts)), None)
        if mark:
            around = mark.string[max(0, mark.start() - 20) : mark.end() + 60]
            self.found("markup", place, f"{mark[0].strip()!r} in: …{around}…")

    def check_implied(self, place: int, texts: Sequence[str]) -> None:
        """A group without a prompt: do its responses at least begin alike?"""
        kind = "no_prompt" if len(common_prefix(texts)) >= SHORTEST_PREFIX else "prompt_mismatch"
        self.found(kind if len(texts) > 1 else "no_prompt", place, texts[0])


def find_cycle(edges: Iterable[tuple[int, int]]) -> list[int]:
    """A shortest-first cycle a > b > ... > a among "better, worse" edges, or [] where there is none."""
    worse: dict[int, set[int]] = {}
    above: Counter[int] = Counter()
    for better, lower in set(edges):
        worse.setdefault(better, set()).add(lower)
        above[lower] += 1
    free = [node for node in worse if not above[node]]
    while free:  # take away whatever nothing (left) is better than
        for lower in worse.pop(free.pop(), ()):
            above[lower] -= 1
            if not above[lower] and lower in worse:
                free.append(lower)
    return min((path_back(worse, node) for node in worse), key=len, default=[])


def path_back(worse: dict[int, set[int]], start: int) -> list[int]:
    """The shortest walk from `start` back to itself, by breadth; all nodes (no walk) sort last."""
    before: dict[int, int] = {}
    wave = [start]
    while wave:
        following = []
        for node in wave:
            for lower in sorted(worse.get(node, ())):
                if lower == start:
                    return walk(before, start, node)
                if lower not in before:
                    before[lower] = node
                    following.append(lower)
        wave = following
    return list(range(len(worse) + 2))  # longer than any cycle: `start` only leads to one


def walk(before: dict[int, int], start: int, end: int) -> list[int]:
    """start > ... > end > start from each node's predecessor."""
    nodes = [end]
    while nodes[-1] != start:
        nodes.append(before[nodes[-1]])
    return [*reversed(nodes), start]


def prompt_and_responses(group: Group) -> str:
    """All of a group's text, for near duplicates; the order of the responses plays no part."""
    return "\n".join((text_of(group.prompt), *sorted(map(text_of, group.responses))))


def prompt_text(group: Group) -> str:
    """A group's prompt, or where it has none the opening that is implied."""
    return text_of(group.prompt) if not is_blank(group.prompt) else opening_of(group)
