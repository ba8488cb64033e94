"""The benchmark's drive, shorter: two people label, the server is killed once, nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("playwright.async_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("answers", "labels"), [(2, 14), (4, 10)])
def test_a_killed_server_loses_and_doubles_nothing(tmp_path: Path, answers: int, labels: int) -> None:
    spec = importlib.util.spec_from_file_location("labelling_faults", ROOT / "benchmarks" / "labelling_faults.py")
    assert spec is not None
    assert spec.loader is not None
    drive = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = drive  # dataclasses look their module up
    spec.loader.exec_module(drive)
    found = asyncio.run(
        drive.run(labels=labels, answers=answers, shared=2, annotators=2, kills=1, away=0.3, seed=1, work=tmp_path)
    )
    assert {
        name: found[name] for name in ("lost", "not_pressed", "wrong", "doubled", "again", "open")
    } == dict.fromkeys(("lost", "not_pressed", "wrong", "doubled", "again", "open"), 0)
    each = answers * (answers - 1) // 2
    assert (found["kept"], found["kills"], found["pages_closed"]) == (labels * each, 1, 2)
