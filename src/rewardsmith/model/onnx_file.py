"""A reward model as an ONNX file, in float32 or int8, and its rewards through onnxruntime.

    model.onnx           input_ids [rows, tokens], attention_mask [rows, tokens] -> logits [rows, 1]; right padding
    tokenizer files      with the chat template
    reward_model.json    the artifact's, and under "onnx" how far rewards moved on the probe rows

int8 stores weights in 8 bits and computes in float32; int8-dynamic also computes in 8 bits where that is harmless (see
`onnx_int8`). What either costs in accuracy is a question for `compare`, which takes the folder as a reward model.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from rewardsmith.errors import ConfigError, ModelError
from rewardsmith.model.artifact import (
    PROBE,
    load_reward_model,
    merge_adapters,
    render_config,
    replacing,
    stock_classifier,
)
from rewardsmith.model.load import first_line, load_tokenizer
from rewardsmith.model.meta import META, read_meta
from rewardsmith.model.onnx_int8 import quantise
from rewardsmith.text.pack import pack_rows
from rewardsmith.text.render import Renderer

if TYPE_CHECKING:
    from rewardsmith.model.reward_model import RewardModel

FILE = "model.onnx"
TOLERANCE = 1e-3  # of a float32 reward, times the probe rewards' spread where that is larger than 1
Weights = Literal["float32", "int8", "int8-dynamic"]


class _Padded(nn.Module):
    """transformers' own classifier as a function of two tensors."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.stock = stock

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.stock(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        return logits


def export_onnx(path: str, output: str, *, weights: Weights = "float32", overwrite: bool = False) -> dict[str, Any]:
    """Write the reward model at `path` as an ONNX folder; returns its metadata.

    Raises ModelError where the model cannot be exported, or where float32 rewards move by more than the tolerance.
    """
    need("onnx", "onnxscript", "onnxruntime")
    model, renderer, meta = load_reward_model(path)
    rows = [row for item in renderer.encode(PROBE) for row in item.token_ids]
    model = merge_adapters(model)
    wanted = packed_rewards(model, rows)
    pad = int(model.trunk.config.get_text_config().pad_token_id or 0)
    with replacing(output, overwrite=overwrite) as folder:
        _write(model, folder / FILE, rows, pad)
        forms = {} if weights == "float32" else _in_int8(folder / FILE, rows, dynamic=weights == "int8-dynamic")
        found = OnnxModel(folder, pad).rewards(rows)
        moved, spread = float(np.abs(found - wanted).max()), float(wanted.std(ddof=1))
        if weights == "float32" and moved > TOLERANCE * max(spread, 1.0):
            raise ModelError(f"{path}: as ONNX, rewards move by {moved:.2g} (spread {spread:.2f}): it is not written")
        renderer.tokenizer.save_pretrained(folder)
        model.trunk.config.save_pretrained(folder)  # by which transformers knows the tokenizer's class
        figures = {"weights": weights, "max_difference": moved, "reward_spread": spread, "n_rows": len(rows)} | forms
        meta.pop("laplace", None)  # of features, which the file does not give
        whole = {**meta, "render": renderer.contract.to_dict(), "dtype": weights, "pad": pad, "onnx": figures}
        (folder / META).write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return whole


def _write(model: RewardModel, file: Path, rows: Sequence[np.ndarray], pad: int) -> None:
    stock: Any = stock_classifier(model).float()
    stock.set_attn_implementation("eager")
    ids, mask = padded(rows, pad)
    batch, length = torch.export.Dim("rows", min=1, max=4096), torch.export.Dim("tokens", min=2, max=1 << 20)
    with _quietly():
        try:
            torch.onnx.export(
                _Padded(stock).eval(),
                (torch.from_numpy(ids), torch.from_numpy(mask)),
                file,
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # whatever the exporter raises, it is about this architecture
            raise ModelError(
                f"{model.trunk.config.model_type} cannot be exported as ONNX: {first_line(error)}"
            ) from None


def _in_int8(file: Path, rows: Sequence[np.ndarray], *, dynamic: bool) -> dict[str, int]:
    """Replace the file by itself in int8; returns what `quantise` does."""
    whole = file.parent / "whole"
    whole.mkdir()
    for part in file.parent.glob(f"{FILE}*"):  # the weights may lie in a file beside it
        part.rename(whole / part.name)
    with _quietly():
        counts = quantise(whole / FILE, file, rows, dynamic=dynamic)
    shutil.rmtree(whole)
    return counts


class OnnxModel:
    """The file in onnxruntime, on the CPU."""

    def __init__(self, folder: Path, pad: int) -> None:
        need("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(folder / FILE, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has exceptions of its own for every fault
            raise ModelError(f"{folder / FILE} cannot be loaded: {first_line(error)}") from None
        self.pad = pad

    def rewards(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """[R] float64, of one padded batch."""
        ids, mask = padded(rows, self.pad)
        (logits,) = self.session.run(["logits"], {"input_ids": ids, "attention_mask": mask})
        return np.asarray(logits, dtype=np.float64)[:, 0]


def is_onnx(path: str | Path) -> bool:
    return (Path(path) / FILE).is_file()


def load_onnx(path: str, *, max_response_length: int | None = None) -> tuple[OnnxModel, Renderer, dict[str, Any]]:
    """(model, renderer, metadata) of a folder that `export_onnx` wrote."""
    meta = read_meta(path)
    renderer = Renderer(load_tokenizer(path), render_config(meta, max_response_length=max_response_length))
    return OnnxModel(Path(path), int(meta.get("pad", 0))), renderer, meta


def padded(rows: Sequence[np.ndarray], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, mask) [R, longest] int64, padded on the right."""
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), pad, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for r, row in enumerate(rows):
        ids[r, : len(row)] = row
        mask[r, : len(row)] = 1
    return ids, mask


@torch.inference_mode()
def packed_rewards(model: RewardModel, rows: Sequence[np.ndarray]) -> np.ndarray:
    return model(batch=pack_rows([list(rows)])).double().numpy()


def need(*packages: str) -> None:
    """ConfigError where a package is not installed."""
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} is not installed; run: pip install 'rewardsmith[onnx]'")


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporter narrates its steps; only what it raises is of interest."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), suppress(SystemExit):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
