"""Tokenised groups, kept on disk under a hash of what they depend on.

    <cache>/tokens/<key>.safetensors    all rows end to end, their lengths, flags; what was dropped and why

The key covers the tokenizer, the template, the render options, and every group's messages: changed data or another
tokenizer has another name, and nothing is ever out of date. A file that cannot be read is made anew. What was
tokenised within a second is not kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rewardsmith.data.schema import Group, content_hash
from rewardsmith.text.render import Encoded, Renderer

FLAGS = ("", "prompt", "response")
WORTH_KEEPING_S = 1.0
LIMIT_BYTES = 2e9  # of all files together; the least recently used go first


def cache_folder(kind: str) -> Path:
    """~/.cache/rewardsmith/KIND, or below XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rewardsmith" / kind


def encode_cached(renderer: Renderer, groups: Sequence[Group]) -> list[Encoded]:
    """`renderer.encode_stream(groups)`, from the disk where the same was tokenised before."""
    file = cache_folder("tokens") / f"{_key(renderer, groups)}.safetensors"
    encoded = _read(file, renderer, groups)
    if encoded is not None:
        return encoded
    first_drop = len(renderer.report.dropped)
    before = asdict(renderer.report)
    started = time.monotonic()
    encoded = list(renderer.encode_stream(iter(groups)))
    if time.monotonic() - started >= WORTH_KEEPING_S:
        report = {
            "groups": renderer.report.groups - before["groups"],
            "prompts_cut": renderer.report.prompts_cut - before["prompts_cut"],
            "responses_cut": renderer.report.responses_cut - before["responses_cut"],
            "dropped": renderer.report.dropped[first_drop:],
        }
        _write(file, encoded, groups, report)
    return encoded


def _key(renderer: Renderer, groups: Sequence[Group]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    tokenizer = renderer.tokenizer
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    words = (renderer.contract.to_dict(), asdict(renderer.config), renderer.folds_system, tokenizer.special_tokens_map)
    digest.update(repr(words).encode())
    for group in groups:
        digest.update(content_hash(group.prompt, group.responses).encode())
        digest.update(repr((group.id, group.source, group.tools, group.template_kwargs)).encode())
    return digest.hexdigest()


def _read(file: Path, renderer: Renderer, groups: Sequence[Group]) -> list[Encoded] | None:
    try:
        with safe_open(file, "np") as stored:
            report = json.loads(stored.metadata()["report"])
            parts = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        os.utime(file)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    renderer.report.groups += report["groups"]
    renderer.report.prompts_cut += report["prompts_cut"]
    renderer.report.responses_cut += report["responses_cut"]
    renderer.report.dropped += report["dropped"]
    rows = np.split(parts["tokens"], np.cumsum(parts["lengths"])[:-1])
    flags = [FLAGS[flag] for flag in parts["flags"].tolist()]
    encoded, start = [], 0
    for g, prefix in zip(parts["groups"].tolist(), parts["prefixes"].tolist(), strict=True):
        end = start + len(groups[g].responses)
        encoded.append(Encoded(groups[g], tuple(rows[start:end]), prefix, tuple(flags[start:end])))
        start = end
    return encoded


def _write(file: Path, encoded: Sequence[Encoded], groups: Sequence[Group], report: dict[str, object]) -> None:
    """A cache that cannot be written is no reason to stop: the next run tokenises again."""
    place = {id(group): g for g, group in enumerate(groups)}
    rows = [row for item in encoded for row in item.token_ids]
    parts = {
        "tokens": np.concatenate(rows) if rows else np.empty(0, dtype=np.int32),
        "lengths": np.array([len(row) for row in rows], dtype=np.int32),
        "flags": np.array([FLAGS.index(flag) for item in encoded for flag in item.truncated], dtype=np.uint8),
        "groups": np.array([place[id(item.group)] for item in encoded], dtype=np.int64),
        "prefixes": np.array([item.prefix_length for item in encoded], dtype=np.int32),
    }
    writing = file.with_name(f".{file.name}.writing-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        save_file(parts, writing, {"report": json.dumps(report)})
        os.replace(writing, file)
        files = sorted(file.parent.glob("*.safetensors"), key=lambda f: f.stat().st_mtime)
        total = sum(f.stat().st_size for f in files)
        for oldest in files[:-1]:
            if total <= LIMIT_BYTES:
                break
            total -= oldest.stat().st_size
            oldest.unlink(missing_ok=True)
    except (OSError, SafetensorError):
        with suppress(OSError):
            writing.unlink()
