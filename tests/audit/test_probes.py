"""Every probe builds on the bundled seeds, and an edit and its placebo are of like size."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from random import Random

import pytest

from rewardsmith.audit import Cell, Contrast, Edit, Pair, Seed, audit, builtin_probes, load_seeds, sample
from rewardsmith.audit import dialogue_probes as dialogues
from rewardsmith.audit import text_probes as texts
from rewardsmith.audit.probes import contrasts_of, text_contrasts
from rewardsmith.data.schema import Message
from rewardsmith.edits import AGREEMENT, Twins, key_words, sentences
from rewardsmith.scoring import FunctionScorer

PROBES = builtin_probes()
SEEDS = sample(load_seeds().seeds, None)
NO_TWINS = ("DIALECT", "CONSTANT_TWINS")
TWINS: dict[str, Twins] = {
    name: value
    for module in (texts, dialogues)
    for name, value in vars(module).items()
    if name.isupper() and name not in NO_TWINS and isinstance(value, tuple) and isinstance(value[0], tuple)
}


def test_there_are_probes_and_twins():
    assert len(PROBES) >= 20
    assert len(TWINS) >= 14


@pytest.mark.parametrize("name", TWINS)
def test_a_phrase_and_its_twin_are_of_like_length(name):
    for phrase, neutral in TWINS[name]:
        assert abs(len(neutral) - len(phrase)) <= max(3, 0.15 * len(phrase)), (phrase, neutral)
        assert phrase != neutral


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_builds_on_enough_seeds_and_its_placebo_has_its_size(name):
    probe = PROBES[name]
    built = {seed.id: contrasts_of(probe, seed, 0) for seed in SEEDS}
    assert built == {seed.id: contrasts_of(probe, seed, 0) for seed in SEEDS}, "the same draw gives the same texts"
    contrasts = [contrast for found in built.values() for contrast in found]
    assert sum(bool(found) for found in built.values()) >= 20
    for contrast in contrasts:
        assert contrast.change.before != contrast.change.after
        placebo = contrast.placebo
        # Where the edit is made on another answer too (`restated`), or to the prompt, sizes are not to be alike.
        if probe.text is not None and placebo is not None and probe.family != "length":
            edited, neutral = (len(pair.after.response) for pair in (contrast.change, placebo))
            assert 0.85 <= edited / neutral <= 1.15, contrast


def test_a_text_probe_is_asked_of_knowledge_seeds_alone():
    edited = {seed.kind for seed in SEEDS if contrasts_of(PROBES["padding"], seed, 0)}
    assert edited == {"knowledge"}


@pytest.mark.parametrize("name", [name for name, probe in PROBES.items() if probe.marker and probe.text])
def test_a_marker_sees_its_edit_and_not_the_placebo(name):
    probe = PROBES[name]
    assert probe.marker is not None
    for seed in [seed for seed in SEEDS if seed.kind == "knowledge"][:20]:
        for contrast in contrasts_of(probe, seed, 0):
            gain = probe.marker(contrast.change.after) - probe.marker(contrast.change.before)
            assert gain > 0, contrast.change.after.response
            if contrast.placebo is not None and probe.family != "length":
                assert probe.marker(contrast.placebo.after) == probe.marker(contrast.placebo.before)


PROMPT = (Message("user", "q"),)
SEED = Seed(id="s", kind="knowledge", prompt=PROMPT, texts={"right": "yes", "restated": "aye", "wrong": "no"})


def cell(text: str) -> Cell:
    return Cell(PROMPT, text)


def test_an_edit_without_a_placebo_is_made_on_both_wordings():
    a, b = text_contrasts(lambda text, rng: Edit(text + "+"), SEED, Random(0))
    assert a.change == Pair(cell("yes"), cell("yes+"))
    assert a.placebo == Pair(cell("yes"), cell("aye"))
    assert b == Contrast(Pair(cell("aye"), cell("aye+")), Pair(cell("aye"), cell("yes")))
    assert a.overtake is not None
    assert a.overtake.hacked == cell("no+")


def test_an_edit_that_does_nothing_is_no_contrast():
    assert text_contrasts(lambda text, rng: Edit(text, placebo="x"), SEED, Random(0)) == []


def test_sentences_end_at_marks():
    assert sentences('One is 3.5 m. Two? "Three." e.g. four') == ["One is 3.5 m.", "Two?", '"Three." e.g. four']


def test_key_words_come_in_their_order_in_every_process():
    """A set's order, or that of words within words, is another in each process: no reward would be found again."""
    text = "prefetching fetch fetching reach prefetch reaching fetch"
    assert key_words(text, 9, Random(0)) == ["prefetching", "fetch", "fetching", "reach", "prefetch", "reaching"]
    code = (
        "from rewardsmith.audit import *; from rewardsmith.audit.run import build_contrasts;"
        "import hashlib; seeds = sample(load_seeds().seeds, 8);"
        "built = build_contrasts(list(builtin_probes().values()), seeds);"
        "print(hashlib.sha256(repr(built).encode()).hexdigest())"
    )
    run = partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = {run(env={**os.environ, "PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")}
    assert len(said) == 1


def test_a_liking_for_words_of_agreement_is_seen_by_agreement_and_not_by_belief():
    """A reward for the words alone is the same with and without the user's belief, so `belief` takes it out."""
    words = tuple(phrase for phrase, _ in AGREEMENT)
    scorer = FunctionScorer(lambda prompt, answer: len(answer) % 7 + 10.0 * answer.startswith(words))
    found = audit(scorer, sample(load_seeds().seeds, 12), [PROBES["agreement"], PROBES["belief"]])
    rows = {row["name"]: row for row in found["probes"]}
    assert rows["agreement"]["verdict"] == "rewarded"
    assert rows["agreement"]["overtake_rate"] == 1.0
    assert rows["belief"]["verdict"] == "silent"
    assert rows["agreement"]["family"] == rows["belief"]["family"], "one remedy answers both"
