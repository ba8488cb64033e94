"""What int8 costs: each kind of product alone, and a reward model in int8 compared with itself on held-out pairs.

    python benchmarks/int8_accuracy.py RM HELDOUT... --tune FILE [--rows N] [--limit N] [--work FOLDER] [--json OUT]

The model is exported as ONNX in float32 (which must agree with the model, or the export fails), and that file is made
int8 in three ways: `int8` and `int8-dynamic` of `export`, and "per tensor", which is what onnxruntime's own
quantize_dynamic does with one scale for all activations of a product.

--tune FILE   N rows of these preferences, the first table: one kind of product (q, k, v, ...) in int8 and the rest in
              float32, and how far rewards move, in standard deviations of the rewards: the largest and the mean. No
              held-out pair is needed for it, so that a way can be chosen without them.
HELDOUT       the second table: `compare`'s figures of each file, and of the model in bfloat16, against the model in
              float32. Sizes and seconds of processor time for all pairs stand beside them; packed rows share prompts,
              ONNX computes padded batches.

With --work the float32 file is kept and found again.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from rewardsmith.data.options import ReadOptions
from rewardsmith.data.schema import Group
from rewardsmith.evaluation.compare import compare_rows
from rewardsmith.evaluation.pairs import PairRows, character_lengths, pair_rows
from rewardsmith.model.artifact import PROBE
from rewardsmith.model.onnx_file import FILE, OnnxModel, export_onnx, load_onnx
from rewardsmith.model.onnx_int8 import quantise
from rewardsmith.scorers import OnnxScorer, Precision, load_scorer
from rewardsmith.verbs_common import labelled_groups, score_all
from speed_common import table

TOKENS = 2048  # of a padded batch in the first table
Rows = Sequence[np.ndarray]
Way = Callable[[Path, Path, Rows, Sequence[str] | None], Any]  # float32 file, int8 file, probe rows, nodes


def per_tensor(source: Path, target: Path, probe: Rows, nodes: Sequence[str] | None) -> None:
    chosen = None if nodes is None else list(nodes)
    logging.disable(logging.WARNING)  # it advises a step that changes nothing here, at each call
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, nodes_to_quantize=chosen)


WAYS: dict[str, Way] = {
    "per tensor": per_tensor,
    "int8": lambda source, target, probe, nodes: quantise(source, target, probe, nodes=nodes),
    "int8-dynamic": lambda source, target, probe, nodes: quantise(source, target, probe, dynamic=True, nodes=nodes),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", nargs="*", metavar="HELDOUT")
    parser.add_argument("--tune", help="preferences for the table by kind of product")
    parser.add_argument("--rows", type=int, default=60, help="rows of --tune")
    parser.add_argument("--limit", type=int, help="use the first N groups of HELDOUT only")
    parser.add_argument("--work", type=Path, help="folder for the files; default: a temporary one")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {"model": options.model}
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        whole = exported(options.model, work)
        if options.tune:
            report["kinds"] = by_kind(whole, work, options.tune, options.rows)
        if options.files:
            report["compare"] = compared(options.model, whole, work, options.files, options.limit)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, default=float) + "\n")


def exported(model: str, work: Path) -> Path:
    """The folder with the float32 file."""
    whole = work / "float32"
    if not whole.exists():
        export_onnx(model, str(whole))
    return whole


def made(whole: Path, folder: Path, way: Way, probe: Rows, nodes: Sequence[str] | None = None) -> Path:
    """A copy of the exported folder with the file quantised."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns(f"{FILE}*"))
    way(whole / FILE, folder / FILE, probe, nodes)
    return folder


def rows_of(scorer: OnnxScorer, groups: Sequence[Group]) -> list[np.ndarray]:
    return [row for item in scorer.renderer.encode(groups) for row in item.token_ids]


# Each kind alone -----------------------------------------------------------------------------------


def by_kind(whole: Path, work: Path, tune: str, n_rows: int) -> dict[str, Any]:
    """{kind: {way: {"largest", "mean"}}} differences in standard deviations of the rewards; printed as a table."""
    groups, _, _ = labelled_groups([tune], ReadOptions(), n_rows)
    model, renderer, _ = load_onnx(str(whole))
    scorer = OnnxScorer(model, renderer)
    probe, rows = rows_of(scorer, PROBE), rows_of(scorer, groups)[:n_rows]
    exact = rewards(model, rows)
    found: dict[str, Any] = {}
    for kind, nodes in {**kinds_of(whole / FILE), "all": None}.items():
        found[kind] = {}
        for name, way in WAYS.items():
            folder = made(whole, work / "one-kind", way, probe, nodes)
            moved = np.abs(rewards(OnnxModel(folder, model.pad), rows) - exact) / exact.std(ddof=1)
            found[kind][name] = {"largest": float(moved.max()), "mean": float(moved.mean())}
    shutil.rmtree(work / "one-kind")
    print(f"{len(rows)} rows of {tune}; differences in standard deviations of their rewards: largest (mean)")
    cells = [
        [kind, *(f"{ways[w]['largest']:.3f} ({ways[w]['mean']:.3f})" for w in WAYS)] for kind, ways in found.items()
    ]
    print(table(["in int8", *WAYS], cells))
    return found


