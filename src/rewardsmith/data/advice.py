"""The words of `data check`: for each kind of warning what was seen and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rewardsmith.data.ledger import EXAMPLES, Places


class Kind(NamedTuple):
    """A kind of warning. `message` takes {n} and {about}, and {s} for a plural; serious ones come first."""

    serious: bool
    message: str
    action: str


KINDS: dict[str, Kind] = {
    "dropped_rows": Kind(
        True,
        "{n} row{s} cannot be used and {were} left out.",
        "The reasons stand beside the lines: mend the rows, or name the columns with --prompt-key and its kin.",
    ),
    "prompt_mismatch": Kind(
        True,
        "{n} row{s} whose two sides do not answer the same prompt.",
        "A pair is only a preference where both sides answer one prompt: mend the rows or take them out.",
    ),
    "contradictory_labels": Kind(
        True,
        "{n} comparison{s} labelled both ways in different rows{about}.",
        "Settle them, or make each one a soft label: the share of the annotators who preferred the first side.",
    ),
    "intransitive_cycles": Kind(
        True,
        "{n} group{s} whose preferences go round in a circle.",
        "No reward can order such a group: look at its labels, or keep only the pairs you trust.",
    ),
    "identical_preferred": Kind(
        True,
        "{n} group{s} with a preference between two responses that are the same text.",
        "Nothing can be learnt from these pairs: take them out.",
    ),
    "overlap_prompts": Kind(
        True,
        "{n} evaluation group{s} whose prompt is in the training files too{about}.",
        "Take them out of one side; a split by opening turn keeps the sides apart for good.",
    ),
    "overlap_openings": Kind(
        True,
        "{n} evaluation group{s} that open{v} with the same user turn as a training group{about}.",
        "Split by opening turn, so that the turns of one thread do not stand on both sides.",
    ),
    "overlap_near": Kind(
        False,
        "{n} evaluation prompt{s} nearly the same as a training prompt{about}.",
        "Look at the examples: reworded copies make an evaluation too easy.",
    ),
    "surface": Kind(
        False,
        "{about} of the labels, without reading one ({n} pairs).",
        "Train on them knowingly: judge by length-matched accuracy, or bring pairs of like length and form.",
    ),
    "position": Kind(
        True,
        "The better side comes first in {about} of {n} decided pairs, which is not chance.",
        "Ask how the answers were shown: annotators and judges lean to a place. Swap the order and label again.",
    ),
    "only_ties": Kind(
        True, "All {n} pair{s} {are} ties: no pair says which side is better.", "Check the label column."
    ),
    "answers_cut": Kind(
        True,
        "{n} answer{s} would lose text{about}.",
        "Raise --max-length, or leave these groups out: a cut answer is not the one that was judged.",
    ),
    "prompts_cut": Kind(
        False,
        "{n} prompt{s} would lose the oldest tokens{about}.",
        "Raise --max-length if memory allows.",
    ),
    "template_refuses": Kind(
        True,
        "{n} of the sampled groups are refused by the tokenizer's chat template.",
        "Training leaves them out. Templates refuse turns out of order, or roles and tools that they do not know.",
    ),
    "empty_responses": Kind(
        True,
        "{n} group{s} with an empty response.",
        "Keep them only where saying nothing was a real answer that somebody judged.",
    ),
    "empty_prompts": Kind(True, "{n} group{s} with an empty prompt.", "Mend the prompt or take them out."),
    "no_prompt": Kind(
        False,
        "{n} group{s} without a prompt of {its} own: it is part of the responses' text.",
        "Write the prompt into a column or as messages; lengths and chat templates need to know where it ends.",
    ),
    "identical_responses": Kind(
        False,
        "{n} group{s} hold{v} the same response twice.",
        "Harmless where the two are not compared; otherwise take one out.",
    ),
    "duplicates_exact": Kind(
        False,
        "{n} group{s} repeat{v} an earlier one, prompt and responses alike{about}.",
        "Repeats count double in training and leak between splits: keep one, or merge their labels.",
    ),
    "duplicates_near": Kind(
        False,
        "{n} group{s} nearly repeat{v} another{about}.",
        "Look at the examples: templates and growing dialogues look so; splits by opening turn keep them together.",
    ),
    "markup": Kind(
        True,
        "{n} group{s} with the markup of a dialogue or chat template inside the text.",
        "The renderer adds it a second time: strip it, or split the text into messages.",
    ),
    "reader": Kind(False, "{about}", ""),
}


class Warnings:
    """Collects warnings. Kinds that were seen zero times are none."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.found: dict[str, dict[str, Any]] = {}
        self.remarks: list[dict[str, Any]] = []

    def add(
        self,
        kind: str,
        count: int,
        examples: Sequence[tuple[int | str, str]],
        *,
        about: str = "",
    ) -> None:
        """Add `count` sightings; a second call of one kind adds to the first."""
        if not count:
            return
        shown = [{"where": self.where(place), "text": text} for place, text in examples]
        if kind in self.found and kind != "reader":
            count += self.found[kind]["count"]
            shown = [*self.found[kind]["examples"], *shown]
        warning = {
            "kind": kind,
            "level": "serious" if KINDS[kind].serious else "look",
            "count": count,
            "message": sentence(kind, count, about),
            "action": KINDS[kind].action,
            "examples": shown[:EXAMPLES],
        }
        if kind == "reader":
            self.remarks.append(warning)
        else:
            self.found[kind] = warning

    def where(self, place: int | str) -> str:
        return place if isinstance(place, str) else self.places.show(place)

    def sorted(self) -> list[dict[str, Any]]:
        """Serious ones first, then by count."""
        every = [*self.found.values(), *self.remarks]
        return sorted(every, key=lambda w: (w["level"] != "serious", -w["count"]))


def relative(other: str, where: str) -> str:
    """The place `other` as seen from `where`: "line 4" in the same file, else "file:4"."""
    file, _, line = other.rpartition(":")
    return f"line {line}" if file == where.rpartition(":")[0] else other


def sentence(kind: str, count: int, about: str) -> str:
    """The message with its number, in the singular where that is one."""
    one = count == 1
    return KINDS[kind].message.format(
        n=f"{count:,}",
        about=about,
        s="" if one else "s",
        v="s" if one else "",
        were="was" if one else "were",
        are="is" if one else "are",
        its="its" if one else "their",
    )
