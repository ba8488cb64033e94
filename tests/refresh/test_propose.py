"""Which pairs are proposed, why, and that nothing is proposed twice."""

from __future__ import annotations

import math
from random import Random

import pytest

from rewardsmith.errors import ConfigError, DataError
from rewardsmith.refresh.propose import ProposeOptions, look, propose, quotas
from rewardsmith.refresh.reasons import KINDS, Rewards, candidates
from rewardsmith.refresh.records import NewPrompt, NewResponse
from rewardsmith.refresh.store import open_store
from tests.refresh.conftest import turns

WORDS = [f"word{i}" for i in range(500)]


@pytest.fixture
def lite(tmp_path):
    with open_store(tmp_path / "store.sqlite", create=True) as opened:
        yield opened


def words(seed, n=12):
    return " ".join(Random(seed).sample(WORDS, n))


def said(store, n=10, new=3, base=2, policy="rl-1", round=1, text=words):
    """`n` prompts; answers of the base policy in round 0 and of a new one in `round`."""
    asked = store.add_prompts(NewPrompt(messages=turns(f"{words(f'q{i}')}")) for i in range(n)).ids
    for name, k, at in (("base", base, 0), (policy, new, round)):
        store.add_responses(
            NewResponse(prompt_id=p, messages=turns(text(f"{name} {p} {j}"), "assistant"), policy=name, round=at)
            for p in asked
            for j in range(k)
        )
    return asked


def run(store, rewards=None, **options):
    chosen = ProposeOptions(**options)
    return propose(store, look(store, chosen, "base"), chosen, rewards, now=1.0)


def rated(store, rate, std=None):
    return Rewards("rm", {r.id: (rate(r), None if std is None else std(r)) for r in store.responses()})


def test_the_budget_is_shared_as_told(store):
    said(store, 20)
    found = run(store, budget=20, new_new=0.5, new_base=0.3, contested=0.0, random=0.2)
    assert found["kinds"] == {"new-new": 10, "new-base": 6, "contested": 0, "random": 4}
    assert (found["added"], found["before"], found["round"], found["policies"]) == (20, 0, 1, ["rl-1"])
    queue = store.open_comparisons()
    assert len(queue) == 20
    assert {pair.kind for pair in queue[:4]} == {"new-new", "new-base", "random"}, "kinds are mixed in the queue"
    for pair in queue:
        policies = {pair.a.policy, pair.b.policy}
        assert policies == ({"base", "rl-1"} if pair.kind == "new-base" else {"rl-1"})
        assert pair.why
    assert max(sum(p.prompt.id == q.prompt.id for q in queue) for p in queue) <= 2


def test_proposing_again_adds_what_is_missing(store):
    said(store, 20)
    assert run(store, budget=10)["added"] == 10
    assert run(store, budget=10)["added"] == 0
    more = run(store, budget=15)
    assert (more["before"], more["added"]) == (10, 5)
    assert store.counts(1.0).comparisons == 15


def test_a_killed_proposal_made_again_is_the_same(tmp_path):
    found = []
    for name in ("whole", "again"):
        with open_store(tmp_path / name, create=True) as store:
            said(store, 20)
            run(store, budget=12, seed=3)
            found.append([(p.a.text, p.b.text, p.why, p.overlap) for p in store.open_comparisons()])
    assert found[0] == found[1]


def test_the_closest_calls_come_first(lite):
    said(lite, 10, new=2, base=0)
    gaps = {p.id: 0.1 * i for i, p in enumerate(lite.prompts())}
    seen = {}

    def rate(response):
        seen[response.prompt_id] = seen.get(response.prompt_id, 0) + 1
        return gaps[response.prompt_id] if seen[response.prompt_id] == 1 else 0.0

    run(lite, rated(lite, rate), budget=3, new_new=1, new_base=0, contested=0, random=0)
    queue = lite.open_comparisons()
    assert [gaps[pair.prompt.id] for pair in queue] == [0.0, 0.1, 0.2]
    assert "P = 0.50" in queue[0].why
    assert "P = 0.55" in queue[2].why
    assert 1 / (1 + math.exp(-0.2)) == pytest.approx(0.55, abs=0.005)


def test_the_largest_gains_over_the_base_policy_come_first(lite):
    said(lite, 10, new=1, base=1)
    rewards = rated(lite, lambda r: float(r.prompt_id) if r.policy == "rl-1" else 0.0)
    run(lite, rewards, budget=2, new_new=0, new_base=1, contested=0, random=0)
    assert [pair.prompt.id for pair in lite.open_comparisons()] == [10, 9]
    assert "rates it 10.00 higher" in lite.open_comparisons()[0].why


def test_what_is_contested_is_high_and_unsure(lite):
    said(lite, 10, new=3, base=0)
    by_prompt: dict[int, list[int]] = {}
    for r in lite.responses():
        by_prompt.setdefault(r.prompt_id, []).append(r.id)
    first = {ids[0] for ids in by_prompt.values()}
    second = {ids[1] for ids in by_prompt.values()}
    # The first answer of each prompt is rated high; it is unsure where the prompt's number is even.
    rewards = rated(
        lite,
        lambda r: 5.0 if r.id in first else 1.0 if r.id in second else -1.0,
        lambda r: 3.0 if r.id in first and r.prompt_id % 2 == 0 else 0.1,
    )
    found = run(lite, rewards, budget=10, new_new=0, new_base=0, contested=1, random=0)
    queue = lite.open_comparisons()
    assert [pair.prompt.id % 2 for pair in queue] == [0] * 5
    assert all({pair.a.id, pair.b.id} <= first | second for pair in queue), "against the runner-up"
    assert "its members disagree" in queue[0].why
    assert any("5 pairs fewer than the budget" in warning for warning in found["warnings"])


