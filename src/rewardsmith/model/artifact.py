"""Save and load a reward model as a folder that other tools load as it is.

    config.json          <Arch>ForSequenceClassification, num_labels 1, problem_type regression, pad_token_id
    model.safetensors    the trunk and `score.weight` [1, hidden]
    tokenizer files      with the chat template that was used
    reward_model.json    render contract, resolved config, data fingerprints, metrics, parity figures

A folder appears under its name only when it is complete: it is written beside it and renamed.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import ConfigError, ModelError
from rewardsmith.last_layer import FOLDER as LAPLACE
from rewardsmith.model.load import Base, first_line, forget_quantization, head_of, load_base, refuse_layers_between
from rewardsmith.model.meta import FORMAT, META, read_meta
from rewardsmith.model.reward_model import RewardModel, rows_of
from rewardsmith.progress import say
from rewardsmith.text.pack import PackedBatch, pack, pack_rows
from rewardsmith.text.render import Encoded, RenderConfig, Renderer

PARITY_ROWS = 32
# Rows for the parity figures where no data is at hand: short, long, multi-turn.
PROBE = tuple(
    Group(prompt=tuple(Message(*turn) for turn in prompt), responses=tuple((Message("assistant", r),) for r in answers))
    for prompt, answers in (
        ([("user", "What is the capital of Australia?")], ["Canberra.", "Sydney, the largest city of the country."]),
        (
            [("user", "Hello!"), ("assistant", "Hi, how can I help?"), ("user", "Write one sentence about rain.")],
            ["Rain fell all night on the tin roof.", "No.", "rain rain rain " * 30],
        ),
    )
)


# -- loading ------------------------------------------------------------------------------------------------


def load_reward_model(
    path: str,
    *,
    max_response_length: int | None = None,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> tuple[RewardModel, Renderer, dict[str, Any]]:
    """(model, renderer, metadata) of an artifact, or of any sequence classifier with one output.

    The artifact's own render contract is used; `max_response_length` replaces that one part of it. Raises
    ModelError for a folder that is no reward model: a head is never made up here.
    """
    meta = read_meta(path)
    if isinstance(meta.get("members"), list):
        raise ModelError(
            f"{path} is an ensemble of {len(meta['members'])}; name a member: {Path(path) / meta['members'][0]}"
        )
    base = load_base(path, dtype=dtype, trust_remote_code=trust_remote_code)
    if base.head is None:
        raise ModelError(f"{path} has no reward head; train one with: rewardsmith train --model {path} --data FILE")
    contract = meta.get("render", {})
    render = render_config(meta, max_response_length=max_response_length, otherwise=default_max_length(base))
    renderer = Renderer(base.tokenizer, render)
    for key, what in (("template_sha256", "chat template"), ("vocabulary_sha256", "tokenizer")):
        stated, found = contract.get(key), getattr(renderer.contract, key)
        if stated and stated != found:
            raise ModelError(
                f"{path}: the {what} is not the one this model was trained with "
                f"(sha256 {found[:12]}, {META} says {stated[:12]}); restore the tokenizer files"
            )
    model = build(base, pooling=meta.get("pooling"))
    return model.eval(), renderer, meta


def render_config(
    meta: dict[str, Any], *, max_response_length: int | None = None, otherwise: int = 1024
) -> RenderConfig:
    """The length policy that an artifact's contract states; `otherwise` is the limit where it states none."""
    contract = meta.get("render", {})
    return RenderConfig(
        max_length=contract.get("max_length") or otherwise,
        max_response_length=max_response_length or contract.get("max_response_length"),
        overlong=contract.get("truncation", "cut-prompt"),
    )


def default_max_length(base: Base) -> int:
    """For a model without a contract: what it was built for, within reason."""
    limit = getattr(base.trunk.config.get_text_config(), "max_position_embeddings", None) or 4096
    return max(8, min(int(limit), 4096))


def export_reward_model(
    path: str, output: str, *, dtype: str = "bfloat16", overwrite: bool = False, trust_remote_code: bool = False
) -> dict[str, Any]:
    """Write the reward model at `path` again with weights of `dtype`; returns the copy's metadata."""
    model, renderer, meta = load_reward_model(path, trust_remote_code=trust_remote_code)
    probe = renderer.encode(PROBE)

    def copy_posterior(folder: Path) -> None:
        if meta.get("laplace"):
            shutil.copytree(Path(path) / LAPLACE, folder / LAPLACE)

    return save_reward_model(
        model,
        renderer,
        output,
        meta=meta,
        probe=probe,
        dtype=getattr(torch, dtype),
        overwrite=overwrite,
        extra=copy_posterior,
    )


