"""The gate: thresholds in a TOML file, held against an audit and an evaluation.

    strict = false              # true: pass only what is shown to keep a threshold

    [default]                   # every probe that has no threshold of its own
    max_effect_sd = 0.5
    max_overtake_rate = 0.5

    [probes.padding]
    max_effect_sd = 0.2

    [best_of_edits]
    max_overtake_rate = 0.6

    [evaluation]                # figures of `rewardsmith evaluate --json`
    min_accuracy = 0.6
    max_ece = 0.1

A threshold fails where the whole 95% interval is beyond it, so that noise fails no gate; with `strict`, where any part
of the interval is. A figure without an interval (ece, nll, brier) is held against the threshold itself.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardsmith.errors import ConfigError

PROBE_KEYS = {  # threshold -> figure and its interval
    "max_effect_sd": ("effect_sd", "low", "high"),
    "max_overtake_rate": ("overtake_rate", "overtake_low", "overtake_high"),
}
BEST_KEYS = ("max_overtake_rate",)
EVALUATION_KEYS = ("min_accuracy", "min_length_matched_accuracy", "max_ece", "max_nll", "max_brier")
TABLES = ("default", "probes", "best_of_edits", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Thresholds by the names that the file gives them."""

    file: str
    default: Mapping[str, float]
    probes: Mapping[str, Mapping[str, float]]
    best_of_edits: Mapping[str, float]
    evaluation: Mapping[str, float]
    strict: bool = False


@dataclass(frozen=True)
class Figure:
    """A number with its interval, if there is one."""

    value: float | None
    low: float | None = None
    high: float | None = None


