"""A user's own probes: a file of contrast pairs, or a Python file with the decorators."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from rewardsmith.audit.probes import REGISTRY, Cell, Contrast, ContrastSet, Pair, Probe, Wanted
from rewardsmith.data.fields import required, text
from rewardsmith.data.files import data_files, read_rows
from rewardsmith.data.parts import prompt_turns
from rewardsmith.data.schema import Messages
from rewardsmith.errors import ConfigError, DataError

Row = dict[str, Any]


def read_contrasts(
    paths: Sequence[str | Path], taken: Collection[str] = ()
) -> tuple[list[ContrastSet], list[dict[str, Any]]]:
    """(one set of contrasts per probe named in the files, dropped rows as {"file", "line", "reason"}).

    A row: {"probe", "prompt" (text or turns), "before", "after", "placebo" (text, if any), "wanted" (if any; the same
    in all rows of a probe)}. Raises ConfigError for the name of a probe that is `taken`, DataError where no row of a
    file can be used.
    """
    found: dict[str, list[tuple[Messages, Contrast]]] = {}
    wanted: dict[str, Wanted] = {}
    dropped = []
    for path in (file for given in paths for file in data_files(given)):
        used = 0
        for raw in read_rows(path):
            try:
                if raw.value is None:
                    raise DataError(raw.reason)
                name = text(required(raw.value, "probe"), "probe")
                prompt, contrast = _contrast_of(raw.value)
                if _wanted_of(raw.value) != wanted.setdefault(name, _wanted_of(raw.value)):
                    raise DataError(f"'wanted' is another than in earlier rows of probe {name!r}")
            except DataError as error:
                dropped.append({"file": path, "line": raw.line, "reason": str(error)})
                continue
            found.setdefault(name, []).append((prompt, contrast))
            used += 1
        if not used:
            raise DataError(f"{path}: no contrast can be used; the first: {dropped[-1]['reason']}")
    clash = sorted(set(found) & set(taken))
    if clash:
        files = ", ".join(map(str, paths))
        raise ConfigError(f"{files}: a probe named {clash[0]!r} is there already; give yours another name")
    return [
        ContrastSet(
            name=name,
            family=name,
            asks=f"contrasts of {', '.join(Path(p).name for p in paths)}",
            wanted=wanted[name],
            contrasts=by_prompt(pairs),
        )
        for name, pairs in found.items()
    ], dropped


def by_prompt(pairs: Sequence[tuple[Messages, Contrast]]) -> dict[int, list[Contrast]]:
    """Contrasts by the number of their prompt, in order of appearance."""
    numbers: dict[Messages, int] = {}
    contrasts: dict[int, list[Contrast]] = {}
    for prompt, contrast in pairs:
        contrasts.setdefault(numbers.setdefault(prompt, len(numbers)), []).append(contrast)
    return contrasts


def load_probes(path: str | Path) -> dict[str, Probe]:
    """The probes that a Python file defines with `@probe` or `@text_probe`. **It runs the file.**

    They are returned and not kept, so that a file may be loaded again. Raises ConfigError where the file cannot be
    run, or defines none.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a Python file with probes")
    spec = importlib.util.spec_from_file_location(f"_probes_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: not a Python file; name it .py")
    before = dict(REGISTRY.probes)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        own = {name: probe for name, probe in REGISTRY.probes.items() if name not in before}
    except Exception as error:  # whatever is wrong in a user's file
        raise ConfigError(f"{path}: {type(error).__name__}: {str(error).partition(chr(10))[0]}") from None
    finally:
        REGISTRY.probes.clear()
        REGISTRY.probes.update(before)
    if not own:
        raise ConfigError(f"{path}: defines no probe; put @text_probe(...) or @probe(...) before a function")
    return own


def _contrast_of(row: Row) -> tuple[Messages, Contrast]:
    prompt = prompt_turns(required(row, "prompt"), "prompt")
    before, after = (text(required(row, key), key) for key in ("before", "after"))
    if before == after:
        raise DataError("'before' and 'after' are the same text")
    placebo = row.get("placebo")
    beside = None
    if placebo is not None and text(placebo, "placebo") != before:
        beside = Pair(Cell(prompt, before), Cell(prompt, text(placebo, "placebo")))
    return prompt, Contrast(Pair(Cell(prompt, before), Cell(prompt, after)), beside)


def _wanted_of(row: Row) -> Wanted:
    value = row.get("wanted") or "not higher"
    if value not in get_args(Wanted):
        raise DataError(f"'wanted' is {value!r}; give one of {', '.join(get_args(Wanted))}")
    return cast(Wanted, value)
