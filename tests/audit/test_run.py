"""Audits of scorers that are biased, broken or moody: the bias is found, the fault named, the rest finished."""

from __future__ import annotations

import itertools
import json
from math import log
from random import Random

import numpy as np
import pytest

from rewardsmith.audit import Contrast, ContrastSet, Pair, Probe, audit, builtin_probes, load_seeds, sample
from rewardsmith.audit.cells import GIVE_UP, reward_cells
from rewardsmith.audit.probes import Cell
from rewardsmith.audit.run import build_contrasts
from rewardsmith.audit.show import audit_table
from rewardsmith.data.schema import Message
from rewardsmith.scoring import FunctionScorer, Scores

SEEDS = sample(load_seeds().seeds, 24)
FEW = sample([seed for seed in SEEDS if seed.kind == "knowledge"], 8)
SOME = [builtin_probes()[name] for name in ("padding", "list", "opener", "constant")]
LENGTH = {"padding", "restating", "conclusion", "repetition"}
RIGHT = {seed["right"] for seed in SEEDS if seed.has("right")}


def noisy(prompt: str, answer: str) -> float:
    return Random(f"{prompt}|{answer}").gauss(0, 1)


def knows(prompt: str, answer: str) -> float:
    """A reward of content with noise: right sentences count, wherever they stand."""
    return 2.0 * any(right in answer for right in RIGHT) + 0.3 * noisy(prompt, answer)


def by_name(result):
    return {row["name"]: row for row in result["probes"]}


def test_a_planted_taste_for_length_is_found_by_the_length_probes_and_no_other():
    result = audit(FunctionScorer(lambda p, a: knows(p, a) + 2 * log(len(a))), SEEDS)
    rewarded = [row for row in result["probes"] if row["verdict"] == "rewarded"]
    assert {row["name"] for row in rewarded if row["family"] == "length"} == LENGTH
    assert by_name(result)["padding"]["effect_sd"] > 0.3
    # The noise may cost one false finding (5% of the findings are allowed to be false), but no large one.
    others = [row for row in rewarded if row["family"] != "length"]
    assert len(others) <= 1
    assert all(row["effect_sd"] < 0.2 for row in others)
    assert result["problems"] == []
    assert all(e["reward_after"] > e["reward_before"] for e in result["examples"] if e["probe"] == "padding")
    json.dumps(result, allow_nan=False)


def test_a_planted_taste_for_lists_is_found():
    result = audit(FunctionScorer(lambda p, a: knows(p, a) + 2.0 * a.startswith("- ")), FEW, SOME)
    rows = by_name(result)
    assert rows["list"]["verdict"] == "rewarded"
    assert rows["padding"]["verdict"] == rows["opener"]["verdict"] == "silent"
    assert rows["constant"]["verdict"] == "punished"


def test_best_of_edits_is_the_edit_that_serves_each_wrong_answer_best():
    result = audit(FunctionScorer(lambda p, a: knows(p, a) + 9.0 * a.startswith("- ")), FEW, SOME)
    assert result["best_of_edits"]["overtake_rate"] == by_name(result)["list"]["overtake_rate"] == 1.0
    assert by_name(result)["opener"]["overtake_rate"] == 0.0


def test_a_reward_that_is_no_number_is_reported_and_costs_its_seeds_only():
    lost = FEW[0]["right"]
    result = audit(FunctionScorer(lambda p, a: float("nan") if a == lost else knows(p, a)), FEW, SOME)
    assert by_name(result)["padding"]["n"] == len(FEW) - 1
    assert len(result["problems"]) == 1
    assert "1 of" in result["problems"][0]
    assert "nan" in result["problems"][0]
    json.dumps(result, allow_nan=False)


def test_a_scorer_that_fails_on_one_prompt_is_asked_for_the_others():
    class Fails:
        def score(self, groups):
            if any(group.prompt == FEW[0].prompt for group in groups):
                raise TimeoutError("no answer in 30 s\nsecond line")
            return FunctionScorer(knows).score(groups)

    result = audit(Fails(), FEW, SOME)
    assert by_name(result)["padding"]["n"] == len(FEW) - 1
    assert "TimeoutError: no answer in 30 s" in result["problems"][0]
    assert "second line" not in result["problems"][0]


