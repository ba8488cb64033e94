"""Prompts to candidates: K completions a prompt, written by a policy, one row each.

    {"prompt_id", "prompt", "response", "base_logprob", "n_tokens", "finish"}

prompt        the text of a single user turn, else the list of messages
base_logprob  log-probability of the response under the policy that wrote it: of its tokens, the closing one included
finish        "stop" (the policy closed its answer) or "length" (it was cut at the longest length)

The policy is a model that transformers loads (base_logprob at the sampling temperature), or an HTTP server that speaks
OpenAI's shape (vLLM and others; base_logprob as the server states it, null where it does not).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewardsmith.data.fields import messages
from rewardsmith.data.files import data_files, read_rows
from rewardsmith.data.readers import read_groups
from rewardsmith.data.schema import Messages, content_hash, is_blank, text_of
from rewardsmith.errors import ConfigError, DataError, Interrupted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK = 8  # prompts sampled and written at a time; an interrupted run goes on at a whole chunk


@dataclass(frozen=True)
class Completion:
    """One sampled completion. `logprob` None: not known. `ids` empty: a server wrote it."""

    text: str
    ids: tuple[int, ...]
    logprob: float | None
    n_tokens: int | None
    finish: str


# K completions of each prompt, in the order of the prompts; the number is the seed of this call.
Sampler = Callable[[Sequence[Messages], int], list[list[Completion]]]


# -- prompts ------------------------------------------------------------------------------------------------


def read_prompts(files: Sequence[str], limit: int | None = None) -> tuple[list[Messages], list[dict[str, Any]]]:
    """(distinct prompts in the order of the files, rows that could not be used).

    A file of rows with `prompt` (text or messages) needs nothing else; a .txt has a prompt a line; of a preference file
    in any other shape the prompts are taken. DataError where no prompt is found.
    """
    found: dict[str, Messages] = {}
    dropped: list[dict[str, Any]] = []
    for path in files:
        for file in data_files(path) if not path.endswith(".txt") else [path]:
            for prompt in _prompts_of(file, dropped):
                if not is_blank(prompt):
                    found.setdefault(content_hash(prompt, ()), prompt)
                if limit is not None and len(found) >= limit:
                    return list(found.values()), dropped
    if not found:
        raise DataError(f"{', '.join(files) or 'no file'}: no prompt is there")
    return list(found.values()), dropped


def _prompts_of(file: str, dropped: list[dict[str, Any]]) -> Iterator[Messages]:
    if file.endswith(".txt"):
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: cannot be read as text: {error}") from None
        yield from (messages(line, "line", "user") for line in lines if line.strip())
        return
    rows = read_rows(file)
    first = next((row.value for row in rows if row.value is not None), None)
    if first is None or "prompt" not in first:
        yield from (group.prompt for group in read_groups(file))
        return
    for row in read_rows(file):
        try:
            if row.value is None:
                raise DataError(row.reason)
            yield messages(row.value.get("prompt"), "prompt", "user")
        except DataError as error:
            dropped.append({"file": file, "line": row.line, "reason": str(error)})


# -- a model of transformers --------------------------------------------------------------------------------


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Messages) -> list[int]:
    """The tokens that the policy goes on from: by its chat template, or the plain text where it has none."""
    if tokenizer.chat_template is None:
        return list(tokenizer(text_of(prompt))["input_ids"])
    turns = [turn.to_dict() for turn in prompt]
    encoded: Any = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=True)
    return list(encoded["input_ids"])


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that close a completion: the tokenizer's, and those that the model declares."""
    declared = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = [] if declared is None else [declared] if isinstance(declared, int) else list(declared)
    own = tokenizer.eos_token_id
    return ids if own is None or own in ids else [own, *ids]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    n: int,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    rows_at_once: int = 32,
    bfloat16: bool = False,
) -> list[list[list[int]]]:
    """Token ids of `n` completions of each prompt, drawn from the whole distribution at `temperature`.

    Each ends with its closing token where it closed itself. The process's random state is left as it was.
    """
    import torch
    from transformers import GenerationConfig

    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    ends = end_ids(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    # Everything is stated: what is not would be taken from the model's own generation settings.
    config = GenerationConfig(
        do_sample=True, temperature=temperature, top_k=0, top_p=1.0, repetition_penalty=1.0, max_new_tokens=max_tokens,
        pad_token_id=pad, eos_token_id=ends or None, disable_compile=True,
    )  # fmt: skip
    order = sorted((i for i in range(len(ids)) for _ in range(n)), key=lambda i: len(ids[i]))  # even batches
    done: list[list[list[int]]] = [[] for _ in ids]
    devices = [model.device] if model.device.type == "cuda" else []
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(seed)
            for start in range(0, len(order), rows_at_once):
                rows = order[start : start + rows_at_once]
                longest = max(len(ids[i]) for i in rows)
                ids_BT = torch.tensor([[pad] * (longest - len(ids[i])) + ids[i] for i in rows], device=model.device)
                mask_BT = torch.tensor([[0] * (longest - len(ids[i])) + [1] * len(ids[i]) for i in rows])
                with torch.autocast(model.device.type, torch.bfloat16, enabled=bfloat16):
                    out_BT = model.generate(  # type: ignore[operator]
                        input_ids=ids_BT, attention_mask=mask_BT.to(model.device), generation_config=config
                    )
                for i, row in zip(rows, out_BT[:, longest:].tolist(), strict=True):
                    done[i].append(_closed(row, ends))
    finally:
        model.train(was_training)
    return done


def _closed(row: list[int], ends: Sequence[int]) -> list[int]:
    """The row up to and with its first closing token."""
    at = next((t for t, token in enumerate(row) if token in ends), len(row))
    return row[: at + 1]


def model_sampler(
    name: str,
    *,
    n: int,
    max_tokens: int,
    temperature: float = 1.0,
    rows_at_once: int = 32,
    device: str = "auto",
    precision: str = "auto",
    trust_remote_code: bool = False,
) -> Sampler:
    """A sampler from a hub name, folder or gguf:PATH."""
    import torch

    from rewardsmith.model.load import load_policy
    from rewardsmith.model.speed import keep_freed_memory
    from rewardsmith.training.optim import resolve_precision

    model, tokenizer = load_policy(name, trust_remote_code=trust_remote_code)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        keep_freed_memory()
    model = model.to(device)  # type: ignore[arg-type]
    bfloat16 = resolve_precision(precision, torch.device(device)) == "bf16"

    def sample(prompts: Sequence[Messages], seed: int) -> list[list[Completion]]:
        return completions_of(
            model, tokenizer, prompts, n, max_tokens=max_tokens, temperature=temperature, seed=seed,
            rows_at_once=rows_at_once, bfloat16=bfloat16,
        )  # fmt: skip

    return sample


def completions_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    n: int,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    rows_at_once: int = 32,
    bfloat16: bool = False,
) -> list[list[Completion]]:
    """`n` completions of each prompt with their log-probabilities, computed anew in one pass over the whole text."""
    from rewardsmith.overoptimization.policy_kl import divergence

    drawn = generate(
        model, tokenizer, prompts, n, max_tokens=max_tokens, temperature=temperature, seed=seed,
        rows_at_once=rows_at_once, bfloat16=bfloat16,
    )  # fmt: skip
    starts = [ids for prompt in prompts for ids in [prompt_ids(tokenizer, prompt)] * n]
    rows = [row for of_prompt in drawn for row in of_prompt]
    logprob = divergence(model, None, starts, rows, temperature=temperature, bfloat16=bfloat16).logprob
    ends = set(end_ids(model, tokenizer))
    flat = [
        Completion(
            str(tokenizer.decode(row, skip_special_tokens=True)), tuple(row), float(logprob[i]), len(row),
            "stop" if row and row[-1] in ends else "length",
        )
        for i, row in enumerate(rows)
    ]  # fmt: skip
    return [flat[start : start + n] for start in range(0, len(flat), n)]