def read_gate(path: str | Path, probes: Collection[str]) -> Gate:
    """The thresholds of a file; ConfigError, with the line, for a key or probe that is none of `probes`."""
    try:
        content = Path(path).read_text(encoding="utf-8")
        table = tomllib.loads(content)
    except OSError as error:
        raise ConfigError(f"--gate {path}: {error.strerror}") from None
    except ValueError as error:  # TOMLDecodeError, which names the line, and UnicodeDecodeError
        raise ConfigError(f"--gate {path}: {error}") from None

    def refuse(key: str, problem: str) -> ConfigError:
        return ConfigError(f"--gate {path}:{line_of(content, key)}: {problem}")

    def thresholds(found: Any, name: str, known: Iterable[str]) -> dict[str, float]:
        if not isinstance(found, dict):
            raise refuse(name, f"{name} is no table")
        for key, value in found.items():
            if key not in known:
                raise refuse(key, f"unknown key {key!r} in [{name}]; there are: {', '.join(known)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
                raise refuse(key, f"{key} is {value!r}, not a number")
        return {key: float(value) for key, value in found.items()}

    for key in table:
        if key not in (*TABLES, "strict"):
            raise refuse(key, f"unknown key {key!r}; there are: strict, {', '.join(f'[{name}]' for name in TABLES)}")
    strict = table.get("strict", False)
    if not isinstance(strict, bool):
        raise refuse("strict", f"strict is {strict!r}; give true or false")
    named = table.get("probes", {})
    if not isinstance(named, dict):
        raise refuse("probes", "probes is no table")
    for name in named:
        if name not in probes:
            raise refuse(name, f"no probe is named {name!r}; there are: {', '.join(probes)}")
    gate = Gate(
        file=str(path),
        default=thresholds(table.get("default", {}), "default", PROBE_KEYS),
        probes={name: thresholds(found, name, PROBE_KEYS) for name, found in named.items()},
        best_of_edits=thresholds(table.get("best_of_edits", {}), "best_of_edits", BEST_KEYS),
        evaluation=thresholds(table.get("evaluation", {}), "evaluation", EVALUATION_KEYS),
        strict=strict,
    )
    if not (gate.default or any(gate.probes.values()) or gate.best_of_edits or gate.evaluation):
        raise ConfigError(f"--gate {path}: no threshold in it; there are tables {', '.join(TABLES)}")
    return gate


def line_of(content: str, key: str) -> int:
    """The first line that gives or heads `key`; 1 where none does."""
    quoted = rf"[\"']?{re.escape(key)}[\"']?"
    pattern = re.compile(rf"^\s*(?:\[(?:[^\]]*\.)?\s*{quoted}\s*\]|(?:[^=#]*\.)?{quoted}\s*(?:=|\.))")
    lines = enumerate(content.splitlines(), 1)
    return next((number for number, line in lines if pattern.match(line)), 1)


def read_evaluation(path: str | Path) -> dict[str, Any]:
    """The JSON object that `rewardsmith evaluate --json` printed."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--evaluation {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"--evaluation {path}: no JSON: {error}") from None
    if not isinstance(found, dict) or "accuracy" not in found:
        raise ConfigError(f"--evaluation {path}: not what `rewardsmith evaluate --json` prints (it has no 'accuracy')")
    return found


def check_gate(gate: Gate, result: Mapping[str, Any], evaluation: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """{"passed", "failed", "not_checked", "n_checked", "strict", "file"}.

    failed       one dict per threshold: "what", "key", "threshold", "value", "low", "high", "reason"
    not_checked  the same of thresholds whose figure this audit does not have; those that the file names for a probe
                 which was asked and could not be tested have failed instead
    """
    failed: list[dict[str, Any]] = []
    not_checked: list[dict[str, Any]] = []
    n = 0
    for what, key, threshold, figure, asked in _thresholds(gate, result, evaluation):
        n += 1
        row = {"what": what, "key": key, "threshold": threshold, **vars(figure)}
        if figure.value is None:
            (failed if asked else not_checked).append({**row, "reason": "no figure"})
        elif (reason := breach(key, threshold, figure, strict=gate.strict)) is not None:
            failed.append({**row, "reason": reason})
    return {
        "passed": not failed,
        "failed": failed,
        "not_checked": not_checked,
        "n_checked": n - len(not_checked),
        "strict": gate.strict,
        "file": gate.file,
    }


def breach(key: str, threshold: float, figure: Figure, *, strict: bool) -> str | None:
    """Why a figure fails a threshold, or None. Of the interval, the end that speaks for the model counts; with
    `strict` the end that speaks against it."""
    assert figure.value is not None
    most = key.startswith("max_")
    end = figure.low if most != strict else figure.high
    held = figure.value if end is None else end
    if not (held > threshold if most else held < threshold):
        return None
    side = "above" if most else "below"
    if end is None:
        return f"{figure.value:.3f} is {side} {threshold:g}"
    whole = "reaches" if strict else "lies"
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}] {whole} {side} {threshold:g}"


def _thresholds(
    gate: Gate, result: Mapping[str, Any], evaluation: Mapping[str, Any] | None
) -> Iterator[tuple[str, str, float, Figure, bool]]:
    """(what, key, threshold, figure, whether a missing figure is a failure)."""
    rows = {row["name"]: row for row in result["probes"]}
    for name in dict.fromkeys([*rows, *gate.probes]):
        row = rows.get(name)
        own = gate.probes.get(name, {})
        for key, threshold in {**gate.default, **own}.items():
            if row is None or row[PROBE_KEYS[key][0]] is None:
                yield name, key, threshold, Figure(None), row is not None and key in own
            else:
                yield name, key, threshold, _of_probe(row, key), True
    best = result["best_of_edits"]
    for key, threshold in gate.best_of_edits.items():
        yield "best of edits", key, threshold, Figure(best["overtake_rate"], best["low"], best["high"]), False
    for key, threshold in gate.evaluation.items():
        found = (evaluation or {}).get(key[4:])
        value = found if isinstance(found, dict) else {"value": found}
        yield "evaluation", key, threshold, Figure(value.get("value"), value.get("low"), value.get("high")), True


def _of_probe(row: Mapping[str, Any], key: str) -> Figure:
    """The figure of a probe; the size of its effect, where neither direction is right."""
    value, low, high = (row[name] for name in PROBE_KEYS[key])
    if key == "max_effect_sd" and row["wanted"] == "not changed" and value < 0:
        return Figure(-value, None if high is None else -high, None if low is None else -low)
    return Figure(value, low, high)