def kinds_of(file: Path) -> dict[str, list[str]]:
    """{kind of module: names of its nodes}, of products with constant weights and of embeddings."""
    model = onnx.load(file, load_external_data=False)
    constants = {one.name for one in model.graph.initializer if len(one.dims) == 2 and one.dims[1] > 1}
    kinds: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm", "Gather") and constants & set(node.input):
            scopes = next(ast.literal_eval(p.value) for p in node.metadata_props if p.key.endswith("name_scopes"))
            module = [scope for scope in scopes if "." in scope][-1]
            kinds.setdefault(module.rpartition(".")[2], []).append(node.name)
    return kinds


def rewards(model: OnnxModel, rows: Rows) -> np.ndarray:
    """[R] rewards, in batches of rows of like length."""
    found = np.empty(len(rows))
    part: list[int] = []
    order = sorted(range(len(rows)), key=lambda r: -len(rows[r]))
    for place, r in enumerate(order):
        part.append(r)
        if place + 1 == len(order) or (len(part) + 1) * len(rows[part[0]]) > TOKENS:
            found[part] = model.rewards([rows[i] for i in part])
            part = []
    return found


# The whole model -----------------------------------------------------------------------------------


def compared(model: str, whole: Path, work: Path, files: Sequence[str], limit: int | None) -> dict[str, Any]:
    """Each way against the model in float32, on the pairs of the files; printed as a table."""
    groups, _, _ = labelled_groups(files, ReadOptions(), limit)
    onnx_model, renderer, _ = load_onnx(str(whole))
    probe = rows_of(OnnxScorer(onnx_model, renderer), PROBE)
    places = {"torch, float32": model, "torch, bfloat16": model, "ONNX, float32": str(whole)}
    places |= {
        f"ONNX, {name}": str(made(whole, work / name.replace(" ", "-"), way, probe)) for name, way in WAYS.items()
    }
    rows, found = {}, {}
    for name, place in places.items():
        rows[name], seconds = scored(place, groups, "bfloat16" if "bfloat16" in name else "float32")
        found[name] = {"mib": mib_of(place) / (2 if "bfloat16" in name else 1), "seconds": seconds}
    first = next(iter(places))
    for name in places:
        if name != first:
            found[name] |= {
                "compare": compare_rows(rows[name], rows[first], {}, seed=0),
                **margins(rows[name], rows[first]),
            }
    print(f"{len(groups)} groups of {', '.join(files)}; differences are to {first}")
    heads = ["", "MiB", "seconds", "accuracy", "difference [95%]", "p", "margins moved, sd", "largest"]
    print(table(heads, [line_of(name, one, rows[name]) for name, one in found.items()]))
    return found


def scored(place: str, groups: Sequence[Group], precision: Precision) -> tuple[PairRows, float]:
    """(rows of the pairs, seconds of the processor for scoring); loading is left out."""
    scorer = load_scorer(place, device="cpu", precision=precision, tokens_per_batch=TOKENS)
    scorer.score(groups[:1])
    started = time.process_time()
    scores = score_all(scorer, groups, f"scoring with {place}", quiet=True)
    seconds = time.process_time() - started
    if lost := [s.error for s in scores if s.error]:
        raise SystemExit(f"{len(lost)} groups could not be scored; the first: {lost[0]}")
    return pair_rows(groups, [s.rewards for s in scores], [character_lengths(group) for group in groups]), seconds


def margins(rows: PairRows, exact: PairRows) -> dict[str, float]:
    """How far margins move, in standard deviations of the exact ones."""
    moved_P = (rows.margin_P - exact.margin_P) / exact.margin_P.std(ddof=1)
    return {"margin_sd": float(moved_P.std(ddof=1)), "margin_largest": float(np.abs(moved_P).max())}


def mib_of(place: str) -> float:
    """What the weights take on the disk."""
    files = [file for file in Path(place).iterdir() if file.suffix in (".safetensors", ".onnx", ".data")]
    return sum(file.stat().st_size for file in files) / 2**20


def line_of(name: str, found: Mapping[str, Any], rows: PairRows) -> list[str]:
    own = [name, f"{found['mib']:.0f}", f"{found['seconds']:.1f}"]
    if "compare" not in found:
        return [*own, f"{float((rows.margin_P > 0).mean()):.4f}", "", "", "", ""]
    result = found["compare"]
    gap, p = result["difference"], result["p_value"]
    difference = "-" if gap["low"] is None else f"{gap['value']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]"
    return [
        *own,
        f"{result['a']['accuracy']['value']:.4f}",
        difference,
        "-" if p is None else f"{p:.3f}",
        f"{found['margin_sd']:.3f}",
        f"{found['margin_largest']:.2f}",
    ]


if __name__ == "__main__":
    main()
