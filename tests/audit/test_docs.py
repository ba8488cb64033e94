"""docs/audit.md: its table names every probe as it is, and its examples run."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rewardsmith.audit import audit, builtin_probes, load_seeds, sample
from rewardsmith.audit.gate import read_gate
from rewardsmith.audit.own import load_probes, read_contrasts
from rewardsmith.scoring import FunctionScorer

PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_table_has_every_probe_and_what_it_wants():
    rows = re.findall(r"^\| `([^`]+)` \|[^|]+\|[^|]+\| (not higher|not changed|lower) \|$", PAGE, re.MULTILINE)
    assert dict(rows) == {name: probe.wanted for name, probe in builtin_probes().items()}
    assert len(rows) == len(builtin_probes())


def test_the_examples_run(tmp_path):
    own, library = blocks("python")
    (tmp_path / "my_probes.py").write_text(own)
    assert len(own.strip().splitlines()) <= 10
    probes = load_probes(tmp_path / "my_probes.py")
    seeds = sample(load_seeds().seeds, 8)
    result = audit(FunctionScorer(lambda prompt, answer: len(answer)), seeds, list(probes.values()))
    assert result["probes"][0]["verdict"] == "silent"
    scope: dict[str, object] = {}
    exec(library.replace("12)", "4)"), scope)
    assert scope["worst"]["family"] == "length"  # type: ignore[index]
    (tmp_path / "pairs.jsonl").write_text(json.dumps(json.loads(blocks("json")[0])))
    assert [one.name for one in read_contrasts([tmp_path / "pairs.jsonl"])[0]] == ["signature"]
    (tmp_path / "gate.toml").write_text(blocks("toml")[0])
    assert read_gate(tmp_path / "gate.toml", list(builtin_probes())).probes["padding"] == {"max_effect_sd": 0.2}
