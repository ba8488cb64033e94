"""What int8 weights cost: a reward model as ONNX in float32 and in int8, compared with itself on held-out pairs.

    python benchmarks/int8_accuracy.py RM HELDOUT... [--limit N] [--work FOLDER] [--json OUT]

The two files are exported (the float32 one must agree with the model, or the export fails), and `compare` scores the
pairs with the model and with each: accuracies, their difference with its interval, the pairs on which they disagree,
and how far margins move. Size on the disk and seconds of scoring on this machine stand beside them. The figure that
matters is the interval of int8's difference: whether the loss is small enough is for its reader to say.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.options import ReadOptions
from rewardsmith.data.schema import Group
from rewardsmith.evaluation.compare import compare_rows
from rewardsmith.evaluation.pairs import PairRows, character_lengths, pair_rows
from rewardsmith.model.onnx_file import export_onnx
from rewardsmith.scorers import load_scorer
from rewardsmith.verbs_common import labelled_groups, score_all
from speed_common import table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--limit", type=int, help="use the first N groups only")
    parser.add_argument("--work", type=Path, help="folder for the two files; default: a temporary one")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    groups, _, _ = labelled_groups(options.files, ReadOptions(), options.limit)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        places = {"torch, float32": options.model}
        for weights in ("float32", "int8"):
            places[f"ONNX, {weights}"] = str(Path(folder) / weights)
            export_onnx(options.model, places[f"ONNX, {weights}"], weights=weights)
        rows, seconds = {}, {}
        for name, place in places.items():
            rows[name], seconds[name] = scored(place, groups)
        sizes = {name: mib_of(place) for name, place in places.items()}
    first = next(iter(places))
    results = {name: compare_rows(rows[name], rows[first], {}, seed=0) for name in places if name != first}
    for name, result in results.items():
        moved_P = np.abs(rows[name].margin_P - rows[first].margin_P)
        spread = float(rows[first].margin_P.std())
        result["margins"] = f"{float(moved_P.max()):.2g} (their spread is {spread:.2g})"
    lines = [line_of(name, results.get(name), rows[name], sizes[name], seconds[name]) for name in places]
    print(f"{len(groups)} groups of {', '.join(options.files)}; differences are to {first}")
    print(table(["", "MiB", "seconds", "accuracy", "difference [95%]", "p", "largest change of a margin"], lines))
    if options.json:
        report = {"groups": len(groups), "mib": sizes, "seconds": seconds, "compare": results}
        options.json.write_text(json.dumps(report, indent=1, default=float) + "\n")


def scored(place: str, groups: Sequence[Group]) -> tuple[PairRows, float]:
    """(rows of the pairs, seconds of scoring); loading is left out."""
    scorer = load_scorer(place, device="cpu")
    scorer.score(groups[:1])
    started = time.perf_counter()
    scores = score_all(scorer, groups, f"scoring with {place}", quiet=True)
    seconds = time.perf_counter() - started
    if lost := [s.error for s in scores if s.error]:
        raise SystemExit(f"{len(lost)} groups could not be scored; the first: {lost[0]}")
    return pair_rows(groups, [s.rewards for s in scores], [character_lengths(group) for group in groups]), seconds


def mib_of(place: str) -> float:
    """What the weights take on the disk."""
    files = [file for file in Path(place).iterdir() if file.suffix in (".safetensors", ".onnx", ".data")]
    return sum(file.stat().st_size for file in files) / 2**20


def line_of(name: str, result: dict[str, Any] | None, rows: PairRows, mib: float, seconds: float) -> list[str]:
    own = [name, f"{mib:.0f}", f"{seconds:.1f}"]
    if result is None:
        return [*own, f"{float((rows.margin_P > 0).mean()):.4f}", "", "", ""]
    gap, p = result["difference"], result["p_value"]
    difference = "-" if gap["low"] is None else f"{gap['value']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]"
    return [
        *own,
        f"{result['a']['accuracy']['value']:.4f}",
        difference,
        "-" if p is None else f"{p:.3f}",
        result["margins"],
    ]


if __name__ == "__main__":
    main()