def test_without_spreads_others_take_the_share(lite):
    said(lite, 20)
    found = run(lite, rated(lite, lambda r: 0.0), budget=10)
    assert (found["added"], found["kinds"]["contested"]) == (10, 0)
    assert any("contested: 2 pairs fewer" in w and "how sure it is" in w for w in found["warnings"])


def test_without_a_base_policys_answers(lite):
    said(lite, 20, base=0)
    found = run(lite, budget=10)
    assert (found["added"], found["kinds"]["new-base"]) == (10, 0)
    assert any("has no answers to these prompts" in w for w in found["warnings"])


def test_near_duplicates_are_passed_over(lite):
    def alike(name):
        return words("same", 30) + (" extra" if name.endswith("1") else "")

    said(lite, 5, new=2, base=0, text=alike)
    found = run(lite, budget=5)
    assert found["added"] == 0
    assert found["passed_over"]["two answers that are nearly the same"] > 0


def test_a_prompt_that_is_asked_twice_gives_one_pair(lite):
    for end in ("", " please"):
        (prompt,) = lite.add_prompts([NewPrompt(messages=turns(words("q", 40) + end))]).ids
        lite.add_responses(
            NewResponse(prompt_id=prompt, messages=turns(words(side, 40) + end, "assistant"), policy="new", round=1)
            for side in "xy"
        )
    found = run(lite, budget=5)
    assert found["added"] == 1
    assert found["passed_over"]["nearly repeats a pair of the round"] == 1
    assert run(lite, budget=5)["added"] == 0, "nor on a second try"


def test_long_prompts_do_not_make_pairs_alike(lite):
    (prompt,) = lite.add_prompts([NewPrompt(messages=turns(words("q", 400)))]).ids
    lite.add_responses(
        NewResponse(prompt_id=prompt, messages=turns(words(f"answer {j}"), "assistant"), policy="new", round=1)
        for j in range(4)
    )
    assert run(lite, budget=2)["added"] == 2


def test_a_pair_that_nearly_repeats_an_earlier_rounds(lite):
    (prompt,) = lite.add_prompts([NewPrompt(messages=turns("q"))]).ids
    for round, end in ((1, ""), (2, " indeed")):
        lite.add_responses(
            NewResponse(prompt_id=prompt, messages=turns(words(side, 40) + end, "assistant"), policy="new", round=round)
            for side in "xy"
        )
    assert run(lite, budget=5, round=1)["added"] == 1
    again = run(lite, budget=5, round=2)
    assert (again["added"], again["passed_over"]["nearly repeats a pair of its prompt"]) == (0, 1)


def test_a_random_share_is_not_thinned_out_by_the_others(lite):
    said(lite, 30, new=2, base=0)
    rewards = rated(lite, lambda r: float(r.id % 7))
    found = run(lite, rewards, budget=30, new_new=0.5, new_base=0, contested=0, random=0.5, per_prompt=1)
    assert found["kinds"] == {"new-new": 15, "new-base": 0, "contested": 0, "random": 15}
    blind = {(p.a.id, p.b.id) for p in lite.open_comparisons() if p.kind == "random"}
    seen = look(lite, ProposeOptions(), "base")
    expected = candidates(type(seen)(**{**seen.__dict__, "old": {}}), None, 0)["random"][:15]
    assert blind == {one.pair for one in expected}, "those that would be drawn without rewards"


def test_several_labels_are_wanted_of_some(lite):
    said(lite, 100, new=2, base=0)
    found = run(lite, budget=100, overlap=3, overlap_share=0.2)
    several = [pair.overlap for pair in lite.open_comparisons()]
    assert set(several) == {1, 3}
    assert found["overlapping"] == several.count(3)
    assert 8 <= several.count(3) <= 32
    assert run(lite, budget=200, overlap_share=0.0)["overlapping"] == 0


def test_a_large_pool_is_drawn_from(lite):
    said(lite, 30, new=2)
    found = run(lite, budget=40, pool=5)
    assert found["prompts"] == 5
    assert found["added"] <= 10


def test_the_last_round_and_its_new_policies(lite):
    said(lite, 3)
    said(lite, 3, base=0, policy="rl-2", round=2)
    assert look(lite, ProposeOptions(), "base").policies == ("rl-2",)
    assert look(lite, ProposeOptions(round=1), "base").policies == ("rl-1",)
    assert look(lite, ProposeOptions(round=0), "base").policies == ("base",)
    with pytest.raises(DataError, match=r"'rl-1' has no answers in round 2 \(there are: rl-2\)"):
        look(lite, ProposeOptions(policies=("rl-1",)), "base")


def test_an_empty_store(lite):
    with pytest.raises(DataError, match="there are: none"):
        look(lite, ProposeOptions(), "base")


@pytest.mark.parametrize("budget", [1, 7, 10, 99])
def test_quotas_add_up(budget):
    shares = ProposeOptions().shares
    assert sum(quotas(budget, shares, {}).values()) == budget
    assert all(abs(n - budget * shares[kind]) < 1 for kind, n in quotas(budget, shares, {}).items())
    assert quotas(budget, shares, dict.fromkeys(KINDS, 1000)) == dict.fromkeys(KINDS, 0)


@pytest.mark.parametrize(
    "options",
    [{"budget": 0}, {"new_new": -0.1}, {"new_new": 0, "new_base": 0, "contested": 0, "random": 0}, {"random": math.nan},
     {"overlap_share": 2.0}, {"per_prompt": 0}, {"answers": 1}, {"answers": 10}],
)  # fmt: skip
def test_options_that_make_no_sense(options):
    with pytest.raises(ConfigError):
        ProposeOptions(**options)
