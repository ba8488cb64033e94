"""The proposal: which remedies answer which faults, how much of each, and what is said of the data."""

from __future__ import annotations

from dataclasses import fields
from random import Random

import pytest

from rewardsmith.audit.run import builtin_probes
from rewardsmith.data.counterfactuals import KINDS
from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.errors import ConfigError, DataError
from rewardsmith.mitigation.plan import CORRELATION, badness, make_plan, worst_of
from rewardsmith.mitigation.remedies import BY_NAME, REMEDIES, taken_of
from rewardsmith.text.render import RenderConfig
from rewardsmith.training.config import TrainConfig
from rewardsmith.training.loss_config import LossConfig
from tests.mitigation.conftest import WORDS, text


def probe(name: str, effect: float, *, fault: bool = True) -> dict:
    known = builtin_probes()[name]
    return {
        "name": name, "family": known.family, "asks": known.asks, "wanted": known.wanted, "effect_sd": effect,
        "low": effect - 0.1, "high": effect + 0.1, "overtake_rate": None, "change_sd": effect, "placebo_sd": 0.0,
        "fault": fault, "verdict": "rewarded",
    }  # fmt: skip


def groups(n: int, *, longer_wins: float = 0.9, tags: bool = True, seed: int = 0) -> list[Group]:
    rng = Random(seed)
    found = []
    for i in range(n):
        short, long = text(rng, 2), text(rng, 4)
        sides = (long, short) if rng.random() < longer_wins else (short, long)
        found.append(
            Group(
                prompt=(Message("user", f"What of the {rng.choice(WORDS)} {i}?"),),
                responses=tuple((Message("assistant", side),) for side in sides),
                preferences=(Preference(chosen=0, rejected=1),),
                tags={"slice": str(i % 2)} if tags else {"slice": "one"},
            )
        )
    return found


def test_the_table_is_sound():
    families = {p.family for p in builtin_probes().values()}
    options = {f.name for cls in (TrainConfig, LossConfig, RenderConfig) for f in fields(cls)}
    for remedy in REMEDIES:
        assert set(remedy.families) <= families | {"*"}, f"{remedy.name} answers a family that no probe has"
        assert (remedy.stage == "data") == (remedy.name in KINDS)
        assert set(remedy.train) <= options
        assert not remedy.strong or KINDS[remedy.name].verdict
    assert len(BY_NAME) == len(REMEDIES)


def test_which_families_no_new_pairs_answer_is_known():
    """What `docs/mitigation.md` names: no pair of the user's own data says what is right there."""
    families = {p.family for p in builtin_probes().values()}
    paired = {family for remedy in REMEDIES if remedy.stage == "data" for family in remedy.families}
    assert families - paired == {
        "confidence", "hedging", "caveats", "jargon", "quotes", "handle", "spaces", "names", "dialect", "compliance",
        "language",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "effect", "word"),
    [
        ("gibberish", 2.0, "broken=0.45:rejected"),
        ("cut off", 0.2, "broken=0.15:rejected"),
        ("no punctuation", 0.6, "careless=0.1:rejected"),
        ("typos", 0.2, "careless=0.05:rejected"),
        ("homoglyphs", 0.2, "careless=0.05:rejected"),
        ("emoji", 0.3, "ornament=0.1:tie"),
        ("opener", 0.9, "ornament=0.2:rejected"),
        ("citation", 0.3, "reference=0.1:rejected"),
        ("injection", 0.3, "appeal=0.1:rejected"),
    ],
)
def test_faults_of_text_and_form_have_pairs_of_their_own(name, effect, word):
    plan = make_plan({"probes": [probe(name, effect)]}, groups(80))
    rows = {row["word"]: row for row in plan["proposals"] if row["stage"] == "data"}
    assert list(rows) == [word]
    assert rows[word]["auto"] == (not word.startswith("ornament")), "what was not shown to help is for people to take"
    assert plan["without_remedy"] == []


def test_faults_are_ranked_by_how_wrong_they_are():
    audit = {"probes": [probe("padding", 0.3), probe("names", -0.7), probe("constant", -0.1), probe("emoji", 0.9),
                        probe("link", 2.0, fault=False)]}  # fmt: skip
    # constant should be lower by half an SD or more, and is by a tenth: 0.4 too high
    assert [row["name"] for row in worst_of(audit)] == ["emoji", "names", "constant", "padding"]
    assert badness(probe("constant", -0.1)) == pytest.approx(0.4)


@pytest.mark.parametrize(("low", "high", "found"), [(0.5, 0.7, True), (-0.7, -0.5, True), (0.3, 0.7, False),
                                                    (-0.5, 0.5, False)])  # fmt: skip
def test_a_strong_correlation_with_length_is_a_fault_of_its_own(low, high, found):
    rho = {"length_correlation": {"within_prompt": {"value": (low + high) / 2, "low": low, "high": high}}}
    assert (CORRELATION in [row["name"] for row in worst_of({"probes": []}, rho)]) == found


