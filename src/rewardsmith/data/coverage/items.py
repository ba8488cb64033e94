"""Prompts and answers of any file: a target set, a policy's outputs, a benchmark. More forgiving than the readers of
preferences, because nothing is learnt from these rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardsmith.data.fields import messages
from rewardsmith.data.files import data_files, read_rows
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Messages, is_blank, text_of
from rewardsmith.errors import DataError

PROMPT_COLUMNS = ("prompt", "instruction", "question", "query", "messages", "conversation", "text", "input")
ANSWER_COLUMNS = ("response", "completion", "output", "answer", "responses", "completions")


@dataclass(frozen=True)
class Item:
    """A prompt with the answers that its row has, if any."""

    prompt: Messages
    answers: tuple[str, ...]
    source: str


def read_items(paths: Sequence[str]) -> list[Item]:
    """The rows of files that have a prompt: a .txt has one a line, preference files of any shape are read as such, and
    of other tables the column prompt, instruction, question, query, messages, conversation, text or input is taken.

    Raises DataError where a file has none.
    """
    found = []
    for path in paths:
        for file in data_files(path) if not path.endswith(".txt") else [path]:
            items = [item for item in items_of(file) if not is_blank(item.prompt)]
            if not items:
                raise DataError(
                    f"{file}: no prompt is there; give preference files, candidates, a .txt with one prompt a line, or "
                    f"rows with a column {', '.join(PROMPT_COLUMNS[:-1])} or {PROMPT_COLUMNS[-1]}"
                )
            found += items
    return found


def items_of(file: str) -> Iterator[Item]:
    if file.endswith(".txt"):
        yield from lines_of(file)
        return
    try:
        groups = list(read_groups(file))
    except DataError:
        yield from rows_of(file)
        return
    for group in groups:
        yield Item(group.prompt, tuple(map(text_of, group.responses)), group.source)


def lines_of(file: str) -> Iterator[Item]:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as text: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield Item(messages(line, "line", "user"), (), f"{file}:{number}")


def rows_of(file: str) -> Iterator[Item]:
    """Rows of a table that is no preference file; those without a usable prompt are passed over."""
    for row in read_rows(file):
        if row.value is None:
            continue
        prompt = prompt_of(row.value)
        if prompt:
            yield Item(prompt, answers_of(row.value), f"{file}:{row.line}")


def prompt_of(row: Mapping[str, Any]) -> Messages:
    """The first prompt column that can be read; an `input` beside an instruction belongs to it."""
    for name in PROMPT_COLUMNS:
        try:
            prompt = messages(row[name], name, "user") if row.get(name) else ()
        except DataError:
            continue
        if prompt:
            more = row.get("input")
            if name == "instruction" and isinstance(more, str) and more.strip():
                return messages(f"{row[name]}\n\n{more}", name, "user")
            return prompt
    return ()


def answers_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    for name in ANSWER_COLUMNS:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return (value,)
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            return tuple(value)
    return ()