# -- the candidates file ------------------------------------------------------------------------------------


def candidate_rows(prompt: Messages, completions: Sequence[Completion]) -> list[dict[str, Any]]:
    """One row per completion."""
    plain = len(prompt) == 1 and prompt[0].role == "user" and not prompt[0].extra
    shown: Any = prompt[0].content if plain else [turn.to_dict() for turn in prompt]
    return [
        {
            "prompt_id": content_hash(prompt, ()),
            "prompt": shown,
            "response": one.text,
            "base_logprob": one.logprob,
            "n_tokens": one.n_tokens,
            "finish": one.finish,
        }
        for one in completions
    ]


def write_candidates(
    prompts: Sequence[Messages],
    sampler: Sampler,
    output: str | Path,
    *,
    n: int,
    seed: int = 0,
    resume: bool = False,
    identity: dict[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Sample every prompt and write the rows to `output`, in the order of the prompts.

    Rows go to OUTPUT.partial, which is renamed when all are there; with `resume` the whole chunks in it are kept, if
    `identity` (what the rows depend on) is that of before. Chunk c is drawn with seed + c. Ctrl-C raises Interrupted.
    Returns {"prompts", "rows", "resumed_prompts", "cut"}.
    """
    output = Path(output)
    partial, mark = (output.with_name(output.name + end) for end in (".partial", ".partial.json"))
    identity = json.loads(json.dumps(identity or {}))
    if resume and mark.exists():
        before = json.loads(mark.read_text(encoding="utf-8"))
        changed = [key for key in {*before, *identity} if before.get(key) != identity.get(key)]
        if changed:
            raise ConfigError(f"{partial} is of other {' and '.join(sorted(changed))}; --overwrite starts again")
    chunks = -(-len(prompts) // CHUNK)
    done = _keep_chunks(partial, n) if resume else 0
    output.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(identity), encoding="utf-8")
    if progress is not None and done:
        progress(min(done * CHUNK, len(prompts)))
    try:
        with partial.open("ab" if done else "wb") as handle:
            for c in range(done, chunks):
                part = prompts[c * CHUNK : (c + 1) * CHUNK]
                rows = [
                    row
                    for prompt, found in zip(part, sampler(part, seed + c), strict=True)
                    for row in candidate_rows(prompt, found)
                ]
                assert len(rows) == n * len(part), "a sampler gives n completions a prompt"
                handle.write("".join(json.dumps(row) + "\n" for row in rows).encode("utf-8"))
                handle.flush()
                if progress is not None:
                    progress(len(part))
    except KeyboardInterrupt:
        raise Interrupted(f"the candidates so far are in {partial}; go on with --resume") from None
    finished = [json.loads(line) for line in partial.read_text(encoding="utf-8").splitlines()]
    os.replace(partial, output)
    mark.unlink(missing_ok=True)
    return {
        "prompts": len(prompts),
        "rows": len(finished),
        "resumed_prompts": min(done * CHUNK, len(prompts)),
        "cut": sum(row["finish"] == "length" for row in finished),
    }


def _keep_chunks(partial: Path, n: int) -> int:
    """Cut the partial file back to whole chunks of full size; returns how many there are."""
    if not partial.exists():
        return 0
    lines = [line for line in partial.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    whole = len(lines) // (n * CHUNK)
    with partial.open("rb+") as handle:
        handle.truncate(sum(map(len, lines[: whole * n * CHUNK])))
    return whole
