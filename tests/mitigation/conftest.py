"""A reward model trained on a few pairs from a tiny trunk, with the files that mitigation asks for."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

WORDS = ("paper", "tower", "garden", "window", "letter", "silver", "summer", "basket", "candle", "harbour")


def text(rng: Random, sentences: int) -> str:
    return " ".join(f"The {rng.choice(WORDS)} holds a {rng.choice(WORDS)}." for _ in range(sentences))


def rows(n: int, seed: int) -> list[dict]:
    """Pairs in which the longer answer usually wins."""
    rng = Random(seed)
    return [
        {
            "prompt": f"What of the {rng.choice(WORDS)} {seed}.{i}?",
            "chosen": text(rng, 2 + (i % 5 > 0)),
            "rejected": text(rng, 2),
            "subset": ("plain", "other")[i % 2],
        }
        for i in range(n)
    ]


def write(path: Path, found: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


@pytest.fixture(scope="package")
def place(tmp_path_factory):
    """trunk, rm, train.jsonl, dev.jsonl, candidates.jsonl"""
    from rewardsmith.cli import main
    from tests.tiny import tiny_tokenizer, tiny_trunk

    folder = tmp_path_factory.mktemp("mitigation")
    tiny_trunk().save_pretrained(folder / "trunk")
    tiny_tokenizer().save_pretrained(folder / "trunk")
    write(folder / "train.jsonl", rows(40, 0))
    write(folder / "dev.jsonl", rows(24, 1))
    rng = Random(2)
    write(
        folder / "candidates.jsonl",
        [
            {"prompt": f"And {i}?", "response": text(rng, k), "gold": float(k == 2)}
            for i in range(6)
            for k in (1, 2, 3, 4)
        ],
    )
    words = ["--epochs", "1", "--batch-size", "8", "--learning-rate", "1e-3", "--max-length", "256", "--device", "cpu"]
    files = ["--data", str(folder / "train.jsonl"), "--model", str(folder / "trunk"), "--output", str(folder / "rm")]
    assert main(["train", *files, *words, "--no-token-cache", "--quiet"]) == 0
    return folder
