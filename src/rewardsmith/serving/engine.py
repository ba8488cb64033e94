"""A reward model ready to serve: texts become rows of tokens here, and what is computed of them becomes scores.

One thread at a time calls `encode` and `texts`: the renderer counts what it cuts.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.adjustment import Adjustment, of_artifact
from rewardsmith.aggregation import How
from rewardsmith.data.schema import Group, Message
from rewardsmith.errors import ConfigError
from rewardsmith.model.artifact import PROBE
from rewardsmith.model.meta import read_meta
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

    With `adjusted`, its rewards are the adjusted ones of the artifact; ConfigError where it has none.
    """

    def __init__(
        self,
        scorer: ModelScorer,
        name: str,
        *,
        artifact: str | None,
        meta: dict[str, Any],
        adjusted: bool = False,
        release: str | None = None,
    ) -> None:
        self.scorer, self.name, self.artifact, self.meta, self.release = scorer, name, artifact, meta, release
        self.adjustment, self.adjusted = of_artifact(meta), adjusted
        if adjusted and self.adjustment is None:
            raise ConfigError(
                f"--adjusted: {name} has no adjustment; fit one: rewardsmith calibrate {name} FILE --length"
            )
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
        return self.opened(text) + self.closing

    def opened(self, text: str) -> str:
        """A rendered dialogue, or an answer of one, without the template's end."""
        tokenizer = self.scorer.renderer.tokenizer
        ends = tuple(token for token in (tokenizer.pad_token, tokenizer.eos_token, self.closing.strip()) if token)
        stop = len(text)  # a place, not a shorter text each time: a request may hold a million of these tokens
        while True:
            bare = stop
            while bare and text[bare - 1].isspace():
                bare -= 1
            end = next((end for end in ends if text.endswith(end, 0, bare)), None)
            if end is None:
                return text[:stop]
            stop = bare - len(end)

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

    def scores(self, rows: Rows, values: np.ndarray, answers: Sequence[str | None] = ()) -> Scores:
        """Scores of a group from what `reward_batch` gives for its rows. `answers` are its answers' texts.

        Refusal where the rewards are adjusted by the length of an answer whose text is not known.
        """
        scores = self.scorer.scores_of(values, rows.truncated, rows.n_tokens)
        if self.adjustment is None:
            return scores
        known = [answer for answer in answers if answer is not None]
        if self.adjustment.length is not None and len(known) < len(scores.rewards):
            if self.adjusted:
                raise Refusal(
                    "invalid",
                    "rewards are adjusted by the answer's length here, and a rendered text does not say where the "
                    "answer begins; send messages, or prompt and answer apart",
                )
            return scores
        adjusted_K = self.adjustment(scores.rewards, [len(answer) for answer in known] or np.zeros(len(scores.rewards)))
        with_it = replace(scores, adjusted=adjusted_K)
        return replace(with_it, rewards=adjusted_K, calibrated=None) if self.adjusted else with_it

    def expected(self) -> tuple[float, float]:
        """(centre, spread) of the rewards to come: those of the training responses, or what they are bounded to."""
        bound = self.adjustment.bound if self.adjustment is not None and self.adjusted else None
        if bound is not None and bound.name != "clip":
            return (0.5, 0.25) if bound.name == "sigmoid" else (0.0, 0.5)
        reference = (self.meta.get("normalisation") or {}).get("reference") or {}
        return reference.get("mean", 0.0), reference.get("std") or 2.0

    def warm_up(self, *, longest: bool = True) -> tuple[int, float]:
        """Compute something of every kind once: the first request must not pay for it. Returns the tokens of the last
        batch and its seconds.

        `longest` computes a row as long as one can be too, for the memory it takes; a process that has served a model
        of this kind has done so.
        """
        probe = [item.token_ids for item in self.encode(PROBE) if isinstance(item, Rows)]
        length = min(self.max_length, self.scorer.tokens_per_batch)
        for rows in (probe, [[np.resize(probe[0][0], length)]])[: 2 if longest else 1]:
            before, started = self.scorer.n_tokens, time.monotonic()
            self.scorer.reward_batch(rows)
        return self.scorer.n_tokens - before, time.monotonic() - started


def load_engine(
    path: str,
    *,
    name: str | None = None,
    tokens_per_batch: int | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    aggregate: How = "mean",
    aggregate_strength: float | None = None,
    adjusted: bool = False,
    release: str | None = None,
) -> Engine:
    """The engine of a folder or hub model; code that comes with a model is never run.

    ConfigError for an ensemble whose members read different tokens, an aggregate of a single model, and adjusted
    rewards of an artifact that has no adjustment.
    """
    import torch

    artifact = model_hash(Path(path)) if Path(path).is_dir() else None
    meta = read_meta(path)
    scorer = load_scorer(
        path, device=device, precision=precision, aggregate=aggregate, aggregate_strength=aggregate_strength
    )
    if isinstance(scorer, JointScorer):
        raise ConfigError(f"{path}: its members read different tokens, and serve has rows of one tokenizer; serve each")
    on_cpu = not torch.cuda.is_available() or device == "cpu"
    scorer.tokens_per_batch = tokens_per_batch or (ON_CPU if on_cpu else ON_GPU)
    named = name or Path(path).name or path
    artifact = reading_hash(artifact, aggregate, aggregate_strength, of_artifact(meta) if adjusted else None)
    return Engine(scorer, named, artifact=artifact, meta=meta, adjusted=adjusted, release=release)


def reading_hash(
    artifact: str | None, aggregate: How, strength: float | None, adjustment: Adjustment | None
) -> str | None:
    """The artifact's hash, mixed with how its rewards are read where that is not the usual way."""
    if artifact is None or (aggregate == "mean" and adjustment is None):
        return artifact
    return hashlib.blake2b(repr((artifact, aggregate, strength, adjustment)).encode(), digest_size=16).hexdigest()
