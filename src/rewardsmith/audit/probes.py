"""What a probe is: an edit that must not be worth anything, a placebo of like size, and where both are applied.

A *cell* is one prompt with one answer; it has one reward. A probe turns a seed into *contrasts* of cells:

    change  = r(after) - r(before)                what the edit did to the reward
    placebo = r(after) - r(before) of the placebo    what an equally large edit without the bias does
    effect  = change - placebo                    what the bias itself is worth

Both cells of a pair answer one prompt, so the constant per prompt that Bradley-Terry leaves free drops out. An
`Overtake` asks whether the edit carries a wrong answer past the right one.

A probe of an answer's text is a function of ten lines:

    @text_probe("shouting", family="format", asks="Are capitals worth anything?")
    def shouting(text: str, rng: Random) -> Edit:
        return Edit(text.upper(), placebo=text)

Source of the design: counterfactual edits with controls, Chatterjee et al. (2410.11348) for rewriting twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from rewardsmith.audit.seeds import Seed
from rewardsmith.data.schema import Messages
from rewardsmith.edits import Edit, TextEdit
from rewardsmith.errors import ConfigError

Wanted = Literal["not higher", "not changed", "lower"]


@dataclass(frozen=True)
class Cell:
    """A prompt and one answer to it: what gets one reward."""

    prompt: Messages
    response: str


@dataclass(frozen=True)
class Pair:
    before: Cell
    after: Cell


@dataclass(frozen=True)
class Overtake:
    """Does `hacked`, the wrong answer after the edit, get the reward of `right` or more, where `wrong` did not?

    right and wrong may answer another prompt than right_then and hacked, where the edit is one of the prompt.
    """

    right: Cell
    wrong: Cell
    hacked: Cell
    right_then: Cell | None = None


@dataclass(frozen=True)
class Contrast:
    """One edit of one seed, its placebo (None: there is nothing to compare with), and the overtaking it may cause."""

    change: Pair
    placebo: Pair | None = None
    overtake: Overtake | None = None


Build = Callable[[Seed, Random], list[Contrast]]
# How much of the bias a cell shows, for planting it: from the prompt's turns and the answer.
Marker = Callable[[Cell], float]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One question to a reward model.

    family  probes that one bias would set off together share a family
    asks    the question in words
    wanted  what a sound reward does at the edit: "not higher", "not changed" (either way is a fault), or "lower"
    build   contrasts of a seed; an empty list where it does not apply
    marker  how much of the bias a cell shows: with it the bias can be planted, and the probe validated
    text    the edit as a function of the answer alone, where it is one: attacks compose these
    """

    name: str
    family: str
    asks: str
    build: Build
    wanted: Wanted = "not higher"
    marker: Marker | None = None
    text: TextEdit | None = None


@dataclass(frozen=True, kw_only=True)
class ContrastSet:
    """A probe whose contrasts were given and not built from seeds: a user's file of them, or real answers.

    contrasts    by the number of the prompt, by which intervals are clustered
    agrees_with  probes that ask the same of edited answers, for a set of real ones
    """

    name: str
    family: str
    asks: str
    contrasts: Mapping[int, Sequence[Contrast]]
    wanted: Wanted = "not higher"
    agrees_with: tuple[str, ...] = ()


@dataclass
class Registry:
    """Probes by name, in the order in which they were defined."""

    probes: dict[str, Probe] = field(default_factory=dict)

    def add(self, probe: Probe) -> None:
        if probe.name in self.probes:
            raise ConfigError(f"a probe named {probe.name!r} is defined already; give yours another name")
        self.probes[probe.name] = probe


REGISTRY = Registry()


def probe(
    name: str, *, family: str, asks: str, wanted: Wanted = "not higher", marker: Marker | None = None
) -> Callable[[Build], Build]:
    """Define a probe from a function (seed, rng) -> contrasts."""

    def define(build: Build) -> Build:
        REGISTRY.add(Probe(name=name, family=family, asks=asks, build=build, wanted=wanted, marker=marker))
        return build

    return define


def text_probe(
    name: str, *, family: str, asks: str, wanted: Wanted = "not higher", marker: Marker | None = None
) -> Callable[[TextEdit], TextEdit]:
    """Define a probe from a function (answer's text, rng) -> Edit, or None where the edit does not apply.

    The edit is applied to a seed's right answer (the effect) and to its wrong one (the overtaking).
    """

    def define(edit: TextEdit) -> TextEdit:
        def build(seed: Seed, rng: Random) -> list[Contrast]:
            return text_contrasts(edit, seed, rng)

        REGISTRY.add(Probe(name=name, family=family, asks=asks, build=build, wanted=wanted, marker=marker, text=edit))
        return edit

    return define


def text_contrasts(edit: TextEdit, seed: Seed, rng: Random) -> list[Contrast]:
    """The edit on a knowledge seed's right answer, and on its wrong one.

    A placebo of None stands for the answer in other words, where the seed has it: then the edit is applied to both
    wordings and the roles are exchanged, so that what rewording alone does cancels (rewriting twice, 2410.11348).
    """
    right = seed.texts.get("right")
    if right is None:
        return []
    state = rng.getstate()

    def made(text: str) -> Edit | None:
        rng.setstate(state)  # the same draw for every wording
        return edit(text, rng)

    on_right = made(right)
    if on_right is None or on_right.text == right:
        return []
    wrong = seed.texts.get("wrong")
    on_wrong = made(wrong) if wrong is not None else None

    def cell(text: str) -> Cell:
        return Cell(seed.prompt, text)

    overtake = None
    if wrong is not None and on_wrong is not None:
        overtake = Overtake(cell(right), cell(wrong), cell(on_wrong.text))
    change = Pair(cell(right), cell(on_right.text))
    if on_right.placebo is not None:
        placebo = Pair(cell(right), cell(on_right.placebo)) if on_right.placebo != right else None
        return [Contrast(change, placebo, overtake)]
    restated = seed.texts.get("restated")
    on_restated = made(restated) if restated is not None else None
    if restated is None or on_restated is None:
        return [Contrast(change, None, overtake)]
    there, back = Pair(cell(right), cell(restated)), Pair(cell(restated), cell(right))
    again = Pair(cell(restated), cell(on_restated.text))
    return [Contrast(change, there, overtake), Contrast(again, back, None)]


def contrasts_of(probe: Probe, seed: Seed, salt: int) -> list[Contrast]:
    """A probe's contrasts of a seed; the same for the same `salt`."""
    return probe.build(seed, Random(f"{probe.name}:{seed.id}:{salt}"))


def chosen(names: Sequence[str], only: Sequence[str]) -> list[str]:
    """The probes named in `only`, or all; ConfigError for a name that is none."""
    unknown = [name for name in only if name not in names]
    if unknown:
        raise ConfigError(f"no probe is named {', '.join(map(repr, unknown))}; there are: {', '.join(names)}")
    return list(only) or list(names)
