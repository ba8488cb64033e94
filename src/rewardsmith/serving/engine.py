"""A reward model ready to serve: texts become rows of tokens here, and what is computed of them becomes scores.

One thread at a time calls `encode` and `texts`: the renderer counts what it cuts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import ConfigError
from rewardsmith.model.artifact import PROBE, read_meta
from rewardsmith.score_cache import model_hash
from rewardsmith.scorers import JointScorer, ModelScorer, Precision, load_scorer
from rewardsmith.scoring import Scores
from rewardsmith.serving.refusals import Refusal
from rewardsmith.text.render import RenderReport

MARK = "zqxv"
ON_CPU, ON_GPU = 2048, 16384  # tokens in a batch: more gains no throughput there, and makes others wait


@dataclass(frozen=True)
class Rows:
    """What one group became: K rows of tokens, and of each what was cut ("", "prompt", "response")."""

    token_ids: tuple[np.ndarray, ...]
    truncated: tuple[str, ...]

    @property
    def n_tokens(self) -> tuple[int, ...]:
        return tuple(map(len, self.token_ids))


class Engine:
    """A loaded model under the name it is served by. `artifact` is a hash of what decides its rewards; `release` says
    which release it is, where releases are followed.
    """

    def __init__(
        self, scorer: ModelScorer, name: str, *, artifact: str | None, meta: dict[str, Any], release: str | None = None
    ) -> None:
        self.scorer, self.name, self.artifact, self.meta, self.release = scorer, name, artifact, meta, release
        self.loaded = int(time.time())
        renderer = scorer.renderer
        if renderer.config.overlong == "error":  # one long group must not cost the others their answer
            renderer.config = replace(renderer.config, overlong="drop")
        rendered = renderer.text((Message("user", "a"),), (Message("assistant", MARK),))
        self.closing = rendered.rpartition(MARK)[2]
        contract = renderer.contract
        self.bos = str(renderer.tokenizer.bos_token) if contract.bos_in_text else ""

    @property
    def max_length(self) -> int:
        """Most tokens of a row."""
        return self.scorer.renderer.config.max_length

    @property
    def n_vocabulary(self) -> int:
        if not self.scorer.models:  # an ONNX file does not say
            return len(self.scorer.renderer.tokenizer)
        embeddings: Any = self.scorer.models[0].trunk.get_input_embeddings()
        return len(embeddings.weight)

    def encode(self, groups: Sequence[Group]) -> list[Rows | str]:
        """Of each group its rows, or why it has none."""
        renderer = self.scorer.renderer
        renderer.report = RenderReport()  # it names every dropped group, and a server runs for months
        encoded = {id(item.group): item for item in renderer.encode(groups)}
        reasons = {d["group"]: d["reason"] for d in renderer.report.dropped}
        found: list[Rows | str] = []
        for group in groups:
            item = encoded.get(id(group))
            if item is None:
                found.append(reasons.get(group.id, "left out by the renderer"))
            else:
                found.append(Rows(tuple(item.token_ids), item.truncated))
        return found

    def texts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Rows of texts that are rendered already, whole: their special tokens are read, bos is there once."""
        if not texts:  # the tokenizer would stumble over it
            return []
        whole = [text if text.startswith(self.bos) else self.bos + text for text in texts]
        ids = self.scorer.renderer.tokenizer(whole, add_special_tokens=False)["input_ids"]
        return [np.asarray(row, dtype=np.int32) for row in ids]

    def closed(self, text: str) -> str:
        """A rendered dialogue that ends as the template ends one, whatever part of that end it has now.

        Blanks behind a special token are the template's; those at the end of the answer itself stay.
        """
        tokenizer = self.scorer.renderer.tokenizer
        ends = tuple(token for token in (tokenizer.pad_token, tokenizer.eos_token, self.closing.strip()) if token)
        while (bare := text.rstrip()).endswith(ends):
            text = next(bare.removesuffix(end) for end in ends if bare.endswith(end))
        return text + self.closing

    def fitted(self, row: np.ndarray, limit: int | None) -> tuple[np.ndarray, str]:
        """A row cut to its last `limit` tokens, never more than the model reads, and whether it was cut."""
        most = self.max_length if limit is None else min(limit, self.max_length)
        return (row, "") if len(row) <= most else (row[-most:], "prompt")

    def check_ids(self, row: Sequence[int]) -> np.ndarray:
        """Token ids of a request as a row; Refusal where one is no token of this model."""
        if not row:
            raise Refusal("empty", "a list of token ids is empty")
        if min(row) < 0 or max(row) >= self.n_vocabulary:
            raise Refusal("invalid", f"token ids must lie in [0, {self.n_vocabulary})")
        return np.asarray(row, dtype=np.int32)

    def scores(self, rows: Rows, values: np.ndarray) -> Scores:
        """Scores of a group from what `reward_batch` gives for its rows."""
        return self.scorer.scores_of(values, rows.truncated, rows.n_tokens)

    def warm_up(self) -> None:
        """Compute something of every kind once: the first request must not pay for it."""
        rows = [item.token_ids for item in self.encode(PROBE) if isinstance(item, Rows)]
        self.scorer.reward_batch(rows)
        length = min(self.max_length, self.scorer.tokens_per_batch)
        self.scorer.reward_batch([[np.resize(rows[0][0], length)]])


def load_engine(
    path: str,
    *,
    name: str | None = None,
    tokens_per_batch: int | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    release: str | None = None,
) -> Engine:
    """The engine of a folder or hub model; code that comes with a model is never run. ConfigError for an ensemble whose
    members read different tokens."""
    import torch

    artifact = model_hash(Path(path)) if Path(path).is_dir() else None
    scorer = load_scorer(path, device=device, precision=precision)
    if isinstance(scorer, JointScorer):
        raise ConfigError(f"{path}: its members read different tokens, and serve has rows of one tokenizer; serve each")
    on_cpu = not torch.cuda.is_available() or device == "cpu"
    scorer.tokens_per_batch = tokens_per_batch or (ON_CPU if on_cpu else ON_GPU)
    return Engine(scorer, name or Path(path).name or path, artifact=artifact, meta=read_meta(path), release=release)
