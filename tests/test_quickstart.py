"""The quickstart's audit and pressure on scorers whose faults are known, and the whole line on a tiny model."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from rewardsmith import quickstart
from rewardsmith.data.readers import read_groups
from rewardsmith.scoring import FunctionScorer
from tests.tiny import tiny_tokenizer, tiny_trunk


def test_the_short_audit_finds_what_a_reward_of_length_pays_for():
    audited = quickstart._audit(FunctionScorer(lambda prompt, response: len(response)), quiet=True)
    assert [row["name"] for row in audited["probes"]] == list(quickstart.PROBES)
    lines = quickstart._audit_lines(audited)
    assert len(lines) == 1 + len(quickstart.PROBES)
    assert next(line for line in lines if "say nothing" in line).endswith("raises the reward, should not")
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize(("sign", "says"), [(1, "Gold still rises"), (-1, "Do not optimise")])
def test_the_pressure_follows_the_ratings(sign, says):
    file = quickstart.bundled_data()
    groups = list(read_groups(file))
    rewards = [sign * np.array(group.ratings, float) for group in groups]
    found = quickstart._pressure(file, groups, rewards)
    assert says in "\n".join(quickstart._pressure_lines(found))


@pytest.mark.slow
def test_the_whole_line(tmp_path):
    AutoModelForCausalLM.from_config(tiny_trunk().config).save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    result = quickstart.quickstart(str(tmp_path / "out"), model=str(tmp_path / "lm"), quiet=True)
    for text in ("Held-out prompts:", "Edits that make an answer no better", "The best of n answers by this reward"):
        assert text in result["summary"]
    assert "What moves the reward that should not" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "How far to optimise" in (tmp_path / "out" / "pressure.html").read_text(encoding="utf-8")