def test_larger_effects_are_answered_with_more_pairs_and_lists_with_losses():
    shares = [BY_NAME["list"].wanted(effect) for effect in (0.3, 0.6, 1.5)]
    assert [w.share for w in shares] == pytest.approx([0.1, 0.2, 0.3])
    assert [w.verdict for w in shares] == ["tie", "rejected", "rejected"]


def test_a_plan_proposes_what_fits_and_says_what_has_no_remedy():
    plan = make_plan({"probes": [probe("padding", 1.2), probe("hedging", 0.4)]}, groups(80))
    assert plan["without_remedy"] == ["hedging"]
    proposed = {row["name"]: row for row in plan["proposals"]}
    assert proposed["padding"]["word"] == "padding=0.3:rejected"
    assert proposed["padding"]["figures"]["made"] == 24
    assert "24 new groups beside 80" in proposed["padding"]["cost"]
    assert proposed["padding"]["for"] == ["padding"]
    assert proposed["balance"]["auto"], "length tells nine labels of ten"
    assert "refusal" not in proposed
    assert not proposed["review"]["auto"]
    assert [row["name"] for row in plan["proposals"] if row["auto"]] == [
        t.remedy.name for t in taken_of(["auto"], plan["proposals"])
    ]


def test_the_weight_of_groups_that_state_several_things_is_said():
    plan = make_plan({"probes": [probe("praise", 0.6), probe("padding", 0.3)]}, groups(80))
    cost = {row["name"]: row["cost"] for row in plan["proposals"]}
    assert cost["praise"].startswith("16 new groups beside 80")
    assert cost["praise"].endswith("with the weight of 64"), "four statements each"
    assert "weight" not in cost["padding"]


def test_weights_are_left_alone_where_the_surface_tells_little():
    plan = make_plan({"probes": [probe("padding", 1.2)]}, groups(80, longer_wins=0.5))
    row = next(row for row in plan["proposals"] if row["name"] == "balance")
    assert not row["auto"]
    assert "left out of auto" in row["cost"]


def test_training_options_are_proposed_where_they_fit_and_never_taken_by_auto():
    plan = make_plan({"probes": [probe("padding", 1.2)]}, groups(80, longer_wins=1.0))
    rows = {row["name"]: row for row in plan["proposals"] if row["stage"] == "training"}
    assert set(rows) == {"label-smoothing", "consistency", "odin"}, "length tells the labels: few are doubted"
    assert not any(row["auto"] for row in rows.values())
    assert all("of accuracy" in rows[name]["cost"] for name in ("consistency", "odin"))
    named = {row["name"] for row in make_plan({"probes": [probe("emoji", 1.2)]}, groups(80))["proposals"]}
    assert named & set(rows) == {"label-smoothing"}


def test_a_flip_rate_is_proposed_where_many_labels_are_doubted():
    plan = make_plan({"probes": [probe("padding", 1.2)]}, groups(80, longer_wins=0.8, seed=3))
    rows = {row["name"]: row for row in plan["proposals"]}
    share = rows["review"]["figures"]["share"]
    assert share >= 0.1
    assert f"{share:.0%} of the labels are doubted" in rows["flip-rate"]["cost"]
    assert not rows["flip-rate"]["auto"]


def test_every_training_option_alone_can_be_trained_with():
    for remedy in (remedy for remedy in REMEDIES if remedy.stage == "training"):
        assert taken_of([remedy.name], [])[0].remedy is remedy
        LossConfig(**remedy.train)
        assert not remedy.auto


def test_one_slice_and_no_held_out_pairs_are_said():
    one, two = (make_plan({"probes": []}, groups(10, tags=tags))["warnings"] for tags in (False, True))
    assert any("one slice (slice=one)" in warning for warning in one)
    assert len(two) == 1
    assert "--eval-data" in two[0]


def test_ties_teach_nothing():
    tied = [
        Group(
            prompt=(Message("user", "q"),),
            responses=((Message("assistant", "a"),), (Message("assistant", "b"),)),
            preferences=(Preference(chosen=0, rejected=1, probability=0.5),),
        )
    ]
    with pytest.raises(DataError, match="all 1 pairs are ties"):
        make_plan({"probes": []}, tied)
    with pytest.raises(DataError, match="no group has a preference"):
        make_plan({"probes": []}, [])


def test_words_of_take():
    proposals = make_plan({"probes": [probe("padding", 0.3)]}, groups(80))["proposals"]
    taken = taken_of(["praise", "padding", "balance"], proposals)
    # in the order of the table; padding as proposed, praise as the table has it
    assert [t.word for t in taken] == ["padding=0.1:rejected", "praise=0.1:rejected", "balance"]
    for words in (["auto", "padding=0.5:tie"], ["padding=0.5:tie", "auto"]):
        assert taken_of(words, proposals)[0].word == "padding=0.5:tie"
    assert taken_of(["belief"], [])[0].word == "belief=0.1"
    for word, says in (("magic", "no remedy"), ("bound=1", "no share"), ("padding=2", "no share from 0 to 1")):
        with pytest.raises(ConfigError, match=says):
            taken_of([word], [])
