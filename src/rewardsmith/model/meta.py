"""What an artifact says of itself: its reward_model.json. Light to import: verbs that only look need no torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rewardsmith.errors import ModelError

META = "reward_model.json"
FORMAT = 1


def read_meta(path: str | Path) -> dict[str, Any]:
    """The artifact's reward_model.json, or {} for a folder that another tool wrote."""
    file = Path(path) / META
    if not file.is_file():
        return {}
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from None
    if meta.get("format", 0) > FORMAT:
        raise ModelError(
            f"{file} is of format {meta['format']}; this version reads up to {FORMAT}: upgrade rewardsmith"
        )
    return meta


def write_note(path: str, **notes: Any) -> None:
    """Replace what an artifact's metadata says under these names. ModelError where `path` is no artifact."""
    file = Path(path) / META
    if not file.is_file():
        raise ModelError(
            f"{path} is no artifact (no {META} there): write one with rewardsmith export {path} --output DIR"
        )
    meta = read_meta(path) | notes
    writing = file.with_name(f".{META}.writing-{os.getpid()}")
    try:
        writing.write_text(json.dumps(meta, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(writing, file)
    finally:
        writing.unlink(missing_ok=True)
