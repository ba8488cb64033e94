"""Results of other verbs as sections, and the card: the hub's own reader takes it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rewardsmith.errors import DataError, ModelError
from rewardsmith.evaluation.evaluate import evaluate_rows
from rewardsmith.report.audit_section import probe_of
from rewardsmith.report.card import code, model_card, plain
from rewardsmith.report.known import read_artifact, read_results, trained_on
from rewardsmith.report.run_page import Known, findings
from rewardsmith.report.sections import sections
from tests.report.test_run_page import CASES, META, Page

STRONG = {"name": "<b>praise", "effect_sd": 0.5, "low": 0.4, "high": 0.6, "p_adjusted": 0.01, "placebo_sd": 0.1}
GATE = {
    "passed": False,
    "failed": [{"what": "padding", "key": "max_effect_sd", "threshold": 0.3, "reason": "0.5 is above it"}],
}


def test_audit_is_ranked_escaped_and_claimed() -> None:
    weak = {"name": "heading", "effect_sd": 0.1, "low": -0.1, "high": 0.3}
    [section] = sections([("audit.json", {"probes": [weak, STRONG], "gate": GATE})])
    assert Page(section.body).open == []
    assert section.body.index("&lt;b&gt;praise") < section.body.index("heading")
    assert "<b>praise" not in section.body
    assert "The gate is not passed" in section.body
    assert "padding: max_effect_sd 0.3" in section.body
    assert "1 of 2 probes finds a fault" in section.body
    assert "+0.50 SD" in section.weak[0]
    assert "heading" not in section.weak[0]


@pytest.mark.parametrize("change", [{"low": -0.1}, {"p_adjusted": 0.2}, {"effect_sd": None}, {"high": None}])
def test_an_effect_needs_interval_and_p(change: dict[str, float | None]) -> None:
    assert probe_of(STRONG).shown
    assert not probe_of(STRONG | change).shown


def test_a_row_that_says_whether_it_is_a_fault_is_believed() -> None:
    assert not probe_of(STRONG | {"fault": False}).fault
    assert probe_of(STRONG | {"effect_sd": None, "fault": True}).fault
    assert probe_of(STRONG).fault


@pytest.mark.parametrize("result", [{"other": 1}, {"probes": [{"effect_sd": 1}]}, {"probes": 3}, {"probes": ["x"]}])
def test_other_shapes_are_named(result: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"--with x\.json"):
        sections([("x.json", result)])


@pytest.mark.parametrize("text", ["[1]", "{", None])
def test_result_files_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "a.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match="--with"):
        read_results([str(file)])


def test_artifact_records(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no artifact"):
        read_artifact(tmp_path)
    (tmp_path / "reward_model.json").write_text('{"format": 1}')
    assert read_artifact(tmp_path).curve == ()
    (tmp_path / "training_metrics.jsonl").write_text('{"step": 1}\n')
    assert read_artifact(tmp_path).curve == ({"step": 1},)
    (tmp_path / "reward_model.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        read_artifact(tmp_path)


def test_training_files_are_recognised_by_their_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    meta = {"data": {"train": {"files": [{"sha256": hashlib.sha256(b"a").hexdigest()}]}}}
    files = [str(tmp_path / "a"), str(tmp_path / "b"), "hub/name"]
    assert trained_on(files, meta) == [str(tmp_path / "a")]


def test_the_hub_reads_the_card() -> None:
    from huggingface_hub import ModelCard

    groups, rewards = CASES["good"]
    known = Known(
        title="A model",
        meta=META,
        evaluation=evaluate_rows(groups, rewards, draws=100),
        groups=groups,
        rewards=rewards,
        measured_on=["held.jsonl"],
    )
    data = ModelCard(model_card(known, findings(known), license="mit")).data
    assert (data.license, data.pipeline_tag, data.library_name) == ("mit", "text-classification", "transformers")
    assert data.base_model == "some-hub/small-model"
    assert data.tags == ["reward-model", "rewardsmith"]
    assert data.eval_results is not None
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    assert [value for name, value in values.items() if name and name.startswith("Accuracy, 95%")] == [0.9]
    assert {result.dataset_name for result in data.eval_results} == {"held.jsonl"}


def test_card_of_a_local_base_names_none_to_the_hub() -> None:
    known = Known(title="t", meta={"base_model": "/folder/model"}, evaluation={})
    card = model_card(known, findings(known))
    assert "base_model" not in card
    assert "model-index" not in card
    assert "license: unknown" in card


def test_names_are_no_markdown() -> None:
    assert plain("<b>_x_ | `y`") == r"\<b\>\_x\_ \| \`y\`"
    assert code("a|b`\nc") == r"`a\|b' c`"
    assert code("") == "(empty)"