def build(base: Base, pooling: Any = None) -> RewardModel:
    """A RewardModel around a loaded base, its head kept where it has one."""
    model = RewardModel(base.trunk, pooling=pooling)
    if base.head is not None:
        if base.head_bias is not None and bool(base.head_bias.any()):
            model.value_head = nn.Linear(base.head.shape[1], 1, bias=True, dtype=torch.float32)
            model.value_head.bias.data.copy_(base.head_bias)
        model.value_head.weight.data.copy_(base.head)
    return model


# -- saving -------------------------------------------------------------------------------------------------


def save_reward_model(
    model: RewardModel,
    renderer: Renderer,
    output: str | Path,
    *,
    meta: dict[str, Any] | None = None,
    probe: Sequence[Encoded] = (),
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    extra: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Write the artifact and return its metadata.

    probe   groups on which packed, padded, single-row and reloaded rewards are compared and recorded
    dtype   the dtype of the stored weights (None keeps the trunk's)
    extra   writes further files into the folder before it appears
    """
    merged = merge_adapters(model)
    stock = stock_classifier(merged)
    state = None if dtype is None else _cast(stock, dtype)
    meta = {
        "format": FORMAT,
        **(meta or {}),
        "pooling": merged.pooling,
        "path": merged.path,
        "path_reason": merged.path_reason,
        "render": renderer.contract.to_dict(),
        "dtype": str(dtype or merged.trunk.dtype).removeprefix("torch."),
    }
    with replacing(output, overwrite=overwrite) as folder:
        stock.config.dtype = dtype or merged.trunk.dtype
        with writing_tensors(folder):
            stock.save_pretrained(folder, state_dict=state)
        renderer.tokenizer.save_pretrained(folder)
        write_for_older_readers(folder)
        if probe:
            meta["parity"] = parity(merged, probe, folder)
            warn_if_not_at_par(meta["parity"], meta["dtype"])
        if extra is not None:
            extra(folder)
        (folder / META).write_text(json.dumps(meta, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return meta


@contextmanager
def writing_tensors(place: Path) -> Iterator[None]:
    """safetensors reports a full disk as an error of its own kind: one line, as for any other file."""
    try:
        yield
    except SafetensorError as error:
        raise ModelError(f"{place} cannot be written: {first_line(error)}") from None


def write_for_older_readers(folder: Path) -> None:
    """State in the old places too what transformers 5 keeps in new ones.

    Version 4 (which peers still pin) reads rope_theta at the top level, silently takes 10000 where it is not
    there, and does not know the class name TokenizersBackend. Version 5 reads both places alike.
    """
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    older = older_rope(config.get("rope_parameters") or {})
    if older:
        config_file.write_text(json.dumps({**older, **config}, indent=2) + "\n", encoding="utf-8")
    file = folder / "tokenizer_config.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    for traces_of_this_machine in ("is_local", "local_files_only", "name_or_path"):
        tokenizer.pop(traces_of_this_machine, None)
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
        tokenizer.setdefault("model_input_names", ["input_ids", "attention_mask"])
    file.write_text(json.dumps(tokenizer, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def older_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """rope_parameters in the words of transformers 4 (Gemma 3 has one set per kind of layer)."""
    full, local = rope.get("full_attention", rope), rope.get("sliding_attention", {})
    older = {key: full[key] for key in ("rope_theta", "partial_rotary_factor") if key in full}
    if full.get("rope_type", "default") != "default":
        older["rope_scaling"] = {k: v for k, v in full.items() if k not in ("rope_theta", "partial_rotary_factor")}
    if "rope_theta" in local:
        older["rope_local_base_freq"] = local["rope_theta"]
    return older


def stock_classifier(model: RewardModel) -> PreTrainedModel:
    """transformers' own <Arch>ForSequenceClassification around our trunk and head (no copy of the weights)."""
    config = model.trunk.config
    cls: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if cls is None:
        raise ModelError(f"transformers has no sequence classifier for {config.model_type}; it cannot be saved")
    config.num_labels = 1
    config.problem_type = "regression"
    config.architectures = [cls.__name__]
    config.id2label, config.label2id = {0: "reward"}, {"reward": 0}
    # CrossEncoder puts a sigmoid on one output unless told otherwise; the reward is the raw number.
    config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.0.0"}
    with torch.device("meta"):
        stock = cls(config)
    setattr(stock, stock.base_model_prefix, model.trunk)
    name, head = head_of(stock)
    refuse_layers_between(stock, name)
    own = nn.Linear(head.in_features, 1, bias=head.bias is not None)
    own.weight = model.value_head.weight
    if own.bias is not None:
        own.bias.data.zero_()
        if model.value_head.bias is not None:
            own.bias.data.copy_(model.value_head.bias.data)
    setattr(stock, name, own)
    return stock.eval()


def merge_adapters(model: RewardModel) -> RewardModel:
    """The same model with its LoRA weights merged into a copy of the trunk; without LoRA, the model itself."""
    trunk: Any = model.trunk
    if not hasattr(trunk, "merge_and_unload"):
        return model
    whole = copy.deepcopy(trunk).merge_and_unload()
    if getattr(whole, "is_quantized", False):
        whole = whole.dequantize()  # QLoRA: the artifact holds plain weights
        forget_quantization(whole)
    merged = RewardModel(whole, pooling=model.pooling, path=model.path)
    merged.value_head = model.value_head
    return merged.eval()


def _cast(stock: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in stock.state_dict().items()}


@torch.no_grad()
def parity(model: RewardModel, probe: Sequence[Encoded], folder: Path) -> dict[str, Any]:
    """The largest absolute differences in reward between the ways to score the same rows.

    reloaded is transformers' own class, read back from `folder`, one padded batch, right padding.
    """
    kept, n = [], 0
    for item in probe:
        if n + len(item.token_ids) > PARITY_ROWS:
            break
        kept.append(item)
        n += len(item.token_ids)
    kept = kept or list(probe[:1])
    was_training = model.training
    model.eval()
    device = model.value_head.weight.device
    batch = pack(kept).to(device)
    reference = model(batch=batch)
    rows = rows_of(batch)
    path = model.path
    model._use("padded")
    ways = {"padded": model._forward_rows(rows)}
    model._use(path)
    ways["single_row"] = torch.cat([model(batch=_one(row).to(device)) for row in rows])
    ways["reloaded"] = _reloaded(folder, rows, device)
    model.train(was_training)
    differences = {name: float((values.float() - reference).abs().max()) for name, values in ways.items()}
    return {
        "n_rows": len(rows),
        "reward_spread": float(reference.std()) if len(rows) > 1 else 0.0,
        "max_difference": differences,
        "tolerance": max(differences.values()),
    }


def warn_if_not_at_par(figures: dict[str, Any], dtype: str) -> None:
    """Say loudly where transformers' own class, read back from the folder, gives other rewards."""
    allowed = 0.01 if dtype == "float32" else 0.2  # share of the rewards' spread: rounding is far below
    if figures["tolerance"] > allowed * max(figures["reward_spread"], 1e-3):
        say(
            f"warning: other ways to score this folder differ by {figures['tolerance']:.2g} "
            f"(rewards spread {figures['reward_spread']:.2g}): use it through rewardsmith only"
        )


def _one(row: Sequence[int]) -> PackedBatch:
    return pack_rows([[row]])


def _reloaded(folder: Path, rows: list[list[int]], device: torch.device) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(folder).to(device).eval()
    longest = max(map(len, rows))
    pad = model.config.get_text_config().pad_token_id
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return model(input_ids=ids, attention_mask=mask).logits[:, 0]


class replacing:
    """A context that yields a temporary folder beside `output` and renames it there when all went well.

    Raises ConfigError where `output` exists, is not empty, and may not be overwritten.
    """

    def __init__(self, output: str | Path, *, overwrite: bool = False) -> None:
        self.output = Path(output)
        if self.output.exists() and not self.output.is_dir():
            raise ConfigError(f"output {str(self.output)!r} is a file; give a folder")
        if self.output.is_dir() and any(self.output.iterdir()) and not overwrite:
            raise ConfigError(f"output folder {str(self.output)!r} is not empty; give another, or --overwrite")
        self.folder = self.output.with_name(f".{self.output.name}.writing-{os.getpid()}")

    def __enter__(self) -> Path:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return self.folder

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        for file in self.folder.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        old = self.output.with_name(f".{self.output.name}.old-{os.getpid()}")
        if self.output.exists():
            os.rename(self.output, old)
        os.rename(self.folder, self.output)
        shutil.rmtree(old, ignore_errors=True)
