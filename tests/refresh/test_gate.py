"""The gate: each check passes and blocks for its own reason, in words that hold its figures."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rewardsmith.audit.gate import Gate
from rewardsmith.data.schema import Group, Message, Preference
from rewardsmith.errors import ConfigError
from rewardsmith.refresh.gate import Evidence, GateOptions, judge

N = 400


def groups_of(n: int, tag: str = "all") -> list[Group]:
    return [
        Group(
            prompt=(Message("user", f"prompt {tag} {i}"),),
            responses=((Message("assistant", f"good {i}"),), (Message("assistant", f"poor {i}"),)),
            preferences=(Preference(chosen=0, rejected=1),),
            tags={"part": "code" if i % 4 == 0 else "chat"},
        )
        for i in range(n)
    ]


def rewards_of(right: np.ndarray) -> list[np.ndarray]:
    return [np.array([2.0, 0.0]) if r else np.array([0.0, 2.0]) for r in right]


def right_in(share: float, n: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < share


def evidence(new: np.ndarray, released: np.ndarray | None, tag: str = "all") -> Evidence:
    return Evidence(groups_of(len(new), tag), rewards_of(new), None if released is None else rewards_of(released))


def judged(frozen: Evidence, held_out: Evidence | None = None, **options: Any) -> dict[str, Any]:
    more = {key: options.pop(key) for key in ("audit", "released_audit", "thresholds", "temperature") if key in options}
    found = judge(frozen, held_out, GateOptions(**{"max_ece": 1.0, **options}), **more)
    json.dumps(found, allow_nan=False)
    return found


def check(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(c for c in found["checks"] if c["name"] == name)


SAME = right_in(0.8)
BETTER = evidence(right_in(0.9, 200, 1), right_in(0.6, 200, 2), "new")


def test_a_model_that_lost_nothing_and_gained_passes() -> None:
    found = judged(evidence(SAME, SAME), BETTER)
    assert (found["verdict"], found["reasons"]) == ("pass", [])
    assert "above -0.05" in check(found, "frozen tests")["sentence"]
    assert check(found, "new pairs")["sentence"].endswith(": up")


def test_a_regression_blocks_and_is_said_with_its_interval() -> None:
    worse = SAME & right_in(0.7, seed=3)
    found = judged(evidence(worse, SAME), BETTER)
    assert found["verdict"] == "block"
    assert "worse than the released model" in found["reasons"][0]
    low, high = (check(found, "frozen tests")["figures"]["difference"][key] for key in ("low", "high"))
    assert low < high < 0
    assert f"[{low:+.3f}, {high:+.3f}]" in found["reasons"][0]


def test_too_few_tests_block_and_say_how_many_would_do() -> None:
    few = right_in(0.8, 24)
    other = few.copy()
    other[np.flatnonzero(few)[:2]] = False
    other[np.flatnonzero(~few)[:2]] = True
    found = judged(evidence(few, other), BETTER)
    sentence = check(found, "frozen tests")["sentence"]
    assert "a loss of 0.05 is not ruled out; about " in sentence
    needed = int(sentence.split("about ")[1].split()[0])
    assert 24 < needed < 24 * 60
    assert judged(evidence(few, other), BETTER, margin=0.5)["verdict"] == "pass"


def test_one_slice_blocks_where_the_whole_does_not() -> None:
    code = np.arange(N) % 4 == 0
    new = SAME.copy()
    new[code & SAME & right_in(0.3, seed=4)] = False
    new[~code & ~SAME & right_in(0.5, seed=5)] = True
    found = judged(evidence(new, SAME), BETTER, margin=0.1)
    assert check(found, "frozen tests")["ok"]
    assert found["verdict"] == "block"
    assert found["reasons"][0].startswith("slices: worse on part=code (-0.")


def test_new_pairs_have_to_be_up() -> None:
    same = right_in(0.7, 200)
    found = judged(evidence(SAME, SAME), evidence(same, same, "new"))
    assert found["reasons"][0].startswith("new pairs: accuracy 0.")
    assert found["reasons"][0].endswith(": not up")
    barely = same.copy()
    barely[np.flatnonzero(~same)[:1]] = True
    assert judged(evidence(SAME, SAME), evidence(barely, same, "new"))["verdict"] == "pass"
    assert judged(evidence(SAME, SAME), evidence(barely, same, "new"), new_pairs="shown")["verdict"] == "block"
    assert judged(evidence(SAME, SAME), None, new_pairs="skip")["verdict"] == "pass"
    assert "no held-out labelled pair" in judged(evidence(SAME, SAME), None)["reasons"][0]


def test_the_first_model_has_to_beat_a_coin() -> None:
    assert judged(evidence(SAME, None))["verdict"] == "pass"
    found = judged(evidence(right_in(0.5), None))
    assert "not shown to be better than a coin" in found["reasons"][0]


def test_calibration_is_that_of_the_temperature() -> None:
    """Gaps of 2 say 88%, and 80% are right: off by 8 points; at T = 2 / logit(0.8) they say 80%."""
    sure = judged(evidence(SAME, SAME), BETTER, max_ece=0.05)
    assert sure["reasons"][0].startswith("calibration: max_ece: 0.")
    share = SAME.mean()
    fitted = judged(evidence(SAME, SAME), BETTER, max_ece=0.05, temperature=2 / np.log(share / (1 - share)))
    assert fitted["verdict"] == "pass"
    assert check(fitted, "calibration")["figures"]["ece"] < 1e-9


def test_few_pairs_do_not_convict_a_calibrated_model() -> None:
    """Thirty pairs in ten bins are off by about a sixth by chance alone; gaps that mean three times as much are not."""
    rng = np.random.default_rng(0)
    gap = rng.uniform(0.2, 1.5, 30)
    right = rng.random(30) < 1 / (1 + np.exp(-gap))
    groups = groups_of(30)

    def said(scale: float) -> Any:
        rewards = [np.array([g, 0.0]) if r else np.array([0.0, g]) for g, r in zip(scale * gap, right)]
        return check(judged(Evidence(groups, rewards, rewards), BETTER, max_ece=0.05), "calibration")

    fair, sure = said(1.0), said(8.0)
    assert fair["ok"], fair
    assert fair["figures"]["ece"] > 0.05
    assert "more tests would tell" in fair["sentence"]
    assert not sure["ok"], sure


def probe(name: str, effect: float, fault: bool) -> dict[str, Any]:
    return {
        "name": name, "wanted": "not higher", "effect_sd": effect, "low": effect - 0.1, "high": effect + 0.1,
        "overtake_rate": None, "overtake_low": None, "overtake_high": None, "fault": fault,
    }  # fmt: skip


def audit_of(*probes: dict[str, Any], problems: tuple[str, ...] = ()) -> dict[str, Any]:
    best = {"overtake_rate": 0.5, "low": 0.4, "high": 0.6}
    return {"probes": list(probes), "best_of_edits": best, "problems": list(problems)}


def test_only_a_new_fault_blocks() -> None:
    old, new = audit_of(probe("padding", 0.4, True)), probe("refusal", 0.6, True)
    frozen = evidence(SAME, SAME)
    kept = judged(frozen, BETTER, audit=audit_of(probe("padding", 0.5, True)), released_audit=old)
    assert kept["verdict"] == "pass"
    found = judged(frozen, BETTER, audit=audit_of(probe("padding", 0.5, True), new), released_audit=old)
    assert found["reasons"] == ["audit: pays for refusal (+0.60 SD), which the released model does not"]
    assert judged(evidence(SAME, None), audit=audit_of(new))["verdict"] == "pass"
    assert "no answer" in judged(frozen, BETTER, audit=audit_of(problems=("no answer",)))["reasons"][0]


def test_thresholds_of_a_gate_file() -> None:
    gate = Gate(
        file="gate.toml", default={"max_effect_sd": 0.3}, probes={}, best_of_edits={}, evaluation={"min_accuracy": 0.95}
    )
    audit = audit_of(probe("padding", 0.6, True))
    found = judged(evidence(SAME, SAME), BETTER, thresholds=gate, audit=audit, released_audit=audit)
    assert [reason.split(":")[0] for reason in found["reasons"]] == ["calibration", "audit limits"]
    assert "padding max_effect_sd: 0.600 [0.500, 0.700] lies above 0.3" in found["reasons"][1]
    without = judged(evidence(SAME, SAME), BETTER, thresholds=gate)
    assert check(without, "audit limits")["ok"] is None


@pytest.mark.parametrize("options", [{"margin": 1.0}, {"max_ece": 0.0}, {"audit_seeds": 1}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        GateOptions(**options)