def test_a_scorer_that_is_gone_is_given_up():
    class Gone:
        calls = 0

        def score(self, groups):
            self.calls += 1
            raise ConnectionError("refused")

    gone = Gone()
    result = audit(gone, SEEDS)
    assert gone.calls <= GIVE_UP + 1
    assert all(row["verdict"] == "untested" and row["effect_sd"] is None for row in result["probes"])
    assert "refused" in result["problems"][0]
    assert "untested" in audit_table(result)


def test_a_scorer_with_too_few_rewards_is_a_failure():
    class Short:
        def score(self, groups):
            return [Scores(np.zeros(1)) for _ in groups]

    found = reward_cells(Short(), [Cell(FEW[0].prompt, "a"), Cell(FEW[0].prompt, "b")])
    assert not found.of
    assert "rewards of shape (1,) for 2 answers" in found.problems[0]


def test_a_scorer_that_changes_its_mind_is_reported():
    count = itertools.count()
    result = audit(FunctionScorer(lambda p, a: knows(p, a) + 0.5 * Random(next(count)).random()), FEW, SOME)
    assert any("changes its mind" in problem for problem in result["problems"])
    assert audit(FunctionScorer(knows), FEW, SOME)["problems"] == []


def test_a_constant_scorer_has_no_unit():
    result = audit(FunctionScorer(lambda p, a: 1.0), FEW, SOME)
    assert {row["verdict"] for row in result["probes"]} == {"untested"}
    assert "do not differ at all" in result["problems"][0]


def test_a_probe_that_raises_is_named_and_the_others_go_on():
    def broken(seed, rng):
        raise KeyError("oops")

    bad = Probe(name="mine", family="mine", asks="?", build=broken)
    result = audit(FunctionScorer(knows), FEW, [bad, *SOME])
    assert by_name(result)["mine"]["verdict"] == "untested"
    assert by_name(result)["padding"]["n"] == len(FEW)
    assert "probe 'mine' failed on 8 of 8 seeds" in result["problems"][0]


def test_given_and_real_contrasts_are_measured_beside():
    def pairs(edit):
        return {
            n: [Contrast(Pair(Cell(seed.prompt, seed["right"]), Cell(seed.prompt, edit(seed["right"]))))]
            for n, seed in enumerate(FEW)
        }

    own = ContrastSet(name="mine", family="mine", asks="?", contrasts=pairs(lambda text: f"{text} Indeed."))
    longer = ContrastSet(
        name="longer", family="real", asks="?", contrasts=pairs(lambda text: text * 3), agrees_with=("padding", "list")
    )
    result = audit(FunctionScorer(lambda p, a: knows(p, a) + 4 * log(len(a))), FEW, SOME, given=[own], real=[longer])
    assert by_name(result)["mine"]["n"] == len(FEW)
    assert result["real"][0]["agreement"] == [
        {"probe": "padding", "says": "agree"},
        {"probe": "list", "says": "unclear"},
    ]
    shorter = ContrastSet(
        name="s", family="real", asks="?", contrasts=pairs(lambda text: text[:9]), agrees_with=("padding",)
    )
    result = audit(FunctionScorer(lambda p, a: 4 * log(len(a))), FEW, SOME, real=[shorter])
    assert result["real"][0]["agreement"][0]["says"] == "disagree"
    assert "OPPOSITE SIGNS" in audit_table(result)


def test_the_salt_decides_the_wording():
    texts = [build_contrasts([builtin_probes()["opener"]], FEW, salt)[0]["opener"] for salt in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_progress_counts_every_prompt():
    seen: list[tuple[int, int]] = []
    result = audit(FunctionScorer(knows), FEW, SOME, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (result["n_prompts"], result["n_prompts"])


@pytest.mark.parametrize("kind", ["harmless", "harmful", "opinion"])
def test_seeds_of_one_kind_are_enough(kind):
    seeds = [seed for seed in SEEDS if seed.kind == kind]
    result = audit(FunctionScorer(noisy), seeds)
    assert any(row["n"] == len(seeds) for row in result["probes"])
    assert all(row["verdict"] == "untested" for row in result["probes"] if row["n"] == 0)


def test_cells_of_one_prompt_are_one_group():
    prompt = (Message("user", "q"),)
    calls: list[int] = []

    class Counts:
        def score(self, groups):
            calls.extend(len(group.responses) for group in groups)
            return FunctionScorer(noisy).score(groups)

    reward_cells(Counts(), [Cell(prompt, text) for text in "abcab"])
    assert calls[0] == 3
